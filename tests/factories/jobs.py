"""Jobs that only write a record, a worker for them, and a runner in its own process."""

import os
import subprocess
import sys

from detco.benchmarks.plan.jobs import Job
from detco.benchmarks.run import local, sbatch, slurm
from detco.results import store
from tests.factories import ROOT

WORKER = """
import logging, os, sys, time
from detco.benchmarks.run import worker
from detco.common.errors import InputError

def fake(spec, folder, report):
    with open(folder / "ran.txt", "a") as file:
        file.write(f"{os.getpid()} {time.time()} {os.environ.get('OMP_NUM_THREADS')}\\n")
    for step in range(spec["steps"]):
        time.sleep(0.05)
        report("train", step + 1, spec["steps"], loss=1.0 / (step + 1))
    print("about to end")
    logging.getLogger("detco.pretrain").warning("left out: %s", "a.jpg")
    if spec["fate"] == "fail":
        raise RuntimeError("loss\\nnot finite")
    if spec["fate"] == "input":
        raise InputError("no such folder")
    if spec["fate"] == "killed":
        os.kill(os.getpid(), 9)
    metrics = {"box_ap": float(int(spec["id"][:4], 36) % 100), "box_aps": float("nan")}
    return {"metrics": metrics, "deviations": ["fake"]}

worker.KINDS["fake"] = fake
sys.exit(worker.main())
"""


DRIVER = """
import signal, sys
from pathlib import Path
from tests.factories.jobs import grid, run
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
print("ready", flush=True)
try:
    run(grid(Path(sys.argv[1]), int(sys.argv[2])), Path(sys.argv[1]), slots=2)
except KeyboardInterrupt:
    sys.exit(130)
"""


def job(out, name, needs=(), steps=1, fate="", cost=1.0):
    spec = {
        "format": 1,
        "id": name,
        "kind": "fake",
        "title": name,
        "needs": list(needs),
        "steps": steps,
        "fate": fate,
    }
    return Job(name, "fake", name, out / name, spec, tuple(needs), cost)


def grid(out, steps=6):
    """A root, two that need it, four leaves."""
    middle = [job(out, name, ["root"], steps) for name in ("mid1", "mid2")]
    leaves = [job(out, f"leaf{n}", [f"mid{n % 2 + 1}"], steps) for n in range(4)]
    return [job(out, "root"), *middle, *leaves]


def run(jobs, out, slots=2, view=lambda run: None):
    script = out / "fake_worker.py"
    if not script.exists():
        out.mkdir(parents=True, exist_ok=True)
        temporary = script.with_suffix(f".{os.getpid()}")
        temporary.write_text(WORKER)
        temporary.replace(script)
    return local.run(jobs, [{"OMP_NUM_THREADS": "1"}] * slots, view, (sys.executable, str(script)))


def runs_of(out):
    """Job -> how often a worker began it; a file that is being written does not count yet."""
    lines = {path.parent.name: path.read_text().splitlines() for path in out.glob("*/ran.txt")}
    return {name: len(found) for name, found in lines.items() if found}


def names(outcome):
    return {key: state.name for key, state in outcome.states.items()}


def results_of(out):
    """What must not depend on interruptions: of each record all but times."""
    records, problems = store.read(out)
    assert problems == []
    timely = ("started", "wall_seconds", "ended", "stages", "hardware", "code")
    return {r["id"]: {k: v for k, v in r.items() if k not in timely} for r in records}


def driver(out, steps):
    """A runner in a process of its own, once it has begun."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(out), str(steps)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def asks_of(**settings):
    """Resources, the fake jobs' as those of transfers."""
    asks = sbatch.resources({"gpus": 0, "time": "10", **settings})
    return asks | {"fake": asks["transfer"]}


def run_on_slurm(jobs, out, asks=None, view=lambda run: None, worker=WORKER):
    script = out / "fake_worker.py"
    out.mkdir(parents=True, exist_ok=True)
    script.write_text(worker)
    return slurm.run(jobs, asks or asks_of(), out, view, (sys.executable, str(script)))
