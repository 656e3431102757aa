"""The page's first sentences: which starting point is highest, and whether that is noise."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from .. import compare, grids, stats, tables


def sentences(table: pd.DataFrame, untrained: Collection[str] = ()) -> list[str]:
    """A sentence for each protocol and task of `tables.ap_table`. untrained: engines that make
    their predictions up; what they made is not ranked."""
    made: list[str] = []
    for group, metric in compare.headline_columns(table):
        engine = table.attrs["groups"][group]["engine"]
        if engine in untrained:
            text = f"nothing was trained (engine {engine}), so nothing is ranked."
        else:
            cell = tables.cell(table, group, metric)
            name = grids.metric_name(metric)
            text = _sentence(name, cell[cell["n"] > 0], table.attrs["baselines"])
        made.append(f"{group}: {text}")
    return list(dict.fromkeys(made))


def _sentence(name: str, rows: pd.DataFrame, baselines: Sequence[str]) -> str:
    """rows: of `tables.cell`, those with a result."""
    if rows.empty:
        return "no result yet."
    ordered = rows.sort_values("mean", ascending=False, kind="stable")
    best, lowest = ordered.index[0], ordered.index[-1]
    if len(rows) == 1:
        return f"{name} is {_value(rows, best)} from {best}, the only starting point with a result."
    if rows["mean"].round(1).nunique() == 1:
        return f"{name} is {rows['mean'].iloc[0]:.1f} from every starting point."
    ends = f"{best} is highest with {_value(rows, best)}, {lowest} lowest with"
    ends += f" {_value(rows, lowest)}."
    if (rows["n"] < 2).all():
        return f"single runs, so whether {name} differs or that is noise cannot be told; {ends}"
    difference, half = _all_pairs(rows)
    if not (difference.abs() > half).any(axis=None):
        return f"no difference in {name} outside the noise; {ends}"
    text = f"{name} is highest from {best}, {_value(rows, best)}"
    baseline = next((name for name in baselines if name in rows.index and name != best), None)
    if baseline:
        ahead = _against(difference.loc[best, baseline], half.loc[best, baseline])
        text += f"; {ahead[0]} over {baseline} ({ahead[1]})"
    others = [row for row in ordered.index[1:] if not _clear(difference, half, best, row)]
    others = [row for row in others if row != baseline]
    return text + (f"; not clearly above {', '.join(others)}." if others else ".")


def _value(rows: pd.DataFrame, row: str) -> str:
    return grids.value_text(*rows.loc[row, ["mean", "std", "n"]])


def _all_pairs(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Difference of each row to each, and half of its 95 % interval (NaN with a single run)."""
    mean, std, n = (rows[key].to_numpy() for key in ("mean", "std", "n"))
    columns = (mean[:, None], std[:, None], n[:, None])
    found = stats.welch(*columns, mean, std, n)
    difference, half = (pd.DataFrame(each, rows.index, rows.index) for each in found)
    return difference, half


def _clear(difference: pd.DataFrame, half: pd.DataFrame, row: str, other: str) -> bool:
    return stats.outside_noise(difference.loc[row, other], half.loc[row, other])


def _against(difference: float, half: float) -> tuple[str, str]:
    if np.isnan(half):
        return grids.signed(difference), "single runs, so it may be noise"
    where = "outside" if stats.outside_noise(difference, half) else "within"
    return grids.signed(difference), f"± {half:.1f}, {where} the noise"
