"""Tables as text: for a terminal (in blocks that fit), Markdown, LaTeX (latex.py), HTML.

Every table of this project is a `Grid` of `Cell`s first (cells.py); what is in the cells is decided
elsewhere.
"""

import html
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from .cells import Cell, Grid, Group, with_printable
from .latex import latex

WIDTH = 120  # characters, where the terminal's width is unknown
# bold, cyan, yellow, dim: safe for the colour-blind
CODES = {
    "best": "1",
    "up": "36",
    "down": "33",
    "noise": "2",
    "dim": "2",
}
WORDS = ' class="words"'  # of a column in HTML


def render(grid: Grid, form: str = "terminal", width: int = WIDTH, colour: bool = False) -> str:
    """The grid in a format: terminal, md, latex, html. `colour`: with a terminal's codes.

    Names come out of files: control characters are shown as escapes, signs of the
    format as themselves.
    """
    grid = with_printable(grid)
    if form == "terminal":
        return _terminal(grid, width, colour)
    return {"md": _markdown, "latex": latex, "html": _html}[form](grid)


# --- terminal ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """Widths of a column's texts and of its footnote marks, in characters."""

    name: str
    align: str
    text: int
    mark: int

    @property
    def width(self) -> int:
        return self.text + self.mark

    def pad(self, text: str, mark: str = "") -> str:
        return (text.rjust(self.text) if self.align == "r" else text.ljust(self.text)) + mark.ljust(
            self.mark
        )


def _terminal(grid: Grid, width: int, colour: bool) -> str:
    rows = [row for section in grid.sections for row in section.rows]
    head = max([len(grid.corner), *(len(name) for name, _ in rows)]) + 2
    columns = []
    for n, (name, align) in enumerate(
        (name, group.align) for group in grid.groups for name in group.columns
    ):
        texts, marks = (
            [len(cells[n].text) for _, cells in rows],
            [len(_mark(cells[n])) for _, cells in rows],
        )
        columns.append(_Column(name, align, max([len(name), *texts]), max([0, *marks])))
    lines = [_paint(line, "best", colour) for line in textwrap.wrap(grid.title, width)]
    lines += [""] if grid.title else []
    for block in _blocks(grid.groups, columns, width - head) if rows else ():
        lines += [*_heading(grid, block, columns, head, colour)]
        rule = _paint("─" * (head + sum(size for *_, size in block) - 2), "dim", colour)
        for section in grid.sections:
            lines += [rule, *([_paint(section.title, "dim", colour)] if section.title else [])]
            lines += [
                _line(name, cells, block, columns, head, colour) for name, cells in section.rows
            ]
        lines.append("")
    notes = [line for note in grid.notes for line in textwrap.wrap(note, width)]
    return "\n".join(lines + notes).rstrip("\n")


def _blocks(
    groups: Sequence[Group], columns: Sequence[_Column], room: int
) -> list[list[tuple[Group, range, int]]]:
    """Groups with their columns' numbers and width, split where a terminal's width is used up."""
    blocks: list[list[tuple[Group, range, int]]] = []
    used, first = room + 1, 0
    for group in groups:
        whole = range(first, first + len(group.columns))
        first = whole.stop
        for numbers in _pieces(whole, columns, room):
            size = max(len(group.title), len(group.below), _size(numbers, columns)) + 2
            if used + size > room + 2:
                blocks.append([])
                used = 0
            blocks[-1].append((group, numbers, size))
            used += size
    return blocks


def _pieces(numbers: range, columns: Sequence[_Column], room: int) -> list[range]:
    """A group's columns in the fewest equal pieces that fit."""
    pieces = [numbers]
    for count in range(2, len(numbers) + 1):
        if max(_size(piece, columns) for piece in pieces) <= room:
            break
        each = math.ceil(len(numbers) / count)
        pieces = [numbers[n : n + each] for n in range(0, len(numbers), each)]
    return pieces


def _size(numbers: range, columns: Sequence[_Column]) -> int:
    return sum(columns[n].width + 2 for n in numbers) - 2


def _heading(grid: Grid, block, columns: Sequence[_Column], head: int, colour: bool) -> list[str]:
    titles = [
        "".join(getattr(group, key).ljust(size) for group, _, size in block)
        for key in ("title", "below")
    ]
    names = "".join(
        "  ".join(columns[n].pad(columns[n].name) for n in numbers).ljust(size)
        for _, numbers, size in block
    )
    lines = [" " * head + title for title in titles if title.strip()]
    return [
        _paint(line.rstrip(), "dim", colour) for line in [*lines, grid.corner.ljust(head) + names]
    ]


