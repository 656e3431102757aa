"""Data sets drawn into the three layouts: what is read from them, and what is refused."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from detco.common.errors import InputError
from detco.transfer.data import dataset as datasets
from detco.transfer.data.cityscapes import instances
from detco.transfer.data.dataset import check, coco_dict, default_splits, load
from detco.transfer.data.reading import box_fault
from detco.transfer.data.voc import CLASSES, splits
from tests.factories import ROOT

W, H = 64, 48


def picture(path: Path, size=(W, H), **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    ).save(path, **save)


def xml(*objects, size=(W, H)):
    text = "".join(
        f"<object><name>{name}</name>{more}<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, (a, b, c, d), more in ((*o, "")[:3] for o in objects)
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation>{sides}{text}</annotation>"


@pytest.fixture
def voc(tmp_path):
    """Two training pictures, one without objects; one for testing."""
    root = tmp_path / "voc"
    annotations = {
        "one": xml(("zebra", (1, 1, W, H)), ("ant", (3, 4, 10.5, 20), "<difficult>1</difficult>")),
        "two": xml(),
        "three": xml(("ant", (0, 5, 20, H + 1))),
    }
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/trainval.txt").write_text("two\none\n\n")
    (root / "ImageSets/Main/test.txt").write_text("three")
    (root / "Annotations").mkdir()
    for name, text in annotations.items():
        (root / f"Annotations/{name}.xml").write_text(text)
        picture(root / f"JPEGImages/{name}.jpg")
    return root


COCO = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "width": W, "height": H},
        {"id": 3, "file_name": "a.jpg", "width": W, "height": H},
        {"id": 4, "file_name": "empty.jpg", "width": W, "height": H},
    ],
    "categories": [
        {"id": 90, "name": "cup"},
        {"id": 5, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]},
    ],
    "annotations": [
        {
            "id": 0,
            "image_id": 7,
            "category_id": 90,
            "bbox": [1, 2, 10, 20.5],
            "area": 150.5,
            "iscrowd": 0,
            "segmentation": [[1, 2, 11, 2, 11, 22, 1, 22], [0, 0, 5, 5]],
        },
        {
            "id": 8,
            "image_id": 7,
            "category_id": 90,
            "bbox": [0, 0, 64, 48],
            "iscrowd": 1,
            "segmentation": {"size": [H, W], "counts": [10, 100, H * W - 110]},
        },
        {
            "id": 5,
            "image_id": 3,
            "category_id": 5,
            "bbox": [5, 5, 30, 30],
            "segmentation": [],
            "keypoints": [6, 7, 2, 0, 0, 0, 9, 9, 1],
            "num_keypoints": 2,
        },
        {"id": 6, "image_id": 3, "category_id": 5, "bbox": [50, 40, 14.5, 8]},
    ],
}


def write_coco(root: Path, document=COCO, name="annotations/instances_train.json", folder="train"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(document if isinstance(document, str) else json.dumps(document))
    if isinstance(document, dict):
        for image in document["images"]:
            picture(root / folder / image["file_name"])
    return root


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "set")


def changed(key, index, **change):
    document = json.loads(json.dumps(COCO))
    document[key][index] |= change
    return document


@pytest.fixture
def cityscapes(tmp_path):
    """One picture: two cars, a group of persons, a caravan and road that do not count."""
    ids = np.full((H, W), 7, np.uint16)
    ids[10:20, 5:30] = 26000
    ids[12:40, 28:50] = 26001
    ids[0:3, 0:60] = 24
    ids[45:, :9] = 29000
    root = tmp_path / "cityscapes"
    picture(root / "leftImg8bit/val/town/town_000001_leftImg8bit.png")
    (root / "gtFine/val/town").mkdir(parents=True)
    Image.fromarray(ids).save(root / "gtFine/val/town/town_000001_gtFine_instanceIds.png")
    return root, ids


def refused(message, *args, **kwargs):
    """Asserts that loading is refused in one line that holds `message`; gives the line."""
    with pytest.raises(InputError) as error:
        load(*args, **kwargs)
    line = str(error.value)
    assert message in line and "\n" not in line
    return line


# ---- VOC


def test_voc_boxes_sizes_order_and_categories(voc):
    train = load("voc", voc, "trainval")
    assert [(i["id"], i["name"], i["width"], i["height"]) for i in train.images] == [
        (1, "two", W, H),
        (2, "one", W, H),
    ]
    assert voc.is_absolute() and train.images[1]["file_name"] == str(voc / "JPEGImages/one.jpg")
    assert train.categories == ({"id": 1, "name": "ant"}, {"id": 2, "name": "zebra"})
    assert train.annotations == (
        {
            "id": 1,
            "image_id": 2,
            "category_id": 2,
            "bbox": [0, 0, W, H],
            "area": W * H,
            "iscrowd": 0,
            "difficult": 0,
        },
        {
            "id": 2,
            "image_id": 2,
            "category_id": 1,
            "bbox": [2, 3, 8.5, 17],
            "area": 8.5 * 17,
            "iscrowd": 0,
            "difficult": 1,
        },
    )
    assert (train.name, train.layout, train.root, train.split) == (
        "voc_trainval",
        "voc",
        voc,
        "trainval",
    )


def test_voc_boxes_a_pixel_over_the_border_stay_as_written(voc):
    test = load("voc", voc, "test", load("voc", voc, "trainval").categories)
    assert test.annotations[0]["bbox"] == [-1, 4, 21, H + 1 - 4]
    assert test.annotations[0]["category_id"] == 1


def test_voc_names_give_all_twenty_classes_in_their_order(voc):
    (voc / "Annotations/one.xml").write_text(xml(("sheep", (1, 1, 9, 9)), ("bird", (1, 1, 9, 9))))
    train = load("voc", voc, "trainval")
    assert [c["name"] for c in train.categories] == list(CLASSES) and len(CLASSES) == 20
    assert [a["category_id"] for a in train.annotations] == [
        17,
        3,
    ]  # sheep is VOC's 17th, bird its 3rd


def test_voc_takes_other_suffixes_and_files_without_a_size(voc):
    (voc / "JPEGImages/one.jpg").unlink()
    picture(voc / "JPEGImages/one.PNG", format="PNG")
    for size in (None, (0, 0)):
        (voc / "Annotations/one.xml").write_text(xml(("ant", (1, 1, 9, 9)), size=size))
        train = load("voc", voc, "trainval")
        assert (train.images[1]["width"], train.images[1]["height"]) == (W, H)
        assert train.images[1]["file_name"].endswith("one.PNG")


def test_voc_sizes_are_those_after_exif_rotation(voc):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(voc / "JPEGImages/one.jpg", size=(H, W), exif=exif)  # stored upright, shown on its side
    assert load("voc", voc, "trainval").images[1]["width"] == W
    assert not check("voc", voc).problems
    picture(voc / "JPEGImages/one.jpg", exif=exif)
    line = refused(f"says {W} x {H}", "voc", voc, "trainval")
    assert "one.xml" in line and f"one.jpg is {H} x {W} (after EXIF rotation)" in line


BAD_XML = {
    "<annotation><object></annotation>": "malformed XML: mismatched tag: line 1, column 22",
    "": "malformed XML: no element found: line 1, column 0",
    '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>': (
        "XML that is not accepted: EntitiesForbidden"
    ),
    "<html/>": "its root is <html>",
    xml(("ant", (1, 1, 9, 9)), size=(H, W)): f"says {H} x {W}",
    xml(("ant", (1, 1, 9, 9)), size=("wide", H)): "size/width is 'wide', not a number",
    xml(("", (1, 1, 9, 9))): "object 1 has no name",
    xml(
        ("ant", (1, 1, 9, 9)), ("ant", (1, 1, "", 9))
    ): "object 2 ('ant') needs a bndbox with four numbers",
    xml(("ant", (1, 1, "nan", 9))): "object 1 ('ant') needs a bndbox with four numbers",
    "<annotation><object><name>ant</name></object></annotation>": (
        "object 1 ('ant') needs a bndbox with four numbers"
    ),
    xml(("ant", (9, 1, 9, 20))): "object 1 ('ant'): the box 9 1 9 20 has no area",
    xml(("ant", (1, 20, 9, 10))): "object 1 ('ant'): the box 1 20 9 10 has no area",
    xml(
        ("ant", (1, 1, W + 2, 9))
    ): f"the box 1 1 {W + 2} 9 reaches outside the picture ({W} x {H})",
    xml(("ant", (1, -1, 9, 9))): "the box 1 -1 9 9 reaches outside the picture",
}


@pytest.mark.parametrize("text", BAD_XML)
def test_voc_bad_annotation_files_are_refused_by_name(voc, text):
    (voc / "Annotations/one.xml").write_text(text)
    line = refused(BAD_XML[text], "voc", voc, "trainval")
    assert line.startswith(f"{voc / 'Annotations/one.xml'}: ")


def test_voc_missing_parts_are_refused_by_name(voc):
    refused(f"{voc}x: no such folder", "voc", f"{voc}x", "trainval")
    line = refused(
        "no split 'trainvak', there are test, trainval; did you mean 'trainval'?",
        "voc",
        voc,
        "trainvak",
    )
    assert line.startswith(str(voc / "ImageSets/Main"))
    (voc / "Annotations/three.xml").unlink()
    refused(
        f"{voc / 'Annotations/three.xml'}: no such file, but split 'test' lists it",
        "voc",
        voc,
        "test",
    )
    (voc / "JPEGImages/one.jpg").unlink()
    refused(
        f"{voc / 'JPEGImages/one.jpg'}: no such picture, but split 'trainval' lists it",
        "voc",
        voc,
        "trainval",
    )
    (voc / "ImageSets/Main/test.txt").write_text("\n \n")
    refused(f"{voc / 'ImageSets/Main/test.txt'}: the split is empty", "voc", voc, "test")
    for folder in ("JPEGImages", "Annotations"):
        shutil.rmtree(voc / folder)
        refused(f"{voc / folder}: no such folder (a VOC layout has", "voc", voc, "trainval")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0 broken"])
def test_voc_files_that_are_no_pictures_are_refused_by_name(voc, content):
    (voc / "JPEGImages/one.jpg").write_bytes(content)
    line = refused("not a picture that can be read", "voc", voc, "trainval")
    assert line.startswith(str(voc / "JPEGImages/one.jpg"))


def test_voc_other_refusals(voc):
    (voc / "ImageSets/Main/trainval.txt").write_text("one\ntwo\none\n")
    refused("trainval.txt: 'one' is listed more than once", "voc", voc, "trainval")
    (voc / "ImageSets/Main/trainval.txt").write_text("two")
    refused("split 'trainval' has pictures but no objects", "voc", voc, "trainval")
    refused("unknown layout 'yolo': there are voc, coco, cityscapes", "yolo", voc, "trainval")


def test_a_category_that_training_does_not_know_is_refused_by_name(voc):
    categories = load("voc", voc, "trainval").categories
    (voc / "Annotations/three.xml").write_text(xml(("Ant", (1, 1, 9, 9))))
    line = refused("split 'test': unknown category 'Ant'", "voc", voc, "test", categories)
    assert "JPEGImages/three.jpg" in line and "training has ant, zebra" in line


def test_several_problems_are_counted_and_all_listed_by_check(voc):
    (voc / "Annotations/one.xml").write_text(
        xml(("ant", (5, 1, 5, 9)), ("ant", (1, 1, 999, 9)), ("", (1, 1, 9, 9)))
    )
    (voc / "JPEGImages/two.jpg").unlink()
    line = refused("JPEGImages/two.jpg: no such picture", "voc", voc, "trainval")
    assert line.endswith(f"(and 3 more: `detco data check voc {voc}` lists them)")
    report = check("voc", voc, "trainval")
    assert report.problem_count == len(report.problems) == 4
    for part in (
        "two.jpg",
        "object 1 ('ant'): the box 5 1 5 9",
        "object 2 ('ant'): the box 1 1 999 9",
        "object 3 has",
    ):
        assert sum(part in problem for problem in report.problems) == 1
    short = check("voc", voc, "trainval", limit=2)
    assert short.problems == report.problems[:2] and short.problem_count == 4
    assert str(short).endswith("... and 2 more")


# ---- COCO


def test_coco_records(coco):
    train = load("coco", coco, "train")
    assert [(i["id"], i["name"], i["file_name"]) for i in train.images] == [
        (3, "a.jpg", str(coco / "train/a.jpg")),
        (4, "empty.jpg", str(coco / "train/empty.jpg")),
        (7, "b.jpg", str(coco / "train/b.jpg")),
    ]
    assert [c["id"] for c in train.categories] == [5, 90]
    assert train.categories[0]["keypoint_flip"] == [["left_eye", "right_eye"]]
    cup, crowd, person, bare = train.annotations
    assert [a["id"] for a in train.annotations] == [0, 8, 5, 6]
    assert (cup["bbox"], cup["area"], cup["iscrowd"]) == ([1, 2, 10, 20.5], 150.5, 0)
    assert cup["segmentation"] == [[1, 2, 11, 2, 11, 22, 1, 22]]  # two points draw nothing
    flat = np.zeros(H * W, np.uint8)
    flat[10:110] = 1
    assert (mask_util.decode(crowd["segmentation"]) == flat.reshape(W, H).T).all()
    assert crowd["iscrowd"] == 1 and crowd["area"] == 100  # not in the file: the mask's
    assert person["num_keypoints"] == 2 and person["keypoints"] == [6, 7, 2, 0, 0, 0, 9, 9, 1]
    assert (
        "segmentation" not in person and person["area"] == 900
    )  # neither mask nor area: the box's
    assert bare["num_keypoints"] == 0 and bare["keypoints"] == [0] * 9 and "keypoints" not in cup


def test_coco_records_survive_a_round_trip(coco, voc):
    for dataset, split in (
        (load("coco", coco, "train"), "again"),
        (load("voc", voc, "trainval"), "made"),
    ):
        path = dataset.root / f"annotations/instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(coco_dict(dataset)))
        again = load("coco", dataset.root, split)
        strip = [{k: v for k, v in a.items() if k != "difficult"} for a in dataset.annotations]
        assert list(again.annotations) == strip
        assert again.categories == dataset.categories
        assert [i["file_name"] for i in again.images] == [i["file_name"] for i in dataset.images]


@pytest.mark.parametrize("folder", ["train", "images/train", "images", ".", "tra"])
def test_coco_pictures_are_found_in_the_usual_places(tmp_path, folder):
    root = write_coco(tmp_path / "set", folder=folder)
    assert load("coco", root, "train").images[0]["file_name"] == str(root / folder / "a.jpg")


def test_coco_files_are_found_by_split_task_and_path(coco):
    def write(name, objects, folder="train"):
        write_coco(coco, {**COCO, "annotations": COCO["annotations"][:objects]}, name, folder)

    def found(split, **options):
        return len(load("coco", coco, split, **options).annotations)

    write("annotations/person_keypoints_train.json", 2)
    assert (found("train"), found("train", keypoints=True)) == (4, 2)
    write("annotations/plain.json", 1, "plain")
    assert found("plain") == found("annotations/plain.json") == 1
    write("own/own.json", 3, "own")
    assert found(str(coco / "own/own.json")) == found("own/own.json") == 3
    write("valid/_annotations.coco.json", 2, "valid")
    assert found("valid") == 2
    assert default_splits("coco", coco) == ("train", "valid")


def test_coco_subset_file_finds_the_pictures_of_its_split(tmp_path):
    root = write_coco(tmp_path / "set", folder="train2017")
    (root / "annotations/instances_train.json").rename(
        root / "annotations/instances_train2017_10pct.json"
    )
    assert load("coco", root, "train2017_10pct").images[0]["file_name"] == str(
        root / "train2017/a.jpg"
    )


def test_coco_test_split_takes_the_ids_of_training(coco):
    other = {
        **COCO,
        "categories": [
            {"id": 1, "name": "person"},
            {"id": 2, "name": "cup"},
            {"id": 3, "name": "unused"},
        ],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 2, "bbox": [1, 1, 9, 9]}],
    }
    write_coco(coco, other, "annotations/instances_val.json", "val")
    train = load("coco", coco, "train")
    test = load("coco", coco, "val", train.categories)
    assert test.categories == train.categories and test.annotations[0]["category_id"] == 90
    other["annotations"][0]["category_id"] = 3
    write_coco(coco, other, "annotations/instances_val.json", "val")
    refused("unknown category 'unused'", "coco", coco, "val", train.categories)


BAD_COCO = [
    ('{"images": [1,}', "malformed JSON: "),
    ('{\n"images": [}', "line 2, column 12"),
    ("", "line 1, column 1"),
    ("[]", "no list 'images'"),
    ('{"images": [], "annotations": []}', "no list 'categories'"),
    ('{"images": [1], "annotations": [], "categories": []}', "'images' must hold objects only"),
    ({**COCO, "images": []}, "the split is empty"),
    ({**COCO, "annotations": []}, "has pictures but no objects"),
    (changed("images", 0, id=3), "image id 3 occurs more than once (b.jpg, a.jpg)"),
    (changed("images", 0, id="7"), "an image needs a whole number 'id'"),
    (changed("images", 0, width=0), "image 7 (b.jpg): width and height must be positive"),
    (changed("categories", 0, name="person"), "category 5 ('person') occurs more than once"),
    (changed("categories", 0, id=5), "category 5 ('person') occurs more than once"),
    (changed("categories", 0, id=None), "a category needs a whole number 'id'"),
    (changed("categories", 1, sigmas=[0.1]), "'sigmas' must be one positive number a keypoint"),
    (
        changed("annotations", 1, id=0),
        "annotation 0: annotation ids must be whole numbers, each used once",
    ),
    (
        changed("annotations", 1, image_id=99),
        "annotation 8: refers to image 99, which the file does not list",
    ),
    (changed("annotations", 1, category_id=6), "annotation 8: unknown category 6"),
    (changed("annotations", 1, bbox=[1, 2, 3]), "annotation 8: bbox must be four numbers"),
    (changed("annotations", 1, bbox=[1, 2, 3, "4"]), "annotation 8: bbox must be four numbers"),
    (
        changed("annotations", 1, bbox=[1, 2, 3, float("nan")]),
        "annotation 8: bbox must be four numbers",
    ),
    (
        changed("annotations", 1, bbox=[1, 2, 3, 0]),
        "annotation 8 (b.jpg): the box 1 2 3 0 has no area",
    ),
    (
        changed("annotations", 1, bbox=[1, 2, -3, 4]),
        "annotation 8 (b.jpg): the box 1 2 -3 4 has no area",
    ),
    (
        changed("annotations", 1, bbox=[60, 2, 6, 4]),
        "the box 60 2 6 4 reaches outside the picture (64 x 48)",
    ),
    (
        changed("annotations", 0, segmentation=[[1, 2, 3, 4]]),
        "segmentation has no polygon of three or more points",
    ),
    (
        changed("annotations", 0, segmentation=[["a"] * 6]),
        "segmentation has no polygon of three or more points",
    ),
    (
        changed("annotations", 0, segmentation="abc"),
        "segmentation must be polygons, or RLE of size [48, 64]",
    ),
    (
        changed("annotations", 1, segmentation={"size": [64, 48], "counts": "x"}),
        "RLE of size [48, 64]",
    ),
    (changed("annotations", 1, segmentation={"size": [48, 64], "counts": [3]}), "sum to 48 x 64"),
    (
        changed("annotations", 1, segmentation={"size": [48, 64], "counts": "garbage"}),
        "RLE that is malformed or empty",
    ),
    (
        changed("annotations", 1, segmentation={"size": [48, 64], "counts": "\0"}),
        "RLE that is malformed or empty",
    ),
    (changed("annotations", 0, area="big"), "area must be a number"),
    (
        changed("annotations", 2, keypoints=[1, 2, 3]),
        "(a.jpg): keypoints must be 3 times x, y, visibility",
    ),
]


@pytest.mark.parametrize(("document", "message"), BAD_COCO)
def test_coco_bad_files_are_refused_by_name(tmp_path, document, message):
    root = write_coco(tmp_path / "set", document)
    assert str(root) in refused(message, "coco", root, "train")


def test_coco_missing_parts_are_refused_by_name(coco):
    (coco / "train/b.jpg").unlink()
    line = refused("b.jpg: no such picture, but ", "coco", coco, "train")
    assert (
        str(coco / "train/b.jpg") in line and str(coco / "annotations/instances_train.json") in line
    )
    line = refused(
        "no split 'trian', there are train; did you mean 'train'?", "coco", coco, "trian"
    )
    assert line.startswith(str(coco / "annotations"))
    refused(f"{coco}/own.json: no such annotation file", "coco", coco, "own.json")
    refused(f"{coco}x: no such folder", "coco", f"{coco}x", "train")


def test_one_bad_box_in_ten_thousand_is_left_out_with_a_warning(tmp_path, caplog):
    """COCO's own train2017 has two boxes without height among 860,001."""
    boxes = [
        {"id": k, "image_id": 3, "category_id": 90, "bbox": [1, 1, 9, 9]} for k in range(10000)
    ]
    boxes[77]["bbox"] = [1, 1, 9, 0]
    root = write_coco(tmp_path / "set", {**COCO, "annotations": boxes})
    assert len(load("coco", root, "train").annotations) == 9999
    assert (
        "left out" in caplog.text
        and "annotation 77 (a.jpg): the box 1 1 9 0 has no area" in caplog.text
    )
    boxes[78]["bbox"] = [1, 1, 0, 9]
    write_coco(root, {**COCO, "annotations": boxes})
    refused("annotation 77 (a.jpg): the box 1 1 9 0 has no area (and 1 more", "coco", root, "train")


