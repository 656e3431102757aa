"""Checkpoints of a run: written atomically, the last few kept, only tensors and plain
values in them."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch

from detco.common.files import write_atomic

log = logging.getLogger("detco.pretrain")


def save(out: Path, iteration: int, state: dict, keep: int) -> None:
    """Write ``out/checkpoint-<iteration>.pt`` and remove all but the ``keep`` newest."""
    path = out / f"checkpoint-{iteration:09d}.pt"
    write_atomic(path, partial(torch.save, state))
    for old in [*_all(out)[keep:], *out.glob("checkpoint-*.part")]:
        old.unlink(missing_ok=True)


def load(out: Path) -> dict | None:
    """The newest checkpoint that can be read, on the CPU; None if there is none."""
    for path in _all(out):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (
            Exception
        ) as error:  # a damaged disk or a file of something else: the one before will do
            log.warning(
                "%s cannot be read (%s); going back to the checkpoint before it", path, error
            )
    return None


def clear(out: Path) -> None:
    """Remove all checkpoints, once the run has finished."""
    for path in out.glob("checkpoint-*"):
        path.unlink(missing_ok=True)


def _all(out: Path) -> list[Path]:
    return sorted(out.glob("checkpoint-*.pt"), reverse=True)
