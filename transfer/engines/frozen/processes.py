"""The processes that train one classifier together: each sees a share of every batch, and their
gradients are added up. What starts them says so in torchrun's words."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from detco.common import device as devices


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


@contextmanager
def joined(device: str) -> Iterator[Share]:
    """Join the others, if there are any."""
    with devices.joined(device) as (place, rank, world):
        yield Share(str(place), rank, world)
