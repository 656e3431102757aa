"""Predictions and ground truth to metrics: the scorers, a row of SCORERS each.

To add one: a function `Score` in a module of this folder and a row that names it and what it can
score. Protocols may then ask for it. How AP is defined is part of its name (`voc2007`, `voc2012`):
numbers of two scorers are never averaged. This file imports nothing heavy.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from detco.common.errors import InputError

from ..data import LAYOUTS

if TYPE_CHECKING:
    from ..data.dataset import Dataset


class Score(Protocol):
    """What a scorer's function is: checked predictions in COCO results format -> metrics in
    percent, box_ap and the like, NaN where undefined; see `detco.transfer.scoring.score.score`."""

    def __call__(
        self, dataset: Dataset, predictions: list[dict], metrics: tuple[str, ...]
    ) -> dict[str, float]: ...


@dataclass(frozen=True)
class Scorer:
    """A row of SCORERS.

    implementation: "module:function" in this folder. metrics: that it has. leaves_out: which
    objects it does not count (`detco.transfer.data.checks.counting.REASONS`). layouts: of the data
    that it can score (`detco.transfer.data.LAYOUTS`); none named: any. of_recall:
    "module:function" in this folder, the AP (0..1) of a class of which this share is found without
    a mistake; "": unknown. most: detections it takes of a class and image; 0: all.
    """

    implementation: str
    metrics: tuple[str, ...] = ("box",)
    leaves_out: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    of_recall: str = ""
    most: int = 0


SCORERS = {
    "coco": Scorer(
        "score:coco_metrics",
        ("box", "mask", "keypoint"),
        leaves_out=("crowd", "impossible area"),
        of_recall="ceiling:coco_points",
        most=100,
    ),
    "voc2007": Scorer(
        "score:voc2007", leaves_out=("difficult",), of_recall="ceiling:eleven_points"
    ),
    "voc2012": Scorer("score:voc2012", leaves_out=("difficult",), of_recall="ceiling:area"),
    "gps": Scorer(
        "densepose:densepose_metrics",
        ("densepose", "box"),
        leaves_out=("crowd", "impossible area"),
        of_recall="ceiling:coco_points",
        most=100,
    ),
    "cityscapes": Scorer(
        "cityscapes:cityscapes_metrics",
        ("mask", "semantic"),
        leaves_out=("crowd", "few pixels"),
        layouts=("cityscapes",),
    ),
    "accuracy": Scorer("classes:accuracy", ("class",), layouts=("imagefolder",)),
    "class-ap": Scorer("classes:average_precision", ("class",), leaves_out=("difficult", "crowd")),
}


def refuse_layout(name: str, metrics: Sequence[str], layout: str, where: object) -> None:
    """InputError where a scorer cannot score data in that layout. where: what is to be scored."""
    able = SCORERS[name].layouts
    if not LAYOUTS[layout].boxes and "class" not in metrics:
        raise InputError(
            f"{where}: {LAYOUTS[layout].title} have no boxes to detect; `detco protocols` lists"
            " those that find the class of an image"
        )
    if able and layout not in able:
        others = [
            other
            for other, row in SCORERS.items()
            if not row.layouts and row.metrics and set(metrics) <= set(row.metrics)
        ]
        remedy = f"; of any layout: --set scorer={others[0]}" if others else ""
        raise InputError(
            f"{where}: the scorer {name!r} needs data in the layout {' or '.join(able)}, these are"
            f" in {layout}{remedy}"
        )


def get(name: str) -> Score:
    """The function of a scorer."""
    return _function(SCORERS[name].implementation)


def ap_of_recall(name: str) -> Callable[[float], float] | None:
    """See `Scorer.of_recall`."""
    return _function(SCORERS[name].of_recall) if SCORERS[name].of_recall else None


def _function(place: str) -> Any:
    module, _, made = place.partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), made)