# ---- Cityscapes


def test_cityscapes_instances_are_the_pixels_of_the_id_picture(cityscapes):
    root, ids = cityscapes
    val = load("cityscapes", root, "val")
    assert [c["name"] for c in val.categories] == [
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ]
    assert [(a["category_id"], a["iscrowd"]) for a in val.annotations] == [
        (24, 1),
        (26, 0),
        (26, 0),
    ]
    for a, value in zip(val.annotations, (24, 26000, 26001), strict=True):
        rows, columns = np.nonzero(ids == value)
        assert (mask_util.decode(a["segmentation"]) == (ids == value)).all()
        left, top = columns.min(), rows.min()
        assert a["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top] and a[
            "area"
        ] == len(rows)
    assert val.images[0] == {
        "id": 1,
        "file_name": str(root / "leftImg8bit/val/town/town_000001_leftImg8bit.png"),
        "name": "town_000001",
        "width": W,
        "height": H,
    }
    json.dumps(coco_dict(val))  # masks are text, not bytes


@pytest.mark.parametrize("seed", range(3))
def test_cityscapes_masks_of_random_id_pictures(seed):
    ids = (
        np.random.default_rng(seed).choice([7, 24, 26000, 26001, 33999], (13, 17)).astype(np.int32)
    )
    found = instances(ids)
    assert [mask_util.decode(a["segmentation"]).tolist() for a in found] == [
        (ids == value).astype(int).tolist() for value in (24, 26000, 26001, 33999)
    ]


