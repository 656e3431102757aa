"""Average precision as the PASCAL VOC kit defines it, with the conventions of
Detectron2's VOC evaluator."""

import numpy as np

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
# not linspace: 3 * 0.1 > 0.3 decides whether a recall of exactly 0.3 counts
RECALLS = np.arange(0.0, 1.1, 0.1)


def ground_truth_corners(boxes: np.ndarray) -> np.ndarray:
    """0-based [x, y, w, h] boxes [N, 4] -> VOC's 1-based inclusive corners [xmin,
    ymin, xmax, ymax]."""
    return np.concatenate([boxes[:, :2] + 1, boxes[:, :2] + boxes[:, 2:]], 1)


def detection_corners(boxes: np.ndarray) -> np.ndarray:
    """Predicted [x, y, w, h] boxes [N, 4] as a VOC results file has them: 1-based
    corners, one decimal.

    The step through 32 bits is where detectors hold their boxes; with it the decimals are those
    Detectron2 writes.
    """
    upper = boxes[:, :2].astype(np.float32) + np.float32(1)
    lower = (boxes[:, :2] + boxes[:, 2:]).astype(np.float32)
    return np.rint(np.concatenate([upper, lower], 1).astype(np.float64) * 10) / 10


def average_precisions(
    truth, truth_image, difficult, found, found_image, scores, metric: str
) -> np.ndarray:
    """AP of one class at each of THRESHOLDS, 0..1; NaN if there is nothing to find.

    truth [G, 4], found [D, 4]: 1-based inclusive corners; *_image: picture numbers; difficult [G]
    bool; scores [D].
    metric: "voc2007" (precision at 11 recalls) or "voc2012" (area under the monotone curve).
    A detection belongs to the object it overlaps most, if more than the threshold: the first one
    counts, later ones are false; on a difficult object it is not counted at all. Difficult objects
    need not be found.
    """
    positives = int((~difficult).sum())
    if not positives:
        return np.full(len(THRESHOLDS), np.nan)
    # numpy's default sort, not a stable one: scores of three decimals tie often, and Detectron2
    # orders ties this way
    order = np.argsort(-scores)
    overlap, match = best_overlaps(truth, truth_image, found[order], found_image[order])
    curve_area = eleven_points if metric == "voc2007" else area_under
    return np.array(
        [
            curve_area(*precision_recall(overlap > limit, match, difficult, positives))
            for limit in THRESHOLDS
        ]
    )


def best_overlaps(truth, truth_image, found, found_image) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the largest overlap with an object of its picture (-inf without any) and
    that object [D], [D].

    Widths and heights count pixels, xmax - xmin + 1; among equal overlaps the first
    object is taken.
    """
    order = np.argsort(truth_image, kind="stable")
    start = np.searchsorted(truth_image[order], found_image, side="left")
    count = np.searchsorted(truth_image[order], found_image, side="right") - start
    pair_found = np.repeat(np.arange(len(found)), count)
    first_pair = np.cumsum(count) - count
    pair_truth = order[start[pair_found] + np.arange(len(pair_found)) - first_pair[pair_found]]
    overlaps = overlap(found[pair_found], truth[pair_truth])
    best, match = np.full(len(found), -np.inf), np.zeros(len(found), np.int64)
    np.maximum.at(best, pair_found, overlaps)
    hits = np.flatnonzero(overlaps == best[pair_found])[::-1]
    # from the last to the first, so that the first one stays
    match[pair_found[hits]] = pair_truth[hits]
    return best, match


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of corner boxes, row by row: [N, 4], [N, 4] -> [N]."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + 1.0
    inner = np.maximum(sides, 0.0).prod(1)
    area_a, area_b = (a[:, 2:] - a[:, :2] + 1.0).prod(1), (b[:, 2:] - b[:, :2] + 1.0).prod(1)
    return inner / (area_a + area_b - inner)


def precision_recall(matched, match, difficult, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each detection, in order of score: [D], [D]."""
    counted = matched & ~difficult[match]
    true = np.zeros(len(match), bool)
    rows = np.flatnonzero(counted)
    true[rows[np.unique(match[rows], return_index=True)[1]]] = True
    false = ~matched | (counted & ~true)
    hits, misses = np.cumsum(true), np.cumsum(false)
    return hits / positives, hits / np.maximum(hits + misses, 1)


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC 2007: the mean over 11 recalls of the best precision at that recall or beyond."""
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best[np.searchsorted(recall, RECALLS, side="left")].sum() / 11)


def area_under(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC 2010 and later: the area under the curve, precision made monotone."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * best).sum())
