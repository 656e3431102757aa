"""Runs of the engine `detectron2`: every architecture, half precision, the best detector."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from detco.common.errors import InputError, TrainingError
from detco.transfer import detector, finetune
from detco.transfer.data import dataset
from detco.transfer.data.checks import content
from detco.transfer.engines import Launch
from detco.transfer.protocols import PROTOCOLS
from tests.factories.detectors import fine_tune, job_for, shortened

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
from detco.transfer.engines.detectron2 import engine as detectron2_rcnn
from detco.transfer.engines.detectron2 import train as detectron2_train
from detco.transfer.engines.detectron2 import version

run = partial(fine_tune, "detectron2")


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("small-faster-rcnn-c4", "voc"),
        ("small-faster-rcnn-fpn", "voc"),
        ("small-mask-rcnn-c4", "coco"),
        ("small-mask-rcnn-fpn", "coco"),
        ("small-retinanet", "voc"),
        ("small-keypoint-rcnn", "coco"),
        ("voc-faster-rcnn-c4-24k", "voc"),
        ("cityscapes-instance", "cityscapes"),
        ("cityscapes-semantic", "cityscapes"),
    ],
)
def test_every_architecture_trains_and_is_scored(name, layout, scenes, tmp_path):
    row, seen = shortened(name), []
    result = run(
        row,
        scenes,
        layout,
        tmp_path,
        report=lambda stage, done, total, **figures: seen.append((stage, done, total)),
    )
    assert [done for stage, done, _ in seen if stage == "train"] == [1, 2, 3] and (
        "predict",
        10,
        10,
    ) in seen
    assert (("precise BN", 0, 2) in seen) == bool(row.schedule.precise_bn)
    wanted = {"semantic": "miou"} | {
        metric: f"{metric}_ap" for metric in ("box", "mask", "keypoint")
    }
    assert {wanted[metric] for metric in row.metrics} <= result["metrics"].keys()
    assert result["facts"]["norm"] == "BN" and result["engine"] == "detectron2"
    assert result["facts"]["detectron2"]["hash"] == version.identify().hash
    # the scenes' masks are RLE
    assert result["facts"].get("mask_format") == ("bitmask" if "mask" in row.metrics else None)
    check_predictions(
        json.loads((tmp_path / "predictions.json").read_text()), row, scenes / layout, layout
    )
    assert not list(tmp_path.rglob("*.pth")) and (tmp_path / "detectron2" / "config.yaml").exists()


def check_predictions(predictions: list[dict], row, root: Path, layout: str) -> None:
    test = dataset.load(
        layout, root, {"voc": "test"}.get(layout, "val"), semantic="semantic" in row.metrics
    )
    sizes = {image["id"]: image for image in test.images}
    assert predictions or row.architecture == "retinanet"
    for found in predictions:
        image = sizes[found["image_id"]]
        if "bbox" in found:
            x, y, w, h = found["bbox"]
            assert (
                x >= 0
                and y >= 0
                and x + w <= image["width"] + 1e-3
                and y + h <= image["height"] + 1e-3
            )
        if {"mask", "semantic"} & set(row.metrics):
            assert found["segmentation"]["size"] == [image["height"], image["width"]]


def test_a_loss_that_is_not_finite_ends_the_job_and_says_where(scenes, tmp_path):
    row = shortened("small-retinanet", lr=1e30, clip=0.0, warmup=0)
    with pytest.raises(TrainingError, match=r"iteration [12]: .*(nan|inf).*schedule.lr"):
        run(row, scenes, "coco", tmp_path)
    assert not (tmp_path / "predictions.json").exists()


@pytest.mark.parametrize("name", ["small-faster-rcnn-c4", "small-mask-rcnn-fpn", "small-retinanet"])
def test_half_precision_trains_and_is_said(name, scenes, tmp_path):
    """bf16 on a CPU: the first loss is that of float32 but for rounding, and the row says
    what it ran."""
    losses = {}
    for amp in ("", "bf16"):
        found = losses[amp] = []

        def report(stage, done, total, found=found, **figures):
            found.extend([figures["loss"]] if stage == "train" else [])

        layout = "coco" if "mask" in name else "voc"
        result = run(
            shortened(name, iterations=1, steps=()),
            scenes,
            layout,
            tmp_path / (amp or "float32"),
            report=report,
            launch=Launch(amp=amp),
        )
    assert result["facts"]["precision"] == "bfloat16"
    assert "automatic mixed precision (bfloat16)" in result["deviations"]
    assert (
        losses["bf16"][0] == pytest.approx(losses[""][0], rel=0.05) and losses["bf16"] != losses[""]
    )


def test_other_engines_refuse_what_they_lack(scenes, tmp_path):
    data = {"layout": "cityscapes", "root": scenes / "cityscapes"}
    with pytest.raises(InputError, match="needs the engine detectron2"):
        finetune.finetune(shortened("cityscapes-semantic"), "random", data, tmp_path, "torchvision")
    with pytest.raises(InputError, match=r"--num-gpus, .*--amp: .*not replay"):
        finetune.finetune(
            shortened("small-retinanet"),
            "random",
            data,
            tmp_path,
            "replay",
            launch=Launch(num_gpus=2, amp="fp16"),
        )


def test_a_batch_below_the_published_devices_is_a_deviation(scenes, tmp_path):
    job = job_for(shortened("small-retinanet"), scenes / "coco", tmp_path)
    row = PROTOCOLS["coco-retinanet-90k"]
    lone = replace(job, protocol=replace(row, schedule=replace(row.schedule, images=1)))
    assert detectron2_rcnn.deviations(lone) == ("BN over 1 image (protocol: 2 a device)",)
    assert detectron2_rcnn.deviations(replace(job, protocol=row)) == ()


def test_both_engines_learn_the_same_small_job_within_their_noise(scenes, tmp_path, monkeypatch):
    """60 iterations, tested on the 30 training scenes, two seeds each: means apart by less than
    their spread allows."""
    monkeypatch.setattr(content, "shared", lambda *_: [])  # training scenes are refused as test set
    row = PROTOCOLS["small-faster-rcnn-fpn"]
    row = replace(
        row,
        schedule=replace(row.schedule, iterations=60, warmup=5),
        resize=replace(row.resize, train=(64,), test=64),
    )
    data = {"layout": "coco", "root": scenes / "coco", "train": "train", "test": "train"}
    found = {}
    for engine in ("detectron2", "torchvision"):
        runs = [
            finetune.finetune(
                row, "random", data, tmp_path / f"{engine}{seed}", engine, seed, "cpu"
            )["metrics"]["box_ap50"]
            for seed in range(2)
        ]
        found[engine] = np.mean(runs), np.std(runs, ddof=1)
    (ours, spread), (theirs, other) = found["detectron2"], found["torchvision"]
    assert ours > 3 and theirs > 3
    assert abs(ours - theirs) < 3 * np.hypot(max(spread, 2), max(other, 2)) / 2**0.5


@pytest.mark.parametrize(
    ("values", "kept"), [((10.0, 30.0, 20.0), 2), ((10.0, 20.0, 30.0), 3), ((5.0, 5.0, 5.0), 1)]
)
def test_the_best_detector_of_all_evaluations_is_kept(values, kept, scenes, tmp_path, monkeypatch):
    """By the row's main metric; the last evaluation is that of the result. Its weights are those of
    that iteration."""
    scores, weights_then = iter(values), {}

    def scored(self, found):
        done = min(self.iter + 1, self.max_iter)
        weights_then[done] = float(self.model.state_dict()["head.cls_score.weight"].double().sum())
        return {"box_ap": next(scores), "box_ap50": 1.0}

    monkeypatch.setattr(detectron2_train.Trainer, "scored", scored)
    run(
        shortened("small-retinanet"),
        scenes,
        "coco",
        tmp_path,
        launch=Launch(eval_period=1),
        keep_model="best",
    )
    found = detector.read(tmp_path)
    assert (found.kept, found.iteration) == ("best", kept) and len(set(weights_then.values())) == 3
    assert float(found.tensors["head.cls_score.weight"].double().sum()) == weights_then[kept]
