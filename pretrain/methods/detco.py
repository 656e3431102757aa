"""DetCo: global views and jigsaw patches contrasted at every level of the backbone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..recipes import Recipe
from .contrast import Queue, info_nce
from .moco import MoCo


class DetCo(MoCo):
    """arXiv 2102.04803: sum over levels of w_i (L_i[g-g] + L_i[l-l] + L_i[g-l]); levels and terms
    from the recipe."""

    def __init__(self, recipe: Recipe, groups: int):
        super().__init__(recipe, groups)
        if recipe.local:
            self.queues["local"] = Queue(len(recipe.levels), recipe.dim, recipe.queue)
        self.register_buffer("level_weights", torch.tensor(recipe.level_weights), persistent=False)

    def losses(
        self, queries: dict[str, Tensor], keys: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, figures = 0.0, {}
        for term in self.recipe.terms:
            # global-local: local query, global key, global queue
            key_kind, query_kind = term.split("-")
            loss, accuracy = info_nce(
                queries[query_kind],
                keys[key_kind],
                self.queues[key_kind].keys,
                self.recipe.temperature,
            )
            total = total + (self.level_weights * loss).sum()
            for i, level in enumerate(self.recipe.levels):
                figures |= {
                    f"loss/{term}/{level}": loss[i].detach(),
                    f"accuracy/{term}/{level}": accuracy[i],
                }
        return total, figures
