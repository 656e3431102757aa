"""Runs the command in its own process; waits for other processes."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.factories import ROOT


def environment(**more: str) -> dict[str, str]:
    """In which a process imports this checkout and computes with one thread."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def command(*words) -> list[str]:
    """`detco WORDS`, started through Python."""
    return [sys.executable, "-m", "detco.benchmarks.cli.main", *map(str, words)]


def detco(*words, **more) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run(
        command(*words), capture_output=True, text=True, env=environment(), timeout=300, **more
    )


def wait_until(condition, seconds=30):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def random_moments(seed: int | None = None) -> random.Random:
    """What draws the moments of kills. A test that fails shows the seed; the environment variable
    repeats it."""
    told = os.environ.get("DETCO_TEST_SEED")
    if told is not None:
        seed = int(told)
    elif seed is None:
        seed = random.randrange(2**32)
    print(f"DETCO_TEST_SEED={seed}")
    return random.Random(seed)
