"""What an engine is: it turns (protocol, backbone, data, seed) into a file of predictions in COCO
results format."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from detco.common.errors import InputError

from ..backbones.weights import Backbone
from ..data.dataset import Dataset
from ..protocols import Protocol

MODULES = {
    "detectron2": "detectron2.engine",
    "torchvision": "torchvision.engine",
    "replay": "replay",
}
KEEPS = {
    "detectron2": ("final", "best"),
    "torchvision": ("final",),
}  # what each engine can keep of its trained detectors
Report = Callable[..., None]  # report(stage, done, total, **figures), called at every step


@dataclass(frozen=True)
class Launch:
    """How the engine `detectron2` is started, in the words of Detectron2's own command."""

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
class Job:
    """One fine-tuning. `out` is the job's folder: checkpoints while it runs, predictions at the
    end.

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
    keep_model: str = (
        ""  # which trained detector stays in `out` (detco.transfer.detector): final, best; "": none
    )


@dataclass(frozen=True)
class Outcome:
    """`predictions`: JSON list in COCO results format; `deviations`: where the engine departed from
    the protocol; `leftovers`: checkpoints, which are of no use once the predictions have been
    scored."""

    predictions: Path
    deviations: tuple[str, ...] = ()
    facts: dict = field(default_factory=dict)
    leftovers: tuple[Path, ...] = ()


def resolve(name: str) -> str:
    """`auto` is Detectron2 where it is installed with its engine, else torchvision. Raises
    InputError for an unknown name."""
    if name == "auto":
        return "detectron2" if _available("detectron2") else "torchvision"
    if name not in MODULES:
        raise InputError(f"unknown engine {name!r}; known: auto, {', '.join(MODULES)}")
    if not _available(name):
        raise InputError(f"engine {name} is not available here; `detco doctor` says why")
    return name


def get(name: str) -> ModuleType:
    """The engine's module. It has `run(job: Job, report: Report) -> Outcome`; those in KEEPS also

    `detect(detector: TrainedDetector, pictures: Iterable[Picture], device: str) ->
    Iterator[tuple[Picture, list[dict]]]` (COCO results of each picture, see
    detco.transfer.detections) and `export(detector: TrainedDetector, folder: Path) -> dict` (a
    folder that plain Detectron2 loads; says what is in it), both raising InputError for what they
    cannot do.
    """
    try:
        return importlib.import_module(f"{__name__}.{MODULES[resolve(name)]}")
    except ImportError as error:
        raise InputError(
            f"engine {name} cannot be imported ({error}); `detco doctor` tells more"
        ) from None


def _available(name: str) -> bool:
    if importlib.util.find_spec(f"{__name__}.{MODULES[name]}") is None:
        return False
    return name != "detectron2" or importlib.util.find_spec("detectron2") is not None
