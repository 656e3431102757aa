"""How many seeds show a difference: the power of the t tests that the tables' intervals are."""

import numpy as np
import pandas as pd
from scipy.special import nctdtr, stdtrit

from detco.common.errors import InputError

from . import tables
from .stats import LEVEL

POWER = 0.8
MOST = 10_000  # seeds


def power(n: int, effect: float, paired: bool = False, level: float = LEVEL) -> float:
    """Probability that `n` seeds a side show a true difference: that its interval leaves out 0.

    effect: the difference over the standard deviation of single runs (two sides with as many runs
    and one spread, Welch's t) or, paired, of the differences of two runs of one seed. 0 for fewer
    than two seeds. Exact for normal errors: the noncentral t distribution.
    """
    if n < 2:
        return 0.0
    freedom = n - 1 if paired else 2 * n - 2
    centre = abs(effect) * np.sqrt(n if paired else n / 2)
    edge = stdtrit(freedom, (1 + level) / 2)
    # shown the wrong way round; NaN where scipy has no digit of it left
    wrong = np.nan_to_num(1 - nctdtr(freedom, -centre, edge))
    return float(1 - nctdtr(freedom, centre, edge) + wrong)


def seeds(effect: float, paired: bool = False, wanted: float = POWER) -> int:
    """The fewest seeds a side with that power. Raises InputError where `MOST` are too few."""
    low, high = 1, 2
    while power(high, effect, paired) < wanted:
        low, high = high, 2 * high
        if high > MOST:
            raise InputError(
                f"a difference of {effect:.3g} times the spread needs more than {MOST:,} seeds"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, effect, paired) >= wanted else (middle, high)
    return high


def smallest(n: int, paired: bool = False, wanted: float = POWER) -> float:
    """The smallest effect that `n` seeds a side show with that power; infinite for fewer
    than two."""
    if n < 2:
        return float("inf")
    low, high = 0.0, 1.0
    while power(n, high, paired) < wanted:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(n, middle, paired) >= wanted else (middle, high)
    return high


def spreads(runs: pd.DataFrame) -> pd.DataFrame:
    """The spread between seeds in percent, of each protocol's first metric.

    runs: of `tables.frame`. Columns: group (protocol and data), metric, runs, spread (standard
    deviation of single runs, pooled over the starting points with at least two seeds) and paired
    (the same for the differences of two starting points' runs of one seed; NaN where no two share
    seeds). Raises InputError where no cell has two seeds.
    """
    counted = tables.values(runs, tables.labelled(runs))
    rows = []
    for group, own in counted.groupby("group", sort=False):
        metric = own["metric"].iloc[0]
        cells = own[own["metric"] == metric].pivot_table("value", "seed", "row")
        cells = cells.loc[:, cells.count() >= 2]
        if cells.empty:
            continue
        rows.append((group, metric, int(cells.count().sum()), _pooled(cells), _of_pairs(cells)))
    if not rows:
        raise InputError("no starting point has two seeds of a protocol: their spread is unknown")
    return pd.DataFrame(rows, columns=["group", "metric", "runs", "spread", "paired"])


def _pooled(cells: pd.DataFrame) -> float:
    """Standard deviation within columns, each counted by its degrees of freedom."""
    freedom = cells.count() - 1
    return float(np.sqrt((cells.var(ddof=1) * freedom).sum() / freedom.sum()))


def _of_pairs(cells: pd.DataFrame) -> float:
    names = list(cells)
    differences = {}
    for index, name in enumerate(names):
        for other in names[:index]:
            differences[name, other] = cells[name] - cells[other]
    both = pd.DataFrame(differences)
    both = both.loc[:, both.count() >= 2]
    return float("nan") if both.empty else _pooled(both)
