"""How long work says where it is."""

from typing import Protocol


class Report(Protocol):
    """Called at every step of long work."""

    def __call__(self, stage: str, done: int, total: int, **figures: float | str) -> None: ...
