"""A suite turned into jobs: what to run and after what. Every input is read and checked before any work starts."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from results import store

from . import InputError
from .jobs import RANDOM, Job, Place, Source, pretrain_job, scenes_job, transfer_job
from .settings import canonical_hash, find, override
from .suites import Data, StartingPoint, Suite, Task, find_splits
from .worker import INPUT_ERRORS

T = TypeVar("T")
SMALL_FOR_BOXES = ("small-faster-rcnn-c4", "small-faster-rcnn-fpn", "small-retinanet")
SMALL_FOR_MASKS = ("small-faster-rcnn-c4", "small-mask-rcnn-fpn", "small-retinanet")
DRAWN = {"voc": ("trainval", "test"), "coco": ("train", "val"), "cityscapes": ("train", "val")}  # of benchmarks.scenes
IMAGENET = 1_281_167  # pictures that a plan reckons with where no folder of pictures is named


@dataclass(frozen=True)
class Column:
    """One column group of the grid: the protocol's row with its changes, its data set, seeds and starting points."""

    protocol: object
    data: Data
    source: Source
    seeds: int
    start: tuple[str, ...]


class Inputs:
    """Reads what a suite needs. `missing`: a list that takes what is wrong, one line each, where a plan is to be made all the
    same; without it the first of these InputErrors is raised."""

    def __init__(self, missing: list[str] | None = None):
        self.missing = missing

    def read(self, read: Callable[[], T], stand_in: T) -> T:
        try:
            return read()
        except INPUT_ERRORS as error:
            if self.missing is None:
                raise
            self.missing.append(str(error))
            return stand_in


def plan(
    suite: Suite, out: Path, engine: str | None = None, seeds: int | None = None, device: str = "auto",
    launches: tuple[Mapping, Mapping] = ({}, {}), missing: list[str] | None = None,
) -> list[Job]:  # fmt: skip
    """The jobs of a suite in the order scenes, pretrainings, transfers. Raises InputError for what cannot work.

    seeds: of every cell, instead of the suite's; launches: of transfers and of pretrainings, see Place; missing: see Inputs.
    """
    from transfer import engines, finetune

    if (1 if seeds is None else seeds) < 1 or suite.seeds < 1 or not suite.start:
        raise InputError(f"suite {suite.name}: needs at least one seed and one starting point")
    _refuse_twins([start.name for start in suite.start])
    inputs, wanted = Inputs(missing), engine or suite.engine
    resolved = inputs.read(lambda: engines.resolve(wanted), wanted)
    place = Place(out.absolute(), resolved, device, *launches, store.done(out))
    scenes = scenes_job(suite.scenes, place) if suite.scenes else None
    pretrainings = {
        start.name: pretrain_job(start, suite.pretrain, _pictures(suite, start, scenes, inputs), None, place)
        for start in suite.start
        if start.recipe
    }
    columns = _columns(suite, scenes, inputs, seeds)
    for column in columns:
        inputs.read(lambda column=column: finetune.refuse(column.protocol, resolved, engines.Launch(**place.launch)), None)
    jobs = [*([scenes] if scenes else []), *pretrainings.values()]
    sources = []
    for start in suite.start:
        unread = Source(start.weights or Path(), f"unread {start.weights}")
        sources.append(inputs.read(lambda start=start: weights_of(start, pretrainings.get(start.name)), unread))
    _refuse_another_random(suite, columns, {source.arch for source in sources} - {""})
    for row, (start, weights) in enumerate(zip(suite.start, sources)):
        for number, column in enumerate(columns):
            for seed in range(column.seeds if start.name in column.start else 0):
                cell = (column.protocol, column.data, column.source, seed, place, (row, number))
                jobs.append(transfer_job(start.name, weights, *cell))
    _refuse_same_runs(suite, jobs)
    return jobs


