"""Records -> a tidy DataFrame -> the AP table: starting points against protocols, mean and spread
over seeds."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

import numpy as np
import pandas as pd

from detco.common.errors import InputError

from . import stats
from .footnotes import Footnotes

METRICS = (  # shown by default
    "box_ap",
    "box_ap50",
    "box_ap75",
    "mask_ap",
    "keypoint_ap",
    "densepose_ap",
    "miou",
    "top1",
    "top5",
    "svm_map",
)
# shown too: one for each number of neighbours, or of examples
NUMBERED = re.compile(r"(knn|svm_map_)(\d+)")
DEFINITIONS = {
    "accuracy": "accuracy",
    "class-ap": "AP of classes",
    "coco": "COCO AP",
    "voc2007": "VOC07 AP",
    "voc2012": "VOC12 AP",
    "cityscapes": "Cityscapes AP",
    "gps": "DensePose AP (GPS)",
}
GROUP = [  # runs that differ in one of these are never averaged
    "protocol",
    "protocol_version",
    "protocol_hash",
    "data",
    "scorer",
    "engine",
    "scaling",
    "detectron2",
]
ROW = ["starting_point", "weights"]
COLUMNS = [
    "id",
    "status",
    *ROW,
    *GROUP,
    "seed",
    "deviations",
    "detectron2_is",
    "data_name",
    "row_order",
    "group_order",
    "metric",
    "value",
]


def frame(records: Iterable[dict]) -> pd.DataFrame:
    """One row a run and metric (percent). Runs without metrics have one row with metric "" and
    value NaN.

    `records` may also hold the specs of jobs that are only planned: their status is `planned`.
    `weights` and `data` identify the content: sha256 of the weights file, fingerprints of both
    splits, once they are known (with a hash of the images, but for older records). `detectron2` is
    the hash of the Detectron2 that ran, "" where none did, or an older record does not say.
    """
    runs = [record for record in records if record.get("kind") == "transfer"]
    known = _contents_by_plan(runs)
    metrics = [run.get("metrics") or {"": np.nan} for run in runs]
    long = pd.DataFrame([_facts(run, known) for run in runs], columns=COLUMNS[:-2])
    long["detectron2"] = _of_unfinished(long)
    long = long.loc[
        np.repeat(np.arange(len(runs)), [len(values) for values in metrics])
    ].reset_index(drop=True)
    long["metric"] = pd.Series([name for values in metrics for name in values], dtype=str)
    return long.assign(
        value=np.array([value for values in metrics for value in values.values()], float)
    )


def _facts(run: dict, known: Mapping[str, str]) -> list:
    """All of a run but its metrics, in the order of COLUMNS."""
    spec = run.get("spec", run)
    data = spec.get("data") or {}
    return [
        run.get("id"),
        run.get("status", "planned"),
        run.get("starting_point"),
        _weights(run, known),
        run.get("protocol"),
        run.get("protocol_version"),
        run.get("protocol_hash"),
        _data(run, known),
        run.get("scorer"),
        run.get("engine"),
        str(run.get("scaling", "1")),
        _detectron2(run).get("hash", ""),
        run.get("seed"),
        tuple(run.get("deviations", ())),
        _detectron2(run).get("which", ""),
        PurePath(data.get("root") or data.get("layout") or "").name,
        *(spec.get("order") or (0, 0)),
    ]


def _weights(run: dict, known: Mapping[str, str]) -> str:
    spec = run.get("spec", run)
    planned = spec.get("weights_identity", "")
    if spec.get("weights") == "random":
        return planned if planned.startswith("random:") else "random"  # of that architecture
    return (
        (run.get("weights") or {}).get("sha256", "")
        if "metrics" in run and run.get("weights")
        else known.get(planned, planned)
    )


def _data(run: dict, known: Mapping[str, str]) -> str:
    data = run.get("data") or {}
    train, test = data.get("train"), data.get("test")
    if train and test and isinstance(train, dict) and isinstance(test, dict):
        labels = f"{train.get('fingerprint')} {test.get('fingerprint')}"
        if not train.get("content"):  # an older record: names, sizes and labels
            return labels
        text = f"{labels} {train['content']} {test.get('content')}"
        return hashlib.sha256(text.encode()).hexdigest()
    planned = (run.get("spec", run).get("data") or {}).get("identity", "")
    return known.get(planned, planned)


def _detectron2(run: dict) -> dict:
    return (run.get("facts") or {}).get("detectron2") or {}


def _of_unfinished(long: pd.DataFrame) -> list[str]:
    """Each run's Detectron2; one that has not finished belongs to the finished ones of its group,
    not beside them."""
    others = long[GROUP[:-1]].itertuples(index=False, name=None)
    keys = list(others)
    finished = long["status"] == "done"
    known = {
        key: own for key, own, done in zip(keys, long["detectron2"], finished, strict=True) if done
    }
    return [
        own if done else known.get(key, own)
        for key, own, done in zip(keys, long["detectron2"], finished, strict=True)
    ]


def _contents_by_plan(runs: Sequence[dict]) -> dict[str, str]:
    """What a plan calls weights and data (by the job that makes them) -> their content, known from
    finished runs."""
    known: dict[str, str] = {}
    for run in runs:
        if run.get("status") == "done":
            spec = run.get("spec", {})
            known[spec.get("weights_identity", "")] = _weights(run, {})
            known[(spec.get("data") or {}).get("identity", "")] = _data(run, {})
    known.pop("", None)
    return known


def ap_table(
    runs: pd.DataFrame,
    baselines: Sequence[str] = ("supervised", "random"),
    metrics: Sequence[str] | None = None,
    pairing: str = "welch",
    each: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The table: rows starting points; columns (group, metric, statistic), numbers in percent.

    A group is a protocol with all that must not be mixed: version, settings, data, scorer, engine,
    scaling.
    Statistics: `mean`, `std` (of the sample, NaN for one run), `n`, `failed`, `planned`. For each
    baseline also `minus NAME` (difference of means), `ci NAME` (half of its 95 % interval, NaN with
    a single run) and `n NAME` (the smaller n of the two); in its own row NaN, NaN and 0.

    pairing: "welch" (Welch's t) or "paired" (by seed, over the seeds both have).
    each: these runs as `labelled` together with others; default: labelled alone.
    The footnotes are in `attrs`. Raises InputError if there is no result, or a metric no run has.
    """
    each, wanted = labelled(runs) if each is None else each, _wanted(runs, metrics)
    measured = values(runs[runs["metric"].isin(wanted)], each)
    rows, groups = (
        row_order(each),
        list(each.sort_values("group_order", kind="stable")["group"].unique()),
    )
    there = {
        group: set(found) for group, found in measured.groupby("group", observed=True)["metric"]
    }
    cells = [
        (group, m)
        for group in groups
        for m in [n for n in wanted if n in there.get(group, ())] or wanted[:1]
    ]
    columns = pd.MultiIndex.from_tuples(cells, names=["group", "metric"])
    numbers = measured.groupby(["row", "group", "metric"])["value"].agg(["mean", "std", "count"])

    def spread_out(numbers: pd.Series) -> pd.DataFrame:
        return numbers.unstack(["group", "metric"]).reindex(index=rows, columns=columns)

    parts = {key: spread_out(numbers[key]) for key in ("mean", "std")}
    parts["n"] = spread_out(numbers["count"]).fillna(0).astype(int)
    for state in ("failed", "planned"):
        counts = each[each["status"] == state].groupby(["row", "group"]).size().unstack("group")
        parts[state] = (
            counts.reindex(index=rows, columns=columns.get_level_values("group"))
            .fillna(0)
            .astype(int)
        )
        parts[state].columns = columns
    names = each.set_index("row")["starting_point"].to_dict()
    chosen = [row for wish in baselines for row in rows if wish in (row, names[row])]
    for name in chosen:
        parts |= _differences(parts, name, measured if pairing == "paired" else None)
    table = pd.concat(parts, axis=1, names=["statistic"]).reorder_levels(
        ["group", "metric", "statistic"], axis=1
    )
    table = table[[(*cell, key) for cell in cells for key in parts]].rename_axis("starting point")
    facts = each.drop_duplicates("group")
    table.attrs = {  # nothing of pandas: it compares them
        "footnotes": _footnotes(each, rows, groups),
        "baselines": chosen,
        "pairing": pairing,
        "groups": facts.set_index("group")[[*GROUP, "data_name"]].to_dict("index"),
        "seeds": measured.groupby(["row", "group", "metric"])["seed"].agg(_listed).to_dict(),
    }
    return table


