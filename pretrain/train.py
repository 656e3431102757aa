"""The pretraining loop, from a folder of pictures to a backbone file: one process, several, or
several machines."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist

from detco.common.errors import InputError, TrainingError
from detco.common.images import Range
from detco.common.progress import Report
from detco.common.resnet import IMAGENET_MEAN, IMAGENET_STD

from . import optimize
from .data import listing
from .data.training import TrainingImages
from .distributed import Process, averaged, join
from .files import RunFiles
from .journal import Journal
from .learner import Learner
from .probe import Probe
from .recipes import Recipe, recipe_hash

REMEDIES = "a smaller lr, a longer warmup_epochs or precision=float32 may help"


def pretrain(
    recipe: Recipe,
    images: Path,
    out: Path,
    seed: int = 0,
    device: str = "auto",
    report: Report | None = None,
    probe: Path | None = None,
) -> Path:
    """Train on the pictures of ``images`` (a folder, or a text file of paths)
    and return ``out/backbone.safetensors``.

    ``probe`` is a folder of labelled pictures: the k-nearest-neighbour accuracy of the backbone on
    it is measured before training and after each epoch, shown with the figures and left in
    ``out/knn.json`` in percent; it changes nothing else. Goes on from the checkpoints in ``out`` if
    the run was interrupted, and returns at once if it has finished. Under torchrun, all processes
    call this with the same arguments. ``report(stage, done, total, **figures)`` is called at every
    step.
    Raises InputError for what the user gave, TrainingError when the loss is not finite.
    """
    if seed < 0:
        raise InputError(f"the seed is {seed}; it must not be negative")
    with join(device) as process:
        return run(recipe, Path(images), Path(out), seed, process, report, probe)


def run(
    recipe: Recipe,
    images: Path,
    out: Path,
    seed: int,
    process: Process,
    report: Report | None = None,
    probe: Path | None = None,
) -> Path:
    """`pretrain` as one of the processes that have joined."""
    report = report if process.first else None
    pictures = listing.find(images)
    content, value_range = _looked_at(pictures, process, report)
    pictures = replace(pictures, value_range=value_range)
    measure = None
    if probe and process.first:
        measure = Probe(probe, recipe.view_size, value_range)
    identity = {
        "recipe_hash": recipe_hash(recipe),
        "seed": str(seed),
        "content": content,
    }
    files = RunFiles(out, identity, recipe.keep)
    finished = files.finished()
    state = None if finished else files.newest()
    start = state["iteration"] if state else 0
    _agree("finished" if finished else start, out, process)
    if finished:
        if process.first:
            files.clear()  # a kill in the middle of `finish` leaves the checkpoints
        return files.backbone
    out.mkdir(parents=True, exist_ok=True)
    if state:
        files.take(state.get("identity", {}), pictures.fingerprint)
    data = TrainingImages(pictures, recipe, seed, start, process, files.bad_pictures, report)
    if process.first:
        data.say()
    classes, iterations = len(data.views.classes), data.batches.total
    learner = Learner(recipe, seed, classes, iterations, process, state)
    Loop(recipe, data, learner, files, report, measure).go()
    if process.first:
        files.finish(learner.model.trunk, _metadata(data, learner))
    if process.world > 1:
        dist.barrier()
    return files.backbone


def _looked_at(
    pictures: listing.Pictures, process: Process, report: Report | None
) -> tuple[str, Range | None]:
    """`Pictures.looked_at`; the first process reads them for all."""
    found = [pictures.looked_at(report) if process.first else ("", None)]
    if process.world > 1:
        dist.broadcast_object_list(found, device=process.device)
    return found[0]


def _agree(start: int | str, out: Path, process: Process) -> None:
    """All processes begin at the same point: they all see the files of the first."""
    starts = [start] * process.world
    if process.world > 1:
        dist.all_gather_object(starts, start)
    if len(set(starts)) > 1:
        raise InputError(
            f"{out} is not the same folder for all processes (runs there are at {starts}); name one"
            " on a file system that all machines share"
        )


class Loop:
    """All iterations that are left; measures and keeps the model on the way."""

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingImages,
        learner: Learner,
        files: RunFiles,
        report: Report | None,
        probe: Probe | None,
    ):
        self.recipe, self.data, self.learner, self.files = recipe, data, learner, files
        self.report, self.probe = report, probe

    def go(self) -> None:
        """Raises TrainingError as soon as a figure, or at the end a weight, is not finite."""
        batches = self.data.batches
        journal = None
        if self.learner.process.first:
            journal = Journal(self.files.out, self.recipe, batches.start, self.report)
            if batches.start == 0:
                self._measure(journal, 0)
        saved = time.monotonic()
        for done, batch in enumerate(self.data.loader(), batches.start + 1):
            figures = self._iteration(batch, done - 1)
            if journal is None:
                continue
            journal.iteration(done, batches.total, figures)
            epoch_ends = done % batches.per_epoch == 0
            if epoch_ends:
                journal.epoch(done // batches.per_epoch, figures)
                self._measure(journal, done)
            is_due = time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes
            if done < batches.total and (epoch_ends or is_due):
                self.files.save(done, self.learner.state())
                saved = time.monotonic()
                journal.resume()
        if journal:
            journal.close()
        weights = self.learner.model.trunk.state_dict().values()
        if not all(torch.isfinite(value).all() for value in weights):
            raise TrainingError(f"the weights are not finite after the last iteration; {REMEDIES}")

    def _iteration(self, batch: dict, iteration: int) -> dict[str, float]:
        """One iteration; returns its figures, the means over all processes."""
        bad = batch.pop("bad")
        output = self.learner.forward(batch, iteration)
        count = torch.tensor(float(len(bad)), device=output["loss"].device)
        figures = averaged(
            {"loss": output["loss"].detach(), **output["figures"], "bad": count},
            self.learner.process,
        )
        if figures.pop("bad"):
            self.data.note(bad)
        lr = optimize.learning_rate(self.recipe, iteration / self.data.batches.per_epoch)
        wrong = [name for name, value in figures.items() if not math.isfinite(value)]
        if wrong:
            raise TrainingError(
                f"{', '.join(wrong)} not finite at iteration {iteration} (lr {lr:.4g}); {REMEDIES}"
            )
        self.learner.update(output, iteration, lr)
        return figures | {"lr": lr}

    def _measure(self, journal: Journal, done: int) -> None:
        """The backbone's accuracy on the labelled pictures, if some were given."""
        if self.probe:
            accuracy = self.probe(self.learner.model.trunk, self.learner.process.device)
            journal.probe(done // self.data.batches.per_epoch, done, accuracy)
            journal.resume()


def _metadata(data: TrainingImages, learner: Learner) -> dict[str, str]:
    """Of the backbone file: what made it, and the preprocessing that it expects."""
    r = learner.recipe
    return {
        "method": r.method,
        "arch": r.arch,
        "epochs": str(r.epochs),
        "images_seen": str(data.batches.total * r.batch),
        "channel_order": "RGB",
        "mean": json.dumps(IMAGENET_MEAN),
        "std": json.dumps(IMAGENET_STD),
        "source": f"recipe {r.name} on {len(data.views.pictures)} pictures",
        "source_sha256": "",
        "recipe": json.dumps(asdict(r)),
        "assumed": json.dumps(r.assumed),
        "precision": learner.precision,
        "groups": str(learner.groups),
        **({"value_range": json.dumps(values)} if (values := data.pictures.value_range) else {}),
        **({"classes": json.dumps(data.views.classes)} if r.traits.needs_labels else {}),
    }
