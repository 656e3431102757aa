"""The pretraining methods: a file here and a row of METHODS each.

To add one: write its class (see `Pretrainer`) in a file of this folder, give METHODS a row that
names it, and give pretrain/recipes.py a recipe with that `method`. What the loop, the journal, the
views and the cost model need to know of a method is a property of its row; none of them asks for
its name.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..recipes import Recipe


class Pretrainer(Protocol):
    """What the class of a method is: a torch module made of (recipe, groups), or (recipe, groups,
    classes) where it needs labels.

    forward(batch, order) takes the dict of views of this process and the order in which keys of the
    whole batch are shuffled; it returns `loss` (scalar), `keys` for `enqueue` (may be empty) and
    `figures`, name -> scalar tensor: "accuracy/..." (percent) and "std/..." are shown where
    there are any.
    """

    trunk: nn.Module

    def forward(self, batch: dict[str, Tensor], order: Tensor) -> dict[str, Any]: ...

    def enqueue(self, keys: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Method:
    """A row of METHODS.

    implementation: "module:class" in this folder. needs_labels: pictures lie in a folder for each
    class. has_keys: a momentum encoder makes keys that enter a queue; the spread of its features
    tells a collapse. local_views: it can look at jigsaw patches, at several levels. loss: what its
    `loss` is, for the axis of a chart.
    """

    implementation: str
    needs_labels: bool = False
    has_keys: bool = True
    local_views: bool = False
    loss: str = "loss"


INFO_NCE = "InfoNCE loss (contrastive)"
METHODS = {
    "detco": Method("detco:DetCo", local_views=True, loss="weighted sum of InfoNCE losses"),
    "moco-v1": Method("moco:MoCo", loss=INFO_NCE),
    "moco-v2": Method("moco:MoCo", loss=INFO_NCE),
    "supervised": Method(
        "supervised:Supervised",
        needs_labels=True,
        has_keys=False,
        loss="cross-entropy (classification)",
    ),
}


def build(recipe: Recipe, groups: int, classes: int) -> nn.Module:
    """The recipe's method with new weights. groups: of batch normalisation in this process."""
    method = METHODS[recipe.method]
    module, _, name = method.implementation.partition(":")
    made = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return made(recipe, groups, classes) if method.needs_labels else made(recipe, groups)
