"""A table that comes in by its door only: a function from the frame of records to a `Grid`, which
every output format shows."""

import pytest

from detco.results import cells, render, tables

FORMS = ("terminal", "md", "latex", "html")


def worst(runs) -> cells.Grid:
    """The lowest box AP of each starting point, and of how many seeds."""
    found = runs[runs.metric == "box_ap"].groupby("starting_point").value
    rows = [
        (name, (cells.Cell(f"{values.min():.1f}"), cells.Cell(str(len(values)))))
        for name, values in found
    ]
    groups = (cells.Group("small-retinanet", "COCO AP", ("lowest", "seeds")),)
    return cells.Grid(groups, (cells.Section("", rows),), ("lowest: of all seeds",))


@pytest.mark.parametrize("form", FORMS)
def test_a_dummy_table_is_shown_in_every_format(form):
    values = {"random": (12.34, 11.5), "supervised": (40.06,)}
    records = [
        {
            "kind": "transfer",
            "status": "done",
            "starting_point": start,
            "seed": seed,
            "metrics": {"box_ap": value, "box_ap50": 2.0},
        }
        for start, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]
    text = render.render(worst(tables.frame(records)), form)
    lines = [line for line in text.splitlines() if "random" in line or "supervised" in line]
    assert len(lines) == 2
    for line, lowest, seeds in zip(lines, ("11.5", "40.1"), ("2", "1"), strict=True):
        assert lowest in line and seeds in line.partition(lowest)[2]
    assert "lowest: of all seeds" in text and "small-retinanet" in text
