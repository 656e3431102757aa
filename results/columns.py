"""The columns of a table that were asked for, in that order."""

from collections.abc import Sequence

import pandas as pd

from detco.common.errors import InputError
from detco.common.values import nearest

from . import tables

Wish = tuple[str, str]  # protocol and metric; "": any


def chosen(
    runs: pd.DataFrame,
    wishes: Sequence[str],
    baselines: Sequence[str],
    metrics: Sequence[str] | None = None,
    pairing: str = "welch",
) -> pd.DataFrame:
    """`tables.ap_table` with these columns only. wishes: PROTOCOL, METRIC or PROTOCOL:METRIC each;
    a protocol alone: `metrics` of it. Columns of one group stand together, where the first of them
    was named. Raises InputError for a name that no run has."""
    named = [_wish(runs, wish) for wish in wishes]
    kept = runs[runs["protocol"].isin(_protocols(runs, named))]
    there = set(kept["metric"])
    usual = [name for name in metrics or tables.METRICS if metrics or name in there]
    more = [metric for _, metric in named if metric and metric not in usual]
    table = tables.ap_table(kept, baselines, list(dict.fromkeys([*usual, *more])), pairing)
    cells = _cells(table, named, usual)
    if not cells:
        raise InputError(f"--columns {','.join(wishes)}: no run has such a column")
    part = table[[column for cell in cells for column in table.columns if column[:2] == cell]]
    part.attrs = table.attrs
    return part


def _wish(runs: pd.DataFrame, text: str) -> Wish:
    protocol, colon, metric = text.partition(":")
    protocols = sorted(set(runs["protocol"]))
    own = runs["protocol"] == protocol if protocol in protocols else runs["protocol"].notna()
    metrics = sorted(set(runs[own]["metric"]) - {""})
    if not colon and text in metrics:
        protocol, metric = "", text
    for name, known in ((protocol, protocols), (metric, metrics)):
        if name and name not in known:
            known = known if colon else [*protocols, *metrics]
            few = ", ".join(one for one in known if "/" not in one)  # no metrics of single classes
            more = nearest(name, known) or f"; there are {few}"
            raise InputError(f"--columns {text}: no run has {name}{more}")
    return protocol, metric


def _protocols(runs: pd.DataFrame, named: Sequence[Wish]) -> set[str]:
    """Those that have a wanted column."""
    found = set()
    for protocol, metric in named:
        found |= {protocol} if protocol else set(runs[runs["metric"] == metric]["protocol"])
    return found


def _cells(
    table: pd.DataFrame, named: Sequence[Wish], usual: Sequence[str]
) -> list[tuple[str, str]]:
    """(group, metric) of the columns, groups in the order of their first."""
    groups, there = table.attrs["groups"], table.columns.droplevel("statistic").unique()
    found: dict[str, list[tuple[str, str]]] = {}
    for protocol, metric in named:
        for group, name in there:
            fits = name == metric if metric else name in usual
            if fits and protocol in ("", groups[group]["protocol"]):
                found.setdefault(group, []).append((group, name))
    return [cell for cells in found.values() for cell in dict.fromkeys(cells)]
