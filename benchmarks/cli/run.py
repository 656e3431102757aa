"""`detco run` and the other commands that work: where jobs run, what they cost there, the work
under a live view."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from detco.common.errors import InputError
from detco.results import store

from ..plan import cost, measured_speeds, suite_plan
from ..plan.jobs import Job
from ..run import live, local, machine, slurm
from ..suites import builtin, files
from . import dry_run as planned
from . import outcomes
from . import text as show


class Local:
    """This machine: a worker for each GPU (or `--num-gpus` of them), or for groups of cores."""

    def __init__(self, jobs: Sequence[Job], args):
        wanted, self.gpus = getattr(args, "jobs", None), getattr(args, "num_gpus", 1)
        for option, number in (("--jobs", wanted), ("--num-gpus", self.gpus)):
            if number is not None and number < 1:
                raise InputError(f"{option} must be at least 1, it is {number}")
        if str(args.device).startswith("cuda") and not machine.visible_gpus():
            raise InputError(
                f"--device {args.device}: torch sees no GPU here (`detco doctor` says more)"
            )
        self.slots = machine.local_slots(len(jobs), wanted, args.device, self.gpus)
        if "CUDA_VISIBLE_DEVICES" not in self.slots[0]:
            _refuse_fp16(jobs)
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
        return cost.estimate(
            jobs,
            known,
            self.device,
            measured_speeds.step_seconds(self.here) / measured_speeds.STEP if guessed else 1.0,
        )

    def room(self) -> planned.Room:
        gpus = dict.fromkeys(slurm.KINDS, self.gpus) if self.here["gpu"] else {}
        return planned.Room(machine.describe(self.slots), len(self.slots), gpus, self.device.name)

    def run(self, jobs: Sequence[Job], look) -> local.Run:
        try:
            return local.run(jobs, self.slots, look)
        finally:
            measured_speeds.remember(jobs, self.here)

    stopped = "nothing finished is lost"


class Cluster:
    """A Slurm cluster, through submitit."""

    def __init__(self, jobs: Sequence[Job], asks: Mapping[str, slurm.Resources], out: Path):
        self.asks, self.out = asks, out
        if not asks["transfer"].gpus:
            _refuse_fp16(jobs)

    def costs(
        self, jobs: Sequence[Job], out: Path, exact: bool = False
    ) -> dict[str, cost.Estimate]:
        """From records of the cluster's machines below `out`, which are taken to be alike."""
        device = cost.GPU if self.asks["transfer"].gpus else cost.CPU
        return cost.estimate(jobs, measured_speeds.known(out, None), device)

    def room(self) -> planned.Room:
        most = self.asks["transfer"].parallel
        gpus = (
            {kind: ask.gpus * ask.nodes for kind, ask in self.asks.items()}
            if self.asks["transfer"].gpus
            else {}
        )
        return planned.Room(
            f"Slurm if {most} jobs run at once", most, gpus, (cost.GPU if gpus else cost.CPU).name
        )

    def run(self, jobs: Sequence[Job], look) -> local.Run:
        return slurm.run(jobs, self.asks, self.out, look)

    stopped = "the jobs stay in the queue (scancel ends them)"


def suite(args) -> int:
    """A whole comparison: planned, run, its table printed."""
    wanted = files.adapted(files.load(args.suite), args.data, args.images, args.weights, args.start)
    period = wanted.eval_period if args.eval_period is None else args.eval_period
    wanted = replace(
        wanted,
        amp=args.amp or wanted.amp,
        eval_period=period,
        keep_model=args.keep_model or wanted.keep_model,
    )
    wanted, absent = files.without_absent(wanted)
    for text in absent:
        print(f"detco: without {text}", file=sys.stderr)
    out = (args.out or Path(wanted.name)).absolute()
    _check_folder(out)
    asks = EXECUTORS[args.executor](wanted, args)
    launches = ({"num_gpus": args.num_gpus} if args.num_gpus != 1 else {},) * 2
    if asks:
        launches = asks["transfer"].launch, asks["pretrain"].launch
    missing: list[str] | None = [] if args.dry_run else None
    with live.pictures_checked(wanted.name, args.verify) as check:
        jobs = suite_plan.plan(
            wanted, out, args.engine, args.seeds, args.device, launches, missing, check
        )
    site = Cluster(jobs, asks, out) if asks else Local(jobs, args)
    if args.dry_run:
        return _planned(jobs, site, out, missing)
    failed = work(jobs, args, out, wanted.name, site)
    if wanted.keep_model:
        show.kept(jobs, wanted.keep_model)
    return failed if failed == 130 else outcomes.after_run(jobs, out) or failed


