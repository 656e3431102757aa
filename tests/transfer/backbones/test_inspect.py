"""`detco weights show` of one backbone, and the comparison of two."""

import json
import math

import pytest
import torchvision

from detco.common import backbone_file, resnet
from detco.transfer.backbones import inspect


def test_describe_counts_and_norms():
    backbone = backbone_file.random_backbone("resnet18", 1)
    tensors, shown = backbone.tensors, inspect.describe(backbone)
    parameters = sum(
        p.numel()
        for k, p in torchvision.models.resnet18().named_parameters()
        if not k.startswith("fc.")
    )
    stem = math.sqrt(
        sum(float(tensors[k].square().sum()) for k in ("conv1.weight", "bn1.weight", "bn1.bias"))
    )
    assert shown["parameters"] == parameters and shown["tensors"] == 100
    assert shown["stage norms"]["stem"] == pytest.approx(stem, abs=1e-3)
    assert set(shown["stage norms"]) == {"stem", "res2", "res3", "res4", "res5"}
    json.dumps(shown)


def test_compare():
    one = backbone_file.random_backbone("resnet18", 0)
    changed = dict(one.tensors)
    changed["layer4.0.conv1.weight"] = one.tensors["layer4.0.conv1.weight"] * 1.1
    a, b = "layer1.0.conv1.weight", "layer1.0.conv2.weight"
    changed[a], changed[b] = changed[b], changed[a]
    facts = inspect.compare(one, backbone_file.Backbone("resnet18", changed, "x"))
    names = [k for k in one.tensors if resnet.stage_of(k) == "res5"]
    norm = math.sqrt(sum(float(one.tensors[k].square().sum()) for k in names))
    assert facts["renamed"] == {a: b, b: a} and facts["different"] == 1 and facts["identical"] == 97
    assert facts["distance"]["res5"] == pytest.approx(
        0.1 * float(one.tensors["layer4.0.conv1.weight"].norm()) / norm, abs=1e-5
    )
    assert facts["distance"]["res4"] == 0 and facts["same architecture and preprocessing"]
