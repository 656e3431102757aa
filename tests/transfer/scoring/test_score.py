"""Scores against naive loops, hand-computed cases and pycocotools called directly."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detco.common.errors import InputError
from detco.transfer.data.dataset import Dataset
from detco.transfer.scoring import voc
from detco.transfer.scoring.score import KEYPOINT_SIGMA, score, score_file

SIZE = 120
STATS = ("ap", "ap50", "ap75", "aps", "apm", "apl")


def data(annotations, categories=("a", "b"), images=1, layout="coco"):
    """A data set of square pictures, ids 1.. for pictures, 10, 20, ... for categories."""
    if categories and isinstance(categories[0], str):
        categories = [{"id": 10 * (k + 1), "name": name} for k, name in enumerate(categories)]
    square = {"width": SIZE, "height": SIZE}
    pictures = [
        {"id": i, "file_name": f"/x/{i}.jpg", "name": str(i), **square}
        for i in range(1, images + 1)
    ]
    # ids from 0: pycocotools alone would not find the first
    full = [
        {"id": k, "iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], **a}
        for k, a in enumerate(annotations)
    ]
    return Dataset(
        "d", layout, Path("/x"), "test", tuple(categories), tuple(pictures), tuple(full), ""
    )


def thing(bbox, category=10, image=1, **more):
    return {"image_id": image, "category_id": category, "bbox": list(map(float, bbox)), **more}


def scene(seed, images=12, categories=3, per_image=6, found_per_image=12, scores=40):
    """Random truth and predictions: shifted copies, repeated copies, wrong classes, clutter, many
    tied scores."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(1, images + 1):
        boxes = []
        for _ in range(rng.integers(0, per_image + 1)):
            w, h = rng.integers(8, 60, 2)
            box = [rng.integers(0, SIZE - w), rng.integers(0, SIZE - h), w, h]
            boxes.append((box, int(10 * rng.integers(1, categories + 1))))
            truth.append(thing(*boxes[-1], image=image, difficult=int(rng.random() < 0.2)))
        for _ in range(found_per_image):
            box, category = (
                [*rng.random(2) * 60, *(5 + rng.random(2) * 50)],
                int(10 * rng.integers(1, categories + 1)),
            )
            if boxes and rng.random() < 0.7:
                near, right = boxes[rng.integers(len(boxes))]
                box, category = (
                    np.maximum(near + rng.normal(0, 3, 4), 1),
                    right if rng.random() < 0.9 else category,
                )
            box = np.asarray(box, np.float32).astype(float).tolist()
            found.append(
                thing(box, category, image, score=float(rng.integers(0, scores + 1) / scores))
            )
    return (
        data(
            truth, [{"id": 10 * (k + 1), "name": f"c{k}"} for k in range(categories)], images, "voc"
        ),
        found,
    )


def spread(found, seed=1):
    """Predictions with scores that differ in the third decimal, so that no order among ties
    is left open."""
    places = np.random.default_rng(seed).permutation(len(found))
    assert len(found) <= 1000
    return [
        {**entry, "score": place / 1000}
        for entry, place in zip(found, places.tolist(), strict=True)
    ]


def naive_voc(dataset, found, category, limit, year):
    """One class at one overlap, by loops over text lines as a VOC results file has them."""
    lines = []
    for entry in found:
        if entry["category_id"] == category:
            x, y, w, h = entry["bbox"]
            one = np.float32(1)
            corners = [
                np.float32(x) + one,
                np.float32(y) + one,
                np.float32(x + w),
                np.float32(y + h),
            ]
            lines.append(
                f"{entry['image_id']} {entry['score']:.3f} "
                + " ".join(f"{value:.1f}" for value in corners)
            )
    objects = [a for a in dataset.annotations if a["category_id"] == category]
    taken, hits, misses, curve = set(), 0, 0, []
    positives = sum(not a["difficult"] for a in objects)
    for line in sorted(lines, key=lambda line: -float(line.split()[1])):
        image, _, *corners = line.split()
        x1, y1, x2, y2 = map(float, corners)
        best, which = -1.0, None
        for a in objects:
            if a["image_id"] != int(image):
                continue
            gx1, gy1, gx2, gy2 = (
                a["bbox"][0] + 1,
                a["bbox"][1] + 1,
                *np.add(a["bbox"][:2], a["bbox"][2:]),
            )
            inner = max(min(x2, gx2) - max(x1, gx1) + 1, 0) * max(
                min(y2, gy2) - max(y1, gy1) + 1, 0
            )
            union = (x2 - x1 + 1) * (y2 - y1 + 1) + (gx2 - gx1 + 1) * (gy2 - gy1 + 1) - inner
            if inner / union > best:
                best, which = inner / union, a
        if best > limit and which["difficult"]:
            pass
        elif best > limit and which["id"] not in taken:
            taken.add(which["id"])
            hits += 1
        else:
            misses += 1
        curve.append((hits / positives, hits / max(hits + misses, 1)))
    if year == "voc2007":
        points = [max((p for r, p in curve if r >= t), default=0) for t in np.arange(0.0, 1.1, 0.1)]
        return sum(points) / 11
    area, before = 0.0, 0.0
    for k, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[k:])
        before = recall
    return area