def _line(
    name: str, cells: Sequence[Cell], block, columns: Sequence[_Column], head: int, colour: bool
) -> str:
    texts = []
    for _, numbers, size in block:
        padded = [(columns[n].pad(cells[n].text, _mark(cells[n])), cells[n].tone) for n in numbers]
        line = "  ".join(_paint(text, tone, colour) for text, tone in padded)
        texts.append(line + " " * (size - sum(len(text) + 2 for text, _ in padded) + 2))
    return (name.ljust(head) + "".join(texts)).rstrip()


def _paint(text: str, tone: str, colour: bool) -> str:
    return f"\x1b[{CODES[tone]}m{text}\x1b[0m" if colour and tone and text.strip() else text


def _mark(cell: Cell) -> str:
    return f" [{cell.mark}]" if cell.mark else ""


# --- Markdown, HTML ------------------------------------------------------------------------------


def _markdown(grid: Grid) -> str:
    escape = _plain_markdown

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def shown(cell: Cell) -> str:
        text = escape(cell.text + _mark(cell))
        return f"**{text}**" if cell.tone == "best" else text

    heads = [
        "<br>".join(map(escape, filter(None, (g.title, g.below, name))))
        for g in grid.groups
        for name in g.columns
    ]
    aligns = ["---:" if g.align == "r" else "---" for g in grid.groups for _ in g.columns]
    lines = [f"**{escape(grid.title)}**", ""] if grid.title else []
    lines += [line([escape(grid.corner), *heads]), line(["---", *aligns])]
    for section in grid.sections:
        lines += [line([f"*{escape(section.title)}*", *[""] * len(heads)])] if section.title else []
        lines += [line([escape(name), *map(shown, cells)]) for name, cells in section.rows]
    return "\n".join([*lines, "", *(f"{escape(note)}  " for note in grid.notes)])


# Signs that Markdown would read as code, emphasis, strike-through, HTML, an entity, a link or a
# cell's end. `_` within a word and a `~` with a space behind it are none.
_MARKDOWN = re.compile(
    r"[\\`*<|]|(?<![^\W_])_|_(?![^\W_])|~(?=\S)|(?<=~)~|&(?=#?\w+;)|\](?=[(\[])|^[>#+-](?=\s)"
)


def _plain_markdown(text: str) -> str:
    return _MARKDOWN.sub(lambda found: "\\" + found[0], text)


def _html(grid: Grid) -> str:
    escape = html.escape

    def shown(cell: Cell, align: str) -> str:
        kind = " ".join(filter(None, (cell.tone, "words" if align == "l" else "")))
        mark = f"<sup>{cell.mark}</sup>" if cell.mark else ""
        opening = f'<td class="{kind}">' if kind else "<td>"
        return f"{opening}{escape(cell.text)}{mark}</td>"

    aligns = [group.align for group in grid.groups for _ in group.columns]
    titles = "".join(
        f'<th colspan="{len(g.columns)}"'
        f' scope="colgroup">{"<br>".join(map(escape, filter(None, (g.title, g.below))))}</th>'
        for g in grid.groups
    )
    top = f"<tr><td></td>{titles}</tr>\n" if any(group.title for group in grid.groups) else ""
    heads = (
        (WORDS if group.align == "l" else "", name)
        for group in grid.groups
        for name in group.columns
    )
    names = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in heads)
    caption = f"<caption>{escape(grid.title)}</caption>" if grid.title else ""
    lines = [
        f"<table>{caption}",
        f'<thead>{top}<tr><th scope="col">{escape(grid.corner)}</th>{names}</tr></thead>',
    ]
    for section in grid.sections:
        title = (
            f'<tr><th colspan="{len(aligns) + 1}"'
            f' scope="rowgroup">{escape(section.title)}</th></tr>'
        )
        lines += ["<tbody>", *([title] if section.title else [])]
        for name, cells in section.rows:
            tds = "".join(shown(cell, align) for cell, align in zip(cells, aligns, strict=True))
            lines.append(f'<tr><th scope="row">{escape(name)}</th>{tds}</tr>')
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>", *(f"<p>{escape(note)}</p>" for note in grid.notes)])
