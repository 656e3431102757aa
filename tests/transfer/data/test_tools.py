"""Data as tools export them, found by themselves: each tree gives the same boxes."""

import json
import unicodedata
from pathlib import Path

import pytest

from detco.benchmarks.plan import datasets as plan_datasets
from detco.benchmarks.suites.builtin import Data
from detco.common.errors import InputError
from detco.transfer.data import layout_of, voc
from detco.transfer.data.dataset import check, default_splits, load
from tests.factories.datasets import H, W, picture, refused, xml

BOX = [2, 3, 20, 21]


def coco_file(path: Path, *file_names: str) -> None:
    """One box in each image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "images": [
            {"id": k, "file_name": name, "width": W, "height": H}
            for k, name in enumerate(file_names, 1)
        ],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": BOX}
            for k in range(1, len(file_names) + 1)
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }
    path.write_text(json.dumps(document))


def voc_file(path: Path) -> None:
    """The same box, counted from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(xml(("cup", (3, 4, 22, 24))))


# tool -> (layout, annotation files by the names they list, image files, splits)
COCO_TREES = {
    "Roboflow": (
        {"train/_annotations.coco.json": ["a.jpg"], "valid/_annotations.coco.json": ["b.jpg"]},
        ["train/a.jpg", "valid/b.jpg"],
        ["train", "valid"],
    ),
    "FiftyOne": ({"labels.json": ["a.jpg"]}, ["data/a.jpg"], ["labels"]),
    "FiftyOne, two splits": (
        {"train/labels.json": ["a.jpg"], "validation/labels.json": ["b.jpg"]},
        ["train/data/a.jpg", "validation/data/b.jpg"],
        ["train", "validation"],
    ),
    "CVAT": (
        {"annotations/instances_default.json": ["a.jpg", "sub/b.jpg"]},
        ["images/default/a.jpg", "images/default/sub/b.jpg"],
        ["default"],
    ),
    "CVAT, images beside": (
        {"annotations/instances_default.json": ["a.jpg"]},
        ["images/a.jpg"],
        ["default"],
    ),
    "labelme2coco": ({"dataset.json": ["photos/a.jpg"]}, ["photos/a.jpg"], ["dataset"]),
    "labelme2coco, two splits": (
        {"train.json": ["a.jpg"], "val.json": ["b.jpg"]},
        ["a.jpg", "b.jpg"],
        ["train", "val"],
    ),
    "Label Studio": (
        {"result.json": ["images\\90fbb0c7-a.jpg", "images\\1/1a2b3c4d-b.jpg"]},
        ["images/90fbb0c7-a.jpg", "images/b.jpg"],
        ["result"],
    ),
    "Label Studio, upload paths": (
        {"result.json": ["..\\..\\label-studio\\media\\upload\\4\\cb0618f6-a.jpg"]},
        ["images/a.jpg"],
        ["result"],
    ),
    "Kaggle": (
        {"train_annotations.json": ["a.jpg"], "val_annotations.json": ["b.jpg"]},
        ["train/a.jpg", "val/b.jpg"],
        ["train", "val"],
    ),
    "AutoGluon": (
        {"annotations/train_labels.json": ["a.jpg"], "annotations/test_labels.json": ["b.jpg"]},
        ["images/a.jpg", "images/b.jpg"],
        ["test", "train"],
    ),
}


@pytest.mark.parametrize("tool", COCO_TREES)
def test_coco_trees_of_tools(tmp_path, tool):
    files, images, names = COCO_TREES[tool]
    for name, listed in files.items():
        coco_file(tmp_path / name, *listed)
    for name in images:
        picture(tmp_path / name)
    (tmp_path / "readme.json").write_text('{"images": 3}')
    assert layout_of(tmp_path) == "coco"
    report = check("coco", tmp_path)
    assert not report.problems and sorted(split["split"] for split in report.splits) == names
    found = [load("coco", tmp_path, name) for name in names]
    assert {a["bbox"] == BOX for one in found for a in one.annotations} == {True}
    paths = {image["file_name"] for one in found for image in one.images}
    assert paths == {str(tmp_path / name) for name in images}
    if len(names) == 2:
        assert plan_datasets.find_splits(Data(tmp_path)).train == "train"
    else:
        with pytest.raises(InputError, match="detco data split"):
            default_splits("coco", tmp_path)


VOC_TREES = {
    "Roboflow": (["train/a.xml", "valid/b.xml"], ["train/a.jpg", "valid/b.jpg"]),
    "labelImg": (["a.xml", "b.xml"], ["a.jpg", "b.Jpg"]),
    "Kaggle": (["annotations/a.xml", "annotations/b.xml"], ["images/a.png", "images/b.JPEG"]),
    "two Kaggles": (
        ["train/annotations/a.xml", "test/annotations/b.xml"],
        ["train/images/a.jpg", "test/images/b.jpg"],
    ),
    "VOC without lists": (["Annotations/a.xml", "Annotations/b.xml"], ["JPEGImages/a.jpg"] * 2),
}


