"""What the commands print: plans, states, tables, protocols, facts; each function returns
the exit status."""

import json
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detco.common.errors import InputError
from detco.common.progress import Report
from detco.common.values import flatten, printable

from .. import config
from ..plan.jobs import Job
from ..run.local import Run, last_lines
from ..run.worker import command
from .parser import refuse

LOG_LINES, WARNINGS = 8, 10  # shown of a job
# columns of lists that a narrow terminal has no room for
LESS = ("source", "version", "metrics", "batch", "iterations x images")
LONG = 40  # characters of an item of a list that gets a line of its own
LEAST, LAST = 20, 30  # characters that text is wrapped to; that a table's last column gets


def outcome(run: Run, again: str) -> int:
    """Print warnings, errors with the end of the log, and the command to rerun. Returns 0, 1 for
    failed jobs, 2 if all failures were bad input."""
    _warnings(run)
    _done_before(run)
    failed = run.named("failed")
    if len(run.states) == 1 and failed and failed[0].error_kind == "input":
        return refuse(failed[0].error or "")
    for state in failed:
        print("\n" + printable(f"failed: {state.job.title}: {state.error}"), file=sys.stderr)
        if state.error_kind != "input":
            print(
                "".join(f"    {printable(line)}\n" for line in last_lines(state.job, LOG_LINES)),
                end="",
                file=sys.stderr,
            )
        print(f"    log: {near(state.job.folder / 'log.txt')}", file=sys.stderr)
        print(f"    by itself: {command(state.job.folder)}", file=sys.stderr)
    blocked = run.named("blocked")
    if blocked:
        print(
            f"not run, as they need what failed: {', '.join(state.job.title for state in blocked)}",
            file=sys.stderr,
        )
    if failed:
        print(
            f"detco: {len(failed)} of {len(run.states)} jobs failed; to try them again: {again}",
            file=sys.stderr,
        )
    return 0 if not failed else 2 if all(state.error_kind == "input" for state in failed) else 1


def _warnings(run: Run) -> None:
    for state in run.named("done"):
        if state.started and state.warnings:
            more = len(state.warnings) - WARNINGS
            rest = (
                [f"{more} more warnings in {near(state.job.folder / 'log.txt')}"]
                if more > 0
                else []
            )
            for text in [*state.warnings[:WARNINGS], *rest]:
                print(printable(f"{state.job.title}: {text}"), file=sys.stderr)


def _done_before(run: Run) -> None:
    """Say which jobs were finished before."""
    before = [state for state in run.named("done") if state.started is None]
    if len(run.states) == 1 and before:
        print(f"{before[0].job.title}: done before, nothing trained")
    elif before:
        print(f"{len(before)} of {in_words(len(run.states))} done before, nothing trained for them")


def kept(jobs: Sequence[Job], wanted: str) -> None:
    """Where the trained detectors are; a line on runs that had finished without keeping the one
    wanted now (final or best)."""
    from detco.results import store
    from detco.transfer.detector import NAME

    records = [
        (job.folder, store.read_record(job.folder) or {}) for job in jobs if job.kind == "transfer"
    ]
    done = [
        (folder / NAME, record["spec"].get("keep_model"))
        for folder, record in records
        if record.get("status") == "done"
    ]
    there = [path for path, what in done if what == wanted and path.is_file()]
    if len(there) == 1:
        print(f"trained detector: {near(there[0])}")
    elif there:
        print(f"trained detectors: {NAME} in the folders of {in_words(len(there))}")
    if len(there) < len(done):
        which = in_words(len(done) - len(there))
        print(
            f"no {wanted} detector of {which}, finished before without --keep-model {wanted}; a new"
            " --out keeps it"
        )


def protocols(name: str | None, as_json: bool) -> int:
    """All protocols a line each, or every setting of one."""
    from detco.transfer.protocols import PROTOCOLS, protocol_hash

    heads = ("name", "version", "detector", "iterations x images", "metrics", "AP of", "source")

    def line(row) -> tuple[str, ...]:
        size = f"{row.schedule.length} x {row.schedule.images}"
        metrics = ", ".join(row.metrics)
        return row.name, str(row.version), row.architecture, size, metrics, row.scorer, row.source

    return _rows(PROTOCOLS, "protocol", protocol_hash, name, as_json, heads, line)


