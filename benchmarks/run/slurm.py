"""The executor `slurm`: jobs on a Slurm cluster, one job array for all that need the same jobs,
submitted at once through submitit.

A worker on the cluster does what a local one does: `python -m
detco.benchmarks.run.worker SPEC`. Jobs stay in the queue when the runner ends; the next
runner finds them by the job numbers in their folders.
"""

import getpass
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detco.common.errors import InputError
from detco.common.settings import check
from detco.results import schema, store

from .. import config
from ..plan import cost, measured_speeds
from ..plan.jobs import Job
from ..suites.builtin import Amount, Count
from . import Room, distributed
from .local import (
    KINDS,
    WORKER,
    Run,
    State,
    block,
    fail,
    last_lines,
    refuse_fp16,
    settle,
    write_spec,
)

POLL = 5.0  # seconds between two looks at the queue
GONE = 10.0  # seconds a shared file system may delay a record after its job left the queue
NUMBER = (  # in a job's folder: its number in the queue, and where submitit keeps its files
    ".slurm.json"
)


@dataclass(frozen=True)
class Resources:
    """What one job asks Slurm for. `more`: any other option of sbatch, e.g. {"mail-type":
    "FAIL"}."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str = "1-00:00:00"  # as sbatch takes it
    gpus: Amount = 1  # on each machine; 0: none
    nodes: Count = 1  # machines of one job
    cpus: Count | None = None  # on each machine
    memory: str | None = None  # on each machine, e.g. 64G
    parallel: Count = 256  # jobs of an array that run at once
    timeouts: Amount = 10  # how often a job that reached its time limit is resubmitted
    notice: Amount = 90  # seconds before its time limit at which a job gets a signal
    setup: tuple[str, ...] = ()  # lines of shell before the job, e.g. module load cuda
    more: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)
        minutes(self.time)

    @property
    def launch(self) -> dict[str, int]:
        """`num_gpus` and `num_machines` where they are not 1."""
        wanted = {"num_gpus": max(1, self.gpus), "num_machines": self.nodes}
        return {key: value for key, value in wanted.items() if value != 1}


class Slurm:
    """A Slurm cluster, through submitit."""

    stopped = "the jobs stay in the queue (scancel ends them)"

    def __init__(self, suite, args):
        self.asks = resources(suite.slurm, args.slurm)

    def launch(self, kind: str) -> dict[str, int]:
        return self.asks[kind].launch

    def take(self, jobs: Sequence[Job]) -> None:
        if not self.asks["transfer"].gpus:
            refuse_fp16(jobs)

    def costs(
        self, jobs: Sequence[Job], out: Path, exact: bool = False
    ) -> dict[str, cost.Estimate]:
        """From records of the cluster's machines below `out`, which are assumed to be alike."""
        device = cost.GPU if self.asks["transfer"].gpus else cost.CPU
        return cost.estimate(jobs, measured_speeds.known(out, None), device)

    def room(self) -> Room:
        most, gpus = self.asks["transfer"].parallel, {}
        if self.asks["transfer"].gpus:
            gpus = {kind: ask.gpus * ask.nodes for kind, ask in self.asks.items()}
        model = (cost.GPU if gpus else cost.CPU).name
        return Room(f"Slurm if {most} jobs run at once", most, gpus, model)

    def run(self, jobs: Sequence[Job], out: Path, look: Callable[[Run], None]) -> Run:
        return run(jobs, self.asks, out, look)


def resources(of_suite: Mapping[str, Any], texts: Sequence[str] = ()) -> dict[str, Resources]:
    """What each kind of job asks for: a suite's `slurm:` settings, those of the command
    line over them.

    Both are for all kinds, or with `pretrain.` or `transfer.` before them for
    one. Raises InputError.
    """
    common: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    for key, value in (*of_suite.items(), *config.parse_assignments(texts, "--slurm").items()):
        kind, _, name = key.rpartition(".")
        if key in KINDS and isinstance(value, Mapping):
            own[key] |= value
        else:
            (own[kind] if kind in KINDS else common)[name if kind in KINDS else key] = value
    base = _changed(Resources(), common, "slurm settings")
    drawing = replace(base, gpus=0, nodes=1)
    return {
        kind: _changed(
            drawing if kind == "scenes" else base, own[kind], f"slurm settings of {kind}"
        )
        for kind in KINDS
    }