def weights_of(start: StartingPoint, job: Job | None) -> Source:
    """The backbone of a starting point: what its pretraining will write, its own file or public checkpoint, or random."""
    if job:
        return Source(job.folder / "backbone.safetensors", job.id, (job.id,), arch=job.spec["recipe"]["arch"])
    if start.random:
        return RANDOM
    from transfer import importing, weights

    path = importing.file_of(start.weights)
    backbone = weights.read(path)
    return Source(path.absolute(), backbone.sha256, arch=backbone.arch)


def folder_of_pictures(folder: Path, by_class: bool = False) -> Source:
    """A user's folder, identified by the names and sizes of its pictures. Raises InputError if there are none."""
    from pretrain import listing

    pictures = listing.find(folder)
    if by_class and len(pictures.classes) < 2:
        raise InputError(f"{folder}: supervised pretraining needs one folder of pictures for each class, at least two")
    return Source(folder.absolute(), pictures.fingerprint, (), len(pictures))


def labelled(data: Data, protocol) -> tuple[Data, Source]:
    """Both splits loaded as a protocol needs them, so that what is wrong is said now; their content is the identity."""
    from transfer import finetune

    data = find_splits(data)
    named = {"layout": data.layout, "root": str(data.root), "train": data.train, "test": data.test}
    train, test = finetune.load_data(protocol, named)
    identity = canonical_hash([train.fingerprint, test.fingerprint])
    return data, Source(data.root.absolute(), identity, (), len(train.images), len(test.images))


def refuse_other_run(job: Job) -> None:
    """InputError where a job's folder holds another run: its files would be taken for this one's."""
    there = store.read_json(job.folder / "spec.json")
    done = (store.read_json(job.folder / "record.json") or {}).get("status") == "done"
    if there and there.get("id") != job.id and (done or list(job.folder.glob("checkpoint*"))):
        keys = {"recipe": "recipe settings", "images": "pictures", "images_identity": "pictures", "seed": "seed"}
        changed = dict.fromkeys(text for key, text in keys.items() if there.get(key) != job.spec.get(key))
        raise InputError(
            f"{job.folder} holds another run ({there.get('title')}, other {' and '.join(changed) or 'settings'}); "
            "choose another folder, or delete that one"
        )


def _pictures(suite: Suite, start: StartingPoint, scenes: Job | None, inputs: Inputs) -> Source:
    """What a starting point is pretrained on: unlabelled pictures, or one folder a class for a supervised recipe."""
    from pretrain.recipes import RECIPES

    supervised = find(RECIPES, start.recipe, "recipe").method == "supervised"
    key = "pictures_by_class" if supervised else "pictures"
    folder = getattr(suite, key)
    if scenes and folder:
        drawn = suite.scenes.classification or suite.scenes.images if supervised else suite.scenes.unlabelled
        return Source(scenes.folder / folder, f"{scenes.id}/{folder}", (scenes.id,), drawn or 2 * suite.scenes.images)

    def read() -> Source:
        if folder is None:
            how = f"name a folder of pictures under {key!r}, or with --pictures"
            raise InputError(f"suite {suite.name}: {how} ({start.recipe} learns from them)")
        return folder_of_pictures(folder, supervised)

    return inputs.read(read, Source(folder or Path(key), "unread", (), IMAGENET))


