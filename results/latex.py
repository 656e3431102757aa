"""Tables as LaTeX: a float (booktabs) that fits the page, with caption, label and notes."""

import re
import textwrap
from collections.abc import Iterator, Sequence

from .cells import Cell, Grid, Group, fitted

ROOM = 82  # characters of a line of \footnotesize in the text width of `article`, 345 pt
LINES, HEAD = 44, 5  # of a page that stay free for rows; of the head and the rules of a part
CAPTION = "Transfer to detection from several starting points of the backbone, in percent"
MATHS = {
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "√": r"$\surd$",
    "²": "$^2$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "~": r"$\sim$",
    "^": r"\textasciicircum{}",
    "…": r"\dots{}",
}


def latex(grid: Grid) -> str:
    """A `table` with the grid's title as caption: of a wide grid parts below each other, of a tall
    one several. Without a label of its own it has one made of its title."""
    label = grid.label or "tab:" + (_slug(grid.title) or "transfer")
    caption, floats = _tex(grid.title or CAPTION), _floats(fitted(grid, ROOM))
    lines = [r"% \usepackage{booktabs}"]
    for number, parts in enumerate(floats):
        end = " (continued)" if number else rf"}}\label{{{label}"
        lines += [r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"]
        lines += [r"\addtocounter{table}{-1}"] if number else []
        lines += [rf"\caption{{{caption}{end}}}"]
        for part in parts:
            lines += [r"\medskip", *_tabular(part), ""]
        if parts is floats[-1] and grid.notes:
            lines += [r"\medskip\raggedright\scriptsize"]
            lines += [_tex(note) + r"\par" for note in grid.notes]
        lines += [r"\end{table}"]
    return "\n".join(lines)


def _floats(parts: Sequence[Grid]) -> list[list[Grid]]:
    """Parts that fit on one page together."""
    floats: list[list[Grid]] = []
    used = 0  # lines of the last float
    for part in parts:
        lines = HEAD + sum(bool(one.title) + len(one.rows) for one in part.sections)
        if not floats or used + lines > LINES:
            floats.append([])
            used = 0
        floats[-1].append(part)
        used += lines
    return floats


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _tabular(grid: Grid) -> Iterator[str]:
    names = [name for group in grid.groups for name in group.columns]
    aligns = "".join(group.align * len(group.columns) for group in grid.groups)
    yield rf"\begin{{tabular}}{{l{aligns}}}"
    yield r"\toprule"
    for key in ("title", "below"):
        titles = [(len(group.columns), getattr(group, key)) for group in grid.groups]
        if any(title for _, title in titles):
            heads = (rf"\multicolumn{{{n}}}{{c}}{{{_tex(title)}}}" for n, title in titles)
            yield " & ".join(["", *heads]) + r" \\"
    if rules := _rules(grid.groups):
        yield rules
    yield " & ".join(map(_tex, [grid.corner, *names])) + r" \\"
    for section in grid.sections:
        yield r"\midrule"
        for line in textwrap.wrap(section.title, ROOM):
            yield rf"\multicolumn{{{len(names) + 1}}}{{l}}{{\emph{{{_tex(line)}}}}} \\"
        for name, cells in section.rows:
            yield " & ".join([_tex(name), *map(_cell, cells)]) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _cell(cell: Cell) -> str:
    text = _tex(cell.text)
    mark = rf"\textsuperscript{{{cell.mark}}}" if cell.mark else ""
    return (rf"\textbf{{{text}}}" if cell.tone == "best" else text) + mark


def _rules(groups: Sequence[Group]) -> str:
    """The booktabs rule under each group that has a title."""
    rules, first = [], 2
    for group in groups:
        last = first + len(group.columns) - 1
        rules += [rf"\cmidrule(lr){{{first}-{last}}}"] if group.title else []
        first = last + 1
    return " ".join(rules)


def _tex(text: str) -> str:
    text = re.sub(r"[&%$#_{}]", lambda found: "\\" + found[0], text.replace("\\", "\0"))
    text = "".join(MATHS.get(sign, sign) for sign in text)
    text = text.replace("\0", r"\textbackslash{}")
    return re.sub(r"^\[", "{[}", text)  # behind the end of a row it would begin an option
