"""The AP table as a grid of texts: values, differences with their intervals, and the notes that
explain them."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from . import stats
from .cells import Cell, Grid, Group, Section
from .tables import NUMBERED

METRIC_NAMES = {"miou": "mIoU", "top1": "top-1", "top5": "top-5", "svm_map": "mAP"}
NUMBERED_NAMES = {"knn": "{}-NN", "svm_map_": "mAP, {} shots"}
SIZES = {"aps": "APs", "apm": "APm", "apl": "APl"}  # of objects: small, medium, large
FEW = 5  # seeds: below that the note says what an interval is worth


# of a group of `tables.ap_table`: column of the long form -> of `tables.frame`
FACTS = {
    "protocol": "protocol",
    "version": "protocol_version",
    "data": "data_name",
    "engine": "engine",
    "scorer": "scorer",
    "scaling": "scaling",
    "protocol hash": "protocol_hash",
    "data hash": "data",
    "detectron2 hash": "detectron2",
}


def long_form(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each starting point, group and metric, a fact a column: what was run (FACTS), the
    numbers with full precision (percent), the seeds, and the footnotes."""
    long = table.stack(["group", "metric"], future_stack=True).reset_index()
    long = long.rename_axis(columns=None)
    groups = table.attrs["groups"]
    facts = {
        name: [groups[group][column] for group in long["group"]] for name, column in FACTS.items()
    }
    first = long[["starting point"]].assign(**facts, metric=long["metric"])
    numbers = long.drop(columns=["starting point", "group", "metric"])
    seeds, notes = table.attrs["seeds"], table.attrs["footnotes"]
    for name in table.attrs["baselines"]:  # its own row is no comparison
        own = [f"{statistic} {name}" for statistic in ("minus", "ci", "n")]
        numbers[own[-1]] = numbers[own[-1]].astype("Int64")  # a whole number that may be missing
        numbers.loc[long["starting point"] == name, own] = [np.nan, np.nan, pd.NA]
    last: dict[str, list[str]] = {"seeds": [], "notes": []}
    for row, group, metric in long[["starting point", "group", "metric"]].itertuples(index=False):
        last["seeds"].append(seeds.get((row, group, metric), ""))
        last["notes"].append("; ".join(notes.texts(group) + notes.texts((row, group))))
    return pd.concat([first, numbers, pd.DataFrame(last)], axis=1)


def rows_as(rows: pd.DataFrame, form: str) -> str:
    """Rows as csv, or as json: a list of mappings, null where there is no number."""
    if form == "csv":
        return rows.to_csv(index=False).rstrip("\n")
    return json.dumps(rows.astype(object).where(rows.notna(), None).to_dict("records"), indent=1)


def grid(table: pd.DataFrame) -> Grid:
    """The table as cells of text: the values (best in bold), then the differences
    to each baseline."""
    columns = list(dict.fromkeys((group, metric) for group, metric, _ in table.columns))
    # access to single values of a DataFrame is slow
    numbers = dict(zip(table.columns, table.to_numpy(float).T.tolist(), strict=True))
    sections = [Section("", _values(table, columns, numbers))]
    for baseline in table.attrs["baselines"]:
        rows = _differences(table, columns, numbers, baseline)
        if rows:
            sections.append(Section(f"difference to {baseline}", rows))
    notes = [*_explained(table), *table.attrs["footnotes"].lines()]
    return Grid(_groups(table, columns), sections, notes)


def _groups(table: pd.DataFrame, columns: Sequence[tuple[str, str]]) -> list[Group]:
    """The columns of each group under two lines: the protocol, the rest of the group's text."""
    groups = []
    for group in dict.fromkeys(group for group, _ in columns):
        protocol, _, rest = group.partition(": ")
        mark = table.attrs["footnotes"].at(group)
        title = f"{protocol} [{mark}]" if mark else protocol
        names = tuple(metric_name(metric) for other, metric in columns if other == group)
        groups.append(Group(title, rest, names))
    return groups


def _values(
    table: pd.DataFrame, columns: Sequence[tuple[str, str]], numbers: Mapping[tuple, list]
) -> list[tuple[str, list[Cell]]]:
    """The rows of values; the footnotes of a row in a group stand at its first column there."""
    footnotes, seen = table.attrs["footnotes"], set()
    rows: list[tuple[str, list[Cell]]] = [(name, []) for name in table.index]
    for group, metric in columns:
        statistics = [numbers[group, metric, key] for key in ("mean", "std", "n", "failed")]
        best = _best(statistics[0])
        for (name, cells), mean, *more in zip(rows, *statistics, strict=True):
            tone = "best" if _rounded(mean) == best else ""
            mark = "" if group in seen else footnotes.at((name, group))
            cells.append(Cell(value_text(mean, *more), tone, mark))
        seen.add(group)
    return rows


