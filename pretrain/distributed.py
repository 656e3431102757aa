"""The processes that train together: one, several on a machine, or on several machines,
started by torchrun."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detco.common import device as devices


@dataclass(frozen=True)
class Process:
    """This process among all that train together."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def join(device: str):
    """Join the other processes if torchrun started several; on GPUs through NCCL,
    else through gloo."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with devices.joined(device) as where:
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            yield Process(*where)
        finally:
            # what runs in this process afterwards has settings of its own
            torch.backends.cudnn.benchmark = before


def averaged(figures: dict[str, Tensor], process: Process) -> dict[str, float]:
    """The means of scalars over all processes, which all call this."""
    values = torch.stack(list(figures.values()))
    if process.world > 1:
        dist.all_reduce(values)
        values /= process.world
    return dict(zip(figures, values.tolist(), strict=True))


def distributed(model: nn.Module, process: Process, has_unused_parameters: bool) -> nn.Module:
    """The model with gradients averaged over all processes. Each keeps its own running statistics:
    the first's are saved.

    ``has_unused_parameters``: the loss does not depend on all parameters.
    """
    if process.world == 1:
        return model
    ids = [process.device.index] if process.device.type == "cuda" else None
    with warnings.catch_warnings():
        # its successor is missing before torch 2.15
        warnings.filterwarnings("ignore", "`broadcast_buffers`")
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=ids,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=has_unused_parameters,
        )
