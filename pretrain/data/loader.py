"""Batches of cut views: which pictures, in which order, drawn how -- all functions of seed, epoch
and picture."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detco.common import loading

from ..recipes import Recipe
from . import views
from .decoding import BadPicture, decode, memory
from .listing import Pictures

# First word of a seed: what the numbers are for. No other random state exists, so nothing has to be
# stored to go on.
ORDER, PICTURE, SHUFFLE = 1, 2, 3


def generator(purpose: int, seed: int, *where: int) -> np.random.Generator:
    return np.random.default_rng((purpose, seed, *where))


class Views(Dataset):
    """(epoch, indices) -> batch: ``name`` uint8 (n, [9,] 3, h, w), ``name_draws`` (n [* 9], DRAWS),
    ``label`` (n,).

    Where all decoded pictures fit into the recipe's ``cache_gb`` they are kept in memory. Else a
    bad picture is met in the middle of training: another takes its place, and ``bad`` of the batch
    has its index and the reason.
    """

    TRIES = 20  # to find a good picture in the place of a bad one

    def __init__(self, pictures: Pictures, recipe: Recipe, seed: int):
        self.recipe, self.seed = recipe, seed
        self.cache: dict[str, np.ndarray] = {}
        self.fits = memory(pictures, recipe.load_size) <= recipe.cache_gb * 2**30
        self.use(pictures)

    def use(self, pictures: Pictures) -> None:
        """Take these pictures, e.g. those that were found to be good."""
        self.pictures, self.classes = pictures, pictures.classes
        number = {name: label for label, name in enumerate(self.classes)}
        self.labels = np.array(
            [number.get(name.split("/", 1)[0], -1) for name in pictures.names], np.int64
        )

    def read(self, index: int) -> np.ndarray:
        """uint8 (h, w, 3), from memory if it is there. Raises BadPicture."""
        name = self.pictures.names[index]
        if name in self.cache:
            return self.cache[name]
        pictures = self.pictures
        picture = decode(pictures.path(index), self.recipe.load_size, pictures.value_range)
        if self.fits:
            self.cache[name] = picture
        return picture

    def __getitem__(self, item: tuple[int, list[int]]) -> dict:
        epoch, indices = item
        bad: dict[int, str] = {}
        rows = [self._row(epoch, index, bad) for index in indices]
        batch = {name: torch.stack([cut[name] for cut, _, _ in rows]) for name in rows[0][0]}
        for name in rows[0][1]:
            batch[f"{name}_draws"] = torch.from_numpy(
                np.concatenate([draws[name] for _, draws, _ in rows])
            )
        if self.recipe.traits.needs_labels:
            batch["label"] = torch.from_numpy(self.labels[[index for _, _, index in rows]])
        return batch | {"bad": bad}

    def _row(
        self, epoch: int, index: int, bad: dict[int, str]
    ) -> tuple[dict[str, Tensor], dict[str, np.ndarray], int]:
        """Views and draws of a picture, and which one it was."""
        rng = generator(PICTURE, self.seed, epoch, index)
        picture, index = self._good(index, rng, bad)
        return (
            views.cut(torch.from_numpy(picture).permute(2, 0, 1), self.recipe, rng),
            views.draw(self.recipe, rng),
            index,
        )

    def _good(
        self, index: int, rng: np.random.Generator, bad: dict[int, str]
    ) -> tuple[np.ndarray, int]:
        for _ in range(self.TRIES):
            try:
                return self.read(index), index
            except BadPicture as error:
                bad[index] = str(error)
                index = int(rng.integers(len(self.pictures)))
        # nearly all are bad: whoever takes the batch will stop
        return (
            np.zeros((1, 1, 3), np.uint8),
            index,
        )


class Batches(Sampler):
    """(epoch, indices) of this process for each iteration from ``start`` to the end of
    the last epoch.

    An epoch is a permutation of the pictures, cut into batches that are shared out over the
    processes in the order of their ranks; the pictures that do not fill a batch wait for
    the next epoch.
    """

    def __init__(
        self,
        pictures: int,
        recipe: Recipe,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        self.pictures, self.recipe, self.seed, self.start = pictures, recipe, seed, start
        self.rank, self.world = rank, world
        self.per_epoch = pictures // recipe.batch
        self.total = self.per_epoch * recipe.epochs

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        share = self.recipe.batch // self.world
        for epoch in range(self.start // self.per_epoch, self.recipe.epochs):
            order = generator(ORDER, self.seed, epoch).permutation(self.pictures)
            for i in range(max(0, self.start - epoch * self.per_epoch), self.per_epoch):
                first = i * self.recipe.batch + self.rank * share
                yield epoch, order[first : first + share].tolist()


def loader(dataset: Views, batches: Batches, cuda: bool, processes_here: int = 1) -> Iterator[dict]:
    """The batches, made by the recipe's number of worker processes, or by as many as there is
    shared memory for. Raises TrainingError where one of them dies or hangs."""
    workers = dataset.recipe.workers
    if workers < 0:  # a CPU has training to do
        workers = min(16, (os.cpu_count() or 1) // processes_here) if cuda else 0
    if workers:
        share = dataset.recipe.batch // batches.world
        workers = loading.fitting(workers, processes_here * share * _bytes(dataset))
    made = DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        pin_memory=cuda,
        worker_init_fn=_one_thread if workers else None,
        timeout=loading.TIMEOUT if workers else 0,
    )
    return loading.batches(made)


def _bytes(dataset: Views) -> int:
    """Of what one picture becomes in a batch."""
    made = dataset[0, [0]]
    return sum(value.nbytes for value in made.values() if isinstance(value, Tensor))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