def _changed(row: Resources, changes: Mapping[str, Any], where: str) -> Resources:
    texts = {
        key: str(value)
        for key, value in changes.items()
        if key in ("time", "memory") and value is not None
    }
    return config.override(row, {**changes, **texts}, where)


def minutes(text: str) -> int:
    """A time as sbatch takes it (MINUTES[:SECONDS], HOURS:MINUTES:SECONDS, DAYS-HOURS...) in
    minutes. Raises InputError."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise InputError(
            f"slurm time {text!r}: expected MINUTES, HOURS:MINUTES:SECONDS or"
            " DAYS-HOURS:MINUTES:SECONDS"
        )
    days, first, second, third = (int(part or 0) for part in found.groups())
    if found[1] or found[4]:
        return days * 1440 + first * 60 + second + (third > 0)
    return first + (second > 0)


class Work:
    """What submitit runs on each machine of a job: the worker on a spec file; after a preemption
    again, from its checkpoint."""

    def __init__(self, worker: Sequence[str], spec: Path, machines: int):
        self.command, self.spec, self.machines = [*worker, str(spec)], spec, machines

    def __call__(self) -> None:
        import submitit

        environment = os.environ | {"DETCO_RUNNER": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        if self.machines > 1:
            there, rank = (
                submitit.helpers.TorchDistributedEnvironment(),
                submitit.JobEnvironment().node,
            )
            environment |= {
                "MASTER_ADDR": there.master_addr,
                "MASTER_PORT": str(there.master_port),
                "DETCO_MACHINE": str(rank),
            }
            environment |= {distributed.HELPER: "1"} if rank else {}
        with open(self.spec.parent / "log.txt", "ab") as log:
            where = {"cwd": distributed.ROOT, "env": environment, "stdout": log, "stderr": log}
            status = subprocess.run(self.command, **where, preexec_fn=_deaf_to_notice).returncode
        if status:
            raise SystemExit(
                f"the worker ended with status {status}, see {self.spec.parent / 'log.txt'}"
            )

    def checkpoint(self):
        """Called by submitit to resubmit the job: the worker resumes from its own checkpoints."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _deaf_to_notice() -> None:
    # Slurm sends this signal to all processes, but only submitit handles it
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def run(
    jobs: Sequence[Job],
    asks: Mapping[str, Resources],
    out: Path,
    view: Callable[[Run], None],
    worker: Sequence[str] = WORKER,
) -> Run:
    """Put every job that is neither done nor queued into the queue, then watch until none is there.

    Queued jobs continue if this process ends. Raises InputError where there is no
    Slurm, or it rejects a job.
    """
    queue()  # raises without Slurm, before anything is written
    this = Run({job.id: State(job) for job in jobs}, [{}] * asks["transfer"].parallel)
    for state in this.states.values():
        settle(state, this.began)
        write_spec(state)
    out.mkdir(parents=True, exist_ok=True)
    while (lock := store.take(out)) is None:  # another runner is submitting
        time.sleep(0.2)
    try:
        numbers = submit(this.states.values(), asks, out / "slurm", queue(), worker)
    finally:
        store.release(lock)
    gone: dict[str, float] = {}
    while True:
        _look(this, numbers, queue(), gone)
        block(this)
        end = time.time() + POLL
        while True:
            view(this)
            if not this.named("waiting", "running"):
                return this
            if time.time() > end:
                break
            time.sleep(min(0.5, POLL))


