"""`detco data check`: all errors, and the counts."""

import dataclasses
import json
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from detco.benchmarks.cli.main import main
from detco.common.errors import InputError
from detco.transfer.data import dataset as datasets
from detco.transfer.data.dataset import check, load
from tests.factories.datasets import COCO, H, W, picture, refused, write_coco, xml


def test_several_problems_are_counted_and_all_listed_by_check(voc):
    (voc / "Annotations/one.xml").write_text(
        xml(("ant", (5, 1, 5, 9)), ("ant", (1, 1, 999, 9)), ("", (1, 1, 9, 9)))
    )
    (voc / "JPEGImages/two.jpg").unlink()
    line = refused("JPEGImages/two.jpg: no such picture", "voc", voc, "trainval", strict=True)
    assert line.endswith(
        f"(and 3 more: `detco data check voc {voc} --split trainval --strict` lists them)"
    )
    report = check("voc", voc, "trainval", strict=True)
    assert report.problem_count == len(report.problems) == 4
    for part in (
        "two.jpg",
        "object 1 ('ant'): the box 5 1 5 9",
        "object 2 ('ant'): the box 1 1 999 9",
        "object 3 has",
    ):
        assert sum(part in problem for problem in report.problems) == 1
    short = check("voc", voc, "trainval", limit=2, strict=True)
    assert short.problems == report.problems[:2] and short.problem_count == 4
    assert str(short).endswith("... and 2 more")


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
    assert (train["split"], test["split"]) == ("train", "test")
    (problem,) = report.problems
    assert "all 1 test images of split 'test' are training images" in problem
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
    assert calls[:2] == [("check train", 2, 2), ("check test", 1, 1)]
    assert calls[-1] == ("hash images", 3, 3)
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
    report = check(layout, root, split)
    assert not report.problems  # own data may lie in a folder of that name
    assert (f"the official one {size}" in report.notes[0]) if size else not report.notes


def test_check_compares_cityscapes_only_where_pictures_have_its_size(cityscapes):
    root, ids = cityscapes
    assert not check("cityscapes", root).problems
    picture(next((root / "leftImg8bit/val/town").iterdir()), (2048, 1024))
    wide = np.pad(ids, ((0, 1024 - H), (0, 2048 - W)), constant_values=7)
    Image.fromarray(wide).save(next((root / "gtFine/val/town").iterdir()))
    assert check("cityscapes", root).notes == (
        f"{root}: split 'val' has 1 pictures, the official one 500",
    )


def test_official_train2017_also_counts_pictures_with_objects(monkeypatch, tmp_path):
    root = write_coco(
        tmp_path / "coco", name="annotations/instances_train2017.json", folder="train2017"
    )
    for sizes, problems in (((3, 2), 0), ((3, 3), 1), ((4, 2), 1)):
        monkeypatch.setattr(datasets, "OFFICIAL", {("coco", ("coco",), "train2017"): sizes})
        report = check("coco", root)
        assert report.splits[0]["official"] == sizes and len(report.notes) == problems
        assert ("not the official size" in str(report)) == bool(problems)


def test_the_command_of_a_message_lists_what_it_promises(tmp_path, capsys):
    """Also for a folder with a space in it, and where keypoints are in a file of their own."""
    bad = json.loads(json.dumps(COCO))
    for image in bad["images"]:
        image["width"] = 0
    root = write_coco(tmp_path / "my data")
    write_coco(root, bad, "annotations/person_keypoints_train.json")
    line = refused("lists them", "coco", root, "train", keypoints=True)
    command = line.split("`")[1]
    assert main(shlex.split(command)[1:]) == 2
    assert capsys.readouterr().out.count("width and height must be") == 3


def test_what_check_prints_holds_no_control_characters(voc):
    report = check("voc", voc, "trainval")
    (split,) = report.splits
    odd = {f"\x1b[31m{name}\n": row for name, row in split["categories"].items()}
    report = dataclasses.replace(
        report,
        splits=({**split, "split": "a\x07", "categories": odd},),
        notes=("b\x9b1m\n",),
        problems=("c\x1b]0;title",),
    )
    lines = str(report).split("\n")
    assert all(line.isprintable() for line in lines) and len(lines) == 4 + len(odd)
    assert r"note: b\x9b1m\n" in lines and r"wrong: c\x1b]0;title" in lines
