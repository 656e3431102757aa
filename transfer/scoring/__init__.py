"""Predictions and ground truth to metrics: the scorers, a row of SCORERS each.

To add one: a function `Score` in a module of this folder and a row that names it and what it can
score. Protocols may then ask for it. How AP is defined is part of its name (`voc2007`, `voc2012`):
numbers of two scorers are never averaged. This file imports nothing heavy.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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
    """A row of SCORERS. implementation: "module:function" in this folder; metrics: that it has."""

    implementation: str
    metrics: tuple[str, ...] = ("box",)


SCORERS = {
    "coco": Scorer("score:coco_metrics", ("box", "mask", "keypoint")),
    "voc2007": Scorer("score:voc2007"),
    "voc2012": Scorer("score:voc2012"),
    "cityscapes": Scorer("cityscapes:cityscapes_metrics", ("mask", "semantic")),
}


def get(name: str) -> Score:
    """The function of a scorer."""
    module, _, made = SCORERS[name].implementation.partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), made)
