"""Records -> a tidy DataFrame -> the AP table: starting points against protocols, mean and spread over seeds."""

from collections.abc import Iterable, Sequence
from pathlib import PurePath

import numpy as np
import pandas as pd

from . import InputError
from .render import render

__all__ = ["DEFINITIONS", "METRICS", "ap_table", "frame", "render"]

METRICS = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "keypoint_ap")  # shown unless others are asked for
DEFINITIONS = {"coco": "COCO AP", "voc2007": "VOC07 AP", "voc2012": "VOC12 AP"}
GROUP = [
    "protocol",
    "protocol_version",
    "protocol_hash",
    "data",
    "scorer",
    "engine",
    "scaling",
]  # never averaged across
ROW = ["starting_point", "weights"]
COLUMNS = [
    "id", "status", *ROW, *GROUP, "seed", "metric", "value", "deviations", "data_name", "row_order", "group_order",
]  # fmt: skip


def frame(records: Iterable[dict]) -> pd.DataFrame:
    """One row a run and metric (percent). Runs without metrics have one row with metric "" and value NaN.

    `records` may also hold the specs of jobs that are only planned: their status is `planned`. `weights` and `data`
    identify the content: sha256 of the weights file, fingerprints of both splits, once they are known.
    """
    runs = [record for record in records if record.get("kind") == "transfer"]
    known = _contents_by_plan(runs)
    rows = []
    for run in runs:
        spec = run.get("spec", run)
        head = [run.get("id"), run.get("status", "planned"), run.get("starting_point"), _weights(run, known)]
        head += [run.get("protocol"), run.get("protocol_version"), run.get("protocol_hash"), _data(run, known)]
        head += [run.get("scorer"), run.get("engine"), str(run.get("scaling", "1")), run.get("seed")]
        order = spec.get("order", (0, 0))
        data = spec.get("data", {})
        tail = [tuple(run.get("deviations", ())), PurePath(data.get("root") or data.get("layout") or "").name, *order]
        for metric, value in (run.get("metrics") or {"": np.nan}).items():
            rows.append([*head, metric, value, *tail])
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": float})


def _weights(run: dict, known: dict[str, str]) -> str:
    spec = run.get("spec", run)
    if spec.get("weights") == "random":
        return "random"
    planned = spec.get("weights_identity", "")
    return (run.get("weights") or {}).get("sha256", "") if "metrics" in run and run.get("weights") else known.get(planned, planned)


def _data(run: dict, known: dict[str, str]) -> str:
    data = run.get("data") or {}
    train, test = (data.get(part) if isinstance(data.get(part), dict) else {} for part in ("train", "test"))
    if train and test:
        return f"{train.get('fingerprint')} {test.get('fingerprint')}"
    planned = (run.get("spec", run).get("data") or {}).get("identity", "")
    return known.get(planned, planned)


def _contents_by_plan(runs: Sequence[dict]) -> dict[str, str]:
    """What a plan calls weights and data (by the job that makes them) -> their content, known from finished runs."""
    known: dict[str, str] = {}
    for run in runs:
        if run.get("status") == "done":
            spec = run.get("spec", {})
            known[spec.get("weights_identity", "")] = _weights(run, {})
            known[(spec.get("data") or {}).get("identity", "")] = _data(run, {})
    known.pop("", None)
    return known


