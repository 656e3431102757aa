"""Starting a job's processes with Detectron2's launcher, and turning whatever ends them into one
clear line."""

import json
import os
import re
import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from detectron2.engine import launch
from detectron2.utils import comm
from torch import distributed, multiprocessing

from detco.common.errors import InputError, TrainingError
from detco.common.progress import Report

from ...settings import Protocol
from .. import EngineJob, Launch

AMP = {"": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LESS_MEMORY = "lower --batch (rate and schedule follow), spread over more --num-gpus, or use --amp"


def check(protocol: Protocol, start: Launch, device: str) -> None:
    """InputError for a start that cannot work."""
    images, processes = protocol.schedule.images, start.processes
    if (
        min(start.num_gpus, start.num_machines) < 1
        or not 0 <= start.machine_rank < start.num_machines
    ):
        raise InputError(
            "--num-gpus and --num-machines must be at least 1, --machine-rank from 0 to below"
            " --num-machines"
        )
    if start.eval_period < 0:
        raise InputError(f"--eval-period must not be negative, it is {start.eval_period}")
    if images % processes:
        raise InputError(
            f"{images} images an iteration cannot be split over {processes} processes; choose"
            " another --batch"
        )
    if start.num_machines > 1 and start.dist_url == "auto":
        raise InputError(
            "several machines need --dist-url tcp://FIRST_MACHINE:PORT, the same on each"
        )
    if device == "cuda" and start.num_gpus > torch.cuda.device_count():
        raise InputError(
            f"--num-gpus {start.num_gpus}, but there are {torch.cuda.device_count()} GPUs here"
        )
    if start.amp not in AMP:
        raise InputError(
            f"unknown precision {start.amp!r} for --amp; known: {', '.join(filter(None, AMP))}"
        )
    if device == "cpu" and start.amp == "fp16":
        raise InputError("--amp fp16 needs a GPU; on a CPU --amp bf16 works")


def start(work: Callable[[EngineJob, Report], None], job: EngineJob, report: Report) -> None:
    """Run `work(job, report)`, which can be pickled, in all processes of this machine.

    Raises InputError or TrainingError if one of them fails.
    """
    options, failure = job.launch, job.out / "failure.json"
    failure.unlink(missing_ok=True)
    if options.processes == 1:
        return work(job, report)
    start_all = launch if job.device == "cuda" else launch_on_cpu
    machines = (options.num_gpus, options.num_machines, options.machine_rank, options.dist_url)
    try:
        with relayed(report) as relay:
            start_all(process, *machines, args=(work, job, relay, failure))
    except (
        multiprocessing.ProcessRaisedException,
        multiprocessing.ProcessExitedException,
    ) as error:
        raise cause(failure, error) from None


def launch_on_cpu(
    main: Callable, processes: int, machines: int, machine_rank: int, url: str, args: tuple
) -> None:
    """Detectron2's `launch` without GPUs, which the release of 2021 insists on."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"file://{folder}/meeting" if url == "auto" else url
        multiprocessing.spawn(
            _cpu_process, (main, processes, machines, machine_rank, url, args), processes
        )


def _cpu_process(
    number: int,
    main: Callable,
    processes: int,
    machines: int,
    machine_rank: int,
    url: str,
    args: tuple,
) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch and Detectron2 take what GPUs they see
    rank, everyone = machine_rank * processes + number, machines * processes
    distributed.init_process_group("gloo", init_method=url, world_size=everyone, rank=rank)
    # every process takes part in making each machine's group
    for first in range(0, everyone, processes):
        group = distributed.new_group(list(range(first, first + processes)))
        if first <= rank < first + processes:
            comm._LOCAL_PROCESS_GROUP = group
    main(*args)


def process(
    work: Callable[[EngineJob, Report], None], job: EngineJob, report: Report, failure: Path
) -> None:
    """One of several processes. What went wrong is left in a file: the launcher passes on a
    traceback only."""
    if job.device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // job.launch.num_gpus))
    try:
        work(job, report)
    except (InputError, TrainingError) as error:
        failure.write_text(json.dumps({"input": isinstance(error, InputError), "text": str(error)}))
        raise


def cause(failure: Path, error: Exception) -> Exception:
    """Why a process ended, as the error to raise here."""
    try:
        told = json.loads(failure.read_text())
        failure.unlink()
        return (InputError if told["input"] else TrainingError)(told["text"])
    except (OSError, ValueError):
        text = str(error).strip().splitlines()[-1]
        return TrainingError(f"process {error.error_index} of the training ended: {text}")


class Relay:
    """A `report` that can be handed to another process; see `relayed`."""

    def __init__(self, end: Connection):
        self.end = end

    def __call__(self, *what, **figures) -> None:
        self.end.send((what, figures))


@contextmanager
def relayed(report: Report):
    """Gives a Relay; what the first process says to it is reported in this one."""

    def pass_on() -> None:
        # the other end is closed, or its process was killed in the middle of a word
        with suppress(EOFError, OSError):
            while True:
                what, figures = ours.recv()
                report(*what, **figures)

    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    thread = threading.Thread(target=pass_on)
    thread.start()
    try:
        yield Relay(theirs)
    finally:
        theirs.close()
        thread.join()


def explained(error: Exception, where: str) -> Exception | None:
    """What ended the training `where` (e.g. "at iteration 7"), as one line that says what to do;
    None if unknown."""
    text = str(error)
    if isinstance(error, InputError):  # from a loading process it comes with that one's traceback
        return InputError(re.split(r"(?:^|\s)detco\.[\w.]+: ", text.strip())[-1])
    if isinstance(error, FloatingPointError):
        losses = re.findall(r"'(\w+)': (?:np\.float64\()?(-?(?:nan|inf))", text)
        bad = ", ".join(f"{name} = {value}" for name, value in losses) or text.splitlines()[0]
        return TrainingError(f"loss not finite {where}: {bad}; lower schedule.lr")
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return TrainingError(f"out of GPU memory {where}: {LESS_MEMORY} ({text.splitlines()[0]})")
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return TrainingError(f"out of memory {where}: {LESS_MEMORY}")
    if "DataLoader worker" in text:
        return TrainingError(f"a process that loads pictures died {where}: {text.splitlines()[0]}")
    return None
