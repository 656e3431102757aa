"""MoCo v1 and v2: one global view against the momentum key of another, negatives from a queue."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..recipes import Recipe
from .contrast import Queue, Shuffle, info_nce, momentum_update
from .encoder import Encoder


class MoCo(nn.Module):
    """Query encoder, momentum encoder and queue (arXiv 1911.05722, 2003.04297).

    forward(batch, order) takes the dict of views of this process and the order in which the keys of
    the whole batch are shuffled. It returns a dict: ``loss`` (scalar), ``keys`` for enqueue, and
    ``figures``, name -> scalar tensor. The keys enter the queue by ``enqueue``, after the step.
    """

    def __init__(self, recipe: Recipe, groups: int):
        super().__init__()
        self.recipe = recipe
        self.query = Encoder(recipe, groups)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.queues = nn.ModuleDict({"global": Queue(len(recipe.levels), recipe.dim, recipe.queue)})

    @property
    def trunk(self) -> nn.Module:
        return self.query.trunk

    def forward(self, batch: dict[str, Tensor], order: Tensor) -> dict:
        keys = self._keys(batch, order)
        queries = self.query(batch["global_query"], batch.get("local_query"))
        mine = {kind: self._mine(k) for kind, k in keys.items()}
        loss, figures = self.losses(queries, mine)
        for kind, q in queries.items():
            # 1/sqrt(dim) for features spread evenly, 0 for collapsed ones
            spread = q.detach().std(1, correction=0).mean(-1)
            figures |= {
                f"std/{kind}/{level}": s
                for level, s in zip(self.recipe.levels, spread, strict=True)
            }
        return {"loss": loss, "keys": keys, "figures": figures}

    @torch.no_grad()
    def _keys(self, batch: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
        momentum_update(self.key, self.query, self.recipe.key_momentum)
        shuffle = Shuffle(order)
        views = [
            shuffle(batch[name]) if name in batch else None for name in ("global_key", "local_key")
        ]
        return {kind: shuffle.undo(k) for kind, k in self.key(*views).items()}

    @staticmethod
    def _mine(keys: Tensor) -> Tensor:
        if not dist.is_initialized():
            return keys
        return keys.chunk(dist.get_world_size(), dim=1)[dist.get_rank()]

    def losses(
        self, queries: dict[str, Tensor], keys: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (scalar) and figures from features (levels, n, dim) of this process' pictures."""
        queue = self.queues["global"].keys
        loss, accuracy = info_nce(queries["global"], keys["global"], queue, self.recipe.temperature)
        return loss.sum(), {
            "loss/global-global/res5": loss[0].detach(),
            "accuracy/global-global/res5": accuracy[0],
        }

    def enqueue(self, keys: dict[str, Tensor]) -> None:
        for kind, k in keys.items():
            self.queues[kind].enqueue(k)
