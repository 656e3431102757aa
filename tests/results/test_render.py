"""Wide tables in several parts."""

import pytest

from detco.results.render import Cell, Grid, Group, Section, split

COUNTS = (2, 3, 1, 7, 1, 1)  # columns of the groups


@pytest.fixture
def wide():
    groups, names = [], []
    for number, count in enumerate(COUNTS):
        own = tuple(f"{number}.{n}" for n in range(count))
        groups.append(Group(f"group {number}", "", own))
        names += own
    sections = [
        Section(title, [(row, [Cell(f"{row} {name}") for name in names]) for row in rows])
        for title, rows in (("", ("a", "b")), ("difference", ("c",)))
    ]
    return Grid(groups, sections, ["a note"], "title", "corner")


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, [2, 3, 1, 7, 1, 1]),  # a group stays whole
        (2, [2, 3, 1, 7, 2]),
        (5, [5, 1, 7, 2]),
        (8, [6, 8, 1]),
        (99, [15]),
    ],
)
def test_parts_hold_as_many_groups_as_fit_and_each_cell_once(wide, most, sizes):
    parts = split(wide, most)
    assert [sum(len(group.columns) for group in part.groups) for part in parts] == sizes
    assert [group for part in parts for group in part.groups] == wide.groups
    for part in parts:
        columns = [name for group in part.groups for name in group.columns]
        assert [section.title for section in part.sections] == ["", "difference"]
        for section in part.sections:
            for row, cells in section.rows:
                assert [cell.text for cell in cells] == [f"{row} {name}" for name in columns]
        assert (part.title, part.corner) == ("title", "corner")
    assert [list(part.notes) for part in parts] == [[]] * (len(parts) - 1) + [["a note"]]


def test_nothing_to_split():
    assert split(Grid([], [Section("", [])]), 3) == []
