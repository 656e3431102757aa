"""The check of a backbone while it trains: k-nearest-neighbour accuracy on a folder
of labelled pictures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detco.common import neighbours
from detco.common.errors import InputError
from detco.common.images import Range
from detco.common.resnet import IMAGENET_MEAN, IMAGENET_STD

from .data import listing, views
from .data.decoding import BadPicture, decode

# as usual for features of contrastive methods (arXiv 1805.01978); there k is 200
NEIGHBOURS = 20
AT_MOST = 5000  # pictures, spread over the folder


class Probe:
    """Pictures of the classes under ``folder`` (a subfolder each), read once; call it with a trunk
    for its accuracy.

    Raises InputError if there are fewer than two classes or a class has a single picture.
    """

    def __init__(self, folder: Path, size: int, value_range: Range | None = None):
        found = listing.find(Path(folder))
        found = found.only(range(0, len(found), -(-len(found) // AT_MOST)))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            paths = [found.path(index) for index in range(len(found))]
            read = list(pool.map(lambda path: _whole(path, size, value_range), paths))
        good = [index for index, picture in enumerate(read) if picture is not None]
        classes, labels, counts = np.unique(
            [found.names[i].split("/", 1)[0] if "/" in found.names[i] else "" for i in good],
            return_inverse=True,
            return_counts=True,
        )
        if len(classes) < 2 or counts.min() < 2 or "" in classes:
            raise InputError(
                f"{folder}: the probe needs at least two subfolders (classes) of at least two"
                " pictures"
            )
        self.images = torch.stack([read[index] for index in good])
        self.labels = torch.from_numpy(labels.reshape(-1))

    @torch.no_grad()
    def __call__(self, trunk: nn.Module, device: torch.device, batch: int = 256) -> float:
        """How many percent of the pictures have the class that their nearest others vote for, by
        features of res5."""
        mean, std = (
            torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
        )
        training = trunk.training
        trunk.eval()
        try:
            features = [
                trunk((x.to(device).float() - mean) / std)[-1].mean((2, 3))
                for x in self.images.split(batch)
            ]
        finally:
            trunk.train(training)
        return vote(torch.cat(features).float(), self.labels.to(device))


def _whole(path: Path, size: int, value_range: Range | None) -> Tensor | None:
    """The largest centred square of a picture as uint8 (3, size, size); None if it
    cannot be read."""
    try:
        picture = torch.from_numpy(decode(path, size, value_range)).permute(2, 0, 1)
    except BadPicture:
        return None
    h, w = picture.shape[1:]
    side = min(h, w)
    return views.resized_crop(picture, ((h - side) // 2, (w - side) // 2, side, side), size)


def vote(features: Tensor, labels: Tensor, k: int = NEIGHBOURS) -> float:
    """Weighted k-nearest-neighbour accuracy in percent, each of the n features (n, d) classified by
    the n - 1 others.

    The k nearest by cosine similarity s vote for their labels, (n,), with the weight exp(s / 0.07).
    """
    features = F.normalize(features, dim=1)
    n, right = len(features), 0
    k = min(k, n - 1)
    for start in range(0, n, 1024):
        rows = torch.arange(start, min(start + 1024, n), device=features.device)
        similarity = features[rows] @ features.T
        similarity[torch.arange(len(rows)), rows] = -torch.inf  # not itself
        votes = neighbours.votes(similarity, labels, k, int(labels.max()) + 1)
        right += (votes.argmax(1) == labels[rows]).sum().item()
    return 100 * right / n