def _columns(suite: Suite, scenes: Job | None, inputs: Inputs, seeds: int | None) -> list[Column]:
    """Each task with its data set; what is on disk already is loaded once for each kind of label."""
    from transfer.protocols import PROTOCOLS

    loaded: dict = {}
    columns = []
    for task in suite.protocols or _fitting(suite):
        row = find(PROTOCOLS, task.protocol, "protocol")
        protocol = override(row, {**suite.transfer, **task.settings}, f"settings of protocol {task.protocol}")
        for name in task.start:
            find({start.name: start for start in suite.start}, name, "starting point")
        if scenes and (task.data or suite.data):
            data = _drawn(suite, task)
            images = suite.scenes.images
            source = Source(scenes.folder / data.root, f"{scenes.id}/{data.root}", (scenes.id,), images - images // 4, images // 4)
        else:
            unread = Source(Path(), f"unread {protocol.name}", (), *(protocol.data.images if protocol.data else ()))
            nowhere = (Data(Path(), "", "", ""), unread)
            data, source = inputs.read(lambda: _labelled(suite, task, protocol, inputs, loaded), nowhere)  # noqa: B023
        names = task.start or tuple(start.name for start in suite.start)
        columns.append(Column(protocol, data, source, seeds or task.seeds or suite.seeds, names))
    return columns


def _drawn(suite: Suite, task: Task) -> Data:
    """A data set among those that will be drawn; its folder's name says the layout, and with it the splits."""
    data = task.data or suite.data
    if str(data.root) not in DRAWN:
        raise InputError(f"suite {suite.name}: the drawn data sets are {', '.join(DRAWN)}; there is no {str(data.root)!r}")
    train, test = DRAWN[str(data.root)]
    return Data(data.root, data.layout or str(data.root), data.train or train, data.test or test)


def _labelled(suite: Suite, task: Task, protocol, inputs: Inputs, loaded: dict) -> tuple[Data, Source]:
    """The data set of a task: its own, the suite's, or the published one of its protocol."""
    data = task.data or suite.data
    if data is None and protocol.data is None:
        raise InputError(f"suite {suite.name}: no data set for {task.protocol}; name one under 'data', or with --data")
    data = data or published(protocol, suite.datasets)
    if not _share_is_there(data, write=inputs.missing is None):
        return data, Source(data.root, f"unwritten {data.train}", (), *protocol.data.images)
    key = (data, protocol.metrics)
    if key not in loaded:
        loaded[key] = labelled(data, protocol)
    return loaded[key]


def published(protocol, folder: Path | None) -> Data:
    """Where a protocol's published data lie."""
    from transfer import published

    found = published.locate(protocol, folder, unwritten=True)
    return Data(Path(found["root"]), found["layout"], found["train"], found["test"])


def _share_is_there(data: Data, write: bool) -> bool:
    """Whether a share of COCO's pictures, e.g. train2017_1pct, can be read; it is written beside the whole if `write`."""
    share = re.fullmatch(r"(\w+)_(\d+)pct", data.train or "")
    whole = data.root / "annotations" / f"instances_{share[1]}.json" if share else None
    if not share or whole.with_name(f"instances_{data.train}.json").is_file() or not whole.is_file():
        return True  # or the reader will say what is wrong
    if write:
        from transfer import subsets

        subsets.write(whole, int(share[2]), 0)
    return write


def _fitting(suite: Suite) -> tuple[Task, ...]:
    """The protocols of a suite that names none: small ones for what its data set has."""
    from transfer import datasets

    if suite.data is None or suite.scenes:
        raise InputError(f"suite {suite.name}: name the data set under 'data', or the protocols and their data")
    data = find_splits(suite.data)
    annotations = datasets.load(data.layout, data.root, data.train).annotations
    masks = annotations and all(item.get("segmentation") for item in annotations)
    return tuple(Task(name) for name in (SMALL_FOR_MASKS if masks else SMALL_FOR_BOXES))


def _refuse_twins(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"starting point {twice!r} is given twice; give each its own name")


def _refuse_another_random(suite: Suite, columns: Sequence[Column], others: set[str]) -> None:
    """A random ResNet-18 beside pretrained ResNet-50s would be taken for their baseline."""
    for protocol in (column.protocol for column in columns):
        if others and protocol.arch not in others and any(start.random for start in suite.start):
            raise InputError(
                f"suite {suite.name}: in {protocol.name} `random` is a {protocol.arch}, the other starting points are "
                f"{', '.join(sorted(others))}; add `transfer: {{arch: {min(others)}}}`"
            )


def _refuse_same_runs(suite: Suite, jobs: Sequence[Job]) -> None:
    titles: dict[str, str] = {}
    for job in jobs:
        if job.id in titles:
            raise InputError(f"suite {suite.name}: {job.title} is the same run as {titles[job.id]}; leave one out")
        titles[job.id] = job.title
