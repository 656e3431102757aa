"""Compares two or more starting points: wins, ties, losses and differences, by
protocol, object size and class."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from detco.common.errors import InputError

from . import grids, stats, tables
from .cells import Cell, Grid, Group, Section

# the main metric of each task
HEADLINES = (
    "box_ap",
    "mask_ap",
    "keypoint_ap",
    "densepose_ap",
    "miou",
    "top1",
    "svm_map",
)
OF_SIZES = tuple(
    f"{task}_ap{size}" for task in ("box", "mask", "keypoint", "densepose") for size in "sml"
)
PER_CLASS = "_ap/"


def select(runs: pd.DataFrame, names: Sequence[str], pairing: str = "welch") -> pd.DataFrame:
    """`tables.ap_table` of these starting points alone and in this order, with every metric and
    each as a baseline.

    Groups that only one of them was measured in are left out. Raises InputError for fewer than two
    names, or where no group has two of them.
    """
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise InputError("name at least two starting points to compare, each once")
    each = tables.labelled(runs)
    rows = each[each["row"].isin(names) | each["starting_point"].isin(names)]
    done = rows[rows["status"] == "done"].groupby("group")["row"].nunique()
    shared = rows[rows["group"].isin(done[done > 1].index)]
    if shared.empty:
        raise InputError(f"no protocol has results of two of {', '.join(names)}")
    kept = runs[runs["id"].isin(shared["id"])]
    metrics = [metric for metric in kept["metric"].unique() if metric]
    rows = _in_order(names, shared)
    # labels from all rows: among these alone, a name may need no hash of its weights
    return tables.ap_table(kept, rows, metrics, pairing, shared).loc[rows]


def _in_order(names: Sequence[str], rows: pd.DataFrame) -> list[str]:
    """The rows of the table in the order they were asked for; a name may stand
    for several files."""
    found = rows.drop_duplicates("row")
    ordered = [
        row
        for name in names
        for row, start in zip(found["row"], found["starting_point"], strict=True)
        if name in (row, start)
    ]
    return list(dict.fromkeys(ordered))


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each two starting points over all cells (protocol and task) that both have.

    Columns first, second, cells, wins, ties, losses (of the first; by 95 % intervals), single (no
    interval, as one side is a single run), difference (mean over the cells, AP).
    """
    columns, numbers = headline_columns(table), _numbers(table)
    rows = []
    for first, second in combinations(table.attrs["baselines"], 2):
        found = [
            [numbers[(*column, f"{what} {second}")][first] for what in ("minus", "ci")]
            for column in columns
        ]
        cells = np.array([cell for cell in found if not np.isnan(cell[0])]).reshape(-1, 2)
        clear = np.array([stats.outside_noise(*cell) for cell in cells], bool)
        wins, losses = (
            int((clear & (cells[:, 0] > 0)).sum()),
            int((clear & (cells[:, 0] < 0)).sum()),
        )
        single = int(np.isnan(cells[:, 1]).sum())
        mean = cells[:, 0].mean() if len(cells) else np.nan
        rows.append(
            [
                first,
                second,
                len(cells),
                wins,
                len(cells) - wins - losses - single,
                losses,
                single,
                mean,
            ]
        )
    return pd.DataFrame(
        rows, columns=["first", "second", "cells", "wins", "ties", "losses", "single", "difference"]
    )


def _numbers(table: pd.DataFrame) -> dict[tuple, dict[str, Any]]:
    """Column -> row -> value: access to single values of a DataFrame is slow."""
    columns = table.to_numpy(float).T.tolist()
    return {key: dict(zip(table.index, values)) for key, values in zip(table.columns, columns)}


def ranks(table: pd.DataFrame) -> pd.Series:
    """Mean rank of each starting point (1: best, ties share) over the cells that all of them have;
    NaN if there is none."""
    means = table[[(*column, "mean") for column in headline_columns(table)]].loc[
        table.attrs["baselines"]
    ]
    return means.dropna(axis=1).rank(ascending=False).mean(axis=1)


