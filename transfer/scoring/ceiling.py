"""The best AP that a protocol allows on a data set: perfect detections, no more of them
than are kept."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ..data.checks.counting import REASONS
from ..data.dataset import Dataset
from . import SCORERS, ap_of_recall

if TYPE_CHECKING:
    from ..settings import Protocol


def ceiling(dataset: Dataset, protocol: "Protocol") -> dict:
    """For the record: `ap` (percent), `images` with more objects than are kept, `kept` (detections
    for each image); {} where all objects can be found, or the scorer has no AP of boxes.

    Of an image with too many the rarest classes are kept, which the mean over classes rewards most.
    That is scored in closed form: all detections are right, so a class's AP depends on its recall
    alone. The tests compare it with the scorers themselves.
    """
    row, detector = SCORERS[protocol.scorer], protocol.detector
    score = ap_of_recall(protocol.scorer)
    if score is None or "semantic" in protocol.metrics:
        return {}
    of_image: dict[int, Counter[int]] = {}
    for a in dataset.annotations:
        if not any(REASONS[key].holds(a) for key in row.leaves_out):
            of_image.setdefault(a["image_id"], Counter())[a["category_id"]] += 1
    total = sum(of_image.values(), Counter())
    most = min(row.most or detector.detections, detector.detections)
    if protocol.architecture != "retinanet":  # the others pool each box from a proposal
        most = min(most, detector.rpn_post_nms[1])
    kept: Counter[int] = Counter()
    full = 0
    for objects in of_image.values():
        found = _kept(objects, total, most, detector.detections)
        full += found.total() < objects.total()
        kept += found
    if not full:
        return {}
    recalls = [kept[key] / count for key, count in total.items()]
    ap = 100 * float(np.mean([score(recall) for recall in recalls]))
    return {"ap": round(ap, 1), "images": full, "kept": min(most * len(total), detector.detections)}


def _kept(objects: Counter[int], total: Counter[int], most: int, room: int) -> Counter[int]:
    """How many objects of each class are kept of one image: `most` of a class, `room` in all."""
    found: Counter[int] = Counter()
    for key in sorted(objects, key=lambda key: (total[key], key)):
        found[key] = min(objects[key], most, room)
        room -= found[key]
    return found


def coco_points(recall: float) -> float:
    """COCO: the mean of precision, here 1 or 0, at 101 recalls."""
    return float((np.linspace(0.0, 1.0, 101) <= recall + 1e-12).mean())


def eleven_points(recall: float) -> float:
    """VOC 2007."""
    from . import voc

    return voc.eleven_points(np.array([recall]), np.array([1.0]))


def area(recall: float) -> float:
    """VOC 2010 and later."""
    return recall