@pytest.mark.parametrize("tool", VOC_TREES)
def test_voc_trees_of_tools(tmp_path, tool):
    files, images = VOC_TREES[tool]
    if tool == "VOC without lists":
        images = ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    for name in files:
        voc_file(tmp_path / name)
    for name in images:
        picture(tmp_path / name, format="PNG" if name.endswith("png") else "JPEG")
    assert layout_of(tmp_path) == "voc"
    names = voc.splits(tmp_path)
    report = check("voc", tmp_path)
    assert not report.problems and sum(split["objects"] for split in report.splits) == 2
    found = [load("voc", tmp_path, name) for name in names]
    assert all(a["bbox"] == BOX for one in found for a in one.annotations)
    paths = {image["file_name"] for one in found for image in one.images}
    assert paths == {str(tmp_path / name) for name in images}
    if len(names) == 2:
        assert plan_datasets.find_splits(Data(tmp_path)).train == "train"
    else:
        assert names == ["all"]
        with pytest.raises(InputError, match="detco data split"):
            default_splits("voc", tmp_path)


def test_images_without_xml_are_counted(tmp_path):
    voc_file(tmp_path / "train/a.xml")
    for name in "abc":
        picture(tmp_path / f"train/{name}.jpg")
    train = load("voc", tmp_path, "train")
    assert len(train.images) == 1 and "2 images without an XML file" in train.notes[0]


def test_a_folder_of_data_sets_or_of_anything_else_has_no_layout(tmp_path):
    assert layout_of(tmp_path / "gone") is None and layout_of(tmp_path) is None
    coco_file(tmp_path / "coco/annotations/instances_train.json", "a.jpg")
    voc_file(tmp_path / "VOC2007/Annotations/a.xml")
    for k in range(30):  # labelme: a file an image
        (tmp_path / f"{k}.json").write_text('{"shapes": []}')
    picture(tmp_path / "train/class/a.jpg")
    assert layout_of(tmp_path) is None


NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("'a'", "a.jpg"),
        ('"a"', "a.jpg"),
        ("a.jpg", "a.jpg"),
        ("a", "a.Jpg"),
        ("sub/a", "sub/a.jpg"),
        ("sub\\a", "sub/a.jpg"),
        (NFC, f"{NFD}.jpg"),
        (NFD, f"{NFC}.jpg"),
        ("a.b", "a.b.jpg"),
        ("#1", "#1.jpg"),
    ],
)
def test_names_in_lists(tmp_path, line, file):
    picture(tmp_path / "JPEGImages" / file)
    voc_file(tmp_path / "Annotations" / Path(file).with_suffix(".xml"))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text(f"# a comment\n{line}\n", encoding="utf-8")
    (image,) = load("voc", tmp_path, "train").images
    assert image["file_name"] == str(tmp_path / "JPEGImages" / file)


def test_the_line_says_where_the_file_is(tmp_path):
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    voc_file(tmp_path / "Annotations/a.xml")
    picture(tmp_path / "JPEGImages/b.jpg")
    picture(tmp_path / "elsewhere/a.jpg")
    line = refused("no such picture", "voc", tmp_path, "train")
    assert line.endswith(f"; there is {tmp_path / 'elsewhere/a.jpg'}")


def test_the_picture_of_another_split_is_not_taken(tmp_path):
    """The same name in another split's folder is another picture."""
    coco_file(tmp_path / "annotations/instances_train.json", "a.jpg", "b.jpg")
    picture(tmp_path / "train/a.jpg")
    picture(tmp_path / "val/b.jpg")
    line = refused("no such picture", "coco", tmp_path, "train")
    assert line.endswith(f"; there is {tmp_path / 'val/b.jpg'}")


def test_of_two_files_of_one_name_the_one_in_the_folder_named_is_taken(tmp_path):
    coco_file(tmp_path / "result.json", "C:\\data\\left\\a.jpg", "/home/me/right/a.jpg")
    for name in ("left/a.jpg", "right/a.jpg"):
        picture(tmp_path / name)
    found = load("coco", tmp_path, "result")
    assert [i["file_name"] for i in found.images] == [
        str(tmp_path / "left/a.jpg"),
        str(tmp_path / "right/a.jpg"),
    ]
    assert "2 of 2 pictures lie elsewhere" in found.notes[0]
    coco_file(tmp_path / "result.json", "a.jpg")
    refused("no such picture", "coco", tmp_path, "result")
