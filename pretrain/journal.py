"""What a run reports: curves for TensorBoard, the figures of the progress line, a
warning of collapse."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from detco.common.files import write_atomic
from detco.common.progress import Report

from .recipes import Recipe

log = logging.getLogger("detco.pretrain")

CURVES_EVERY = 10  # iterations
COLLAPSED = 0.1  # of the spread of evenly spread features
PROBED = "knn.json"  # epoch -> k-nearest-neighbour accuracy in percent
EARLIER = "probe.json"  # the same as shares, of versions before


def probed(out: Path) -> dict[str, float]:
    """Epoch -> k-nearest-neighbour accuracy in percent, as far as a run has measured it."""
    if (out / PROBED).is_file():
        return json.loads((out / PROBED).read_text())
    if (out / EARLIER).is_file():
        shares = json.loads((out / EARLIER).read_text())
        return {epoch: 100 * share for epoch, share in shares.items()}
    return {}


class Journal:
    """Takes note of every iteration and epoch; goes on where an interrupted run stopped (``start``
    iterations done)."""

    def __init__(self, out: Path, recipe: Recipe, start: int, report: Report | None):
        # takes a second; only the first process needs it
        from torch.utils.tensorboard import (
            SummaryWriter,
        )

        self.recipe, self.report, self.file = recipe, report, out / PROBED
        # the probe before training is at step 0, which a run from the start measures again
        self.curves = SummaryWriter(str(out / "tb"), purge_step=start + 1 if start else 0)
        self.clock = time.monotonic()
        self.probed = probed(out) if start else {}

    def resume(self) -> None:
        """Start the clock again: the time since the last iteration did not go to training."""
        self.clock = time.monotonic()

    def iteration(self, done: int, total: int, figures: dict[str, float]) -> None:
        now = time.monotonic()
        figures = figures | {"pictures_per_second": self.recipe.batch / (now - self.clock)}
        self.clock = now
        if done % CURVES_EVERY == 0 or done == total:
            for name, value in figures.items():
                self.curves.add_scalar(name, value, done)
        if self.report:
            self.report("pretrain", done, total, **self._headline(figures))

    def _headline(self, figures: dict[str, float]) -> dict[str, float]:
        """For the progress line: mean accuracy and least spread of the features, which show a
        collapse, and the speed."""
        accuracy = [value for name, value in figures.items() if name.startswith("accuracy/")]
        spread = [value for name, value in figures.items() if name.startswith("std")]
        line = {"loss": figures["loss"]}
        line |= {"accuracy": sum(accuracy) / len(accuracy)} if accuracy else {}
        line |= {"std": min(spread)} if spread else {}
        line["pictures/s"] = figures["pictures_per_second"]
        return line | ({"knn": list(self.probed.values())[-1]} if self.probed else {})

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Warn of features that are nearly the same for all pictures (evenly spread ones have a std
        of 1 / sqrt(dim))."""
        if not self.recipe.traits.has_keys:
            return
        even = self.recipe.dim**-0.5
        for name, value in figures.items():
            if name.startswith("std/") and value < COLLAPSED * even:
                log.warning(
                    "epoch %d: the features %s have collapsed: std %.2g, evenly spread ones have"
                    " %.2g",
                    epoch,
                    name.removeprefix("std/"),
                    value,
                    even,
                )

    def probe(self, epoch: int, done: int, accuracy: float) -> None:
        """The k-nearest-neighbour accuracy after an epoch, in percent; 0: before training."""
        self.probed[str(epoch)] = accuracy
        self.curves.add_scalar("knn", accuracy, done)
        write_atomic(self.file, json.dumps(self.probed, indent=1))
        log.info("k-nearest-neighbour accuracy after epoch %d: %.1f%%", epoch, accuracy)

    def close(self) -> None:
        self.curves.close()
