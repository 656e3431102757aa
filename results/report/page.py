"""One self-contained HTML page: summary, tables, charts, example images, settings,
commands that reproduce it."""

from collections.abc import Collection, Mapping, Sequence
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

from .. import compare, grids, tables
from ..cells import Grid, fitted
from ..paper import claims, numbers, verdicts
from ..render import render
from . import charts, curves, evaluations, headline, schedule, settings
from .examples import COLOURS, OVERLAP, THRESHOLD, Example, attention_panels, detection_panels

CLASSES = 40  # classes shown of each group; the middle of longer lists is left out
WIDE = 145  # characters of a table, as many as fit on a screen of 1280 pixels and a printed page
COMPARED = 8  # starting points that are compared in pairs


@dataclass(frozen=True)
class Material:
    """What a page is made of. `unfinished`: specs of planned jobs; `problems`: records left out.

    training: title -> losses of its rows; examples: title -> pictures with detections; attention:
    pictures and maps by name; commands: starting point -> lines; notes: section's key -> what could
    not be shown and why; untrained: engines that make their predictions up; anonymous: pictures are
    numbered instead of named."""

    title: str
    records: Sequence[dict]
    unfinished: Sequence[dict] = ()
    problems: Sequence[str] = ()
    baselines: Sequence[str] = ("supervised", "random")
    training: Mapping[str, curves.LossChart] = field(default_factory=dict)
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    attention: tuple[Sequence[Path], Mapping[str, Sequence[np.ndarray]]] = field(
        default_factory=lambda: ((), {})
    )
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    untrained: Collection[str] = ()
    anonymous: bool = False


@dataclass(frozen=True)
class Figure:
    """A chart as SVG; `name`: of the file that it is saved as."""

    name: str
    caption: str
    svg: str


@dataclass
class Part:
    """A section of the page; empty parts are left out."""

    key: str
    title: str
    texts: Sequence[str] = ()
    tables: Sequence[Markup] = ()
    charts: Sequence[Figure] = ()
    panels: Sequence[tuple[str, Sequence[tuple[str, Markup]]]] = ()
    folded: Sequence[tuple[str, Markup]] = ()
    code: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(
            self.tables or self.charts or self.panels or self.folded or self.code or self.notes
        )


@dataclass(frozen=True)
class Page:
    """The HTML text, and the charts in it."""

    text: str
    figures: Sequence[Figure]


def page(material: Material) -> Page:
    """Raises InputError if there is no result at all."""
    runs = tables.frame([*material.records, *material.unfinished])
    table = tables.ap_table(runs, tuple(material.baselines))
    parts = _parts(material, runs, table)
    for part in parts:
        part.notes = [*part.notes, *material.notes.get(part.key, ())]
    files = resources.files(__package__)
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        (files / "page.html").read_text(encoding="utf-8")
    )
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    text = template.render(
        title=material.title,
        subtitle=f"written {when}; AP in percent; everything on this page is in this one file",
        facts=_facts(runs, material),
        summary=headline.sentences(table, material.untrained),
        sections=[part for part in parts if part],
        chart_style=Markup((files / "charts.css").read_text(encoding="utf-8")),
        colours=COLOURS,
    )
    return Page(text, [figure for part in parts for figure in part.charts])


def _parts(material: Material, runs: pd.DataFrame, table: pd.DataFrame) -> list[Part]:
    rows = {name: number for number, name in enumerate(table.index)}
    columns = compare.headline_columns(table)
    on_the_way = evaluations.curves(runs, material.records, columns)
    commands = [(name, "\n".join(lines)) for name, lines in material.commands.items()]
    return [
        _results(table),
        Part("bars", "AP in each protocol", charts=_bars(runs, table)),
        _schedule(runs, material.records),
        *_published(material.records),
        _compared(runs, table, material.untrained),
        _training(material.training, rows, on_the_way),
        _detections(material.examples, material.anonymous),
        _attention(material),
        _settings(material.records),
        Part("again", "How to make each row again", code=commands),
        Part("left-out", "Records left out", notes=material.problems),
    ]


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


def _results(table: pd.DataFrame) -> Part:
    text = (
        "Rows are starting points of the backbone, column groups protocols. Click on a column's"
        " name to sort by it."
    )
    return Part(
        "results",
        "Results",
        [text],
        [found for grid in fitted(grids.grid(table), WIDE) for found in _html(grid)],
    )


