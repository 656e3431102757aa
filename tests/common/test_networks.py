"""Networks of timm: what a backbone file holds of them, their maps for images of any size."""

import math

import pytest
import torch
from torch.nn import functional as F

from detco.common import backbone_file, networks
from detco.common.errors import InputError

timm = pytest.importorskip("timm")
from detco.common.networks.levels import Levels, resampled

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}
CASES = {
    "vit_tiny_patch16_224": TINY,
    "vit_base_patch14_reg4_dinov2": TINY | {"img_size": 70},
    "vit_base_patch16_siglip_224": TINY,
    "vit_base_patch16_clip_quickgelu_224": TINY,
    "vit_base_patch16_dinov3": TINY | {"num_heads": 1},
    "eva02_base_patch14_224": TINY | {"num_heads": 1},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "convnextv2_atto": {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]},
    "swin_tiny_patch4_window7_224": {"depths": [1, 1, 2, 1], "embed_dim": 24},
}


@pytest.fixture
def images():
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("arch", "model_args"), CASES.items())
def test_a_file_brings_back_the_network(tmp_path, images, arch, model_args):
    drawn = backbone_file.random_backbone(arch, 3, model_args)
    digest = backbone_file.write(tmp_path / "b.safetensors", drawn)
    read = backbone_file.read(tmp_path / "b.safetensors")
    assert (read.arch, read.family, read.model_args) == (arch, drawn.family, model_args)
    assert dict(read.metadata)["format_version"] == "2" and "stride_in" not in dict(read.metadata)
    assert backbone_file.write(tmp_path / "again.safetensors", read) == digest
    one, two = Levels(drawn).eval()(images), Levels(read).eval()(images)
    largest = max(stride for _, stride in networks.levels_of(read).values())
    assert one.keys() == two.keys() == networks.levels_of(read).keys()
    for name, (channels, stride) in networks.levels_of(read).items():
        assert torch.equal(one[name], two[name])
        size = (math.ceil(n / largest) * largest // stride for n in (64, 96))
        assert one[name].shape == (1, channels, *size)


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("vit_base_patch16_224", {"last": (768, 16)}),
        ("vit_large_patch14_dinov2", {"last": (1024, 14)}),
        (
            "convnext_tiny",
            {"res2": (96, 4), "res3": (192, 8), "res4": (384, 16), "res5": (768, 32)},
        ),
        (
            "swin_base_patch4_window7_224",
            {"res2": (128, 4), "res3": (256, 8), "res4": (512, 16), "res5": (1024, 32)},
        ),
    ],
)
def test_channels_and_strides_without_running(arch, expected):
    backbone = backbone_file.Backbone(arch, {}, family=networks.row_of(arch).family)
    assert networks.levels_of(backbone) == expected


def test_channels_and_strides_of_a_resnet():
    backbone = backbone_file.Backbone("resnet50", {})
    found = {name: tuple(level) for name, level in networks.levels_of(backbone).items()}
    assert found == {"res2": (256, 4), "res3": (512, 8), "res4": (1024, 16), "res5": (2048, 32)}


def test_maps_are_those_of_timm(images):
    args = TINY | {"img_size": [64, 96]}
    backbone = backbone_file.random_backbone(
        "vit_base_patch14_dinov2", 0, args | {"patch_size": 16}
    )
    net = timm.create_model("vit_base_patch14_dinov2", num_classes=0, patch_size=16, **args)
    net.load_state_dict(backbone.tensors)
    tokens = net.eval().forward_features(images)[:, 1:]
    expected = tokens.transpose(1, 2).reshape(1, 32, 4, 6)
    assert torch.equal(Levels(backbone).eval()(images)["last"], expected)
    raw = net.forward_intermediates(images, indices=1, norm=False, intermediates_only=True)[0]
    assert torch.equal(Levels(backbone, last_norm=False).eval()(images)["last"], raw)


def test_images_are_padded_right_and_below():
    backbone = backbone_file.random_backbone("vit_tiny_patch16_224", 0, TINY | {"patch_size": 14})
    net, images = Levels(backbone).eval(), torch.randn(1, 3, 30, 43)
    padded = F.pad(images, (0, 13, 0, 12))
    assert torch.equal(net(images)["last"], net(padded)["last"])
    assert net(images)["last"].shape == (1, 32, 3, 4)


