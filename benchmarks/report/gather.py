"""Gathers what a report shows in addition to the records: curves,
detections, attention maps, commands."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.common.progress import Report, silent
from detco.pretrain.methods import METHODS
from detco.results import store, tables
from detco.results.report import curves
from detco.results.report.curves import LossChart
from detco.results.report.examples import Example
from detco.results.report.page import Material
from detco.transfer.data.dataset import Dataset
from detco.transfer.engines import ENGINES
from detco.transfer.settings import LOSSES

from ..run.progress import METRICS, read_metrics
from . import examples as pictures
from . import reproduce

MOST_CURVES, MOST_GROUPS = 60, 4  # jobs whose curves are read, protocols whose detections are shown


def gather(
    directory: Path,
    records: Sequence[dict],
    problems: Sequence[str],
    baselines: Sequence[str],
    report: Report = silent,
) -> Material:
    """The material of the page of a folder of runs; what is missing is named in its notes."""
    folders, notes = store.folders(directory), {"training": [], "detections": [], "attention": []}
    cells = _first_runs(records)
    training = _training(records, cells, folders, notes["training"], report)
    examples = _examples(cells, folders, notes["detections"], report)
    ranges = {
        example.picture: example.value_range for found in examples.values() for example in found
    }
    paths = list(ranges)[: pictures.EXAMPLES]
    return Material(
        title=f"Transfer to detection: {directory.absolute().name}",
        records=records,
        unfinished=store.unfinished(directory),
        problems=problems,
        baselines=baselines,
        training=training,
        examples=examples,
        attention=(paths, _attention(cells, paths, notes["attention"], ranges, report)),
        commands=reproduce.commands(records),
        notes=notes,
        untrained=[name for name, engine in ENGINES.items() if not engine.trains],
    )


def _first_runs(records: Sequence[dict]) -> dict[str, dict[str, dict]]:
    """Group (as in the table) -> row -> the finished run of the lowest seed."""
    each = tables.labelled(tables.frame(records))
    done = each[each["status"] == "done"].sort_values(
        ["group_order", "row_order", "seed"], kind="stable"
    )
    of_run = {record["id"]: record for record in records}
    cells: dict[str, dict[str, dict]] = {}
    for run in done.drop_duplicates(["group", "row"]).itertuples():
        cells.setdefault(run.group, {})[run.row] = of_run[run.id]
    return cells


def _training(
    records: Sequence[dict],
    cells: dict,
    folders: dict[str, Path],
    notes: list[str],
    report: Report,
) -> dict[str, LossChart]:
    """Title -> losses: a chart for each pretraining and for each protocol."""
    wanted = [
        (record["spec"].get("title", "pretraining"), record["starting_point"], record)
        for record in records
        if record["kind"] == "pretrain"
    ]
    wanted += [
        (group, row, record) for group, rows in cells.items() for row, record in rows.items()
    ]
    if len(wanted) > MOST_CURVES:
        notes.append(
            f"curves of the first {MOST_CURVES} of {len(wanted)} jobs; all of them: tensorboard"
            " --logdir DIR"
        )
    found: dict[str, LossChart] = {}
    without, shown = 0, wanted[:MOST_CURVES]
    for number, (title, row, record) in enumerate(shown):
        report("curves", number, len(shown))
        points = _loss(folders[record["id"]])
        if points:
            lines = found[title].lines if title in found else {}
            found[title] = LossChart(_name_of_loss(record["spec"]), {**lines, row: points})
        without += not points
    if without:
        notes.append(f"{without} of {len(wanted)} jobs kept no curve")
    return found


def _loss(folder: Path) -> list[tuple[int, float]]:
    """(iteration, loss) of a job; older ones have them for TensorBoard only."""
    path = folder / METRICS
    lines = read_metrics(path) if path.is_file() else []
    points = [(line["iteration"], line["loss"]) for line in lines if _is_number(line.get("loss"))]
    return points or curves.read(folder / "tb").get("loss", [])


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _name_of_loss(spec: Mapping) -> str:
    """Which loss a job's curve shows."""
    if spec["kind"] == "pretrain":
        method = METHODS.get((spec.get("recipe") or {}).get("method", ""))
        return method.loss if method else "loss"
    return LOSSES.get((spec.get("protocol_row") or {}).get("architecture", ""), "loss")


def _examples(
    cells: dict, folders: dict[str, Path], notes: list[str], report: Report
) -> dict[str, list[Example]]:
    """Group -> example pictures with the detections of each of its rows."""
    found: dict[str, list[Example]] = {}
    read: dict[str, Dataset] = {}
    shown = [(group, rows) for group, rows in cells.items() if not _classifies(rows)][:MOST_GROUPS]
    for number, (group, rows) in enumerate(shown):
        report("detections", number, len(shown))
        usable = {
            row: {**record, "starting_point": row}
            for row, record in rows.items()
            if (folders[record["id"]] / "predictions.json").is_file()
            and "protocol_row" in record["spec"]
        }
        if len(usable) < len(rows):
            notes.append(
                f"{group}: no predictions kept of {', '.join(rows.keys() - usable.keys())}"
            )
        try:
            if usable:
                found[group] = pictures.examples(list(usable.values()), folders, read)
        except (InputError, OSError, KeyError, TypeError, ValueError) as error:
            notes.append(f"{group}: no example pictures: {' '.join(str(error).split())}")
    return found


def _classifies(rows: Mapping[str, dict]) -> bool:
    """Whether a protocol tells classes of whole images: there is nothing to draw."""
    return any(
        "class" in (record["spec"].get("protocol_row") or {}).get("metrics", ())
        for record in rows.values()
    )


def _attention(
    cells: dict, paths: Sequence[Path], notes: list[str], ranges: Mapping, report: Report
) -> dict:
    """Row -> maps of its backbone, for those whose file is still there and the one
    that was fine-tuned."""
    files: dict[str, str] = {}
    for rows in cells.values():
        for row, record in rows.items():
            path = record["spec"].get("weights", "")
            if path == "random":
                arch = (record.get("weights") or {}).get("arch")
                files.setdefault(row, f"{path}:{arch}" if arch else path)
            elif row not in files and _is_there(Path(path), record):
                files[row] = path
    missing = {row for rows in cells.values() for row in rows} - files.keys()
    if missing:
        notes.append(
            f"no attention maps of {', '.join(sorted(missing))}: the backbone file is gone, or"
            " another one"
        )
    if not (paths and files):
        return {}
    return pictures.attention_maps(files, paths, ranges=ranges, report=report)


def _is_there(path: Path, record: dict) -> bool:
    """Whether a backbone file is still there, and still the one that was fine-tuned."""

    return path.is_file() and sha256_of(path) == (record.get("weights") or {}).get("sha256")
