"""A suite turned into jobs: what to run, in which folder, after what; every input is checked here, before any work starts."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from results import store

from . import InputError
from .settings import canonical_hash, find, override
from .suites import Data, Scenes, StartingPoint, Suite, Task, find_splits

SMALL_FOR_BOXES = ("small-faster-rcnn-c4", "small-faster-rcnn-fpn", "small-retinanet")
SMALL_FOR_MASKS = ("small-faster-rcnn-c4", "small-mask-rcnn-fpn", "small-retinanet")
SECONDS_AN_IMAGE = {"faster-rcnn-c4": 0.12, "mask-rcnn-c4": 0.14, "retinanet": 0.06}  # 128 px, one core; others 0.09


@dataclass(frozen=True)
class Job:
    """One piece of work. `id` is the hash of what determines its result; `needs` are ids; `cost` rough seconds on one core."""

    id: str
    kind: str
    title: str
    folder: Path
    spec: dict
    needs: tuple[str, ...] = ()
    cost: float = 1.0


@dataclass(frozen=True)
class Source:
    """Pictures or a data set as a job sees them: where, what identifies the content, which job makes it, how many."""

    path: Path
    identity: str
    needs: tuple[str, ...] = ()
    images: int = 0


def plan(
    suite: Suite, out: Path, engine: str | None = None, seeds: int | None = None, device: str = "auto"
) -> list[Job]:
    """The jobs of a suite in the order scenes, pretrainings, transfers. Raises InputError for anything that cannot work."""
    seeds = suite.seeds if seeds is None else seeds
    if seeds < 1 or not suite.start:
        raise InputError(f"suite {suite.name}: needs at least one seed and one starting point")
    out, engine = out.absolute(), engine or suite.engine
    jobs = [scenes_job(suite.scenes, out)] if suite.scenes else []
    _refuse_twins([start.name for start in suite.start], "starting point")
    rows = []
    for start in suite.start:
        job = None
        if start.recipe:
            job = pretrain_job(start, suite.pretrain, _pictures(suite, start, jobs), out / "pretrain", device)
        rows.append((start, job))
    jobs += [job for _, job in rows if job]
    tasks = _tasks(suite, jobs[:1] if suite.scenes else [])
    for row, (start, job) in enumerate(rows):
        weights = weights_of(start, job)
        for column, (task, data, source) in enumerate(tasks):
            for seed in range(seeds):
                changes = suite.transfer | task.settings
                cell = transfer_job(
                    start.name, weights, task.protocol, changes, data, source, engine, seed, out, device
                )
                jobs.append(replace(cell, spec=cell.spec | {"order": [row, column]}))
    _refuse_same_runs(suite, jobs)
    return jobs


def scenes_job(scenes: Scenes, out: Path) -> Job:
    """Draws the data set into OUT/scenes-ID."""
    identity = canonical_hash({"kind": "scenes", "settings": scenes})
    spec = {"settings": asdict(scenes)}
    return _job(
        identity, "scenes", f"{scenes.images} scenes", out / f"scenes-{identity[:8]}", spec, (), scenes.images / 200
    )


def pretrain_job(
    start: StartingPoint, changes: dict, pictures: Source, out: Path, device: str, folder: Path | None = None
) -> Job:
    """Makes a backbone file with a recipe in `out`/NAME-ID (or `folder`)."""
    from pretrain.recipes import RECIPES, recipe_hash

    recipe = override(
        find(RECIPES, start.recipe, "recipe"), changes | start.settings, f"settings of recipe {start.recipe}"
    )
    determines = {"kind": "pretrain", "recipe": recipe_hash(recipe), "images": pictures.identity, "seed": start.seed}
    identity = canonical_hash(determines)
    spec = {
        "recipe": asdict(recipe), "images": str(pictures.path), "images_identity": pictures.identity, "seed": start.seed,
        "starting_point": start.name, "device": device,
    }  # fmt: skip
    folder = folder or out / f"{start.name}-{identity[:8]}"
    cost = getattr(recipe, "epochs", 1) * pictures.images / 60
    return _job(identity, "pretrain", f"pretrain {start.name}", folder, spec, pictures.needs, cost)


def transfer_job(
    name: str, weights: Source | None, protocol_name: str, changes: dict, data: Data, source: Source, engine: str, seed: int,
    out: Path, device: str,
) -> Job:  # fmt: skip
    """Fine-tunes and tests one detector in OUT/transfer/PROTOCOL/NAME-seedN-ID. `weights` None: random."""
    from transfer import engines
    from transfer.protocols import PROTOCOLS, protocol_hash

    row = find(PROTOCOLS, protocol_name, "protocol")
    protocol = override(row, changes, f"settings of protocol {protocol_name}")
    engine = engines.resolve(engine)
    splits = {"layout": data.layout, "train": data.train, "test": data.test}
    identity = canonical_hash(
        {
            "kind": "transfer", "weights": weights.identity if weights else "random", "data": source.identity, **splits,
            "protocol": protocol, "engine": engine, "seed": seed,
        }
    )  # fmt: skip
    spec = {
        "starting_point": name, "weights": str(weights.path) if weights else "random", "protocol": protocol.name,
        "protocol_version": protocol.version, "protocol_hash": protocol_hash(protocol), "protocol_row": asdict(protocol),
        "scorer": protocol.scorer, "engine": engine, "scaling": "1", "seed": seed, "device": device,
        "weights_identity": weights.identity if weights else "random",
        "data": splits | {"root": str(source.path), "identity": source.identity},
    }  # fmt: skip
    folder = out / "transfer" / protocol.name / f"{name}-seed{seed}-{identity[:8]}"
    needs = (weights.needs if weights else ()) + source.needs
    title = f"{protocol.name} from {name}, seed {seed}"
    return _job(identity, "transfer", title, folder, spec, needs, _transfer_cost(protocol))


def _job(identity: str, kind: str, title: str, folder: Path, spec: dict, needs: tuple[str, ...], cost: float) -> Job:
    header = {"format": 1, "id": identity, "kind": kind, "title": title, "needs": list(needs)}
    return Job(identity, kind, title, folder, header | spec, needs, max(cost, 0.1))


def _transfer_cost(protocol) -> float:
    area = protocol.resize.train[-1] ** 2 / 128**2
    return (
        protocol.schedule.iterations
        * protocol.schedule.images
        * SECONDS_AN_IMAGE.get(protocol.architecture, 0.09)
        * area
    )


def weights_of(start: StartingPoint, job: Job | None) -> Source | None:
    """The backbone a starting point gives: the file its pretraining will write, its own file (read and checked), or None."""
    if job:
        return Source(job.folder / "backbone.safetensors", job.id, (job.id,))
    if start.random:
        return None
    from transfer import weights

    return Source(start.weights.absolute(), weights.read(start.weights).sha256)


def _pictures(suite: Suite, start: StartingPoint, scenes: list[Job]) -> Source:
    from pretrain.recipes import RECIPES

    supervised = find(RECIPES, start.recipe, "recipe").method == "supervised"
    key = "pictures_by_class" if supervised else "pictures"
    folder = getattr(suite, key)
    if folder is None:
        raise InputError(
            f"suite {suite.name}: starting point {start.name} is pretrained, so name a folder under {key!r}"
        )
    if scenes:
        count = suite.scenes.images
        return Source(scenes[0].folder / folder, f"{scenes[0].id}/{folder}", (scenes[0].id,), count)
    return folder_of_pictures(folder, supervised)


def folder_of_pictures(folder: Path, by_class: bool = False) -> Source:
    """A user's folder; its content is identified by the relative names and sizes of its files. Raises InputError if empty."""
    if not folder.is_dir():
        raise InputError(f"no folder of pictures at {folder}")
    sizes = {}
    for where, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(where, name)
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size if path.exists() else -1
    if not sizes:
        raise InputError(f"the folder of pictures {folder} is empty")
    if by_class and len({name.split("/")[0] for name in sizes if "/" in name}) < 2:
        raise InputError(f"{folder}: supervised pretraining needs one folder a class, at least two")
    return Source(folder.absolute(), canonical_hash(sizes), (), len(sizes))