def submit(
    states: Iterable[State],
    asks: Mapping[str, Resources],
    folder: Path,
    queued: Mapping[str, str],
    worker: Sequence[str],
) -> dict[str, str]:
    """Submit waiting jobs, an array for all that need the same jobs. Returns job numbers by
    id, earlier ones included."""
    numbers, waiting, lost = {}, {}, set()
    for state in states:  # jobs stand after those they need
        known = store.read_as(state.job.folder / NUMBER, schema.Queued)
        number = known["number"] if known else ""
        if state.name == "failed" or lost & set(state.job.needs):
            lost.add(state.job.id)
        elif state.name == "waiting" and number in queued:
            numbers[state.job.id] = number
        elif state.name == "waiting":
            waiting[state.job.id] = state.job
    arrays: dict[tuple, list[Job]] = {}
    for job in waiting.values():
        needs = tuple(need for need in job.needs if need in waiting or need in numbers)
        arrays.setdefault((job.kind, needs), []).append(job)
    for (kind, needs), array in arrays.items():
        work = [Work(worker, job.folder / "spec.json", asks[kind].nodes) for job in array]
        for job, number in zip(
            array,
            _submit(work, f"detco-{kind}", asks[kind], folder, [numbers[need] for need in needs]),
        ):
            numbers[job.id] = number
            store.write_json(job.folder / NUMBER, {"number": number, "folder": str(folder)})
    return numbers


def _submit(
    work: Sequence[Work], name: str, ask: Resources, folder: Path, after: Sequence[str]
) -> list[str]:
    """One job array that begins when the jobs with the numbers `after` have succeeded; the numbers
    of its jobs."""
    try:
        import submitit
    except ImportError:
        raise InputError("--executor slurm needs submitit: pip install submitit") from None
    executor = submitit.SlurmExecutor(folder, max_num_timeout=ask.timeouts)
    more = {"requeue": True, "kill-on-invalid-dep": "yes", **ask.more}
    asked = {
        "job_name": name,
        "partition": ask.partition,
        "account": ask.account,
        "qos": ask.qos,
        "constraint": ask.constraint,
        "time": minutes(ask.time),
        "nodes": ask.nodes,
        "ntasks_per_node": 1,
        "gpus_per_node": ask.gpus or None,
        "cpus_per_task": ask.cpus,
        "mem": ask.memory,
        "array_parallelism": ask.parallel,
        "signal_delay_s": ask.notice,
        "setup": [f"export PYTHONPATH={distributed.ROOT}${{PYTHONPATH:+:$PYTHONPATH}}", *ask.setup],
        "dependency": "afterok:" + ":".join(after) if after else None,
        "additional_parameters": more,
    }
    executor.update_parameters(**{key: value for key, value in asked.items() if value is not None})
    try:
        return [job.job_id for job in executor.submit_array(work)]
    except submitit.core.utils.FailedJobError as error:
        raise InputError(f"Slurm refuses the jobs: {str(error).strip().splitlines()[-1]}") from None


def queue() -> dict[str, str]:
    """The user's jobs in the queue: number -> state, in Slurm's two letters. Raises InputError
    where there is no Slurm."""
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i %t"]
    for attempt in range(5):  # a controller being restarted does not answer for a while
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise InputError(
                "--executor slurm: there is no squeue here; this is not a machine of a Slurm"
                " cluster"
            ) from None
        if done.returncode == 0:
            return dict(line.split() for line in done.stdout.splitlines())
        time.sleep(attempt)
    raise InputError(
        f"--executor slurm: squeue says {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"
    )


def _look(
    this: Run, numbers: Mapping[str, str], queued: Mapping[str, str], gone: dict[str, float]
) -> None:
    """Update states from records and queue. gone: since when a job without a record is missing in
    the queue."""
    now = time.time()
    for state in this.named("waiting", "running"):
        there = queued.get(numbers.get(state.job.id, ""))
        if settle(state, this.began):
            state.started = state.started or this.began
        elif (
            there is None
            and now - gone.setdefault(state.job.id, now) > GONE
            and not _needs_first(this, state)
        ):
            said = "".join(f": {line}" for line in last_lines(state.job, 1))
            fail(
                state,
                f"Slurm job {numbers.get(state.job.id, '?')} left the queue without a record{said}",
            )
        elif there is not None:
            gone.pop(state.job.id, None)
            state.name = "running" if there in ("R", "CG") else "waiting"
            state.started = (state.started or now) if state.name == "running" else None


def _needs_first(this: Run, state: State) -> bool:
    """Whether a job it needs is not done; then that one failed, not this one."""
    return any(this.states[need].name != "done" for need in state.job.needs if need in this.states)