def test_cityscapes_bad_input_is_refused_by_name(cityscapes):
    root, ids = cityscapes
    refused("no split 'vall', there are val; did you mean 'val'?", "cityscapes", root, "vall")
    labels = root / "gtFine/val/town/town_000001_gtFine_instanceIds.png"
    Image.fromarray(ids.T.copy()).save(labels)
    assert refused(f"is {H} x {W}, but ", "cityscapes", root, "val").startswith(str(labels))
    picture(labels)
    refused(f"{labels}: must hold one whole number a pixel", "cityscapes", root, "val")
    labels.write_bytes(b"no")
    refused(f"{labels}: not a picture that can be read", "cityscapes", root, "val")
    labels.unlink()
    refused(f"{labels}: no such file", "cityscapes", root, "val")
    next((root / "leftImg8bit/val/town").iterdir()).unlink()
    refused("the split is empty", "cityscapes", root, "val")
    shutil.rmtree(root / "gtFine")
    refused(
        f"{root / 'gtFine'}: no such folder (a Cityscapes layout has", "cityscapes", root, "val"
    )


# ---- all layouts


def test_box_fault_tolerates_one_pixel():
    assert box_fault([-1, -1, W + 2, H + 2], W, H) == ""
    for box in ([-1.1, 0, 9, 9], [0, -1.1, 9, 9], [0, 0, W + 1.1, 9], [0, 0, 9, H + 1.1]):
        assert "outside" in box_fault(box, W, H)
    for box in ([1, 1, 0, 9], [1, 1, 9, -1]):
        assert "no area" in box_fault(box, W, H)


