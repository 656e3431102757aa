"""Pictures as detectors see them: decoded, resized as the protocol says, flipped, with boxes, masks
and keypoints moved along.

Which pictures an iteration sees and how they are drawn is a function of (seed, iteration) alone, so
training can go on anywhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from PIL import Image

from detco.common.errors import InputError
from detco.common.images import Range, decode_at_most, full_size, open_image, to_rgb

from ...data import masks
from ...data.dataset import Dataset
from ...data.inspection import Unreadable
from ...data.reading import short
from ...settings import Resize
from ..replacing import Broken, readable

CACHE_BYTES = 1 << 30  # resized pictures are kept in memory up to this much


@dataclass(frozen=True)
class Wanted:
    """What the detector takes: colour order, whether masks and keypoints are needed, and the number
    of the first label."""

    channel_order: str = "RGB"
    masks: bool = False
    keypoints: bool = False
    first_label: int = 1


def resized_shape(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """Shorter side to `short`, longer at most `longest`, aspect kept; rounded as Detectron2's
    ResizeShortestEdge does."""
    scale = min(short / min(height, width), longest / max(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resized(picture: Image.Image, short: int, longest: int, channel_order: str) -> np.ndarray:
    """An RGB picture as a detector takes it: (height, width, 3) uint8 in that channel
    order, see `resized_shape`."""
    height, width = resized_shape(picture.height, picture.width, short, longest)
    array = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    return array[:, :, ::-1] if channel_order == "BGR" else array


class DetectionPictures(torch.utils.data.Dataset):
    """Items by (picture number, short side, flip): (picture (3, H, W) uint8, target).

    Target: `boxes` (K, 4) float xyxy, `labels` (K,) and, where wanted, `masks` (K, H, W) uint8,
    `keypoints` (K, P, 3) float. Crowd regions are left out of the targets, as Detectron2 does.
    """

    def __init__(self, dataset: Dataset, wanted: Wanted, longest: int):
        self.dataset, self.wanted, self.longest = dataset, wanted, longest
        self.label = {c["id"]: i for i, c in enumerate(dataset.categories, wanted.first_label)}
        self.of_image: dict[int, list[dict]] = {image["id"]: [] for image in dataset.images}
        for a in dataset.annotations:
            if not a.get("iscrowd"):
                self.of_image[a["image_id"]].append(a)
        self.names = next((c["keypoints"] for c in dataset.categories if c.get("keypoints")), [])
        self.cache: dict[tuple[int, int], np.ndarray] = {}
        self.cached_bytes = 0

    def trainable(self) -> list[int]:
        """Numbers of the pictures with something to learn from (annotated; for keypoints: with a
        visible one)."""
        ids = [image["id"] for image in self.dataset.images]
        return [
            i for i, image in enumerate(ids) if any(self._useful(a) for a in self.of_image[image])
        ]

    def _useful(self, annotation: dict) -> bool:
        return not self.wanted.keypoints or any(
            v > 0 for v in annotation.get("keypoints", [])[2::3]
        )

    def __getitem__(self, key: tuple[int, int, bool]) -> tuple[torch.Tensor, dict]:
        number, short, flip = key
        pixels = self._pixels(number, short)
        image = self.dataset.images[number]
        target = self._target(image, pixels.shape[0], pixels.shape[1])
        if flip:
            pixels = pixels[:, ::-1]
            target = self._flipped(target, pixels.shape[1])
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), target

    def _pixels(self, number: int, short: int) -> np.ndarray:
        if (number, short) in self.cache:
            return self.cache[number, short]
        image = self.dataset.images[number]
        pixels = read_rgb(image["file_name"], value_range=self.dataset.value_range)
        width, height = full_size(pixels)
        if (width, height) != (image["width"], image["height"]):
            raise Unreadable(
                f"{image['file_name']} is {width} x {height} px, its annotation"
                f" says {image['width']} x {image['height']}",
                image["file_name"],
            )
        array = resized(pixels, short, self.longest, self.wanted.channel_order)
        if self.cached_bytes + array.nbytes <= CACHE_BYTES:
            self.cache[number, short] = array
            self.cached_bytes += array.nbytes
        return array

    def _target(self, image: dict, height: int, width: int) -> dict:
        sy, sx = height / image["height"], width / image["width"]
        # those without a visible keypoint have a box to learn from
        mine = self.of_image[image["id"]]
        boxes = np.array([a["bbox"] for a in mine], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": torch.from_numpy(boxes * np.array([sx, sy, sx, sy], np.float32)),
            "labels": torch.tensor([self.label[a["category_id"]] for a in mine], dtype=torch.int64),
        }
        if self.wanted.masks:
            whole = [masks.decode(a["segmentation"], image["height"], image["width"]) for a in mine]
            small = [resize_mask(mask, height, width) for mask in whole]
            target["masks"] = torch.from_numpy(np.array(small, np.uint8).reshape(-1, height, width))
        if self.wanted.keypoints:
            points = np.array([a["keypoints"] for a in mine], np.float32).reshape(
                len(mine), len(self.names), 3
            )
            points[..., 0], points[..., 1] = (
                (points[..., 0] + 0.5) * sx,
                (points[..., 1] + 0.5) * sy,
            )
            target["keypoints"] = torch.from_numpy(points)
        return target

    def _flipped(self, target: dict, width: int) -> dict:
        x0, y0, x1, y1 = target["boxes"].unbind(1)
        flipped = target | {"boxes": torch.stack([width - x1, y0, width - x0, y1], 1)}
        if "masks" in target:
            flipped["masks"] = target["masks"].flip(2)
        if "keypoints" in target:
            points = target["keypoints"][:, flip_order(self.names)].clone()
            points[..., 0] = torch.where(points[..., 2] > 0, width - points[..., 0], points[..., 0])
            flipped["keypoints"] = points
        return flipped


class Drawn(torch.utils.data.Dataset):
    """Items to train on by (key of `Pictures`, batch, place in the batch), each with what could not
    be read in its place."""

    def __init__(self, pictures: DetectionPictures, seed: int):
        self.pictures, self.dataset, self.seed = pictures, pictures.dataset, seed

    def __getitem__(
        self, key: tuple[tuple[int, int, bool], int, int]
    ) -> tuple[tuple | None, list[Broken]]:
        (number, size, flip), batch, place = key
        return readable(
            lambda other: self.pictures[other, size, flip],
            number,
            self.others,
            (self.seed, batch, place),
        )

    def others(self, number: int) -> list[int]:
        """What may take a picture's place: as wide or as tall as the rest of its batch."""
        tall = [image["height"] > image["width"] for image in self.dataset.images]
        others = [other for other in self.pictures.trainable() if other != number]
        return [other for other in others if tall[other] == tall[number]] or others


