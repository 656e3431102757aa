"""The device that a process computes on: whether bfloat16 is fast there, and who else computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # asked for by commands that should not import torch
    import torch

CPU_FEATURES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
# The others wait while the first reads or computes alone: ImageNet is 150 GB.
PATIENCE = timedelta(hours=3)


def fast_bf16(device: str) -> bool:
    """Whether `cpu` or `cuda` multiplies bfloat16 in hardware. Emulation is slower than float32."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # A torch that lacks one of the questions was built for a processor without the feature.
    return device == "cpu" and any(getattr(torch.cpu, name, bool)() for name in CPU_FEATURES)


@contextmanager
def joined(device: str) -> Iterator[tuple[torch.device, int, int]]:
    """(device, rank, world) of this process among those that torchrun, or a launcher in its words,
    started together.

    Several are joined, on GPUs by NCCL, else by gloo, and parted at the end, unless they were
    joined before.
    """
    import torch
    import torch.distributed as dist

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    joins = world > 1 and not dist.is_initialized()
    if joins:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        together = dist.is_initialized()
        yield place, dist.get_rank() if together else 0, dist.get_world_size() if together else 1
    finally:
        if joins:
            dist.destroy_process_group()
