"""The AP table as text: for a terminal (in blocks that fit), Markdown, CSV, LaTeX (booktabs), HTML."""

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH = 120  # of a terminal, where nobody says
EXPLAINED = "± standard deviation over seeds, (n) how many; (1): a single run, its spread is unknown"


@dataclass(frozen=True)
class Cell:
    """One cell as text; the best of its column is `best`; `mark`: letters of footnotes."""

    text: str
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Section:
    """Lines of the table under a title: first the values (no title), then the differences to each baseline."""

    title: str
    rows: list[tuple[str, list[Cell]]]


def render(table, form: str = "terminal", width: int = WIDTH, colour: bool = False) -> str:
    """The table of `tables.ap_table` in a format: terminal, md, csv, latex, html. `colour`: bold by terminal codes."""
    if form == "csv":
        return _csv(table)
    columns = list(dict.fromkeys((group, metric) for group, metric, _ in table.columns))
    sections = _sections(table, columns)
    if form == "terminal":
        return _terminal(table, columns, sections, width, colour)
    return {"md": _markdown, "latex": _latex, "html": _html}[form](table, columns, sections)


def metric_name(metric: str) -> str:
    """`box_ap50` -> `box AP50`, `box_ap/dog` -> `box AP dog`."""
    task, _, rest = metric.partition("_")
    name, _, category = rest.partition("/")
    return f"{task} {name.upper().replace('APS', 'APs').replace('APM', 'APm').replace('APL', 'APl')} {category}".strip()


def _sections(table, columns: Sequence[tuple[str, str]]) -> list[Section]:
    """The cells as text. Columns are taken out of the DataFrame once: looking up single values is slow."""
    numbers = {key: table[key].tolist() for key in table.columns}
    shown = {column: [_rounded(value) for value in numbers[(*column, "mean")]] for column in columns}
    best = {}
    for column, means in shown.items():
        there = {mean for mean in means if mean is not None}
        best[column] = max(there) if len(there) > 1 else None
    first = {numbers[0] for _, numbers in _spans(columns)}  # a group's footnotes stand at its first metric
    values = []
    for row, name in enumerate(table.index):
        cells = []
        for number, column in enumerate(columns):
            text = _value(*(numbers[(*column, key)][row] for key in ("mean", "std", "n", "failed")))
            mark = table.attrs["cell_marks"].get((name, column[0]), "") if number in first else ""
            top = shown[column][row] is not None and shown[column][row] == best[column]
            cells.append(Cell(text, top, mark))
        values.append((name, cells))
    sections = [Section("", values)]
    for baseline in table.attrs["baselines"]:
        lines = []
        for row, name in enumerate(table.index):
            pairs = ([numbers[(*column, f"{what} {baseline}")][row] for what in ("minus", "n")] for column in columns)
            lines += [(name, [Cell(_difference(*pair)) for pair in pairs])] if name != baseline else []
        sections += [Section(f"difference to {baseline}", lines)] if lines else []
    return sections


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 1)


def _value(mean: float, std: float, n: int, failed: int) -> str:
    if not n:
        return "failed" if failed else "–"
    return f"{mean:.1f} (1)" if n == 1 else f"{mean:.1f} ± {std:.1f} ({n})"


def _difference(value: float, n: int) -> str:
    if math.isnan(value):
        return "–"
    text = f"{value:+.1f}".replace("-", "−") if round(value, 1) else "0.0"
    return f"{text} (1)" if n == 1 else text


def _notes(table) -> list[str]:
    return [EXPLAINED, *(f"[{letter}] {text}" for letter, text in table.attrs["notes"].items())]


def _header(table, group: str) -> tuple[str, str]:
    """Two lines over a group's columns."""
    protocol, _, rest = group.partition(": ")
    mark = table.attrs["group_marks"].get(group)
    return protocol + (f" [{mark}]" if mark else ""), rest


def _spans(columns: Sequence[tuple[str, str]]) -> list[tuple[str, list[int]]]:
    spans: dict[str, list[int]] = {}
    for number, (group, _) in enumerate(columns):
        spans.setdefault(group, []).append(number)
    return list(spans.items())


def _shown(cell: Cell) -> str:
    return cell.text + (f" [{cell.mark}]" if cell.mark else "")


