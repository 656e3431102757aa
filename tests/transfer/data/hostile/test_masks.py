"""Masks: what they cover against naive loops and pycocotools, and what must not reach
its C code."""

import json
import random

import numpy as np
import pytest
from pycocotools import mask as rle

from detco.common.errors import InputError
from detco.transfer.data import masks
from detco.transfer.data.dataset import Dataset
from detco.transfer.scoring import score as scoring


def naive_runs(mask: np.ndarray) -> list[int]:
    counts, now = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel == now:
            counts[-1] += 1
        else:
            counts.append(1)
            now = pixel
    return counts


def drawn(seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    height, width = draw.integers(1, 60, 2).tolist()
    mask = (draw.random((height, width)) < draw.choice([0.02, 0.5, 0.98])).astype(np.uint8)
    mask[draw.integers(height), draw.integers(width)] = 1
    if seed % 3 == 0:  # long runs take numbers of several characters
        mask = np.repeat(np.repeat(mask, 40, 0), 50, 1)
    return mask


@pytest.mark.parametrize("seed", range(12))
def test_runs_are_those_that_pycocotools_wrote(seed):
    mask = drawn(seed)
    coded = rle.encode(np.asfortranarray(mask))
    assert masks.runs(coded["counts"]).tolist() == naive_runs(mask)
    assert masks.fault({**coded, "size": list(mask.shape)}, *mask.shape) == ""


def test_masks_from_polygons_and_both_kinds_of_rle():
    mask = np.zeros((6, 8), np.uint8)
    mask[1:4, 2:7] = 1
    coded = rle.encode(np.asfortranarray(mask))
    written = (
        {"size": [6, 8], "counts": coded["counts"].decode()},
        {"size": [6, 8], "counts": naive_runs(mask)},
        [[2, 1, 7, 1, 7, 4, 2, 4]],
    )
    for one in written:
        good = masks.checked(one, 6, 8)
        assert np.array_equal(masks.decode(good, 6, 8), mask)
        assert masks.area(good, 6, 8) == 15


HOSTILE = {
    "ends within a number": "f\0" + "1" * 4000,
    "more numbers than pixels": "1" * 4000,
    "continued at the end": "1" * 10 + "o",
    "one endless number": "o" * 4000 + "0",
    "short of the image": "11",
    "negative": "1O1O2",
    "empty": "",
    "no ASCII": "1\ud800é",
    "line end": "d1\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_counts_that_do_not_cover_the_image_are_refused(name):
    """Before pycocotools sees them: it would write outside its memory."""
    mask = {"size": [10, 10], "counts": HOSTILE[name]}
    with pytest.raises(ValueError, match=r"malformed RLE"):
        masks.checked(mask, 10, 10)
    dataset = Dataset(
        *("a", "coco", None, "val", ({"id": 1, "name": "a"},)),
        ({"id": 1, "file_name": "a.jpg", "name": "a.jpg", "width": 10, "height": 10},),
        *((), ""),
    )
    found = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": mask}
    with pytest.raises(InputError, match=r"prediction 0: segmentation is malformed"):
        scoring.score(dataset, [json.loads(json.dumps(found))], "coco", ("mask",))


@pytest.mark.parametrize(
    "counts", ([], [100], [50, -1, 51], [50, True, 49], [50, 49], [50, 51], [50.0, 50], ["5", 95])
)
def test_lists_of_counts_that_do_not_cover_the_image_are_refused(counts):
    with pytest.raises(ValueError, match="RLE"):
        masks.checked({"size": [10, 10], "counts": counts}, 10, 10)


@pytest.mark.parametrize("size", (None, [10], [10.0, 10], [True, 10], [10, 10, 1], "10", [5, 20]))
def test_a_mask_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match="of size"):
        masks.checked({"size": size, "counts": [50, 50]}, 10, 10)


def test_points_far_outside_are_refused():
    """pycocotools allocates memory for the way there."""
    with pytest.raises(ValueError, match="far outside the picture"):
        masks.checked([[0, 0, 9, 0, 2_000_000, 9]], 10, 10)


def test_an_outline_that_would_not_fit_into_memory_is_refused():
    far = [0, 0, 10_000, 10_000] * 20_000
    with pytest.raises(ValueError, match="outline"):
        masks.checked([far], 10_000, 10_000)
    many = [value for i in range(9_000) for value in (i, (i % 2) * 9_000)][:200]
    assert masks.checked([many], 10_000, 10_000) == [many]


def test_whatever_passes_is_what_pycocotools_reads():
    """Counts damaged at random: refused, or pycocotools decodes them to the same pixels."""
    draw, passed = random.Random(21), 0
    for seed in range(40):
        mask = drawn(3 * seed + 1)
        counts = rle.encode(np.asfortranarray(mask))["counts"]
        for _ in range(25):
            text = bytearray(counts)
            for _ in range(draw.randint(1, 3)):
                text[draw.randrange(len(text))] = draw.choice(range(48, 112))
            one = {"size": list(mask.shape), "counts": bytes(text)}
            if masks.fault(one, *mask.shape):
                continue
            passed += 1
            runs = masks.runs(one["counts"])
            pixels = np.repeat(np.arange(len(runs)) % 2, runs)
            assert np.array_equal(rle.decode(one).T.ravel(), pixels)
    assert passed
