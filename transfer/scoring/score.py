"""Predictions in COCO results format and ground truth -> metrics in percent, the same
for every engine."""

import contextlib
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detco.common.errors import InputError

from ..data import densepose, fields, masks
from ..data.dataset import Dataset
from ..data.reading import json_of, numbers
from . import SCORERS, classes, get, refuse_layout, voc

TYPES = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}  # pycocotools' names
BOX_STATS = ("ap", "ap50", "ap75", "aps", "apm", "apl")
KEYPOINT_STATS = ("ap", "ap50", "ap75", "apm", "apl")
# where keypoints are not 17 and their category states no `sigmas`; COCO's are .025 to .107
KEYPOINT_SIGMA = 0.05


def score(
    dataset: Dataset,
    predictions: list[dict],
    scorer: str = "coco",
    metrics: tuple[str, ...] = ("box",),
    where: str = "predictions",
) -> dict[str, float]:
    """Metrics in percent, e.g. box_ap, box_ap50, box_ap75, box_aps, box_apm, box_apl, and
    box_ap/NAME a category.

    predictions: {"image_id", "category_id", "score", "bbox" [x, y, w, h] 0-based, "segmentation"
        compressed RLE, "keypoints" [x, y, v, ...], "densepose" (detco.transfer.data.densepose)},
        what the metrics need of it. None at all score 0.
    scorer: "coco" (pycocotools; keypoints over the categories that have them) or "voc2007",
        "voc2012": the mean over IoU 0.50:0.05:0.95 of that year's VOC metric, with Detectron2's
        rounding; boxes only; or "cityscapes" (cityscapesScripts): instance AP of masks, and miou of
        "semantic", whose predictions are a mask for each class; or "gps" (the project
        DensePose): AP of points on the body, and of boxes as "coco" has it.
    metrics: of "box", "mask", "keypoint", "densepose", "semantic"; or "class" alone, whose
        predictions are those of `classes`.
    NaN where undefined: no such objects. Categories without objects are left out of means; in that
    one case Detectron2's VOC evaluator differs: it counts them as 0 (2007) or gives NaN for
    everything (2012). `where` opens the messages. Raises InputError for predictions that do not fit
    the data set.
    """
    if scorer not in SCORERS or not set(metrics) <= set(SCORERS[scorer].metrics):
        raise ValueError(f"no scorer {scorer!r} for metrics {metrics!r}")
    refuse_layout(scorer, metrics, dataset.layout, dataset.root)
    _check(dataset, predictions, metrics, where)
    return get(scorer)(dataset, predictions, metrics)


def rehearse(dataset: Dataset, scorer: str, metrics: tuple[str, ...]) -> None:
    """Score the objects of two pictures against themselves: what cannot be scored had better be
    known before training."""
    labelled = {a["image_id"] for a in dataset.annotations if not a["iscrowd"]}
    sizes = {image["id"]: image for image in dataset.images if image["id"] in labelled}
    two = list(sizes)[:2]
    kept = tuple(a for a in dataset.annotations if a["image_id"] in two)
    dataset = replace(dataset, images=tuple(sizes[key] for key in two), annotations=kept)
    found = [_as_found(a, sizes[a["image_id"]], metrics) for a in kept if "semantic" not in metrics]
    if "class" in metrics:
        found = classes.perfect(dataset)
    score(dataset, found, scorer, metrics)


def _as_found(annotation: dict, image: dict, metrics: tuple[str, ...]) -> dict:
    """An object as a perfect prediction."""
    found = {
        key: annotation[key]
        for key in ("image_id", "category_id", "bbox", "keypoints")
        if key in annotation
    }
    if "segmentation" in annotation:
        mask = annotation["segmentation"]
        found["segmentation"] = masks.as_rle(mask, image["height"], image["width"])
    if "densepose" in metrics:
        found["densepose"] = densepose.as_found(annotation)
    return found | {"score": 1.0}


def score_file(
    dataset: Dataset, path: Path | str, scorer: str = "coco", metrics: tuple[str, ...] = ("box",)
) -> dict[str, float]:
    """`score` of a JSON file of predictions. Raises InputError for a file that cannot be read."""
    predictions = json_of(Path(path))
    return score(dataset, predictions, scorer, metrics, where=str(path))