def _tasks(suite: Suite, scenes: list[Job]) -> list[tuple[Task, Data, Source]]:
    """Each task with its data set; what is on disk already is read and checked, once for each kind of label."""
    from transfer.protocols import PROTOCOLS

    loaded, tasks = {}, []
    for task in suite.protocols or _fitting(suite):
        data = task.data or suite.data
        if data is None:
            raise InputError(f"suite {suite.name}: no data set for {task.protocol}; name one under 'data'")
        if scenes:
            source = Source(scenes[0].folder / data.root, f"{scenes[0].id}/{data.root}", (scenes[0].id,))
        else:
            metrics = find(PROTOCOLS, task.protocol, "protocol").metrics
            if (data, metrics) not in loaded:
                loaded[data, metrics] = labelled(data, task.protocol)
            data, source = loaded[data, metrics]
        tasks.append((task, data, source))
    return tasks


def _fitting(suite: Suite) -> tuple[Task, ...]:
    """The protocols of a suite that names none: small ones for what its data set has."""
    from transfer import datasets

    if suite.data is None or suite.scenes:
        raise InputError(f"suite {suite.name}: name the data set under 'data', or the protocols and their data")
    data = find_splits(suite.data)
    annotations = datasets.load(data.layout, data.root, data.train).annotations
    masks = annotations and all(item.get("segmentation") for item in annotations)
    return tuple(Task(name) for name in (SMALL_FOR_MASKS if masks else SMALL_FOR_BOXES))


def labelled(data: Data, protocol_name: str) -> tuple[Data, Source]:
    """Load both splits as a protocol needs them, so that whatever is wrong is said now; their content is the identity."""
    from transfer import finetune
    from transfer.protocols import PROTOCOLS

    data = find_splits(data)
    protocol = find(PROTOCOLS, protocol_name, "protocol")
    named = {"layout": data.layout, "root": str(data.root), "train": data.train, "test": data.test}
    train, test = finetune.load_data(protocol, named)
    identity = canonical_hash([train.fingerprint, test.fingerprint])
    return data, Source(data.root.absolute(), identity, (), len(train.images))


def refuse_other_run(job: Job) -> None:
    """InputError where a job's folder holds another run: its files would be taken for this one's."""
    there = store.read_json(job.folder / "spec.json")
    if there and there.get("id") != job.id:
        changed = [
            key for key in ("recipe", "images", "images_identity", "seed") if there.get(key) != job.spec.get(key)
        ]
        what = " and ".join(changed).replace("images_identity", "content of its pictures") or "settings"
        raise InputError(
            f"{job.folder} holds another run ({there.get('title')}, with other {what}); choose another folder"
        )


def _refuse_twins(names: Sequence[str], what: str) -> None:
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{what} {twice!r} is given twice; give each its own name")


def _refuse_same_runs(suite: Suite, jobs: Sequence[Job]) -> None:
    titles: dict[str, str] = {}
    for job in jobs:
        if job.id in titles:
            raise InputError(
                f"suite {suite.name}: {job.title} is the same run as {titles[job.id]}; leave one of them out"
            )
        titles[job.id] = job.title
