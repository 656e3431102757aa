"""The best AP that a protocol allows, against the scorers themselves on perfect detections."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detco.transfer.data.checks import examine
from detco.transfer.data.dataset import Dataset
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.scoring import ceiling, score


def crowded(counts: list[dict[int, int]]) -> Dataset:
    """Images with so many objects of each class, none of which overlap."""
    keys = sorted({key for classes in counts for key in classes})
    categories = tuple({"id": key, "name": f"c{key}"} for key in keys)
    images, annotations = [], []
    for number, classes in enumerate(counts, 1):
        images.append(
            {"id": number, "file_name": f"{number}.jpg", "name": str(number)}
            | {"width": 2000, "height": 2000}
        )
        keys = [key for key, count in classes.items() for _ in range(count)]
        for place, key in enumerate(keys):
            box = [20 * (place % 90), 20 * (place // 90), 12, 14]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": key, "bbox": box}
                | {"area": 168, "iscrowd": 0}
            )
    rows = (tuple(images), tuple(annotations))
    return Dataset("x", "coco", Path("x"), "val", categories, *rows, "")


def best(dataset: Dataset, room: int, scorer: str) -> float:
    """Perfect detections, at most `room` an image, the rarest classes first, through a scorer."""
    total = Counter(a["category_id"] for a in dataset.annotations)
    kept = []
    for image in dataset.images:
        mine = [a for a in dataset.annotations if a["image_id"] == image["id"]]
        mine.sort(key=lambda a: (total[a["category_id"]], a["category_id"]))
        kept += mine[:room]
    fields = ("image_id", "category_id", "bbox")
    found = [{key: a[key] for key in fields} | {"score": 1.0} for a in kept]
    return score.score(dataset, found, scorer)["box_ap"]


CASES = (
    [{1: 147}, {1: 90}, {1: 210}],
    [{1: 60, 2: 5}, {1: 10, 2: 40}, {2: 51}],
    [{1: 30, 2: 30, 3: 1}, {1: 2}],
)


@pytest.mark.parametrize("counts", CASES)
@pytest.mark.parametrize("scorer", ["coco", "voc2007", "voc2012"])
@pytest.mark.parametrize("room", [50, 100])
def test_it_is_what_the_scorer_gives_perfect_boxes(counts, scorer, room):
    data = crowded(counts)
    row = PROTOCOLS["small-faster-rcnn-fpn"]
    detector = replace(row.detector, detections=room, rpn_post_nms=(1000, 1000))
    found = ceiling.ceiling(data, replace(row, scorer=scorer, detector=detector))
    expected = best(data, room, scorer)
    if expected == pytest.approx(100):
        assert found == {}
    else:
        assert found["ap"] == pytest.approx(expected, abs=0.05)


def test_fewer_proposals_than_detections_are_the_limit():
    """Of the C4 detector in small: 30 boxes of a class, though 50 detections are kept."""
    data, row = crowded([{1: 40}]), PROTOCOLS["small-faster-rcnn-c4"]
    assert (row.detector.detections, row.detector.rpn_post_nms[1]) == (50, 30)
    found = ceiling.ceiling(data, row)
    assert found["ap"] == pytest.approx(best(data, 30, row.scorer), abs=0.05)
    assert (found["images"], found["kept"]) == (1, 30)


def test_crowds_need_not_be_found_and_a_table_says_the_limit():
    data, row = crowded([{1: 60}, {1: 3}]), PROTOCOLS["small-retinanet"]
    crowd = tuple({**a, "iscrowd": int(n < 10)} for n, a in enumerate(data.annotations))
    assert ceiling.ceiling(replace(data, annotations=crowd), row) == {}
    found = ceiling.ceiling(data, row)
    (text,) = examine.deviations(replace(data, facts={"ceiling": found}))
    assert f"perfect boxes would reach AP {best(data, 50, 'coco'):.1f}: 1 of 2" in text


def test_recall_at_a_point_counts():
    for hits in np.linspace(0, 1, 101):
        assert ceiling.coco_points(hits) == pytest.approx((np.floor(hits * 100 + 1e-6) + 1) / 101)
