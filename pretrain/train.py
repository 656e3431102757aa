"""The pretraining loop, from a folder of pictures to a backbone file: one process, several, or
several machines."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import nn

from detco.common.errors import InputError, TrainingError
from detco.common.progress import Report
from detco.common.resnet import IMAGENET_MEAN, IMAGENET_STD

from . import checkpoints, export, methods, optimize
from .data import decoding, listing, views
from .data.loader import SHUFFLE, Batches, Views, generator, loader
from .distributed import Process, distributed, join
from .journal import Journal
from .methods.encoder import Trunk
from .probe import Probe
from .recipes import Recipe, recipe_hash

log = logging.getLogger("detco.pretrain")

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
    """Train on the pictures of ``images`` (a folder, or a text file of paths) and return
    ``out/backbone.safetensors``.

    ``probe`` is a folder of labelled pictures: the k-nearest-neighbour accuracy of the backbone on
    it is measured before training and after each epoch, shown with the figures and left in
    ``out/probe.json``; it changes nothing else. Goes on from the checkpoints in ``out`` if the run
    was interrupted, and returns at once if it has finished. Under torchrun, all processes call this
    with the same arguments. ``report(stage, done, total, **figures)`` is called at every step.
    Raises InputError for what the user gave, TrainingError when the loss is not finite.
    """
    if seed < 0:
        raise InputError(f"the seed is {seed}; it must not be negative")
    with join(device) as process:
        return Pretraining(
            recipe,
            Path(images),
            Path(out),
            seed,
            process,
            report if process.first else None,
            probe,
        ).go()


class Pretraining:
    """One pretraining run: its pictures, model, optimizer and files."""

    def __init__(
        self,
        recipe: Recipe,
        pictures: Path,
        out: Path,
        seed: int,
        process: Process,
        report: Report | None,
        probe: Path | None = None,
    ):
        self.recipe, self.out, self.seed, self.process, self.report = (
            recipe,
            out,
            seed,
            process,
            report,
        )
        self.probe = Probe(probe, recipe.view_size) if probe and process.first else None
        self.pictures = listing.find(pictures)
        self.file = out / "backbone.safetensors"
        self.identity = {
            "recipe_hash": recipe_hash(recipe),
            "seed": str(seed),
            "pictures": self.pictures.fingerprint,
        }
        self.precision = optimize.precision(recipe, process.device)

    def go(self) -> Path:
        finished = self._finished()
        state = None if finished else checkpoints.load(self.out)
        self._agree("finished" if finished else state["iteration"] if state else 0)
        if finished:
            if self.process.first:
                checkpoints.clear(self.out)  # a kill between the last two steps below leaves them
            return self.file
        self.out.mkdir(parents=True, exist_ok=True)
        if state:
            self._same(state.get("identity", {}))
        self._read_pictures()
        self._say()
        self._build()
        start = self._restore(state) if state else 0
        self._train(start)
        if not all(torch.isfinite(value).all() for value in self.model.trunk.state_dict().values()):
            raise TrainingError(f"the weights are not finite after the last iteration; {REMEDIES}")
        if self.process.first:
            export.write(self.file, self.model.trunk, self._metadata())
            checkpoints.clear(self.out)
        if self.process.world > 1:
            dist.barrier()
        return self.file

    def _finished(self) -> bool:
        if not self.file.exists():
            return False
        try:
            with safe_open(self.file, "pt") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{self.file} is not a backbone file ({error}); remove it, or use another --out"
            ) from None
        self._same(metadata)
        return True

    def _agree(self, start: int | str) -> None:
        """All processes begin at the same point: they all see the files of the first."""
        starts = [start] * self.process.world
        if self.process.world > 1:
            dist.all_gather_object(starts, start)
        if len(set(starts)) > 1:
            raise InputError(
                f"{self.out} is not the same folder for all processes (runs there are at {starts});"
                " name one on a file system that all machines share"
            )

    def _same(self, other: dict[str, str]) -> None:
        names = {"recipe_hash": "recipe", "seed": "seed", "pictures": "pictures"}
        differ = [names[key] for key, value in self.identity.items() if other.get(key) != value]
        if differ:
            what = " and ".join(differ)
            raise InputError(
                f"{self.out} holds a run with another {what}; use another --out, or remove it"
            )

    def _read_pictures(self) -> None:
        """Where all pictures fit into memory, decode them and leave out the bad ones; else those
        are met on the way."""
        self.data = Views(self.pictures, self.recipe, self.seed)
        self.bad = decoding.Bad(
            self.pictures, self.out / "bad_pictures.txt" if self.process.first else None
        )
        if self.data.fits:
            self.bad(
                decoding.check(self.pictures, self.data.read, torch.get_num_threads(), self.report)
            )
            self.data.use(self.pictures.without(self.bad.reasons))
        if len(self.data.pictures) < self.recipe.batch:
            raise InputError(
                f"{self.pictures.root}: {len(self.data.pictures)} pictures are fewer than a batch"
                f" ({self.recipe.batch}); give more pictures or --set"
                f" batch={len(self.data.pictures)}"
            )
        if self.recipe.traits.needs_labels:
            self.data.pictures.refuse_without_classes()

    def _say(self) -> None:
        """What a record should hold of the pictures."""
        if not self.process.first:
            return
        for text in self.pictures.doubts:
            log.warning("%s", text)
        if self.recipe.traits.needs_labels:
            log.info("%s classes: %s", len(self.data.classes), ", ".join(self.data.classes))

    def _build(self) -> None:
        r, process = self.recipe, self.process
        groups = max(1, r.groups // process.world)
        if (
            r.batch % process.world
            or (r.batch // process.world) % groups
            or (r.groups % process.world and groups > 1)
        ):
            raise InputError(
                f"batch {r.batch} in {r.groups} groups cannot be shared by {process.world}"
                " processes"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model = methods.build(r, groups, len(self.data.classes))
        self.groups = groups * process.world  # that the batch is really normalised in
        self.model.to(
            process.device,
            memory_format=torch.channels_last if r.channels_last else torch.contiguous_format,
        )
        for module in self.model.modules():
            if r.compile and isinstance(module, Trunk):
                module.compile(dynamic=False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = optimize.optimizer(r, trained)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.precision == "fp16")
        self.ready: dict[str, torch.Tensor] = {}  # views of the last iteration
        self.filling = math.ceil(r.queue / r.batch) if r.fill_queue and r.traits.has_keys else 0
        self.batches = Batches(
            len(self.data.pictures), r, self.seed, 0, process.rank, process.world
        )
        if 2 * self.filling > self.batches.total:
            raise InputError(
                f"{self.filling} of {self.batches.total} iterations would only fill the queues of"
                f" {r.queue} keys: give more pictures or epochs, a smaller queue, or --set"
                " fill_queue=false"
            )

    def _restore(self, state: dict) -> int:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        return state["iteration"]

    def _checkpoint(self, iteration: int) -> None:
        state = {
            "identity": self.identity,
            "iteration": iteration,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        checkpoints.save(self.out, iteration, state, self.recipe.keep)

    def _train(self, start: int) -> None:
        process, total, per_epoch = self.process, self.batches.total, self.batches.per_epoch
        self.batches.start = start
        model = distributed(self.model, process, self.recipe.has_unused_parameters)
        journal = Journal(self.out, self.recipe, start, self.report) if process.first else None
        if journal and start == 0:
            self._measure(journal, 0)
        saved = time.monotonic()
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        for done, batch in enumerate(
            loader(self.data, self.batches, process.device.type == "cuda", local), start + 1
        ):
            lr = optimize.learning_rate(self.recipe, (done - 1) / per_epoch)
            figures = self._step(model, batch, done - 1, lr) | {"lr": lr}
            if journal is None:
                continue
            journal.iteration(done, total, figures)
            if done % per_epoch == 0:
                journal.epoch(done // per_epoch, figures)
                self._measure(journal, done)
            if done < total and (
                done % per_epoch == 0
                or time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes
            ):
                self._checkpoint(done)
                saved = time.monotonic()
                journal.resume()
        if journal:
            journal.close()

    def _measure(self, journal: Journal, done: int) -> None:
        """The backbone's accuracy on the labelled pictures, if some were given."""
        if self.probe:
            journal.probe(
                done // self.batches.per_epoch,
                done,
                self.probe(self.model.trunk, self.process.device),
            )
            journal.resume()

    def _step(self, model: nn.Module, batch: dict, iteration: int, lr: float) -> dict[str, float]:
        """One iteration; returns its figures, the means over all processes. The keys enter the
        queues at the end."""
        device, bad = self.process.device, batch.pop("bad")
        self.ready = ready = views.finish(batch, self.recipe, device, self.ready)
        order = generator(SHUFFLE, self.seed, iteration).permutation(self.recipe.batch)
        trains = iteration >= self.filling
        with optimize.autocast(self.precision, device), torch.set_grad_enabled(trains):
            output = model(ready, torch.from_numpy(order).to(device))
        names = ["loss", *output["figures"], "bad"]
        values = torch.stack(
            [
                output["loss"].detach(),
                *output["figures"].values(),
                torch.tensor(float(len(bad)), device=device),
            ]
        )
        if self.process.world > 1:
            dist.all_reduce(values)
            values /= self.process.world
        figures = dict(zip(names, values.tolist(), strict=True))
        if figures.pop("bad"):
            self._take_note(bad)
        wrong = [name for name, value in figures.items() if not math.isfinite(value)]
        if wrong:
            raise TrainingError(
                f"{', '.join(wrong)} not finite at iteration {iteration} (lr {lr:.4g}); {REMEDIES}"
            )
        if trains:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            optimize.update(self.optimizer, self.scaler, output["loss"])
        self.model.enqueue(output["keys"])
        return figures

    def _take_note(self, bad: dict[int, str]) -> None:
        """Of bad pictures that this process or another met in an iteration."""
        of_all = [bad] * self.process.world
        if self.process.world > 1:
            dist.all_gather_object(of_all, bad)
        for found in of_all:
            self.bad(found)

    def _metadata(self) -> dict[str, str]:
        """Of the backbone file: what made it, and the preprocessing that it expects."""
        r = self.recipe
        return {
            "method": r.method,
            "arch": r.arch,
            "epochs": str(r.epochs),
            "images_seen": str(self.batches.total * r.batch),
            "channel_order": "RGB",
            "mean": json.dumps(IMAGENET_MEAN),
            "std": json.dumps(IMAGENET_STD),
            "stride_in": "3x3",
            "source": f"recipe {r.name} on {len(self.data.pictures)} pictures",
            "source_sha256": "",
            "recipe": json.dumps(asdict(r)),
            "assumed": json.dumps(r.assumed),
            "precision": self.precision,
            "groups": str(self.groups),
            **({"classes": json.dumps(self.data.classes)} if r.traits.needs_labels else {}),
            **self.identity,
        }
