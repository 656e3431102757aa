"""`detco run --dry-run`: the plan as a table, and what it costs on the executor at hand."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..plan import cost
from ..plan.cost import Estimate
from ..plan.jobs import Job
from ..run import Room
from ..run.live import clock
from .text import columns, in_words, size, wrapped

UNBEARABLE = 90 * 24 * 3600  # seconds
OWN = "GPU-hours"  # of the GPUs that are here
LONG = 100 * 3600  # seconds of work on processor cores from which GPU-hours are told too


def show(
    jobs: Sequence[Job],
    done: set[str],
    costs: Mapping[str, Estimate],
    room: Room,
    out: Path,
    asked: str | None = None,
) -> None:
    """Print a line for each kind of job (seeds together), then the sums. asked: the GPU, of
    `cost.BANDWIDTH`, whose hours are wanted."""
    gpu, unit = gpu_hours(jobs, costs, room, asked)
    _table(jobs, done, costs, gpu, unit)
    print(f"\n{in_words(len(jobs))}, {len(done)} done")
    todo = [job for job in jobs if job.id not in done]
    if not todo:
        return
    wall = cost.wall_seconds(jobs, done, costs, room.slots)
    lasts = clock(wall)
    hours = f"; {_number(sum(gpu[job.id] for job in todo))} {unit}" if gpu else ""
    too_long = ": not on this machine" if wall > UNBEARABLE else ""
    print(wrapped("time: ", f"about {lasts} on {room.name}{too_long}{hours}"))
    _disk(todo, costs, room, out)
    _speeds(todo, costs, room)
    if unit and unit != OWN:
        print(wrapped(f"{unit}: ", _assumed(asked or "v100")))
    _power(jobs)


def as_rows(jobs: Sequence[Job], done: set[str], costs: Mapping[str, Estimate]) -> list[dict]:
    """Each job for `--json`; seconds are those of one slot."""
    rows = []
    for job in jobs:
        found = costs[job.id]
        row: dict[str, object] = {
            "id": job.id,
            "kind": job.kind,
            "title": job.title,
            "folder": str(job.folder),
        }
        row |= {"needs": list(job.needs), "done": job.id in done, "seconds": found.seconds}
        rows.append(row | {"measured": found.measured, "bytes": found.stays})
    return rows


def _power(jobs: Sequence[Job]) -> None:
    """What the planned seeds can show."""
    from detco.results import power

    cells = _seeds_together([job for job in jobs if job.kind == "transfer"])
    if not cells:
        return
    n = min(map(len, cells.values()))
    if n < 2:
        text = "one seed shows no difference as outside the noise; `detco plan-seeds` helps"
        print(wrapped("power: ", text))
        return
    print(
        f"power: {n} seeds show {power.smallest(n):.1f} times the spread between seeds with"
        f" {power.POWER:.0%} power\n       (paired by seed {power.smallest(n, paired=True):.1f}"
        " times that of the pairs); see `detco plan-seeds`"
    )


def _table(
    jobs: Sequence[Job],
    done: set[str],
    costs: Mapping[str, Estimate],
    gpu: Mapping[str, float],
    unit: str,
) -> None:
    """A line for each kind of job; `gpu`: hours of each job, without them there is
    no such column."""
    titles = {job.id: job.title for job in jobs}
    rows = [["job", "runs", "done", "each takes", f"{unit} each", "by", "after"]]
    for title, runs in _seeds_together(jobs).items():
        first = runs[0].id
        needs = dict.fromkeys(titles[key] for job in runs for key in job.needs if key in titles)
        rows.append(
            [
                title,
                str(len(runs)),
                str(sum(job.id in done for job in runs)),
                clock(costs[first].seconds),
                _number(gpu[first]) if gpu else "",
                "measured" if costs[first].measured else "model",
                ", ".join(needs),
            ]
        )
    right = [1, 2, 3, 4]
    if not gpu:
        right.remove(4)
        for row in rows:
            del row[4]
    columns(rows, right=right, less=("after", "by"))


def _seeds_together(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """The jobs by their titles without the seed."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.title.partition(", seed ")[0], []).append(job)
    return groups


def _speeds(todo: Sequence[Job], costs: Mapping[str, Estimate], room: Room) -> None:
    measured = sum(costs[job.id].measured for job in todo)
    parts = []
    if measured:
        parts.append(f"{in_words(measured)} as measured on this machine")
    if measured < len(todo):
        parts.append(f"{in_words(len(todo) - measured)} by the model of {room.model}")
    print(wrapped("speeds: ", ", ".join(parts)))


def _assumed(gpu: str) -> str:
    """Where the hours of a GPU come from that is not here."""
    text = f"an estimate by the model of {cost.GPU.name}"
    if gpu == "v100":
        return text
    ours, theirs = cost.BANDWIDTH["v100"], cost.BANDWIDTH[gpu]
    return (
        f"{text}; times {ours:,} / {theirs:,}, the ratio of the memories' bandwidths in GB/s:"
        " assumed, not measured"
    )


def gpu_hours(
    jobs: Sequence[Job], costs: Mapping[str, Estimate], room: Room, asked: str | None = None
) -> tuple[dict[str, float], str]:
    """GPU-hours of each job and their unit: of the GPU that was asked for, else of those here.
    Without a GPU, a long plan is given in hours of the cost model's; for a short one the hours are
    empty."""
    if asked:
        return cost.gpu_hours(jobs, asked), f"{asked.upper()}-hours"
    if room.gpus:
        return {
            job.id: costs[job.id].seconds * room.gpus.get(job.kind, 0) / 3600 for job in jobs
        }, OWN
    if sum(costs[job.id].seconds for job in jobs) < LONG:
        return {}, ""
    return cost.gpu_hours(jobs, "v100"), "V100-hours"


def _disk(todo: Sequence[Job], costs: Mapping[str, Estimate], room: Room, out: Path) -> None:
    stays = sum(costs[job.id].stays for job in todo)
    more = sum(sorted((costs[job.id].runs for job in todo), reverse=True)[: room.slots])
    place = next(folder for folder in (out, *out.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    text = f"{size(stays)} stay, up to {size(more)} more while it runs; {size(free)} are free in"
    print(wrapped("disk: ", f"{text} {place}"))
    if stays + more > free:
        print(f"detco: not enough room on the disk of {place}", file=sys.stderr)


def summed(missing: Sequence[str]) -> list[str]:
    """The missing inputs, each once: of lines that differ only in the part in brackets (about one
    protocol), the first is kept."""
    first: dict[str, str] = {}
    for text in missing:
        first.setdefault(text.partition(" (")[0], text)
    return list(first.values())


def _number(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
