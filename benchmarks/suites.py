"""What to compare: starting points x protocols x seeds, as rows here or as a YAML file of the user."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from . import InputError, settings

SIGNS = {"voc": "Annotations", "coco": "annotations", "cityscapes": "gtFine"}  # folders that tell a layout

Amount = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class Scenes:
    """The drawn data set (benchmarks.scenes): how many labelled pictures, their short side in pixels, the seed."""

    images: Annotated[int, Ge(4)] = 1000
    size: Annotated[int, Ge(64)] = 128
    seed: Amount = 0
    unlabelled: Amount | None = None  # default: twice `images`
    classification: Amount | None = None  # default: as many as `images`


@dataclass(frozen=True)
class Data:
    """A labelled data set. What is left out is found: the layout by its folders, the splits by their usual names."""

    root: Path
    layout: Literal["voc", "coco", "cityscapes"] | None = None
    train: str | None = None
    test: str | None = None


@dataclass(frozen=True)
class StartingPoint:
    """One row of the table: exactly one of a recipe to pretrain with, a backbone file, or random weights.

    weights: a file, or the name of a public checkpoint (`detco weights list`) whose copy lies in $DETCO_WEIGHTS or in `weights`
    beside the suite file. A name alone that is a recipe's too means the recipe.
    """

    name: str
    recipe: str | None = None
    weights: Path | None = None
    random: bool = False
    settings: dict = field(default_factory=dict)  # changes to the recipe
    seed: Amount = 0  # of the pretraining

    def __post_init__(self):
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise InputError(f"the name {self.name!r} may hold letters, digits and . + - _ only: it names folders")
        if (self.recipe is not None) + (self.weights is not None) + self.random != 1:
            raise InputError(f"starting point {self.name!r} needs exactly one of recipe, weights, random: true")


@dataclass(frozen=True)
class Task:
    """One column group of the table: a protocol, changes to it, and its data set.

    data: default the suite's, then the protocol's published one; start: names of starting points, default all of them.
    """

    protocol: str
    data: Data | None = None
    settings: dict = field(default_factory=dict)
    seeds: int | None = None  # default: the suite's
    start: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """A grid. With `scenes` a data set is drawn first and all folders are relative to it."""

    name: str
    start: tuple[StartingPoint, ...]
    protocols: tuple[Task, ...] = ()  # default: the small ones that fit the data
    data: Data | None = None
    pictures: Path | None = None  # a folder of unlabelled pictures: what recipes pretrain on
    pictures_by_class: Path | None = None  # one folder a class: what supervised recipes pretrain on
    scenes: Scenes | None = None
    seeds: int = 1
    pretrain: dict = field(default_factory=dict)  # changes to every recipe
    transfer: dict = field(default_factory=dict)  # changes to every protocol
    engine: str = "auto"
    datasets: Path | None = None  # holds the published data sets: VOC2007, coco, ...; default: DETECTRON2_DATASETS
    slurm: dict = field(default_factory=dict)  # what jobs ask for with --executor slurm, see benchmarks.slurm.Resources


DEMO = Suite(
    name="demo",
    start=(
        StartingPoint("random", random=True),
        StartingPoint("supervised", recipe="supervised-small"),
        StartingPoint("moco-v2-small", recipe="moco-v2-small"),
        StartingPoint("detco-small", recipe="detco-small"),
    ),
    protocols=(
        Task("small-faster-rcnn-c4", Data(Path("voc"), "voc", "trainval", "test")),
        Task("small-mask-rcnn-fpn", Data(Path("coco"), "coco", "train", "val")),
        Task("small-retinanet", Data(Path("coco"), "coco", "train", "val")),
    ),
    pictures=Path("unlabelled"),
    pictures_by_class=Path("classification"),
    scenes=Scenes(),
    engine="torchvision",  # the same table with and without Detectron2; --engine changes it
)
TINY = {"epochs": 1, "fill_queue": False}
SMOKE = replace(DEMO, name="smoke", scenes=Scenes(images=120, size=64), pretrain=TINY, engine="replay")

# --- the DetCo paper's tables of detection and segmentation ----------------------------------------------------------

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
ALL = tuple(start.name for start in PAPER_START)
WITHOUT_AA = ALL[:-1]  # the rows that every table has


def _tasks(*protocols: str, start: tuple[str, ...] = ALL, seeds: int | None = None) -> tuple[Task, ...]:
    return tuple(Task(protocol, start=start, seeds=seeds) for protocol in protocols)


def _coco(schedule: str) -> tuple[Task, ...]:
    return _tasks(*(f"coco-{detector}-{schedule}" for detector in ("mask-rcnn-c4", "mask-rcnn-fpn", "retinanet")))


PAPER_TASKS = {  # tables of the paper: protocols
    "paper-voc": _tasks("voc-faster-rcnn-c4-24k", start=(*WITHOUT_AA, *(row.name for row in VOC_START)), seeds=5),  # 6
    "paper-coco-12k": _coco("12k"),  # 3, 5
    "paper-coco-90k": _coco("90k"),  # 4, 5
    "paper-coco-180k": _coco("180k"),  # 13, 5
    "paper-semi": _tasks(  # 10, 11, 12
        *(f"coco-{percent}pct-{detector}" for detector in ("mask-rcnn-fpn", "retinanet") for percent in (1, 2, 5, 10)),
    ),
    "paper-cityscapes": _tasks("cityscapes-instance", "cityscapes-semantic", start=WITHOUT_AA),  # 7
    "paper-keypoints": _tasks("coco-keypoint-rcnn-180k", start=WITHOUT_AA),  # 5
}
PAPER_TASKS["paper-all"] = sum(PAPER_TASKS.values(), ())


def _paper(name: str, tasks: tuple[Task, ...]) -> Suite:
    """The starting points that some task asks for; VOC rows are means of five runs, the others single ones, as published."""
    used = {start for task in tasks for start in task.start}
    rows = tuple(row for row in (*PAPER_START, *VOC_START) if row.name in used)
    return Suite(name, rows, tasks, engine="detectron2")


SUITES = {suite.name: suite for suite in (DEMO, SMOKE, *(_paper(*item) for item in PAPER_TASKS.items()))}


def load(name_or_file: str) -> Suite:
    """A suite by name, or from a YAML file; paths in the file are relative to it. Raises InputError."""
    if name_or_file in SUITES:
        return SUITES[name_or_file]
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        settings.find(SUITES, name_or_file, "suite")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the suite file {path}: {getattr(error, 'strerror', None) or error}") from None
    return parse(settings.load_yaml(text, str(path)), path)


def parse(content: Any, path: Path) -> Suite:
    """The suite a YAML document describes; short forms (`start: [random, detco-small]`) are allowed for the lists."""
    where = str(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: a suite file holds `key: value` lines (pictures, data, start, ...)")
    content = {"name": path.stem, **content}
    for key, long_form in (("start", _starting_point), ("protocols", _task)):
        if isinstance(content.get(key), str | Mapping):
            content[key] = [content[key]]
        if isinstance(content.get(key), list):
            content[key] = [long_form(item) for item in content[key]]
    suite = settings.build(Suite, content, where)
    return suite if suite.scenes else _anchored(suite, path.resolve().parent)


def adapted(
    suite: Suite, data: Path | None = None, pictures: Path | None = None, weights: Sequence[str] = (), start: str | None = None
) -> Suite:
    """A suite with what the command line says instead: its folders, backbone files for its starting points, only some of them.

    data: a data set, or the folder of the published ones; weights: NAME=FILE each, a new name is a further starting point;
    start: names with commas between them. Raises InputError.
    """
    if suite.scenes and (data or pictures):
        raise InputError(f"suite {suite.name} draws its own pictures: leave out --data and --pictures")
    if data:
        suite = replace(suite, data=Data(data)) if _layout_of(data) else replace(suite, data=None, datasets=data)
    if pictures:
        suite = replace(suite, pictures=pictures, pictures_by_class=pictures)
    rows = {row.name: row for row in suite.start}
    for text in weights:
        name, equals, file = text.partition("=")
        if not equals or not file:
            raise InputError(f"--weights {text}: expected NAME=FILE, e.g. detco=detco.safetensors")
        rows[name] = StartingPoint(name, weights=Path(file))
    new = tuple(name for name in rows if name not in {row.name for row in suite.start})
    chosen = [name.strip() for name in start.split(",")] if start else list(rows)
    for name in chosen:
        settings.find(rows, name, "starting point")
    tasks = (replace(task, start=(*task.start, *new) if task.start else ()) for task in suite.protocols)
    tasks = (replace(task, start=tuple(name for name in task.start or rows if name in chosen)) for task in tasks)
    return replace(suite, start=tuple(rows[name] for name in chosen), protocols=tuple(task for task in tasks if task.start))


def _starting_point(item: Any) -> Any:
    from pretrain.recipes import RECIPES
    from transfer.known import BY_NAME

    if isinstance(item, str):
        if item == "random":
            return {"name": item, "random": True}
        is_file = item.endswith(".safetensors") or "/" in item or (item in BY_NAME and item not in RECIPES)
        return {"name": name_of(Path(item)), "weights": item} if is_file else {"name": item, "recipe": item}
    if isinstance(item, Mapping) and "name" not in item:
        name = "random" if item.get("random") else item.get("recipe") or name_of(Path(str(item.get("weights", ""))))
        return {"name": name, **item} if name else item
    return item


def name_of(weights: Path) -> str:
    """What to call a backbone file where nobody says: its own name; its folder's where the file is just `backbone`."""
    return weights.absolute().parent.name if weights.stem == "backbone" else weights.stem