def _bars(runs: pd.DataFrame, table: pd.DataFrame) -> list[Figure]:
    """A bar chart for each protocol and task: mean, standard deviation, single runs."""
    values = tables.values(runs, tables.labelled(runs))
    made: list[Figure] = []
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
            made.append(Figure(f"{group} {metric}", caption, svg))
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
            part.charts = [*part.charts, Figure(f"schedule {title} {metric}", caption, svg)]
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


def _compared(runs: pd.DataFrame, table: pd.DataFrame, untrained: Collection[str]) -> Part:
    """Every starting point with every other; classes of the last and the first
    that were measured."""
    part = Part("compared", "Starting points compared")
    trained = runs[~runs["engine"].isin(untrained)]
    if len(trained) < len(runs):
        part.notes = [f"without the engine {', '.join(untrained)}: nothing was trained"]
    done = [name for name in table.index if table.loc[name].xs("n", level="statistic").any()]
    if len(done) < 2 or trained.empty:
        return part
    if len(done) > COMPARED:
        part.notes = [
            *part.notes,
            f"{', '.join(done[:COMPARED])} with one another; `detco compare` takes any of the"
            f" {len(done)}",
        ]
    try:
        selected = compare.select(trained, done[COMPARED - 1 :: -1])
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
    training: Mapping[str, curves.LossChart],
    rows: Mapping[str, int],
    on_the_way: Mapping[str, evaluations.EvaluationChart],
) -> Part:
    part = Part("training", "Training curves")
    figures: list[Figure] = []
    for title in dict.fromkeys([*training, *on_the_way]):
        if found := training.get(title):
            lines = [
                charts.Line(name, curves.smooth(points), rows.get(name, 7))
                for name, points in found.lines.items()
            ]
            svg = charts.lines(lines, "iterations", found.loss, from_zero=True)
            caption = Markup("<b>{}</b>. Running means.").format(title)
            figures.append(Figure(f"loss {title}", caption, svg))
        if evaluated := on_the_way.get(title):
            metric = f"{grids.metric_name(evaluated.metric)} (percent)"
            svg = charts.lines(evaluated.lines, "iterations", metric)
            caption = Markup(
                "<b>{}</b>. AP on the way: mean and standard deviation over seeds; the last point"
                " is the result."
            ).format(title)
            figures.append(Figure(f"on the way {title}", caption, svg))
    part.charts = figures
    return part


def _detections(pictures: Mapping[str, Sequence[Example]], anonymous: bool) -> Part:
    part, number = Part("detections", "Detections"), 0
    for group, found in pictures.items():
        for example in found:
            panels = [(name, Markup(svg)) for name, svg in detection_panels(example, number)]
            number += 1
            title = f"{group}: {_name_of(example.picture, number, anonymous)}"
            part.panels = [*part.panels, (title, panels)]
    part.texts = [
        f"Found with a score of at least {THRESHOLD}: solid blue boxes match an object of their"
        f" class (IoU of the boxes at least {OVERLAP}), dashed orange ones do not; white is the"
        " ground truth. Masks and keypoints have the colour of their box. One run of each starting"
        " point."
    ]
    return part


def _name_of(picture: Path, number: int, anonymous: bool) -> str:
    return f"picture {number}" if anonymous else picture.name


def _attention(material: Material) -> Part:
    part, (pictures, maps) = Part("attention", "Attention maps"), material.attention
    part.texts = [
        "Mean activation of res5 before fine-tuning; dark is low, bright is high, for each map by"
        " itself."
    ]
    shown = [example for found in material.examples.values() for example in found]
    ranges: dict[Path, Range | None] = {one.picture: one.value_range for one in shown}
    rows = attention_panels(pictures, maps, ranges)
    for number, (path, row) in enumerate(zip(pictures, rows, strict=True), 1):
        panels = [
            (name, Markup('<img alt="{}" src="{}">').format(name, data)) for name, data in row
        ]
        part.panels = [*part.panels, (_name_of(path, number, material.anonymous), panels)]
    return part


def _settings(records: Sequence[dict]) -> Part:
    shown = settings.grids(records)
    folded = [(title, found) for title, grid in shown.items() for found in _html(grid)]
    return Part("settings", "Settings and versions", folded=folded)
