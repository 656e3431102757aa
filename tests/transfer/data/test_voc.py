"""The layout VOC: what is read from it, and what is refused."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from detco.common.images import ENDINGS
from detco.transfer.data.dataset import check, default_splits, load
from detco.transfer.data.voc import CLASSES, splits
from tests.factories import ROOT
from tests.factories.datasets import H, W, picture, refused, xml


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


@pytest.mark.parametrize("ending", ENDINGS)
def test_voc_images_of_every_ending_that_pretraining_takes(voc, ending):
    os.rename(voc / "JPEGImages/one.jpg", voc / f"JPEGImages/one{ending}")
    assert load("voc", voc, "trainval").images[1]["file_name"].endswith(f"one{ending}")


def test_voc_boxes_a_pixel_over_the_border_stay_as_written(voc):
    test = load("voc", voc, "test", load("voc", voc, "trainval").categories)
    assert test.annotations[0]["bbox"] == [-1, 4, 21, H + 1 - 4]
    assert test.annotations[0]["category_id"] == 1


def test_voc_names_give_all_twenty_classes_in_their_order(voc):
    (voc / "Annotations/one.xml").write_text(xml(("sheep", (1, 1, 9, 9)), ("bird", (1, 1, 9, 9))))
    train = load("voc", voc, "trainval")
    assert [c["name"] for c in train.categories] == list(CLASSES) and len(CLASSES) == 20
    # sheep is VOC's 17th, bird its 3rd
    assert [a["category_id"] for a in train.annotations] == [
        17,
        3,
    ]


def test_voc_takes_other_suffixes_and_files_without_a_size(voc):
    (voc / "JPEGImages/one.jpg").unlink()
    picture(voc / "JPEGImages/one.PNG", format="PNG")
    for size in (None, (0, 0)):
        (voc / "Annotations/one.xml").write_text(xml(("ant", (1, 1, 9, 9)), size=size))
        train = load("voc", voc, "trainval")
        assert (train.images[1]["width"], train.images[1]["height"]) == (W, H)
        assert train.images[1]["file_name"].endswith("one.PNG")


def test_voc_without_a_size_is_read_as_shown_and_said_where_exif_turns_it(voc):
    (voc / "Annotations/one.xml").write_text(xml(("ant", (1, 1, 9, 9)), size=None))
    assert not load("voc", voc, "trainval").notes
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(voc / "JPEGImages/one.jpg", exif=exif)
    found = load("voc", voc, "trainval")
    (image,) = (image for image in found.images if image["name"] == "one")
    assert (image["width"], image["height"]) == (H, W)
    assert "1 XML files state no size" in found.notes[0] and "one.jpg" in found.notes[0]


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
    line = refused(BAD_XML[text], "voc", voc, "trainval", strict=True)
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
    (voc / "ImageSets/Main/trainval.txt").write_text("two")
    refused("split 'trainval' has pictures but no objects", "voc", voc, "trainval")
    refused("unknown layout 'yolo': there are voc, coco, cityscapes", "yolo", voc, "trainval")


def test_a_category_that_training_does_not_know_is_refused_by_name(voc):
    categories = load("voc", voc, "trainval").categories
    (voc / "Annotations/three.xml").write_text(xml(("Ant", (1, 1, 9, 9))))
    line = refused("split 'test': unknown category 'Ant'", "voc", voc, "test", categories)
    assert "JPEGImages/three.jpg" in line and "training has ant, zebra" in line


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


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("0", 0), ("true", 1), (" False ", 0), ("", 0), ("2", None)]
)
def test_difficult_is_read_or_refused(voc, text, value):
    """An object that is difficult does not count: a word that says neither is no 0."""
    path = voc / "Annotations/two.xml"
    path.write_text(xml(("ant", (3, 4, 10, 20), f"<difficult>{text}</difficult>")))
    if value is None:
        refused("difficult must be 0 or 1, found '2'", "voc", voc, "trainval", strict=True)
        return
    (found,) = [a for a in load("voc", voc, "trainval").annotations if a["image_id"] == 1]
    assert found["difficult"] == value


@pytest.mark.parametrize("kind", ["list", "xml"])
def test_a_pipe_in_place_of_a_file_is_named(voc, kind):
    path = voc / ("ImageSets/Main/trainval.txt" if kind == "list" else "Annotations/one.xml")
    path.unlink()
    os.mkfifo(path)
    refused(f"{path}: cannot be read: a named pipe", "voc", voc, "trainval")


def test_a_list_that_is_no_text_is_named(voc):
    (voc / "ImageSets/Main/trainval.txt").write_bytes("tür\n".encode("latin-1"))
    refused("trainval.txt: not a text file", "voc", voc, "trainval")
