"""Reports of a running job: progress for views, curves for TensorBoard, warnings for the record."""

import json
import logging
import math
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from detco.common.files import write_atomic
from detco.common.progress import Report
from detco.results import store

CURVE_POINTS = 1000  # of a stage
# stage of an evaluation during training: reported once, with its metrics, at the iteration reached
EVALUATE = "evaluate"
TRAINING = ("pretrain", "train", EVALUATE)
METRICS = "metrics.jsonl"
LOG_LINES = 50  # of a stage


class Progress:
    """A job's `report`: writes `progress.json`, at most twice a second but at every
    change of stage.

    During an evaluation `trained` holds [iterations done, iterations in all]; the main metric of
    the last evaluation stays among the figures.
    """

    def __init__(self, folder: Path):
        self.path, self.written, self.stage = folder / "progress.json", 0.0, ""
        # steps and seconds from the first to the last report of each
        self.stages: dict[str, tuple[int, float]] = {}
        self.trained, self.evaluated = (0, 0), {}
        self.state = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        self("starting", 0, 0)

    def __call__(self, stage: str, done: int, total: int, **figures: float | str) -> None:
        now = time.time()
        new = stage != self.stage
        if new:
            self.stage, self.stage_began, self.stage_from = stage, now, done
            self.before = self.stages.get(stage, (0, 0.0))
        elif done > self.stage_from:
            steps, seconds = self.before
            self.stages[stage] = (
                steps + done - self.stage_from,
                round(seconds + now - self.stage_began, 3),
            )
        if stage == "train":
            self.trained = (done, total)
        elif stage == EVALUATE:
            # without the metrics of single classes
            figures = {name: value for name, value in figures.items() if "/" not in name}
            self.evaluated = {f"last {name}": value for name, value in list(figures.items())[:1]}
        if not new and now - self.written < 0.5 and done != total:
            return
        self.written = now
        seconds = now - self.stage_began
        speed = (done - self.stage_from) / seconds if seconds > 0.5 else None
        state = {"time": now, "stage": stage, "done": done, "total": total, "speed": speed}
        state["figures"] = _plain(figures if stage == EVALUATE else figures | self.evaluated)
        if stage not in ("train", EVALUATE) and self.trained[0] < self.trained[1]:
            state["trained"] = self.trained
        try:
            store.write_json(self.path, self.state | state)
        except OSError as error:  # on a full disk the job itself fails where it matters
            print(f"progress not written: {error}", file=sys.stderr)


class Curves:
    """A `report` that also writes figures (loss, lr, ...) for TensorBoard, CURVE_POINTS of a stage
    at most.

    Metrics of evaluations during training are all written, as `eval/box_ap` and so on.

    A resumed run removes the points written after its checkpoint.
    """

    def __init__(self, folder: Path, report: Report):
        self.folder, self.report, self.writer = folder, report, None

    def __call__(self, stage: str, done: int, total: int, **figures: float | str) -> None:
        self.report(stage, done, total, **figures)
        numbers, prefix = _numbers(figures), "eval/" if stage == EVALUATE else ""
        if not numbers or not _is_one_of(CURVE_POINTS, stage, done, total):
            return
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # this import takes a second

            self.writer = SummaryWriter(str(self.folder), purge_step=done)
        for key, value in numbers.items():
            self.writer.add_scalar(prefix + key, value, done)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Metrics:
    """A `report` that also writes `metrics.jsonl`, a line with the figures of an iteration,
    CURVE_POINTS of a stage at most and all evaluations, and LOG_LINES of them to the job's log.

    A resumed run removes the lines written after its checkpoint.
    """

    def __init__(self, folder: Path, report: Report):
        self.path, self.report, self.begun = folder / METRICS, report, False

    def __call__(self, stage: str, done: int, total: int, **figures: float | str) -> None:
        self.report(stage, done, total, **figures)
        numbers = _numbers(figures)
        if stage not in TRAINING or not numbers:
            return
        if _is_one_of(CURVE_POINTS, stage, done, total):
            self._write({"stage": stage, "iteration": done, **_plain(numbers)})
        if _is_one_of(LOG_LINES, stage, done, total):
            shown = ", ".join(f"{key} {value:.4g}" for key, value in list(numbers.items())[:6])
            print(f"{stage} {done}/{total}: {shown}")

    def _write(self, line: dict) -> None:
        try:
            if not self.begun:
                self.begun = True
                self._take_back(line["iteration"])
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # on a full disk the job itself fails where it matters
            print(f"metrics not written: {error}", file=sys.stderr)

    def _take_back(self, iteration: int) -> None:
        lines = read_metrics(self.path) if self.path.is_file() else []
        before = [line for line in lines if line["iteration"] < iteration]
        # always written anew: a link would lead the lines elsewhere
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in before))


def read_metrics(path: Path) -> list[dict]:
    """The lines of a `metrics.jsonl`; a last one that a killed run left half-written is left
    out."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("iteration"), int):
                found.append(line)
    return found


def _is_one_of(most: int, stage: str, done: int, total: int) -> bool:
    """Whether a step is among about so many of its stage: evenly spread, and the last. All
    evaluations are."""
    return stage == EVALUATE or done == total or done % math.ceil(total / most) == 0


def _numbers(figures: dict) -> dict:
    return {key: value for key, value in figures.items() if not isinstance(value, str)}


def _plain(figures: dict) -> dict:
    """Figures as JSON: numbers that are not finite become texts."""
    plain = {}
    for key, value in figures.items():
        number = value if isinstance(value, str) else float(value)
        plain[key] = number if isinstance(number, str) or math.isfinite(number) else str(number)
    return plain


class Warnings(logging.Handler):
    """Collects warnings of the packages (images left out, ...) for the record."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