def test_fingerprint_tells_contents_and_nothing_else(coco, tmp_path):
    before = load("coco", coco, "train").fingerprint
    assert len(before) == 64
    turned = {
        key: [dict(reversed(entry.items())) for entry in reversed(COCO[key])]
        for key in reversed(COCO)
    }
    elsewhere = write_coco(tmp_path / "else" / "where", turned, folder="images")
    assert load("coco", elsewhere, "train").fingerprint == before
    for number, document in enumerate(
        [
            changed("annotations", 0, bbox=[1, 2, 10, 20.25]),
            changed("annotations", 0, category_id=5),
            changed("annotations", 0, iscrowd=1),
            changed("annotations", 0, image_id=3),
            changed("annotations", 0, segmentation=[[1, 2, 11, 2, 11, 22, 1, 21]]),
            changed("annotations", 2, keypoints=[6, 7, 2, 0, 0, 0, 9, 9, 2]),
            changed("images", 2, width=W + 1),
            changed("images", 2, file_name="other.jpg"),
            changed("categories", 0, name="mug"),
            {**COCO, "annotations": COCO["annotations"][:3]},
        ]
    ):
        assert (
            load("coco", write_coco(tmp_path / str(number), document), "train").fingerprint
            != before
        )


def test_fingerprint_of_a_test_split_does_not_depend_on_the_training_categories(voc):
    alone = load("voc", voc, "test")
    numbered = load("voc", voc, "test", ({"id": 7, "name": "zebra"}, {"id": 9, "name": "ant"}))
    assert alone.annotations[0]["category_id"] == 1 and numbered.annotations[0]["category_id"] == 9
    assert alone.fingerprint == numbered.fingerprint


