"""Instance AP and mean IoU as Cityscapes defines them: cityscapesScripts on counts of
pixels made here.

Its readers and writers of files are left aside: they fail with current numpy and leave files in the
working directory.
"""

import copy
import importlib
from collections.abc import Iterable

import numpy as np
from pycocotools import mask as rle

from detco.common.errors import InputError
from detco.common.images import open_image

from ..data.cityscapes import LABELS, SEMANTIC, truth
from ..data.dataset import Dataset


def cityscapes_metrics(
    dataset: Dataset, predictions: list[dict], metrics: tuple[str, ...]
) -> dict[str, float]:
    """The scorer `cityscapes`: mean IoU where the classes of pixels were asked for, else AP."""
    own = mean_iou if "semantic" in metrics else instance_ap
    return own(dataset, predictions)


def instance_ap(dataset: Dataset, predictions: list[dict]) -> dict[str, float]:
    """mask_ap, mask_ap50 and mask_ap/NAME in percent: AP over IoU 0.50:0.05:0.95 of the 8 classes
    with instances.

    predictions: COCO results with `segmentation` (RLE) and Cityscapes' label ids as `category_id`.
    """
    official = _official("evalInstanceLevelSemanticLabeling")
    args = copy.copy(official.args)
    official.setInstanceLabels(args)
    of_image = _by_image(dataset, predictions)
    matches = {
        str(image["id"]): _match(image, of_image[image["id"]], args.instLabels)
        for image in dataset.images
    }
    table = np.array(
        [
            [
                [_ap(official, matches, args, name, iou) for iou in args.overlaps]
                for name in args.instLabels
            ]
        ]
    )
    with np.errstate(invalid="ignore"):
        averages = official.computeAverages(table, args)
    result = {"mask_ap": averages["allAp"], "mask_ap50": averages["allAp50%"]}
    result |= {f"mask_ap/{name}": averages["classes"][name]["ap"] for name in args.instLabels}
    return {key: 100 * float(value) for key, value in result.items()}


def _ap(official, matches: dict, args, name: str, iou: float) -> float:
    args = copy.copy(args)
    args.instLabels, args.overlaps = [name], [iou]
    try:
        return float(official.evaluateMatches(matches, args)[0, 0, 0])
    except IndexError:  # there are objects, and every prediction lies where nothing is scored
        return 0.0


def _match(image: dict, predictions: list[dict], names: list[str]) -> dict:
    """One picture's objects and predictions, each with the other's it overlaps, as evaluateMatches
    takes them."""
    from cityscapesscripts.evaluation.instances2dict import instances2dict
    from cityscapesscripts.helpers.labels import id2label, labels

    path = str(truth(image["file_name"], "instanceIds"))
    ids = _ids(path)
    (found,) = instances2dict([path]).values()
    objects = {name: [{**one, "matchedPred": []} for one in found[name]] for name in names}
    predicted = {name: [] for name in names}
    void = np.isin(ids, [label.id for label in labels if label.ignoreInEval])
    for number, entry in enumerate(predictions):
        mask = rle.decode(entry["segmentation"]).astype(bool)
        name = id2label[entry["category_id"]].name
        if not mask.any():
            continue
        one = {
            "imgName": number,
            "predID": number,
            "labelID": entry["category_id"],
            "confidence": entry["score"],
        }
        one |= {
            "pixelCount": int(mask.sum()),
            "voidIntersection": int((void & mask).sum()),
            "matchedGt": [],
        }
        shared = dict(zip(*map(np.ndarray.tolist, np.unique(ids[mask], return_counts=True))))
        for truth_object in objects[name]:
            pixels = shared.get(truth_object["instID"], 0)
            if pixels:
                plain = {key: value for key, value in truth_object.items() if key != "matchedPred"}
                one["matchedGt"].append({**plain, "intersection": pixels})
                truth_object["matchedPred"].append({**one, "intersection": pixels})
        predicted[name].append(one)
    return {"groundTruth": objects, "prediction": predicted}


def mean_iou(dataset: Dataset, predictions: list[dict]) -> dict[str, float]:
    """miou and miou/NAME in percent over the 19 classes.

    predictions: a mask (`segmentation`, RLE) for each class and picture; a pixel in none of them
    counts as missed."""
    official = _official("evalPixelLevelSemanticLabeling")
    args = copy.copy(official.args)
    confusion = official.generateMatrix(args)
    of_image = _by_image(dataset, predictions)
    for image in dataset.images:
        ids = _ids(truth(image["file_name"], "labelIds"))
        said = np.zeros(ids.shape, np.int64)
        for entry in of_image[image["id"]]:
            said[rle.decode(entry["segmentation"]).astype(bool)] = entry["category_id"]
        pairs = np.bincount((ids.astype(np.int64) * LABELS + said).ravel(), minlength=LABELS**2)
        confusion += pairs.reshape(LABELS, LABELS).astype(confusion.dtype)
    scores = {
        name: official.getIouScoreForLabel(label, confusion, args)
        for label, name in SEMANTIC.items()
    }
    result = {"miou": official.getScoreAverage(scores, args)} | {
        f"miou/{name}": value for name, value in scores.items()
    }
    return {key: 100 * float(value) for key, value in result.items()}


def _official(name: str):
    try:
        return importlib.import_module(f"cityscapesscripts.evaluation.{name}")
    except ImportError as error:
        raise InputError(
            f"scoring Cityscapes needs cityscapesScripts: pip install cityscapesscripts ({error})"
        ) from None


def _by_image(dataset: Dataset, predictions: Iterable[dict]) -> dict[int, list[dict]]:
    of_image = {image["id"]: [] for image in dataset.images}
    for entry in predictions:
        of_image[entry["image_id"]].append(entry)
    return of_image


def _ids(path) -> np.ndarray:
    with open_image(path) as picture:
        return np.asarray(picture)