def _check(dataset: Dataset, predictions: list[dict], metrics: tuple[str, ...], where: str) -> None:
    if not isinstance(predictions, list) or any(
        not isinstance(entry, dict) for entry in predictions
    ):
        raise InputError(f"{where}: must be a list of objects in COCO results format")
    images = {image["id"]: image for image in dataset.images}
    categories = {category["id"]: category for category in dataset.categories}
    for number, entry in enumerate(predictions):
        fault = _fault(entry, images, categories, metrics)
        if fault:
            raise InputError(f"{where}: prediction {number}: {fault}")


def _fault(entry: dict, images: dict, categories: dict, metrics: tuple[str, ...]) -> str:
    """What is wrong with one prediction; "" if nothing."""
    if "class" in metrics:
        return classes.fault(entry, images, categories)
    image_id, category_id = entry.get("image_id"), entry.get("category_id")
    if not fields.is_id(image_id) or image_id not in images:
        return f"image_id {fields.found(image_id)} is not in the test split"
    if not fields.is_id(category_id) or category_id not in categories:
        return f"category_id {fields.found(category_id)} is not among the categories"
    image, category = images[image_id], categories[category_id]
    if not numbers([entry.get("score")]) or not 0 <= entry["score"] <= 1:
        return f"score {fields.found(entry.get('score'))} is not a number from 0 to 1"
    boxes = "box" in metrics or "densepose" in metrics
    if (boxes or "bbox" in entry) and not (
        numbers(entry.get("bbox"), 4) and min(entry["bbox"][2:]) >= 0
    ):
        return "bbox must be four finite numbers [x, y, width, height], no negative width or height"
    if "mask" in metrics or "semantic" in metrics:
        fault = masks.fault(entry.get("segmentation"), image["height"], image["width"])
        if fault:
            return fault
    count = 3 * len(category.get("keypoints") or ())
    if "keypoint" in metrics and count and not numbers(entry.get("keypoints"), count):
        return f"keypoints must be {count} finite numbers x, y, v, ..."
    return densepose.fault(entry) if "densepose" in metrics else ""


def _coco(dataset: Dataset, predictions: list[dict], metric: str) -> dict[str, float]:
    """One metric by pycocotools."""
    categories = [c for c in dataset.categories if metric != "keypoint" or c.get("keypoints")]
    sigmas = _sigmas(dataset, categories) if metric == "keypoint" else None
    kept = {category["id"] for category in categories}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = indexed(dataset, categories, ground_truth(dataset, kept, metric))
        found = _found(predictions, kept, metric)
        results = truth.loadRes(found) if found else indexed(dataset, categories, [])
        evaluation = COCOeval(truth, results, TYPES[metric])
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = KEYPOINT_STATS if metric == "keypoint" else BOX_STATS
    result = {
        f"{metric}_{name}": percent(value)
        for name, value in zip(names, evaluation.stats, strict=False)
    }
    # precision [IoU, recall, category, area, detections]: all areas, most detections
    per_category = evaluation.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    values = dict(zip(evaluation.params.catIds, per_category, strict=True))
    for category in categories:
        result[f"{metric}_ap/{category['name']}"] = percent(values[category["id"]])
    return result


def percent(value: float) -> float:
    """pycocotools says -1 where nothing is defined."""
    return float(value) * 100 if value > -1 else math.nan


def indexed(dataset: Dataset, categories: list[dict], annotations: list[dict]) -> COCO:
    """A pycocotools object, which changes what it is given: hence copies."""
    images = [
        {"id": image["id"], "width": image["width"], "height": image["height"]}
        for image in dataset.images
    ]
    coco = COCO()
    coco.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [dict(c) for c in categories],
    }
    coco.createIndex()
    return coco


def ground_truth(dataset: Dataset, kept: set[int], metric: str) -> list[dict]:
    """Ground truth for pycocotools, with ids from 1: it takes id 0 for "not found"."""
    annotations = [a for a in dataset.annotations if a["category_id"] in kept]
    if metric == "mask" and any("segmentation" not in a for a in annotations):
        raise InputError(
            f"{dataset.root}: split '{dataset.split}' has objects without masks, so there is no"
            " mask AP"
        )
    return [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)]