def _task(item: Any) -> Any:
    return {"protocol": item} if isinstance(item, str) else item


def _anchored(value: Any, base: Path) -> Any:
    """Every relative path below a dataclass made absolute."""
    if isinstance(value, Path):
        return base / value.expanduser()
    if isinstance(value, tuple):
        return tuple(_anchored(item, base) for item in value)
    if is_dataclass(value):
        return replace(value, **{f.name: _anchored(getattr(value, f.name), base) for f in fields(value)})
    return value


def find_splits(data: Data) -> Data:
    """Fill in layout and splits from what lies in the folder. Raises InputError where they cannot be told."""
    from transfer import datasets

    if not data.root.is_dir():
        raise InputError(f"no data set folder at {data.root}")
    layout = data.layout or _layout_of(data.root)
    if layout is None:
        listed = ", ".join(f"{sign}/ ({layout})" for layout, sign in SIGNS.items())
        raise InputError(f"{data.root}: no known layout; expected one of {listed}")
    train, test = data.train, data.test
    if train is None or test is None:
        usual = datasets.default_splits(layout, data.root)
        train, test = train or usual[0], test or usual[1]
    return replace(data, layout=layout, train=train, test=test)


def _layout_of(folder: Path) -> str | None:
    """The layout of a data set by the folders in it."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()  # not exists(): some systems ignore case
    return next((layout for layout, sign in SIGNS.items() if sign in names), None)
