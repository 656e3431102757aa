"""coco-densepose really run: a few iterations of the project's code, its outputs, a kept
detector."""

import json
import runpy
from dataclasses import replace

import numpy as np
import pytest

from detco.common import backbone_file
from detco.transfer import detections, detector, engines, finetune
from detco.transfer.data import densepose
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.scoring.densepose import MOST
from detco.transfer.scoring.score import score
from detco.transfer.settings import DensePose, Resize
from tests.factories import densepose as made

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
pytest.importorskip("densepose", reason="the project DensePose is not installed")
import torch
from densepose.data import DatasetMapper
from densepose.evaluation.evaluator import densepose_chart_predictions_to_dict
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from detco.transfer.engines.detectron2 import data, engine, models, predict
from detco.transfer.engines.detectron2 import records as detectron2_records

ROW = PROTOCOLS["coco-densepose"]
TINY = replace(
    ROW,
    schedule=replace(
        ROW.schedule, iterations=3, images=2, steps=(2,), warmup=1, lr=1e-3, precise_bn=2
    ),
    resize=Resize((96,), 128, 96, 128),
    detector=replace(
        ROW.detector,
        fpn_channels=16,
        fc_width=32,
        rpn_post_nms=(50, 30),
        roi_batch=16,
        detections=24,
    ),
    densepose=replace(ROW.densepose, dp_size=7, dp_convs=1, dp_width=8),
    arch="resnet18",
)
DECODED = replace(TINY, densepose=DensePose(dp_size=7, dp_convs=1, dp_width=8, dp_decoder=8))


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return made.people(tmp_path_factory.mktemp("densepose"))


def data_of(coco) -> dict:
    return {
        "layout": "coco",
        "root": str(coco),
        "train": "densepose_train2014+densepose_valminusminival2014",
        "test": "densepose_minival2014",
    }


def job_of(coco, row, out) -> engines.EngineJob:
    out.mkdir(parents=True, exist_ok=True)
    train, test = finetune.load_data(row, data_of(coco))
    backbone = backbone_file.random_backbone("resnet18", 0)
    return engines.EngineJob(row, backbone, train, test, 3, out)


@pytest.mark.parametrize("row", [TINY, DECODED], ids=["legacy", "s1x"])
def test_a_run(row, coco, tmp_path):
    found = finetune.finetune(
        row, "random", data_of(coco), tmp_path, "detectron2", device="cpu", keep_model="final"
    )
    names = ["ap", "ap50", "ap75", "apm", "apl"]
    assert [name for name in found["metrics"] if name.startswith("densepose")] == [
        f"densepose_{name}" for name in names
    ]
    lines = (tmp_path / "detectron2" / "metrics.json").read_text().splitlines()
    losses = {name: json.loads(lines[0])[f"loss_densepose_{name}"] for name in "UVIS"}
    assert all(0 < value < 100 for value in losses.values())
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    per_image: dict[int, list] = {}
    for entry in predictions:
        per_image.setdefault(entry["image_id"], []).append(entry)
    assert len(per_image) == 4
    for entries in per_image.values():
        with_labels = [densepose.unpacked(e["densepose"]) for e in entries if "densepose" in e]
        assert len(with_labels) == min(MOST, len(entries)) > 0
    _, test = finetune.load_data(row, data_of(coco))
    again = score(test, predictions, "gps", row.metrics)
    assert again == pytest.approx(found["metrics"], nan_ok=True)
    if row is TINY:
        check_kept(tmp_path, test, predictions)


def check_kept(job, test, predictions) -> None:
    """The detector that was kept finds the same; the project alone loads what is exported of it."""
    kept = detector.read(job)
    paths = [image["file_name"] for image in test.images]
    found = [result for _, results in detections.detect(kept, paths) for result in results]
    assert [entry.get("densepose") for entry in found] == [
        entry.get("densepose") for entry in predictions
    ]
    engines.get("detectron2").export(kept, job / "exported")
    cfg = runpy.run_path(str(job / "exported" / "try.py"))["cfg"]
    model, state = models.assemble(cfg), torch.load(job / "exported" / "model_final.pth")["model"]
    model.load_state_dict(state, strict=True)
    assert cfg.MODEL.DENSEPOSE_ON


def test_batches_are_those_of_the_projects_mapper(coco, tmp_path):
    """The same pixels, boxes, points and masks, mirrored ones too."""
    job = job_of(coco, TINY, tmp_path)
    records = detectron2_records.write(job.train, tmp_path / "records.json", densepose=True)
    cfg = engine.config(job, records.mask_format)
    ours, theirs = data.mapper(cfg, train=True), DatasetMapper(cfg, True)
    assert len(records) == sum(
        any("dp_x" in a for a in job.train.annotations if a["image_id"] == image["id"])
        for image in job.train.images
    )
    points, mirrored = 0, set()
    for number in range(len(records)):
        for seed in range(3):
            np.random.seed(seed)
            mine = ours(records[number])
            np.random.seed(seed)
            other = theirs(records[number])
            assert torch.equal(mine["image"], other["image"])
            for a, b in zip(
                mine["instances"].gt_densepose.densepose_datas,
                other["instances"].gt_densepose.densepose_datas,
                strict=True,
            ):
                assert (a is None) == (b is None)
                if a is not None:
                    assert torch.equal(a.u, b.u) and torch.equal(a.x, b.x)
                    assert torch.equal(a.segm, b.segm) and torch.equal(a.i, b.i)
                    points += len(a.x)
                    mirrored.add((number, tuple(a.x.tolist())))
    assert points > 100 and len(mirrored) > len(records)


def test_results_are_those_of_the_projects_evaluator(coco, tmp_path):
    """Boxes, scores and labels of what an untrained model finds."""
    job = job_of(coco, TINY, tmp_path)
    records = detectron2_records.write(job.train, tmp_path / "records.json", densepose=True)
    cfg = engine.config(job, records.mask_format)
    torch.manual_seed(0)
    model = models.build(cfg, job.backbone).eval()
    model.roi_heads.box_predictor.test_nms_thresh = 1.0  # many boxes, as alike as they are
    record = {"image": torch.rand(3, 96, 96) * 255, "height": 90, "width": 100}
    with torch.no_grad():
        (output,) = model([record])
    found = predict.to_coco(output, 7, [5])
    instances = output["instances"]
    expected = instances_to_coco_json(instances, 7)
    labels = densepose_chart_predictions_to_dict(instances)
    assert len(found) == len(instances) > MOST
    for number, entry in enumerate(found):
        assert (entry["image_id"], entry["category_id"]) == (7, 5)
        assert entry["bbox"] == expected[number]["bbox"]
        assert entry["score"] == expected[number]["score"]
        if number < MOST:
            theirs = labels[number]["densepose"].labels_uv_uint8.numpy()
            assert (densepose.unpacked(entry["densepose"]) == theirs).all()
            assert densepose.fault(entry) == ""
