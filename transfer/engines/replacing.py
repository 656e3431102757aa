"""A training picture that breaks while training goes on is replaced by another one and counted, up
to a limit.

For both engines. Loading processes give each item with the names of what could not be read; the
training process counts.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from detco.common.errors import InputError

from ..data.dataset import Dataset
from ..data.inspection import Unreadable
from ..data.reading import check_command

# Distinct broken pictures that a run may have: a share of those to train on, at least so many.
SHARE, LEAST = 0.001, 5
TRIES = 10  # pictures in a row: if all cannot be read, the disk is gone and not a picture

Item = TypeVar("Item")
Broken = tuple[str, str]  # path of a picture, and why it cannot be read
log = logging.getLogger("detco.transfer")


def readable(
    read: Callable[[int], Item],
    number: int,
    others: Callable[[int], Sequence[int]],
    draw: Sequence[int],
) -> tuple[Item | None, list[Broken]]:
    """`read(number)`, or of another picture where that is Unreadable; and what could not be read.

    others(number): pictures that may take its place; draw: what the choice among them depends on,
    e.g. (seed, batch, place), so that a restart repeats it. None where TRIES in a row cannot be
    read, or there are no others.
    """
    broken: list[Broken] = []
    for attempt in range(TRIES):
        try:
            return read(number), broken
        except Unreadable as error:
            broken.append((error.path, str(error)))
        choice = others(number)
        if not len(choice):
            break
        number = int(choice[np.random.default_rng((*draw, attempt)).integers(len(choice))])
    return None, broken


def items_of(found: Iterable[tuple[Item | None, list[Broken]]]) -> tuple[list[Item], list[Broken]]:
    """The items of a training batch, and all that could not be read. Raises InputError where
    nothing could."""
    items, broken = [], []
    for item, why in found:
        if item is None:
            raise InputError(f"{len(why)} training pictures in a row cannot be read: {why[0][1]}")
        items.append(item)
        broken += why
    return items, broken


def untestable(error: Unreadable) -> InputError:
    """The error for a picture to test on: no other can stand for it."""
    return InputError(f"{error}; a test picture cannot be replaced: bring it back and start again")


def refuse(batch: Iterable[Item | Unreadable]) -> None:
    """InputError for the first item of a test batch that cannot be read."""
    for item in batch:
        if isinstance(item, Unreadable):
            raise untestable(item)


class Replaced:
    """How many of a run's training pictures could not be read, and how often: in its checkpoint and
    in its record.

    pictures: those that there are to train on; warn: of each that is met first.
    """

    def __init__(self, dataset: Dataset, pictures: int, warn: bool = True):
        command = check_command(dataset.layout, dataset.root, dataset.split)
        self.remedy = f"`{command}` lists all"
        self.limit, self.total = max(LEAST, int(SHARE * pictures)), pictures
        self.reasons: dict[str, str] = {}  # by path, in the order in which they were met
        self.draws, self.warn = 0, warn

    def add(self, broken: Iterable[Broken]) -> None:
        """Raises InputError when there are too many different ones."""
        for path, reason in broken:
            self.draws += 1
            if path not in self.reasons:
                self.reasons[path] = reason
                if self.warn:
                    log.warning("another picture takes its place: %s", reason)
        if len(self.reasons) > self.limit:
            first = next(iter(self.reasons.values()))
            raise InputError(
                f"{len(self.reasons)} of {self.total:,} training pictures cannot be read, up to"
                f" {self.limit} are replaced; the first: {first}; bring them back and start again"
                f" ({self.remedy})"
            )

    def state_dict(self) -> dict:
        return {"draws": self.draws, "reasons": dict(self.reasons)}

    def load_state_dict(self, state: dict) -> None:
        self.draws, self.reasons = state.get("draws", 0), dict(state.get("reasons", {}))

    def facts(self) -> dict:
        """For the record: nothing if all could be read."""
        if not self.reasons:
            return {}
        return {
            "replaced": {
                "pictures": len(self.reasons),
                "draws": self.draws,
                "first": next(iter(self.reasons.values())),
            }
        }


def deviations(facts: dict) -> tuple[str, ...]:
    """What a table says of `Replaced.facts`."""
    count = facts.get("replaced", {}).get("pictures", 0)
    if not count:
        return ()
    if count == 1:
        return ("1 training picture could not be read and was replaced by others",)
    return (f"{count} training pictures could not be read and were replaced by others",)
