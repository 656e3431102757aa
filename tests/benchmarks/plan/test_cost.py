"""Estimated costs of jobs: measured speeds preferred to the model, wall time as the
executor runs them, disk."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detco.benchmarks.cli import dry_run
from detco.benchmarks.cli.main import main
from detco.benchmarks.plan import cost, measured_speeds, suite_plan
from detco.benchmarks.plan.jobs import Job
from detco.benchmarks.run import worker
from detco.benchmarks.suites import builtin, files
from detco.results import store
from detco.transfer import protocols

HERE = {"processor": "some", "cores": 2, "threads": 1, "gpu": None}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    suite = replace(builtin.SUITES["demo"], protocols=builtin.SUITES["smoke"].protocols, seeds=1)
    return suite_plan.plan(suite, tmp_path_factory.mktemp("demo"), engine="torchvision")


def record(job, stages, wall, hardware=HERE, status="done"):
    made = worker.record_of(job.spec, {"metrics": {"box_ap": 31.0}})
    more = {"status": status, "stages": stages, "wall_seconds": wall, "hardware": hardware}
    return made | more


def estimate(jobs, known=None, device=cost.CPU, slower=1.0):
    return cost.estimate(jobs, known or {}, device, slower)


def test_measured_speeds_scale_by_stage_to_a_longer_schedule(demo):
    job = next(job for job in demo if job.spec.get("protocol") == "small-retinanet")
    iterations, tested = (
        job.spec["protocol_row"]["schedule"]["iterations"],
        job.spec["data"]["pictures"][1],
    )
    assert tested == 250
    stages = {"train": (100, 20.0), "predict": (50, 5.0), "score": (1, 2.0)}
    known = measured_speeds.measured([record(job, stages, 30.0), record(job, stages, 40.0)], HERE)
    found = estimate([job], known)[job.id]
    # 3 and 13 s beside the stages
    assert found.measured and found.seconds == pytest.approx(iterations * 0.2 + 250 * 0.1 + 2 + 8)
    row = job.spec["protocol_row"]
    longer = replace(
        job,
        spec=job.spec
        | {"protocol_row": row | {"schedule": row["schedule"] | {"iterations": 1000, "lr": 1.0}}},
    )
    assert estimate([longer], known)[job.id].seconds == pytest.approx(1000 * 0.2 + 25 + 2 + 8)
    bigger = replace(
        job, spec=job.spec | {"protocol_row": row | {"resize": row["resize"] | {"test": 999}}}
    )
    assert not estimate([bigger], known)[job.id].measured


def test_evaluations_on_the_way_are_reckoned(demo):
    """Three before the last of 250 iterations; they leave nothing on the disk."""
    job = next(job for job in demo if job.spec.get("protocol") == "small-retinanet")
    known = measured_speeds.measured(
        [record(job, {"train": (100, 20.0), "predict": (50, 5.0)}, 26.0)], HERE
    )
    iterations = job.spec["protocol_row"]["schedule"]["iterations"]
    often = replace(job, spec=job.spec | {"launch": {"eval_period": iterations // 4}})
    plain, found = estimate([job], known)[job.id], estimate([often], known)[job.id]
    assert iterations % 4 in (0, 1, 2, 3) and found.measured
    assert found.seconds - plain.seconds == pytest.approx(
        (iterations - 1) // (iterations // 4) * 250 * 0.1
    )
    assert (found.stays, found.runs) == (plain.stays, plain.runs)


def test_speeds_of_mixed_precision_are_its_own(demo):
    keys = [
        measured_speeds.speed_key(demo[-1].spec | {"launch": {"amp": amp} if amp else {}})
        for amp in ("", "fp16", True, "bf16")
    ]
    assert keys[1] == keys[2] and len(set(keys)) == 3


def test_only_done_jobs_on_the_same_hardware_count(demo):
    job, stages = demo[-1], {"train": (10, 10.0)}
    wrong = [HERE | {"gpu": "H100"}, HERE | {"threads": 2}, HERE | {"processor": "other"}]
    records = [record(job, stages, 12.0, hardware) for hardware in wrong] + [
        record(job, stages, 12.0, status="failed")
    ]
    assert measured_speeds.measured(records, HERE) == {}


def test_speeds_are_remembered_for_other_folders(demo, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    job = replace(demo[-1], folder=tmp_path / "out" / "job")
    job.folder.mkdir(parents=True)
    store.write_json(job.folder / "record.json", record(job, {"train": [10, 10.0]}, 12.0))
    key = measured_speeds.speed_key(job.spec)
    assert (
        key in measured_speeds.known(tmp_path / "out", HERE)
        and measured_speeds.known(tmp_path / "elsewhere", HERE) == {}
    )
    measured_speeds.remember([job], HERE)
    assert measured_speeds.known(tmp_path / "elsewhere", HERE)[key]["stages"] == {
        "train": [10, 10.0]
    }
    assert measured_speeds.known(tmp_path / "elsewhere", HERE | {"cores": 9}) == {}
    monkeypatch.setattr(measured_speeds, "_step_seconds", lambda seconds: 0.5)
    assert measured_speeds.step_seconds(HERE) == 0.5
    monkeypatch.setattr(measured_speeds, "_step_seconds", lambda seconds: 1 / 0)
    assert measured_speeds.step_seconds(HERE) == 0.5 and key in measured_speeds.known(
        tmp_path / "elsewhere", HERE
    )


@pytest.mark.parametrize(
    "odd",
    [
        5,
        {"step": "fast"},
        {"step": None},
        {"key": 1.5},
        {"key": {"stages": {"train": 3}, "other": 0.0, "jobs": 1}},
        {"key": {"stages": {}, "other": 0.0, "jobs": 0}},
        {"key": {"stages": {}, "jobs": 1}},
    ],
)
def test_remembered_speeds_that_do_not_fit_are_measured_again(tmp_path, monkeypatch, odd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measured_speeds, "_step_seconds", lambda seconds: 0.5)
    path = measured_speeds._memory()
    path.parent.mkdir()
    good = {"step": 0.25, "key": {"stages": {"train": [3, 1.5]}, "other": 0, "jobs": 1}}
    store.write_json(path, {measured_speeds._machine(HERE): good})
    assert measured_speeds.known(tmp_path, HERE) == good
    assert measured_speeds.step_seconds(HERE) == 0.25
    store.write_json(path, {measured_speeds._machine(HERE): odd})
    assert measured_speeds.known(tmp_path, HERE) == {}
    assert measured_speeds.step_seconds(HERE) == 0.5
    assert measured_speeds.known(tmp_path, HERE) == {"step": 0.5}  # written anew


def test_the_model_by_hand():
    jobs = suite_plan.plan(builtin.SUITES["paper-all"], Path("out"), missing=[])
    costs = estimate(jobs, device=cost.GPU)
    hours = {job.title: costs[job.id].seconds / 3600 for job in jobs}
    iteration, picture = 0.584, 0.110  # Detectron2's zoo: 8 GPUs, 16 pictures; a picture of testing
    by_hand = (90_000 * iteration * 8 + 5000 * picture) / 3600
    assert hours["coco-mask-rcnn-c4-90k from random, seed 0"] == pytest.approx(by_hand, rel=0.02)
    assert hours["pretrain moco-v2"] == pytest.approx(53 * 8, rel=0.02)
    assert hours["pretrain moco-v2-800ep"] == pytest.approx(4 * hours["pretrain moco-v2"], rel=1e-3)
    assert hours["pretrain detco"] / hours["pretrain moco-v2"] == pytest.approx(
        1 + 9 * 64**2 / 224**2, rel=1e-3
    )
    slower = estimate(jobs, device=cost.GPU, slower=2.0)
    assert all(slower[job.id].seconds == pytest.approx(2 * costs[job.id].seconds) for job in jobs)
    assert not any(found.measured for found in costs.values())


def chain(*rows):
    """Jobs (name, needs, seconds) and their estimates."""
    jobs = [
        Job(name, "x", name, Path(name), {"kind": "x"}, tuple(needs)) for name, needs, _ in rows
    ]
    return jobs, {name: cost.Estimate(seconds, 0, 0, True) for name, _, seconds in rows}


def planned_classifier(name, trained=1000, tested=100):
    row = protocols.as_record(protocols.PROTOCOLS[name])
    spec = {"kind": "transfer", "protocol_row": row, "data": {"pictures": [trained, tested]}}
    spec |= {"engine": "frozen"}
    return Job(name, "transfer", name, Path(name), json.loads(json.dumps(spec)))


def test_the_model_of_classifiers_by_hand():
    forward = 4.3e-7 * 96**2
    jobs = [planned_classifier(f"small-{name}") for name in ("knn", "linear", "svm")]
    found = [estimate([job])[job.id].seconds for job in jobs]
    knn = 2 + 100 * 0.006 + 1100 * forward
    assert found[0] == pytest.approx(knn)
    assert found[1] == pytest.approx(knn + 50 * 16 * 0.001)  # 16 updates an epoch
    assert found[2] == pytest.approx(knn + 20 * 4 * 4 * 1000 * 1e-4)  # classes, costs, fits
    augmented = planned_classifier("imagenet-linear")
    images = 100 + 100 * 4 * 256  # 4 updates an epoch
    expected = 2 + 0.6 + images * 4.3e-7 * 224**2 * 4.1 / 1.8 + 400 * 0.001
    assert estimate([augmented])[augmented.id].seconds == pytest.approx(expected)


def test_wall_time_is_that_of_the_executors_order():
    jobs, costs = chain(
        ("a", (), 2), ("b", ("a",), 3), ("c", (), 4), ("d", ("b", "c"), 1), ("e", (), 1)
    )
    assert cost.wall_seconds(jobs, set(), costs, 1) == 11
    assert cost.wall_seconds(jobs, set(), costs, 2) == 6  # a, b beside c; then d beside e
    assert cost.wall_seconds(jobs, set(), costs, 9) == 6  # the longest chain
    assert cost.wall_seconds(jobs, {"a", "b"}, costs, 2) == 5
    assert cost.wall_seconds(jobs, {job.id for job in jobs}, costs, 2) == 0


def test_the_plan_as_a_table(demo, capsys, tmp_path):
    done = {demo[0].id}
    costs = estimate(demo)
    dry_run.show(demo, done, costs, dry_run.Room("this machine", 2, {}, "a core"), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["job", "runs", "done", "each", "takes", "by", "after"]
    assert lines[1].split()[:6] == [
        "draw",
        "1000",
        "scenes",
        "1",
        "1",
        dry_run.clock(costs[demo[0].id].seconds),
    ]
    assert any(
        "pretrain detco-small" in line and line.endswith("model  draw 1000 scenes")
        for line in lines
    )
    assert "16 jobs, 1 done" in lines and any(
        line.startswith("disk: ") and "are free in" in line for line in lines
    )
    wall = dry_run.clock(cost.wall_seconds(demo, done, costs, 2))
    assert (
        f"time: about {wall} on this machine" in lines
        and "speeds: 15 jobs by the model of a core" in lines
    )


def test_gpu_hours_count_all_gpus_of_a_job(demo, capsys, tmp_path):
    gpus = dict.fromkeys(("scenes", "pretrain", "transfer"), 8)
    dry_run.show(demo, set(), estimate(demo), dry_run.Room("a cluster", 4, gpus, "V100"), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "GPU-hours each" in lines[0]
    total = sum(found.seconds for found in estimate(demo).values()) * 8 / 3600
    assert any(line.endswith(f"; {total:.3g} GPU-hours") for line in lines)


def test_hours_of_a_gpu_that_is_not_here(tmp_path, capsys, monkeypatch):
    """Eight GPUs share a job's time and not its GPU-hours; the H100's are the V100's by the ratio
    of bandwidths; at 80 columns no line is longer."""
    monkeypatch.setenv("COLUMNS", "80")
    tasks = {"engine": "detectron2", "missing": []}
    suite = files.adapted(builtin.SUITES["paper-voc"], start=["random"])
    alone = suite_plan.plan(suite, tmp_path, **tasks)
    shared = suite_plan.plan(suite, tmp_path, launches=({"num_gpus": 8}, {}), **tasks)
    v100, h100, eight = (
        sum(cost.gpu_hours(jobs, gpu).values())
        for jobs, gpu in ((alone, "v100"), (alone, "h100"), (shared, "v100"))
    )
    assert h100 / v100 == pytest.approx(900 / 3350)
    overhead = 8 * sum(cost.START / 3600 for _ in shared) + v100 * 0.05  # scoring is not shared
    assert v100 <= eight < v100 + overhead
    command = ["run", "paper-voc", "--start", "random", "--dry-run", "--gpu-hours", "h100"]
    main([*command, "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert f"; {h100:.3g} H100-hours" in " ".join(out.split()) and "H100-hours: an estimate" in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["run", "smoke", "--gpu-hours", "h100", "--out", str(tmp_path)]) == 2


def test_seeds_stand_in_one_line(capsys, tmp_path):
    jobs = suite_plan.plan(builtin.SUITES["paper-voc"], tmp_path, missing=[])
    dry_run.show(
        jobs, set(), estimate(jobs), dry_run.Room("this machine", 2, {}, "a core"), tmp_path
    )
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("voc-faster-rcnn-c4-24k from detco "))
    assert (
        row.split()[3:5] == ["5", "0"]
        and row.endswith("pretrain detco")
        and "V100-hours each" in lines[0]
    )


def test_missing_things_are_said_once():
    texts = [
        "/d/coco: no such folder (a looks for it)",
        "/d/coco: no such folder (b looks for it)",
        "/d/voc: none",
    ]
    assert dry_run.summed(texts) == [texts[0], texts[2]]