@pytest.mark.parametrize("year", ["voc2007", "voc2012"])
@pytest.mark.parametrize("seed", range(6))
def test_voc_equals_naive_loops(seed, year):
    dataset, found = scene(seed)
    found = spread(found, seed)
    ours = score(dataset, found, year)
    table = np.array(
        [
            [naive_voc(dataset, found, c["id"], t / 100, year) for t in range(50, 100, 5)]
            for c in dataset.categories
        ]
    )
    assert ours["box_ap"] == pytest.approx(100 * table.mean(), abs=1e-9)
    assert ours["box_ap50"] == pytest.approx(100 * table[:, 0].mean(), abs=1e-9)
    assert ours["box_ap75"] == pytest.approx(100 * table[:, 5].mean(), abs=1e-9)
    for category, row in zip(dataset.categories, table, strict=True):
        assert ours[f"box_ap/{category['name']}"] == pytest.approx(100 * row.mean(), abs=1e-9)
    assert 2 < ours["box_ap"] < 98


def test_voc_does_not_depend_on_the_order_of_pictures_in_the_file():
    dataset, found = scene(3, scores=5)
    regrouped = sorted(found, key=lambda entry: -entry["image_id"])
    assert score(dataset, regrouped, "voc2007") == score(dataset, found, "voc2007")


def test_voc_by_hand():
    """Two objects; in order of score: a hit, a clutter box, a repeat of the hit,
    the second object."""
    truth = [thing([10, 10, 20, 20]), thing([60, 60, 20, 20], difficult=0)]
    found = [
        thing([10, 10, 20, 20], score=0.9),
        thing([0, 90, 9, 9], score=0.8),
        thing([10, 10, 20, 20], score=0.7),
        thing([60, 60, 20, 20], score=0.6),
    ]
    dataset = data(truth, ("a",))
    # precision 1 up to recall .5, then 2/4: recalls 0 to .5 are 6 of the 11 points
    assert score(dataset, found, "voc2007")["box_ap"] == pytest.approx(100 * (6 * 1 + 5 * 0.5) / 11)
    assert score(dataset, found, "voc2012")["box_ap"] == pytest.approx(100 * (0.5 * 1 + 0.5 * 0.5))


def test_voc_difficult_objects_neither_help_nor_hurt():
    easy, hard = thing([10, 10, 20, 20]), thing([60, 60, 20, 20], difficult=1)
    hit, on_hard = thing([10, 10, 20, 20], score=0.5), thing([60, 60, 20, 20], score=0.9)
    dataset = data([easy, hard], ("a",))
    for found in ([hit], [on_hard, hit], [on_hard, {**on_hard, "score": 0.8}, hit]):
        assert score(dataset, found, "voc2007")["box_ap"] == pytest.approx(100)
    assert math.isnan(score(data([hard], ("a",)), [on_hard], "voc2007")["box_ap"])


def test_voc_counts_pixels_and_wants_more_than_the_threshold():
    """An object 10 wide and a detection of its left half overlap by exactly .5: not enough; one
    pixel more is."""
    dataset = data([thing([0, 0, 10, 10])], ("a",))
    assert score(dataset, [thing([0, 0, 5, 10], score=1)], "voc2012")["box_ap50"] == 0
    assert score(dataset, [thing([0, 0, 6, 10], score=1)], "voc2012")["box_ap50"] == 100


