"""The environment that jobs run in."""

import sys

import pytest

from detco.benchmarks.run.worker_process import Worker

SAYS = (
    "import os; print(*(os.environ.get(name) for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT',"
    " 'OMP_NUM_THREADS')))"
)


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(own, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv("OMP_WAIT_POLICY", own)
    worker = Worker([sys.executable, "-c", SAYS], {"OMP_NUM_THREADS": "3"})
    said = worker.process.stdout.read().decode().split()
    worker.process.wait(60)
    assert said == [own or "PASSIVE", "0", "3"]
