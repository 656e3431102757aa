"""Shows work in progress: one live view on a terminal, plain lines every thirty seconds where
output goes to a file."""

import sys
import time
from collections.abc import Callable
from contextlib import contextmanager

from detco.common.values import printable
from detco.results import store

from .local import Run, State

# share of a job that is done at the start and at the end of a stage; other stages are the whole job
SHARE = {
    "check pictures": (0.0, 0.0),
    "hash images": (0.0, 0.0),
    "pictures": (0.0, 0.05),
    "pretrain": (0.05, 1.0),
    "train": (0.0, 0.85),
    "evaluate": (0.0, 0.85),
    "precise BN": (0.85, 0.9),
    "predict": (0.9, 0.98),
    "score": (0.98, 1.0),
}
STARTING = {"stage": "starting", "done": 0, "total": 0, "speed": None, "figures": {}}
WIDE = 110  # columns of a terminal from which on a job has one line, not two
# Seconds of work that the planned speed weighs in the average with the measured one, which
# starting up makes too slow.
TRUST = 30.0
LINE_EVERY = 30.0  # seconds between two lines on a job


@contextmanager
def of_run(name: str):
    """A view for `executor.run`, fitted to where standard output goes."""
    if not sys.stdout.isatty():
        yield Plain(name)
        return
    from rich.live import Live

    with Live(auto_refresh=False, transient=True) as live:
        yield Terminal(name, live)


@contextmanager
def of_task(title: str):
    """A `report` for one piece of work in this process (drawing scenes, checking data)."""
    if not sys.stdout.isatty():
        yield _lines(title)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda stage, done, total, **figures: bar.update(
            task, completed=done, total=total, description=f"{title}: {stage}{_texts(figures)}"
        )


def _texts(figures: dict) -> str:
    return "".join(f", {name} {value}" for name, value in figures.items())


def _lines(title: str) -> Callable[..., None]:
    """A `report` that says every thirty seconds where the work stands, on standard error: the
    output may be JSON."""
    spoke = time.monotonic()

    def report(stage: str, done: int, total: int, **figures) -> None:
        nonlocal spoke
        if time.monotonic() - spoke >= LINE_EVERY:
            spoke = time.monotonic()
            print(
                f"{title}: {stage} {done:,}" + (f"/{total:,}" if total else "") + _texts(figures),
                file=sys.stderr,
                flush=True,
            )

    return report


class Plain:
    """A line when a job starts and ends, and one every thirty seconds for each at work, unless it
    would say the same again."""

    def __init__(self, name: str, say: Callable[[str], None] | None = None):
        self.name = name
        # of each job: its state, what was said of it, and when
        self.said: dict[str, tuple[str, str, float]] = {}
        self.say = say or (lambda line: print(line, flush=True))

    def __call__(self, run: Run) -> None:
        now = time.time()
        for key, state in run.states.items():
            name, text, spoke = self.said.get(key, ("waiting", "", 0.0))
            at_work = state.name == "running"
            if _done_before(state) or (
                state.name == name and (not at_work or now - spoke < LINE_EVERY)
            ):
                continue
            new = describe(state, progress_of(state) if name == state.name else None)
            self.said[key] = state.name, new, now
            if new != text:
                self.say(printable(f"[{self._head(run)}] {state.job.title}: {new}"))

    def _head(self, run: Run) -> str:
        """How much of the whole is done, and the time left."""
        running = {
            key: progress_of(state) for key, state in run.states.items() if state.name == "running"
        }
        left = overall(run, running)[1]
        return counts(run) + (f", about {clock(left)} left" if left else "")


class Terminal:
    """A bar for everything with the time left, and a line or two for each job at work."""

    def __init__(self, name: str, live):
        self.name, self.live, self.drawn = name, live, 0.0

    def __call__(self, run: Run) -> None:
        if time.time() - self.drawn > 0.25:
            self.drawn = time.time()
            self.live.update(self.draw(run), refresh=True)

    def draw(self, run: Run):
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        progress = {
            key: progress_of(state) for key, state in run.states.items() if state.name == "running"
        }
        fraction, left = overall(run, progress)
        wide = self.live.console.width >= WIDE
        more = [
            f"{len(run.named(name))} {text}" for name, text in COUNTED.items() if run.named(name)
        ]
        gone = [f"{clock(time.time() - run.began)} gone"] if wide else []
        text = (
            f"{fraction:4.0%} "
            f" {', '.join([counts(run), *more, f'about {clock(left)} left', *gone])}"
        )
        head, body = (Table.grid(padding=(0, 2, 0, 0)) for _ in range(2))
        head.add_row(
            Text(self.name, "bold"),
            ProgressBar(1.0, fraction, width=16 if wide else 8),
            _line(text),
        )
        for key, shown in progress.items():
            title, stage = _line(f" {run.states[key].job.title}"), stage_of(shown)
            count = f"{shown['done']}/{shown['total']}" if shown["total"] else ""
            rate, figures, rest = rates(shown)
            if wide:
                bar = ProgressBar(shown["total"] or 1, shown["done"], width=12)
                body.add_row(title, _line(stage), bar, *map(_line, (count, rest, rate, figures)))
            else:
                body.add_row(title)
                body.add_row(
                    _line(
                        "   "
                        + ", ".join(filter(None, (f"{stage} {count}".strip(), rate, rest, figures)))
                    )
                )
        return Group(head, body)


