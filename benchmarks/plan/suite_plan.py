"""Turns a suite into jobs and their dependencies. Every input is read and
checked before any job starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from detco.common.errors import InputError
from detco.common.values import canonical_hash, nearest
from detco.results import store

from ..config import find, later, override
from ..suites.builtin import Data, StartingPoint, Suite
from . import datasets
from .jobs import (
    FineTuning,
    Job,
    Place,
    Source,
    pretrain_job,
    random_source,
    scenes_job,
    transfer_job,
)

if TYPE_CHECKING:
    from detco.common.backbone_file import Backbone
    from detco.transfer.settings import Protocol

log = logging.getLogger("detco.plan")
T = TypeVar("T")
MOST_JOBS = 10_000  # of a plan without --yes
IMAGENET = 1_281_167  # images assumed in an estimate where no folder of images is named


@dataclass(frozen=True)
class Column:
    """One column group of the grid: the protocol's row with its changes, its data set, seeds and
    starting points."""

    protocol: Protocol
    data: Data
    source: Source
    seeds: int
    start: tuple[str, ...]


class Inputs:
    """Reads what a suite needs.

    missing: list that collects input errors, one line each (--dry-run); None raises the first.
    look: see `datasets.load`.
    """

    def __init__(self, missing: list[str] | None = None, look: datasets.Look = datasets.SILENT):
        self.missing, self.look = missing, look

    def read(self, read: Callable[[], T], stand_in: T) -> T:
        try:
            return read()
        except InputError as error:
            if self.missing is None:
                raise
            self.missing.append(str(error))
            return stand_in


def plan(
    suite: Suite,
    out: Path,
    engine: str | None = None,
    seeds: int | None = None,
    device: str = "auto",
    launches: tuple[Mapping, Mapping] = ({}, {}),
    missing: list[str] | None = None,
    look: datasets.Look = datasets.SILENT,
    most: int | None = MOST_JOBS,
) -> list[Job]:
    """The jobs of a suite in the order scenes, pretrainings, transfers. Raises InputError for what
    cannot work.

    seeds: of every cell, instead of the suite's; launches: of transfers (beside the suite's own)
        and of pretrainings, see Place;
    missing, look: see Inputs; most: jobs that a plan may have.
    """
    from detco.transfer import engines

    if seeds is not None and seeds < 1:
        raise InputError(f"--seeds must be at least 1, it is {seeds}")
    inputs, wanted = Inputs(missing, look), engine or suite.engine
    # a plan may name an engine that is not installed, but no unknown one
    if wanted not in engines.ENGINES:
        wanted = engines.resolve(wanted)
    place = Place(
        out.absolute(),
        inputs.read(lambda: engines.resolve(wanted), wanted),
        device,
        {**launches[0], **suite.launch},
        launches[1],
        suite.keep_model,
        folders(out),
    )
    scenes = scenes_job(suite.scenes, place) if suite.scenes else None
    pretrainings = _pretrainings(suite, scenes, place, inputs)
    columns = _columns(suite, scenes, inputs, seeds)
    count = len(pretrainings) + sum(column.seeds * len(column.start) for column in columns)
    if most is not None and count > most:
        text = f"{count:,} jobs; to plan more than {most:,} say --yes"
        raise InputError(f"suite {suite.name}: {text}")
    _refuse_what_the_engine_lacks(columns, place, inputs)
    sources = _sources(suite, pretrainings, place, inputs)
    _refuse_another_random(suite, columns, {source.arch for source in sources} - {""})
    _refuse_misfits(suite, columns, sources, place, inputs)
    jobs = [scenes] if scenes else []
    jobs += [*pretrainings.values(), *_transfers(suite, sources, columns, place)]
    _refuse_same_runs(suite, jobs)
    return jobs


def _pretrainings(suite: Suite, scenes: Job | None, place: Place, inputs: Inputs) -> dict[str, Job]:
    """The job of each starting point with a recipe."""
    jobs = {}
    for start in suite.start:
        if start.recipe:
            images = _images(suite, start, scenes, inputs)
            jobs[start.name] = pretrain_job(start, suite.pretrain, images, None, place)
    return jobs


def _sources(
    suite: Suite, pretrainings: Mapping[str, Job], place: Place, inputs: Inputs
) -> list[Source]:
    """The backbone of each starting point."""
    sources, imported, write = [], place.out / "imported", inputs.missing is None
    for start in suite.start:
        unread = Source(start.weights or Path(), f"unread {start.weights}")
        read = partial(weights_of, start, pretrainings.get(start.name), imported, write)
        sources.append(inputs.read(read, unread))
    return sources


def _transfers(
    suite: Suite, sources: Sequence[Source], columns: Sequence[Column], place: Place
) -> Iterator[Job]:
    """Seed by seed, in each the columns, in these the rows: an interrupted suite has compared all
    rows by as many runs."""
    rows = list(enumerate(zip(suite.start, sources, strict=True)))
    for seed in range(max((column.seeds for column in columns), default=0)):
        for number, column in enumerate(columns):
            for row, (start, weights) in rows:
                if start.name in column.start and seed < column.seeds:
                    what = (column.protocol, column.data, column.source)
                    run = FineTuning(start.name, weights, *what, seed, (row, number))
                    yield transfer_job(run, place)


def folders(out: Path) -> dict[str, Path]:
    """The folder of every job planned or done below `out`, by the job's id: a job stays in its
    folder when its row is renamed."""
    specs = ((store.read_spec(folder) or {}, folder) for folder in store.job_folders(out))
    return {
        spec["id"]: folder.absolute() for spec, folder in specs if isinstance(spec.get("id"), str)
    } | store.done(out)


def weights_of(
    start: StartingPoint, job: Job | None, imported: Path | None = None, write: bool = True
) -> Source:
    """The backbone of a starting point: what its pretraining will write, its own file or public
    checkpoint, or random.

    imported: a folder for backbone files made of other projects' checkpoints; without it those are
    refused. Raises InputError."""
    if job:
        return Source(
            job.folder / "backbone.safetensors", job.id, (job.id,), arch=job.spec["recipe"]["arch"]
        )
    if start.random:
        return random_source(start.arch)
    from detco.common import backbone_file
    from detco.transfer.checkpoints import importer, zoo
    from detco.transfer.checkpoints.reader import formats

    from . import backbones

    if start.how and imported is not None:
        return _read_as(start, imported, write)
    path = importer.file_of(start.weights)
    if not path.exists() and (close := nearest(path.name, zoo.BY_NAME)):
        raise InputError(f"no backbone file at {path}{close}")
    if imported is None or not path.exists() or formats.is_backbone_file(path):
        backbone = backbone_file.read(path)
    else:
        (backbone,) = backbones.read([path])
        path = _imported(backbone, backbone.sha256, start, imported, write)
    return Source(path.absolute(), backbone.sha256, arch=backbone.arch)


def _read_as(start: StartingPoint, imported: Path, write: bool) -> Source:
    """The backbone of a checkpoint that the starting point says how to read. Its identity holds
    that: other encoders of one file are other backbones."""
    from . import backbones

    assert start.weights is not None
    (backbone,) = backbones.read([start.weights], start.how)
    identity = canonical_hash({"checkpoint": backbone.sha256, **start.how})
    path = _imported(backbone, identity, start, imported, write)
    return Source(path.absolute(), identity, arch=backbone.arch)


def _imported(
    backbone: Backbone, identity: str, start: StartingPoint, folder: Path, write: bool
) -> Path:
    """The backbone file that is made of another project's checkpoint, unless it is there or not to
    be written."""
    from detco.common import backbone_file

    path = folder / f"{start.name}-{identity[:8]}.safetensors"
    if write and not path.exists():
        backbone_file.write(path, backbone)
    return path


def folder_of_images(
    folder: Path, by_class: bool = False, report: Callable | None = None, identify: bool = True
) -> Source:
    """A user's folder, identified by the names and contents of its images. Raises InputError if
    there are none. identify=False: images are not read and the identity is empty."""
    from detco.pretrain.data import listing

    pictures = listing.find(folder)
    if by_class:
        pictures.refuse_without_classes()
    for text in pictures.doubts:
        log.warning("detco: %s", text)
    classes = pictures.classes if by_class else ()
    content, count = pictures.content(report) if identify else "", len(pictures)
    return Source(
        folder.absolute(),
        content,
        images=count,
        classes=classes,
        earlier=pictures.fingerprint,
    )


def refuse_other_run(job: Job) -> None:
    """Raise InputError if a job's folder holds another run, whose files would be
    mistaken for this one's."""
    there = store.read_spec(job.folder)
    done = (store.read_record(job.folder) or {}).get("status") == "done"
    if there and there.get("id") != job.id and (done or list(job.folder.glob("checkpoint*"))):
        keys = {
            "recipe": "recipe settings",
            "images": "pictures",
            "images_identity": "pictures",
            "seed": "seed",
        }
        if there.get("id") == job.earlier:
            raise InputError(
                f"{job.folder} holds a run of a version that knew images by name and size only:"
                " whether it saw these cannot be told; choose another folder, or delete that one"
            )
        changed = dict.fromkeys(
            text for key, text in keys.items() if there.get(key) != job.spec.get(key)
        )
        raise InputError(
            f"{job.folder} holds another run ({there.get('title')}, other"
            f" {' and '.join(changed) or 'settings'}); choose another folder, or delete that one"
        )


