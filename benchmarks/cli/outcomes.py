"""What the commands on finished work print: the AP table, the papers' tables,
measured beside published."""

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from detco.common.errors import InputError
from detco.common.files import write_atomic
from detco.common.values import shown
from detco.results import store

from .. import config
from ..plan.jobs import Job
from .text import columns, near

LONG_FORMS = ("csv", "json")
CLASSES = 20  # shown on a terminal; other formats have all
LINES = 20  # about records that are left out


@contextmanager
def only_json(wanted: bool) -> Iterator[TextIO | None]:
    """Standard output, to which nothing but JSON then goes: what else is printed goes to standard
    error. None if it is not wanted."""
    if not wanted:
        yield None
        return
    stream = sys.stdout
    with redirect_stdout(sys.stderr):
        yield stream


def after_run(jobs: Sequence[Job], out: Path, keep: bool = True, json: TextIO | None = None) -> int:
    """Print the table of these jobs, write it into `out` as table.md and table.csv (`keep`), say
    where things are. json: where the table goes as JSON, too."""
    from detco.results import tables

    ids = {job.id for job in jobs}
    records, problems = read(out)
    records = [record for record in records if record["id"] in ids]
    there = {record["id"] for record in records}
    planned = [job.spec for job in jobs if job.id not in there]
    made = tables.ap_table(tables.frame(records + planned))
    print(_text(made, "terminal"))
    if json:
        print(_text(made, "json"), file=json)
    if keep:
        for form, name in (("md", "table.md"), ("csv", "table.csv")):
            write_atomic(out / name, _text(made, form) + "\n")
        print(f"\ntable: {near(out / 'table.md')}, {near(out / 'table.csv')}")
    print(f"records: {near(out / 'transfer')}")
    print(f"all of them: detco table {near(out)}; as a page: detco report {near(out)}")
    left_out(problems)
    return 0


def read(directory: Path) -> tuple[list[dict], list[str]]:
    """The records below a folder, and a line for each left out. A protocol's hash must equal that
    of this program's row."""
    from detco.transfer.protocols import PROTOCOLS, protocol_hash

    return store.read(
        directory, {(row.name, row.version): protocol_hash(row) for row in PROTOCOLS.values()}
    )


def left_out(problems: Sequence[str], strict: bool = False) -> int:
    """Print a line for each of the first invalid records and how many more there are; exit status 1
    if there is one and `strict` is set."""
    for problem in problems[:LINES]:
        print(f"left out: {shown(problem, 400)}", file=sys.stderr)
    if len(problems) > LINES:
        print(f"left out: {len(problems) - LINES:,} more records", file=sys.stderr)
    return 1 if strict and problems else 0


def table(args) -> int:
    """The AP table of a folder; with --against, measured beside published; with --paper, a table of
    the paper."""
    if (args.paper is None) == (args.dir is None):
        raise InputError(
            "name a folder of runs, or a table of the paper with --paper N"
            + (", not both" if args.dir else "")
        )
    _refuse(args)
    if args.paper is not None:
        return _paper(args)
    records, problems = _results(args.dir)
    if args.against:
        _against(records, args)
        return left_out(problems, args.strict)
    from detco.results import columns, tables

    runs = tables.frame(records + store.unfinished(args.dir))
    runs = _of_protocols(runs, args.protocols)
    baselines = _baselines(args.baseline)
    _check_names(runs, baselines if args.baseline else ())
    metrics, pairing = args.metrics, "paired" if args.paired else "welch"
    if args.columns:
        made = columns.chosen(runs, args.columns, baselines, metrics, pairing)
    else:
        made = tables.ap_table(runs, baselines, metrics, pairing)
    print(_text(made, args.format, args))
    return left_out(problems, args.strict)


def _of_protocols(runs, names: Sequence[str] | None):
    """The runs of these protocols. Raises InputError for one that no run has."""
    known = dict.fromkeys(runs["protocol"])
    for name in names or ():
        config.find(known, name, "protocol of these runs")
    return runs[runs["protocol"].isin(names)] if names else runs


def _refuse(args) -> None:
    """Raises InputError for options of `detco table` that this format or table does not have."""
    for name in ("columns", "protocols"):
        if getattr(args, name) and (args.against or args.paper is not None):
            raise InputError(
                f"--{name} is for the table of a folder; leave out --against and --paper"
            )
    for name in ("transpose", "caption"):
        if getattr(args, name) and args.format in LONG_FORMS:
            raise InputError(f"--{name}: {args.format} has a line for each value; leave it out")
    if args.label and args.format != "latex":
        raise InputError("--label is for LaTeX: add --format latex")
    if args.label and not re.fullmatch(r"[\w:.+-]+", args.label, re.ASCII):
        raise InputError(f"--label {args.label}: only letters, digits and : . + - _")


def _baselines(given: Sequence[str] | None) -> tuple[str, ...]:
    """The rows that differences are to: those of --baseline; `none`: no row."""
    if given is None:
        return "supervised", "random"
    return () if list(given) == ["none"] else tuple(given)


def compare(args) -> int:
    """Two or more starting points across all protocols, object sizes and classes."""
    from detco.results import compare, tables

    records, problems = _results(args.dir)
    runs = tables.frame(records)
    _check_names(runs, args.names)
    table = compare.select(runs, args.names, "paired" if args.paired else "welch")
    if args.format in LONG_FORMS:
        print(_text(table, args.format))
    else:
        most = CLASSES if args.format == "terminal" else None
        made = [
            *compare.summary(table),
            compare.by_protocol(table),
            compare.by_size(table),
            compare.by_class(table, most),
        ]
        print("\n\n".join(_rendered(grid, args.format) for grid in made if grid))
    return left_out(problems, args.strict)


