"""A job's identity, folder and spec: everything a worker needs; the same input gives
the same spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detco.common.errors import InputError
from detco.common.values import canonical_hash

from ..config import find, later, override
from ..suites.builtin import DRAWING, Data, Scenes, StartingPoint

if TYPE_CHECKING:
    from detco.transfer.settings import Protocol


@dataclass(frozen=True)
class Job:
    """`id`: the hash of what determines the result; `needs`: ids of what must be done
    before; `cost`: seconds that it takes, see detco.benchmarks.plan.cost. `earlier`: what
    the id was in versions that did not read the images; such a record does not show that the
    images are the same."""

    id: str
    kind: str
    title: str
    folder: Path
    spec: dict
    needs: tuple[str, ...] = ()
    cost: float = 1.0
    earlier: str = ""


@dataclass(frozen=True)
class Source:
    """Pictures, data or weights as a job sees them: where, what identifies the content, which jobs
    make it."""

    path: Path
    identity: str
    needs: tuple[str, ...] = ()
    images: int = 0  # pictures; of a labelled data set: to train on
    tested: int = 0  # pictures to test on
    arch: str = ""  # of a backbone, where it is known
    classes: tuple[str, ...] = ()  # of pictures in a folder for each class
    earlier: str = ""  # identity in versions that did not read the images; "": the same


# iterations from which a fine-tuning keeps its trained detector without being asked to
KEEP_FROM = 5000
RANDOM = "random"


def random_source(arch: str = "") -> Source:
    """Random weights of the protocol's own architecture, or of another one."""
    return Source(Path(RANDOM), f"{RANDOM}:{arch}" if arch else RANDOM, arch=arch)


@dataclass(frozen=True)
class Place:
    """Where results go and what runs them."""

    out: Path  # absolute
    engine: str = "auto"
    device: str = "auto"
    # of transfers: fields of detco.transfer.engines.Launch that are not the default
    launch: Mapping = field(default_factory=dict)
    # of pretrainings: `num_gpus` and `num_machines` if not 1
    pretrain_launch: Mapping = field(default_factory=dict)
    keep_model: str = ""  # of transfers: final or best; "": final for long schedules
    # folders of jobs planned or done earlier below `out`, by id
    there: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class FineTuning:
    """One cell of the grid with one seed: weights, the protocol's row with its changes,
    a data set."""

    name: str  # of the starting point
    weights: Source
    protocol: Protocol
    data: Data  # layout and splits of `source`
    source: Source
    seed: int = 0
    order: tuple[int, int] = (0, 0)  # place in the table: row, group
    scaling: str = "1"  # of the schedule, see detco.transfer.protocols.scaled


def scenes_job(scenes: Scenes, place: Place) -> Job:
    """Draws the data set into OUT/scenes-ID."""
    identity = canonical_hash({"kind": "scenes", "drawing": DRAWING, "settings": scenes})
    folder = place.there.get(identity, place.out / f"scenes-{identity[:8]}")
    return _job(
        identity, "scenes", f"draw {scenes.images} scenes", folder, {"settings": asdict(scenes)}, ()
    )


