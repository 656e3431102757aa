"""Runs and watches jobs. Where they run is decided by an executor: a file
here and a row of EXECUTORS.

To add one: write its class (see `Runner`) in a file of this folder and give EXECUTORS a row that
names it and the options of `detco run` that are its own. The command's choices and options follow,
and no other code compares an executor's name. A job is done by `detco.benchmarks.run.worker` on the
spec file in its folder, on any machine; its record holds the outcome. This file imports
nothing heavy: commands that only show help read it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from detco.common.errors import InputError

if TYPE_CHECKING:
    from ..plan.cost import Estimate
    from ..plan.jobs import Job
    from ..suites.builtin import Suite
    from .local import Run


@dataclass(frozen=True)
class Room:
    """Where jobs run: `slots` at once; `name` completes "about 3:00:00 on ..."."""

    name: str
    slots: int
    gpus: Mapping[str, int]  # of one job, by kind; empty: there are none
    model: str  # what estimates without measured speeds assume


class Runner(Protocol):
    """What the class of an executor is: made of (suite or None, arguments of the command), from
    which it reads its own settings. Then `take` is called, then the rest.

    stopped: message on what happens to the jobs if the command is interrupted. launch: how a job of
    a kind ("transfer", "pretrain") is started there, as fields of detco.transfer.engines.Launch.
    take: the jobs that are to run, those that are done included. costs: by job id; exact: for
    --dry-run, where measuring this machine may take a second. run: all that is not done; `look` is
    called with the states again and again. script: for --dry-run, what a scheduler would be given
    for these jobs; "" where there is none. All raise InputError for what cannot run there.
    """

    stopped: str

    def launch(self, kind: str) -> Mapping[str, int]: ...

    def take(self, jobs: Sequence[Job]) -> None: ...

    def room(self) -> Room: ...

    def costs(self, jobs: Sequence[Job], out: Path, exact: bool = False) -> dict[str, Estimate]: ...

    def script(self, jobs: Sequence[Job], out: Path) -> str: ...

    def run(self, jobs: Sequence[Job], out: Path, look: Callable[[Run], None]) -> Run: ...


@dataclass(frozen=True)
class Executor:
    """A row of EXECUTORS.

    implementation: "module:class" in this folder. text: for the help. options: those of `detco run`
    that are for it alone, as rows for `add_argument`. instead: what to say in place of other
    executors' options.
    """

    implementation: str
    text: str
    options: tuple[tuple[str, dict[str, Any]], ...] = ()
    instead: str = ""


# the first is the default
EXECUTORS = {
    "local": Executor(
        "local:Local",
        "this machine",
        (
            (
                "--jobs",
                {
                    "help": "jobs at once; default: one a GPU, or by the processor's cores",
                    "metavar": "N",
                    "type": int,
                    "default": None,
                },
            ),
            (
                "--num-gpus",
                {"help": "GPUs for each job; default 1", "metavar": "N", "type": int, "default": 1},
            ),
        ),
    ),
    "slurm": Executor(
        "slurm:Slurm",
        "a cluster",
        (
            (
                "--slurm",
                {
                    "help": "what jobs ask Slurm for (may be repeated): partition, account, qos,"
                    " constraint; time (limit); gpus, gres (gpu:a100:8), cpus and memory on each"
                    " machine; nodes; parallel (jobs at once); timeouts (how often a job is"
                    " submitted again after its time limit); notice (seconds before it at which it"
                    " is ended for that); setup ('[module load cuda]': shell before the job); more"
                    " ('{mail-type: FAIL}': other options of sbatch). Of one kind of job:"
                    " pretrain.gpus=8",
                    "metavar": "KEY=VALUE",
                    "action": "append",
                    "default": [],
                },
            ),
        ),
        instead="--slurm gpus=N and --slurm parallel=N",
    ),
}
DEFAULT = next(iter(EXECUTORS))


def get(name: str, suite: Suite | None, args: Any) -> Runner:
    """The executor of that name with its settings. Raises InputError for wrong ones, of the command
    or the suite."""
    module, _, made = EXECUTORS[name].implementation.partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), made)(suite, args)


def chosen(name: str, suite: Suite, args: Any) -> Runner:
    """As `get`; refuses options of other executors, and what the suite says wrong about any."""
    for other, row in EXECUTORS.items():
        for option, more in row.options:
            given = getattr(args, option.removeprefix("--").replace("-", "_"))
            if other != name and given != more["default"]:
                instead = EXECUTORS[name].instead
                hint = f"; with {name} say {instead}" if instead else ""
                raise InputError(f"{option} needs --executor {other}{hint}")
    return {known: get(known, suite, args) for known in EXECUTORS}[name]
