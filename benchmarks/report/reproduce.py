"""The commands that make a result again, from its record."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from detco.common.values import flatten

OUT = "again"  # the folder that the commands write to
# fields that identify a row and are no settings
NAMES = (
    "name",
    "version",
    "source",
    "assumed",
)


def commands(records: Sequence[dict]) -> dict[str, list[str]]:
    """Starting point -> the commands that make its rows: the data and the backbone where they were
    made here, then each protocol.

    Seeds of a cell stand together in a loop.
    """
    made = {record["id"]: record for record in records if record["kind"] != "transfer"}
    lines: dict[str, list[str]] = {}
    cells: dict[tuple, list[dict]] = {}
    for record in sorted(records, key=lambda record: record["spec"].get("order") or [0, 0]):
        if record["kind"] == "transfer":
            cells.setdefault((record["starting_point"], *map(str, _cell(record))), []).append(
                record
            )
    for (name, *_), runs in cells.items():
        of_name = lines.setdefault(name, [])
        needed = (made[need] for need in _needs(runs[0]["spec"], made) if need in made)
        of_name += [line for line in map(_preparation, needed) if line and line not in of_name]
        of_name.append(_transfer(runs, made))
    return lines


def _cell(record: dict) -> tuple:
    spec = record["spec"]
    return (
        record["protocol_hash"],
        record["engine"],
        spec.get("weights"),
        (spec.get("data") or {}).get("root"),
        _started(spec),
    )


def _started(spec: dict) -> list[str]:
    """The options that say how the engine was started."""
    launch = spec.get("launch") or {}
    # True: as earlier versions wrote it
    amp = "fp16" if launch.get("amp") is True else launch.get("amp")
    # only the total of processes matters, not the number of machines
    processes = launch.get("num_gpus", 1) * launch.get("num_machines", 1)
    found = {
        "--num-gpus": processes if processes > 1 else 0,
        "--amp": amp,
        "--eval-period": launch.get("eval_period"),
    }
    return [word for key, value in found.items() if value for word in (key, str(value))]


def _needs(spec: dict, made: Mapping[str, dict]) -> list[str]:
    """Jobs that have to be done before, the first first."""
    own = [need for need in spec.get("needs", ()) if need in made]
    before = [more for need in own for more in _needs(made[need]["spec"], made)]
    return list(dict.fromkeys([*before, *own]))


def _preparation(record: dict) -> str:
    spec = record["spec"]
    if record["kind"] == "scenes":
        wanted = spec["settings"]
        options = [
            word for key in ("images", "size", "seed") for word in (f"--{key}", str(wanted[key]))
        ]
        return shlex.join(["detco", "data", "scenes", _place("", f"{record['id']}/"), *options])
    if record["kind"] == "pretrain":
        from detco.pretrain.recipes import RECIPES, RUNNING

        recipe = {key: value for key, value in spec["recipe"].items() if key not in RUNNING}
        images = _place(spec["images"], spec.get("images_identity", ""))
        words = [
            "detco",
            "pretrain",
            recipe["name"],
            "--images",
            images,
            "--out",
            f"{OUT}/{spec['starting_point']}",
        ]
        return shlex.join(
            [*words, "--seed", str(spec["seed"]), *_changes(recipe, RECIPES.get(recipe["name"]))]
        )
    return ""


def _place(path: str, identity: str) -> str:
    """Where the commands find data: drawn scenes (identity `JOB/folder`) in OUT, others
    where they were."""
    job, slash, folder = identity.partition("/")
    return f"{OUT}/scenes-{job[:8]}/{folder}".rstrip("/") if slash else path


def _transfer(runs: Sequence[dict], made: Mapping[str, dict]) -> str:
    from detco.transfer.protocols import PROTOCOLS, from_record

    record, spec = runs[0], runs[0]["spec"]
    seeds = sorted({run["seed"] for run in runs})
    weights, data = spec.get("weights", "WEIGHTS"), spec.get("data") or {}
    if spec.get("weights_identity") in made:
        weights = (
            f"{OUT}/{made[spec['weights_identity']]['spec']['starting_point']}/backbone.safetensors"
        )
    root = _place(str(data.get("root", "DATA")), data.get("identity", ""))
    words = ["detco", "transfer", record["protocol"], "--weights", weights, "--data", root]
    for key in ("layout", "train", "test"):
        words += [f"--{key}", str(data[key])] if isinstance(data.get(key), str) else []
    words += ["--merge-classes"] if data.get("merge_classes") else []
    words += ["--engine", record["engine"], "--name", record["starting_point"], "--out", OUT]
    words += _started(spec)
    words += _changes(
        from_record(spec.get("protocol_row") or {}), PROTOCOLS.get(record["protocol"])
    )
    if len(seeds) == 1:
        return shlex.join([*words, "--seed", str(seeds[0])])
    return f"for seed in {' '.join(map(str, seeds))}; do {shlex.join(words)} --seed $seed; done"


def _changes(used: Mapping, row: object) -> list[str]:
    """`--set` for each setting that is not the row's. Settings that no longer exist, or a row that
    does not, give nothing."""
    if row is None:
        return []
    theirs = json.loads(json.dumps(flatten(asdict(row))))
    ours = {
        key: value for key, value in flatten(used).items() if key in theirs and key not in NAMES
    }
    return [
        word
        for key, value in ours.items()
        if value != theirs[key]
        for word in ("--set", f"{key}={json.dumps(value)}")
    ]
