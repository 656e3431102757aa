"""What an engine is: it turns (protocol, backbone, data, seed) into a file of predictions in COCO
results format, or of classes of images (detco.transfer.scoring.classes).

To add one: a module here with `run(job, report) -> Outcome`, and a row of ENGINES.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from detco.common.errors import InputError

if TYPE_CHECKING:  # the table of engines is asked for by commands that should not import torch
    from detco.common.backbone_file import Backbone

    from ..data.dataset import Dataset
    from ..settings import Protocol


@dataclass(frozen=True)
class Engine:
    """A row of ENGINES: what others need to know of an engine; none of them asks for its name.

    module: below this folder. needs: a package that must be installed. keeps: which trained
    detectors it can keep. lacks: architectures that it cannot build. launches: whether it takes a
    `Launch` (processes, precision, evaluations on the way). trains: else it makes predictions up.
    only: architectures that it alone builds, whichever engine is asked for; it builds no others.
    joint: architectures whose processes are started as torchrun does it; of others the engine
    starts what it needs. wants: by architecture the module and package that it needs besides.
    simple_pyramid: the file in `needs` that holds the pyramid for vision transformers, which older
    releases lack; "": its own.
    """

    module: str
    needs: str = ""
    keeps: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    launches: bool = False
    trains: bool = True
    bfloat16_on_cpu: bool = True
    only: tuple[str, ...] = ()
    joint: tuple[str, ...] = ()
    wants: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    simple_pyramid: str = ""

    def builds(self, architecture: str) -> bool:
        return architecture in self.only if self.only else architecture not in self.lacks


# `auto` is the first that is available.
ENGINES = {
    "detectron2": Engine(
        "detectron2.engine",
        needs="detectron2",
        keeps=("final", "best"),
        launches=True,
        bfloat16_on_cpu=False,
        simple_pyramid="modeling/backbone/vit.py",
    ),
    "torchvision": Engine(
        "torchvision.engine", keeps=("final",), lacks=("fcn-16s", "densepose-rcnn-fpn")
    ),
    "frozen": Engine(
        "frozen.engine",
        launches=True,
        only=("knn", "linear", "svm"),
        joint=("linear",),
        wants={"svm": ("sklearn", "scikit-learn")},
    ),
    "replay": Engine("replay", lacks=("densepose-rcnn-fpn",), trains=False),
}


@dataclass(frozen=True)
class Launch:
    """How an engine that `launches` is started, in the words of Detectron2's own command."""

    num_gpus: int = 1  # processes on each machine, each with a GPU of its own where there are GPUs
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
    amp: (
        str | bool
        # automatic mixed precision: fp16 or bf16; "": float32; of earlier versions: True for fp16
    ) = ""
    eval_period: int = 0  # iterations; 0: only at the end

    def __post_init__(self):
        if isinstance(self.amp, bool):
            object.__setattr__(self, "amp", "fp16" if self.amp else "")

    @property
    def processes(self) -> int:
        return self.num_gpus * self.num_machines


ALONE = Launch()


@dataclass
class EngineJob:
    """One fine-tuning. `out` is the job's folder: checkpoints while it runs, predictions
    at the end.

    An engine may put a `train` without pictures and objects in its place once it has its own form
    of them.
    """

    protocol: Protocol
    backbone: Backbone
    train: Dataset
    test: Dataset
    seed: int
    out: Path
    device: str = "cpu"
    launch: Launch = ALONE
    # which trained detector stays in `out` (detco.transfer.detector): final, best; "": none
    keep_model: str = ""


@dataclass(frozen=True)
class Outcome:
    """`predictions`: JSON list in COCO results format; `deviations`: where the engine
    departed from the protocol; `leftovers`: checkpoints, which are of no use once the
    predictions have been scored."""

    predictions: Path
    deviations: tuple[str, ...] = ()
    facts: dict = field(default_factory=dict)
    leftovers: tuple[Path, ...] = ()


def resolve(name: str) -> str:
    """`auto` is Detectron2 where it is installed with its engine, else torchvision. Raises
    InputError for an unknown name."""
    if name == "auto":
        return next(known for known in ENGINES if _available(known))
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}; known: auto, {', '.join(ENGINES)}")
    if not _available(name):
        raise InputError(f"engine {name} is not available here; `detco doctor` says why")
    return name


def serving(name: str, architecture: str) -> str:
    """The engine that runs an architecture where `name` is asked for: itself, but for what one
    engine alone builds. One that makes predictions up does so for all."""
    if name in ENGINES and not ENGINES[name].trains:
        return name
    return next((other for other, row in ENGINES.items() if architecture in row.only), name)


def has_simple_pyramid(name: str) -> bool:
    """Whether the engine as it is installed builds detectors on a vision transformer."""
    row = ENGINES[resolve(name)]
    spec = importlib.util.find_spec(row.needs) if row.simple_pyramid else None
    folders = (spec and spec.submodule_search_locations) or ()
    return not row.simple_pyramid or any((Path(f) / row.simple_pyramid).is_file() for f in folders)


def get(name: str) -> ModuleType:
    """The engine's module. It has `run(job: Job, report: Report) -> Outcome` (None in a process
    that only helps); those that keep detectors also

    `detect(detector: TrainedDetector, pictures: Iterable[Picture], device: str) ->
    Iterator[tuple[Picture, list[dict]]]` (COCO results of each picture, see
    detco.transfer.detections) and `export(detector: TrainedDetector, folder: Path) -> dict` (a
    folder that plain Detectron2 loads; says what is in it), both raising InputError for what they
    cannot do.
    """
    try:
        return importlib.import_module(f"{__name__}.{ENGINES[resolve(name)].module}")
    except ImportError as error:
        raise InputError(
            f"engine {name} cannot be imported ({error}); `detco doctor` tells more"
        ) from None


def _available(name: str) -> bool:
    needs = ENGINES[name].needs
    spec = importlib.util.find_spec(needs) if needs else None
    return not needs or (spec is not None and spec.origin is not None)  # not a folder of that name