def _line(text: str):
    """A text cut at the terminal's width instead of wrapped."""
    from rich.text import Text

    return Text(printable(text), no_wrap=True, overflow="ellipsis")


COUNTED = {"elsewhere": "run by another `detco`", "failed": "failed", "blocked": "not run"}


def counts(run: Run) -> str:
    return f"{len(run.named('done'))}/{len(run.states)} done"


def _done_before(state: State) -> bool:
    return state.name == "done" and state.started is None


def progress_of(state: State) -> dict:
    """What a running job's worker last said."""
    return STARTING | store.read_progress(state.job.folder)


def describe(state: State, progress: dict | None) -> str:
    """One line on where a job stands."""
    if state.name in ("failed", "blocked"):
        return f"{'failed: ' if state.name == 'failed' else ''}{state.error}"
    if state.name == "done":
        return f"done in {clock(state.seconds)}"
    if state.name == "elsewhere":
        holder = store.read_progress(state.job.folder)  # its runner may have been killed
        who = (
            f" (process {holder['pid']} on {holder['host']})"
            if holder.keys() >= {"pid", "host"}
            else ""
        )
        return f"another runner has it{who}"
    if progress is None:
        return "started" if state.name == "running" else state.name
    count = f" {progress['done']}/{progress['total']}" if progress["total"] else ""
    return f"{stage_of(progress)}{count}" + "".join(f", {text}" for text in rates(progress) if text)


def stage_of(progress: dict) -> str:
    """The stage; of an evaluation during training also how far the training is."""
    trained = progress.get("trained")
    return progress["stage"] + (f" at {trained[0]}/{trained[1]}," if trained else "")


def rates(progress: dict) -> tuple[str, str, str]:
    """Speed, figures and time left of a stage as texts."""
    speed, rest = progress.get("speed"), seconds_of_stage(progress)
    shown = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in progress["figures"].items()
    ]
    rate = "" if not speed else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
    return (
        rate,
        ", ".join(shown[:5]),
        f"{clock(rest)} left" if rest else "",
    )


def fraction_of(state: State, progress: dict | None) -> float:
    """The fraction of a job that is done."""
    if state.name == "done":
        return 1.0
    if state.name != "running" or not progress or not progress["total"]:
        return 0.0
    stage, done, total = progress["stage"], progress["done"], progress["total"]
    if progress.get("trained"):  # an evaluation during training
        stage, (done, total) = "train", progress["trained"]
    low, high = SHARE.get(stage, (0.0, 1.0))
    return low + (high - low) * done / total


def overall(run: Run, progress: dict[str, dict]) -> tuple[float, float]:
    """Fraction of the whole that is done, and seconds left: measured costs of each kind of job
    scale the estimates of the rest. Never less than the longest chain of jobs that wait for one
    another still takes, the stage at work by its measured speed."""
    now, behind = time.time(), 0.0
    cost: dict[str, float] = {}
    spent: dict[str, float] = {}
    parts = {key: fraction_of(state, progress.get(key)) for key, state in run.states.items()}
    for key, state in run.states.items():
        kind, planned = state.job.kind, state.job.cost
        behind += parts[key] * planned
        if state.started:
            seconds = state.seconds if state.name == "done" else now - state.started
            cost[kind] = cost.get(kind, 0.0) + parts[key] * planned
            spent[kind] = spent.get(kind, 0.0) + seconds
    left: dict[str, float] = {}
    for key, state in run.states.items():
        if state.name not in ("failed", "blocked"):
            kind = state.job.kind
            pace = (spent.get(kind, 0.0) + TRUST) / (cost.get(kind, 0.0) + TRUST)
            stage = seconds_of_stage(progress.get(key, {}))
            left[key] = max((1 - parts[key]) * state.job.cost * pace, stage)
    total = sum(state.job.cost for state in run.states.values()) or 1.0
    shared = sum(left.values()) / max(1, len(run.slots))
    return behind / total, max(shared, _longest_chain(run, left))


def _longest_chain(run: Run, left: dict[str, float]) -> float:
    """Seconds until the last job ends if every job starts as soon as those that it needs are
    done."""
    ends: dict[str, float] = {}

    def end(key: str) -> float:
        if key not in ends:
            needs = (end(other) for other in run.states[key].job.needs if other in left)
            ends[key] = left[key] + max(needs, default=0.0)
        return ends[key]

    return max(map(end, left), default=0.0)


def seconds_of_stage(progress: dict) -> float:
    """What the stage at work still takes by its measured speed; 0 where that is unknown."""
    speed = progress.get("speed")
    missing = progress.get("total", 0) - progress.get("done", 0)
    return missing / speed if speed and missing > 0 else 0.0


def clock(seconds: float) -> str:
    """75 -> `1:15`, 3700 -> `1:01:40`; from four days on `5.2 days`, from two years on
    `2.6 years`."""
    days = seconds / 86400
    if days >= 4:
        return f"{days / 365.25:,.1f} years" if days >= 730 else f"{days:,.1f} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
