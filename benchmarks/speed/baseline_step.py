"""DetCo's training step written straight from the paper: the baseline for speed and memory."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from detco.pretrain.methods.encoder import ARCHITECTURES
from detco.pretrain.recipes import Recipe


class UsualEncoder(nn.Module):
    """torchvision's ResNet and an MLP for each level and each kind of view; one forward
    pass a view."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        net = getattr(torchvision.models, recipe.arch)(weights=None)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList((net.layer1, net.layer2, net.layer3, net.layer4))
        expansion = ARCHITECTURES[recipe.arch][0].expansion
        widths = [width * expansion for width in (64, 128, 256, 512)]
        self.heads = nn.ModuleDict(
            {
                kind: nn.ModuleList(
                    nn.Sequential(
                        nn.Linear(parts * width, width), nn.ReLU(), nn.Linear(width, recipe.dim)
                    )
                    for width in widths
                )
                for kind, parts in (("global", 1), ("local", 9))
            }
        )

    def forward(self, view: Tensor, kind: str) -> list[Tensor]:
        """(n, 3, h, w) or (n, 9, 3, h, w) -> for each level (n, dim), L2-normalised."""
        n = len(view)
        x = self.stem(view.flatten(0, 1) if view.ndim == 5 else view)
        features = []
        for stage, head in zip(self.stages, self.heads[kind], strict=True):
            x = stage(x)
            pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
            features.append(F.normalize(head(pooled.view(n, -1)), dim=1))
        return features


class UsualDetCo(nn.Module):
    """Query and momentum encoder, eight queues, twelve cross-entropies over the logits of positive
    and negatives."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe = recipe
        self.query = UsualEncoder(recipe)
        self.key = copy.deepcopy(self.query)
        for parameter in self.key.parameters():
            parameter.requires_grad = False
        for kind in ("global", "local"):
            for level in range(4):
                self.register_buffer(
                    f"{kind}_queue_{level}",
                    F.normalize(torch.randn(recipe.dim, recipe.queue), dim=0),
                )
        self.pointer = 0

    @torch.no_grad()
    def momentum_update(self) -> None:
        m = self.recipe.key_momentum
        for key, query in zip(self.key.parameters(), self.query.parameters(), strict=True):
            key.data = key.data * m + query.data * (1.0 - m)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, list[Tensor]]]:
        queries = {kind: self.query(batch[f"{kind}_query"], kind) for kind in ("global", "local")}
        with torch.no_grad():
            self.momentum_update()
            order = torch.randperm(len(batch["global_key"]), device=batch["global_key"].device)
            back = order.argsort()
            keys = {
                kind: [k[back] for k in self.key(batch[f"{kind}_key"][order], kind)]
                for kind in ("global", "local")
            }
        loss = 0.0
        for level, weight in enumerate(self.recipe.level_weights):
            for query_kind, key_kind in (
                ("global", "global"),
                ("local", "local"),
                ("local", "global"),
            ):
                q, k = queries[query_kind][level], keys[key_kind][level]
                loss = loss + weight * self.contrast(
                    q, k, getattr(self, f"{key_kind}_queue_{level}")
                )
        return loss, keys

    def contrast(self, q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        positive = torch.einsum("nc,nc->n", q, k).unsqueeze(-1)
        negative = torch.einsum("nc,ck->nk", q, queue.clone().detach())
        logits = torch.cat([positive, negative], dim=1) / self.recipe.temperature
        return F.cross_entropy(
            logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        )

    @torch.no_grad()
    def enqueue(self, keys: dict[str, list[Tensor]]) -> None:
        n, size = len(keys["global"][0]), self.recipe.queue
        for kind, of_levels in keys.items():
            for level, k in enumerate(of_levels):
                getattr(self, f"{kind}_queue_{level}")[:, self.pointer : self.pointer + n] = k.T
        self.pointer = (self.pointer + n) % size
