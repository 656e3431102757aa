"""Pretraining of ConvNeXt and Swin."""

from dataclasses import replace

import pytest
import torch

from detco.common import backbone_file
from detco.common.errors import InputError
from detco.pretrain import methods
from detco.pretrain.train import pretrain
from tests.factories.pretraining import DETCO

pytest.importorskip("timm")
from detco.common.networks.levels import Levels
from detco.pretrain.methods.stages import StagesTrunk


@pytest.mark.parametrize("arch", ["convnext_atto", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("side", [64, 50])
@torch.no_grad()
def test_its_maps_are_those_of_the_backbone_file(arch, side):
    trunk = StagesTrunk(arch).eval()
    backbone = backbone_file.Backbone(arch, dict(trunk.net.state_dict()), family=trunk.family)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    found, expected = trunk(images), Levels(backbone).eval()(images)
    assert list(trunk.channels) == list(expected)
    for features, level, channels in zip(found, expected, trunk.channels.values(), strict=True):
        assert torch.equal(features, expected[level]) and features.shape[1] == channels


def test_detco_pretrains_every_stage(pictures, tmp_path):
    recipe = replace(DETCO, arch="convnext_atto", epochs=1)
    path = pretrain(recipe, pictures, tmp_path, device="cpu")
    read = backbone_file.read(path)
    assert (read.arch, read.family, read.method) == ("convnext_atto", "convnext", "detco")
    assert "stride_in" not in dict(read.metadata)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = methods.build(recipe, 2, 0).trunk.net.state_dict()
    assert start.keys() == read.tensors.keys()
    kept = [name for name, tensor in read.tensors.items() if torch.equal(tensor, start[name])]
    assert kept == []


def test_a_vision_transformer_has_no_stages():
    with pytest.raises(InputError, match="one map and no stages"):
        StagesTrunk("vit_tiny_patch16_224")
    with pytest.raises(InputError, match="a vision transformer does not have"):
        replace(DETCO, arch="vit_tiny_patch16_224")
