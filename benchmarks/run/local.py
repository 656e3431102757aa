"""The executor `local`: jobs on this machine, a worker process for each slot that does one job
after another, folders locked."""

import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from detco.common.errors import InputError
from detco.results import store

from ..plan import cost, measured_speeds
from ..plan.jobs import Job
from . import Room, machine
from .worker import record_of
from .worker_process import GRACE, Worker

WORKER = (sys.executable, "-m", "detco.benchmarks.run.worker")
POLL = 0.1  # seconds
KINDS = ("scenes", "pretrain", "transfer")  # kinds of jobs in a suite's plan


@dataclass
class State:
    """waiting, running, elsewhere (another runner has it), done, failed, blocked (by
    a failed one)."""

    job: Job
    name: str = "waiting"
    error: str | None = None
    error_kind: str | None = None
    slot: int = -1
    started: float | None = None  # when this call started it
    seconds: float = 0.0  # duration of a done job
    warnings: Sequence[str] = ()


@dataclass
class Run:
    """All states of one call, by job id, and when it began; what a view shows and what the caller
    gets back."""

    states: dict[str, State]
    slots: Sequence[dict[str, str]]
    began: float = field(default_factory=time.time)
    workers: dict[int, Worker] = field(default_factory=dict)  # by slot

    def named(self, *names: str) -> list[State]:
        return [state for state in self.states.values() if state.name in names]


class Local:
    """This machine: a worker for each GPU (or `--num-gpus` of them), or for groups of cores."""

    stopped = "nothing finished is lost"

    def __init__(self, suite, args):
        self.wanted, self.gpus = getattr(args, "jobs", None), getattr(args, "num_gpus", 1)
        for option, number in (("--jobs", self.wanted), ("--num-gpus", self.gpus)):
            if number is not None and number < 1:
                raise InputError(f"{option} must be at least 1, it is {number}")
        self.asked = str(args.device)

    def launch(self, kind: str) -> dict[str, int]:
        return {"num_gpus": self.gpus} if self.gpus != 1 else {}

    def take(self, jobs: Sequence[Job]) -> None:
        if self.asked.startswith("cuda") and not machine.visible_gpus():
            raise InputError(
                f"--device {self.asked}: torch sees no GPU here (`detco doctor` says more)"
            )
        self.slots = machine.local_slots(len(jobs), self.wanted, self.asked, self.gpus)
        if "CUDA_VISIBLE_DEVICES" not in self.slots[0]:
            refuse_fp16(jobs)
        self.here = machine.facts(self.slots[0])
        self.device = cost.GPU if self.here["gpu"] else cost.CPU

    def costs(
        self, jobs: Sequence[Job], out: Path, exact: bool = False
    ) -> dict[str, cost.Estimate]:
        """exact: measure how fast this processor is, where the model is needed."""
        known = measured_speeds.known(out, self.here)
        guessed = (
            exact
            and self.device is cost.CPU
            and any(measured_speeds.speed_key(job.spec) not in known for job in jobs)
        )
        pace = measured_speeds.step_seconds(self.here) / measured_speeds.STEP if guessed else 1.0
        return cost.estimate(jobs, known, self.device, pace)

    def room(self) -> Room:
        gpus = dict.fromkeys(KINDS, self.gpus) if self.here["gpu"] else {}
        return Room(machine.describe(self.slots), len(self.slots), gpus, self.device.name)

    def script(self, jobs: Sequence[Job], out: Path) -> str:
        return ""

    def run(self, jobs: Sequence[Job], out: Path, look: Callable[[Run], None]) -> Run:
        try:
            return run(jobs, self.slots, look)
        finally:
            measured_speeds.remember(jobs, self.here)


def refuse_fp16(jobs: Sequence[Job]) -> None:
    """InputError for jobs in float16 where there is no GPU: raised before the first job instead of
    after hours of pretraining."""
    if any(job.spec.get("launch", {}).get("amp") == "fp16" and not finished(job) for job in jobs):
        raise InputError("--amp fp16 needs a GPU; on a CPU --amp bf16 works")


def finished(job: Job) -> dict | None:
    """The record of a job that is done."""
    record = store.outcome(job.folder, job.id, time.time())
    return record if record and record["status"] == "done" else None


def run(
    jobs: Sequence[Job],
    slots: Sequence[dict[str, str]],
    view: Callable[[Run], None],
    worker: Sequence[str] = WORKER,
) -> Run:
    """Run every job that is not done yet; `slots` are the environments of the workers that may run
    at once.

    A failed job does not stop the others; jobs that need it are blocked. KeyboardInterrupt (Ctrl-C,
    also SIGTERM) ends the workers and is raised again. Ready jobs are started in the order of the
    longest chain of work that depends on them.
    """
    this = Run({job.id: State(job) for job in jobs}, slots)
    for state in this.states.values():
        settle(state, this.began)
        write_spec(state)
    chains = cost.chain_costs(jobs, {job.id: job.cost for job in jobs})
    order = sorted(this.states.values(), key=lambda state: -chains[state.job.id])
    with _terminate_as_interrupt():
        try:
            while this.named("waiting", "running", "elsewhere"):
                block(this)
                _start_ready(this, order, worker)
                view(this)
                _listen(this)
        finally:
            _stop(this)
            view(this)
    return this