def test_positions_are_resampled_as_each_project_does(images):
    table = torch.randn(1, 1 + 25, 8, generator=torch.Generator().manual_seed(1))
    grid = table[:, 1:].reshape(1, 5, 5, 8).permute(0, 3, 1, 2)
    ways = {
        "bicubic": F.interpolate(grid, (3, 7), mode="bicubic", align_corners=False),
        "offset": F.interpolate(grid, scale_factor=(3.1 / 5, 7.1 / 5), mode="bicubic"),
        "antialias": F.interpolate(grid, (3, 7), mode="bicubic", antialias=True),
    }
    assert set(ways) == set(networks.POSITIONS)
    for how, expected in ways.items():
        found = resampled(table, (5, 5), (3, 7), how)
        assert torch.equal(found[:, 0], table[:, 0])
        assert torch.equal(found[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, 21, 8))
    assert resampled(table, (5, 5), (5, 5), "offset") is table
    antialias, bicubic = (
        Levels(backbone_file.random_backbone("vit_tiny_patch16_224", 0, TINY | {"positions": how}))
        for how in ("antialias", "bicubic")
    )
    assert not torch.equal(antialias(images)["last"], bicubic(images)["last"])


def test_positions_learn_through_the_resampling(images):
    net = Levels(backbone_file.random_backbone("vit_tiny_patch16_224", 0, TINY))
    net(images)["last"].square().sum().backward()
    assert net.net.pos_embed.grad.abs().sum() > 0 and net.net.patch_embed.grid_size == (14, 14)
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_biases_of_positions_fit_one_size(images):
    net = Levels(backbone_file.random_backbone("beit_base_patch16_224", 0, TINY))
    with pytest.raises(InputError, match=r"64 x 96 do not fit.*224 x 224"):
        net(images)
    net.set_size((64, 96))
    assert net.eval()(images)["last"].shape == (1, 32, 4, 6)


def test_random_twin_is_the_same_network_with_other_weights():
    given = backbone_file.random_backbone("convnext_atto", 0, CASES["convnext_atto"])
    given = backbone_file.replace(given, mean=(1.0, 2.0, 3.0), method="mine")
    twin = backbone_file.random_twin(given, 1)
    assert (twin.arch, twin.model_args, twin.mean) == (given.arch, given.model_args, given.mean)
    assert twin.method == "random" and twin.tensors.keys() == given.tensors.keys()
    assert not torch.equal(twin.tensors["stem.0.weight"], given.tensors["stem.0.weight"])


@pytest.mark.parametrize(
    ("arch", "model_args", "says"),
    [
        ("vgg16", {}, "unknown backbone architecture 'vgg16'.*resnet18.*convnext"),
        ("vit_tiny_patch16_224", {"checkpoint_path": "x"}, "takes no argument 'checkpoint_path'"),
        ("vit_tiny_patch16_224", {"depth": 10**9}, "depth cannot be 1000000000"),
        ("vit_tiny_patch16_224", {"num_heads": 5}, "num_heads"),
        ("vit_tiny_patch16_224", {"positions": "nearest"}, "positions must be one of"),
        ("convnext_tiny", {"dims": [0, 1]}, "dims cannot be"),
    ],
)
def test_impossible_networks_are_refused(arch, model_args, says):
    with pytest.raises(InputError, match=says) as error:
        backbone_file.random_backbone(arch, 0, model_args)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_args": "rubbish"}, "model_args must be JSON"),
        ({"model_args": "[1]"}, "model_args must be JSON"),
        (
            {"model_args": '{"depth": 3, "embed_dim": 32, "num_heads": 2}'},
            "does not hold a whole.*blocks.2.attn.proj.bias is missing",
        ),
        ({"family": "swin"}, "family is 'swin', but vit_tiny_patch16_224 is of vit"),
        ({"arch": "resnet18"}, "unknown backbone architecture 'resnet18'"),
        ({"mean": "[1]"}, "metadata mean"),
    ],
)
def test_wrong_metadata_are_refused(tmp_path, change, says):
    drawn = backbone_file.random_backbone("vit_tiny_patch16_224", 0, TINY)
    backbone_file.write(tmp_path / "b.safetensors", drawn)
    metadata, tensors = backbone_file.read_tensors(tmp_path / "b.safetensors")
    backbone_file.write_tensors(tmp_path / "b.safetensors", tensors, metadata | change)
    with pytest.raises(InputError, match=says):
        backbone_file.read(tmp_path / "b.safetensors")


def test_without_timm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(InputError, match="vit_tiny_patch16_224 needs timm: pip install timm"):
        backbone_file.random_backbone("vit_tiny_patch16_224", 0)
    assert backbone_file.random_backbone("resnet18", 0).family == "resnet"
