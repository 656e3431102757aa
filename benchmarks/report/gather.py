"""Gathers what a report shows in addition to the records: curves,
detections, attention maps, commands."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.results import store

from . import examples as pictures
from . import reproduce

MOST_CURVES, MOST_GROUPS = 60, 4  # jobs whose curves are read, protocols whose detections are shown


def gather(
    directory: Path,
    records: Sequence[dict],
    problems: Sequence[str],
    baselines: Sequence[str] | None,
):
    """The `detco.results.report.page.Material` of a folder of runs; what is missing is named
    in its notes."""
    from detco.results.report.page import Material

    folders, notes = store.folders(directory), {"training": [], "detections": [], "attention": []}
    cells = _first_runs(records)
    examples = _examples(cells, folders, notes["detections"])
    ranges = {
        example.picture: example.value_range for found in examples.values() for example in found
    }
    paths = list(ranges)[: pictures.EXAMPLES]
    return Material(
        title=f"Transfer to detection: {directory.absolute().name}",
        records=records,
        unfinished=store.unfinished(directory),
        problems=problems,
        baselines=("supervised", "random") if baselines is None else tuple(baselines),
        training=_training(records, cells, folders, notes["training"]),
        examples=examples,
        attention=(paths, _attention(cells, paths, notes["attention"], ranges)),
        commands=reproduce.commands(records),
        notes=notes,
    )


def _first_runs(records: Sequence[dict]) -> dict[str, dict[str, dict]]:
    """Group (as in the table) -> row -> the finished run of the lowest seed."""
    from detco.results import tables

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
    records: Sequence[dict], cells: dict, folders: dict[str, Path], notes: list[str]
) -> dict:
    """Title -> row -> points of the loss: a chart for each pretraining and for each protocol."""
    from detco.results.report import curves

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
    found, without = {}, 0
    for title, row, record in wanted[:MOST_CURVES]:
        points = curves.read(folders[record["id"]] / "tb").get("loss")
        if points:
            found.setdefault(title, {})[row] = points
        without += not points
    if without:
        notes.append(f"{without} of {len(wanted)} jobs kept no curve")
    return found


def _examples(cells: dict, folders: dict[str, Path], notes: list[str]) -> dict:
    """Group -> example pictures with the detections of each of its rows."""
    found = {}
    for group, rows in list(cells.items())[:MOST_GROUPS]:
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
            found |= {group: pictures.examples(list(usable.values()), folders)} if usable else {}
        except (InputError, OSError, KeyError, ValueError) as error:
            notes.append(f"{group}: no example pictures: {' '.join(str(error).split())}")
    return found


def _attention(cells: dict, paths: Sequence[Path], notes: list[str], ranges: Mapping) -> dict:
    """Row -> maps of its backbone, for those whose file is still there and the one
    that was fine-tuned."""
    files: dict[str, str] = {}
    arch = None  # of random weights
    for rows in cells.values():
        for row, record in rows.items():
            path = record["spec"].get("weights", "")
            if path == "random":
                files.setdefault(row, path)
                arch = arch or (record.get("weights") or {}).get("arch")
            elif row not in files and _is_there(Path(path), record):
                files[row] = path
    missing = {row for rows in cells.values() for row in rows} - files.keys()
    if missing:
        notes.append(
            f"no attention maps of {', '.join(sorted(missing))}: the backbone file is gone, or"
            " another one"
        )
    return (
        pictures.attention_maps(files, paths, arch=arch, ranges=ranges) if paths and files else {}
    )


def _is_there(path: Path, record: dict) -> bool:
    """Whether a backbone file is still there, and still the one that was fine-tuned."""

    return path.is_file() and sha256_of(path) == (record.get("weights") or {}).get("sha256")