def test_voc_rounds_scores_to_three_decimals_and_boxes_to_a_tenth():
    dataset = data([thing([0, 0, 10, 10])], ("a",))
    # width 5.04 is written as 5.0 (overlap .5: a miss), 5.06 as 5.1
    assert score(dataset, [thing([0, 0, 5.04, 10], score=1)], "voc2012")["box_ap50"] == 0
    assert score(dataset, [thing([0, 0, 5.06, 10], score=1)], "voc2012")["box_ap50"] == 100
    hit, miss = thing([0, 0, 10, 10]), thing([50, 50, 10, 10])
    # .5004 and .5001 both become .500: the order of the list decides (two values only, so any sort
    # keeps it)
    ordered = [{**miss, "score": 0.5001}, {**hit, "score": 0.5004}]
    assert score(dataset, ordered, "voc2012")["box_ap"] == pytest.approx(50)
    assert (
        score(dataset, [{**miss, "score": 0.4991}, {**hit, "score": 0.5004}], "voc2012")["box_ap"]
        == 100
    )


def test_corners_are_the_ones_a_results_file_has():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.random((500, 4)), rng.integers(0, 40, (500, 4)) * 0.05]) * 100
    boxes = boxes.astype(np.float32).astype(float)
    expected = [
        [
            float(f"{value:.1f}")
            for value in (
                np.float32(x) + np.float32(1),
                np.float32(y) + np.float32(1),
                np.float32(x + w),
                np.float32(y + h),
            )
        ]
        for x, y, w, h in boxes.tolist()
    ]
    assert voc.detection_corners(boxes).tolist() == expected


def test_categories_without_objects_are_undefined_and_left_out_of_the_mean():
    dataset = data([thing([10, 10, 20, 20])], ("a", "b"))
    found = [thing([10, 10, 20, 20], score=0.9), thing([10, 10, 20, 20], 20, score=0.9)]
    for scorer in ("voc2007", "voc2012", "coco"):
        result = score(dataset, found, scorer)
        assert result["box_ap"] == pytest.approx(100) and result["box_ap/a"] == pytest.approx(100)
        assert math.isnan(result["box_ap/b"])


def reference(dataset, found, kind, sigmas=None):
    """pycocotools, called the plain way."""
    truth = COCO()
    truth.dataset = {
        "images": [dict(image) for image in dataset.images],
        "categories": [dict(category) for category in dataset.categories],
        "annotations": [{**a, "id": a["id"] + 1} for a in dataset.annotations],
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes([dict(entry) for entry in found]), kind)
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [100 * value if value >= 0 else math.nan for value in evaluation.stats], evaluation.eval[
        "precision"
    ]


@pytest.mark.parametrize("seed", range(3))
def test_coco_boxes_equal_pycocotools(seed):
    dataset, found = scene(seed)
    crowd = [{**a, "iscrowd": int(a["id"] % 5 == 0)} for a in dataset.annotations]
    dataset = Dataset(**{**dataset.__dict__, "annotations": tuple(crowd)})
    ours = score(dataset, found, "coco")
    stats, precision = reference(dataset, found, "bbox")
    np.testing.assert_allclose([ours[f"box_{n}"] for n in STATS], stats[:6], atol=1e-9)
    for k, category in enumerate(dataset.categories):
        assert ours[f"box_ap/{category['name']}"] == pytest.approx(
            100 * precision[:, :, k, 0, 2].mean(), abs=1e-9
        )


def disc(x, y, radius):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.asfortranarray((rows - y) ** 2 + (columns - x) ** 2 < radius**2, np.uint8)


