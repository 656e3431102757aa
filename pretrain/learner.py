"""The model with its optimizer: forward and update of one iteration, and the state of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detco.common.errors import InputError

from . import methods, optimize
from .data import views
from .data.loader import SHUFFLE, generator
from .distributed import Process, distributed
from .methods.encoder import Trunk
from .methods.stages import StagesTrunk
from .recipes import Recipe, filling


class Learner:
    """A recipe's model, new or in the state of a checkpoint.

    ``iterations``: of the whole run; ``classes``: of its pictures. Raises InputError where the
    processes cannot share a batch, or most iterations would only fill the queues.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        classes: int,
        iterations: int,
        process: Process,
        state: dict | None = None,
    ):
        groups = _groups(recipe, process.world)
        self.recipe, self.seed, self.process = recipe, seed, process
        self.groups = groups * process.world  # that the batch is really normalised in
        self.filling = filling(recipe, iterations)  # iterations that do not train
        self.precision = optimize.precision(recipe, process.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = methods.build(recipe, groups, classes)
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model.to(process.device, memory_format=layout)
        for module in self.model.modules():
            if recipe.compile and isinstance(module, Trunk | StagesTrunk):
                module.compile(dynamic=False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = optimize.optimizer(recipe, trained)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.precision == "fp16")
        if state:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        self.parallel = distributed(self.model, process, recipe.has_unused_parameters)
        self.views: dict[str, Tensor] = {}  # of the last iteration: their memory is used again

    def state(self) -> dict:
        """For a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def forward(self, batch: dict[str, Tensor], iteration: int) -> dict[str, Any]:
        """`loss`, `keys` and `figures` of this process's share of a batch."""
        device = self.process.device
        self.views = views.finish(batch, self.recipe, device, self.views)
        order = generator(SHUFFLE, self.seed, iteration).permutation(self.recipe.batch)
        trains = iteration >= self.filling
        with optimize.autocast(self.precision, device), torch.set_grad_enabled(trains):
            return self.parallel(self.views, torch.from_numpy(order).to(device))

    def update(self, output: dict[str, Any], iteration: int, lr: float) -> None:
        """A step of the optimizer, unless queues are still being filled; then the
        keys enter them."""
        if iteration >= self.filling:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            optimize.update(self.optimizer, self.scaler, output["loss"])
        self.model.enqueue(output["keys"])


def _groups(recipe: Recipe, world: int) -> int:
    """Groups of batch normalisation in each process."""
    groups = max(1, recipe.groups // world)
    whole = recipe.batch % world == 0 and (recipe.batch // world) % groups == 0
    if not whole or (recipe.groups % world and groups > 1):
        raise InputError(
            f"batch {recipe.batch} in {recipe.groups} groups cannot be shared by {world} processes"
        )
    return groups
