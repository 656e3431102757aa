"""The layout COCO: what is read from it, and what is refused."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from detco.transfer.data.dataset import coco_dict, default_splits, load
from tests.factories.datasets import COCO, H, W, changed, refused, write_coco


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
    # neither mask nor area: the box's
    assert "segmentation" not in person and person["area"] == 900
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
    (changed("images", 0, id="b7"), "an image needs a whole number 'id'"),
    (changed("images", 0, width=0), "image 7 (b.jpg): width and height must be positive"),
    (changed("categories", 0, name="person"), "category 5 ('person') occurs more than once"),
    (changed("categories", 0, id=5), "category 5 ('person') occurs more than once"),
    (changed("categories", 0, id=None), "a category needs a whole number 'id'"),
    (changed("categories", 1, sigmas=[0.1]), "'sigmas' must be one positive number a keypoint"),
    (
        changed("annotations", 1, image_id=99),
        "annotation 8: refers to image 99: the file lists no good image",
    ),
    (changed("annotations", 1, category_id=6), "annotation 8: unknown category 6"),
    (changed("annotations", 1, bbox=[1, 2, 3]), "annotation 8 (b.jpg): bbox must be four numbers"),
    (
        changed("annotations", 1, bbox=[1, 2, 3, "4"]),
        "annotation 8 (b.jpg): bbox must be four numbers",
    ),
    (
        changed("annotations", 1, bbox=[1, 2, 3, float("nan")]),
        "annotation 8 (b.jpg): bbox must be four numbers",
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
        "RLE",
    ),
    (
        changed("annotations", 1, segmentation={"size": [48, 64], "counts": "\0"}),
        "RLE",
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
    assert str(root) in refused(message, "coco", root, "train", strict=True)


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


def test_a_plus_in_a_name_joins_nothing(coco):
    expected = load("coco", coco, "train")
    (coco / "train").rename(coco / "old+new")
    annotations = coco / "annotations" / "instances_train.json"
    annotations.rename(annotations.with_name("instances_old+new.json"))
    found = load("coco", coco, "old+new")
    names = [image["name"] for image in expected.images]
    assert [image["name"] for image in found.images] == names and len(names) == 3