def _terminal(table, columns, sections: Sequence[Section], width: int, colour: bool) -> str:
    rows = [row for section in sections for row in section.rows]
    head = max(len(name) for name, _ in rows) + 2
    widths = [
        max(len(metric_name(metric)), *(len(_shown(cells[number])) for _, cells in rows)) + 2
        for number, (_, metric) in enumerate(columns)
    ]
    blocks, used = [], width + 1
    for group, numbers in _spans(columns):
        titles = _header(table, group)
        size = max(sum(widths[n] for n in numbers), len(titles[0]) + 2, len(titles[1]) + 2)
        if used + size > width:
            blocks.append([])
            used = head
        blocks[-1].append((titles, numbers, size))
        used += size
    bold = (lambda text: f"\x1b[1m{text}\x1b[0m") if colour else (lambda text: text)
    dim = (lambda text: f"\x1b[2m{text}\x1b[0m") if colour else (lambda text: text)
    lines = []
    for block in blocks:
        rule = dim("─" * (head + sum(size for *_, size in block)))
        lines += [(" " * head + "".join(titles[line].ljust(size) for titles, _, size in block)).rstrip() for line in (0, 1)]
        names = ("".join(metric_name(columns[n][1]).ljust(widths[n]) for n in numbers).ljust(size) for _, numbers, size in block)
        lines.append((" " * head + "".join(names)).rstrip())
        for section in sections:
            lines += [rule, *([dim(section.title)] if section.title else [])]
            for name, cells in section.rows:
                texts = []
                for _, numbers, size in block:
                    shown = [_shown(cells[n]).ljust(widths[n]) for n in numbers]
                    bolds = [bold(text) if cells[n].best else text for text, n in zip(shown, numbers, strict=True)]
                    texts.append("".join(bolds) + " " * (size - sum(map(len, shown))))
                lines.append((name.ljust(head) + "".join(texts)).rstrip())
        lines.append("")
    return "\n".join(lines + _notes(table))


def _markdown(table, columns, sections: Sequence[Section]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    heads = ["<br>".join((*_header(table, group), metric_name(metric))) for group, metric in columns]
    lines = [line(["", *heads]), line(["---", *["---:"] * len(columns)])]
    for section in sections:
        lines += [line([f"*{section.title}*", *[""] * len(columns)])] if section.title else []
        for name, cells in section.rows:
            lines.append(line([name, *(f"**{_shown(c)}**" if c.best else _shown(c) for c in cells)]))
    return "\n".join([*lines, "", *(f"{note}  " for note in _notes(table))])


def _latex(table, columns, sections: Sequence[Section]) -> str:
    def shown(cell: Cell) -> str:
        text = _tex(cell.text)
        return (rf"\textbf{{{text}}}" if cell.best else text) + (rf"\textsuperscript{{{cell.mark}}}" if cell.mark else "")

    spans = _spans(columns)
    lines = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
    for part in (0, 1):
        titles = (rf"\multicolumn{{{len(numbers)}}}{{c}}{{{_tex(_header(table, group)[part])}}}" for group, numbers in spans)
        lines.append(" & ".join(["", *titles]) + r" \\")
    lines.append(" ".join(rf"\cmidrule(lr){{{numbers[0] + 2}-{numbers[-1] + 2}}}" for _, numbers in spans))
    lines.append(" & ".join(["", *(_tex(metric_name(metric)) for _, metric in columns)]) + r" \\")
    for section in sections:
        title = rf"\multicolumn{{{len(columns) + 1}}}{{l}}{{\emph{{{_tex(section.title)}}}}} \\"
        lines += [r"\midrule", *([title] if section.title else [])]
        lines += [" & ".join([_tex(name), *map(shown, cells)]) + r" \\" for name, cells in section.rows]
    notes = [rf"\par\footnotesize {_tex(note)}" for note in _notes(table)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes])


def _tex(text: str) -> str:
    text = re.sub(r"[&%$#_{}]", lambda found: "\\" + found[0], text.replace("\\", r"\textbackslash "))
    for sign, code in (
        ("±", r"$\pm$"),
        ("−", "$-$"),
        ("–", "--"),
        ("~", r"\textasciitilde "),
        ("^", r"\textasciicircum "),
    ):
        text = text.replace(sign, code)
    return text.replace("<", "$<$").replace(">", "$>$")


def _html(table, columns, sections: Sequence[Section]) -> str:
    escape: Callable[[str], str] = html.escape

    def shown(cell: Cell) -> str:
        text = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
        return f"<td>{text}{f'<sup>{cell.mark}</sup>' if cell.mark else ''}</td>"

    groups = "".join(
        f'<th colspan="{len(numbers)}" scope="colgroup">{"<br>".join(map(escape, _header(table, group)))}</th>'
        for group, numbers in _spans(columns)
    )
    names = "".join(f'<th scope="col">{escape(metric_name(metric))}</th>' for _, metric in columns)
    lines = ["<table>", f"<thead><tr><td></td>{groups}</tr>", f"<tr><td></td>{names}</tr></thead>"]
    for section in sections:
        title = f'<tr><th colspan="{len(columns) + 1}" scope="rowgroup">{escape(section.title)}</th></tr>'
        lines += ["<tbody>", *([title] if section.title else [])]
        lines += [f'<tr><th scope="row">{escape(n)}</th>{"".join(map(shown, cells))}</tr>' for n, cells in section.rows]
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>", *(f"<p>{escape(note)}</p>" for note in _notes(table))])


def _csv(table) -> str:
    """Long form with full precision: one line a starting point, group and metric."""
    long = table.stack(["group", "metric"], future_stack=True).reset_index()
    long = long[[column for column in long.columns if not str(column).startswith("n ")]]
    return long.rename_axis(columns=None).to_csv(index=False).rstrip("\n")
