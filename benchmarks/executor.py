"""Runs jobs on this machine: a worker process for each job, as many at once as there are slots, folders locked."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from results import store

from .jobs import Job
from .worker import record_of

WORKER = (sys.executable, "-m", "benchmarks.worker")
POLL = 0.1  # seconds
ROOT = Path(__file__).resolve().parents[1]  # workers start here, so that no package of the working directory hides ours
GRACE = 5.0  # seconds a worker gets to end by itself after Ctrl-C


@dataclass
class State:
    """waiting, running, elsewhere (another runner has it), done, failed, blocked (by a failed one)."""

    job: Job
    name: str = "waiting"
    error: str | None = None
    error_kind: str | None = None
    process: subprocess.Popen | None = None
    slot: int = -1
    started: float | None = None  # by this call
    seconds: float = 0.0  # that a done job took
    warnings: Sequence[str] = ()


@dataclass
class Run:
    """All states of one call, by job id, and when it began; what a view shows and what the caller gets back."""

    states: dict[str, State]
    slots: Sequence[dict[str, str]]
    began: float = field(default_factory=time.time)

    def named(self, *names: str) -> list[State]:
        return [state for state in self.states.values() if state.name in names]


def run(jobs: Sequence[Job], slots: Sequence[dict[str, str]], view: Callable[[Run], None], worker: Sequence[str] = WORKER) -> Run:
    """Run every job that is not done yet; `slots` are the environments of the workers that may run at once.

    A failed job does not stop the others; what needs it is blocked. KeyboardInterrupt (Ctrl-C, also SIGTERM) ends the
    workers and is raised again. Ready jobs are started in the order of the longest chain of work that hangs on them.
    """
    this = Run({job.id: State(job) for job in jobs}, slots)
    for state in this.states.values():
        _settle(state, this.began)
        write_spec(state)
    order = sorted(this.states.values(), key=lambda state: -_chain(this, state))
    with _terminate_as_interrupt():
        try:
            while this.named("waiting", "running", "elsewhere"):
                for state in this.named("running"):
                    _reap(state, this.began)
                _block(this)
                _start_ready(this, order, worker)
                view(this)
                time.sleep(POLL)
        finally:
            _stop(this.named("running"))
            view(this)
    return this


def write_spec(state: State) -> None:
    """Leave the plan in the job's folder, so that status and table know of it before it has run."""
    if state.name != "done":
        state.job.folder.mkdir(parents=True, exist_ok=True)
        path = state.job.folder / "spec.json"
        if store.read_json(path) != state.job.spec:
            store.write_json(path, state.job.spec)


def command(job: Job) -> str:
    """What a person types to repeat one job by itself."""
    return f"python -m benchmarks.worker {job.folder / 'spec.json'}"


def _settle(state: State, began: float) -> None:
    """Take over the outcome from a job's record if it is of this very run; failures of earlier calls are retried."""
    path = state.job.folder / "record.json"
    record = store.read_json(path)
    if record is None or record.get("id") != state.job.id or store.problem_of(record):
        return
    if record["status"] == "done":
        state.name, state.seconds = "done", record.get("wall_seconds") or 0.0
        state.warnings = record.get("warnings", [])
    elif path.stat().st_mtime >= began:
        state.name, state.error, state.error_kind = "failed", record.get("error"), record.get("error_kind")


def _chain(this: Run, state: State) -> float:
    needing = [other for other in this.states.values() if state.job.id in other.job.needs]
    return state.job.cost + max((_chain(this, other) for other in needing), default=0.0)


def _block(this: Run) -> None:
    for state in this.named("waiting", "elsewhere"):
        needed = [this.states[need] for need in state.job.needs if need in this.states]
        lost = next((need for need in needed if need.name in ("failed", "blocked")), None)
        if lost:
            state.name, state.error = "blocked", f"not run: {lost.job.title} did not succeed"