def _differences(
    table: pd.DataFrame,
    columns: Sequence[tuple[str, str]],
    numbers: Mapping[tuple, list],
    baseline: str,
) -> list[tuple[str, list[Cell]]]:
    """The rows that compare the others with one baseline."""
    keys = [f"{what} {baseline}" for what in ("minus", "ci", "n")]
    rows = []
    for row, name in enumerate(table.index):
        if name != baseline:
            values = [[numbers[(*column, key)][row] for key in keys] for column in columns]
            rows.append((name, [difference_cell(*three) for three in values]))
    return rows


def metric_name(metric: str) -> str:
    """`box_ap50` -> `box AP50`, `box_aps` -> `box APs`, `box_ap/dog` -> `box AP dog`,
    `miou` -> `mIoU`."""
    if numbered := NUMBERED.fullmatch(metric):
        return NUMBERED_NAMES[numbered[1]].format(numbered[2])
    whole, _, category = metric.partition("/")
    if whole in METRIC_NAMES:
        return f"{METRIC_NAMES[whole]} {category}".strip()
    task, _, rest = metric.partition("_")
    name, _, category = rest.partition("/")
    return f"{task} {SIZES.get(name, name.upper())} {category}".strip()


def value_text(mean: float, std: float, n: int, failed: int = 0) -> str:
    """`31.2 ± 0.8 (3)`; `31.2 (1)` for a single run."""
    if not n:
        return "failed" if failed else "–"
    return f"{mean:.1f} (1)" if n == 1 else f"{mean:.1f} ± {std:.1f} ({n:.0f})"


def difference_cell(value: float, half: float, n: int) -> Cell:
    """`+1.8 ± 0.9` outside the noise, `+0.2 ± 0.9 ~` within it, `+0.2 (1)` where a single run
    leaves no interval."""
    if np.isnan(value):
        return Cell("–")
    text = signed(value)
    if np.isnan(half):
        return Cell(f"{text} ({n:.0f})", "noise")
    if not stats.outside_noise(value, half):
        return Cell(f"{text} ± {half:.1f} ~", "noise")
    return Cell(f"{text} ± {half:.1f}", "up" if value > 0 else "down")


def signed(value: float) -> str:
    """One decimal with its sign (U+2212 for minus); 0.0 has none."""
    return f"{value:+.1f}".replace("-", "−") if round(value, 1) else "0.0"


def _best(means: Sequence[float]) -> float:
    """The highest value, rounded as shown; -1 unless at least two rounded values differ."""
    rounded = [_rounded(mean) for mean in means]
    there = {mean for mean in rounded if mean is not None}
    return max(there) if len(there) > 1 else -1.0


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 1)


def _explained(table: pd.DataFrame) -> list[str]:
    """What the signs mean, what the intervals are worth."""
    spread = (
        "± standard deviation over seeds, (n) how many; (1): a single run, its spread is unknown"
    )
    return [spread, *interval_notes(table, table.attrs["baselines"])]


def interval_notes(table: pd.DataFrame, baselines: Sequence[str]) -> list[str]:
    """What the intervals of the differences to some baselines are, and plainly what few
    seeds are worth."""
    counts = np.array(
        [n for name in baselines for n in column(table.drop(index=name), f"n {name}") if n]
    )
    if not counts.size:
        return []
    if not (counts >= 2).any():
        return [
            "differences of single runs have no interval: whether they are noise cannot be told"
        ]
    how = {"welch": "Welch's t", "paired": "paired by seed, over the seeds both have"}[
        table.attrs["pairing"]
    ]
    notes = [
        f"differences: ± half of the 95 % confidence interval ({how}); ~ within the noise: the"
        " interval holds 0"
    ]
    least = counts[counts >= 2].min()
    if least < FEW:
        notes.append(
            f"only {least} seeds in some cells: such intervals are wide, and a difference marked ~"
            " may still be real"
        )
    return notes


def column(table: pd.DataFrame, statistic: str) -> np.ndarray:
    """All values of one statistic."""
    return table.xs(statistic, level="statistic", axis=1).to_numpy().ravel()
