"""What jobs ask Slurm for, and the script that submitit makes of it for sbatch."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from detco.common.errors import InputError
from detco.common.settings import check

from .. import config
from ..suites.builtin import Amount, Count
from . import distributed
from .local import KINDS


@dataclass(frozen=True)
class Resources:
    """What one job asks Slurm for; None: nothing, so what Slurm gives by default."""

    partition: Annotated[str | None, "as sbatch takes it"] = None
    account: Annotated[str | None, "as sbatch takes it"] = None
    qos: Annotated[str | None, "as sbatch takes it"] = None
    constraint: Annotated[str | None, "as sbatch takes it, e.g. a kind of GPU"] = None
    time: Annotated[str, "time limit, as sbatch takes it"] = "1-00:00:00"
    gpus: Annotated[Amount, "on each machine; 0: none"] = 1
    gres: Annotated[
        str | None, "generic resources on each machine, e.g. gpu:a100:8, which says the GPUs too"
    ] = None
    nodes: Annotated[Count, "machines of one job"] = 1
    cpus: Annotated[Count | None, "on each machine"] = None
    memory: Annotated[str | None, "on each machine, e.g. 64G"] = None
    parallel: Annotated[Count, "jobs of an array that run at once"] = 256
    timeouts: Annotated[
        Amount, "how often a job is submitted again after its time limit; it resumes"
    ] = 10
    notice: Annotated[
        Amount, "seconds before the time limit at which a job is ended, to be submitted again"
    ] = 90
    setup: Annotated[tuple[str, ...], "lines of shell before the job, e.g. module load cuda"] = ()
    more: Annotated[dict, "any other option of sbatch, e.g. {mail-type: FAIL}"] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        check(self)
        minutes(self.time)

    @property
    def gpus_each(self) -> int:
        """GPUs on each machine: those of `gres` where it names any, else `gpus`."""
        return _gpus_of(self.gres or "") or self.gpus

    @property
    def launch(self) -> dict[str, int]:
        """`num_gpus` and `num_machines` where they are not 1."""
        wanted = {"num_gpus": max(1, self.gpus_each), "num_machines": self.nodes}
        return {key: value for key, value in wanted.items() if value != 1}


def _gpus_of(gres: str) -> int:
    """`gpu`: 1, `gpu:8` and `gpu:a100:8`: 8, `lustre:1`: 0."""
    count = 0
    for part in gres.split(","):
        name, *rest = part.split(":")
        if name == "gpu":
            count += int(rest[-1]) if rest and rest[-1].isdecimal() else 1
    return count


def resources(of_suite: Mapping[str, Any], texts: Sequence[str] = ()) -> dict[str, Resources]:
    """What each kind of job asks for: a suite's `slurm:` settings, those of the command
    line over them.

    Both are for all kinds, or with `pretrain.` or `transfer.` before them for
    one. Raises InputError.
    """
    common: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    for key, value in (*of_suite.items(), *config.parse_assignments(texts, "--slurm").items()):
        kind, _, name = key.partition(".")
        if key in KINDS and isinstance(value, Mapping):
            own[key] |= value
        else:
            (own[kind] if kind in KINDS else common)[name if kind in KINDS else key] = value
    base = _changed(Resources(), common, "slurm settings")
    drawing = replace(base, gpus=0, gres=None, nodes=1)
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


def parameters(ask: Resources, kind: str, after: Sequence[str]) -> dict[str, Any]:
    """The same for submitit, of an array that begins when the jobs with the numbers `after` have
    succeeded."""
    asked = {
        "job_name": f"detco-{kind}",
        "partition": ask.partition,
        "account": ask.account,
        "qos": ask.qos,
        "constraint": ask.constraint,
        "time": minutes(ask.time),
        "nodes": ask.nodes,
        "ntasks_per_node": 1,
        "gpus_per_node": None if _gpus_of(ask.gres or "") else ask.gpus or None,
        "gres": ask.gres,
        "cpus_per_task": ask.cpus,
        "mem": ask.memory,
        "array_parallelism": ask.parallel,
        "signal_delay_s": ask.notice,
        "setup": [f"export PYTHONPATH={distributed.ROOT}${{PYTHONPATH:+:$PYTHONPATH}}", *ask.setup],
        "dependency": "afterok:" + ":".join(after) if after else None,
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **ask.more},
    }
    return {key: value for key, value in asked.items() if value is not None}


def script(ask: Resources, kind: str, folder: Path, count: int, after: Sequence[str]) -> str:
    """The script of an array of `count` jobs, as sbatch would get it, without a Slurm here."""
    from submitit.slurm.slurm import _make_sbatch_string

    run = [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)]
    array = {"map_count": count} if count > 1 else {}
    asked = parameters(ask, kind, after)
    return _make_sbatch_string(command=shlex.join(run), folder=folder, **asked, **array)
