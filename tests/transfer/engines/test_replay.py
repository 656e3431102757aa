"""The engine that replays ground truth."""

import json
import shutil

import pytest

from detco.benchmarks.cli import main as cli
from detco.transfer import finetune
from detco.transfer.data.dataset import load
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.scoring import score as scoring
from tests.factories import datasets


def with_polygons(root, path):
    """The scenes with the outlines of boxes in place of masks."""
    shutil.copytree(root, path)
    for file in (path / "annotations").glob("instances_*.json"):
        document = json.loads(file.read_bytes())
        for a in document["annotations"]:
            x, y, w, h = a["bbox"]
            a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            a["iscrowd"] = 0
        file.write_text(json.dumps(document))
    return path


def test_masks_written_as_polygons_are_replayed(scenes, tmp_path):
    """Boxes are moved, masks are not: each that is found overlaps its own fully, so its AP at an
    IoU of 0.75 is that at 0.5."""
    root = with_polygons(scenes / "coco", tmp_path / "coco")
    words = ["transfer", "small-mask-rcnn-c4", "--weights", "random"]
    words += ["--data", str(root), "--engine", "replay", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    (path,) = (tmp_path / "out").rglob("predictions.json")
    found = scoring.score_file(load("coco", root, "val"), path, "coco", ("mask",))
    assert found["mask_ap75"] == found["mask_ap50"] > 50


def test_classes_are_replayed_with_noise(tmp_path):
    root = datasets.classes(tmp_path / "mine", 2, 40)
    data = {"layout": "imagefolder", "root": str(root)}
    record = finetune.finetune(PROTOCOLS["imagenet-knn"], "random", data, tmp_path, "replay")
    assert set(record["metrics"]) == {"knn20", "knn200"}
    assert all(70 < value < 100 for value in record["metrics"].values())
    assert record["engine"] == "replay" and "replayed" in str(record["deviations"])


def test_classes_of_pixels_are_replayed(scenes, tmp_path):
    """Each is found whole or not at all: its IoU is the share of its pixels in the images where it
    is found, as no other class takes pixels of it."""
    row, root = PROTOCOLS["cityscapes-semantic"], scenes / "cityscapes"
    data = {"layout": "cityscapes", "root": str(root)}
    record = finetune.finetune(row, "random", data, tmp_path, "replay")
    test = load("cityscapes", root, "val", semantic=True)
    found = {
        (one["image_id"], one["category_id"])
        for one in json.loads((tmp_path / "predictions.json").read_bytes())
    }
    of_class = [one for one in test.annotations if one["category_id"] == 23]  # sky
    seen = [one["area"] for one in of_class if (one["image_id"], 23) in found]
    share = sum(seen) / sum(one["area"] for one in of_class)
    assert share > 0 and record["metrics"]["miou/sky"] == pytest.approx(100 * share)
