"""The engine `torchvision`: architectures against torchvision's own modules, training that goes on,
predictions that fit."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from detco.common import backbone_file
from detco.common.errors import TrainingError
from detco.transfer import engines, finetune
from detco.transfer.data import dataset as datasets
from detco.transfer.engines.torchvision import engine
from detco.transfer.engines.torchvision import models as torchvision_models
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.settings import Schedule
from tests.factories.detectors import TINY, tiny


@pytest.fixture(scope="module")
def backbone():
    return backbone_file.random_backbone("resnet18", 0)


@pytest.mark.parametrize(
    ("arch", "stride_in"), [("resnet18", "3x3"), ("resnet50", "3x3"), ("resnet50", "1x1")]
)
def test_trunk_gives_the_features_of_torchvisions_resnet(arch, stride_in):
    own = replace(backbone_file.random_backbone(arch, 1), stride_in=stride_in)
    trunk = torchvision_models.DetectorTrunk(own, ("res2", "res3", "res4", "res5")).eval()
    net = getattr(torchvision.models, arch)().eval()
    net.load_state_dict(own.tensors, strict=False)
    if stride_in == "1x1":
        for i in (2, 3, 4):
            block = getattr(net, f"layer{i}")[0]
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    x = torch.randn(2, 3, 65, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y, found = net.maxpool(net.relu(net.bn1(net.conv1(x)))), trunk(x)
        for i in (1, 2, 3, 4):
            y = getattr(net, f"layer{i}")(y)
            assert torch.allclose(found[f"res{i + 1}"], y, atol=1e-4)
            assert y.shape[1] == torchvision_models.channels(own)[f"res{i + 1}"]


def test_c4_holds_every_tensor_of_the_backbone(backbone):
    """res5 sits in the box head: 100 tensors in all, each once, equal to the file's (PITFALLS:
    silently lost stages)."""
    model = torchvision_models.build(PROTOCOLS["small-mask-rcnn-c4"], backbone, 3, 0, None)
    held = {id(t): t for t in (*model.parameters(), *model.buffers())}
    trunk, res5 = model.backbone.module, model.roi_heads.box_head.res5.module.res5
    parts = {"conv1": trunk.stem.conv1, "bn1": trunk.stem.bn1, "layer4": res5}
    parts |= {f"layer{i}": trunk.stages[f"res{i + 1}"] for i in (1, 2, 3)}
    loaded = {
        f"{p}.{k}": v for p, m in parts.items() for k, v in m.state_dict(keep_vars=True).items()
    }
    loaded = {k: v for k, v in loaded.items() if "num_batches" not in k}
    assert loaded.keys() == backbone.tensors.keys()
    assert all(torch.equal(v, backbone.tensors[k]) and id(v) in held for k, v in loaded.items())
    assert model.roi_heads.mask_head is model.roi_heads.box_head.res5  # the mask head shares res5
    assert model.roi_heads.box_head.res5.module.norm.num_features == 512  # the extra norm


def test_roi_align_chooses_the_level_and_corrects_half_a_pixel():
    draw = torch.Generator().manual_seed(2)
    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    features = {
        k: torch.randn(2, 3, 512 // s, 512 // s, generator=draw) for k, s in strides.items()
    }
    boxes = [
        torch.tensor([[10.0, 20, 60, 50], [0, 0, 400, 300]]),
        torch.tensor([[5.0, 5, 155, 205], [100, 0, 500, 500]]),
    ]
    found = torchvision_models.RoIAlign(strides, 7, 2)(features, boxes, None)
    expected = []
    for picture, own in enumerate(boxes):
        for x0, y0, x1, y1 in own.tolist():
            level = min(
                max(math.floor(4 + math.log2(math.sqrt((x1 - x0) * (y1 - y0)) / 224)), 2), 5
            )
            roi = torch.tensor([[picture, x0, y0, x1, y1]])
            expected.append(roi_align(features[f"p{level}"], roi, 7, 2.0**-level, 2, aligned=True))
    assert torch.allclose(found, torch.cat(expected), atol=1e-6)


def test_anchors_lie_on_each_levels_own_grid():
    d = replace(
        PROTOCOLS["small-faster-rcnn-fpn"].detector, anchors=((8,), (32,)), aspect_ratios=(0.5, 1.0)
    )
    features = [torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)]
    found = torchvision_models.Anchors(d, (4, 16))(
        ImageList(torch.zeros(1, 3, 9, 13), [(9, 13)]), features
    )[0]
    expected = []
    for stride, size, (height, width) in ((4, 8, (2, 3)), (16, 32, (1, 2))):
        for y, x in np.ndindex(height, width):
            for ratio in (0.5, 1.0):
                w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
                expected.append(
                    [x * stride - w / 2, y * stride - h / 2, x * stride + w / 2, y * stride + h / 2]
                )
    # torchvision rounds anchors to whole pixels
    assert np.allclose(found.numpy(), expected, atol=0.51)
    assert np.allclose(
        (found[:, :2] + found[:, 2:]) / 2,
        (np.array(expected)[:, :2] + np.array(expected)[:, 2:]) / 2,
    )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (
            Schedule(100, 1, 1, steps=(60, 80), warmup=10),
            {0: 0.001, 5: 0.5005, 10: 1, 59: 1, 60: 0.1, 80: 0.01, 99: 0.01},
        ),
        (
            Schedule(100, 1, 1, decay="cosine", warmup=0),
            {0: 1, 50: 0.5, 25: (1 + math.cos(math.pi / 4)) / 2},
        ),
    ],
)
def test_learning_rate(schedule, expected):
    for iteration, factor in expected.items():
        assert engine.lr_factor(schedule, iteration) == pytest.approx(factor)


def test_norm_layers_are_not_decayed(backbone):
    model = torchvision_models.build(PROTOCOLS["small-retinanet"], backbone, 3, 0, None)
    decayed, plain = engine.make_optimizer(model, TINY).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    assert plain["weight_decay"] == 0 and decayed["weight_decay"] == 0.05
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert all(p.ndim == 1 for p in plain["params"]) and all(
        "bn1" not in names[id(p)] for p in decayed["params"]
    )


OURS = {
    name
    for name, row in PROTOCOLS.items()
    if engines.serving("torchvision", row.architecture) == "torchvision"
}
SMALL = [name for name in PROTOCOLS if name in OURS and name.startswith("small-")]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_every_small_protocol_runs_on_both_layouts(name, layout, scenes, tmp_path):
    if layout == "voc" and PROTOCOLS[name].metrics != ("box",):
        pytest.skip("VOC layout has boxes only")
    result = finetune.finetune(
        tiny(name), "random", {"layout": layout, "root": scenes / layout}, tmp_path, "torchvision"
    )
    test = datasets.load(layout, scenes / layout, {"coco": "val", "voc": "test"}[layout])
    sizes = {image["id"]: image for image in test.images}
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert predictions
    for found in predictions:
        image = sizes[found["image_id"]]
        x, y, w, h = found["bbox"]
        assert (
            x >= 0 and y >= 0 and x + w <= image["width"] + 1e-3 and y + h <= image["height"] + 1e-3
        )
        assert ("segmentation" in found) == ("mask" in PROTOCOLS[name].metrics)
        if "segmentation" in found:
            assert found["segmentation"]["size"] == [image["height"], image["width"]]
    assert {f"{metric}_ap" for metric in PROTOCOLS[name].metrics} <= result["metrics"].keys()
    assert not list(tmp_path.glob("checkpoint*"))


def test_predictions_return_to_the_pictures_own_pixels(scenes):
    dataset = datasets.load("coco", scenes / "coco", "val")
    image = dataset.images[0] | {"height": 100, "width": 200}
    mask = torch.ones(1, 1, 28, 28)
    seen = {
        "boxes": torch.tensor([[10.0, 5, 60, 45]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.5]),
        "masks": mask,
    }
    found = engine.to_coco(
        seen, image, (50, 100), dataset.categories, PROTOCOLS["small-mask-rcnn-fpn"]
    )
    assert (
        found[0]["bbox"] == pytest.approx([20, 10, 100, 80])
        and found[0]["category_id"] == dataset.categories[1]["id"]
    )
    from pycocotools import mask as rle

    box = rle.toBbox(found[0]["segmentation"]).tolist()
    assert box == pytest.approx([20, 10, 100, 80], abs=3)


def test_keypoints_return_to_the_pictures_own_pixels(scenes):
    """Detector coordinates are continuous (COCO's plus a half), COCO results are pixel indices."""
    dataset = datasets.load("coco", scenes / "coco", "train", keypoints=True)
    pictures = engine.DetectionPictures(dataset, engine.Wanted(keypoints=True), 192)
    number = pictures.trainable()[0]
    image = dataset.images[number]
    pixels, target = pictures[number, 128, False]
    truth = next(a for a in pictures.of_image[image["id"]] if any(a["keypoints"][2::3]))
    seen = {k: target[k][:1].clone() for k in ("boxes", "labels", "keypoints")} | {
        "scores": torch.tensor([0.5])
    }
    seen["keypoints_scores"] = torch.ones(1, len(pictures.names))
    found = engine.to_coco(
        seen, image, pixels.shape[1:], dataset.categories, PROTOCOLS["small-keypoint-rcnn"]
    )[0]
    back, given = np.reshape(found["keypoints"], (-1, 3)), np.reshape(truth["keypoints"], (-1, 3))
    assert np.allclose(back[given[:, 2] > 0, :2], given[given[:, 2] > 0, :2], atol=1e-3)


def test_a_loss_that_is_not_finite_ends_the_job_and_says_where(scenes, tmp_path):
    with pytest.raises(TrainingError, match=r"iteration [12]: .*(nan|inf)"):
        finetune.finetune(
            tiny("small-retinanet", lr=1e30, clip=0.0, warmup=0),
            "random",
            {"layout": "coco", "root": scenes / "coco"},
            tmp_path,
            "torchvision",
        )
    assert not (tmp_path / "predictions.json").exists()


RUN = """
import sys, torch
from pathlib import Path
from detco.transfer.engines.torchvision import engine
from tests.factories.detectors import TINY, job_for, tiny
torch.set_num_threads(1)
engine.CHECKPOINT_SECONDS = 0
engine.precision_for = lambda device: None
job = job_for(tiny("small-faster-rcnn-fpn", iterations=8), Path(sys.argv[1]), Path(sys.argv[2]))
engine.run(job, lambda *a, **k: print(*a[:2], flush=True))
"""


def test_killed_training_goes_on_to_the_same_predictions(scenes, tmp_path):
    def start(out):
        out.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RUN, scenes / "coco", out],
            stdout=subprocess.PIPE,
            text=True,
        )

    whole = start(tmp_path / "whole")
    assert whole.communicate()[0].count("train") == 8
    killed = start(tmp_path / "killed")
    for line in killed.stdout:
        if line.startswith("train 5"):
            killed.kill()
    killed.wait()
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    resumed = start(tmp_path / "killed").communicate()[0]
    assert 0 < resumed.count("train") <= 4  # iterations before the checkpoint are not repeated
    expected = json.loads((tmp_path / "whole" / "predictions.json").read_text())
    assert (
        expected and json.loads((tmp_path / "killed" / "predictions.json").read_text()) == expected
    )
