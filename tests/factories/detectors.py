"""Protocols that train within seconds, their jobs, and an untrained detector."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detco.benchmarks.run import worker
from detco.common import backbone_file
from detco.results import store
from detco.transfer import detections, detector, finetune
from detco.transfer.data import dataset
from detco.transfer.engines import EngineJob
from detco.transfer.protocols import PROTOCOLS, as_record
from detco.transfer.settings import Detector, Protocol, Schedule

TINY = Schedule(
    3,
    2,
    1e-3,
    optimizer="adamw",
    decay="cosine",
    weight_decay=0.05,
    warmup=1,
    clip=10.0,
    precise_bn=0,
)
SGD = Schedule(3, 2, 1e-3, steps=(2,), warmup=2, precise_bn=2)


def tiny(name: str, **schedule) -> Protocol:
    """A row at 64 px for 3 iterations of AdamW."""
    row = PROTOCOLS[name]
    resize = replace(row.resize, train=(64,), test=64)
    return replace(row, schedule=replace(TINY, **schedule), resize=resize)


def few_boxes(d: Detector) -> Detector:
    """Less work in the heads, nothing left out: the boxes are most of a published row's time."""
    proposals = tuple(min(64, most) for most in d.rpn_post_nms)
    found = min(10, d.detections)
    return replace(d, rpn_post_nms=proposals, roi_batch=min(32, d.roi_batch), detections=found)


def shortened(name: str, **schedule) -> Protocol:
    """A row at 64 px for 3 iterations of its own optimizer, with few boxes an image, on the
    smallest network."""
    row = PROTOCOLS[name]
    small = replace(
        row.schedule,
        iterations=3,
        images=2,
        warmup=1,
        steps=(2,),
        precise_bn=min(2, row.schedule.precise_bn),
    )
    crop = 65 if row.resize.crop else 0
    resize = replace(row.resize, train=(64,), train_max=128, test=64, test_max=128, crop=crop)
    arch = "resnet50" if row.architecture == "fcn-16s" else "resnet18"
    small = replace(small, **schedule)
    return replace(row, schedule=small, resize=resize, detector=few_boxes(row.detector), arch=arch)


def job_for(row: Protocol, coco: Path, out: Path, **more) -> EngineJob:
    """A job on a data set in the COCO layout, from a random ResNet-18."""
    out.mkdir(parents=True, exist_ok=True)
    train, test = (dataset.load("coco", coco, split) for split in ("train", "val"))
    return EngineJob(row, backbone_file.random_backbone("resnet18", 0), train, test, 4, out, **more)


def fine_tune(engine: str, row: Protocol, scenes: Path, layout: str, out: Path, **more) -> dict:
    data = {"layout": layout, "root": scenes / layout}
    return finetune.finetune(row, "random", data, out, engine, device="cpu", **more)


def replayed(name: str, scenes: Path, folder: Path) -> dict:
    """The record of a finished run of the engine that needs no training, also in its folder."""
    row = PROTOCOLS[name]
    outcome = fine_tune("replay", row, scenes, "coco", folder)
    data = {"layout": "coco", "root": str(scenes / "coco"), "train": "train", "test": "val"}
    spec = {"id": "0" * 64, "kind": "transfer", "title": "t", "starting_point": "random"}
    spec |= {"weights": "random", "protocol_row": as_record(row), "data": data, "seed": 0}
    spec |= {key: outcome[key] for key in ("protocol", "protocol_version", "protocol_hash")}
    spec |= {"scorer": row.scorer, "engine": outcome["engine"], "scaling": "1"}
    record = worker.record_of(spec, outcome)
    store.write_json(folder / "record.json", record)
    return record


CATEGORIES = (
    {"id": 7, "name": "cat"},
    {
        "id": 3,
        "name": "person",
        "keypoints": ["left_eye", "right_eye"],
        "keypoint_flip": [["left_eye", "right_eye"]],
    },
)


def trained(**changes) -> detector.TrainedDetector:
    """A detector that nobody has trained, with two tensors."""
    backbone = backbone_file.Backbone("resnet18", {}, "moco-v2", "ab" * 32, "BGR", (1.0, 2.0, 3.0))
    made = detector.TrainedDetector(
        "torchvision",
        tiny("small-retinanet"),
        backbone,
        CATEGORIES,
        {"a.weight": torch.randn(2, 3), "count": torch.tensor(5)},
        4,
        300,
        "final",
        {"train": {"name": "x"}},
    )
    return replace(made, **changes)


def check_same_predictions(engine: str, row: Protocol, scenes: Path, out: Path) -> None:
    """Train for a moment, read what was kept, predict the test pictures: the same objects in the
    same order."""
    fine_tune(engine, row, scenes, "coco", out, keep_model="final")
    expected = json.loads((out / "predictions.json").read_text())
    kept = detector.read(out)
    _, test = finetune.load_data(row, {"layout": "coco", "root": scenes / "coco"})
    assert (kept.engine, kept.kept, kept.iteration) == (engine, "final", row.schedule.iterations)
    paths = [image["file_name"] for image in test.images]
    found = [result for _, results in detections.detect(kept, paths) for result in results]
    assert expected and len(found) == len(expected)
    ids = {number: image["id"] for number, image in enumerate(test.images, 1)}
    for ours, theirs in zip(found, expected, strict=True):
        assert ids[ours["image_id"]] == theirs["image_id"]
        assert ours["category_id"] == theirs["category_id"]
        assert ours.get("segmentation") == theirs.get("segmentation")
        for key in ("bbox", "keypoints"):
            assert ours.get(key) == pytest.approx(theirs.get(key), abs=1e-5)
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
