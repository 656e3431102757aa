"""What processes that load images need, and the errors when they fail.

They hand their batches over in /dev/shm. A container often has 64 MB of it: a process that finds no
room there is killed, or its batch never comes.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterable, Iterator
from typing import TypeVar

from .errors import TrainingError

log = logging.getLogger("detco")

SHARED = "/dev/shm"
AHEAD = 2  # batches that a process makes before they are asked for
IN_USE = 2  # batches: one trained on, one on its way
SPARE = 0.9  # share of the free memory that is counted on
TIMEOUT = 600  # seconds for one batch
MORE = "give the container more (docker run --shm-size=8g, or --ipc=host)"

# open files of a process: each tensor that is handed over takes one, and where there is none left
# the others wait for it for ever
FILES = 128

Batch = TypeVar("Batch")


def shared_memory() -> int | None:
    """Free bytes of /dev/shm; None where there is none."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def fitting(workers: int, batch: int) -> int:
    """How many of these loading processes there is room for, with `batch` bytes a batch. Fewer than
    asked for are warned of."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if workers and 0 <= files < FILES:  # negative: no limit
        log.warning(
            "a process may open %s files only: no loading processes; `ulimit -n 1024` lifts it",
            files,
        )
        return 0
    free = shared_memory()
    if not workers or free is None:
        return workers
    room = int(free * SPARE) // max(1, batch) - IN_USE
    fit = max(0, min(workers, room // AHEAD))
    if fit < workers:
        log.warning(
            "%s has %.0f MB free, and a batch takes %.1f MB: %s of %s loading processes; %s",
            SHARED,
            free / 1e6,
            batch / 1e6,
            fit or "none",
            workers,
            MORE,
        )
    return fit


def batches(loader: Iterable[Batch]) -> Iterator[Batch]:
    """A loader's batches. Raises TrainingError where a loading process died or none comes."""
    try:
        yield from loader
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        if text.startswith("Caught ") or "DataLoader" not in text:
            raise  # a mistake in the process, with its own traceback
        raise TrainingError(
            f"a process that loads images died or hangs ({text}); where {SHARED} is small, {MORE}"
        ) from error
