"""Speed measurements: the usual implementation and ours, alternating in one run."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detco.common.progress import Report


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of some repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def alternate(
    ways: dict[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float],
    report: Report | None = None,
) -> dict[str, list[float]]:
    """Run all ways in turn, `repeats` times after one unmeasured run of each; seconds of each run
    by way."""
    for number, run in enumerate(ways.values(), 1):
        run()
        if report:
            report("warming up", number, len(ways))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name, run in ways.items():
            began = clock()
            run()
            seconds[name].append(clock() - began)
        if report:
            report("measuring", repeat + 1, repeats)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> Spread:
    """How many times faster `fast` is than `slow`, from ratios of adjacent runs."""
    return Spread.of([a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)])


def device_clock(device) -> Callable[[], float]:
    """A wall clock that first waits until the GPU has finished."""
    import torch

    if device.type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def resolve(device: str):
    """`auto`, `cpu` or `cuda` as a torch device. Raises InputError where there is
    no such device."""
    import torch

    from detco.common.errors import InputError

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU on this machine")
    return torch.device(
        "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    )


def machine(device) -> str:
    """What the figures were measured on, for the first line of a benchmark."""
    import torch

    from ..run.provenance import hardware

    facts = hardware()
    where = f"{facts['processor']}, {os.cpu_count()} cores, torch {torch.__version__}"
    return f"{torch.cuda.get_device_name(device)}; {where}" if device.type == "cuda" else where
