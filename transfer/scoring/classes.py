"""Classes of whole images: accuracy where each image has one, average precision where it may have
several.

A prediction is {"image_id", "classes" (ids of categories, best first), "scores" (as many, falling)}
and, where a run gives several answers for each image, "answer": the metric that it counts for.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ..data import fields
from ..data.dataset import Dataset
from ..data.reading import numbers
from . import voc

TOP = 5  # classes that top-5 looks at


def fault(entry: dict, images: Mapping, categories: Mapping) -> str:
    """What is wrong with one prediction; "" if nothing."""
    image_id, classes = entry.get("image_id"), entry.get("classes")
    if not fields.is_id(image_id) or image_id not in images:
        return f"image_id {fields.found(image_id)} is not in the test split"
    if not isinstance(classes, list) or not classes or len(set(map(str, classes))) < len(classes):
        return "classes must be a list of different ids of categories"
    unknown = [c for c in classes if not fields.is_id(c) or c not in categories]
    if unknown:
        return f"class {fields.found(unknown[0])} is not among the categories"
    if not numbers(entry.get("scores"), len(classes)):
        return "scores must be one finite number for each class"
    return "" if isinstance(entry.get("answer", ""), str) else "answer must be a text"


def perfect(dataset: Dataset) -> list[dict]:
    """The right answer for every image."""
    found: dict[int, list[int]] = {image["id"]: [] for image in dataset.images}
    for a in dataset.annotations:
        if a["category_id"] not in found[a["image_id"]]:
            found[a["image_id"]].append(a["category_id"])
    return [
        {"image_id": image, "classes": classes, "scores": [1.0] * len(classes)}
        for image, classes in found.items()
        if classes
    ]


def accuracy(
    dataset: Dataset, predictions: list[dict], metrics: tuple[str, ...]
) -> dict[str, float]:
    """The scorer `accuracy`, percent: `top1` and `top5` (NaN for up to five classes), or the top-1
    accuracy of each answer under its name. An image without a prediction counts as wrong."""
    truth = {a["image_id"]: a["category_id"] for a in dataset.annotations}
    result = {}
    for answer, found in _by_answer(predictions).items():
        places = [e["classes"].index(truth[e["image_id"]]) for e in found if _holds(e, truth)]
        first = 100 * sum(place == 0 for place in places) / len(truth)
        if answer:
            result[answer] = first
            continue
        top = 100 * sum(place < TOP for place in places) / len(truth)
        result |= {"top1": first, "top5": top if len(dataset.categories) > TOP else np.nan}
    return result


def average_precision(
    dataset: Dataset, predictions: list[dict], metrics: tuple[str, ...]
) -> dict[str, float]:
    """The scorer `class-ap`, percent: `svm_map`, the mean over classes, and `svm_map/NAME` of each;
    or the mean of each answer under its name.

    Area under the monotone curve over all images, as the SVM benchmark has it (VOC 2007 took 11
    points of it). An image with difficult objects of a class alone is left out for that class; a
    class without positives has no AP.
    """
    truth = targets(dataset, dataset.images)
    result = {}
    for answer, found in _by_answer(predictions).items():
        scores = _matrix(dataset, found)
        each = [100 * of_class(truth[:, i], scores[:, i]) for i in range(truth.shape[1])]
        defined = [value for value in each if not np.isnan(value)]
        result[answer or "svm_map"] = float(np.mean(defined)) if defined else np.nan
        if not answer:
            names = (category["name"] for category in dataset.categories)
            result |= {f"svm_map/{name}": value for name, value in zip(names, each, strict=True)}
    return result


def of_class(target: np.ndarray, scores: np.ndarray) -> float:
    """AP of one class, 0..1. target (images,): see `targets`; scores (images,)."""
    target, scores = target[target >= 0], scores[target >= 0]
    if not target.any():
        return np.nan
    hits = np.cumsum(target[np.argsort(-scores, kind="stable")])
    return voc.area_under(hits / hits[-1], hits / np.arange(1, len(hits) + 1))


def targets(dataset: Dataset, images: Sequence[dict]) -> np.ndarray:
    """(images, categories) int8: 1 where an object of the class is there, 0 where none is, -1 where
    there are difficult ones (or groups) only."""
    row = {image["id"]: i for i, image in enumerate(images)}
    column = {category["id"]: i for i, category in enumerate(dataset.categories)}
    found = np.zeros((len(row), len(column)), np.int8)
    for a in dataset.annotations:
        if a["image_id"] in row:
            place = row[a["image_id"]], column[a["category_id"]]
            if not (a.get("difficult") or a["iscrowd"]):
                found[place] = 1
            elif not found[place]:
                found[place] = -1
    return found


def _matrix(dataset: Dataset, predictions: Sequence[dict]) -> np.ndarray:
    """Scores (images, categories); what was not predicted comes last."""
    row = {image["id"]: i for i, image in enumerate(dataset.images)}
    column = {category["id"]: i for i, category in enumerate(dataset.categories)}
    scores = np.full((len(row), len(column)), -np.inf)
    for entry in predictions:
        scores[row[entry["image_id"]], [column[c] for c in entry["classes"]]] = entry["scores"]
    return scores


def _holds(entry: dict, truth: Mapping) -> bool:
    return truth[entry["image_id"]] in entry["classes"]


def _by_answer(predictions: Sequence[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for entry in predictions:
        found.setdefault(entry.get("answer", ""), []).append(entry)
    return found or {"": []}
