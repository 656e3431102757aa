"""What to compare: starting points x protocols x seeds. The built-in
suites; users' files: detco.benchmarks.suites.files."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from detco.common.errors import InputError
from detco.common.settings import check
from detco.transfer.data import LAYOUTS

from ..config import find

# endings of weight files
FILES = (
    ".safetensors",
    ".pth.tar",
    ".pth",
    ".pt",
    ".ckpt",
    ".torch",
    ".pkl",
    ".npz",
)
Amount = Annotated[int, Ge(0)]
Count = Annotated[int, Ge(1)]


DRAWING = 3  # raise it when the same settings of Scenes draw other images


@dataclass(frozen=True)
class Scenes:
    """The drawn data set (detco.benchmarks.scenes.draw): how many labelled pictures, their short
    side in pixels, the seed."""

    images: Annotated[int, Ge(4)] = 1000
    size: Annotated[int, Ge(64)] = 128
    seed: Amount = 0
    unlabelled: Amount | None = None  # default: twice `images`
    classification: Amount | None = None  # default: as many as `images`

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Data:
    """A labelled data set. The layout, if not given, is found by its folders, the splits by their
    usual names. strict: a single bad object is refused; merge_classes: classes whose names differ
    in case, spaces or Unicode form only become one."""

    root: Path
    layout: str | None = None
    train: str | None = None
    test: str | None = None
    strict: bool = False
    merge_classes: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.layout is not None:
            find(LAYOUTS, self.layout, "layout")


def random_name(arch: str = "") -> str:
    """The row of random weights: of the protocol's architecture, or of another one."""
    return f"random-{arch}" if arch else "random"


@dataclass(frozen=True)
class StartingPoint:
    """One row of the table: exactly one of a recipe to pretrain with, a backbone file,
    or random weights.

    weights: a file, or the name of a public checkpoint (`detco weights list`) whose copy lies in
    $DETCO_WEIGHTS or in `weights` beside the suite file. A name alone that is a recipe's too means
    the recipe. layout, encoder, prefix: how another project's checkpoint is read, as `--as`,
    `--encoder` and `--prefix` of `detco weights import`.
    """

    name: str
    recipe: str | None = None
    weights: Path | None = None
    random: bool = False
    arch: str = ""  # of random weights, where it is not the protocol's: a ResNet or timm's name
    settings: dict = field(default_factory=dict)  # changes to the recipe
    seed: Amount = 0  # of the pretraining
    # left out with a message where `weights` names a public checkpoint without a local copy
    optional: bool = False
    layout: str = ""
    encoder: str = ""
    prefix: str = ""

    def __post_init__(self) -> None:
        check(self)
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise InputError(
                f"the name {self.name!r} may hold letters, digits and . + - _ only: it names"
                " folders"
            )
        if (self.recipe is not None) + (self.weights is not None) + self.random != 1:
            raise InputError(
                f"starting point {self.name!r} needs exactly one of recipe, weights, random: true"
            )
        if self.arch and not self.random:
            raise InputError(f"starting point {self.name!r}: arch is for random weights")
        if self.how and self.weights is None:
            raise InputError(
                f"starting point {self.name!r}: layout, encoder and prefix say how the checkpoint"
                " named by `weights` is read, and there is none"
            )

    @property
    def how(self) -> dict[str, str]:
        """How its checkpoint is read, as far as that is said."""
        said = {"forced": self.layout, "encoder": self.encoder, "prefix": self.prefix}
        return {key: value for key, value in said.items() if value}