def _found(predictions: list[dict], kept: set[int], metric: str) -> list[dict]:
    """Predictions with the fields of one metric: beside a box, pycocotools would take a mask's area
    from the box."""
    fields = {"box": ("bbox",), "mask": ("segmentation",), "keypoint": ("keypoints", "bbox")}[
        metric
    ]
    if metric == "keypoint" and any("bbox" not in entry for entry in predictions):
        fields = ("keypoints",)
    fields = ("image_id", "category_id", "score", *fields)
    return [
        {field: entry[field] for field in fields}
        for entry in predictions
        if entry["category_id"] in kept
    ]


def _sigmas(dataset: Dataset, categories: list[dict]) -> np.ndarray:
    """How far people disagree on each keypoint [K]: the category's `sigmas`, else COCO's own for
    17, else uniform."""
    counts = {len(category["keypoints"]) for category in categories}
    if len(counts) != 1:
        where = f"{dataset.root}: split '{dataset.split}'"
        raise InputError(
            f"{where}: keypoint AP needs categories with one number of keypoints, here are"
            f" {len(counts)}"
        )
    if categories[0].get("sigmas"):
        return np.array(categories[0]["sigmas"], float)
    default = COCOeval(iouType="keypoints").params.kpt_oks_sigmas
    return default if counts == {len(default)} else np.full(counts.pop(), KEYPOINT_SIGMA)


def _voc(dataset: Dataset, predictions: list[dict], year: str) -> dict[str, float]:
    """The VOC metric, with Detectron2's order: pictures as in the split, and within
    one as predicted."""
    place = {image["id"]: number for number, image in enumerate(dataset.images)}
    predictions = sorted(predictions, key=lambda entry: place[entry["image_id"]])
    truth = voc.ground_truth_corners(_boxes(dataset.annotations))
    found = voc.detection_corners(_boxes(predictions))
    difficult = np.array([bool(a.get("difficult")) for a in dataset.annotations], bool)
    scores = np.array([round(float(entry["score"]), 3) for entry in predictions])
    truth_image, truth_class = _places(dataset.annotations, place)
    found_image, found_class = _places(predictions, place)
    table = []
    for category in dataset.categories:
        t, f = truth_class == category["id"], found_class == category["id"]
        table.append(
            voc.average_precisions(
                truth[t], truth_image[t], difficult[t], found[f], found_image[f], scores[f], year
            )
        )
    table = 100 * np.array(table)  # [category, IoU]
    defined = table[~np.isnan(table[:, 0])]
    mean = defined.mean(0) if len(defined) else np.full(len(voc.THRESHOLDS), np.nan)
    at = dict(zip(voc.THRESHOLDS, mean, strict=True))
    result = {"box_ap": float(mean.mean()), "box_ap50": float(at[0.5]), "box_ap75": float(at[0.75])}
    return result | {
        f"box_ap/{c['name']}": float(row.mean())
        for c, row in zip(dataset.categories, table, strict=True)
    }


def _boxes(entries) -> np.ndarray:
    return np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4)


def _places(entries, place: dict) -> tuple[np.ndarray, np.ndarray]:
    """Picture numbers and category ids [N], [N]."""
    images = np.array([place[entry["image_id"]] for entry in entries], np.int64)
    return images, np.array([entry["category_id"] for entry in entries], np.int64)


def coco_metrics(
    dataset: Dataset, predictions: list[dict], metrics: tuple[str, ...]
) -> dict[str, float]:
    """The scorer `coco`."""
    result: dict[str, float] = {}
    for metric in metrics:
        result |= _coco(dataset, predictions, metric)
    return result


def voc2007(
    dataset: Dataset, predictions: list[dict], metrics: tuple[str, ...]
) -> dict[str, float]:
    """The scorer `voc2007`, boxes only."""
    return _voc(dataset, predictions, "voc2007")


def voc2012(
    dataset: Dataset, predictions: list[dict], metrics: tuple[str, ...]
) -> dict[str, float]:
    """The scorer `voc2012`, boxes only."""
    return _voc(dataset, predictions, "voc2012")
