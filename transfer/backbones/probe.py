"""A dense linear probe: how well a linear classifier tells, from the features at a position, which
class of object lies there. Nothing is fine-tuned; it takes seconds."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from detco.common import networks
from detco.common.backbone_file import Backbone
from detco.common.errors import InputError
from detco.common.images import Range
from detco.common.progress import Report

from ..data.dataset import Dataset
from ..engines.torchvision.pictures import read_rgb
from ..engines.torchvision.trunks import STRIDES, DetectorTrunk

ALL = "all levels"
LEVELS = (*STRIDES, "last", ALL)
SIZE = 128  # pixels: images are stretched to this square
IMAGES = 600  # at most, evenly over the data set; every second one is tested on
RIDGE = 10.0  # strength of the squared penalty, features being of unit variance
BATCH = 64


def dense_probe(
    backbones: Sequence[Backbone], dataset: Dataset, report: Report | None = None
) -> list[dict[str, float]]:
    """Balanced accuracy in percent of each backbone at res2 .. res5 (a vision transformer's: last)
    and of all levels together.

    Positions lie on a grid of 16 pixels over images of SIZE x SIZE; their class is that of the
    smallest box around them, or none, which is a class, too. A classifier by ridge regression,
    classes weighted alike, learns from every second image and is tested on the others. Chance is
    100 / (classes + 1). Raises InputError for fewer than 4 images and for those that cannot be
    read.
    """
    step = max(1, -(-len(dataset.images) // IMAGES))
    chosen = dataset.images[::step]
    if len(chosen) < 4:
        raise InputError(f"{dataset.root}: a probe needs at least 4 images, not {len(chosen)}")
    pixels = np.stack([_square(image["file_name"], dataset.value_range) for image in chosen])
    labels = grid_labels(dataset, chosen)
    tested = np.arange(len(chosen)) % 2 == 1
    found = []
    for number, backbone in enumerate(backbones):
        features = grid_features(backbone, pixels)
        features[ALL] = np.concatenate(list(features.values()), -1)
        found.append(
            {
                level: balanced_accuracy(
                    values[~tested], labels[~tested], values[tested], labels[tested]
                )
                for level, values in features.items()
            }
        )
        if report is not None:
            report("probe", number + 1, len(backbones))
    return found


def _square(path: str, value_range: Range | None) -> np.ndarray:
    picture = read_rgb(path, value_range=value_range)
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=3.0))


def _centres() -> np.ndarray:
    """The positions along a side, in pixels."""
    return np.arange(8, SIZE, 16)


def grid_labels(dataset: Dataset, images: Sequence[dict]) -> np.ndarray:
    """(N, positions) whole numbers: 0 for none, else the place of the class in
    `dataset.categories`, from 1."""
    number = {category["id"]: i for i, category in enumerate(dataset.categories, 1)}
    boxes: dict = {}
    for one in dataset.annotations:
        boxes.setdefault(one["image_id"], []).append((one["bbox"], number[one["category_id"]]))
    y, x = np.meshgrid(_centres(), _centres(), indexing="ij")
    labels = np.zeros((len(images), *x.shape), np.int64)
    for row, image in zip(labels, images):
        own = boxes.get(image["id"], [])
        sx, sy = SIZE / image["width"], SIZE / image["height"]
        for (left, top, width, height), label in sorted(own, key=lambda b: -b[0][2] * b[0][3]):
            inside = (x >= left * sx) & (x < (left + width) * sx)
            row[inside & (y >= top * sy) & (y < (top + height) * sy)] = label
    return labels.reshape(len(images), -1)


@torch.inference_mode()
def grid_features(backbone: Backbone, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Features (N, positions, channels) of each level at the cell that holds the position; pixels:
    (N, SIZE, SIZE, 3) uint8 RGB."""
    trunk, strides = _trunk(backbone)
    order = [2, 1, 0] if backbone.channel_order == "BGR" else [0, 1, 2]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    parts: dict[str, list[Tensor]] = {level: [] for level in strides}
    for start in range(0, len(pixels), BATCH):
        batch = torch.from_numpy(pixels[start : start + BATCH]).permute(0, 3, 1, 2)[:, order]
        for level, maps in trunk((batch.float() - mean) / std).items():
            cells = torch.from_numpy(_centres() // strides[level])
            parts[level].append(maps[:, :, cells][..., cells].flatten(2).transpose(1, 2))
    return {level: torch.cat(found).numpy() for level, found in parts.items()}


def _trunk(backbone: Backbone) -> tuple[nn.Module, dict[str, int]]:
    """(network that gives the maps, their strides)"""
    strides = {name: level.stride for name, level in networks.levels_of(backbone).items()}
    if backbone.family == networks.RESNET:
        return DetectorTrunk(backbone, tuple(strides)).eval(), strides
    from detco.common.networks.levels import Levels

    net = Levels(backbone)
    net.set_size((SIZE, SIZE))
    return net.eval(), strides


def balanced_accuracy(
    features: np.ndarray, labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray
) -> float:
    """Mean over the classes of the share (percent) of their test positions that a ridge classifier
    gets right; features (..., channels), labels (...)."""
    x, y = features.reshape(-1, features.shape[-1]).astype(np.float64), labels.ravel()
    weights, mean, std = ridge(x, y)
    z = (test_features.reshape(len(test_labels.ravel()), -1) - mean) / std
    chosen = (np.concatenate([z, np.ones((len(z), 1))], 1) @ weights).argmax(1)
    truth = test_labels.ravel()
    classes = np.intersect1d(np.unique(y), np.unique(truth))
    return float(np.mean([100 * (chosen[truth == c] == c).mean() for c in classes]))


def ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One-hot ridge regression, all classes of one weight: (channels + 1, classes), and the mean
    and standard deviation that features are normalised by."""
    mean, std = x.mean(0), x.std(0) + 1e-6
    z = np.concatenate([(x - mean) / std, np.ones((len(x), 1))], 1)
    counts = np.bincount(y)
    weight = (len(y) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[y][:, None]
    penalty = RIDGE * np.eye(z.shape[1])
    penalty[-1, -1] = 0
    target = np.eye(len(counts))[y]
    return np.linalg.solve((z * weight).T @ z + penalty, (z * weight).T @ target), mean, std
