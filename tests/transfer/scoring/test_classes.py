"""Accuracy and average precision of classes of images, against values computed by hand."""

import math

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
