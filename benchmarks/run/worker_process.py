"""A worker process as its runner uses it: send a job, read the answer, end it."""

import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress

from . import distributed

GRACE = 5.0  # seconds a worker gets to stop by itself

# Threads that wait for one another sleep instead of spinning: on a machine that other processes use
# too, spinning makes every small operation wait for whoever has the core.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


class Worker:
    """A process that does one job after another; `state` is what its runner knows of the
    one at work."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]):
        self.state = None
        # What it prints before a job's log is there; closed in `end`.
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,
            cwd=distributed.ROOT,
            env=PATIENT
            | os.environ
            | environment
            | {
                "DETCO_RUNNER": str(os.getpid()),
                "PYTHONUNBUFFERED": "1",
            },
        )

    def ask(self, state, began: float) -> None:
        """Give it the job of an `executor.State`; failures earlier than `began` are retried."""
        self.state = state
        order = {"folder": str(state.job.folder), "id": state.job.id, "began": began}
        with suppress(BrokenPipeError):  # it has died; `answer` reports that
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self) -> str | None:
        """What `detco.benchmarks.run.worker.do` returned, or why the process ended without an
        answer; None while it works."""
        # polled first: a process that has ended has already written its answer to the pipe
        status = self.process.poll()
        ready = select.select([self.process.stdout], [], [], 0)[0]
        line = self.process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        if status is None and ready:  # its end of the pipe is closed
            with suppress(subprocess.TimeoutExpired):
                status = self.process.wait(GRACE)
        if status is None:
            return None
        if status < 0:
            return f"its process was ended by {_signal_name(-status)}"
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return (
            f"its process ended with status {status} and left no"
            f" record{''.join(f': {text}' for text in last)}"
        )

    def signal(self, number: int) -> None:
        """Send a signal to the worker and its data-loading processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        """Kill the worker and its data-loading processes."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with suppress(BrokenPipeError):
                stream.close()


def _signal_name(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name} (out of memory?)" if number == signal.SIGKILL else name
