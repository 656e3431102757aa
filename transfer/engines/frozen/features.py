"""Features of whole images: a level of the frozen backbone, averaged over the image."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as transform

from detco.common import loading
from detco.common.backbone_file import Backbone
from detco.common.errors import InputError
from detco.common.progress import Report

from ...data.dataset import Dataset as Labelled
from ...data.inspection import Unreadable
from ...settings import Resize
from .. import EngineJob, replacing
from ..replacing import Replaced
from ..torchvision.pictures import read_rgb
from ..torchvision.trunks import alone, channels

PRECISIONS: dict[str | bool, torch.dtype | None] = {
    "": None,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class PooledTrunk(nn.Module):
    """Images (N, 3, H, W) RGB uint8 -> features (N, channels) float32. It has no gradient, and its
    running statistics are used, not changed."""

    def __init__(self, backbone: Backbone, level: str, precision: torch.dtype | None = None):
        super().__init__()
        self.trunk, self.level = alone(backbone, level)
        self.trunk.requires_grad_(False)
        self.precision, self.order = precision, backbone.channel_order
        self.channels = channels(backbone)[self.level]
        self.statistics: Tensor
        statistics = torch.tensor((backbone.mean, backbone.std)).view(2, 3, 1, 1)
        self.register_buffer("statistics", statistics, persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> "PooledTrunk":
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        if self.order == "BGR":
            pixels = pixels.flip(1)
        mean, std = self.statistics
        x, device = (pixels.float() - mean) / std, pixels.device.type
        with torch.autocast(device, self.precision) if self.precision else nullcontext():
            maps = self.trunk(x)[self.level]
        return maps.float().mean((2, 3))


def centre(picture: Image.Image, resize: Resize) -> Image.Image:
    """The centre of an image: short side to `resize.test` pixels, cut to `resize.crop`."""
    return transform.center_crop(transform.resize(picture, resize.test), resize.crop)


def random_crop(picture: Image.Image, size: int, draw: Sequence[int]) -> Image.Image:
    """A random part of 8 to 100 % of an image at `size` pixels, half of them mirrored. draw: what
    the choice depends on."""
    seed = int(np.random.default_rng(tuple(draw)).integers(2**62))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        place = RandomResizedCrop.get_params(picture, (0.08, 1.0), (3 / 4, 4 / 3))
        mirrored = torch.rand(()) < 0.5
    part = transform.resized_crop(picture, *place, [size, size])
    return transform.hflip(part) if mirrored else part


@dataclass
class Centres(Dataset):
    """The centres of a data set's images by number, (3, crop, crop) uint8; `Unreadable` for an
    image that cannot be read."""

    dataset: Labelled
    resize: Resize

    def __len__(self) -> int:
        return len(self.dataset.images)

    def __getitem__(self, number: int) -> Tensor | Unreadable:
        try:
            path = self.dataset.images[number]["file_name"]
            picture = read_rgb(path, value_range=self.dataset.value_range)
            return pixels(centre(picture, self.resize))
        except Unreadable as error:
            return error


def pixels(picture: Image.Image) -> Tensor:
    """(3, height, width) uint8."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def loaded(items: Dataset, batches: Sequence[list], crop: int) -> Iterator[list]:
    """The items of each batch, made by as many processes as there are cores and room for."""
    images = max(map(len, batches), default=0)
    workers = loading.fitting(_workers(sum(map(len, batches))), images * 3 * crop * crop)
    timeout = loading.TIMEOUT if workers else 0
    return loading.batches(
        DataLoader(
            items, batch_sampler=batches, num_workers=workers, collate_fn=list, timeout=timeout
        )
    )


def _workers(images: int) -> int:
    """A few images are read before processes have started."""
    return 0 if images < 2000 else min(16, torch.get_num_threads())


@dataclass(frozen=True)
class Pooled:
    """Features of a split: `values` (n, channels) float32 and the images that they are of, those
    that could not be read left out."""

    values: Tensor
    images: tuple[dict, ...]


def of_split(
    trunk: PooledTrunk, dataset: Labelled, job: EngineJob, report: Report, replaced: Replaced | None
) -> Pooled:
    """The features of a split, of the centre of each image.

    They are kept in the job's folder while it runs, so that an interrupted one goes on. replaced:
    counts images that cannot be read; None for those to test on, which cannot be left out. Raises
    InputError.
    """
    resize, size = job.protocol.resize, job.protocol.schedule.images
    numbers = range(len(dataset.images))
    batches = [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]
    kept = Kept(job.out, "train" if replaced else "test", len(numbers))
    todo = [batch for batch in batches if not kept.done(batch)]
    count = len(numbers) - sum(map(len, todo))
    for batch, items in zip(todo, loaded(Centres(dataset, resize), todo, resize.crop)):
        if replaced:
            replaced.add([(e.path, str(e)) for e in items if isinstance(e, Unreadable)])
        else:
            replacing.refuse(items)
        good = [n for n, item in zip(batch, items) if not isinstance(item, Unreadable)]
        values = torch.empty(0, 0)
        if good:
            stack = torch.stack([item for item in items if not isinstance(item, Unreadable)])
            values = trunk(stack.to(job.device)).cpu()
        kept.keep(batch, good, values)
        count += len(batch)
        report("features", count, len(numbers))
    return kept.pooled(dataset)


class Kept:
    """Features on disk, a row an image. A row counts once its mark is set, which is done after it
    has been written: 1 for features, 2 for an image that could not be read."""

    def __init__(self, folder: Path, name: str, images: int):
        self.paths = [folder / f"features-{name}.npy", folder / f"features-{name}-done.npy"]
        self.images = images
        self.rows: np.ndarray | None = None
        self.marks = self._marks()

    def _marks(self) -> np.ndarray:
        try:
            marks = np.lib.format.open_memmap(self.paths[1], "r+")
            self.rows = np.lib.format.open_memmap(self.paths[0], "r+")
            if marks.shape == (self.images,) and len(self.rows) == self.images:
                return marks
        except (OSError, ValueError):  # none yet, or cut off when they were made
            pass
        self.rows = None
        return np.lib.format.open_memmap(self.paths[1], "w+", np.uint8, (self.images,))

    def done(self, batch: Sequence[int]) -> bool:
        return self.rows is not None and bool(self.marks[batch[0] : batch[-1] + 1].all())

    def keep(self, batch: Sequence[int], good: Sequence[int], values: Tensor) -> None:
        """values: (len(good), channels), of those of the batch that could be read."""
        if good:
            if self.rows is None:
                shape = (self.images, values.shape[1])
                self.rows = np.lib.format.open_memmap(self.paths[0], "w+", np.float32, shape)
            self.rows[list(good)] = values.numpy()
        self.marks[list(batch)] = 2
        self.marks[list(good)] = 1

    def pooled(self, dataset: Labelled) -> Pooled:
        good = np.flatnonzero(self.marks == 1)
        if self.rows is None:
            raise InputError(f"{dataset.root}: no image of '{dataset.split}' can be read")
        values = self.rows if len(good) == self.images else self.rows[good]
        return Pooled(torch.from_numpy(np.asarray(values)), tuple(dataset.images[i] for i in good))
