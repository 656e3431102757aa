"""The processes of one job: on this machine, and this machine's number among several.

What started the machines says so in the environment: DETCO_MACHINE (this one's number, from 0),
MASTER_ADDR, MASTER_PORT.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import detco

# processes start in this folder, so that no package of the user's working directory hides ours
ROOT = Path(detco.__file__).resolve().parents[1]
HELPER = (  # environment variable of a process that helps: another one keeps the record
    "DETCO_HELPER"
)


def machine_rank() -> int:
    """The number of this machine among those that do the job."""
    return int(os.environ.get("DETCO_MACHINE", "0"))


def launch_here(launch: Mapping) -> dict:
    """How to start Detectron2's processes on this machine: rank and address are known only once the
    job has begun."""
    if launch.get("num_machines", 1) == 1 or "MASTER_ADDR" not in os.environ:
        return dict(launch)
    address = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    return {**launch, "machine_rank": machine_rank(), "dist_url": address}


@contextmanager
def joined(spec: Path, launch: Mapping):
    """Make this process the first of those that pretrain on this machine, in torchrun's words, and
    start the others.

    If one of them fails, this process ends too: it would wait for the lost one for ever. Does
    nothing for a single process, under torchrun, and in the processes started here.
    """
    here, machines = launch.get("num_gpus", 1), launch.get("num_machines", 1)
    if here * machines == 1 or "RANK" in os.environ:
        yield
        return
    before = dict(os.environ)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    first = machine_rank() * here
    ranks = [
        {"RANK": str(first + n), "LOCAL_RANK": str(n), "WORLD_SIZE": str(here * machines)}
        for n in range(here)
    ]
    os.environ.update(ranks[0])
    command = [sys.executable, "-m", "detco.benchmarks.run.worker", str(spec)]
    more = {HELPER: "1", "DETCO_RUNNER": str(os.getpid())}
    others = [
        subprocess.Popen(command, env=os.environ | rank | more, cwd=ROOT) for rank in ranks[1:]
    ]
    over = threading.Event()
    for other in others:
        threading.Thread(target=_watch, args=(other, over), daemon=True).start()
    try:
        yield
        for other in others:
            other.wait()
    finally:
        over.set()
        for other in others:
            other.kill()
        os.environ.clear()
        os.environ.update(before)


def _watch(other: subprocess.Popen, over: threading.Event) -> None:
    if other.wait() and not over.is_set():
        print(
            f"a process of this job ended with status {other.returncode}, and with it all of them",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # the main thread is blocked in a library, waiting for the lost process


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
