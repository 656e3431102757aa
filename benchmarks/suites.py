"""What to compare: starting points x protocols x seeds, as rows here or as a YAML file of the user."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from . import InputError, settings


@dataclass(frozen=True)
class Scenes:
    """The drawn data set (benchmarks.scenes): how many labelled pictures, their short side in pixels, the seed."""

    images: int = 1000
    size: int = 128
    seed: int = 0
    unlabelled: int | None = None  # default: twice `images`
    classification: int | None = None  # default: as many as `images`


@dataclass(frozen=True)
class Data:
    """A labelled data set. What is left out is found: the layout by its folders, the splits by their usual names."""

    root: Path
    layout: Literal["voc", "coco", "cityscapes"] | None = None
    train: str | None = None
    test: str | None = None


@dataclass(frozen=True)
class StartingPoint:
    """One row of the table: exactly one of a recipe to pretrain with, a backbone file, or random weights."""

    name: str
    recipe: str | None = None
    weights: Path | None = None
    random: bool = False
    settings: dict = field(default_factory=dict)  # changes to the recipe
    seed: int = 0  # of the pretraining

    def __post_init__(self):
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise InputError(f"the name {self.name!r} may hold letters, digits and . + - _ only: it names folders")
        if (self.recipe is not None) + (self.weights is not None) + self.random != 1:
            raise InputError(f"starting point {self.name!r} needs exactly one of recipe, weights, random: true")


@dataclass(frozen=True)
class Task:
    """One column group of the table: a protocol, changes to it, and its data set (default: the suite's)."""

    protocol: str
    data: Data | None = None
    settings: dict = field(default_factory=dict)


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
TINY = {"epochs": 1}
SMOKE = replace(DEMO, name="smoke", scenes=Scenes(images=120, size=64), pretrain=TINY, engine="replay")
SUITES = {suite.name: suite for suite in (DEMO, SMOKE)}


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


def _starting_point(item: Any) -> Any:
    if isinstance(item, str):
        if item == "random":
            return {"name": item, "random": True}
        is_file = item.endswith(".safetensors") or "/" in item
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
    signs = {"voc": "Annotations", "coco": "annotations", "cityscapes": "gtFine"}
    names = {path.name for path in data.root.iterdir()}  # not exists(): some file systems ignore case
    layout = data.layout or next((layout for layout, sign in signs.items() if sign in names), None)
    if layout is None:
        listed = ", ".join(f"{sign}/ ({layout})" for layout, sign in signs.items())
        raise InputError(f"{data.root}: no known layout; expected one of {listed}")
    train, test = data.train, data.test
    if train is None or test is None:
        usual = datasets.default_splits(layout, data.root)
        train, test = train or usual[0], test or usual[1]
    return replace(data, layout=layout, train=train, test=test)
