"""What a page is made of: detections with their masks and keypoints, losses by their names."""

import json

import numpy as np
import pytest
from pycocotools import mask as rle
from torch.utils.tensorboard import SummaryWriter

from detco.benchmarks.report import examples, gather
from detco.common.progress import silent
from detco.pretrain.methods import METHODS
from detco.transfer.data import dataset, masks
from detco.transfer.settings import HEADS, LOSSES
from tests.factories.detectors import replayed


def test_masks_and_keypoints_of_both_sides(scenes, tmp_path):
    """Against the data set itself: its masks pixel by pixel, its keypoints number by number."""
    read, whole = {}, {}
    for name in ("small-mask-rcnn-fpn", "small-keypoint-rcnn", "small-retinanet"):
        record = replayed(name, scenes, tmp_path / name)
        found = examples.examples([record], {record["id"]: tmp_path / name}, read)
        boxes = [box for one in found for side in (one.truth, one.found["random"]) for box in side]
        whole[name] = found, boxes
        assert len(found) == examples.EXAMPLES and boxes
        assert all(box.score >= 0.5 for one in found for box in one.found["random"])
    assert len(read) == 2  # the keypoints are in a file of their own
    data = dataset.load("coco", scenes / "coco", "val")
    by_path = {image["file_name"]: image for image in data.images}
    found, boxes = whole["small-mask-rcnn-fpn"]
    assert all(box.mask and not box.keypoints for box in boxes)
    for example in found:
        image = by_path[str(example.picture)]
        size = image["height"], image["width"]
        own = [a for a in data.annotations if a["image_id"] == image["id"]]
        for box, annotation in zip(example.truth, own, strict=True):
            expected = masks.decode(annotation["segmentation"], *size)
            assert np.array_equal(rle.decode(box.mask), expected)
    found, boxes = whole["small-keypoint-rcnn"]
    assert all(box.keypoints and box.mask is None for box in boxes)
    data = dataset.load("coco", scenes / "coco", "val", keypoints=True)
    known = [tuple(a["keypoints"]) for a in data.annotations if a.get("keypoints")]
    assert all(tuple(box.keypoints) in known for box in boxes)
    (person,) = [category for category in data.categories if category.get("skeleton")]
    assert found[0].skeletons == {person["name"]: person["skeleton"]}
    assert not any(box.mask or box.keypoints for box in whole["small-retinanet"][1])


def test_a_mask_that_does_not_fit_is_a_note(scenes, tmp_path):
    """pycocotools would read outside its memory."""
    record = replayed("small-mask-rcnn-fpn", scenes, tmp_path)
    path, notes = tmp_path / "predictions.json", []
    found = json.loads(path.read_bytes())
    for one in found:
        one["segmentation"], one["score"] = (
            {"size": one["segmentation"]["size"], "counts": "0"},
            0.9,
        )
    path.write_text(json.dumps(found))
    cells = {"mask": {"random": record}}
    made = gather._examples(cells, {record["id"]: tmp_path}, notes, silent)
    assert made == {} and "mask: no example pictures: segmentation is malformed RLE" in notes[0]


def test_classes_of_images_are_not_drawn(tmp_path):
    record = {"id": "a", "spec": {"protocol_row": {"metrics": ["class"]}}}
    notes = []
    assert gather._examples({"knn": {"random": record}}, {"a": tmp_path}, notes, silent) == {}
    assert notes == []


def test_curves_come_from_metrics_or_else_from_tensorboard(tmp_path):
    lines = [
        {"stage": "train", "iteration": 1, "loss": 3.5, "lr": 0.1},
        {"stage": "evaluate", "iteration": 1, "box_ap": 7.0},
        {"stage": "train", "iteration": 2, "loss": "nan"},
        {"stage": "train", "iteration": 3, "loss": 2.5},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "tr'
    (tmp_path / "metrics.jsonl").write_text(text)
    with SummaryWriter(str(tmp_path / "tb")) as writer:
        writer.add_scalar("loss", 9.0, 5)
    assert gather._loss(tmp_path) == [(1, 3.5), (3, 2.5)]
    (tmp_path / "metrics.jsonl").unlink()
    assert gather._loss(tmp_path) == [(5, 9.0)]


@pytest.mark.parametrize(
    "spec, loss",
    [
        ({"kind": "pretrain", "recipe": {"method": "moco-v2"}}, "InfoNCE loss (contrastive)"),
        ({"kind": "pretrain", "recipe": {"method": "detco"}}, "weighted sum of InfoNCE losses"),
        ({"kind": "pretrain", "recipe": {"method": "mine"}}, "loss"),
        ({"kind": "transfer", "protocol_row": {"architecture": "mask-rcnn-c4"}},
         "total loss: RPN, boxes, masks"),
        ({"kind": "transfer"}, "loss"),
    ],
)  # fmt: skip
def test_losses_by_name(spec, loss):
    assert gather._name_of_loss(spec) == loss


def test_every_loss_has_a_name():
    """But for classifiers that no iterations train."""
    assert HEADS.keys() - LOSSES.keys() == {"knn", "svm"} and LOSSES.keys() < HEADS.keys()
    for name, method in METHODS.items():
        assert method.loss != "loss", name
        assert ("InfoNCE" in method.loss) == method.has_keys
    for architecture, (heads, _) in HEADS.items():
        for head in heads & {"mask", "keypoint"}:
            assert f"{head}s" in LOSSES[architecture]