def _images(suite: Suite, start: StartingPoint, scenes: Job | None, inputs: Inputs) -> Source:
    """What a starting point is pretrained on: unlabelled pictures, or one folder a class for a
    supervised recipe."""
    from detco.pretrain.recipes import RECIPES

    supervised = find(RECIPES, start.recipe, "recipe").traits.needs_labels
    key = "images_by_class" if supervised else "images"
    folder = getattr(suite, key)
    if scenes and folder:
        drawn = (
            suite.scenes.classification or suite.scenes.images
            if supervised
            else suite.scenes.unlabelled
        )
        return Source(
            scenes.folder / folder,
            f"{scenes.id}/{folder}",
            (scenes.id,),
            drawn or 2 * suite.scenes.images,
        )

    def read() -> Source:
        if folder is None:
            how = f"name a folder of images under {key!r}, or with --images"
            raise InputError(f"suite {suite.name}: {how} ({start.recipe} learns from them)")
        return folder_of_images(folder, supervised, inputs.look.report)

    return inputs.read(read, Source(folder or Path(key), "unread", (), IMAGENET))


def _columns(suite: Suite, scenes: Job | None, inputs: Inputs, seeds: int | None) -> list[Column]:
    """Each task with its data set; data on disk are loaded once for each kind of label."""
    from detco.transfer.protocols import PROTOCOLS

    loaded: dict = {}
    columns = []
    for task in suite.protocols or datasets.fitting(suite):
        row = find(PROTOCOLS, task.protocol, "protocol")
        changes = later(suite.transfer, task.settings)
        protocol = override(row, changes, f"settings of protocol {task.protocol}")
        own = task.data or suite.data
        if scenes and own:
            data, source = datasets.drawn(suite, own, protocol, scenes)
        else:
            unread = Source(
                Path(),
                f"unread {protocol.name}",
                (),
                *(protocol.data.images if protocol.data else ()),
            )
            read = partial(
                datasets.of_task,
                suite,
                task,
                protocol,
                inputs.missing is None,
                loaded,
                inputs.look,
            )
            data, source = inputs.read(read, (Data(Path()), unread))
        names = task.start or tuple(start.name for start in suite.start)
        columns.append(Column(protocol, data, source, seeds or task.seeds or suite.seeds, names))
    return columns


