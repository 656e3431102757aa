"""Speeds measured on this machine: kept in the records of jobs, and in the user's cache folder for
plans elsewhere."""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from detco.common.device import fast_bf16
from detco.common.files import cache_dir
from detco.common.values import canonical_hash
from detco.results import schema, store

from .jobs import Job

HARDWARE = ("processor", "cores", "threads", "gpu")  # fields of a record that must be equal
CLASSES = 20  # assumed where a plan does not know how many
# seconds that `step_seconds` gave on the machine whose speeds detco.benchmarks.plan.cost states
STEP = 0.067


def steps(spec: dict) -> dict[str, float]:
    """How many steps each stage of a job has, where the plan says so; stages are those
    that workers report."""
    if spec["kind"] == "scenes":
        return {"scenes": drawn(spec["settings"])}
    if spec["kind"] == "pretrain":
        recipe, pictures = spec["recipe"], spec.get("pictures", 0)
        return {"pictures": pictures, "pretrain": recipe["epochs"] * (pictures // recipe["batch"])}
    if spec["kind"] != "transfer":
        return {}
    row, (trained, tested) = spec["protocol_row"], spec["data"].get("pictures", [0, 0])
    schedule = row["schedule"]
    if row.get("classifier"):
        return _of_classifier(row, trained, tested)
    period = spec.get("launch", {}).get("eval_period", 0)
    # the last evaluation is the result
    evaluations = 1 + ((schedule["iterations"] - 1) // period if period else 0)
    return {
        "train": schedule["iterations"],
        "precise BN": schedule["precise_bn"] * evaluations,
        "predict": tested * evaluations,
    }


def _of_classifier(row: Mapping, trained: int, tested: int) -> dict[str, float]:
    """Features are computed once, or in each epoch anew from other parts of the images."""
    schedule, made = row["schedule"], row["classifier"]
    found = {
        "features": tested + (0 if made["augment"] else trained),
        "train": schedule.get("epochs", 0) * -(-trained // schedule["images"]),
        "predict": tested,
    }
    if made["costs"]:
        found["svm"] = (row["data"] or {}).get("classes", CLASSES)
    return found


def drawn(scenes: Mapping) -> int:
    """How many pictures the settings of drawn scenes ask for."""
    images = scenes["images"]
    unlabelled, classification = scenes["unlabelled"], scenes["classification"]
    return (
        images
        + (2 * images if unlabelled is None else unlabelled)
        + (images if classification is None else classification)
    )


def speed_key(spec: dict) -> str:
    """What the speed of a job depends on, as a hash: all its settings but those that only say for
    how long."""
    if spec["kind"] == "pretrain":
        left_out = (
            "name",
            "source",
            "assumed",
            "epochs",
            "lr",
            "lr_batch",
            "milestones",
            "warmup_epochs",
            "keep",
            "temperature",
        )
        settings = {key: value for key, value in spec["recipe"].items() if key not in left_out} | {
            "launch": spec.get("launch", {})
        }
    elif spec["kind"] == "transfer":
        row = {
            key: value
            for key, value in spec["protocol_row"].items()
            if key not in ("name", "version", "source", "data")
        }
        if spec.get("arch"):  # the backbone's, where it is another one than the row's
            row["arch"] = spec["arch"]
        row["schedule"] = {key: row["schedule"][key] for key in ("images", "optimiser", "clip")}
        launch = {
            key: value for key, value in spec.get("launch", {}).items() if key != "eval_period"
        }
        # as earlier versions wrote it
        launch |= {"amp": "fp16"} if launch.get("amp") is True else {}
        settings = {"row": row, "engine": spec["engine"], "launch": launch}
    else:
        settings = {"size": spec.get("settings", {}).get("size")}
    return canonical_hash({"kind": spec["kind"], "settings": settings})


def measured(records: Iterable[dict], here: Mapping | None) -> dict[str, dict]:
    """Speeds by `speed_key` from records made on hardware like `here` (None: on any).

    A speed: "stages": name -> (steps, seconds), "other": seconds outside of them, "jobs": how many
    all this was.
    """
    speeds: dict[str, dict] = {}
    for record in records:
        stages, hardware = record.get("stages"), record.get("hardware", {})
        other = here is not None and any(hardware.get(key) != here.get(key) for key in HARDWARE)
        seconds_known = stages is not None and "wall_seconds" in record
        if record.get("status") != "done" or not seconds_known or other:
            continue
        speed = speeds.setdefault(
            speed_key(record["spec"]), {"stages": {}, "other": 0.0, "jobs": 0}
        )
        for name, (count, seconds) in stages.items():
            known = speed["stages"].setdefault(name, [0, 0.0])
            speed["stages"][name] = [known[0] + count, known[1] + seconds]
        speed["other"] += record["wall_seconds"] - sum(seconds for _, seconds in stages.values())
        speed["jobs"] += 1
    return speeds


def by_speed(spec: dict, speed: Mapping) -> float:
    """Seconds of a job at measured speeds: each stage by its steps; work outside the stages takes
    as long as measured."""
    planned, jobs = steps(spec), speed["jobs"]
    seconds = speed["other"] / jobs
    for name, (count, taken) in speed["stages"].items():
        seconds += taken / count * planned[name] if planned.get(name) and count else taken / jobs
    return seconds


def known(out: Path, here: Mapping | None) -> dict[str, dict]:
    """Speeds measured on this machine, by `speed_key`: remembered ones, and those of the records
    below `out`.

    here: None for machines that this process cannot inspect; then all records count and
    remembered speeds do not."""
    records = (store.read_record(folder) for folder in store.job_folders(out))
    return (_remembered(here) if here else {}) | measured(filter(None, records), here)


def remember(jobs: Iterable[Job], here: Mapping) -> None:
    """Keep the speeds of finished jobs for plans elsewhere."""
    records = filter(None, (store.read_record(job.folder) for job in jobs))
    _remember(here, measured(records, here))


def step_seconds(here: Mapping) -> float:
    """Processor time of a training step of ResNet-18 on 4 pictures of 96 px on one core; measured
    once, then remembered."""
    there = _remembered(here).get("step")
    if there is None:
        there = _step_seconds(1.0)
        _remember(here, {"step": there})
    return there


def _remembered(here: Mapping) -> dict:
    return (store.read_as(_memory(), schema.Speeds) or {}).get(_machine(here), {})


def _remember(here: Mapping, facts: Mapping) -> None:
    """Write to the cache folder. Failures and simultaneous writers are harmless: the
    speed is measured again."""
    path = _memory()
    everything = store.read_as(path, schema.Speeds) or {}
    everything[_machine(here)] = everything.get(_machine(here), {}) | facts
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(path, everything)


def _machine(here: Mapping) -> str:
    return canonical_hash({key: here.get(key) for key in HARDWARE})


def _memory() -> Path:
    return cache_dir() / "speeds.json"


def _step_seconds(seconds: float) -> float:
    import torch
    from torchvision.models import resnet18

    model = resnet18().to(memory_format=torch.channels_last)
    pictures = torch.randn(4, 3, 96, 96).to(memory_format=torch.channels_last)
    low = fast_bf16("cpu")

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = model(pictures).float().square().mean()
        loss.backward()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(2):
        step()
    began, count = time.process_time(), 0
    while time.process_time() < began + seconds:
        step()
        count += 1
    torch.set_num_threads(threads)
    return (time.process_time() - began) / count
