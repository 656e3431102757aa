"""`detco status`: where every job below a folder stands, from its files alone, at any time."""

import json
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from detco.common.errors import InputError
from detco.results import store

from ..plan import cost
from ..plan.jobs import Job
from ..run.live import clock, overall, rates, stage_of
from ..run.local import Run, State
from .text import columns, in_words, near

LONGEST = 100  # characters of an error; the log has all of it
NAMES = {"planned": "waiting", "interrupted": "waiting"}  # a folder's states in the live view


def show(args) -> int:
    """Print how much of all jobs is done, then a line for each running, failed
    or interrupted job."""
    if not args.dir.is_dir():
        raise InputError(f"no folder {args.dir}")
    rows = store.status(args.dir)
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    print(_head(rows))
    lines = []
    for row in rows:
        if row["state"] not in ("done", "planned"):
            count = f" {row['done']}/{row['total']}" if row["total"] else ""
            speed, figures, left = rates(row) if row["state"] == "running" else ("", "", "")
            detail = row["error"] or ", ".join(
                filter(None, (f"{stage_of(row)}{count}", speed, figures))
            )
            lines.append(
                (
                    row["state"],
                    row["title"],
                    _cut(detail),
                    clock(row["seconds"]) if row["seconds"] else "",
                    left,
                )
            )
    columns(lines)
    if rows and all(row["state"] == "done" for row in rows):
        folder = shlex.quote(near(args.dir))
        print(f"all done: detco table {folder}; as a page: detco report {folder}")
    return 0


def _head(rows: Sequence[dict]) -> str:
    counts = Counter(row["state"] for row in rows)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    text = f"{in_words(len(rows))}{': ' if rows else ''}{states}"
    if not counts["running"]:
        return text
    fraction, left = overall(*_as_run(rows))
    return f"{text}; {fraction:.0%} of the work{f', about {clock(left)} left' if left else ''}"


def _as_run(rows: Sequence[dict]) -> tuple[Run, dict[str, dict]]:
    """The rows as a runner knows them, with what the workers last said."""
    now, states = time.time(), {}
    for row in rows:
        spec = store.read_spec(Path(row["folder"])) or {}
        seconds = 1.0
        with suppress(KeyError, TypeError):  # a plan made by another version of this program
            (found,) = cost.estimate([Job("", "", "", Path(), spec)], {}, cost.CPU).values()
            seconds = found.seconds
        state = State(
            Job(row["folder"], row["kind"], row["title"], Path(row["folder"]), spec, (), seconds)
        )
        state.name, state.seconds = NAMES.get(row["state"], row["state"]), row["seconds"] or 0.0
        state.started = now - state.seconds if state.name in ("running", "done") else None
        states[row["folder"]] = state
    running = {row["folder"]: row for row in rows if row["state"] == "running"}
    return Run(states, [{}] * len(running)), running


def _cut(text: str) -> str:
    """The text, shortened so that a long error does not widen its column."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