def recipes(name: str | None, as_json: bool) -> int:
    """All recipes a line each, or every setting of one."""
    from detco.pretrain.recipes import RECIPES, recipe_hash

    heads = ("name", "method", "architecture", "epochs", "batch", "source")

    def line(row) -> tuple[str, ...]:
        return row.name, row.method, row.arch, str(row.epochs), str(row.batch), row.source

    return _rows(RECIPES, "recipe", recipe_hash, name, as_json, heads, line)


def _rows(
    table: Mapping,
    what: str,
    hash_of: Callable[[Any], str],
    name: str | None,
    as_json: bool,
    heads: Sequence[str],
    line: Callable[[Any], Sequence[str]],
) -> int:
    """Every setting of the row `name`, with 16 digits of its hash; without a name all rows, a line
    each below `heads`."""

    def whole(row) -> dict:
        return asdict(row) | {"hash": hash_of(row)[:16]}

    if name is not None:
        return _settings(whole(config.find(table, name, what)), table[name], as_json)
    if as_json:
        print(json.dumps([whole(row) for row in table.values()], indent=1))
    elif columns([heads, *map(line, table.values())], less=LESS):
        print(f"`detco {what}s show NAME` shows the rest of one")
    return 0


def _settings(values: dict, row: object, as_json: bool) -> int:
    """Every setting of a row on a line, below it what it means."""
    from detco.common.settings import explained

    if as_json:
        return facts(values, as_json)
    texts = explained(type(row))
    for name, value in flatten(values).items():
        print(wrapped(f"{name}: ", _plain(value)))
        if texts.get(name):
            print(wrapped("    ", texts[name]))
    return 0


