"""Compares measured with published numbers: a verdict for each cell that both have."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from .. import tables
from ..cells import Cell, Grid, Group, Section
from ..footnotes import Footnotes
from ..grids import metric_name, signed, value_text
from . import numbers as published

ARCH = "resnet50"  # of the published numbers
# protocols (beginnings): standard deviation between runs, as published (.2 to .4)
SPREADS = {"voc-faster-rcnn-c4": 0.4}
SPREAD = 0.4  # standard deviation assumed where none is published
# protocols (patterns), their engine, their definition of AP (None: there is only one), how many
# pictures they are tested on
TESTS = (
    (r"coco-(?!densepose)", "detectron2", "coco", 5000),
    (r"coco-densepose", "detectron2", "gps", 1508),
    (r"voc-faster-rcnn", "detectron2", "voc2007", 4952),
    (r"cityscapes", "detectron2", None, 500),
    (r"imagenet-linear", "frozen", "accuracy", 50_000),
    (r"voc07-svm", "frozen", "class-ap", 4952),
)
IMAGENET = 1281167  # pictures
RULE = (
    "reproduced: the difference is not larger than the tolerance; else above or below. Tolerance:"
    f" the published spread p (VOC: {SPREADS['voc-faster-rcnn-c4']} AP), or p = {SPREAD} AP where"
    " none is published; with two or more seeds of standard deviation s: √(p² + s²)"
)
TONES = {"reproduced": "best", "above": "up", "below": "down", "not comparable": "noise"}
COLUMNS = [
    "group",
    "protocol",
    "row",
    "method",
    "epochs",
    "metric",
    "mean",
    "std",
    "n",
    "published",
    "difference",
    "tolerance",
    "verdict",
    "reason",
    "detectron2",
]


def compare(records: Iterable[dict], source: str = published.DETCO) -> pd.DataFrame:
    """One row for each measured cell that `source` has too; columns COLUMNS, numbers in percent.

    epochs: of pretraining, as published (NA: not printed); where no published number fits, as
        measured.
    verdict: reproduced, above, below (by RULE), or not comparable with its `reason`; then
        difference and tolerance are NaN.
    detectron2: hash of the one that ran, "" where the records do not say.
    Raises InputError for an unknown source, or without any result.
    """
    numbers = published.of_source(source)
    records = [record for record in records if record.get("kind") == "transfer"]
    runs = tables.frame(records)
    each = tables.labelled(runs)
    measured = tables.values(runs[runs["metric"].isin(numbers["metric"].unique())], each)
    measured = measured[measured["protocol"].isin(numbers["protocol"].unique())]
    measured = measured.sort_values(["group_order", "row_order"], kind="stable")
    of_run = {record.get("id"): record for record in records}
    twins = {key: found for key, found in numbers.groupby(["protocol", "method", "metric"])}
    rows = []
    for (group, row, metric), cell in measured.groupby(["group", "row", "metric"], sort=False):
        cell_records = [of_run[run] for run in cell["id"]]
        method, epochs = method_of(cell_records[0])
        found = twins.get((cell["protocol"].iloc[0], method, metric))
        if found is not None:
            std = cell["value"].std() if len(cell) > 1 else np.nan
            twin, reasons = _twin(found, epochs)
            reasons += _obstacles(
                cell_records, found["protocol"].iloc[0], int(found["version"].iloc[0])
            )
            facts = [
                group,
                cell["protocol"].iloc[0],
                row,
                method,
                epochs if twin is None else twin["epochs"],
                metric,
            ]
            mean, n = cell["value"].mean(), len(cell)
            verdict = _verdict(mean, std, n, twin, reasons)
            rows.append([*facts, mean, std, n, *verdict, cell["detectron2"].iloc[0]])
    return pd.DataFrame(rows, columns=COLUMNS)


def method_of(record: dict) -> tuple[str, int | None]:
    """The method as the papers' tables name it, and its epochs of pretraining where known.

    The weights say the method; the recipe or the row's name may say it more exactly: detco-aa
    is a detco.
    """
    weights = record.get("weights") or {}
    method = (
        "random" if record["spec"].get("weights") == "random" else str(weights.get("method", ""))
    )
    for text in (_recipe(weights), str(record.get("starting_point", ""))):
        named = [name for name in published.METHODS if re.match(rf"{re.escape(name)}(-|$)", text)]
        longest = max(named, key=len, default="")
        if longest and (not method or longest.startswith(method)):
            method = longest
            break
    said = str(weights.get("epochs") or "")
    return method, int(said) if said.isdigit() else None


def _recipe(weights: Mapping) -> str:
    """The recipe that made a backbone file here; "" for one from elsewhere."""
    found = re.match(r"recipe (\S+)", str(weights.get("source", "")))
    return found[1] if found else ""


def _verdict(
    mean: float, std: float, n: int, twin: pd.Series | None, reasons: Sequence[str]
) -> list:
    """published, difference, tolerance, verdict, reason."""
    value = np.nan if twin is None else float(twin["value"])
    if twin is None or reasons:
        return [value, np.nan, np.nan, "not comparable", "; ".join(reasons)]
    tolerance = float(np.hypot(spread_of(twin["protocol"]), std if n > 1 else 0))
    difference = mean - value
    within = abs(difference) <= tolerance + 1e-9
    return [
        value,
        difference,
        tolerance,
        "reproduced" if within else "above" if difference > 0 else "below",
        "",
    ]


def spread_of(protocol: str) -> float:
    """Published standard deviation between runs, AP; SPREAD where none is given."""
    return next(
        (spread for beginning, spread in SPREADS.items() if protocol.startswith(beginning)), SPREAD
    )


def _twin(found: pd.DataFrame, epochs: int | None) -> tuple[pd.Series | None, list[str]]:
    """The published number for that many epochs of pretraining, and what stands against it. NA: the
    paper prints none."""
    same = found[found["epochs"].isna() | (found["epochs"] == epochs)]
    if len(same):
        return same.iloc[0], []
    only = found.iloc[0] if len(found) == 1 else None
    there = ", ".join(str(e) for e in found["epochs"])
    said = "an unknown number of" if epochs is None else epochs
    return only, [f"other schedule: pretrained for {said} epochs, published for {there}"]


def _obstacles(records: Sequence[dict], protocol: str, version: int) -> list[str]:
    """Why runs of one cell cannot be compared with the published number; empty if they can."""
    first, data = records[0], records[0].get("data") or {}
    engine, scorer, pictures = next(
        (found for pattern, *found in TESTS if re.match(pattern, protocol)),
        ("detectron2", None, None),
    )
    definition = tables.DEFINITIONS.get(first["scorer"], first["scorer"])
    test = (data.get("test") or {}).get("images") if isinstance(data.get("test"), Mapping) else None
    checks = (
        (first["engine"] != engine, f"other engine: {first['engine']}"),
        (
            first["protocol_version"] != version,
            f"other version of the protocol: {first['protocol_version']}",
        ),
        (str(first["scaling"]) != "1", f"scaled: {first['scaling']}"),
        (scorer and first["scorer"] != scorer, f"another definition of the metric: {definition}"),
        (
            pictures and test != pictures,
            f"other data: {test or 'unknown number of'} test pictures, published on {pictures}",
        ),
    )
    reasons = [text for wrong, text in checks if wrong] + _pretraining(
        first.get("weights") or {}, protocol
    )
    departures = list(dict.fromkeys(text for record in records for text in record["deviations"]))
    schedule = [text for text in departures if text.startswith("schedule.")]
    reasons += [f"other schedule: {', '.join(schedule)}"] if schedule else []
    rest = [text for text in departures if text not in schedule]
    return reasons + ([f"departs from the protocol: {', '.join(rest)}"] if rest else [])


def _pretraining(weights: Mapping, protocol: str) -> list[str]:
    """Other backbone, recipe, pictures. Weights that do not say how many
    images they saw are accepted."""
    arch, recipe = "resnet101" if "r101" in protocol else ARCH, _recipe(weights)
    reasons = [f"other backbone: {weights['arch']}"] if weights.get("arch", arch) != arch else []
    if recipe and not re.fullmatch(rf"({'|'.join(published.METHODS)})-\d+ep", recipe):
        reasons.append(f"other recipe: {recipe}")
    try:
        pictures = int(weights["images_seen"]) / int(weights["epochs"])
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        return reasons
    if abs(pictures / IMAGENET - 1) > 0.01:
        reasons.append(
            f"other pretraining data: {pictures:.0f} pictures an epoch, published on ImageNet's"
            f" {IMAGENET}"
        )
    return reasons


def grid(cells: pd.DataFrame, source: str, records: Iterable[dict]) -> Grid:
    """The cells with their verdicts; notes say the rule, why cells are not comparable, and what has
    no published twin."""
    records = list(records)
    footnotes, sections = Footnotes(), []
    of_group = tables.different_detectron2(_finished(records, cells))
    for group, found in cells.groupby("group", sort=False):
        rows = []
        for cell in found.itertuples():
            reasons = [cell.reason] if cell.reason else []
            mark = footnotes.add((group, cell.row, cell.metric), reasons)
            verdict = Cell(cell.verdict, TONES[cell.verdict], mark)
            rows.append((cell.row, [*_numbers(cell), verdict]))
        mark = footnotes.add(group, of_group.get(group, ()))
        sections.append(Section(f"{group} [{mark}]" if mark else group, rows))
    notes = [] if sections else [f"no measured cell has a number in {source}"]
    notes += [RULE, *footnotes.lines(), *_without_twin(records, source)]
    columns = Group("", "", ("measured", "published", "difference", "tolerance"))
    groups = [Group("", "", ("metric",), "l"), columns, Group("", "", ("verdict",), "l")]
    return Grid(groups, sections, notes, f"Measured beside {source}")


def _finished(records: Iterable[dict], cells: pd.DataFrame) -> pd.DataFrame:
    """The finished runs of `tables.labelled` behind the cells."""
    each = tables.labelled(tables.frame(records))
    return each[(each["status"] == "done") & each["group"].isin(cells["group"])]


def _numbers(cell) -> list[Cell]:
    value = "–" if np.isnan(cell.published) else f"{cell.published:.1f}"
    both = (
        ("–", "–")
        if np.isnan(cell.difference)
        else (signed(cell.difference), f"± {cell.tolerance:.1f}")
    )
    measured = value_text(cell.mean, cell.std, cell.n)
    return [Cell(metric_name(cell.metric)), Cell(measured), Cell(value), *map(Cell, both)]


def _without_twin(records: Iterable[dict], source: str) -> list[str]:
    """Names what was measured and is not in the source at all."""
    numbers = published.of_source(source)
    done = [
        record
        for record in records
        if record.get("kind") == "transfer" and record.get("status") == "done"
    ]
    protocols = sorted({r["protocol"] for r in done} - set(numbers["protocol"]))
    starts = sorted(
        {r["starting_point"] for r in done if method_of(r)[0] not in set(numbers["method"])}
    )
    parts = ((protocols, "protocols"), (starts, "starting points"))
    return [
        f"{what} without published numbers in {source}: {', '.join(names)}"
        for names, what in parts
        if names
    ]
