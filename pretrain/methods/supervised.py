"""The supervised baseline: classification of labelled pictures."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..recipes import Recipe
from .encoder import trunk_of


class Supervised(nn.Module):
    """Cross-entropy over the classes; forward(batch, order) as MoCo's, with views ``image`` and
    integer ``label``."""

    def __init__(self, recipe: Recipe, groups: int, classes: int):
        super().__init__()
        self.trunk = trunk_of(recipe.arch, groups)
        self.fc = nn.Linear(self.trunk.channels["res5"], classes)

    def forward(self, batch: dict[str, Tensor], order: Tensor | None = None) -> dict:
        features = self.trunk(batch["image"])[-1].mean((2, 3))
        scores = self.fc(features).float()
        loss = F.cross_entropy(scores, batch["label"])
        accuracy = 100 * (scores.argmax(1) == batch["label"]).float().mean()
        spread = features.detach().float().std(0, correction=0).mean()
        figures = {
            "loss/classes": loss.detach(),
            "accuracy/classes": accuracy,
            "std/classes": spread,
        }
        return {"loss": loss, "keys": {}, "figures": figures}

    def enqueue(self, keys: dict) -> None:
        """No queue."""
