"""Accuracy and average precision of classes of images, against values computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from detco.common.errors import InputError
from detco.transfer.data.dataset import Dataset
from detco.transfer.scoring.score import score


def of_classes(truth, classes):
    """A data set whose image n has the class truth[n]."""
    images = [{"id": n, "width": 10, "height": 10} for n in range(len(truth))]
    labels = [{"image_id": n, "category_id": c, "iscrowd": 0} for n, c in enumerate(truth)]
    names = tuple({"id": c, "name": f"c{c}"} for c in classes)
    return Dataset("x", "imagefolder", None, "val", names, tuple(images), tuple(labels), "")


def entry(image, *classes, **more):
    return {"image_id": image, "classes": list(classes), "scores": [1.0] * len(classes), **more}


def test_top_1_and_top_5():
    data = of_classes([1, 2, 3, 4], range(1, 8))
    found = [entry(0, 1, 2), entry(1, 1, 3, 4, 5, 2), entry(2, 1, 2, 4, 5, 6, 3)]  # none for 3
    assert score(data, found, "accuracy", ("class",)) == {"top1": 25.0, "top5": 50.0}


def test_top_5_of_five_classes_is_undefined():
    found = score(of_classes([1], range(1, 6)), [entry(0, 1)], "accuracy", ("class",))
    assert found["top1"] == 100 and math.isnan(found["top5"])


def test_each_answer_has_its_own_accuracy():
    found = [entry(n, c, answer=f"knn{k}") for k in (1, 9) for n, c in ((0, 1), (1, k))]
    result = score(of_classes([1, 9], (1, 9)), found, "accuracy", ("class",))
    assert result == {"knn1": 50.0, "knn9": 100.0}


def test_nothing_found_scores_nothing():
    assert score(of_classes([1], range(1, 8)), [], "accuracy", ("class",))["top1"] == 0


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"image_id": 7}, "image_id 7 is not in the test split"),
        ({"classes": [9]}, "class 9 is not among the categories"),
        ({"classes": []}, "classes must be a list"),
        ({"classes": [1, 1]}, "classes must be a list"),
        ({"scores": [1.0, 2.0]}, "scores must be one finite number for each class"),
        ({"scores": [math.nan]}, "scores must be one finite number for each class"),
        ({"answer": 3}, "answer must be a text"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(wrong, word):
    with pytest.raises(InputError, match=rf"prediction 0: {word}"):
        score(of_classes([1], (1, 2)), [entry(0, 1) | wrong], "accuracy", ("class",))


def drawn(seed, images=60):
    """A data set of two classes, of each one object an image at most, some of them difficult."""
    draw, labels = np.random.default_rng(seed), []
    for image in range(images):
        for c in (1, 2):
            if draw.random() < 0.3:
                hard = int(draw.random() < 0.3)
                label = {"image_id": image, "category_id": c, "iscrowd": 0}
                labels.append({**label, "difficult": hard, "bbox": [0, 0, 9, 9]})
    data = replace(of_classes([], (1, 2)), layout="voc", annotations=tuple(labels))
    return replace(data, images=tuple({"id": n, "width": 9, "height": 9} for n in range(images)))


def predictions(seed, images=60):
    draw = np.random.default_rng((seed, 1))
    values = draw.permutation(2 * images).reshape(images, 2) / (2 * images)
    return [
        {"image_id": n, "classes": [1, 2], "scores": row.round(3).tolist()}
        for n, row in enumerate(values)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_boxes_around_whole_images(seed):
    """A class is found in an image with the score of a box that fits perfectly where it is, and
    with one too many where it is not: VOC's scorer of boxes gives the same AP."""
    data, found = drawn(seed), predictions(seed)
    ours = score(data, found, "class-ap", ("class",))
    box = {"bbox": [0, 0, 9, 9]}
    single = [
        {"image_id": e["image_id"], "category_id": c, "score": s, **box}
        for e in found
        for c, s in zip(e["classes"], e["scores"], strict=True)
    ]
    theirs = score(data, single, "voc2012", ("box",))
    assert ours["svm_map"] == pytest.approx(theirs["box_ap50"])
    assert ours["svm_map/c1"] == pytest.approx(theirs["box_ap/c1"])


def test_average_precision_by_hand():
    data = of_classes([1, 2, 1, 2], (1, 2))
    scores = [(0.9, 0.1), (0.8, 0.2), (0.7, 0.3), (0.1, 0.4)]
    found = [{"image_id": n, "classes": [1, 2], "scores": list(s)} for n, s in enumerate(scores)]
    # class 1: right, wrong, right; class 2: right, wrong, right
    expected = 100 * (1 / 2 + 1 / 2 * 2 / 3)
    result = score(data, found, "class-ap", ("class",))
    assert result == pytest.approx(dict.fromkeys(result, expected))
    only = score(data, found[:1], "class-ap", ("class",))
    assert only["svm_map/c1"] == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3))


def test_a_class_without_positives_has_no_average_precision():
    found = [{"image_id": 0, "classes": [1, 2], "scores": [1.0, 0.5]}]
    result = score(of_classes([1], (1, 2)), found, "class-ap", ("class",))
    assert result["svm_map"] == 100 and math.isnan(result["svm_map/c2"])