class Tested(torch.utils.data.Dataset):
    """Items of `Pictures` to test on; what cannot be read is given as the error: raised in a
    loading process, it would arrive as that one's traceback."""

    def __init__(self, pictures: DetectionPictures):
        self.pictures, self.dataset = pictures, pictures.dataset

    def __getitem__(self, key: tuple[int, int, bool]) -> tuple | Unreadable:
        try:
            return self.pictures[key]
        except Unreadable as error:
            return error


def read_rgb(path: str, most: int = 0, value_range: Range | None = None) -> Image.Image:
    """A picture as 8-bit RGB, upright, see detco.common.images. Raises Unreadable.

    most: pixels that are decoded, 0: as many as `open_image` gives. A JPEG with more is reduced by
    its decoder, any other picture refused. value_range: of the data set, for more than 8 bits."""
    try:
        with open_image(path) as picture:
            if most and not decode_at_most(most, picture):
                found, allowed = picture.width * picture.height / 1e6, most / 1e6
                raise ValueError(f"{found:.0f} megapixels, at most {allowed:.0f} here; reduce it")
            picture.load()
            return to_rgb(picture, value_range)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds on broken files
        raise Unreadable(f"cannot read the picture {path}: {short(error)}", str(path)) from None


def flip_order(names: list[str]) -> list[int]:
    """Where each keypoint goes under a mirror: left_x and right_x change places."""
    swap = {"left": "right", "right": "left"}
    partner = [next((n.replace(a, b) for a, b in swap.items() if a in n), n) for n in names]
    return [names.index(p) if p in names else i for i, p in enumerate(partner)]


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def batches(
    pictures: DetectionPictures, resize: Resize, images: int, seed: int, start: int
) -> Iterator[list[tuple[int, int, bool]]]:
    """Keys of endless training batches from iteration `start` on: shuffled passes over the
    trainable pictures, each flipped with p = 0.5 and at one of the protocol's sizes; a batch holds
    either wide or tall pictures, as Detectron2 groups them. Raises InputError if there is nothing
    to train on."""
    numbers = pictures.trainable()
    if not numbers:
        what = "visible keypoints" if pictures.wanted.keypoints else "annotations"
        raise InputError(
            f"{pictures.dataset.root}: no picture of split {pictures.dataset.split} has {what}"
        )
    tall = [image["height"] > image["width"] for image in pictures.dataset.images]
    waiting: dict[bool, list] = {False: [], True: []}
    made = 0
    for epoch in count():
        draw = np.random.default_rng((seed, epoch))
        order, shorts = (
            draw.permutation(numbers).tolist(),
            draw.choice(resize.train, len(numbers)).tolist(),
        )
        for key in zip(order, shorts, (draw.random(len(numbers)) < 0.5).tolist()):
            group = waiting[tall[key[0]]]
            group.append(key)
            if len(group) == images:
                if made >= start:
                    yield list(group)
                made += 1
                group.clear()


def placed(keys: Iterable[Sequence], start: int) -> Iterator[list[tuple]]:
    """Keys of batches from batch `start` on as keys of `Drawn`."""
    for batch, keys_of_one in enumerate(keys, start):
        yield [(key, batch, place) for place, key in enumerate(keys_of_one)]
