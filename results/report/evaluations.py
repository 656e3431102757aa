"""AP during training (--eval-period), with the final result as the last point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .. import tables
from .charts import Line


@dataclass(frozen=True)
class EvaluationChart:
    """One chart: a line over iterations for each row; `metric` (percent) is the group's first."""

    metric: str
    lines: list[Line]


def curves(
    runs: pd.DataFrame, records: Sequence[dict], columns: Sequence[tuple[str, str]]
) -> dict[str, EvaluationChart]:
    """Group -> its chart, for groups in which some run was evaluated on the way.

    runs: `tables.frame`; columns: (group, metric), of each group the first counts. A point
    is the mean over the seeds that were evaluated during training; iterations that not all
    of them share are left out.
    """
    each = tables.labelled(runs)
    counted = each[(each["status"] == "done") & ~each["repeat"]]
    of_run = {record["id"]: record for record in records}
    charts: dict[str, EvaluationChart] = {}
    first: dict[str, str] = {}
    for group, metric in columns:
        first.setdefault(group, metric)
    for group, metric in first.items():
        found = counted[counted["group"] == group]
        lines = []
        for colour, row in enumerate(tables.row_order(each)):
            seeds = [points(of_run[run], metric) for run in found[found["row"] == row]["id"]]
            lines += _line(row, colour, [seed for seed in seeds if len(seed) > 1])
        if lines:
            charts[group] = EvaluationChart(metric, lines)
    return charts


def points(record: Mapping, metric: str) -> dict[int, float]:
    """Iteration -> value (percent) of one run, in order; with its result at the end where it was
    evaluated before."""
    evaluations = (record.get("facts") or {}).get("evaluations") or ()
    found = {
        one["iteration"]: one["metrics"][metric] for one in evaluations if metric in one["metrics"]
    }
    row = record["spec"].get("protocol_row") or {}
    iterations = (row.get("schedule") or {}).get("iterations")
    if found and iterations and metric in record["metrics"]:
        found[iterations] = record["metrics"][metric]
    return found


def _line(row: str, colour: int, seeds: Sequence[Mapping[int, float]]) -> list[Line]:
    """The mean over the seeds at the iterations that they share."""
    shared = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if len(shared) < 2:
        return []
    values = np.array([[seed[iteration] for iteration in shared] for seed in seeds])
    spread = values.std(0, ddof=1) if len(seeds) > 1 else np.full(len(shared), np.nan)
    return [
        Line(row, list(zip(shared, values.mean(0).tolist())), colour, spread.tolist(), markers=True)
    ]