def _asks(wanted: builtin.Suite, args) -> dict[str, slurm.Resources] | None:
    """What jobs ask Slurm for, where it is to run them."""
    asks = slurm.resources(wanted.slurm, args.slurm)
    if args.num_gpus != 1 or args.jobs is not None:
        raise InputError(
            "with --executor slurm say --slurm gpus=N and --slurm parallel=N instead of"
            " --num-gpus and --jobs"
        )
    return asks


def _asks_nobody(wanted: builtin.Suite, args) -> None:
    """Jobs run on this machine; what a suite file asks of a cluster is checked all the same."""
    slurm.resources(wanted.slurm, args.slurm)
    if args.slurm:
        raise InputError("--slurm needs --executor slurm")


EXECUTORS = {"local": _asks_nobody, "slurm": _asks}  # what jobs ask for where they run


def _record(job: Job) -> dict | None:
    """The record of a job that is done."""
    record = store.outcome(job.folder, job.id, time.time())
    return record if record and record["status"] == "done" else None


def _refuse_fp16(jobs: Sequence[Job]) -> None:
    """InputError for jobs in float16 where there is no GPU: before the first job, not after hours
    of pretraining."""
    if any(job.spec.get("launch", {}).get("amp") == "fp16" and not _record(job) for job in jobs):
        raise InputError("--amp fp16 needs a GPU; on a CPU --amp bf16 works")


def _say_without_evaluations(jobs: Sequence[Job]) -> None:
    """Evaluations on the way change no result: a run that is done without them is not done again
    for them."""
    for period in dict.fromkeys(
        filter(None, (job.spec.get("launch", {}).get("eval_period") for job in jobs))
    ):
        records = [
            _record(job) for job in jobs if job.spec.get("launch", {}).get("eval_period") == period
        ]
        count = sum(
            record["spec"].get("launch", {}).get("eval_period") != period
            for record in records
            if record
        )
        if count:
            whose = "the run" if len(jobs) == 1 else show.in_words(count)
            print(
                f"no evaluations every {period} iterations: {whose} had finished without them; a"
                " new --out makes them"
            )


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is not a folder; name a new one")


def _planned(jobs: Sequence[Job], site: Local | Cluster, out: Path, missing: Sequence[str]) -> int:
    """Print the plan and its cost; exit status 2 where something is missing."""
    done = {job.id for job in jobs if _record(job)}
    planned.show(jobs, done, site.costs(jobs, out, exact=True), site.room(), out)
    for text in planned.summed(missing):
        print(f"detco: before it can run: {text}", file=sys.stderr)
    return 2 if missing else 0


def work(
    jobs: Sequence[Job], args, out: Path, name: str, site: Local | Cluster | None = None
) -> int:
    """Run jobs under a live view; exit status 0, 1 (some failed), 2 (bad input found on the way),
    130 (interrupted)."""
    _check_folder(out)
    site = site or Local(jobs, args)
    jobs = cost.priced(jobs, site.costs(jobs, out))
    try:
        with live.of_run(name) as look:
            outcome = site.run(jobs, look)
    except KeyboardInterrupt:
        print(f"\nstopped; {site.stopped}. To go on: {args.again}", file=sys.stderr)
        return 130
    _say_without_evaluations(jobs)
    return show.outcome(outcome, args.again)
