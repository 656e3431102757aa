"""Grids turned and divided: every cell keeps its row, column, group and section."""

import re

import pytest

from detco.results.cells import Cell, Grid, Group, Section, fitted, transposed
from detco.results.render import render


def grid_of(columns: dict[str, int], rows: int = 2, text: str = "{}") -> Grid:
    """A cell's text says where it is: section, row, group, column."""
    groups = [Group(name, "below", tuple(f"{name}{n}" for n in range(count)))
              for name, count in columns.items()]  # fmt: skip
    sections = []
    for title in ("values", "differences"):
        lines = []
        for row in range(rows):
            places = (f"{title} r{row} {name}" for group in groups for name in group.columns)
            lines.append((f"r{row}", [Cell(text.format(place)) for place in places]))
        sections.append(Section(title, lines))
    return Grid(groups, sections, ["a note"], "title", "corner")


def found(grid: Grid) -> set[tuple[str, ...]]:
    """(section, row, group, column, text) of every cell."""
    cells = set()
    for section in grid.sections:
        for row, line in section.rows:
            heads = [(group.title, name) for group in grid.groups for name in group.columns]
            for head, cell in zip(heads, line, strict=True):
                cells.add((section.title, row, *head, cell.text))
    return cells


def test_transposed_has_rows_for_columns():
    grid = grid_of({"a": 2, "b": 1})
    turned = found(transposed(grid))
    assert turned == {
        (f"{group}, below", name, section, row, text)
        for section, row, group, name, text in found(grid)
    }
    assert len(turned) == 12 and transposed(grid).notes == grid.notes


@pytest.mark.parametrize("room", [1, 40, 60, 1000])
def test_fitted_is_as_narrow_as_asked(room):
    """One of the groups is wider than any room but the last: it is divided."""
    grid = grid_of({"a": 7, "b": 2})
    parts = fitted(grid, room)
    assert [list(part.notes) for part in parts] == [[]] * (len(parts) - 1) + [["a note"]]
    assert set.union(*map(found, parts)) == found(grid)
    for part in parts:
        lines = render(part, "terminal", 10**6).splitlines()
        wide = max(len(line) for line in lines[3:-1] if "─" not in line)
        assert wide <= room or sum(len(group.columns) for group in part.groups) == 1
    assert (len(parts) == 1) == (room == 1000)


def test_fitted_keeps_groups_whole_that_have_room():
    grid = grid_of({"a": 2, "b": 1, "c": 3}, text="12")
    parts = fitted(grid, 24)  # the corner 6, a 8 (as "below" is wider), b 7, c 12
    names = [[group.title for group in part.groups] for part in parts]
    assert names == [["a", "b"], ["c"]]


def test_latex_has_caption_label_and_a_float_for_each_page():
    """By hand: 5 lines of a head and 2 x (1 + 16) of rows, of which a page holds one part."""
    grid = grid_of({"a": 5, "b": 5}, rows=16)
    text = render(grid, "latex")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == len(fitted(grid, 82)) > 1
    assert re.findall(r"\\caption{(.*)}", text)[:2] == [
        r"title}\label{tab:title",
        "title (continued)",
    ]
    assert text.count(r"\label") == 1 and text.count("a note") == 1
    small = render(grid_of({"a": 2}), "latex")
    assert small.count(r"\begin{table}") == 1 and small.count(r"\begin{tabular}{lrr}") == 1


def test_latex_row_that_begins_with_a_bracket_is_no_option():
    grid = Grid([Group("", "", ("x",))], [Section("", [("[1cm] mine", [Cell("[2cm]")])])])
    assert "{[}1cm] mine & {[}2cm]" in render(grid, "latex")
