"""One linear SVM for each class, as the benchmark of Goyal et al. (arXiv 1905.01235) trains them:
liblinear on features of length 1, positives weighted twice, the cost picked by cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detco.common.progress import Report

from ...settings import Classifier

POSITIVE_WEIGHT, TOLERANCE, ITERATIONS = 2, 1e-4, 2000  # as in the benchmark's code
OTHERS = 19  # negatives for each positive of a few


def unit(features: np.ndarray) -> np.ndarray:
    """Features (n, channels) of length 1, as float64."""
    features = features.astype(np.float64)
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-5)


def classify(
    train: np.ndarray,
    targets: np.ndarray,
    test: np.ndarray,
    settings: Classifier,
    seed: int,
    report: Report,
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Decision values (test images, classes) for each of the protocol's answers, and the cost of
    each class.

    train, test: features (images, channels); targets (images, classes): 1 for present, 0 for
    absent, -1 for difficult objects only. The classes are done in as many threads as torch has.
    """
    from joblib import Parallel, delayed

    train, test = unit(train), unit(test)
    work = (
        delayed(_of_class)(train, y, test, settings, (seed, i)) for i, y in enumerate(targets.T)
    )
    pool = Parallel(torch.get_num_threads(), prefer="threads", return_as="generator")
    found = []
    for one in pool(work):
        found.append(one)
        report("svm", len(found), targets.shape[1])
    answers = {
        name: np.stack([values[i] for values, _ in found], 1)
        for i, name in enumerate(settings.by_shots)
    }
    return answers, [cost for _, cost in found]


def _of_class(
    train: np.ndarray,
    target: np.ndarray,
    test: np.ndarray,
    settings: Classifier,
    draw: tuple[int, int],
) -> tuple[list[np.ndarray], float]:
    """The values of a class for each answer, and its cost."""
    if settings.shots:
        rows = few(target, settings.shots, draw)
        cost = settings.costs[0]  # a single one: too few images to pick it by
        return [_fitted(train[r], target[r], cost).decision_function(test) for r in rows], cost
    cost = best_cost(train, target, settings)
    return [_fitted(train, target, cost).decision_function(test)], cost


def best_cost(train: np.ndarray, target: np.ndarray, settings: Classifier) -> float:
    """The cost with the highest mean AP over the folds; of equal ones the first."""
    from sklearn.model_selection import cross_val_score

    means = []
    for cost in settings.costs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged: the benchmark stops there, too
            scores = cross_val_score(
                _machine(cost),
                train,
                _labels(target),
                cv=settings.folds,
                scoring="average_precision",
            )
        means.append(scores.mean())
    return settings.costs[int(np.argmax(means))]


def few(target: np.ndarray, shots: Sequence[int], draw: tuple[int, int]) -> list[np.ndarray]:
    """Images to learn a class from, for each number of shots: so many positives, and as many
    negatives for each of 19 other classes, as VOC has. Fewer shots are the first of more."""
    generator = np.random.default_rng(draw)
    positive = generator.permutation(np.flatnonzero(target == 1))
    negative = generator.permutation(np.flatnonzero(target == 0))
    return [np.concatenate([positive[:n], negative[: OTHERS * n]]) for n in shots]


def _labels(target: np.ndarray) -> np.ndarray:
    """1 and -1; difficult objects alone are no positive, as in the benchmark."""
    return np.where(target == 1, 1, -1)


def _machine(cost: float) -> Any:
    from sklearn.svm import LinearSVC

    weights = {1: POSITIVE_WEIGHT, -1: 1}
    return LinearSVC(
        C=cost, class_weight=weights, tol=TOLERANCE, max_iter=ITERATIONS, dual=True, random_state=0
    )


def _fitted(train: np.ndarray, target: np.ndarray, cost: float) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _machine(cost).fit(train, _labels(target))