def test_a_data_set_cannot_be_changed(voc):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("voc", voc, "test").split = "train"


@pytest.mark.parametrize(
    ("layout", "there", "expected"),
    [
        ("voc", "train trainval val test", ("trainval", "test")),
        ("voc", "train trainval val", ("train", "val")),
        ("voc", "train test", ("train", "test")),
        ("voc", "trainval val", None),
        ("coco", "train2017 val2017 train val", ("train2017", "val2017")),
        ("coco", "train val test", ("train", "val")),
        ("coco", "train test", ("train", "test")),
        ("coco", "all", None),
        ("cityscapes", "train val test", ("train", "val")),
        ("cityscapes", "", None),
    ],
)
def test_default_splits(tmp_path, layout, there, expected):
    for name in there.split():
        path = {
            "voc": f"ImageSets/Main/{name}.txt",
            "coco": f"annotations/instances_{name}.json",
        }.get(layout)
        path = tmp_path / (path or f"leftImg8bit/{name}/x")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if expected:
        assert default_splits(layout, tmp_path) == expected
    else:
        with pytest.raises(InputError, match="which splits are for training") as error:
            default_splits(layout, tmp_path)
        assert str(tmp_path) in str(error.value) and all(
            name in str(error.value) for name in there.split()
        )


def test_check_counts_by_category_and_size(tmp_path):
    root = tmp_path / "voc"
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("a\nb\n")
    (root / "ImageSets/Main/test.txt").write_text("b")
    (root / "Annotations").mkdir()
    sizes = ((31, 32), (32, 32), (96, 95), (96, 96))
    boxes = [("x" if w < 96 else "y", (1, 1, w, h)) for w, h in sizes]
    (root / "Annotations/a.xml").write_text(xml(*boxes, size=None))
    (root / "Annotations/b.xml").write_text(
        xml(("y", (1, 1, 9, 9), "<difficult>1</difficult>"), size=None)
    )
    for name in "ab":
        picture(root / f"JPEGImages/{name}.jpg", (100, 100))
    calls = []
    report = check("voc", root, report=lambda *call: calls.append(call))
    train, test = report.splits
    assert not report.problems and (train["split"], test["split"]) == ("train", "test")
    assert train["categories"] == {
        "x": {"objects": 2, "small": 1, "medium": 1, "large": 0},
        "y": {"objects": 3, "small": 1, "medium": 1, "large": 1},
    }
    numbers = {
        key: train[key]
        for key in ("images", "images_with_objects", "objects", "small", "difficult", "crowd")
    }
    assert numbers == {
        "images": 2,
        "images_with_objects": 2,
        "objects": 5,
        "small": 2,
        "difficult": 1,
        "crowd": 0,
    }
    assert (
        train["fingerprint"] == load("voc", root, "train").fingerprint and train["official"] is None
    )
    assert calls == [("check train", 2, 2), ("check test", 1, 1)]
    text = str(report)
    assert "x: 2 (1 small, 1 medium, 0 large)" in text and train["fingerprint"] in text


