"""The processes that train one classifier together: each sees a share of every batch, and their
gradients are added up. What starts them says so in torchrun's words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(hours=3)  # the first process computes features while the others wait


@dataclass(frozen=True)
class Share:
    """This process among all."""

    device: str
    rank: int = 0
    world: int = 1

    def own(self, batch: list) -> list:
        return batch[self.rank :: self.world]

    def sum(self, values: Tensor) -> None:
        """Put the sum over all processes in place of the values."""
        if self.world > 1:
            dist.all_reduce(values)

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


@contextmanager
def joined(device: str) -> Iterator[Share]:
    """Join the others, through NCCL on GPUs, else gloo; nothing to do for a single process."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Share(device)
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield Share(device, rank(), world)
    finally:
        dist.destroy_process_group()
