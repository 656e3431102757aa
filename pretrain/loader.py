"""Batches of cut views: which pictures, in which order, drawn how -- all functions of seed, epoch and picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pretrain import views
from pretrain.images import Pictures, decode
from pretrain.recipes import Recipe

# First word of a seed: what the numbers are for. No other random state exists, so nothing has to be stored to go on.
ORDER, PICTURE, SHUFFLE = 1, 2, 3


def generator(purpose: int, seed: int, *where: int) -> np.random.Generator:
    return np.random.default_rng((purpose, seed, *where))


class Views(Dataset):
    """(epoch, indices) -> batch: ``name`` uint8 (n, [9,] 3, h, w), ``name_draws`` (n [* 9], DRAWS), ``label`` (n,).

    Decoded pictures are kept in memory up to the recipe's ``cache_gb``.
    """

    def __init__(self, pictures: Pictures, recipe: Recipe, seed: int):
        self.recipe, self.seed = recipe, seed
        self.cache: dict[str, np.ndarray] = {}
        self.room = int(recipe.cache_gb * 2**30)
        self.use(pictures)

    def use(self, pictures: Pictures) -> None:
        """Take the pictures that were found to be good."""
        self.pictures = pictures
        classes = {name: label for label, name in enumerate(pictures.classes)}
        self.labels = [classes.get(name.split("/", 1)[0], -1) for name in pictures.names]

    def read(self, index: int) -> np.ndarray:
        """uint8 (h, w, 3), from memory if it is there. Raises BadPicture."""
        name = self.pictures.names[index]
        if name not in self.cache:
            picture = decode(self.pictures.path(index), self.recipe.load_size)
            self.room -= picture.nbytes
            if self.room < 0:
                return picture
            self.cache[name] = picture
        return self.cache[name]

    def __getitem__(self, item: tuple[int, list[int]]) -> dict[str, Tensor]:
        epoch, indices = item
        rows = [self._row(epoch, index) for index in indices]
        batch = {name: torch.stack([cut[name] for cut, _ in rows]) for name in rows[0][0]}
        for name in rows[0][1]:
            batch[f"{name}_draws"] = torch.from_numpy(np.concatenate([draws[name] for _, draws in rows]))
        if self.recipe.method == "supervised":
            batch["label"] = torch.tensor([self.labels[index] for index in indices])
        return batch

    def _row(self, epoch: int, index: int) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
        rng = generator(PICTURE, self.seed, epoch, index)
        picture = torch.from_numpy(self.read(index)).permute(2, 0, 1)
        return views.cut(picture, self.recipe, rng), views.draw(self.recipe, rng)


class Batches(Sampler):
    """(epoch, indices) of this process for each iteration from ``start`` to the end of the last epoch.

    An epoch is a permutation of the pictures, cut into batches that are shared out over the processes in the order of
    their ranks; the pictures that do not fill a batch wait for the next epoch.
    """

    def __init__(self, pictures: int, recipe: Recipe, seed: int, start: int = 0, rank: int = 0, world: int = 1):
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


def loader(dataset: Views, batches: Batches, pin_memory: bool = False) -> DataLoader:
    workers = dataset.recipe.workers
    return DataLoader(dataset, batch_size=None, sampler=batches, num_workers=workers, pin_memory=pin_memory,
                      worker_init_fn=_one_thread if workers else None)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
