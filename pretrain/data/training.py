"""The images of a run: read, checked, cut into views and batches."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from detco.common import depth
from detco.common.errors import InputError
from detco.common.progress import Report

from ..distributed import Process
from ..recipes import Recipe
from . import decoding
from .listing import Pictures
from .loader import Batches, Views, loader

log = logging.getLogger("detco.pretrain")


class TrainingImages:
    """What this process trains on after ``start`` iterations.

    Where all pictures fit into memory they are decoded now, and bad ones left out; else bad ones
    are met on the way and go to `note`. ``bad_list``: a file that names them. Raises InputError
    where too few are left, too many are bad, or the recipe needs classes and there are none.
    """

    def __init__(
        self,
        pictures: Pictures,
        recipe: Recipe,
        seed: int,
        start: int,
        process: Process,
        bad_list: Path,
        report: Report | None = None,
    ):
        self.pictures, self.recipe, self.process = pictures, recipe, process
        self.views = Views(pictures, recipe, seed)
        self.bad = decoding.Bad(pictures, bad_list if process.first else None)
        if self.views.fits:
            threads = torch.get_num_threads()
            self.bad(decoding.check(pictures, self.views.read, threads, report))
            self.views.use(pictures.without(self.bad.reasons))
        _refuse_unfit(self.views, recipe)
        count = len(self.views.pictures)
        self.batches = Batches(count, recipe, seed, start, process.rank, process.world)

    def say(self) -> None:
        """What a record should hold of the pictures."""
        for text in self.pictures.doubts:
            log.warning("%s", text)
        if self.pictures.value_range:
            log.info("%s", depth.policy(self.pictures.value_range))
        if self.recipe.traits.needs_labels:
            log.info("%s classes: %s", len(self.views.classes), ", ".join(self.views.classes))

    def loader(self) -> Iterator[dict]:
        """The batches from ``start`` on."""
        processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cuda = self.process.device.type == "cuda"
        return loader(self.views, self.batches, cuda, processes_here)

    def note(self, bad: dict[int, str]) -> None:
        """Of the bad pictures that this process or another met in an iteration; all call it."""
        of_all = [bad] * self.process.world
        if self.process.world > 1:
            dist.all_gather_object(of_all, bad)
        for found in of_all:
            self.bad(found)


def _refuse_unfit(views: Views, recipe: Recipe) -> None:
    pictures = views.pictures
    if len(pictures) < recipe.batch:
        raise InputError(
            f"{pictures.root}: {len(pictures)} pictures are fewer than a batch ({recipe.batch});"
            f" give more pictures or --set batch={len(pictures)}"
        )
    if recipe.traits.needs_labels:
        pictures.refuse_without_classes()
