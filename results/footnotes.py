"""Notes below a table, each under a letter."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field


@dataclass
class Footnotes:
    """Collects notes on places of a table (a group, a cell) and gives each place its mark, e.g.
    `a,c`. The same note has the same letter everywhere; letters go by first use."""

    letters: dict[str, str] = field(default_factory=dict)  # by note
    marks: dict[Hashable, str] = field(default_factory=dict)  # by place

    def add(self, place: Hashable, notes: Iterable[str]) -> str:
        """Adds notes to a place and returns its mark; "" without notes."""
        found = [self.letters.setdefault(note, letter(len(self.letters))) for note in notes]
        self.marks[place] = ",".join(found)
        return self.marks[place]

    def at(self, place: Hashable) -> str:
        return self.marks.get(place, "")

    def texts(self, place: Hashable) -> list[str]:
        """The notes on a place."""
        notes = {letter: note for note, letter in self.letters.items()}
        return [notes[mark] for mark in self.at(place).split(",") if mark]

    def lines(self) -> list[str]:
        """The notes as they stand below the table: `[a] text`."""
        return [f"[{letter}] {note}" for note, letter in self.letters.items()]


def letter(number: int) -> str:
    """0 is a, 25 is z, 26 is aa."""
    return (letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)
