"""Good data with the quirks of common tools, and data with few bad objects."""

import json
from pathlib import Path

import pytest

from detco.transfer.data import coco as coco_layout
from detco.transfer.data.dataset import check, load
from tests.factories.datasets import COCO, H, refused, write_coco, xml


@pytest.mark.parametrize(("objects", "bad"), [(10, 5), (500, 5), (600, 6), (5, 4)])
def test_few_bad_objects_are_left_out_with_a_warning(tmp_path, caplog, objects, bad):
    """1 in 100, and always 5; one more is refused, and so is any if asked."""
    boxes = [
        {"id": k, "image_id": 3, "category_id": 90, "bbox": [1, 1, 9, 9 + k]}
        for k in range(objects)
    ]
    for box in boxes[:bad]:
        box["bbox"] = [1, 1, 9, 0]
    images = [{**COCO["images"][1], "height": 9 * H + objects}]
    root = write_coco(tmp_path / "set", {**COCO, "images": images, "annotations": boxes})
    train = load("coco", root, "train")
    assert len(train.annotations) == objects - bad and train.facts == {"left_out": bad}
    first = "annotation 0 (a.jpg): the box 1 1 9 0 has no area"
    assert first in caplog.text and f"{bad} of {objects} objects left out" in caplog.text
    report = check("coco", root, "train")
    assert [first in note for note in report.notes] == [True] and "no area" in str(report)
    refused(f"{first} (and {bad - 1} more", "coco", root, "train", strict=True)
    boxes[bad]["bbox"] = [1, 1, 9, 0]
    (root / "annotations/instances_train.json").write_text(
        json.dumps({**COCO, "images": images, "annotations": boxes})
    )
    refused(f"{first} (and {bad} more", "coco", root, "train")


def test_a_set_of_bad_objects_only_is_refused(voc):
    (voc / "Annotations/one.xml").write_text(xml(("ant", (9, 1, 9, 20))))
    refused("the box 9 1 9 20 has no area", "voc", voc, "trainval")


@pytest.mark.parametrize("ids", [[0, 0, 0, 0], [1, 2, 2, 3], ["a", "b", "c", "d"], [None] * 4])
def test_annotation_ids_that_tell_nothing_are_given_anew(coco, ids):
    before = load("coco", coco, "train")
    objects = [entry | {"id": one} for entry, one in zip(COCO["annotations"], ids, strict=True)]
    write_coco(coco, {**COCO, "annotations": objects})
    train = load("coco", coco, "train")
    assert [a["id"] for a in train.annotations] == [1, 2, 3, 4]
    assert train.fingerprint == before.fingerprint
    assert any("numbered anew" in note for note in train.notes) == (ids[0] is not None)


ROOT_CATEGORY = {"id": 0, "name": "things", "supercategory": "none"}


def roboflow(root: Path, own: int, name="things") -> Path:
    """One class below the root category, and `own` objects of the latter among ten others."""
    boxes = [
        {"id": k, "image_id": 3, "category_id": int(k >= own), "bbox": [1, 1, 9, 9 + k]}
        for k in range(10 + own)
    ]
    classes = [ROOT_CATEGORY, {"id": 1, "name": name, "supercategory": "things"}]
    return write_coco(root, {**COCO, "categories": classes, "annotations": boxes})


def test_the_root_category_is_no_class_and_said_in_one_line(tmp_path):
    train = load("coco", roboflow(tmp_path / "a", 0), "train", strict=True)
    assert [c["name"] for c in load("coco", roboflow(tmp_path / "b", 0, "cup"), "train").categories]
    assert [c["id"] for c in train.categories] == [1] and len(train.annotations) == 10
    train = load("coco", roboflow(tmp_path / "c", 3, "cup"), "train")
    assert train.facts == {"left_out": 3} and len(train.notes) == 1
    assert "3 objects of category 0 ('things')" in train.notes[0]
    root = roboflow(tmp_path / "d", 6, "cup")
    assert "more:" not in refused("6 objects of category 0 ('things')", "coco", root, "train")
    train = load("coco", roboflow(tmp_path / "e", 6), "train")  # one class of the same name
    assert [a["category_id"] for a in train.annotations] == [1] * 16 and not train.notes


@pytest.mark.parametrize("number", [0, 7])
def test_a_category_without_others_below_it_is_a_class(tmp_path, number):
    classes = [{"id": number, "name": "cup", "supercategory": "none"}]
    boxes = [{"id": 1, "image_id": 3, "category_id": number, "bbox": [1, 1, 9, 9]}]
    root = write_coco(tmp_path / "set", {**COCO, "categories": classes, "annotations": boxes})
    assert load("coco", root, "train").annotations[0]["category_id"] == number


# ---- files of others beside the data


def test_captions_panoptic_and_predictions_are_no_splits(coco):
    beside = {
        "captions_train": {"images": [], "annotations": [{"caption": "a cup"}]},
        "panoptic_train": {"images": [], "annotations": [{"segments_info": []}], "categories": []},
        "image_info_test": {"images": [], "categories": []},
        "own_captions": {"images": [], "annotations": [{"id": 1, "caption": "a cup"}]},
        "predictions": [{"image_id": 3, "bbox": [1, 1, 9, 9], "score": 0.5}],
    }
    for name, content in beside.items():
        (coco / f"annotations/{name}.json").write_text(json.dumps(content))
    assert coco_layout.splits(coco) == ["train"] and not check("coco", coco).problems
    (coco / "annotations/val.json").write_text('{"images": [{"id": 1, ')  # broken, not another task
    assert coco_layout.splits(coco) == ["train", "val"]
    assert "malformed JSON" in check("coco", coco).problems[0]


def test_what_macos_leaves_is_passed_over(voc, coco, cityscapes):
    root, _ = cityscapes
    junk = [
        voc / "ImageSets/Main/._trainval.txt",
        voc / "JPEGImages/._one.jpg",
        coco / "annotations/._instances_train.json",
        coco / "annotations/._plain.json",
        root / "leftImg8bit/._val",
        root / "leftImg8bit/val/town/._town_000001_leftImg8bit.png",
    ]
    for path in junk:
        path.write_bytes(b"\x00\x05\x16\x07\xff")
    for folder in {path.parent for path in junk}:
        (folder / ".DS_Store").write_bytes(b"\x00Bud1")
    for layout, folder in (("voc", voc), ("coco", coco), ("cityscapes", root)):
        report = check(layout, folder)
        assert not report.problems and not any("._" in split["split"] for split in report.splits)