def detectron2_config(name: str, weights: Path | None) -> int:
    """The Detectron2 config that a protocol resolves to, as YAML."""
    from detco.common.backbone_file import Backbone
    from detco.transfer import engines
    from detco.transfer.protocols import PROTOCOLS

    from ..plan import backbones

    row = config.find(PROTOCOLS, name, "protocol")
    runs_it = engines.serving("detectron2", row.architecture)
    if engines.ENGINES[runs_it].only:
        raise InputError(f"{name} has no config of Detectron2: the engine {runs_it} runs it")
    backbone = backbones.read([weights])[0] if weights else Backbone(row.arch, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Detectron2 uses deprecated imports
        engine = engines.get("detectron2")
    print(engine.as_yaml(row, backbone), end="")
    return 0


def facts(values: dict, as_json: bool) -> int:
    """A dict as `key: value` lines, nested ones indented."""
    if as_json:
        print(json.dumps(values, indent=1))
    else:
        _indented(values, "")
    return 0


def data_check(args) -> int:
    """Print a data set's counts, fingerprint and all errors; exit status 2 if there are errors."""
    from detco.transfer.data import dataset

    from ..plan import datasets
    from ..run import live

    root, options = args.root, ("strict", "merge_classes", "keypoints")
    args.layout = datasets.layout_in(root, args.layout)
    asked = {option: getattr(args, option) for option in options}
    with live.of_task(f"{args.layout} {root}") as report:
        found = dataset.check(args.layout, root, args.split, report=report, **asked)
        by_protocol = (
            _by_protocol(args, report) if args.protocol and not found.problem_count else {}
        )
    if args.json:
        more = {"protocol": by_protocol} if by_protocol else {}
        print(json.dumps(asdict(found) | {"root": str(found.root)} | more, indent=1))
    else:
        for line in str(found).splitlines():
            said = line.lstrip()
            print(wrapped(" " * (len(line) - len(said)), said))
        for line in by_protocol.get("says", ()):
            print(f"{args.protocol}: {line}")
    if found.problem_count:
        noun = "problem" if found.problem_count == 1 else "problems"
        print(f"detco: {found.problem_count} {noun} in {root}", file=sys.stderr)
    return 2 if found.problem_count else 0


def _by_protocol(args, report: Report) -> dict:
    """How a protocol reads the usual splits: facts, and under `says` its warnings. Raises
    InputError for data that it would refuse."""
    from detco.transfer import finetune, scoring
    from detco.transfer.data.checks import counting, examine
    from detco.transfer.protocols import PROTOCOLS

    row = config.find(PROTOCOLS, args.protocol, "protocol")
    data = {"layout": args.layout, "root": str(args.root), "strict": args.strict}
    data |= {"merge_classes": args.merge_classes}
    train, test = finetune.prepare(row, data, report=report)
    lines = [f"trains on '{train.split}', tests on '{test.split}'", *examine.deviations(test)]
    lost = test.facts.get("uncounted")
    if lost and not counting.notable(lost):
        lines.append(counting.in_words(lost))
    if "ceiling" not in test.facts and scoring.ap_of_recall(row.scorer):
        lines.append("perfect boxes would reach AP 100.0")
    return {**test.facts, "says": lines}


def _indented(values: dict, indent: str) -> None:
    width = max(map(len, values), default=0) + 1
    for key, value in values.items():
        label = f"{indent}{printable(str(key)) + ':'}"
        if isinstance(value, dict):
            print(label)
            _indented(value, indent + "  ")
        elif isinstance(value, list) and any(len(str(item)) > LONG for item in value):
            print(label)
            for item in value:
                print(wrapped(f"{indent}  - ", _plain(item)))
        else:
            print(wrapped(f"{label:<{len(indent) + width}} ", _plain(value)))


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return printable(str(value))


def wrapped(start: str, text: str, whole: bool = True) -> str:
    """Text behind `start` in lines that fit the terminal. whole: words, and so paths, are not
    broken."""
    room, lines = terminal_width() - len(start), [text]
    if room >= LEAST:
        lines = textwrap.wrap(text, room, break_long_words=not whole, break_on_hyphens=False)
    return start + ("\n" + " " * len(start)).join(lines)


def terminal_width() -> int:
    """Characters in a line; 0 where it is no terminal and $COLUMNS says nothing: no limit."""
    return shutil.get_terminal_size((0, 0)).columns


def columns(
    rows: Sequence[Sequence[str]], right: Sequence[int] = (), less: Sequence[str] = ()
) -> list[str]:
    """Print rows as columns two spaces apart; those numbered in `right` with their ends in line.

    Where the terminal is too narrow, columns are left out whose first row is in `less`, in its
    order; then the last column is wrapped. Returns what was left out.
    """
    table = [[printable(cell) for cell in row] for row in rows]
    left_out: list[str] = []
    aligned = set(right)
    for name in less:
        if _fits(table):
            break
        if name not in table[0]:
            continue
        number = table[0].index(name)
        table = [row[:number] + row[number + 1 :] for row in table]
        aligned = {n - (n > number) for n in aligned if n != number}
        left_out.append(name)
    widths = _widths(table)
    for row in table:
        cells = (
            cell.rjust(width) if n in aligned else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row[:-1], widths))
        )
        start = "".join(cell + "  " for cell in cells)
        last = row[-1].rjust(widths[-1]) if len(row) - 1 in aligned else row[-1]
        print(wrapped(start, last, whole=False).rstrip() if last.strip() else start.rstrip())
    return left_out


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[n]) for row in table) for n in range(len(table[0]))] if table else []


def _fits(table: Sequence[Sequence[str]]) -> bool:
    """Whether the terminal has room for a table, of its last column for LAST characters."""
    *widths, last = _widths(table)
    room = terminal_width()
    return not room or sum(widths) + 2 * len(widths) + min(last, LAST) <= room


def size(count: float) -> str:
    """A number of bytes as text with a unit."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def near(path: Path) -> str:
    """The path relative to the working directory if it lies below it."""
    here = Path.cwd()
    inside = path.is_absolute() and path.is_relative_to(here)
    return printable(str(path.relative_to(here) if inside else path))


def in_words(jobs: int) -> str:
    """`1 job`, `16 jobs`."""
    return f"{jobs} job" + "s" * (jobs != 1)