def _start_ready(this: Run, order: Sequence[State], worker: Sequence[str]) -> None:
    free = set(range(len(this.slots))) - {state.slot for state in this.named("running")}
    for state in order:
        if not free:
            return
        ready = all(this.states[need].name == "done" for need in state.job.needs if need in this.states)
        if state.name in ("waiting", "elsewhere") and ready and _start(state, this, this.slots[min(free)], worker):
            state.slot = min(free)
            free.discard(state.slot)


def _start(state: State, this: Run, environment: dict[str, str], worker: Sequence[str]) -> bool:
    """Start a job unless another runner has it or had it; the lock passes to the worker and lives as long."""
    folder = state.job.folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = store.take(folder)
    if lock is None:
        state.name = "elsewhere"
        return False
    try:
        _settle(state, this.began)
        if state.name in ("done", "failed"):
            return False
        (folder / "record.json").unlink(missing_ok=True)
        (folder / "progress.json").unlink(missing_ok=True)
        write_spec(state)
        with open(folder / "log.txt", "ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {command(state.job)}\n".encode())
            log.flush()
            state.process = subprocess.Popen(
                [*worker, str(folder / "spec.json")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(lock,), start_new_session=True, cwd=ROOT,
                env=os.environ | environment | {"DETCO_RUNNER": str(os.getpid()), "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
    except OSError as error:  # no space, no rights: this job's failure, not the end of the others
        state.name, state.error = "failed", f"cannot be started in {folder}: {error.strerror or error}"
        return False
    finally:
        os.close(lock)
    state.name, state.started = "running", time.time()
    return True


def _reap(state: State, began: float) -> None:
    """Take over the outcome of a worker that has ended; one that ended without a record gets a failed one."""
    status = state.process.poll()
    if status is None:
        return
    _signal_group(state.process, signal.SIGKILL)  # data-loading processes it may have left; they would hold the lock
    state.name, state.process = "waiting", None
    _settle(state, began)
    if state.name == "waiting":
        reason = f"was ended by {_signal_name(-status)}" if status < 0 else f"ended with status {status} and left no record"
        state.name, state.error = "failed", f"its process {reason}"
        record = record_of(state.job.spec, {}, state.error, "work") | {"wall_seconds": time.time() - state.started}
        try:
            store.write_json(state.job.folder / "record.json", record)
        except OSError as error:
            state.error += f" (and its record cannot be written: {error.strerror or error})"


def last_lines(job: Job, count: int) -> list[str]:
    """The end of a job's log."""
    try:
        return (job.folder / "log.txt").read_text(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def _signal_name(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name} (out of memory?)" if number == signal.SIGKILL else name


def _stop(running: Sequence[State]) -> None:
    for state in running:
        _signal_group(state.process, signal.SIGTERM)
    deadline = time.time() + GRACE
    for state in running:
        try:
            state.process.wait(max(0.0, deadline - time.time()))
        except subprocess.TimeoutExpired:
            _signal_group(state.process, signal.SIGKILL)
            state.process.wait()
        state.name = "waiting"


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def _terminate_as_interrupt():
    """SIGTERM and SIGHUP end a run as Ctrl-C does."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def local_slots(jobs: int, wanted: int | None = None, device: str = "auto") -> list[dict[str, str]]:
    """The workers' environments on this machine: one a GPU, or groups of cores; `wanted` sets their number.

    On a CPU a worker gets one thread where there are up to 4 cores, two up to 16, else four; more where jobs are few.
    """
    gpus = [] if device == "cpu" else visible_gpus()
    if gpus:
        count = min(wanted or len(gpus), jobs) or 1
        return [{"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} | _threads(max(1, cores() // count)) for n in range(count)]
    threads = 1 if cores() <= 4 else 2 if cores() <= 16 else 4
    count = max(1, min(wanted or cores() // threads, jobs))
    return [_threads(max(1, cores() // count)) for _ in range(count)]


def _threads(count: int) -> dict[str, str]:
    return {f"{name}_NUM_THREADS": str(count) for name in ("OMP", "MKL", "OPENBLAS")}


def cores() -> int:
    """Processor cores this process may use: affinity and a container's quota taken into account."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):
        return count


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may say: the GPUs torch can use here."""
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return listed.split(",")[:count] if listed else [str(n) for n in range(count)]
