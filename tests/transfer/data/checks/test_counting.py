"""Objects that are neither trained on nor scored, and boxes in other units: refused
or reported before training."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.data import dataset
from detco.transfer.data.checks import counting, examine
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.scoring import SCORERS, score


@pytest.fixture
def coco(tmp_path, scenes):
    shutil.copytree(scenes / "coco", tmp_path / "coco")
    return tmp_path / "coco"


def changed(root, split, change) -> None:
    """Apply `change(number, annotation, image)` to each object of a COCO file."""
    path = root / "annotations" / f"instances_{split}.json"
    document = json.loads(path.read_text())
    images = {image["id"]: image for image in document["images"]}
    for number, annotation in enumerate(document["annotations"]):
        change(number, annotation, images[annotation["image_id"]])
    path.write_text(json.dumps(document))


def prepared(root, name="small-retinanet", **data):
    return finetune.prepare(PROTOCOLS[name], {"layout": "coco", "root": str(root), **data})


# --- what does not count -------------------------------------------------------------------------


def test_every_reason_of_a_scorer_is_known():
    named = {reason for row in SCORERS.values() for reason in row.leaves_out}
    assert named == set(counting.REASONS)


@pytest.mark.parametrize(
    "scorer, flag", [("coco", "iscrowd"), ("voc2007", "difficult"), ("voc2012", "difficult")]
)
def test_what_is_left_out_is_what_the_scorer_leaves_out(scenes, scorer, flag):
    """Without the flagged objects a scorer says the same: they are neither found nor missed."""
    layout, split = ("coco", "train") if scorer == "coco" else ("voc", "trainval")
    full = dataset.load(layout, scenes / layout, split)
    marked = tuple({**a, flag: int(n % 3 == 0)} for n, a in enumerate(full.annotations))
    full = replace(full, annotations=marked)
    found = counting.counts(full, SCORERS[scorer].leaves_out)
    kept = tuple(a for n, a in enumerate(marked) if n % 3)
    assert found["not_counted"] == len(marked) - len(kept) and found["objects"] == len(marked)
    perfect = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0} for a in kept
    ]
    assert score.score(full, perfect, scorer)["box_ap"] == pytest.approx(100, abs=1e-6)


@pytest.mark.parametrize("split", ["train", "val"])
def test_crowds_only_are_refused(coco, split):
    """detectron2 2415, CVAT's brush masks."""
    changed(coco, split, lambda number, a, image: a.update(iscrowd=1))
    use = f"'{split}' can be {'trained on' if split == 'train' else 'scored'}"
    with pytest.raises(InputError, match=f"none of the .* objects of split {use}"):
        prepared(coco)


def test_half_of_them_is_a_footnote_and_a_few_are_a_count(coco):
    def crowd(share):
        return lambda number, a, image: a.update(iscrowd=int(number % share == 0))

    changed(coco, "val", crowd(2))
    _, test = prepared(coco)
    total = len(test.annotations)
    assert test.facts["uncounted"]["why"] == {"crowd": (total + 1) // 2}
    (text,) = examine.deviations(test)
    assert f"{(total + 1) // 2} of {total} test objects do not count" in text
    changed(coco, "val", crowd(9))
    _, test = prepared(coco)
    assert test.facts["uncounted"]["objects"] == total and examine.deviations(test) == []


def test_a_class_of_which_none_counts_is_a_footnote(coco):
    first = dataset.load("coco", coco, "val").annotations[0]["category_id"]
    changed(coco, "val", lambda n, a, image: a.update(iscrowd=int(a["category_id"] == first)))
    _, test = prepared(coco)
    (name,) = test.facts["uncounted"]["classes"]
    assert [c["id"] for c in test.categories if c["name"] == name] == [first]
    assert f"no object counts of {name}" in examine.deviations(test)[0]


def test_cityscapes_ids_without_numbers_are_groups(scenes, tmp_path):
    shutil.copytree(scenes / "cityscapes", tmp_path / "set")
    for path in (tmp_path / "set").rglob("*val*/**/*_instanceIds.png"):
        with Image.open(path) as picture:
            ids = np.array(picture)
        Image.fromarray(np.where(ids >= 1000, ids // 1000, ids).astype(np.uint16)).save(path)
    val = dataset.load("cityscapes", tmp_path / "set", "val")
    with pytest.raises(InputError, match=r"label \* 1000 \+ number"):
        counting.refuse(val, SCORERS["cityscapes"].leaves_out, "scored")


# --- units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_fractions_are_refused_with_the_guess(coco, split):
    def fraction(number, a, image):
        sides = (image["width"], image["height"]) * 2
        a["bbox"] = [value / side for value, side in zip(a["bbox"], sides)]
        a.pop("segmentation", None)
        a.pop("area", None)

    changed(coco, split, fraction)
    with pytest.raises(InputError, match="look like fractions of its width and height"):
        prepared(coco)
    problems = dataset.check("coco", coco, split).problems
    assert any("fractions" in text for text in problems)


def test_one_larger_box_makes_them_pixels():
    images = [{"width": 640, "height": 480}]
    boxes = [{"bbox": [3.0, 4.0, 1.5, 2.0]}] * 9
    assert "fractions" in counting.unit_problem("x", images, boxes)
    assert counting.unit_problem("x", images, [*boxes, {"bbox": [3.0, 4.0, 2.5, 2.0]}]) == ""
    assert counting.unit_problem("x", images, []) == ""


def test_percentages():
    draw = np.random.default_rng(0)
    images = [{"width": 640, "height": 480}]
    boxes = [{"bbox": [*draw.uniform(0, 60, 2), *draw.uniform(5, 40, 2)]} for _ in range(40)]
    assert "percentages" in counting.unit_problem("x", images, boxes)
    assert counting.unit_problem("x", images, boxes[:5]) == ""  # may be chance
    assert counting.unit_problem("x", [{"width": 100, "height": 100}], boxes) == ""


# --- what is left out, or never seen -------------------------------------------------------------


def test_few_bad_objects_must_not_be_a_whole_class(coco):
    """A mean over the other classes would be another number."""

    def spoil(number, annotation, image):
        if annotation["category_id"] == 99:
            annotation["bbox"] = [1, 2, 0, 9]

    path = coco / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    document["categories"].append({"id": 99, "name": "rare"})
    extra = dict(document["annotations"][0], id=10**6, category_id=99)
    document["annotations"] += [extra, dict(extra, id=10**6 + 1)]
    path.write_text(json.dumps(document))
    assert "left_out" not in dataset.load("coco", coco, "val").facts
    changed(coco, "val", spoil)
    with pytest.raises(InputError, match=r"no object of class 'rare' can be used \(2 bad\)"):
        dataset.load("coco", coco, "val")


@pytest.mark.parametrize("split", ["train", "val"])
def test_keypoints_that_are_never_visible_are_refused_before_training(coco, split):
    shutil.copyfile(
        coco / f"annotations/person_keypoints_{split}.json",
        coco / f"annotations/instances_{split}.json",
    )
    assert prepared(coco, "small-keypoint-rcnn")

    def hide(number, annotation, image):
        annotation["keypoints"][2::3] = [0] * (len(annotation["keypoints"]) // 3)
        annotation["num_keypoints"] = 0

    changed(coco, split, hide)
    (coco / f"annotations/person_keypoints_{split}.json").unlink()
    with pytest.raises(InputError, match=rf"\({split}\): none of the .* has a visible keypoint"):
        prepared(coco, "small-keypoint-rcnn")