def pretrain_job(
    start: StartingPoint, changes: Mapping, pictures: Source, folder: Path | None, place: Place
) -> Job:
    """Makes a backbone file with a recipe in `folder`; None: OUT/pretrain/NAME-ID."""
    from detco.pretrain.recipes import RECIPES, filling, recipe_hash, refuse_arch

    where = f"settings of recipe {start.recipe}"
    recipe = override(find(RECIPES, start.recipe, "recipe"), later(changes, start.settings), where)
    refuse_arch(recipe)
    if 0 < pictures.images < recipe.batch:
        fix = f"give more, or set the recipe's batch to {pictures.images} or less"
        raise InputError(
            f"{pictures.path}: {pictures.images} pictures are fewer than one batch of"
            f" {recipe.batch}; {fix}"
        )
    if pictures.images:
        filling(recipe, recipe.epochs * (pictures.images // recipe.batch))
    determines = {"recipe": recipe_hash(recipe), "images": pictures.identity, "seed": start.seed}
    identity = canonical_hash({"kind": "pretrain", **determines})
    earlier = canonical_hash({"kind": "pretrain", **determines, "images": pictures.earlier})
    spec = {
        "starting_point": start.name,
        "recipe": asdict(recipe),
        "images": str(pictures.path),
        "images_identity": pictures.identity,
        "pictures": pictures.images,
        "seed": start.seed,
        "device": place.device,
        "launch": dict(place.pretrain_launch),
    }
    folder = folder or place.there.get(
        identity, place.out / "pretrain" / f"{start.name}-{identity[:8]}"
    )
    job = _job(identity, "pretrain", f"pretrain {start.name}", folder, spec, pictures.needs)
    return replace(job, earlier=earlier if pictures.earlier else "")


def transfer_job(run: FineTuning, place: Place) -> Job:
    """Fine-tunes and tests one detector in OUT/transfer/PROTOCOL/NAME-seedN-ID.

    On a machine other than the first: a job of the kind `machine` in a folder inside,
    which only helps.
    """
    protocol, needs = run.protocol, run.weights.needs + run.source.needs
    if run.weights.identity == random_source(protocol.arch).identity:
        run = replace(run, weights=random_source())  # the same, in other words
    place = _serving(place, protocol)
    identity = _transfer_identity(run, place)
    earlier = ""
    if run.source.earlier:
        before = replace(run.source, identity=run.source.earlier)
        earlier = _transfer_identity(replace(run, source=before), place)
    spec = _transfer_spec(run, place)
    title = f"{protocol.name} from {run.name}, seed {run.seed}"
    usual = place.out / "transfer" / protocol.name / f"{run.name}-seed{run.seed}-{identity[:8]}"
    folder = place.there.get(identity, usual)
    rank = place.launch.get("machine_rank", 0)
    if not rank:
        return replace(_job(identity, "transfer", title, folder, spec, needs), earlier=earlier)
    identity, title = canonical_hash([identity, rank]), f"{title}, machine {rank}"
    return _job(identity, "machine", title, folder / f"machine{rank}", spec, needs)


def _serving(place: Place, protocol: Protocol) -> Place:
    """With the engine that the protocol runs in; one that keeps no detectors is not asked to."""
    from detco.transfer import engines

    engine = engines.serving(place.engine, protocol.architecture)
    if engine == place.engine:
        return place
    keep = place.keep_model if engines.ENGINES[engine].keeps else ""
    return replace(place, engine=engine, keep_model=keep)


def _transfer_identity(run: FineTuning, place: Place) -> str:
    """The hash of everything that determines the result. If its contents
    change, all runs are repeated."""
    from detco.transfer.protocols import as_record

    determines = {
        "kind": "transfer",
        "weights": run.weights.identity,
        "data": run.source.identity,
        **_splits(run.data),
        "protocol": as_record(run.protocol),
        "engine": place.engine,
        "seed": run.seed,
    }
    processes = place.launch.get("num_gpus", 1) * place.launch.get("num_machines", 1)
    amp = place.launch.get("amp", "")
    if processes > 1 or amp:
        determines["processes"] = processes
        # the values hashed before bf16 was added
        determines["amp"] = {"": False, "fp16": True}.get(amp, amp)
    return canonical_hash(determines)


def _transfer_spec(run: FineTuning, place: Place) -> dict:
    """What the worker reads."""
    from detco.transfer.protocols import as_record, protocol_hash

    protocol, source = run.protocol, run.source
    where = {
        "root": str(source.path),
        "identity": source.identity,
        "pictures": [source.images, source.tested],
    }
    if run.data.merge_classes:
        where["merge_classes"] = True
    return {
        "starting_point": run.name,
        "weights": str(run.weights.path),
        "weights_identity": run.weights.identity,
        **({"arch": run.weights.arch} if run.weights.arch not in ("", protocol.arch) else {}),
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "protocol_hash": protocol_hash(protocol),
        "protocol_row": as_record(protocol),
        "scorer": protocol.scorer,
        "engine": place.engine,
        "scaling": run.scaling,
        "data": _splits(run.data) | where,
        "seed": run.seed,
        "device": place.device,
        "order": list(run.order),
        "launch": dict(place.launch),
        "keep_model": place.keep_model or _kept_by_itself(protocol, place.engine),
    }


def _splits(data: Data) -> dict[str, str | None]:
    return {"layout": data.layout, "train": data.train, "test": data.test}


def _kept_by_itself(protocol: Protocol, engine: str) -> str:
    """The detector that a long training keeps by default (final, or "" for none), so that
    it need not be repeated."""
    from detco.transfer.engines import ENGINES

    return "final" if protocol.schedule.iterations >= KEEP_FROM and ENGINES[engine].keeps else ""


def _job(
    identity: str, kind: str, title: str, folder: Path, spec: dict, needs: tuple[str, ...]
) -> Job:
    header = {"format": 1, "id": identity, "kind": kind, "title": title, "needs": list(needs)}
    plain = json.loads(json.dumps(header | spec))  # as it will be read back: tuples become lists
    return Job(identity, kind, title, folder, plain, needs)
