"""A suite killed with SIGKILL at ten random times gives the same records and
table as an undisturbed one.

The `replay` engine, two pretrainings whose pictures are read by a process of their own, and the
engine `torchvision` at tiny size.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from detco.benchmarks.cli import run
from detco.benchmarks.plan import suite_plan
from detco.benchmarks.suites.builtin import Data, StartingPoint, Suite, Task
from detco.results import store
from tests.factories import ROOT
from tests.factories.processes import alive, random_moments, wait_until

GRID = """
name: grid
scenes: {images: 16, size: 64, unlabelled: 12, classification: 12}
images: unlabelled
start: [random, moco-v2-small, {name: detco, recipe: detco-small}]
protocols:
  - {protocol: small-retinanet, data: {root: voc}}
  - {protocol: small-mask-rcnn-fpn, data: {root: coco}}
seeds: 2
pretrain: {epochs: 4, batch: 4, queue: 8, fill_queue: false, view_size: 32,
           patch_size: 24, jigsaw_size: 75, workers: 1,
           checkpoint_minutes: 0}
engine: replay
"""
REAL = """
name: real
scenes: {images: 16, size: 64, unlabelled: 12, classification: 12}
start: [random]
protocols: [{protocol: small-retinanet, data: {root: voc}}]
transfer: {schedule.iterations: 6, schedule.images: 1}
engine: torchvision
"""
# grid, real
KILLS = (
    ("loader", "loader", "runner", "worker", "worker", "runner", "worker"),
    ("worker", "runner", "worker"),
)
draw = random.Random()
# facts: seconds of training
TIMELY = (
    "started",
    "wall_seconds",
    "ended",
    "stages",
    "hardware",
    "code",
    "facts",
)


started = []


@pytest.fixture(autouse=True)
def _nothing_left_running():
    yield
    for process in started:
        process.kill()


def detco(out, name):
    """`detco run`, two jobs at once."""
    suite = out.parent / f"{name}.yaml"
    suite.write_text(GRID if name == "grid" else REAL)
    words = [
        sys.executable,
        "-m",
        "detco.benchmarks.cli.main",
        "run",
        suite,
        "--out",
        out,
        "--jobs",
        "2",
        "--device",
        "cpu",
    ]
    where = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": out.parent}
    started.append(
        subprocess.Popen(list(map(str, words)), env=os.environ | {"PYTHONPATH": str(ROOT)}, **where)
    )
    return started[-1]


def finish(process):
    out, err = process.communicate(timeout=1800)
    assert process.returncode == 0, out + err


def children(pid):
    """Processes that a process has started and that do jobs (not git, ...)."""
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"detco.benchmarks.run.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def kill(kind, runner):
    """Kill such a process once there is one; the workers that the runner had, or None: the runner
    has ended."""
    while runner.poll() is None:
        workers = children(runner.pid)
        found = {
            "runner": [runner.pid],
            "worker": workers,
            "loader": [pid for worker in workers for pid in children(worker)],
        }[kind]
        with suppress(ProcessLookupError):  # ended by itself in this moment
            if found:
                os.kill(draw.choice(found), signal.SIGKILL)
                return workers
        time.sleep(0.002)
    return None


def steps(out):
    """What changes when a job makes a step."""
    found = set()
    with suppress(OSError):  # a file that is gone by now
        for path in out.rglob("*.json"):
            found.add((path, path.stat().st_mtime_ns))
    return found


def wait_some_steps(out, runner):
    """Up to a random number of steps, and a random moment more."""
    seen, wanted, end = steps(out), draw.randint(0, 2), time.time() + 20
    while wanted and runner.poll() is None and time.time() < end:
        now = steps(out)
        wanted, seen = wanted - (now != seen), now
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.1))


def done(out):
    return (
        {record["id"]: record for record in store.read(out)[0] if record["status"] == "done"}
        if out.exists()
        else {}
    )


def comparable(out):
    """Records by id without times; folders as if all lay in the same place."""
    plain = json.loads(json.dumps(done(out)).replace(str(out), "OUT"))
    return {
        key: {name: value for name, value in record.items() if name not in TIMELY}
        for key, record in plain.items()
    }


def tables(out):
    return [(out / name).read_bytes() for name in ("table.csv", "table.md")]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The folder of undisturbed runs, and their tables."""
    out = tmp_path_factory.mktemp("calm") / "runs"
    return out, {name: finish(detco(out, name)) or tables(out) for name in ("grid", "real")}


@pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(),
    reason="this Linux does not list children",
)
def test_killed_at_ten_random_moments(calm, tmp_path):
    out, killed, finished = tmp_path / "runs", [], {}
    draw.setstate(random_moments(7).getstate())
    for name, kinds in zip(("grid", "real"), KILLS, strict=True):
        runner = detco(out, name)
        for kind in kinds:
            wait_some_steps(out, runner)
            while (found := kill(kind, runner)) is None:
                # at its end: all is done, or a job failed, which is tried again now
                runner.communicate()
                kind = "runner" if runner.returncode == 0 else kind
                runner = detco(out, name)
            finished = done(out) | finished
            killed.append(kind)
            if kind == "runner":
                runner.communicate()
                wait_until(lambda: not any(map(alive, found)), 60)
                runner = detco(out, name)
        runner.communicate(timeout=1800)
        finish(detco(out, name))  # whatever became of it: this completes it
        assert tables(out) == calm[1][name]
    assert len(killed) == 10 and {"loader", "runner", "worker"} == set(killed) and len(finished) > 5
    after = done(out)
    assert {key: after[key] for key in finished} == finished  # what was done is not done again
    assert len(after) == 1 + 2 + 12 + 1 and comparable(out) == comparable(calm[0])
    assert not list(out.rglob("progress.json"))


def test_two_runners_at_once_share_the_work(calm, tmp_path):
    out = tmp_path / "runs"
    both = [detco(out, "grid"), detco(out, "grid")]
    for runner in both:
        finish(runner)
    grid = {
        key: record
        for key, record in comparable(calm[0]).items()
        if record.get("engine") != "torchvision"
    }
    assert comparable(out) == grid
    logs = [path.read_text() for path in out.rglob("log.txt")]
    assert len(logs) == len(grid) and all(text.count("--- 2") == 1 for text in logs)


def test_what_cannot_be_written_and_lost_data_fail_their_jobs_only(scenes, tmp_path, capsys):
    """One job's results go to a disk that is full, the data of another are gone after the
    plan was made."""
    for name in ("full", "lost", "good"):
        shutil.copytree(scenes / "coco", tmp_path / name)
    tasks = [
        Task(f"small-{detector}", Data(tmp_path / name))
        for name, detector in (
            ("full", "retinanet"),
            ("lost", "faster-rcnn-c4"),
            ("good", "faster-rcnn-fpn"),
        )
    ]
    suite = Suite("x", (StartingPoint("random", random=True),), tuple(tasks), engine="replay")
    full, _, good = jobs = suite_plan.plan(suite, tmp_path / "runs", device="cpu")
    args = SimpleNamespace(device="cpu", jobs=1, num_gpus=1, again="detco run x.yaml")

    def work():
        return run.work(jobs, args, tmp_path / "runs", "x"), capsys.readouterr().err

    (full.folder / "predictions.json" / "in the way").mkdir(parents=True)
    annotations = tmp_path / "lost" / "annotations"
    annotations.rename(tmp_path / "kept")
    status, said = work()
    assert status == 1 and [
        store.read_json(job.folder / "record.json")["status"] for job in jobs
    ] == ["failed", "failed", "done"]
    assert "failed: small-retinanet from random, seed 0: IsADirectoryError: " in said
    assert "cannot write" in said and f"'{full.folder}/predictions.json'" in said
    assert re.search(rf"failed: small-faster-rcnn-c4 from random, seed 0: {tmp_path}/lost", said)
    assert "write_atomic(path, json.dumps(found))" in said  # the end of the log
    assert f"by itself: python -m detco.benchmarks.run.worker {full.folder}/spec.json" in said
    assert said.endswith("detco: 2 of 3 jobs failed; to try them again: detco run x.yaml\n")
    kept = store.read_json(good.folder / "record.json")
    (tmp_path / "kept").rename(annotations)
    shutil.rmtree(full.folder / "predictions.json")
    assert work() == (0, "") and store.read_json(good.folder / "record.json") == kept
    assert {record["status"] for record in store.read(tmp_path)[0]} == {"done"}
