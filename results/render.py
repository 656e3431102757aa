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
class Row:
    """A line of the table; `first` opens a section (the values, then the differences to each baseline)."""

    label: str
    cells: list[Cell]
    first: bool = False


def render(table, form: str = "terminal", width: int = WIDTH, colour: bool = False) -> str:
    """The table of `tables.ap_table` in a format: terminal, md, csv, latex, html. `colour`: bold by terminal codes."""
    if form == "csv":
        return _csv(table)
    columns = list(dict.fromkeys((group, metric) for group, metric, _ in table.columns))
    rows = _rows(table, columns)
    if form == "terminal":
        return _terminal(table, columns, rows, width, colour)
    return {"md": _markdown, "latex": _latex, "html": _html}[form](table, columns, rows)


def metric_name(metric: str) -> str:
    """`box_ap50` -> `box AP50`, `box_ap/dog` -> `box AP dog`."""
    task, _, rest = metric.partition("_")
    name, _, category = rest.partition("/")
    return f"{task} {name.upper().replace('APS', 'APs').replace('APM', 'APm').replace('APL', 'APl')} {category}".strip()


def _rows(table, columns: Sequence[tuple[str, str]]) -> list[Row]:
    marks = table.attrs["cell_marks"]
    best = {column: round(table[(*column, "mean")].max(), 1) for column in columns} if len(table) > 1 else {}
    rows = []
    for number, name in enumerate(table.index):
        cells, marked = [], set()
        for column in columns:
            mean, std, n, failed = (table.loc[name, (*column, key)] for key in ("mean", "std", "n", "failed"))
            mark = marks.get((name, column[0]), "") if column[0] not in marked else ""
            marked.add(column[0])
            cells.append(Cell(_value(mean, std, n, failed), bool(n) and round(mean, 1) == best.get(column), mark))
        rows.append(Row(name, cells, number == 0))
    for baseline in table.attrs["baselines"]:
        others = [name for name in table.index if name != baseline]
        for number, name in enumerate(others):
            numbers = [
                [table.loc[name, (*column, f"{what} {baseline}")] for what in ("minus", "n")] for column in columns
            ]
            label = f"{name} − {baseline}"
            rows.append(Row(label, [Cell(_difference(*pair)) for pair in numbers], number == 0))
    return rows


def _value(mean: float, std: float, n: int, failed: int) -> str:
    if not n:
        return "failed" if failed else "–"
    return f"{mean:.1f} (1)" if n == 1 else f"{mean:.1f} ± {std:.1f} ({n})"


def _difference(value: float, n: int) -> str:
    if math.isnan(value):
        return "–"
    text = f"{value:+.1f}".replace("-", "−")
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


def _terminal(table, columns, rows: Sequence[Row], width: int, colour: bool) -> str:
    head = max(len(row.label) for row in rows) + 2
    widths = [
        max(len(metric_name(metric)), *(len(_shown(row.cells[number])) for row in rows)) + 2
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
        lines += [
            (" " * head + "".join(titles[line].ljust(size) for titles, _, size in block)).rstrip() for line in (0, 1)
        ]
        names = (
            "".join(metric_name(columns[n][1]).ljust(widths[n]) for n in numbers).ljust(size)
            for _, numbers, size in block
        )
        lines.append((" " * head + "".join(names)).rstrip())
        for row in rows:
            lines += [rule] * row.first
            texts = []
            for _, numbers, size in block:
                cells = [(_shown(row.cells[n]), row.cells[n].best, widths[n]) for n in numbers]
                text = "".join((bold(shown) if best else shown) + " " * (w - len(shown)) for shown, best, w in cells)
                texts.append(text + " " * (size - sum(widths[n] for n in numbers)))
            lines.append((row.label.ljust(head) + "".join(texts)).rstrip())
        lines.append("")
    return "\n".join(lines + _notes(table))


def _markdown(table, columns, rows: Sequence[Row]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    heads = ["<br>".join((*_header(table, group), metric_name(metric))) for group, metric in columns]
    lines = [line(["", *heads]), line(["---", *["---:"] * len(columns)])]
    lines += [line([row.label, *(f"**{_shown(c)}**" if c.best else _shown(c) for c in row.cells)]) for row in rows]
    return "\n".join([*lines, "", *(f"{note}  " for note in _notes(table))])


def _latex(table, columns, rows: Sequence[Row]) -> str:
    def shown(cell: Cell) -> str:
        text = _tex(cell.text)
        return (rf"\textbf{{{text}}}" if cell.best else text) + (
            rf"\textsuperscript{{{cell.mark}}}" if cell.mark else ""
        )

    spans = _spans(columns)
    lines = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
    for part in (0, 1):
        titles = (
            rf"\multicolumn{{{len(numbers)}}}{{c}}{{{_tex(_header(table, group)[part])}}}" for group, numbers in spans
        )
        lines.append(" & ".join(["", *titles]) + r" \\")
    lines.append(" ".join(rf"\cmidrule(lr){{{numbers[0] + 2}-{numbers[-1] + 2}}}" for _, numbers in spans))
    lines.append(" & ".join(["", *(_tex(metric_name(metric)) for _, metric in columns)]) + r" \\")
    for row in rows:
        lines += [r"\midrule"] * row.first + [" & ".join([_tex(row.label), *map(shown, row.cells)]) + r" \\"]
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


def _html(table, columns, rows: Sequence[Row]) -> str:
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
    for number, row in enumerate(rows):
        lines += (["</tbody>"] if row.first and number else []) + (["<tbody>"] if row.first else [])
        lines.append(f'<tr><th scope="row">{escape(row.label)}</th>{"".join(map(shown, row.cells))}</tr>')
    return "\n".join([*lines, "</tbody>", "</table>", *(f"<p>{escape(note)}</p>" for note in _notes(table))])


def _csv(table) -> str:
    """Long form with full precision: one line a starting point, group and metric."""
    long = table.stack(["group", "metric"], future_stack=True).reset_index()
    long = long[[column for column in long.columns if not str(column).startswith("n ")]]
    return long.rename_axis(columns=None).to_csv(index=False).rstrip("\n")
