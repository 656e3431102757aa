"""A job's identity, folder and spec: all that a worker needs, and nothing that changes by
chance."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from detco.common.errors import InputError
from detco.common.values import canonical_hash

from ..config import find, override
from ..suites.builtin import DRAWING, Data, Scenes, StartingPoint


@dataclass(frozen=True)
class Job:
    """`id`: the hash of what determines the result; `needs`: ids of what must be done before;
    `cost`: seconds that it takes, see detco.benchmarks.plan.cost."""

    id: str
    kind: str
    title: str
    folder: Path
    spec: dict
    needs: tuple[str, ...] = ()
    cost: float = 1.0


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


KEEP_FROM = (
    5000  # iterations from which a fine-tuning keeps its trained detector without being asked to
)
RANDOM = Source(Path("random"), "random")


@dataclass(frozen=True)
class Place:
    """Where results go and what runs them."""

    out: Path  # absolute
    engine: str = "auto"
    device: str = "auto"
    launch: Mapping = field(
        default_factory=dict
    )  # of transfers: fields of detco.transfer.engines.Launch that are not the default
    pretrain_launch: Mapping = field(
        default_factory=dict
    )  # of pretrainings: `num_gpus` and `num_machines` if not 1
    keep_model: str = ""  # of transfers: final or best; "": what a long schedule keeps by itself
    there: Mapping[str, Path] = field(
        default_factory=dict
    )  # folders of jobs planned or done below `out` before, by id


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
    from detco.pretrain.recipes import RECIPES, recipe_hash

    where = f"settings of recipe {start.recipe}"
    recipe = override(find(RECIPES, start.recipe, "recipe"), {**changes, **start.settings}, where)
    if 0 < pictures.images < recipe.batch:
        fix = f"give more, or set the recipe's batch to {pictures.images} or less"
        raise InputError(
            f"{pictures.path}: {pictures.images} pictures are fewer than one batch of"
            f" {recipe.batch}; {fix}"
        )
    determines = {"recipe": recipe_hash(recipe), "images": pictures.identity, "seed": start.seed}
    identity = canonical_hash({"kind": "pretrain", **determines})
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
    return _job(identity, "pretrain", f"pretrain {start.name}", folder, spec, pictures.needs)


def transfer_job(
    name: str,
    weights: Source,
    protocol,
    data: Data,
    source: Source,
    seed: int,
    place: Place,
    order=(0, 0),
    scaling="1",
) -> Job:
    """Fine-tunes and tests one detector in OUT/transfer/PROTOCOL/NAME-seedN-ID.

    protocol: the row with its changes; data: layout and splits of `source`; order: place in the
    table (row, group). On a machine other than the first: a job of the kind `machine` in a folder
    inside, which only helps.
    """
    from detco.transfer.protocols import as_record, protocol_hash

    splits = {"layout": data.layout, "train": data.train, "test": data.test}
    determines = {"weights": weights.identity, "data": source.identity, **splits}
    determines |= {"protocol": as_record(protocol), "engine": place.engine, "seed": seed}
    processes = place.launch.get("num_gpus", 1) * place.launch.get("num_machines", 1)
    if processes > 1 or place.launch.get("amp"):
        amp = place.launch.get("amp", "")
        determines |= {
            "processes": processes,
            "amp": {"": False, "fp16": True}.get(amp, amp),
        }  # as it was hashed before bf16
    identity = canonical_hash({"kind": "transfer", **determines})
    spec = {
        "starting_point": name,
        "weights": str(weights.path),
        "weights_identity": weights.identity,
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "protocol_hash": protocol_hash(protocol),
        "protocol_row": as_record(protocol),
        "scorer": protocol.scorer,
        "engine": place.engine,
        "scaling": scaling,
        "data": (
            splits
            | {
                "root": str(source.path),
                "identity": source.identity,
                "pictures": [source.images, source.tested],
            }
        ),
        "seed": seed,
        "device": place.device,
        "order": list(order),
        "launch": dict(place.launch),
        "keep_model": place.keep_model or _kept_by_itself(protocol, place.engine),
    }
    usual = place.out / "transfer" / protocol.name / f"{name}-seed{seed}-{identity[:8]}"
    folder = place.there.get(identity, usual)
    title = f"{protocol.name} from {name}, seed {seed}"
    rank = place.launch.get("machine_rank", 0)
    if rank:
        folder, title, identity = (
            folder / f"machine{rank}",
            f"{title}, machine {rank}",
            canonical_hash([identity, rank]),
        )
        return _job(identity, "machine", title, folder, spec, weights.needs + source.needs)
    return _job(identity, "transfer", title, folder, spec, weights.needs + source.needs)


def _kept_by_itself(protocol, engine: str) -> str:
    """Nobody should have to repeat hours of training for want of an option."""
    from detco.transfer.engines import ENGINES

    return "final" if protocol.schedule.iterations >= KEEP_FROM and ENGINES[engine].keeps else ""


def _job(
    identity: str, kind: str, title: str, folder: Path, spec: dict, needs: tuple[str, ...]
) -> Job:
    header = {"format": 1, "id": identity, "kind": kind, "title": title, "needs": list(needs)}
    plain = json.loads(json.dumps(header | spec))  # as it will be read back: lists, not tuples
    return Job(identity, kind, title, folder, plain, needs)