def packed(mask):
    rle = mask_util.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def test_coco_masks_equal_pycocotools_and_use_the_area_of_the_mask():
    rng = np.random.default_rng(0)
    truth, found = [], []
    for image in (1, 2, 3):
        for _ in range(4):
            x, y, radius = rng.integers(20, 100), rng.integers(20, 100), rng.integers(8, 45)
            mask = packed(disc(x, y, radius))
            area = float(mask_util.area(mask))
            truth.append(thing(mask_util.toBbox(mask), image=image, segmentation=mask, area=area))
            near = packed(disc(*(np.array([x, y, radius]) + rng.normal(0, 2, 3))))
            # the box claims all of the picture: the mask's area must decide between small, medium
            # and large
            found.append(
                thing([0, 0, SIZE, SIZE], image=image, segmentation=near, score=float(rng.random()))
            )
    polygon = [[30.0, 30.0, 60.0, 30.0, 60.0, 60.0, 30.0, 60.0]]
    truth.append(thing([30, 30, 30, 30], 20, segmentation=polygon))
    dataset = data(truth, images=3)
    ours = score(dataset, found, "coco", ("mask",))
    stats, _ = reference(
        dataset, [{k: v for k, v in entry.items() if k != "bbox"} for entry in found], "segm"
    )
    np.testing.assert_allclose([ours[f"mask_{n}"] for n in STATS], stats[:6], atol=1e-9)
    assert ours["mask_ap/a"] > 20 and ours["mask_ap/b"] == 0
    # pycocotools changes what it is given; we must not
    assert dataset.annotations[-1]["segmentation"] == polygon


def keypoint_data(count, seed=0, **category):
    rng = np.random.default_rng(seed)
    names = [f"p{k}" for k in range(count)]
    truth, found = [], []
    for image in (1, 2, 3, 4):
        for _ in range(3):
            box = [*rng.integers(0, 50, 2), *rng.integers(30, 65, 2)]
            points = np.array(box[:2]) + rng.random((count, 2)) * box[2:]
            seen = rng.integers(0, 3, count)
            truth.append(
                thing(
                    box,
                    image=image,
                    keypoints=np.column_stack([points, seen]).ravel().tolist(),
                    num_keypoints=int((seen > 0).sum()),
                )
            )
            moved = (
                np.column_stack([points + rng.normal(0, 2, (count, 2)), np.ones(count)])
                .ravel()
                .tolist()
            )
            found.append(thing(box, image=image, keypoints=moved, score=float(rng.random())))
    person = {"id": 10, "name": "person", "keypoints": names, **category}
    return data(truth, [person, {"id": 20, "name": "tree"}], 4), found


@pytest.mark.parametrize("with_boxes", [True, False])
@pytest.mark.parametrize(
    ("count", "category", "sigmas"),
    [
        (17, {}, None),
        (5, {}, [KEYPOINT_SIGMA] * 5),
        (3, {"sigmas": [0.02, 0.1, 0.2]}, [0.02, 0.1, 0.2]),
    ],
)
def test_coco_keypoints_equal_pycocotools(count, category, sigmas, with_boxes):
    dataset, found = keypoint_data(count, **category)
    if not with_boxes:
        found = [{k: v for k, v in entry.items() if k != "bbox"} for entry in found]
    # predictions of categories without keypoints do not matter
    tree = thing([0, 0, 50, 50], 20, score=0.9)
    ours = score(dataset, [tree, *found] if with_boxes else found, "coco", ("keypoint",))
    people = Dataset(**{**dataset.__dict__, "categories": dataset.categories[:1]})
    stats, _ = reference(people, found, "keypoints", sigmas)
    names = [name for name in STATS if name != "aps"]  # COCO has no small people with keypoints
    np.testing.assert_allclose([ours[f"keypoint_{n}"] for n in names], stats[:5], atol=1e-9)
    assert 5 < ours["keypoint_ap"] < 100
    assert ours["keypoint_ap/person"] == pytest.approx(ours["keypoint_ap"])
    assert "keypoint_ap/tree" not in ours


def test_perfect_predictions_score_100_and_none_score_0():
    dataset, _ = keypoint_data(17)
    masks = [
        mask_util.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], SIZE, SIZE)[0]
        for x, y, w, h in (a["bbox"] for a in dataset.annotations)
    ]
    masks = [{"size": [SIZE, SIZE], "counts": mask["counts"].decode()} for mask in masks]
    truth = [
        {**a, "segmentation": mask} for a, mask in zip(dataset.annotations, masks, strict=True)
    ]
    dataset = Dataset(**{**dataset.__dict__, "annotations": tuple(truth)})
    metrics = ("box", "mask", "keypoint")
    perfect = score(dataset, [{**a, "score": 1.0} for a in truth], "coco", metrics)
    nothing = score(dataset, [], "coco", metrics)
    for metric in metrics:
        assert perfect[f"{metric}_ap"] == pytest.approx(100) == perfect[f"{metric}_ap/person"]
        assert nothing[f"{metric}_ap"] == 0 and nothing[f"{metric}_ap50"] == 0
    for year in ("voc2007", "voc2012"):
        assert score(dataset, [{**a, "score": 1.0} for a in truth], year)[
            "box_ap"
        ] == pytest.approx(100)
        assert score(dataset, [], year)["box_ap"] == 0


