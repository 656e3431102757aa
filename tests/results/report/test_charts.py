"""Charts: every value is drawn at its place, as read back from the SVG."""

import doctest
import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from detco.results.report import charts


def parsed(svg):
    return ET.fromstring(svg)


def test_examples_in_the_docs():
    assert doctest.testmod(charts).failed == 0


@pytest.mark.parametrize(
    "low, high", [(0, 47.3), (0, 0.031), (12.5, 13.1), (0, 180000), (-3, 8), (5, 5), (0, 0)]
)
def test_ticks_are_round_and_enclose(low, high):
    marks = charts.ticks(low, high)
    steps = {round(after - before, 9) for before, after in pairwise(marks)}
    assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 8 and len(steps) == 1
    assert f"{steps.pop():.6e}".split("e")[0] in ("1.000000", "2.000000", "2.500000", "5.000000")


def test_bars_have_the_lengths_of_their_means():
    rows = [
        charts.Bar("random", 10.0, math.nan, [10.0], "10.0 (1)"),
        charts.Bar("detco & co", 40.0, 4.0, [36.0, 44.0], "40.0 ± 4.0 (2)", 1),
    ]
    svg = parsed(charts.bars(rows, "box AP (percent)"))
    first, second = [float(rect.get("width")) for rect in svg.iter("rect")]
    assert second == pytest.approx(4 * first, rel=0.01) and [
        rect.get("class") for rect in svg.iter("rect")
    ] == ["c0", "c1"]
    zero = float(next(svg.iter("rect")).get("x"))
    unit = second / 40
    dots = [(float(dot.get("cx")) - zero) / unit for dot in svg.iter("circle")]
    assert dots == pytest.approx([10, 36, 44], abs=0.1)
    error = [line for line in svg.iter("line") if line.get("class") == "error"]
    ends = sorted(
        (float(line.get(key)) - zero) / unit for line in error[:1] for key in ("x1", "x2")
    )
    assert ends == pytest.approx([36, 44], abs=0.1) and len(error) == 3
    texts = [text.text for text in svg.iter("text")]
    assert {"random", "detco & co", "40.0 ± 4.0 (2)", "box AP (percent)", "0", "50"} <= set(texts)


def test_lines_go_through_their_points():
    own = charts.Line(
        "own", [(12000, 20.0), (90000, 38.0), (180000, 40.0)], 0, [1.0, math.nan, 0.5], markers=True
    )
    other = charts.Line(
        "published", [(12000, 25.0), (180000, 30.0)], 0, markers=True, published=True
    )
    svg = parsed(charts.lines([own, other], "iterations", "box AP (percent)"))
    drawn = [
        [tuple(map(float, spot.split(","))) for spot in line.get("points").split()]
        for line in svg.iter("polyline")
    ][:2]
    (x1, y1), (x2, y2), (x3, y3) = drawn[0]
    assert (x2 - x1) / (x3 - x1) == pytest.approx(78 / 168, abs=0.01)
    assert (y2 - y1) / (y3 - y1) == pytest.approx(18 / 20, abs=0.01)
    # both lines share the axes
    assert (drawn[1][0][1] - y1) / (y3 - y1) == pytest.approx(5 / 20, abs=0.01)
    dashes = [line.get("stroke-dasharray") for line in svg.iter("polyline")]
    assert dashes[0] is None and dashes[1] == "1 4"
    assert len([line for line in svg.iter("line") if line.get("class") == "error"]) == 2
    texts = [text.text for text in svg.iter("text")]
    assert {"own", "published", "iterations", "box AP (percent)", "50k", "200k"} <= set(texts)


def test_lines_of_one_colour_differ_in_their_dash():
    series = [charts.Line(str(n), [(0, n), (1, n + 1)], n) for n in range(10)]
    svg = parsed(charts.lines(series, "x", "y"))
    looks = [(line.get("class"), line.get("stroke-dasharray")) for line in svg.iter("polyline")][
        :10
    ]
    assert len(set(looks)) == 10


def test_a_single_point_is_seen_and_flat_lines_fit():
    svg = parsed(
        charts.lines(
            [charts.Line("a", [(3, 5.0)]), charts.Line("b", [(1, 5.0), (2, 5.0), (3, 5.0)], 1)],
            "x",
            "y",
        )
    )
    assert len(list(svg.iter("circle"))) == 1


def told(svg):
    return next(svg.iter("desc")).text


def test_charts_say_their_numbers():
    rows = [
        charts.Bar("random", 10.0, math.nan, [10.0], "10.0 (1)"),
        charts.Bar("detco & co", 40.0, 4.0, [36.0, 44.0], "40.0 ± 4.0 (2)", 1),
    ]
    svg = parsed(charts.bars(rows, "box AP"))
    assert svg.get("role") == "img" and next(svg.iter("title")).text == "bar chart: box AP"
    assert told(svg) == "random: 10.0 (1); detco & co: 40.0 ± 4.0 (2), runs 36.0, 44.0"
    line = charts.Line("own", [(12000, 20.04), (90000, 38.0)], errors=[1.0, math.nan])
    other = charts.Line("long", [(n, n / 2) for n in range(101)])
    svg = parsed(charts.lines([line, other], "iterations", "box AP"))
    first, second = told(svg).split("; ")
    assert first == "own: 20 ± 1 at 12000, 38 at 90000"
    points = [text.split(" at ") for text in second.removeprefix("long: ").split(", ")]
    assert len(points) == charts.TOLD and points[0] == ["0", "0"] and points[-1] == ["50", "100"]
    assert all(float(value) == pytest.approx(float(at) / 2, rel=0.01) for value, at in points)


@pytest.mark.parametrize("length", [5, 30, 200])
def test_names_are_whole_and_fit(length):
    """A text takes `textLength` where it has one, else about LETTER a letter; no two overlap."""
    name = "n" * length
    bars = charts.bars([charts.Bar(name, 10.0, math.nan, [10.0], "10.0 (1)")], "box AP")
    lines = charts.lines([charts.Line(name, [(1, 2.0), (2, 3.0)])], "x", "y")
    for svg in (parsed(bars), parsed(lines)):
        (text,) = [text for text in svg.iter("text") if text.text == name]
        wide = float(text.get("textLength") or charts.LETTER * length)
        left = float(text.get("x")) - (wide if text.get("text-anchor") == "end" else 0)
        assert left >= 0 and left + wide <= charts.WIDTH
    svg = parsed(bars)
    (bar,) = svg.iter("rect")
    (text,) = [text for text in svg.iter("text") if text.text == name]
    if text.get("text-anchor") == "end":
        assert float(text.get("x")) < float(bar.get("x"))
    else:  # above its bar
        assert float(text.get("y")) < float(bar.get("y"))
