"""k nearest neighbours: the images to train on vote for the class of each to test on."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detco.common import neighbours
from detco.common.progress import Report

from ...scoring.classes import TOP
from ...settings import Classifier

AT_ONCE = 1 << 28  # similarities that are computed together: 1 GB


def classify(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    classes: int,
    settings: Classifier,
    report: Report,
) -> dict[int, tuple[Tensor, Tensor]]:
    """For each k the best classes of each test image and their share of the votes, both (n, TOP).

    train, test: features (images, channels); labels: (images,) from 0. Cosine similarity.
    """
    train, found = F.normalize(train, dim=1), []
    step = max(1, AT_ONCE // len(train))
    for start in range(0, len(test), step):
        part = F.normalize(test[start : start + step], dim=1)
        similarity = part @ train.T
        found.append([_best(similarity, labels, k, classes, settings) for k in settings.neighbours])
        report("predict", min(start + step, len(test)), len(test))
    return {k: _joined([f[i] for f in found]) for i, k in enumerate(settings.neighbours)}


def _best(
    similarity: Tensor, labels: Tensor, k: int, classes: int, settings: Classifier
) -> tuple[Tensor, Tensor]:
    votes = neighbours.votes(similarity, labels, k, classes, settings.temperature)
    best = votes.topk(min(TOP, classes))
    return best.indices, best.values / votes.sum(1, keepdim=True).clamp_min(1e-30)


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([p[0] for p in parts]).cpu(), torch.cat([p[1] for p in parts]).cpu()