def test_check_decodes_pictures_to_the_end_and_measures_them(coco):
    path = coco / "train/b.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    picture(coco / "train/a.jpg", (H, W))
    assert load("coco", coco, "train")  # listings only
    problems = check("coco", coco).problems
    assert [problem.split(": ")[0] for problem in problems] == [
        str(coco / "train/a.jpg"),
        str(path),
    ]
    assert f"is {H} x {W} (after EXIF rotation), but the annotations say {W} x {H}" in problems[0]
    assert "truncated" in problems[1]


def test_check_reports_missing_splits_and_categories_without_stopping(voc):
    (voc / "Annotations/three.xml").write_text(xml(("cat", (1, 1, 9, 9))))
    report = check("voc", voc, ["trainval", "nope", "test"])
    assert [split["split"] for split in report.splits] == ["trainval", "test"]
    assert (
        "no split 'nope'" in report.problems[0] and "unknown category 'cat'" in report.problems[1]
    )
    with pytest.raises(InputError, match="no such folder"):
        check("voc", voc / "x")
    (voc.parent / "empty").mkdir()
    assert "no splits" in check("voc", voc.parent / "empty").problems[0]


@pytest.mark.parametrize(
    ("layout", "folder", "split", "size"),
    [
        ("voc", "VOC2007", "trainval", "5,011"),
        ("voc", "VOC2007", "test", "4,952"),
        ("voc", "VOC2012", "trainval", "11,540"),
        ("voc", "mine", "test", None),
        ("voc", "VOC2007", "train", None),
        ("coco", "coco", "train2017", "118,287"),
        ("coco", "coco", "val2017", "5,000"),
        ("coco", "coco", "val", None),
    ],
)
def test_check_compares_official_folders_with_the_official_sizes(
    request, tmp_path, layout, folder, split, size
):
    if layout == "voc":
        root = request.getfixturevalue("voc").rename(tmp_path / folder)
        if not (root / f"ImageSets/Main/{split}.txt").exists():
            shutil.copy(root / "ImageSets/Main/trainval.txt", root / f"ImageSets/Main/{split}.txt")
    else:
        root = write_coco(
            tmp_path / folder, name=f"annotations/instances_{split}.json", folder=split
        )
    problems = check(layout, root, split).problems
    assert (f"the official one {size}" in problems[0]) if size else not problems


