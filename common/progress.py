"""How work that takes long reports its progress."""

from typing import Protocol


class Report(Protocol):
    """Called at every step, e.g. `report("train", 10, 300, loss=0.7)`."""

    def __call__(self, stage: str, done: int, total: int, **figures: float | str) -> None: ...


def silent(stage: str, done: int, total: int, **figures: float | str) -> None:
    """A `Report` that says nothing."""