@dataclass(frozen=True)
class Task:
    """One column group of the table: a protocol, changes to it, and its data set.

    data: default the suite's, then the protocol's published one; start: names of starting points,
    default all of them."""

    protocol: str
    data: Data | None = None
    settings: dict = field(default_factory=dict)
    seeds: Count | None = None  # default: the suite's
    start: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Suite:
    """A suite: starting points x protocols x seeds. With `scenes` a data set is drawn first
    and all folders are relative to it."""

    name: str
    start: tuple[StartingPoint, ...]
    protocols: tuple[Task, ...] = ()  # default: the small ones that fit the data
    data: Data | None = None
    images: Path | None = None  # a folder of unlabelled images: what recipes pretrain on
    images_by_class: Path | None = None  # one folder a class: what supervised recipes pretrain on
    scenes: Scenes | None = None
    seeds: Count = 1
    pretrain: dict = field(default_factory=dict)  # changes to every recipe
    transfer: dict = field(default_factory=dict)  # changes to every protocol
    engine: str = "auto"
    # the trained detector that each fine-tuning keeps
    keep_model: Literal["", "final", "best"] = ""
    # holds the published data sets: VOC2007, coco, ...; default: DETECTRON2_DATASETS
    datasets: Path | None = None
    # what jobs ask for with --executor slurm, see detco.benchmarks.run.sbatch.Resources
    slurm: dict = field(default_factory=dict)
    amp: Literal["fp16", "bf16"] | None = None  # automatic mixed precision; engine detectron2 only
    eval_period: Amount = 0  # iterations between evaluations, 0: none; engine detectron2 only
    about: str = ""  # what a reader of its table should know; printed below it

    def __post_init__(self) -> None:
        check(self)
        if "/" in self.name or not self.name.strip(".") or not self.name.isprintable():
            raise InputError(
                f"name: {self.name!r} cannot be the name of the folder with the results"
            )
        if not self.start:
            raise InputError("start: needs at least one starting point")
        names = [start.name for start in self.start]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"starting point {twice!r} is given twice; give each its own name")
        for name in (name for task in self.protocols for name in task.start):
            find(dict.fromkeys(names), name, "starting point")

    @property
    def launch(self) -> dict[str, str | int]:
        """`amp` and `eval_period` where they are set, as fields of
        detco.transfer.engines.Launch."""
        return {
            key: value
            for key, value in (("amp", self.amp), ("eval_period", self.eval_period))
            if value
        }


DEMO = Suite(
    name="demo",
    start=(
        StartingPoint("random", random=True),
        StartingPoint("supervised", recipe="supervised-small"),
        StartingPoint("moco-v2-small", recipe="moco-v2-small"),
        StartingPoint("detco-small", recipe="detco-small"),
    ),
    # one detector with three seeds says more than three detectors with one
    protocols=(Task("small-faster-rcnn-fpn", Data(Path("coco"), "coco", "train", "val")),),
    images=Path("unlabelled"),
    images_by_class=Path("classification"),
    scenes=Scenes(),
    seeds=3,
    engine="torchvision",  # the same table with and without Detectron2; --engine changes it
    about=(
        "a rehearsal of every step: minutes of pretraining on drawn scenes cannot rank methods;"
        " docs/use/replication.md says what does"
    ),
)
TINY = {"epochs": 1, "fill_queue": False}
SMOKE = replace(
    DEMO,
    name="smoke",
    protocols=(
        Task("small-faster-rcnn-c4", Data(Path("voc"), "voc", "trainval", "test")),
        Task("small-mask-rcnn-fpn", Data(Path("coco"), "coco", "train", "val")),
        Task("small-retinanet", Data(Path("coco"), "coco", "train", "val")),
    ),
    scenes=Scenes(images=120, size=64),
    seeds=1,
    pretrain=TINY,
    engine="replay",
    about="rows of noise: the engine replay trains nothing",
)

# --- the paper's claim on some thousand photographs (docs/replication.md) -------------------------

_MOCO = StartingPoint("moco-v2", recipe="moco-v2-tiny")
_DETCO = StartingPoint("detco", recipe="detco-tiny")
REPLICATION = Suite(
    name="replication",
    start=(
        StartingPoint("random", random=True),
        StartingPoint("supervised", recipe="supervised-tiny"),
        _MOCO,
        replace(_MOCO, name="moco-v2-seed1", seed=1),
        _DETCO,
        replace(_DETCO, name="detco-seed1", seed=1),
    ),
    protocols=tuple(
        Task(f"small-{detector}-long")
        for detector in ("faster-rcnn-fpn", "retinanet", "keypoint-rcnn", "faster-rcnn-c4")
    ),
    seeds=5,
    engine="torchvision",
)
_FPN = (Task("small-faster-rcnn-fpn-long"), Task("small-faster-rcnn-fpn-long-frozen"))
REPLICATIONS = (
    REPLICATION,
    # what the parts of DetCo are worth, and MoCo v2 with as much computing
    replace(
        REPLICATION,
        name="replication-ablations",
        start=(
            _MOCO,
            _DETCO,
            *(
                StartingPoint(name.removesuffix("-tiny"), recipe=name)
                for name in (
                    "moco-v2-tiny-long",
                    "detco-no-hierarchy-tiny",
                    "detco-no-local-local-tiny",
                    "detco-no-global-local-tiny",
                    "detco-equal-weights-tiny",
                )
            ),
        ),
        protocols=_FPN,
    ),
    replace(REPLICATION, name="replication-frozen", protocols=_FPN[1:]),
    # for a GPU: more images of one's own (--images), trained on for longer
    replace(REPLICATION, name="replication-full", pretrain={"epochs": 200}),
)