def write_spec(state: State) -> None:
    """Leave the plan in the job's folder, so that status and table know of it before it has run."""
    path = state.job.folder / "spec.json"
    if state.name == "done" or store.read_json(path) == state.job.spec:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(path, state.job.spec)
    except OSError as error:  # no space, no rights: this job fails, the others continue
        state.name, state.error = (
            "failed",
            f"cannot work in {path.parent}: {error.strerror or error}",
        )


def settle(state: State, began: float) -> bool:
    """Set the state from a job's record if there is one: done, or failed after `began`."""
    record = store.outcome(state.job.folder, state.job.id, began)
    if record is None:
        return False
    state.name, state.seconds = record["status"], record.get("wall_seconds") or 0.0
    state.error, state.error_kind = record.get("error"), record.get("error_kind")
    state.warnings = record.get("warnings", [])
    if state.name == "done":
        _rename(state.job, record)
    return True


def _rename(job: Job, record: dict) -> None:
    """Rename a finished run, or move it in the table, as the job now says; nothing
    else in the record changes."""
    now = {key: job.spec[key] for key in ("title", "starting_point", "order") if key in job.spec}
    if any(record["spec"].get(key) != value for key, value in now.items()):
        shown = {"starting_point": now["starting_point"]} if "starting_point" in record else {}
        spec = record["spec"] | now
        with suppress(OSError):  # a read-only folder keeps its names
            store.write_json(job.folder / "record.json", record | shown | {"spec": spec})
            store.write_json(job.folder / "spec.json", spec)


def block(this: Run) -> None:
    """Mark jobs that need a failed job as blocked."""
    for state in this.named("waiting", "elsewhere"):
        needed = [this.states[need] for need in state.job.needs if need in this.states]
        lost = next((need for need in needed if need.name in ("failed", "blocked")), None)
        if lost:
            state.name, state.error = "blocked", f"not run: {lost.job.title} did not succeed"


def _start_ready(this: Run, order: Sequence[State], worker: Sequence[str]) -> None:
    free = sorted(
        set(range(len(this.slots))) - {state.slot for state in this.named("running")}, reverse=True
    )
    for state in order:
        if not free:
            return
        ready = all(
            this.states[need].name == "done" for need in state.job.needs if need in this.states
        )
        if state.name not in ("waiting", "elsewhere") or not ready or settle(state, this.began):
            continue
        if store.is_taken(state.job.folder):
            state.name = "elsewhere"
            continue
        slot = free.pop()
        # the worker was killed while idle
        if slot in this.workers and this.workers[slot].process.poll() is not None:
            this.workers.pop(slot).end()
        if slot not in this.workers:
            this.workers[slot] = Worker(worker, this.slots[slot])
        state.name, state.slot, state.started = "running", slot, time.time()
        this.workers[slot].ask(state, this.began)


def _listen(this: Run) -> None:
    """Wait until a worker answers, POLL seconds at most, and update the states of
    jobs that ended."""
    working = {slot: worker for slot, worker in this.workers.items() if worker.state}
    select.select([worker.process.stdout for worker in working.values()], [], [], POLL)
    for slot, worker in working.items():
        answer = worker.answer()
        if answer is None:
            continue
        state, worker.state = worker.state, None
        _finish(state, answer, this.began)
        if answer not in ("done", "taken"):
            this.workers.pop(slot).end()


def _finish(state: State, answer: str, began: float) -> None:
    """Set a job's outcome from its record, else from the worker's answer; without
    a record it has failed."""
    state.name, state.slot = "waiting", -1
    if settle(state, began):
        return
    if answer == "taken":
        state.name, state.started = "elsewhere", None
        return
    fail(state, answer)


def fail(state: State, error: str) -> None:
    """A job that ended without a record has failed; it gets one that says so."""
    state.name, state.error = "failed", error
    record = record_of(state.job.spec, {}, error, "work")
    record |= {"ended": time.time(), "wall_seconds": time.time() - (state.started or time.time())}
    try:
        store.write_json(state.job.folder / "record.json", record)
    except OSError as problem:
        state.error += f" (and its record cannot be written: {problem.strerror or problem})"


def last_lines(job: Job, count: int) -> list[str]:
    """The end of a job's log."""
    try:
        return (job.folder / "log.txt").read_text(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def _stop(this: Run) -> None:
    """Stop all workers: idle ones at once, busy ones after a grace period."""
    working = [worker for worker in this.workers.values() if worker.state]
    for worker in working:
        worker.signal(signal.SIGTERM)
        worker.state.name, worker.state.slot = "waiting", -1
    deadline = time.time() + GRACE
    for worker in working:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(max(0.0, deadline - time.time()))
    while this.workers:
        this.workers.popitem()[1].end()


@contextmanager
def _terminate_as_interrupt():
    """SIGTERM and SIGHUP end a run as Ctrl-C does. Ignored signals stay ignored: under `nohup` the
    run outlives its terminal."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
