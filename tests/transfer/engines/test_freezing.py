"""A frozen backbone: bit for bit what it was after training, statistics included."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from detco.common import backbone_file
from detco.transfer import detector, engines
from detco.transfer.engines.freezing import freeze
from detco.transfer.protocols import PROTOCOLS, departures, protocol_hash
from tests.factories.detectors import job_for, tiny

both = pytest.mark.parametrize(
    "engine", ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)]
)


def silent(stage, done, total, **figures):
    pass


def contents(tensors) -> set[bytes]:
    return {tensor.contiguous().numpy().tobytes() for tensor in tensors}


def detector_after(engine, row, start, coco, out) -> set[bytes]:
    """The tensors of the detector that a short training gives."""
    job = replace(job_for(row, coco, out), backbone=start, keep_model="final")
    engines.get(engine).run(job, silent)
    return contents(detector.read(out).tensors.values())


def backbone() -> backbone_file.Backbone:
    """Random weights whose running statistics differ from layer to layer."""
    draw = torch.Generator().manual_seed(5)
    start = backbone_file.random_backbone("resnet18", 0)
    for key, tensor in start.tensors.items():
        if "running" in key or "bn" in key:
            tensor += 0.01 * torch.rand(tensor.shape, generator=draw)
    return start


@both
@pytest.mark.parametrize("name", ["small-mask-rcnn-c4", "small-retinanet"])
def test_only_the_rest_is_trained(engine, name, scenes, tmp_path):
    """Every tensor of the backbone is in the trained detector as it was; without freezing no
    convolution is, and no running mean."""
    start, row = backbone(), tiny(name, precise_bn=2)
    kinds = "conv", "running_mean", "downsample.0"
    used = [t for key, t in start.tensors.items() if any(kind in key for kind in kinds)]
    kept = {
        frozen: detector_after(
            engine, replace(row, freeze=frozen), start, scenes / "coco", tmp_path / frozen
        )
        for frozen in ("none", "backbone")
    }
    assert contents(start.tensors.values()) <= kept["backbone"]
    assert not contents(used) & kept["none"]


@both
def test_a_stage_trains_while_all_norms_stay(engine, scenes, tmp_path):
    """As the frozen row of VOC has it: convolutions of res5 train, everything else of the
    backbone stays, and the FPN has no norm."""
    row = PROTOCOLS["voc-faster-rcnn-fpn-144k-frozen"]
    norm, small = row.detector.norm, tiny("small-faster-rcnn-fpn")
    small = replace(small, freeze=row.freeze, detector=replace(small.detector, norm=norm))
    start = backbone()
    kept = detector_after(engine, small, start, scenes / "coco", tmp_path)
    trained = {key for key, tensor in start.tensors.items() if not contents([tensor]) <= kept}
    res5 = {key for key in start.tensors if key.startswith("layer4")}
    assert trained == {key for key in res5 if "conv" in key or "downsample.0" in key}
    names = detector.read(tmp_path).tensors
    assert not [key for key in names if "running_mean" in key and "fpn" in key]


def test_a_frozen_part_stays_in_evaluation():
    part, rest = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    model = nn.Sequential(part, rest)
    freeze([part])
    model.train()
    model(torch.randn(4, 3, 2, 2))
    assert not part.training and rest.training
    assert part.running_mean.eq(0).all() and not rest.running_mean.eq(0).all()
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


def test_it_is_a_setting_with_a_hash_of_its_own():
    row = PROTOCOLS["small-retinanet"]
    frozen = replace(row, freeze="backbone")
    assert protocol_hash(frozen) != protocol_hash(row)
    assert departures(frozen) == ("freeze backbone (protocol: none)",)