def _listed(seeds: pd.Series) -> str:
    return " ".join(map(str, sorted(seeds)))


def cell(table: pd.DataFrame, group: str, metric: str) -> pd.DataFrame:
    """One metric of a group of `ap_table`: rows starting points, columns statistics."""
    columns = table.columns
    here = (columns.get_level_values("group") == group) & (
        columns.get_level_values("metric") == metric
    )
    return table.loc[:, here].droplevel(["group", "metric"], axis=1)


def labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a run of `frame`, with the columns `row` and `group` (texts) and `repeat`: a finished
    run of a cell and seed that counts already. Raises InputError if there is none."""
    if runs.empty:
        raise InputError("no fine-tuning results yet: nothing to put into a table")
    each = runs.drop_duplicates("id")
    each = each.assign(row=_row_labels(each), group=_labels(each))
    done = each["status"] == "done"
    each["repeat"] = done & each[done].duplicated(["row", "group", "seed"]).reindex(
        each.index, fill_value=False
    )
    return each


def values(runs: pd.DataFrame, each: pd.DataFrame) -> pd.DataFrame:
    """The rows of `frame` that enter means: finished runs, each seed of a cell once; with the
    columns `row` and `group`."""
    counted = each[(each["status"] == "done") & ~each["repeat"]].set_index("id")[["row", "group"]]
    return runs.join(counted, on="id", how="inner")


def _differences(
    parts: Mapping[str, pd.DataFrame], name: str, measured: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    """The statistics that compare with one baseline. `measured`: the single values, to pair
    them by seed."""
    mean, std, n = (parts[key] for key in ("mean", "std", "n"))
    if measured is None:
        difference, half = stats.welch(mean, std, n, mean.loc[name], std.loc[name], n.loc[name])
        fewer = n.clip(upper=n.loc[name], axis=1).to_numpy()
    else:
        difference, half, fewer = (np.full(mean.shape, np.nan) for _ in range(3))
        by_seed = measured.groupby(["row", "group", "metric"])[["seed", "value"]]
        single = {
            cell: dict(zip(found["seed"], found["value"], strict=True)) for cell, found in by_seed
        }
        for j, column in enumerate(mean.columns):
            theirs = single.get((name, *column), {})
            for i, row in enumerate(mean.index):
                found = stats.paired(single.get((row, *column), {}), theirs)
                difference[i, j], half[i, j], fewer[i, j] = found
    made = {f"minus {name}": difference, f"ci {name}": half, f"n {name}": fewer}
    frames = {
        key: pd.DataFrame(numbers, index=mean.index, columns=mean.columns)
        for key, numbers in made.items()
    }
    frames[f"n {name}"] = frames[f"n {name}"].astype(int)
    for key, empty in zip(frames, (np.nan, np.nan, 0)):
        frames[key].loc[name] = empty  # its own row is no comparison
    return frames


def _wanted(runs: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    there = set(runs["metric"].unique()) - {""}
    if metrics is None:
        numbered = sorted(filter(NUMBERED.fullmatch, there), key=_by_number)
        return [name for name in METRICS if name in there] + numbered or ["box_ap"]
    lost = next((name for name in metrics if name not in there), None)
    if lost is not None:
        raise InputError(
            f"no result has the metric {lost!r}; there are {', '.join(sorted(there)) or 'none'}"
        )
    return list(metrics)


def _by_number(metric: str) -> tuple[str, int]:
    kind, number = NUMBERED.fullmatch(metric).groups()  # type: ignore[union-attr]
    return kind, int(number)


def _row_labels(each: pd.DataFrame) -> pd.Series:
    """The starting point's name; with the first digits of its weights where two files go
    by one name."""
    files = each.groupby("starting_point")["weights"].nunique()
    twins = each["starting_point"].map(files) > 1
    return each["starting_point"].where(
        ~twins, each["starting_point"] + " (" + each["weights"].str[:6] + ")"
    )


def row_order(each: pd.DataFrame) -> list[str]:
    """random, supervised, then the order of the suite."""
    first = {"random": -2, "supervised": -1}
    order = each.assign(first=each["starting_point"].map(first).fillna(0))
    return list(order.sort_values(["first", "row_order"], kind="stable")["row"].unique())


def _labels(each: pd.DataFrame) -> pd.Series:
    """A text for each group: protocol and version; data, engine, definition of AP; hashes where
    that is not enough."""
    groups = each.drop_duplicates(GROUP)[[*GROUP, "data_name"]]
    texts = told_apart(groups.apply(label, axis=1), groups, ("protocol_hash", "data", "detectron2"))
    keys = [tuple(values) for values in groups[GROUP].to_numpy().tolist()]
    of_group = dict(zip(keys, texts, strict=True))
    return pd.Series(
        [of_group[tuple(values)] for values in each[GROUP].to_numpy().tolist()], index=each.index
    )


def told_apart(texts: pd.Series, groups: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Texts of groups of `frame`; those that are alike are followed by the first digits of the
    hashes in which they differ."""
    if not texts.duplicated().any():
        return texts
    shown = groups.assign(
        protocol_hash="hash " + groups["protocol_hash"].str[:6],
        data="data " + groups["data"].str[:6],
    )
    shown["detectron2"] = "Detectron2 " + groups["detectron2"].str[:6].replace("", "unknown")
    for column in columns:
        twins = texts.duplicated(keep=False)
        same = groups.groupby(texts)[column].transform("nunique") == 1
        texts = texts.where(~twins | same, texts + ", " + shown[column])
    return texts