def plan_seeds(args) -> int:
    """`detco plan-seeds`: seeds that show a difference with 80 % power."""
    from detco.results import power, tables

    if (args.dir is None) == (args.spread is None):
        raise InputError("give a folder of runs, or the spread between seeds with --spread S")
    rows, problems = [["spread", "seeds", "spread of pairs", "seeds, paired"]], list[str]()
    if args.spread:
        rows.append(_seeds(args.difference, args.spread, args.spread))
    else:
        records, problems = _results(args.dir)
        rows[0] = ["protocol", "metric", *rows[0]]
        for row in power.spreads(tables.frame(records)).itertuples():
            seeds = _seeds(args.difference, row.spread, row.paired)
            rows.append([row.group, row.metric, *seeds])
    columns(rows, right=range(len(rows[0]) - 4, len(rows[0])))
    print(
        f"\nseeds of each starting point that show a difference of {args.difference:g} with"
        f" {power.POWER:.0%} power\n(5% errors); spread: standard deviation between seeds"
    )
    return left_out(problems, False)


def _seeds(difference: float, *spreads: float) -> list[str]:
    """Each spread and its seeds: of single runs, then of pairs."""
    from detco.results import power

    cells = []
    for paired, spread in zip((False, True), spreads, strict=True):
        needed = str(power.seeds(difference / spread, paired)) if spread > 0 else "?"
        cells += [f"{spread:.2f}", needed]
    return cells


def report(args) -> int:
    """Writes the HTML page of a folder of runs, and its charts as files."""
    from detco.results import tables
    from detco.results.report import figures

    form = args.figure_format or "svg"
    if args.figure_format and not args.figures:
        raise InputError("--figure-format is for charts as files: add --figures FOLDER")
    if args.figures:
        figures.converter(form)  # before the work
        if args.figures.exists() and not args.figures.is_dir():
            raise InputError(f"--figures {args.figures}: a folder is wanted, this is a file")
    records, problems = _results(args.dir)
    out = args.out or args.dir / "report.html"
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: no folder {out.parent}")
    baselines = _baselines(args.baseline)
    _check_names(tables.frame(records), baselines if args.baseline else ())
    made = _page(args, records, problems, baselines)
    if args.figures:
        paths = figures.save(made.figures, args.figures, form)
        print(f"charts: {len(paths)} files in {near(args.figures)}")
    write_atomic(out, made.text)
    print(f"report: {near(out)} ({out.stat().st_size / 1e6:.1f} MB)")
    return left_out(problems, args.strict)


def _page(args, records: Sequence[dict], problems: Sequence[str], baselines: Sequence[str]):
    """The page of a folder, with its progress shown."""
    from detco.results.report import page

    from ..report import anonymous, gather
    from ..run import live

    with live.of_task(f"report of {near(args.dir)}") as told:
        material = gather.gather(args.dir, records, problems, baselines, told)
        told("page", 0, 1)
        if args.anonymous:
            material = anonymous.hidden(material, args.dir)
        return page.page(material)


def _results(directory: Path) -> tuple[list[dict], list[str]]:
    """As `read`, but raises InputError if the folder is missing or holds no valid record."""
    if not directory.is_dir():
        raise InputError(f"no folder {directory}")
    records, problems = read(directory)
    if problems and not any(record["kind"] == "transfer" for record in records):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"no result can be used: {problems[0]}{more}")
    return records, problems


def _check_names(runs, names: Sequence[str]) -> None:
    """Raises InputError for a name that is no starting point, with the nearest that is."""
    from detco.results import tables

    if names and len(runs):
        each = tables.labelled(runs)
        for name in names:
            config.find(
                dict.fromkeys([*each["starting_point"], *each["row"]]), name, "starting point"
            )


def _paper(args) -> int:
    from detco.results import grids
    from detco.results.paper import numbers

    if args.format in LONG_FORMS:
        print(grids.rows_as(numbers.of_table(args.paper), args.format))
    else:
        print(_rendered(_asked(numbers.paper_grid(args.paper), args), args.format))
    return 0


def _against(records: Sequence[dict], args) -> None:
    from detco.results import grids
    from detco.results.paper import claims, numbers, verdicts

    cells = verdicts.compare(records, args.against)
    if args.format in LONG_FORMS:
        print(grids.rows_as(cells, args.format))
        return
    made = [_asked(verdicts.grid(cells, args.against, records), args)]
    made += [claims.grid(cells)] if args.against == numbers.DETCO else []
    print("\n\n".join(_rendered(grid, args.format) for grid in made))


def _text(made, form: str, args=None) -> str:
    """A table of `tables.ap_table` in a format; args: those of `detco table`, if that is it."""
    from detco.results import grids

    if form in LONG_FORMS:
        return grids.rows_as(grids.long_form(made), form)
    grid = grids.grid(made)
    return _rendered(_asked(grid, args) if args else grid, form)


def _asked(grid, args):
    """A grid with rows as columns, with its caption and label, where that was asked for."""
    from detco.results.cells import transposed

    grid = transposed(grid) if args.transpose else grid
    label = args.label or ("tab:transfer" if args.caption else "")
    return replace(grid, title=args.caption or grid.title, label=label)


def _rendered(grid, form: str) -> str:
    """A grid in a format; on a terminal as wide as that is, and coloured."""
    from detco.results.render import WIDTH, render

    tty = sys.stdout.isatty() and form == "terminal"
    return render(grid, form, shutil.get_terminal_size((WIDTH, 40)).columns if tty else WIDTH, tty)
