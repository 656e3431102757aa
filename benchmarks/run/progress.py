"""Reports of a running job: progress for views, curves for TensorBoard, warnings for the record."""

import logging
import math
import os
import socket
import sys
import time
from pathlib import Path

from detco.common.progress import Report
from detco.results import store

CURVE_POINTS = 1000  # of a stage
# stage of an evaluation during training: reported once, with its metrics, at the iteration reached
EVALUATE = "evaluate"


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
        numbers = {key: value for key, value in figures.items() if not isinstance(value, str)}
        prefix = "eval/" if stage == EVALUATE else ""
        if not numbers or (not prefix and done % math.ceil(total / CURVE_POINTS) and done != total):
            return
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # this import takes a second

            self.writer = SummaryWriter(str(self.folder), purge_step=done)
        for key, value in numbers.items():
            self.writer.add_scalar(prefix + key, value, done)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


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
