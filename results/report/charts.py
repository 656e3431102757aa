"""Bar and line charts as inline SVG, in the classes of charts.css. Each says its numbers in its
`desc`, for screen readers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 440  # pixels, also on a telephone
COLOURS = 8  # defined by charts.css; further lines repeat them with another dash
LETTER = 7  # pixels a letter, roughly, at 12 px
BESIDE = 20  # letters of the longest name that stands beside its bar, not above it
TOLD = 12  # points of a line that its description names
DASHES = ("", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Bar:
    """`error`: standard deviation, NaN for a single run; `values`: the single runs; `text`: beside
    the bar."""

    name: str
    mean: float
    error: float
    values: Sequence[float]
    text: str
    colour: int = 0


@dataclass(frozen=True)
class Line:
    """Points (x, y); `errors`: one for each point or none; `published`: thin, dotted and without
    markers filled."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    errors: Sequence[float] = ()
    markers: bool = False
    published: bool = False


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, at most `most` + 2 of them.

    >>> ticks(0, 47)
    [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(
        factor * power
        for factor in (1, 2, 2.5, 5, 10)
        if factor * power * most >= span * (1 - 1e-9)
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def bars(rows: Sequence[Bar], label: str) -> str:
    """Horizontal bars from 0 with error bars, a dot for each run, and the values beside them."""
    longest = max(len(row.name) for row in rows)
    above = longest > BESIDE
    left, step = (8, 42) if above else (12 + LETTER * longest, 26)
    right = 12 + LETTER * max(len(row.text) for row in rows)
    top = max(
        max([row.mean + (0 if math.isnan(row.error) else row.error), *row.values]) for row in rows
    )
    marks = ticks(0, top or 1)
    height = step * len(rows)

    def x(value: float) -> float:
        return left + (WIDTH - left - right) * value / marks[-1]

    parts = [
        _line(x(mark), 0, x(mark), height, "grid")
        + _text(x(mark), height + 16, f"{mark:g}", "middle")
        for mark in marks
    ]
    for number, row in enumerate(rows):
        middle = step * (number + 1) - 13
        if above:
            parts.append(_text(left + 3, middle - 13, row.name, "start", WIDTH - left - 3))
        else:
            parts.append(_text(left - 6, middle + 4, row.name, "end"))
        parts += _bar(row, middle, x)
    parts += [
        _line(x(0), 0, x(0), height, "axis"),
        _text((x(0) + x(marks[-1])) / 2, height + 33, label, "middle"),
    ]
    told = "; ".join(f"{row.name}: {row.text}{_runs(row.values)}" for row in rows)
    return _svg(height + 40, parts, f"bar chart: {label}", told)


def _bar(row: Bar, middle: float, x: Callable[[float], float]) -> list[str]:
    """The bar with its error and its runs, and the value behind the farthest of them."""
    size = f'x="{x(0):.1f}" y="{middle - 8}" width="{x(row.mean) - x(0):.1f}" height="16"'
    parts = [f'<rect {size} class="c{row.colour % COLOURS}"/>']
    end = row.mean
    if not math.isnan(row.error):
        low, end = x(max(0, row.mean - row.error)), row.mean + row.error
        parts += [_line(low, middle, x(end), middle, "error"), _cap(low, middle)]
        parts.append(_cap(x(end), middle))
    parts += [
        f'<circle cx="{x(value):.1f}" cy="{middle}" r="2" class="run"/>' for value in row.values
    ]
    return [*parts, _text(x(max([end, *row.values])) + 6, middle + 4, row.text, "start")]


def _runs(values: Sequence[float]) -> str:
    return f", runs {', '.join(f'{value:.1f}' for value in values)}" if len(values) > 1 else ""


def lines(series: Sequence[Line], x_label: str, y_label: str, from_zero: bool = False) -> str:
    """Lines over a common pair of axes, told apart by colour and dash, named in a legend below."""
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    ys += [
        y + sign * e
        for line in series
        for (_, y), e in zip(line.points, line.errors)
        if not math.isnan(e)
        for sign in (-1, 1)
    ]
    x_marks, y_marks = ticks(0, max(xs)), ticks(0 if from_zero else min(ys), max(ys))
    left, right, top, bottom = (
        28 + LETTER * max(len(f"{mark:g}") for mark in y_marks),
        WIDTH - 14,
        8,
        208,
    )

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = x / x_marks[-1], (y - y_marks[0]) / (y_marks[-1] - y_marks[0])
        return left + (right - left) * across, bottom - (bottom - top) * up

    parts = []
    for mark in y_marks:
        y = place(0, mark)[1]
        parts.append(_line(left, y, right, y, "grid") + _text(left - 5, y + 4, f"{mark:g}", "end"))
    for mark in x_marks:
        parts.append(_text(place(mark, y_marks[0])[0], bottom + 16, thousands(mark), "middle"))
    parts += [
        _line(left, bottom, right, bottom, "axis"),
        _text((left + right) / 2, bottom + 33, x_label, "middle"),
    ]
    parts.append(
        f'<g transform="translate(11 {(top + bottom) / 2}) rotate(-90)">'
        f"{_text(0, 0, y_label, 'middle', bottom - top)}</g>"
    )
    for number, line in enumerate(series):
        parts += _drawn(line, number, place)
    legend, height = _legend(series, left, bottom + 52)
    told = "; ".join(f"{line.name}: {_told(line)}" for line in series)
    return _svg(height, parts + legend, f"line chart: {y_label} over {x_label}", told)


def _told(line: Line) -> str:
    """The values of a line in words, TOLD of them at most, with the first and the last."""
    numbers: Sequence[int] = range(len(line.points))
    if len(numbers) > TOLD:
        numbers = sorted({round(n * (len(numbers) - 1) / (TOLD - 1)) for n in range(TOLD)})
    errors = [*line.errors, *[math.nan] * len(line.points)]
    texts = []
    for n in numbers:
        x, y = line.points[n]
        spread = "" if math.isnan(errors[n]) else f" ± {errors[n]:.3g}"
        texts.append(f"{y:.3g}{spread} at {x:g}")
    return ", ".join(texts)


def _drawn(line: Line, number: int, place) -> list[str]:
    spots = [place(x, y) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    parts = [f'<polyline points="{path}" {_style(line, number)}/>']
    for (x, y), error in zip(line.points, line.errors):
        if not math.isnan(error):
            (across, low), (_, high) = place(x, y - error), place(x, y + error)
            parts.append(_line(across, low, across, high, "error"))
    kind = f"{'hollow' if line.published else 'dot'} k{line.colour % COLOURS}"
    marked = spots if line.markers or len(spots) < 3 else ()
    return parts + [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{kind}"/>' for x, y in marked
    ]


def _style(line: Line, number: int) -> str:
    dash = "1 4" if line.published else DASHES[(number + number // COLOURS) % len(DASHES)]
    return f'class="line k{line.colour % COLOURS}"' + (
        f' stroke-dasharray="{dash}"' if dash else ""
    )


def _legend(series: Sequence[Line], left: float, top: float) -> tuple[list[str], float]:
    """Samples with names, in two columns where they fit; and where they end."""
    columns = 2 if max(len(line.name) for line in series) * LETTER < (WIDTH - left) / 2 - 40 else 1
    parts, room = [], (WIDTH - left) / columns
    for number, line in enumerate(series):
        x, y = left + (number % columns) * room, top + 18 * (number // columns)
        parts.append(
            f'<polyline points="{x:.1f},{y - 4:.1f} {x + 26:.1f},{y - 4:.1f}"'
            f" {_style(line, number)}/>"
        )
        parts.append(_text(x + 32, y, line.name, "start", room - 32))
    return parts, top + 18 * math.ceil(len(series) / columns) - 6


def thousands(value: float) -> str:
    """12000 -> 12k."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _svg(height: float, parts: Sequence[str], title: str, told: str) -> str:
    box = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    words = f"<title>{escape(title)}</title><desc>{escape(told)}</desc>"
    return f'<svg {box} role="img">{words}' + "".join(parts) + "</svg>"


def _line(x: float, y: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _cap(x: float, y: float) -> str:
    return _line(x, y - 5, x, y + 5, "error")


def _text(x: float, y: float, text: str, anchor: str, room: float = math.inf) -> str:
    """Whole, but set closer where it would need more than `room`."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{squeezed(text, room, LETTER)}>'
        f"{escape(text)}</text>"
    )


def squeezed(text: str, room: float, letter: float) -> str:
    """The attributes of an SVG text whose letters are about `letter` wide, to fit `room`."""
    if len(text) * letter <= room:
        return ""
    return f' textLength="{room:.0f}" lengthAdjust="spacingAndGlyphs"'