# --- the DetCo paper's tables -------------------------------------------------------------------

PAPER_START = (
    StartingPoint("random", random=True),
    StartingPoint("supervised", recipe="supervised-90ep"),
    StartingPoint("moco-v1", recipe="moco-v1-200ep"),
    StartingPoint("moco-v2", recipe="moco-v2-200ep"),
    StartingPoint("detco", recipe="detco-200ep"),
    StartingPoint("detco-aa", recipe="detco-aa-200ep"),
)
VOC_START = (  # pretrained shorter and longer
    StartingPoint("moco-v2-800ep", recipe="moco-v2-800ep"),
    StartingPoint("detco-100ep", recipe="detco-100ep"),
    StartingPoint("detco-800ep", recipe="detco-800ep"),
)
OTHERS = tuple(  # methods without a recipe here
    StartingPoint(name, weights=Path(public), optional=True)
    for name, public in (
        ("insdis", "insdis-200ep"),
        ("pirl", "pirl-200ep"),
        ("swav", "swav-200ep"),
        ("swav-800ep", "swav-800ep"),
        ("pirl-800ep", "vissl-pirl-800ep"),
        ("simclr-1000ep", "vissl-simclr-1000ep"),
    )
)
OWN = tuple(start.name for start in PAPER_START)
ALL = (*OWN, "insdis", "pirl", "swav")
CLASSIFIED = ("moco-v1", "moco-v2", "detco", "insdis", "pirl-800ep", "swav")
WITHOUT_AA = tuple(name for name in ALL if name != "detco-aa")


def _tasks(
    *protocols: str, start: tuple[str, ...] = ALL, seeds: int | None = None
) -> tuple[Task, ...]:
    return tuple(Task(protocol, start=start, seeds=seeds) for protocol in protocols)


def _coco(schedule: str) -> tuple[Task, ...]:
    detectors = _tasks(
        f"coco-mask-rcnn-c4-{schedule}",
        f"coco-mask-rcnn-fpn-{schedule}",
        start=OWN if schedule == "180k" else ALL,
    )
    return (*detectors, *_tasks(f"coco-retinanet-{schedule}"))


PAPER_TASKS = {  # tables of the paper: protocols
    "paper-voc": _tasks(  # 6
        "voc-faster-rcnn-c4-24k",
        start=(*OWN[:-1], *(row.name for row in VOC_START), "insdis", "pirl", "swav-800ep"),
        seeds=5,
    ),
    "paper-coco-12k": _coco("12k"),  # 3, 5
    "paper-coco-90k": _coco("90k"),  # 4, 5
    "paper-coco-180k": _coco("180k"),  # 13, 5
    "paper-semi": _tasks(  # 10, 11, 12
        *(
            f"coco-{percent}pct-{detector}"
            for detector in ("mask-rcnn-fpn", "retinanet")
            for percent in (1, 2, 5, 10)
        ),
        start=OWN,
    ),
    "paper-cityscapes": _tasks("cityscapes-instance", "cityscapes-semantic", start=WITHOUT_AA),  # 7
    "paper-keypoints": _tasks("coco-keypoint-rcnn-180k", start=WITHOUT_AA),  # 5
    "paper-densepose": _tasks("coco-densepose", start=OWN[:-1]),  # 9
    "paper-classification": (  # 8
        *_tasks("imagenet-linear", start=(*CLASSIFIED, "simclr-1000ep")),
        *_tasks("voc07-svm", start=CLASSIFIED),
    ),
}
WITHOUT_DETECTORS = ("paper-classification",)  # that run where Detectron2 is not installed
PAPER_TASKS["paper-all"] = sum(PAPER_TASKS.values(), ())


def _paper(name: str, tasks: tuple[Task, ...]) -> Suite:
    """The starting points that some task asks for; VOC rows are means of five runs, the others
    single ones, as published."""
    used = {start for task in tasks for start in task.start}
    rows = tuple(row for row in (*PAPER_START, *VOC_START, *OTHERS) if row.name in used)
    engine = "auto" if name in WITHOUT_DETECTORS else "detectron2"
    return Suite(name, rows, tasks, engine=engine)


SUITES = {
    suite.name: suite
    for suite in (DEMO, SMOKE, *REPLICATIONS, *(_paper(*item) for item in PAPER_TASKS.items()))
}


def name_of(weights: Path) -> str:
    """The default name of a backbone file: its own, or its folder's where the
    file is called `backbone`."""
    name = next(
        (weights.name.removesuffix(end) for end in FILES if weights.name.endswith(end)),
        weights.name,
    )
    return weights.absolute().parent.name if name == "backbone" else name
