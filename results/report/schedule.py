"""AP over the length of the schedule (12k, 90k, 180k), measured and published."""

import re

import pandas as pd

from .. import tables
from ..paper import numbers as published
from .charts import Line

TAIL = re.compile(r"^(.+)-(\d+)k$")  # a protocol's name: family and thousands of iterations
# runs that differ in one of these are never in one chart
KEY = [
    "family",
    "protocol_version",
    "data",
    "scorer",
    "engine",
    "scaling",
    "detectron2",
]


def curves(
    runs: pd.DataFrame, methods: dict[str, tuple[str, int | None]], metric: str = "box_ap"
) -> dict[str, list[Line]]:
    """Title -> lines over iterations, for each family of protocols that was measured at two lengths
    or has published ones.

    Nothing is averaged that the table keeps apart; of several settings under one protocol's name
    the table's first are shown.
    runs: `tables.frame`; methods: row -> (method, epochs) as published, for the dotted line beside
    a row's own."""
    each = tables.labelled(runs)
    values = tables.values(runs[runs["metric"] == metric], each)
    parts = values["protocol"].str.extract(TAIL)
    order = {row: number for number, row in enumerate(tables.row_order(each))}
    values = values.assign(
        family=parts[0], iterations=pd.to_numeric(parts[1]) * 1000, place=values["row"].map(order)
    )
    values = values.dropna(subset="family").sort_values(["group_order", "place"], kind="stable")
    settings = values.groupby([*KEY, "iterations"])["protocol_hash"].transform("first")
    values = values[values["protocol_hash"] == settings]
    titles, charts = _titles(values), {}
    for key, found in values.groupby(KEY, sort=False):
        lines = []
        for row, points in found.groupby("row", sort=False):
            lines += _lines(row, points, order[row], methods.get(row), metric)
        if len({x for line in lines for x, _ in line.points}) > 1:
            charts[titles[key]] = lines
    return charts


def _titles(values: pd.DataFrame) -> dict[tuple, str]:
    """The title of each chart, by its KEY."""
    if values.empty:
        return {}
    groups = values.drop_duplicates(KEY).assign(protocol=lambda found: found["family"])
    texts = tables.told_apart(groups.apply(tables.label, axis=1), groups, ("data", "detectron2"))
    return dict(zip(groups[KEY].itertuples(index=False, name=None), texts, strict=True))


def _lines(
    row: str, points: pd.DataFrame, colour: int, method: tuple[str, int | None] | None, metric: str
) -> list[Line]:
    """A row's own line and the published one of its method, if there is one."""
    stats = points.groupby("iterations")["value"].agg(["mean", "std"])
    own = Line(row, list(zip(stats.index, stats["mean"])), colour, list(stats["std"]), markers=True)
    if method is None:
        return [own]
    numbers = published.of_source(published.DETCO)
    twins = numbers[(numbers["metric"] == metric) & (numbers["method"] == method[0])]
    twins = twins[twins["epochs"].isna() | (twins["epochs"] == method[1])]
    parts = twins["protocol"].str.extract(TAIL)
    twins = twins.assign(iterations=pd.to_numeric(parts[1]) * 1000)[
        parts[0] == points["family"].iloc[0]
    ]
    known = sorted(zip(twins["iterations"], twins["value"]))
    return (
        [own, Line(f"{row}, published", known, colour, markers=True, published=True)]
        if len(known) > 1
        else [own]
    )