def test_check_compares_cityscapes_only_where_pictures_have_its_size(cityscapes):
    root, ids = cityscapes
    assert not check("cityscapes", root).problems
    picture(next((root / "leftImg8bit/val/town").iterdir()), (2048, 1024))
    wide = np.pad(ids, ((0, 1024 - H), (0, 2048 - W)), constant_values=7)
    Image.fromarray(wide).save(next((root / "gtFine/val/town").iterdir()))
    assert check("cityscapes", root).problems == (
        f"{root}: split 'val' has 1 pictures, the official one 500",
    )


def test_official_train2017_also_counts_pictures_with_objects(monkeypatch, tmp_path):
    root = write_coco(
        tmp_path / "coco", name="annotations/instances_train2017.json", folder="train2017"
    )
    for sizes, problems in (((3, 2), 0), ((3, 3), 1), ((4, 2), 1)):
        monkeypatch.setattr(datasets, "OFFICIAL", {("coco", ("coco",), "train2017"): sizes})
        report = check("coco", root)
        assert report.splits[0]["official"] == sizes and len(report.problems) == problems
        assert ("not the official size" in str(report)) == bool(problems)


SHARED = Path(os.environ.get("DETCO_SHARED") or ROOT.parent / "shared")


@pytest.mark.skipif(not (SHARED / "data/raccoon").is_dir(), reason="needs the shared photographs")
def test_real_photographs_in_voc_layout():
    root = SHARED / "data/raccoon"
    train, test = (load("voc", root, split) for split in default_splits("voc", root))
    assert (len(train.images), len(test.images), train.categories) == (
        160,
        40,
        ({"id": 1, "name": "raccoon"},),
    )
    assert check("voc", root).problems == ()


def test_class_lists_of_voc_are_no_splits(tmp_path):
    folder = tmp_path / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    for name, text in (
        ("train", "000012\n"),
        ("aeroplane_train", "000012 -1\n"),
        ("img_train", "a 1.5\n"),
        ("val", "x 1\n"),
    ):
        (folder / f"{name}.txt").write_text(text)
    assert splits(tmp_path) == ["img_train", "train", "val"]
