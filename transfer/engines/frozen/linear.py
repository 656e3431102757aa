"""A linear classifier on frozen features, trained as the papers do: SGD on whole batches, the rate
dropped at some epochs, from features of random parts of the images or of their centres."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from detco.common.errors import TrainingError
from detco.common.files import write_atomic
from detco.common.progress import Report

from ...data.dataset import Dataset as Labelled
from ...scoring.classes import TOP
from ...settings import Schedule
from .. import replacing
from ..replacing import Broken, Replaced
from ..torchvision.pictures import read_rgb
from .features import PooledTrunk, loaded, pixels, random_crop
from .processes import Share

CHECKPOINT_SECONDS = 60
log = logging.getLogger("detco.transfer")
# (epoch, numbers of images) of each of some batches -> features and labels of each
Source = Callable[[list[tuple[int, list[int]]]], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Training:
    """What the training depends on. images: how many there are; out: folder of the checkpoint."""

    schedule: Schedule
    seed: int
    images: int
    out: Path
    share: Share
    replaced: Replaced


def batches(images: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """All images in an order of their own for each epoch, `size` at a time, the last ones too."""
    order = np.random.default_rng((seed, epoch)).permutation(images).tolist()
    return [order[start : start + size] for start in range(0, images, size)]


def fit(source: Source, channels: int, classes: int, work: Training, report: Report) -> nn.Linear:
    """A trained classifier of features (n, channels). It goes on from its checkpoint if there is
    one. Raises TrainingError where the loss is not finite."""
    schedule, where = work.schedule, torch.device(work.share.device)
    torch.manual_seed(work.seed)
    layer = nn.Linear(channels, classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    layer.to(where)
    optimizer = _optimizer(layer, schedule)
    done = _restore(work, layer, optimizer)
    work.share.wait()  # no checkpoint is written before all have read it
    each = -(-work.images // schedule.images)
    saved = time.monotonic()
    for epoch in range(done // each, schedule.epochs):
        optimizer.param_groups[0]["lr"] = lr = schedule.lr * schedule.decayed(epoch)
        todo = batches(work.images, schedule.images, work.seed, epoch)[done % each :]
        own = [(epoch, work.share.own(batch)) for batch in todo]
        for batch, (features, labels) in zip(todo, source(own), strict=True):
            loss = _step(layer, optimizer, features, labels, len(batch), work.share)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"loss not finite at iteration {done}: {loss}; lower schedule.lr"
                )
            done += 1
            report("train", done, each * schedule.epochs, loss=loss, lr=lr)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(work, layer, optimizer, done)
                saved = time.monotonic()
    return layer


def _optimizer(layer: nn.Linear, schedule: Schedule) -> torch.optim.Optimizer:
    parameters, decay = layer.parameters(), schedule.weight_decay
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(parameters, schedule.lr, weight_decay=decay)
    return torch.optim.SGD(parameters, schedule.lr, schedule.momentum, weight_decay=decay)


def _step(
    layer: nn.Linear,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    images: int,
    share: Share,
) -> float:
    """One update by the mean over a batch of `images` over all processes; returns its loss."""
    loss = functional.cross_entropy(layer(features), labels, reduction="sum") / images
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parts = [p.grad for p in layer.parameters() if p.grad is not None]
    flat = torch.cat([loss.detach().view(1), *(part.flatten() for part in parts)])
    share.sum(flat)
    for part, whole in zip(parts, flat[1:].split([part.numel() for part in parts])):
        part.copy_(whole.view_as(part))
    optimizer.step()
    return float(flat[0])


def _save(work: Training, layer: nn.Linear, optimizer, done: int) -> None:
    if work.share.rank == 0:
        state = {"layer": layer.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
        state["replaced"] = work.replaced.state_dict()
        write_atomic(work.out / "checkpoint.pt", partial(torch.save, state))


def _restore(work: Training, layer: nn.Linear, optimizer) -> int:
    """Updates that are done."""
    path = work.out / "checkpoint.pt"
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        layer.load_state_dict(state["layer"])
        optimizer.load_state_dict(state["optimizer"])
        done = int(state["done"])
    except Exception as error:  # a damaged disk, or a file of something else
        log.warning("%s cannot be read (%s); training begins anew", path, error)
        return 0
    work.replaced.load_state_dict(state.get("replaced", {}))
    return done


def centres(features: Tensor, labels: Tensor, share: Share) -> Source:
    """Features (images, channels) that have been computed, the same in every epoch."""

    def source(todo: list[tuple[int, list[int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        for _, numbers in todo:
            yield features[numbers].to(share.device), labels[numbers].to(share.device)

    return source


@dataclass
class Crops(Dataset):
    """Random parts of training images by (epoch, number): the part as (3, crop, crop) uint8 with
    the image's number, which is another one where that cannot be read; see `replacing.readable`."""

    dataset: Labelled
    crop: int
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> tuple[tuple[Tensor, int] | None, list[Broken]]:
        epoch, number = key
        others = range(len(self.dataset.images))

        def read(number: int) -> tuple[Tensor, int]:
            path = self.dataset.images[number]["file_name"]
            picture = read_rgb(path, value_range=self.dataset.value_range)
            part = random_crop(picture, self.crop, (self.seed, epoch, number))
            return pixels(part), number

        return replacing.readable(read, number, lambda _: others, (self.seed, epoch, number))


def crops(items: Crops, labels: Tensor, trunk: PooledTrunk, work: Training) -> Source:
    """Features of random parts, computed anew in each epoch."""
    where = torch.device(work.share.device)

    def source(todo: list[tuple[int, list[int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        keys = [[(epoch, number) for number in numbers] for epoch, numbers in todo]
        for found in loaded(items, keys, items.crop):
            parts, broken = replacing.items_of(found)
            work.replaced.add(broken)
            numbers = [number for _, number in parts]
            none = torch.empty(0, 3, items.crop, items.crop)  # fewer images than processes
            images = torch.stack([part for part, _ in parts]) if parts else none
            yield trunk(images.to(where)), labels[numbers].to(where)

    return source


@torch.no_grad()
def best(layer: nn.Linear, features: Tensor) -> tuple[Tensor, Tensor]:
    """The best classes of each image and their probabilities, (n, TOP) each."""
    device = layer.weight.device
    parts = [layer(part.to(device)).softmax(1).cpu() for part in features.split(4096)]
    found = torch.cat(parts).topk(min(TOP, layer.out_features))
    return found.indices, found.values
