"""YOLO data sets become COCO files with the same boxes."""

import pytest

from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import datasets as plan_datasets
from detco.benchmarks.suites.builtin import Data
from detco.common.errors import InputError
from detco.transfer.data import dataset
from detco.transfer.data.making import yolo
from tests.factories.datasets import H, W, picture

TREES = {
    "Ultralytics": (
        "path: .\ntrain: images/train\nval: images/val\nnames: {0: cup, 1: pen}\n",
        {"train": "images/train/a.jpg", "val": "images/val/b.jpg"},
    ),
    "Roboflow": (
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cup', 'pen']\n",
        {"train": "train/images/a.jpg", "val": "valid/images/b.jpg"},
    ),
    "lists": (
        "train: train.txt\nval: [images/val]\nnames: [cup, pen]\n",
        {"train": "images/train/a.jpg", "val": "images/val/b.jpg"},
    ),
    "CVAT": (
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
        {"train": "obj_train_data/a.jpg"},
    ),
    "Label Studio": (None, {"all": "images/a.jpg"}),
}
LINES = "1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.75 0.25 0.75 0.5\n"


def written(root, text, images, lines=LINES):
    for path in images.values():
        picture(root / path)
        label = root / path.replace("images", "labels").replace(".jpg", ".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(lines)
    if text and "obj.names" in text:
        (root / "obj.data").write_text(text)
        (root / "obj.names").write_text("cup\npen\n")
        (root / "train.txt").write_text("data/obj_train_data/a.jpg\n")
        return root
    if text is None:
        (root / "classes.txt").write_text("cup\npen\n")
    else:
        (root / "data.yaml").write_text(text)
    (root / "train.txt").write_text("./images/train/a.jpg\n")
    return root


@pytest.mark.parametrize("tree", TREES)
def test_boxes_and_polygons_of_each_tree(tmp_path, tree, capsys):
    text, images = TREES[tree]
    root = written(tmp_path / "yolo", text, images)
    assert cli.main(["data", "convert", "yolo", str(root), str(tmp_path / "out")]) == 0
    assert f"instances_{next(iter(images))}.json: 1 images, 2 objects" in capsys.readouterr().out
    for split, path in images.items():
        found = dataset.load("coco", tmp_path / "out", split, strict=True)
        assert [image["file_name"] for image in found.images] == [str(root / path)]
        assert [c["name"] for c in found.categories] == ["cup", "pen"]
        pen, cup = found.annotations
        assert (pen["category_id"], pen["bbox"]) == (1, [W * 0.375, H * 0.25, W * 0.25, H * 0.5])
        assert (cup["category_id"], cup["bbox"]) == (0, [W * 0.25, H * 0.25, W * 0.5, H * 0.25])
        assert cup["segmentation"] == [[16, 12, 48, 12, 48, 24]] and cup["area"] > 0
    assert not dataset.check("coco", tmp_path / "out").problems


BAD = {
    "2 0.5 0.5 0.1 0.1": "class 2 is not among the 2",
    "0 0.5 0.5 0.1": "4 values: expected a class and four",
    "0 0.5 0.5 0.1 0.1 0.9": "6 values: expected a class and four",
    "0 32 24 10 10": "values must be shares of the image",
    "0 0.5 0.5 nan 0.1": "values must be shares of the image",
    "cup 0.5 0.5 0.1 0.1": "a class (by its number) and its places must be numbers",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_lines_are_named(tmp_path, line, capsys):
    text, images = TREES["Ultralytics"]
    root = written(tmp_path / "yolo", text, images, f"{LINES}{line}\n")
    assert cli.main(["data", "convert", "yolo", str(root), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"labels/train/a.txt, line 3: {BAD[line]}" in said and not (tmp_path / "out").exists()


def test_keypoints_are_left_and_the_box_kept_and_an_image_without_labels_has_no_objects(tmp_path):
    text, images = TREES["Ultralytics"]
    line = "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.9 2\n"
    root = written(tmp_path / "yolo", f"{text}kpt_shape: [2, 3]\n", images, line)
    (root / "labels/val/b.txt").unlink()
    assert cli.main(["data", "convert", "yolo", str(root), str(root)]) == 0
    train = dataset.load("coco", root, "train")
    assert train.annotations[0]["bbox"] == [W * 0.25, H * 0.25, W * 0.5, H * 0.5]
    assert train.images[0]["name"] == "images/train/a.jpg"
    assert '"annotations": []' in (root / "annotations/instances_val.json").read_text()


def test_what_is_missing_is_named_and_nothing_overwritten(tmp_path, capsys):
    def refused(root, text):
        assert cli.main(["data", "convert", "yolo", str(root), str(tmp_path / "out")]) == 2
        assert text in capsys.readouterr().err

    refused(tmp_path, "no data.yaml")
    text, images = TREES["Ultralytics"]
    root = written(tmp_path / "yolo", text, images)
    with pytest.raises(InputError, match=f"`detco data convert yolo {root} OUT`"):
        plan_datasets.find_splits(Data(root))
    (root / "data.yaml").write_text(text.replace("images/val", "images/gone"))
    refused(root, "images/gone: no such folder or list")
    for content in ("", "[1]", "a"):
        (root / "data.yaml").write_text(content)
        refused(root, "must give 'names'")
    (root / "data.yaml").write_text('names: [cup]\ntrain: "a\\0b"\n')
    refused(root, "NUL")
    for names in ("names: 3", "names: {a: cup}", "train: images/train"):
        (root / "data.yaml").write_text(f"{names}\n")
        refused(root, "'names' must list the classes")
    (root / "data.yaml").write_text(text)
    assert cli.main(["data", "convert", "yolo", str(root), str(tmp_path / "out")]) == 0
    refused(root, "exists already and is not overwritten")


def test_a_text_beside_an_image_is_no_label_where_labels_has_one(tmp_path):
    text, images = TREES["Label Studio"]
    root = written(tmp_path / "images" / "yolo", text, images)  # a parent of that name, too
    (root / "images" / "a.txt").write_text("a caption\n")
    done = yolo.convert(root, {"names": ["cup", "pen"]}, tmp_path / "out")
    assert list(done.values()) == [(1, 2)]