def test_scoring_a_file_gives_the_same_and_prints_nothing(tmp_path, capsys):
    dataset, found = scene(1)
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(found))
    for scorer in ("coco", "voc2007"):
        assert score_file(dataset, path, scorer) == score(dataset, found, scorer)
    assert capsys.readouterr().out == ""


GOOD = thing([10, 10, 20, 20], score=0.5)
RLE = packed(disc(50, 50, 10))


@pytest.mark.parametrize(
    ("change", "metrics", "message"),
    [
        ({"image_id": 99}, ("box",), "image_id 99 is not in the test split"),
        ({"image_id": [1]}, ("box",), r"image_id \[1\] is not in"),
        ({"image_id": True}, ("box",), "image_id True is not in"),
        ({"category_id": 10.0}, ("box",), "category_id 10.0 is not among"),
        ({"category_id": 30}, ("box",), "category_id 30 is not among the categories"),
        ({"score": 1.2}, ("box",), "score 1.2 is not a number from 0 to 1"),
        ({"score": math.nan}, ("box",), "score nan"),
        ({"score": None}, ("box",), "score None"),
        ({"score": "0.5"}, ("box",), "score '0.5'"),
        ({"bbox": [1, 2, 3]}, ("box",), "bbox must be four finite numbers"),
        ({"bbox": [1, 2, math.inf, 4]}, ("box",), "bbox must be four finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, ("box",), "no negative width"),
        ({"bbox": None}, ("mask",), "bbox must be four finite numbers"),
        ({}, ("mask",), r"compressed RLE of size \[120, 120\]"),
        ({"segmentation": {**RLE, "size": [120, 60]}}, ("mask",), "compressed RLE of size"),
        (
            {"segmentation": {**RLE, "counts": "garbage"}},
            ("mask",),
            "malformed RLE",
        ),
        ({"segmentation": [[0, 0, 9, 0, 9, 9]]}, ("box", "mask"), "compressed RLE of size"),
        ({"keypoints": [1, 2, 3]}, ("keypoint",), "keypoints must be 6 finite numbers"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path, change, metrics, message):
    categories = [{"id": 10, "name": "a", "keypoints": ["left", "right"]}, {"id": 20, "name": "b"}]
    dataset = data(
        [thing([1, 1, 9, 9], segmentation=RLE, keypoints=[1, 1, 2] * 2, num_keypoints=2)],
        categories,
    )
    path = tmp_path / "p.json"
    path.write_text(
        json.dumps([{**GOOD, "segmentation": RLE, "keypoints": [1.0] * 6}, {**GOOD, **change}])
    )
    with pytest.raises(InputError, match=message) as error:
        score_file(dataset, path, "coco", metrics)
    assert str(error.value).startswith(f"{path}: prediction 1: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("[{]", "malformed JSON: .*line 1, column 3"),
        ("{}", "must be a list of objects"),
        ("[1]", "must be a list of objects"),
    ],
)
def test_files_that_are_not_predictions_are_refused(tmp_path, text, message):
    path = tmp_path / "p.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        score_file(data([thing([1, 1, 9, 9])]), path)
    assert str(path) in str(error.value)


def test_metrics_that_the_data_cannot_give_are_refused():
    dataset = data([thing([1, 1, 9, 9])])
    with pytest.raises(InputError, match="objects without masks"):
        score(dataset, [], "coco", ("mask",))
    with pytest.raises(InputError, match="keypoint AP needs"):
        score(dataset, [], "coco", ("keypoint",))
    for scorer, metrics in (("voc2007", ("mask",)), ("voc", ("box",)), ("coco", ("boxes",))):
        with pytest.raises(ValueError, match="no scorer"):
            score(dataset, [], scorer, metrics)