def label(group: Mapping) -> str:
    """Protocol and version, data, engine, definition of AP, scaling: of a row of `frame`."""
    scaled = "" if group["scaling"] == "1" else f", scaled {group['scaling']}"
    definition = DEFINITIONS.get(group["scorer"], group["scorer"])
    protocol = f"{group['protocol']} v{group['protocol_version']}"
    return f"{protocol}: {group['data_name']}, {group['engine']}, {definition}{scaled}"


def _footnotes(each: pd.DataFrame, rows: Sequence[str], groups: Sequence[str]) -> Footnotes:
    """Deviations, at the group if all its runs share them, else at the cell (row, group); runs that
    failed or repeat a seed, at the cell."""
    done = each[(each["status"] == "done") & ~each["repeat"]]
    deviations = {
        cell: [set(texts) for texts in found]
        for cell, found in done.groupby(["row", "group"])["deviations"]
    }
    footnotes, shared, detectron2 = Footnotes(), {}, different_detectron2(done)
    for group in groups:
        runs = [texts for cell in deviations if cell[1] == group for texts in deviations[cell]]
        shared[group] = set.intersection(*runs) if runs else set()
        footnotes.add(group, [*sorted(shared[group]), *detectron2.get(group, ())])
    failed = each[each["status"] == "failed"].groupby(["row", "group"]).size()
    repeated = each[each["repeat"]].groupby(["row", "group"]).size()
    for cell in ((row, group) for group in groups for row in rows):
        if cell in deviations:
            notes = sorted(set.union(*deviations[cell]) - shared[cell[1]])
            notes += _without(failed.get(cell, 0), "that failed")
            notes += _without(repeated.get(cell, 0), "of a seed that counts already")
            footnotes.add(cell, notes)
    return footnotes


def _without(count: int, what: str) -> list[str]:
    return [f"without {count} run{'s' if count > 1 else ''} {what}"] if count else []


def different_detectron2(done: pd.DataFrame) -> dict[str, list[str]]:
    """Which Detectron2 made a group, for the groups of an engine of which several are in the table;
    of runs of `labelled`."""
    several = done.groupby("engine")["detectron2"].transform("nunique") > 1
    found = {}
    for run in done[several].drop_duplicates("group").itertuples():
        text = (
            f"{run.detectron2_is} (files {run.detectron2[:6]})"
            if run.detectron2
            else "unknown (an older record)"
        )
        found[run.group] = [f"Detectron2: {text}"]
    return found
