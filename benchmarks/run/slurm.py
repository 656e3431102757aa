"""The executor `slurm`: jobs on a Slurm cluster, one job array for all that need the same jobs,
submitted at once through submitit.

A worker on the cluster does what a local one does: `python -m
detco.benchmarks.run.worker SPEC`. Jobs stay in the queue when the runner ends; the next
runner finds them by the job numbers in their folders.
"""

import getpass
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

from detco.common.errors import InputError
from detco.results import schema, store

from ..plan import cost, measured_speeds
from ..plan.jobs import Job
from . import Room, distributed, sbatch
from .local import (
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
# in a job's folder: its number in the queue, and where submitit keeps its files
NUMBER = ".slurm.json"
FILES = "slurm"  # that folder, below the one of the runs
NO_SUBMITIT = "--executor slurm needs submitit: pip install submitit"


class Slurm:
    """A Slurm cluster, through submitit."""

    stopped = "the jobs stay in the queue (scancel ends them)"

    def __init__(self, suite, args):
        self.asks = sbatch.resources(suite.slurm, args.slurm)

    def launch(self, kind: str) -> dict[str, int]:
        return self.asks[kind].launch

    def take(self, jobs: Sequence[Job]) -> None:
        if not self.asks["transfer"].gpus_each:
            refuse_fp16(jobs)

    def costs(
        self, jobs: Sequence[Job], out: Path, exact: bool = False
    ) -> dict[str, cost.Estimate]:
        """From records of the cluster's machines below `out`, which are assumed to be alike."""
        device = cost.GPU if self.asks["transfer"].gpus_each else cost.CPU
        return cost.estimate(jobs, measured_speeds.known(out, None), device)

    def room(self) -> Room:
        most, gpus = self.asks["transfer"].parallel, {}
        if self.asks["transfer"].gpus_each:
            gpus = {kind: ask.gpus_each * ask.nodes for kind, ask in self.asks.items()}
        model = (cost.GPU if gpus else cost.CPU).name
        return Room(f"Slurm if {most} jobs run at once", most, gpus, model)

    def script(self, jobs: Sequence[Job], out: Path) -> str:
        """The script of the first array of each kind of job."""
        if importlib.util.find_spec("submitit") is None:
            raise InputError(NO_SUBMITIT)
        made: dict[str, str] = {}
        for (kind, needs), array in arrays({job.id: job for job in jobs}, ()).items():
            after = ["NUMBER"] * len(needs)  # Slurm gives the numbers when it takes the others
            ask, folder = self.asks[kind], out.absolute() / FILES
            made.setdefault(kind, sbatch.script(ask, kind, folder, len(array), after))
        return "\n".join(made.values())

    def run(self, jobs: Sequence[Job], out: Path, look: Callable[[Run], None]) -> Run:
        return run(jobs, self.asks, out, look)


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
    asks: Mapping[str, sbatch.Resources],
    out: Path,
    view: Callable[[Run], None],
    worker: Sequence[str] = WORKER,
) -> Run:
    """Put every job that is neither done nor queued into the queue, then watch until none is there.

    Queued jobs continue if this process ends. Raises InputError where there is no
    Slurm, or it rejects a job.
    """
    _check_installed()  # before anything is written
    queue()
    this = Run({job.id: State(job) for job in jobs}, [{}] * asks["transfer"].parallel)
    for state in this.states.values():
        settle(state, this.began)
        write_spec(state)
    out.mkdir(parents=True, exist_ok=True)
    while (lock := store.take(out)) is None:  # another runner is submitting
        time.sleep(0.2)
    try:
        numbers = submit(this.states.values(), asks, out / FILES, queue(), worker)
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
    asks: Mapping[str, sbatch.Resources],
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
    for (kind, needs), array in arrays(waiting, numbers).items():
        work = [Work(worker, job.folder / "spec.json", asks[kind].nodes) for job in array]
        after = [numbers[need] for need in needs]
        for job, number in zip(array, _submit(work, kind, asks[kind], folder, after)):
            numbers[job.id] = number
            store.write_json(job.folder / NUMBER, {"number": number, "folder": str(folder)})
    return numbers


def arrays(waiting: Mapping[str, Job], queued: Container[str]) -> dict[tuple, list[Job]]:
    """The waiting jobs that need the same unfinished jobs, by their kind and those jobs' ids."""
    found: dict[tuple, list[Job]] = {}
    for job in waiting.values():
        needs = tuple(need for need in job.needs if need in waiting or need in queued)
        found.setdefault((job.kind, needs), []).append(job)
    return found


def _submit(
    work: Sequence[Work], kind: str, ask: sbatch.Resources, folder: Path, after: Sequence[str]
) -> list[str]:
    """One job array that begins when the jobs with the numbers `after` have succeeded; the numbers
    of its jobs."""
    import submitit

    executor = submitit.SlurmExecutor(folder, max_num_timeout=ask.timeouts)
    executor.update_parameters(**sbatch.parameters(ask, kind, after))
    try:
        return [job.job_id for job in executor.submit_array(work)]
    except submitit.core.utils.FailedJobError as error:
        raise InputError(f"Slurm refuses the jobs: {str(error).strip().splitlines()[-1]}") from None


def _check_installed() -> None:
    missing = [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]
    if missing:
        raise InputError(
            f"--executor slurm: there is no {' and no '.join(missing)} here; start this on a"
            " machine from which jobs are submitted"
        )
    if importlib.util.find_spec("submitit") is None:
        raise InputError(NO_SUBMITIT)


def queue() -> dict[str, str]:
    """The user's jobs in the queue: number -> state, in Slurm's two letters. Raises InputError
    where Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i %t"]
    for attempt in range(5):  # a controller being restarted does not answer for a while
        done = subprocess.run(command, capture_output=True, text=True)
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
            fail(state, _why_gone(state.job, numbers.get(state.job.id, "?")))
        elif there is not None:
            gone.pop(state.job.id, None)
            state.name = "running" if there in ("R", "CG") else "waiting"
            state.started = (state.started or now) if state.name == "running" else None


def _why_gone(job: Job, number: str) -> str:
    """A job's last line, and the file in which Slurm and submitit say more (out of memory, a
    machine that failed)."""
    said = "".join(f": {line}" for line in last_lines(job, 1))
    queued = store.read_as(job.folder / NUMBER, schema.Queued)
    file = Path(queued["folder"]) / f"{number}_0_log.err" if queued else None
    more = f"; Slurm's side of it: {file}" if file and file.is_file() else ""
    return f"Slurm job {number} left the queue without a record{said}{more}"


def _needs_first(this: Run, state: State) -> bool:
    """Whether a job it needs is not done; then that one failed, not this one."""
    return any(this.states[need].name != "done" for need in state.job.needs if need in this.states)