def headline_columns(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The cells that wins are counted over: the main metric (AP, mIoU, ...) of each
    group and task; of a group without one (k-NN, with a metric for each k) the first."""
    columns = list(table.columns.droplevel("statistic").unique())
    first: dict[str, str] = {}
    for group, metric in columns:
        first.setdefault(group, metric)
    known = {group for group, metric in columns if metric in HEADLINES}
    return [
        (group, metric)
        for group, metric in columns
        if metric in HEADLINES or (group not in known and metric == first[group])
    ]


# --- as text -------------------------------------------------------------------------------------


def summary(table: pd.DataFrame) -> list[Grid]:
    """Wins, ties and losses of each two; ranks."""
    rows = []
    for pair in pairs(table).itertuples():
        texts = [str(count) for count in (pair.wins, pair.ties, pair.losses, pair.single)]
        texts.append("–" if np.isnan(pair.difference) else grids.signed(pair.difference))
        rows.append((f"{pair.first} over {pair.second}", [Cell(text) for text in texts]))
    groups = [Group("", "", ("wins", "ties", "losses", "single runs", "mean difference, AP"))]
    cells = len(headline_columns(table))
    notes = [
        f"over up to {cells} cells, one for each protocol and task; a win or loss is outside its 95"
        " % interval, a tie within it, a single run has none"
    ]
    made = [Grid(groups, [Section("", rows)], notes, "Wins, ties and losses")]
    found = ranks(table)
    if len(found) > 2 and found.notna().all():
        lines = [
            (name, [Cell(f"{rank:.2f}", "best" if rank == found.min() < found.max() else "")])
            for name, rank in found.items()
        ]
        notes = ["1 is best; over the cells that all have"]
        made.append(Grid([Group("", "", ("mean rank",))], [Section("", lines)], notes, "Ranks"))
    return made


def by_protocol(table: pd.DataFrame) -> Grid | None:
    """AP in each protocol, and differences to the last that was named; None without any AP."""
    return _part(table, headline_columns(table), "By protocol")


def by_size(table: pd.DataFrame) -> Grid | None:
    """AP of small, medium and large objects; None where it was not scored."""
    return _part(
        table,
        [column for column in table.columns.droplevel(2).unique() if column[1] in OF_SIZES],
        "By size of object",
    )


def _part(table: pd.DataFrame, columns: Sequence[tuple[str, str]], title: str) -> Grid | None:
    kept = [key for key in table.columns if key[:2] in columns]
    if not kept:
        return None
    part = table[kept]
    part.attrs = table.attrs | {"baselines": table.attrs["baselines"][-1:]}
    grid = grids.grid(part)
    return Grid(grid.groups, grid.sections, grid.notes, title)


def by_class(table: pd.DataFrame, most: int | None = None) -> Grid | None:
    """AP of each class: rows classes, sections groups and tasks; the difference is the first named
    minus the last.

    Sorted by it, the largest first; of more than `most` classes the middle is left out. None where
    no class was scored.
    """
    rows = list(table.index)
    first, last = rows[0], rows[-1]
    numbers = _numbers(table)
    sections: dict[str, list] = {}
    for column in table.columns.droplevel("statistic").unique():
        task, _, category = column[1].partition(PER_CLASS)
        if not category or not all(numbers[(*column, "n")][name] for name in (first, last)):
            continue
        difference = [numbers[(*column, f"{what} {last}")][first] for what in ("minus", "ci", "n")]
        values = ([numbers[(*column, key)][name] for key in ("mean", "std", "n")] for name in rows)
        cells = [
            *(Cell(grids.value_text(*value)) for value in values),
            grids.difference_cell(*difference),
        ]
        sections.setdefault(f"{column[0]}, {task} AP", []).append(
            (difference[0], (category, cells))
        )
    made = []
    for title, lines in sections.items():
        lines.sort(key=lambda line: -line[0])
        made.append(Section(title, _ends([row for _, row in lines], most, len(rows) + 1)))
    title = f"By class, sorted by the difference between {first} and {last}"
    notes = grids.interval_notes(table.loc[[first, last]], [last])
    groups = [Group("", "", tuple(rows)), Group("", "", (f"{first} − {last}",))]
    return Grid(groups, made, notes, title, "class") if made else None


def _ends(rows: list, most: int | None, columns: int) -> list:
    """The first and last rows, with a line that says how many are left out between them."""
    if most is None or len(rows) <= most:
        return rows
    half = most // 2
    return [*rows[:half], (f"… {len(rows) - 2 * half} more", [Cell("")] * columns), *rows[-half:]]