def ap_table(
    runs: pd.DataFrame, baselines: Sequence[str] = ("supervised", "random"), metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """The table: rows starting points; columns (group, metric, statistic), numbers in percent.

    A group is a protocol with all that must not be mixed: version, settings, data, scorer, engine, scaling.
    Statistics: `mean`, `std` (of the sample, NaN for one run), `n`, `failed`, `planned`, and for each baseline there is
    `minus NAME` (difference of means) and `n NAME` (the smaller n of the two). `attrs` carries the footnotes.
    Raises InputError if there is nothing to show, or a metric nobody measured.
    """
    if runs.empty:
        raise InputError("no fine-tuning results yet: nothing to put into a table")
    runs = runs.assign(row=_row_labels(runs), group=_labels(runs))
    wanted = _wanted(runs, metrics)
    rows, groups = _row_order(runs), list(runs.sort_values("group_order", kind="stable")["group"].unique())
    measured = runs[(runs["status"] == "done") & runs["metric"].isin(wanted)]
    stats = measured.groupby(["row", "group", "metric"])["value"].agg(["mean", "std", "count"])
    per_run = runs.drop_duplicates("id").groupby(["row", "group"])["status"].value_counts().unstack(fill_value=0)
    columns: dict[tuple[str, str, str], pd.Series] = {}
    for group in groups:
        here = set(measured.loc[measured["group"] == group, "metric"])
        for metric in [name for name in wanted if name in here] or wanted[:1]:
            cells = stats[stats.index.isin([group], "group") & stats.index.isin([metric], "metric")].droplevel([1, 2]).reindex(rows)
            columns[group, metric, "mean"], columns[group, metric, "std"] = cells["mean"], cells["std"]
            columns[group, metric, "n"] = cells["count"].fillna(0).astype(int)
            for state in ("failed", "planned"):
                counts = per_run.xs(group, level="group").get(state, pd.Series(dtype=int))
                columns[group, metric, state] = counts.reindex(rows).fillna(0).astype(int)
            for name in (name for name in baselines if name in rows):
                columns[group, metric, f"minus {name}"] = cells["mean"] - cells["mean"][name]
                columns[group, metric, f"n {name}"] = cells["count"].clip(upper=cells["count"][name]).fillna(0).astype(int)
    table = pd.DataFrame(columns, index=pd.Index(rows, name="starting point"))
    table.columns.names = ["group", "metric", "statistic"]
    table.attrs = _notes(runs, rows, groups) | {"baselines": [name for name in baselines if name in rows]}
    return table


def _wanted(runs: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    there = set(runs["metric"]) - {""}
    if metrics is None:
        return [name for name in METRICS if name in there] or ["box_ap"]
    lost = next((name for name in metrics if name not in there), None)
    if lost is not None:
        raise InputError(f"no result has the metric {lost!r}; there are {', '.join(sorted(there)) or 'none'}")
    return list(metrics)


def _row_labels(runs: pd.DataFrame) -> pd.Series:
    """The starting point's name; with the first digits of its weights where two files go by one name."""
    files = runs.groupby("starting_point")["weights"].nunique()
    twins = runs["starting_point"].map(files) > 1
    return runs["starting_point"].where(~twins, runs["starting_point"] + " (" + runs["weights"].str[:6] + ")")


def _row_order(runs: pd.DataFrame) -> list[str]:
    """random, supervised, then the order of the suite."""
    first = {"random": -2, "supervised": -1}
    order = runs.assign(first=runs["starting_point"].map(first).fillna(0))
    return list(order.sort_values(["first", "row_order"], kind="stable")["row"].unique())


def _labels(runs: pd.DataFrame) -> pd.Series:
    """A text for each group: protocol and version; data, engine, definition of AP; hashes where that is not enough."""
    groups = runs.drop_duplicates(GROUP)[[*GROUP, "data_name"]]
    texts = groups.apply(_label, axis=1)
    for column in ("protocol_hash", "data"):
        twins = texts.duplicated(keep=False)
        same = groups.groupby(texts)[column].transform("nunique") == 1
        texts = texts.where(~twins | same, texts + f", {column.split('_')[-1]} " + groups[column].str[:6])
    keys = [tuple(values) for values in groups[GROUP].to_numpy().tolist()]
    label = dict(zip(keys, texts, strict=True))
    return pd.Series([label[tuple(values)] for values in runs[GROUP].to_numpy().tolist()], index=runs.index)


def _label(group: pd.Series) -> str:
    scaled = "" if group["scaling"] == "1" else f", scaled {group['scaling']}"
    definition = DEFINITIONS.get(group["scorer"], group["scorer"])
    protocol = f"{group['protocol']} v{group['protocol_version']}"
    return f"{protocol}: {group['data_name']}, {group['engine']}, {definition}{scaled}"


def _notes(runs: pd.DataFrame, rows: Sequence[str], groups: Sequence[str]) -> dict:
    """Footnotes: deviations, at the group if all its runs share them, else at the cell; runs that failed."""
    each = runs.drop_duplicates("id")
    done = each[each["status"] == "done"]
    letters: dict[str, str] = {}
    group_marks: dict[str, str] = {}
    cell_marks: dict[tuple[str, str], str] = {}

    def mark(texts: Iterable[str]) -> str:
        return ",".join(letters.setdefault(text, _letter(len(letters))) for text in texts)

    by_cell = {key: set(values.explode().dropna()) for key, values in done.groupby(["row", "group"])["deviations"]}
    common = {}
    for group in groups:
        sets = list(map(set, done.loc[done["group"] == group, "deviations"]))
        common[group] = set.intersection(*sets) if sets else set()
        group_marks[group] = mark(sorted(common[group]))
    failed = each[each["status"] == "failed"].groupby(["row", "group"]).size()
    for cell in ((row, group) for row in rows for group in groups):
        texts = sorted(by_cell.get(cell, set()) - common[cell[1]])
        if failed.get(cell, 0) and cell in by_cell:
            texts.append(f"without {failed[cell]} run{'s' if failed[cell] > 1 else ''} that failed")
        cell_marks[cell] = mark(texts)
    return {
        "group_marks": group_marks,
        "cell_marks": cell_marks,
        "notes": {letter: text for text, letter in letters.items()},
    }


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)
