"""One self-contained HTML page: summary, tables, charts, example images, settings,
commands that reproduce it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment
from markupsafe import Markup

from detco.common.errors import InputError
from detco.common.images import Range
from detco.common.values import flatten

from .. import compare, grids, tables
from ..cells import Cell, Grid, Group, Section, split
from ..paper import claims, numbers, verdicts
from ..render import render
from . import charts, curves, evaluations, schedule
from .examples import OVERLAP, THRESHOLD, Example, attention_panels, detection_panels

CLASSES = 40  # classes shown of each group; the middle of longer lists is left out
COLUMNS = 10  # of a table, as many as fit on a screen and a printed page
COMPARED = 8  # starting points that are compared in pairs


@dataclass(frozen=True)
class Material:
    """What a page is made of. `unfinished`: specs of planned jobs; `problems`: records left out.

    training: title -> row -> points of the loss; examples: title -> pictures with detections;
    attention: pictures and maps by name; commands: starting point -> lines; notes: section's key ->
    what could not be shown and why."""

    title: str
    records: Sequence[dict]
    unfinished: Sequence[dict] = ()
    problems: Sequence[str] = ()
    baselines: Sequence[str] = ("supervised", "random")
    training: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]] = field(
        default_factory=dict
    )
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    attention: tuple[Sequence[Path], Mapping[str, Sequence[np.ndarray]]] = field(
        default_factory=lambda: ((), {})
    )
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass
class Part:
    """A section of the page; empty parts are left out."""

    key: str
    title: str
    texts: Sequence[str] = ()
    tables: Sequence[Markup] = ()
    charts: Sequence[tuple[str, Markup]] = ()
    panels: Sequence[tuple[str, Sequence[tuple[str, Markup]]]] = ()
    folded: Sequence[tuple[str, Markup]] = ()
    code: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(
            self.tables or self.charts or self.panels or self.folded or self.code or self.notes
        )


def page(material: Material) -> str:
    """The HTML text. Raises InputError if there is no result at all."""
    runs = tables.frame([*material.records, *material.unfinished])
    table = tables.ap_table(runs, tuple(material.baselines))
    rows = {name: number for number, name in enumerate(table.index)}
    parts = [
        _results(table),
        Part("bars", "AP in each protocol", charts=_bars(runs, table)),
        _schedule(runs, material.records),
        *_published(material.records),
        _compared(runs, table),
        _training(
            material.training,
            rows,
            evaluations.curves(runs, material.records, compare.headline_columns(table)),
        ),
        _detections(material.examples),
        _attention(*material.attention, _ranges(material.examples)),
        _settings(material.records),
        Part(
            "again",
            "How to make each row again",
            code=[(name, "\n".join(lines)) for name, lines in material.commands.items()],
        ),
        Part("left-out", "Records left out", notes=material.problems),
    ]
    for part in parts:
        part.notes = [*part.notes, *material.notes.get(part.key, ())]
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    )
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    subtitle = f"written {when}; AP in percent; everything on this page is in this one file"
    facts, sections = _facts(runs, material), [part for part in parts if part]
    return template.render(
        title=material.title,
        subtitle=subtitle,
        facts=facts,
        summary=summary(table),
        sections=sections,
    )


def _html(grid: Grid | None) -> list[Markup]:
    return [Markup(render(grid, "html"))] if grid else []


def _facts(runs: pd.DataFrame, material: Material) -> list[tuple[str, str]]:
    each = runs.drop_duplicates("id")
    states = each["status"].value_counts()
    facts = [(str(states.get("done", 0)), "runs done")]
    facts += [
        (str(states[state]), f"runs {state}") for state in ("failed", "planned") if state in states
    ]
    facts += [(str(len(material.problems)), "records left out")] if material.problems else []
    facts += [
        (str(each["starting_point"].nunique()), "starting points"),
        (str(each["protocol"].nunique()), "protocols"),
    ]
    return [*facts, (", ".join(sorted(each["engine"].unique())), "engine")]


def summary(table: pd.DataFrame) -> list[str]:
    """A sentence for each protocol and task: which starting point is highest, and whether its lead
    over a baseline is noise."""
    lines = []
    for group, metric in compare.headline_columns(table):
        cell = tables.cell(table, group, metric)
        if not cell["n"].any():
            lines.append(f"{group}: no result yet.")
            continue
        means = cell["mean"].dropna().round(1)
        if len(means) > 1 and means.nunique() == 1:
            lines.append(
                f"{group}: {grids.metric_name(metric)} is {means.iloc[0]:.1f} from every starting"
                " point."
            )
            continue
        best = cell["mean"].idxmax()
        value = grids.value_text(*cell.loc[best, ["mean", "std", "n"]])
        text = f"{group}: {grids.metric_name(metric)} is highest from {best}, {value}"
        baseline = next(
            (name for name in table.attrs["baselines"] if name != best and cell.loc[name, "n"]),
            None,
        )
        if baseline:
            difference, half = cell.loc[best, f"minus {baseline}"], cell.loc[best, f"ci {baseline}"]
            single = "single runs, so it may be noise"
            how = (
                single
                if np.isnan(half)
                else f"± {half:.1f}, "
                + ("outside" if difference > half else "within")
                + " the noise"
            )
            text += f"; {grids.signed(difference)} over {baseline} ({how})"
        lines.append(text + ".")
    return lines


def _results(table: pd.DataFrame) -> Part:
    text = (
        "Rows are starting points of the backbone, column groups protocols. Click on a column's"
        " name to sort by it."
    )
    return Part(
        "results",
        "Results",
        [text],
        [found for grid in split(grids.grid(table), COLUMNS) for found in _html(grid)],
    )


def _bars(runs: pd.DataFrame, table: pd.DataFrame) -> list[tuple[str, Markup]]:
    """A bar chart for each protocol and task: mean, standard deviation, single runs."""
    values = tables.values(runs, tables.labelled(runs))
    made: list[tuple[str, Markup]] = []
    for group, metric in compare.headline_columns(table):
        cell = tables.cell(table, group, metric)
        single = (
            values[(values["group"] == group) & (values["metric"] == metric)]
            .groupby("row")["value"]
            .apply(list)
        )
        rows = [
            charts.Bar(name, mean, std, single[name], grids.value_text(mean, std, n), number)
            for number, (name, mean, std, n) in enumerate(
                zip(cell.index, cell["mean"], cell["std"], cell["n"], strict=True)
            )
            if n
        ]
        if rows:
            svg = charts.bars(rows, f"{grids.metric_name(metric)} (percent)")
            caption = Markup(
                "<b>{}</b>. Bar: mean; line: ± standard deviation over seeds; dots: single runs."
            ).format(group)
            made.append((caption, Markup(svg)))
    return made


def _schedule(runs: pd.DataFrame, records: Sequence[dict]) -> Part:
    methods = {name: verdicts.method_of(record) for name, record in _of_rows(runs, records).items()}
    part = Part("schedule", "AP over the length of the schedule")
    for metric in ("box_ap", "mask_ap"):
        for title, series in schedule.curves(runs, methods, metric).items():
            svg = charts.lines(series, "iterations", f"{grids.metric_name(metric)} (percent)")
            caption = Markup(
                "<b>{}</b>. Solid: measured, ± standard deviation; dotted: {}."
            ).format(title, numbers.DETCO)
            part.charts = [*part.charts, (caption, Markup(svg))]
    return part


def _of_rows(runs: pd.DataFrame, records: Sequence[dict]) -> dict[str, dict]:
    """One finished record of each row."""
    each = tables.labelled(runs)
    first = each[each["status"] == "done"].drop_duplicates("row").set_index("id")["row"]
    return {first[record["id"]]: record for record in records if record["id"] in first.index}


def _published(records: Sequence[dict]) -> list[Part]:
    cells = verdicts.compare(records)
    if cells.empty:
        return []
    counts = ", ".join(
        f"{count} {verdict}" for verdict, count in cells["verdict"].value_counts().items()
    )
    title = f"Each number beside its published one: {counts}"
    folded = [(title, table) for table in _html(verdicts.grid(cells, numbers.DETCO, records))]
    return [
        Part(
            "published",
            "Beside the paper's numbers",
            tables=_html(claims.grid(cells)),
            folded=folded,
        )
    ]


def _compared(runs: pd.DataFrame, table: pd.DataFrame) -> Part:
    """Every starting point with every other; classes of the last and the first
    that were measured."""
    part = Part("compared", "Starting points compared")
    done = [name for name in table.index if table.loc[name].xs("n", level="statistic").any()]
    if len(done) < 2:
        return part
    if len(done) > COMPARED:
        part.notes = [
            f"{', '.join(done[:COMPARED])} with one another; `detco compare` takes any of the"
            f" {len(done)}"
        ]
    try:
        selected = compare.select(runs, done[COMPARED - 1 :: -1])
    except InputError:  # no protocol that two of them share
        return part
    part.tables = [found for grid in compare.summary(selected) for found in _html(grid)]
    folded = (
        ("By size of object", compare.by_size(selected)),
        ("By class", compare.by_class(selected, CLASSES)),
    )
    part.folded = [(title, found) for title, grid in folded for found in _html(grid)]
    return part


def _training(
    training: Mapping,
    rows: Mapping[str, int],
    on_the_way: Mapping[str, evaluations.EvaluationChart],
) -> Part:
    part = Part("training", "Training curves")
    for title in dict.fromkeys([*training, *on_the_way]):
        series = training.get(title, {})
        lines = [
            charts.Line(name, curves.smooth(points), rows.get(name, 7))
            for name, points in series.items()
        ]
        if lines:
            svg = charts.lines(lines, "iterations", "loss", from_zero=True)
            part.charts = [
                *part.charts,
                (Markup("<b>{}</b>. Running means of the loss.").format(title), Markup(svg)),
            ]
        if found := on_the_way.get(title):
            svg = charts.lines(
                found.lines, "iterations", f"{grids.metric_name(found.metric)} (percent)"
            )
            text = (
                "AP on the way: mean and standard deviation over seeds; the last point is the"
                " result."
            )
            part.charts = [*part.charts, (Markup("<b>{}</b>. {}").format(title, text), Markup(svg))]
    return part


def _detections(pictures: Mapping[str, Sequence[Example]]) -> Part:
    part, number = Part("detections", "Detections"), 0
    for group, found in pictures.items():
        for example in found:
            panels = [(name, Markup(svg)) for name, svg in detection_panels(example, number)]
            part.panels = [*part.panels, (f"{group}: {example.picture.name}", panels)]
            number += 1
    part.texts = [
        f"Found with a score of at least {THRESHOLD}: solid blue boxes match an object of their"
        f" class (IoU at least {OVERLAP}), dashed orange ones do not; white boxes are the ground"
        " truth. One run of each starting point."
    ]
    return part


def _ranges(examples: Mapping[str, Sequence[Example]]) -> dict[Path, Range | None]:
    return {one.picture: one.value_range for found in examples.values() for one in found}


def _attention(
    pictures: Sequence[Path],
    maps: Mapping[str, Sequence[np.ndarray]],
    ranges: Mapping[Path, Range | None],
) -> Part:
    part = Part("attention", "Attention maps")
    part.texts = [
        "Mean activation of res5 before fine-tuning; dark is low, bright is high, for each map by"
        " itself."
    ]
    rows = attention_panels(pictures, maps, ranges)
    part.panels = [
        (
            path.name,
            [(name, Markup('<img alt="{}" src="{}">').format(name, data)) for name, data in row],
        )
        for path, row in zip(pictures, rows, strict=True)
    ]
    return part


def _settings(records: Sequence[dict]) -> Part:
    """Every setting of every protocol and recipe, data and weights by their hashes, library
    versions, machines."""
    part, shown = Part("settings", "Settings and versions"), {}
    for record in records:
        spec = record["spec"]
        if isinstance(row := spec.get("protocol_row"), dict):
            shown[
                f"protocol {record['protocol']} v{record['protocol_version']}"
                f" ({record['protocol_hash']})"
            ] = row
            data = record.get("data") or {}
            shown[f"data of {record['protocol']}: {(spec.get('data') or {}).get('root', '')}"] = (
                data
            )
        if isinstance(weights := record.get("weights"), dict) and weights.get("sha256"):
            shown[f"weights {record['starting_point']} ({weights['sha256'][:6]})"] = weights
        if isinstance(recipe := spec.get("recipe"), dict):
            shown[
                f"recipe {recipe.get('name')} of {spec.get('starting_point')}, seed"
                f" {spec.get('seed')}"
            ] = recipe
    for title in ("versions", "hardware", "code"):
        found: dict[str, list[str]] = {}
        for record in records:
            value = _versions(record) if title == "versions" else record.get(title)
            for key, text in value.items() if isinstance(value, dict) else [(title, value)]:
                seen = found.setdefault(str(key), [])
                seen += [str(text)] if str(text) not in seen else []
        shown[title] = {key: ", ".join(texts) for key, texts in found.items()}
    part.folded = [
        (title, found) for title, values in shown.items() for found in _html(_facts_grid(values))
    ]
    return part


def _versions(record: dict) -> object:
    """Versions of a record's libraries; with Detectron2's files, as its version tells no two
    of it apart."""
    found, own = record.get("versions"), (record.get("facts") or {}).get("detectron2") or {}
    if not (isinstance(found, dict) and own.get("hash")):
        return found
    return found | {"detectron2 files": f"{own.get('which')} ({own['hash'][:6]})"}


def _facts_grid(values: Mapping[str, object]) -> Grid:
    rows = [
        (key, [Cell(value if isinstance(value, str) else json.dumps(value))])
        for key, value in flatten(values).items()
    ]
    return Grid([Group("", "", ("value",), "l")], [Section("", rows)], corner="setting")