def _refuse_what_the_engine_lacks(columns: Sequence[Column], place: Place, inputs: Inputs) -> None:
    from detco.transfer import engines, finetune

    launch = engines.Launch(**place.launch)
    for column in columns:
        engine = engines.serving(place.engine, column.protocol.architecture)
        keep = place.keep_model if engine == place.engine else ""
        wanted = (column.protocol, engine, launch, keep)
        inputs.read(partial(finetune.refuse, *wanted), None)


def _refuse_misfits(
    suite: Suite,
    columns: Sequence[Column],
    sources: Sequence[Source],
    place: Place,
    inputs: Inputs,
) -> None:
    """Backbones that a protocol's detector cannot be built on."""
    from detco.transfer import finetune

    for column in columns:
        for start, source in zip(suite.start, sources, strict=True):
            arch = source.arch or (column.protocol.arch if start.random else "")
            if arch and start.name in column.start:
                wanted = (column.protocol, arch, place.engine)
                inputs.read(partial(finetune.refuse_backbone, *wanted), None)


def _refuse_another_random(suite: Suite, columns: Sequence[Column], others: set[str]) -> None:
    """A random ResNet-18 beside pretrained ResNet-50s would be taken for their baseline."""
    for protocol in (column.protocol for column in columns):
        drawn = any(start.random and not start.arch for start in suite.start)
        if others and protocol.arch not in others and drawn:
            raise InputError(
                f"suite {suite.name}: in {protocol.name} `random` is a {protocol.arch}, the other"
                f" starting points are {', '.join(sorted(others))}; add `transfer: {{arch:"
                f" {min(others)}}}`"
            )


def _refuse_same_runs(suite: Suite, jobs: Sequence[Job]) -> None:
    titles: dict[str, str] = {}
    for job in jobs:
        if job.id in titles:
            raise InputError(
                f"suite {suite.name}: {job.title} is the same run as {titles[job.id]}; leave"
                " one out"
            )
        titles[job.id] = job.title
