"""Tables before they are text: cells in groups of columns and sections of rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from detco.common.values import printable


@dataclass(frozen=True)
class Cell:
    """One cell as text. `tone`: best, up, down, noise, or "" for plain; `mark`:
    letters of footnotes."""

    text: str
    tone: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Group:
    """Neighbouring columns under a title of two lines; `align` is "r" for numbers,
    "l" for words."""

    title: str
    below: str
    columns: tuple[str, ...]
    align: str = "r"


@dataclass(frozen=True)
class Section:
    """Rows (name, one cell a column) under a title of their own."""

    title: str
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass(frozen=True)
class Grid:
    """A table: groups of columns, sections of rows, notes below. `corner` heads the names
    of the rows; `label` is what a LaTeX document refers to it by."""

    groups: Sequence[Group]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    title: str = ""
    corner: str = ""
    label: str = ""


def with_printable(grid: Grid) -> Grid:
    """The grid with the control characters of its texts as escapes."""
    groups = [
        Group(
            printable(group.title),
            printable(group.below),
            tuple(map(printable, group.columns)),
            group.align,
        )
        for group in grid.groups
    ]
    sections = []
    for section in grid.sections:
        rows = [
            (printable(name), [replace(cell, text=printable(cell.text)) for cell in cells])
            for name, cells in section.rows
        ]
        sections.append(Section(printable(section.title), rows))
    notes = list(map(printable, grid.notes))
    title, corner, label = map(printable, (grid.title, grid.corner, grid.label))
    return Grid(groups, sections, notes, title, corner, label)


def transposed(grid: Grid) -> Grid:
    """Rows as columns and columns as rows: a section becomes a group, a group a section."""
    rows = [cells for section in grid.sections for _, cells in section.rows]
    sections, first = [], 0
    for group in grid.groups:
        title = ", ".join(filter(None, (group.title, group.below)))
        lines = [(name, [row[first + n] for row in rows]) for n, name in enumerate(group.columns)]
        sections.append(Section(title, lines))
        first += len(group.columns)
    align = "r" if any(group.align == "r" for group in grid.groups) else "l"
    groups = [
        Group(section.title, "", tuple(name for name, _ in section.rows), align)
        for section in grid.sections
    ]
    return replace(grid, groups=groups, sections=sections, corner="")


def fitted(grid: Grid, room: int) -> list[Grid]:
    """The grid as several at most `room` characters wide, with two between columns, one below the
    other; notes at the last. A group that is wider is divided, a column never."""
    rows = [row for section in grid.sections for row in section.rows]
    room -= max([len(grid.corner), *(len(name) for name, _ in rows)])
    parts: list[list[tuple[Group, range]]] = []
    used = 0
    for group, numbers, width in _pieces(grid, room):
        if not parts or used + width > room:
            parts.append([])
            used = 0
        parts[-1].append((group, numbers))
        used += width
    return _cut(grid, parts)


def _pieces(grid: Grid, room: int) -> Iterator[tuple[Group, range, int]]:
    """Groups, divided where they are wider than `room`, with the numbers of their columns and
    their width."""
    rows = [cells for section in grid.sections for _, cells in section.rows]
    first = start = 0  # columns: of a group, of its piece
    for group in grid.groups:
        width = 0
        for number, name in enumerate(group.columns, first):
            texts = (len(row[number].text + row[number].mark) for row in rows)
            wide = max([len(name), *texts]) + 2
            if width and width + wide > room:
                yield _piece(group, first, range(start, number), width)
                start, width = number, 0
            width += wide
        first += len(group.columns)
        yield _piece(group, first - len(group.columns), range(start, first), width)
        start = first


def _piece(group: Group, first: int, numbers: range, width: int) -> tuple[Group, range, int]:
    columns = group.columns[numbers.start - first : numbers.stop - first]
    wide = max(width, len(group.title) + 2, len(group.below) + 2)
    return replace(group, columns=columns), numbers, wide


def _cut(grid: Grid, parts: Sequence[Sequence[tuple[Group, range]]]) -> list[Grid]:
    """The grid as one grid for each list of groups with the numbers of their columns."""
    made = []
    for part in parts:
        start, end = part[0][1].start, part[-1][1].stop
        sections = []
        for section in grid.sections:
            rows = [(name, cells[start:end]) for name, cells in section.rows]
            sections.append(Section(section.title, rows))
        notes = grid.notes if part is parts[-1] else ()
        groups = [group for group, _ in part]
        made.append(replace(grid, groups=groups, sections=sections, notes=notes))
    return made
