"""What records, plans and progress files must hold, for those who read them: a type for each field,
dotted where it lies inside of another. A field that is not named may hold anything.

Version 1 (`FORMAT`). Fields are added, never given another type; who needs that raises the version.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, get_args, get_origin

FORMAT = 1
DEEPEST = 60  # lists and groups within one another
Kind = Any  # a type, list[...], dict[str, ...], tuple[...] (a list of that length), A | B
MAYBE_TEXT = str | None
MAYBE_GROUP = dict | None

DATA = {
    "data": dict | None,
    "data.root": str,
    "data.layout": MAYBE_TEXT,
    "data.train": MAYBE_TEXT,
    "data.test": MAYBE_TEXT,
    "data.identity": str,
    "data.pictures": list[int],
}
LAUNCH = {
    "launch": dict,
    "launch.num_gpus": int,
    "launch.num_machines": int,
    "launch.machine_rank": int,
    "launch.dist_url": str,
    "launch.amp": str | bool,
    "launch.eval_period": int,
}
PROTOCOL_ROW = {
    "protocol_row": MAYBE_GROUP,
    "protocol_row.name": str,
    "protocol_row.version": int,
    "protocol_row.arch": str,
    "protocol_row.metrics": list[str],
    "protocol_row.schedule": dict,
    "protocol_row.schedule.iterations": int,
    "protocol_row.schedule.images": int,
    "protocol_row.detector": dict,
}
RECIPE = {
    "recipe": dict,
    "recipe.name": str,
    "recipe.arch": str,
    "recipe.epochs": int,
    "recipe.batch": int,
    "recipe.assumed": list[str],
}
SCENES = {
    "settings": dict,
    "settings.images": int,
    "settings.size": int,
    "settings.seed": int,
    "settings.unlabelled": int | None,
    "settings.classification": int | None,
}
_SPEC = {  # of every job, where it has the field
    "id": str,
    "kind": str,
    "title": str,
    "needs": list[str],
    "starting_point": str,
    "protocol": str,
    "protocol_version": int,
    "protocol_hash": str,
    "scorer": str,
    "engine": str,
    "scaling": str,
    "weights": str,
    "weights_identity": str,
    "images": str,
    "images_identity": str,
    "pictures": int,
    "seed": int,
    "device": str,
    "order": tuple[int, int] | None,
    "keep_model": str,
    "probe": str,
    **DATA,
    **LAUNCH,
    **PROTOCOL_ROW,
    **RECIPE,
    **SCENES,
}
FACTS = {
    "facts": dict | None,
    "facts.knn": dict[str, float] | None,
    "facts.evaluations": list,
    "facts.detectron2": dict,
    "facts.detectron2.hash": str,
    "facts.detectron2.which": str,
}
_RECORD = {
    "id": str,
    "kind": str,
    "starting_point": str,
    "error": MAYBE_TEXT,
    "error_kind": MAYBE_TEXT,
    "warnings": list[str],
    "deviations": list[str],
    "undefined": list[str],
    "wall_seconds": float,
    "started": str,
    "ended": float,
    "stages": dict[str, tuple[int, float]],
    "hardware": dict[str, str | int | None],
    "versions": dict[str, str | None],
    "code": str,
    "weights": MAYBE_GROUP,
    "weights.sha256": str,
    "weights.arch": str,
    "data": dict,
    **FACTS,
    "spec": dict,
    **{f"spec.{dotted}": kind for dotted, kind in _SPEC.items()},
}
_PROGRESS = {
    "pid": int,
    "host": str,
    "started": float,
    "time": float,
    "stage": str,
    "done": int,
    "total": int,
    "speed": float | None,
    "figures": dict[str, str | float],
    "trained": tuple[int, int],
}


@dataclass
class Table:
    """The kinds of some fields, as a tree: `kind` of this one, None where any; those inside."""

    kind: Kind = None
    inner: "dict[str, Table]" = field(default_factory=dict)

    @classmethod
    def of(cls, kinds: Mapping[str, Kind]) -> "Table":
        top = cls()
        for dotted, kind in kinds.items():
            node = top
            for key in dotted.split("."):
                node = node.inner.setdefault(key, cls())
            node.kind = kind
        return top


SPEC, RECORD, PROGRESS = Table.of(_SPEC), Table.of(_RECORD), Table.of(_PROGRESS)


def misfit(value: Mapping, table: Table) -> str | None:
    """The first field that is there and of another type, or what no such file holds anywhere:
    numbers that are not finite or beyond 64 bits, endless nesting. None: all fits."""
    return _mistyped(value, table, "") or _impossible(value)


def _mistyped(value: Mapping, table: Table, place: str) -> str | None:
    for key, found in value.items():
        node = table.inner.get(key)
        if node is None:
            continue
        if node.kind is not None and not _fits(found, node.kind):
            return f"{place}{key} is {short(found)}, not {_named(node.kind)}"
        if node.inner and isinstance(found, Mapping):
            problem = _mistyped(found, node, f"{place}{key}.")
            if problem:
                return problem
    return None


def _fits(value: Any, kind: Kind) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    if origin is tuple:
        return (
            isinstance(value, list)
            and len(value) == len(inner)
            and all(_fits(item, one) for item, one in zip(value, inner, strict=True))
        )
    if kind is float:
        return type(value) in (int, float)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _named(kind: Kind) -> str:
    return f"a {kind.__name__ if isinstance(kind, type) and not get_args(kind) else kind}"


def short(value: Any) -> str:
    """A value in a message, not endless."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _impossible(value: Any) -> str | None:
    """What JSON may hold and no file of ours does."""
    waiting = [(value, 0)]
    while waiting:
        here, depth = waiting.pop()
        if depth > DEEPEST:
            return f"lists and groups lie more than {DEEPEST} deep in one another"
        if isinstance(here, dict):
            waiting += [(inner, depth + 1) for inner in here.values()]
        elif isinstance(here, list):
            waiting += [(inner, depth + 1) for inner in here]
        elif isinstance(here, float) and not math.isfinite(here):
            return "holds a number that is not finite"
        elif isinstance(here, int) and not -(2**63) <= here < 2**63:
            return "holds a whole number beyond 64 bits"
    return None
