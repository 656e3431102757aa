"""Checkpoints whose tensors do not tell the network: the import computes the same features, is
refused, or states its doubt."""

import argparse
import copy
import json
import math
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from detco.common.backbone_file import Backbone
from detco.common.errors import InputError
from detco.transfer.checkpoints import importer, stated, statistics
from detco.transfer.checkpoints.reader import formats
from detco.transfer.engines.torchvision.trunks import load_resnet
from tests import checkpoints
from tests.checkpoints import res5, trained

CAFFE_MEAN = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
ON = {  # what networks are given, of images RGB, 0..255
    "normalised": lambda x: (x - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1),
    "0..255": lambda x: x.flip(1) - CAFFE_MEAN,
    "0..1": lambda x: x / 255,
}


def noise(count: int = 6, size: int = 96) -> torch.Tensor:
    """Images whose neighbouring pixels are as alike as those of photographs: amplitude 1 / f."""
    draw = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(size)[:, None] ** 2 + torch.fft.rfftfreq(size) ** 2
    frequency[0, 0] = math.inf
    grey, own = (
        torch.fft.irfft2(
            torch.fft.rfft2(torch.randn(count, n, size, size, generator=draw)) / frequency.sqrt()
        )
        for n in (1, 3)
    )
    mixed = grey + 0.3 * own
    return (118 + 60 * (mixed - mixed.mean()) / mixed.std()).clamp(0, 255)


def calibrated(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """The network with statistics counted on a batch, as training leaves them."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean
    with torch.no_grad():
        net.train()(x)
    return net.eval()


def caffe_strides(net: nn.Module) -> nn.Module:
    for layer in (net.layer2, net.layer3, net.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return net


def folded(net: nn.Module) -> nn.Module:
    """Statistics multiplied into scale and bias, as Caffe's networks are published."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            scale = module.weight.data / (module.running_var + module.eps).sqrt()
            module.bias.data -= module.running_mean * scale
            module.weight.data = scale
            module.running_mean.zero_()
            module.running_var.fill_(1 - module.eps)
    return net


def trunk(net: nn.Module) -> dict:
    return {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}


def features(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """res5 of images (RGB, 0..255) after the backbone's own preprocessing."""
    x = images.flip(1) if backbone.channel_order == "BGR" else images
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    return res5(load_resnet(backbone).eval(), (x - mean) / std)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


# --- pixels and strides --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["counted", "folded"])
@pytest.mark.parametrize("style", ["normalised", "0..255"])
def test_bare_networks_are_read_in_the_style_that_their_statistics_fit(tmp_path, form, style):
    images = noise()
    net = trained("resnet50")
    net = calibrated(caffe_strides(net) if style == "0..255" else net, ON[style](images))
    net = folded(net) if form == "folded" else net
    torch.save({"state_dict": net.state_dict()}, tmp_path / "a.pth")
    backbone, report = importer.load(tmp_path / "a.pth")
    assert difference(features(backbone, images), res5(net, ON[style](images))) < 1e-3
    assert backbone.method == "unknown"
    assert any("no architecture is named" in note for note in report.notes)
    assert any("Caffe style" in note for note in report.notes) == (style == "0..255")
    other = "caffe" if style == "normalised" else "torchvision"  # what is said is obeyed
    wrong, report = importer.load(tmp_path / "a.pth", other)
    assert wrong.stride_in != backbone.stride_in
    assert any(f"fit pixels {style}" in note for note in report.notes)
    assert difference(features(wrong, images), res5(net, ON[style](images))) > 0.1


def test_pixels_of_0_to_1_are_a_doubt_that_is_said(tmp_path):
    net = calibrated(trained("resnet18"), ON["0..1"](noise()))
    torch.save(net.state_dict(), tmp_path / "a.pth")
    notes = importer.load(tmp_path / "a.pth")[1].notes
    assert any("fit pixels 0..1" in note for note in notes)


@pytest.mark.parametrize("arch", ["resnet18", "wide_resnet50_2"])
def test_statistics_counted_on_photographs(arch, shared_data):
    files = sorted((shared_data / "photos").iterdir())
    chosen = random.Random(0).sample([f for f in files if f.suffix == ".JPEG"], 12)
    images = [np.asarray(Image.open(f).convert("RGB").resize((128, 128))) for f in chosen]
    x = torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float()
    for style, given in ON.items():
        net = trained(arch)
        with torch.no_grad():
            y = net.conv1(given(x))
        net.bn1.running_mean, net.bn1.running_var = y.mean((0, 2, 3)), y.var((0, 2, 3))
        assert statistics.pixels(net.state_dict()) == style


def test_initial_weights_are_not_supervised(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "a.pth")
    backbone, report = importer.load(tmp_path / "a.pth")
    assert backbone.method == "unknown" and any("initial weights" in note for note in report.notes)
    torch.save(trained("resnet18").state_dict(), tmp_path / "a.pth")
    backbone, report = importer.load(tmp_path / "a.pth")
    assert backbone.method == "unknown"  # a classifier alone proves no supervision
    assert not any("initial weights" in note for note in report.notes)


def test_norms_without_statistics_are_refused(tmp_path):
    d2 = {k: v for k, v in checkpoints.detectron2("backbone.bottom_up.").items() if "run" not in k}
    content = {"model": d2, "__author__": "Detectron2 Model Zoo"}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match="GroupNorm"):
        importer.load(tmp_path / "a.pth")
    net = torchvision.models.resnet18(norm_layer=lambda n: nn.GroupNorm(32, n))
    torch.save(net.state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match="GroupNorm"):
        importer.load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("mean", "std", "wanted"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), ("RGB", "3x3")),
        ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), ("BGR", "3x3")),
        ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), ("BGR", "1x1")),
    ],
)
def test_models_of_the_zoo_that_are_not_msras(tmp_path, mean, std, wanted):
    own = {"pixel_mean": torch.tensor(mean)[:, None, None], "pixel_std": torch.tensor(std)}
    content = {"model": checkpoints.detectron2("backbone.bottom_up.") | own}
    torch.save(content | {"__author__": "Detectron2 Model Zoo"}, tmp_path / "a.pth")
    backbone, _ = importer.load(tmp_path / "a.pth")
    assert (backbone.channel_order, backbone.stride_in) == wanted
    assert backbone.mean == pytest.approx(mean) and backbone.std == pytest.approx(std)
    torch.save(
        {**content, "__author__": "Detectron2 Model Zoo"}
        | {"model": {**content["model"], "pixel_std": torch.tensor([1.0, 0.0, 1.0])}},
        tmp_path / "a.pth",
    )
    with pytest.raises(InputError, match="std above 0"):
        importer.load(tmp_path / "a.pth")


# --- architectures that are said -----------------------------------------------------------------

OTHERS = ("resnet50d", "resnetaa50", "timm/resnetblur50.bt_in1k", "resnext50_32x4d", "vit_small")
SAME = (
    "resnet18",
    "ResNet-18",
    "timm/resnet18.a1_in1k",
    "tv_resnet18",
    "gluon_resnet18_v1b",
    "torchvision.models.resnet18",
    "fasterrcnn_resnet18_fpn",
)
PLACES = {
    "at the top": lambda name: {"arch": name},
    "in args": lambda name: {"args": argparse.Namespace(arch=name, lr=0.1)},
    "in hyper parameters": lambda name: {"hyper_parameters": {"model": {"arch": name}}},
    "in a list": lambda name: {"config": {"architectures": [name]}},
    "in a text": lambda name: {"cfg": f"model = dict(\n  arch='{name}',\n" + "# \n" * 99 + ")"},
}


@pytest.mark.parametrize("place", PLACES)
def test_architectures_in_the_file(tmp_path, place):
    path = tmp_path / "a.pth"
    for name in (*SAME, *OTHERS):
        torch.save(PLACES[place](name), path)
        data = formats.read(path).data
        if name in SAME:
            assert name in stated.read(path, data).architectures
        else:
            with pytest.raises(InputError, match=r"says architecture .*--as NAME"):
                stated.read(path, data)


def test_unknown_architectures_are_refused_unless_the_layout_is_said(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": checkpoints.names(), "arch": "resnet18"}, path)
    assert not any("architecture" in note for note in importer.load(path)[1].notes)
    torch.save({"state_dict": checkpoints.names(), "arch": "resnetaa50"}, path)
    with pytest.raises(InputError, match=r"a\.pth says architecture resnetaa50"):
        importer.load(path)
    backbone, report = importer.load(path, "bare")  # the way on that is offered
    assert backbone.arch == "resnet18" and any("as --as says" in n for n in report.notes)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"architecture": "resnetaa50d", "num_classes": 0}'),
        ("config.json", '{"architectures": [\n  "ResNetDForImageClassification"]}'),
        ("hparams.yaml", "lr: 0.1\nmodel:\n  backbone: resnet50_d\n"),
        ("a.py", "model = dict(backbone=dict(type='ResNetV1d', depth=50))"),
        ("a.py", "model = dict(backbone=dict(type='ResNet', depth=50, deep_stem=True))"),
        ("args.json", json.dumps({"arch": "resnet50", "antialiased": True})),
    ],
)
def test_architectures_beside_the_file(tmp_path, name, text):
    torch.save(checkpoints.names(), tmp_path / "a.pth")
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name} beside it.*torchvision's ResNets"):
        importer.load(tmp_path / "a.pth")
    (tmp_path / name).unlink()
    assert importer.load(tmp_path / "a.pth")[0].arch == "resnet18"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "model:\n  arch:\n    name: resnet18\n"),
        ("args.yaml", "arch: null\nlr: 0.1\n"),
        ("config.py", "def build(arch: str):\n    return models[arch]\n\n\narch = args.arch\n"),
    ],
)
def test_texts_that_name_no_architecture(tmp_path, name, text):
    torch.save(checkpoints.names(), tmp_path / "a.pth")
    (tmp_path / name).write_text(text)
    assert stated.read(tmp_path / "a.pth", {}).architectures == {}
    assert importer.load(tmp_path / "a.pth")[0].arch == "resnet18"


@pytest.mark.parametrize(
    ("name", "text", "stride"),
    [
        ("config.yaml", "MODEL:\n  RESNETS:\n    STRIDE_IN_1X1: true\n", "1x1"),
        ("config.json", '{"model_type": "resnet", "downsample_in_bottleneck": true}', "1x1"),
        ("config.py", "backbone=dict(type='ResNet', depth=50, style='caffe')", "1x1"),
        ("config.py", "backbone=dict(type='ResNet', depth=50, style='pytorch')", "3x3"),
    ],
)
def test_strides_said_beside_the_file(tmp_path, name, text, stride):
    net, images = trained("resnet50"), noise(1)
    net = calibrated(caffe_strides(net) if stride == "1x1" else net, ON["normalised"](noise()))
    torch.save(trunk(net), tmp_path / "a.pth")
    (tmp_path / name).write_text(text)
    backbone, _ = importer.load(tmp_path / "a.pth")
    assert backbone.stride_in == stride
    assert difference(features(backbone, images), res5(net, ON["normalised"](images))) < 1e-4


MM_CONFIG = """model = dict(
    type='FasterRCNN',
    pretrained='open-mmlab://detectron2/resnet50_caffe',
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True, style='{style}'),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256))
img_norm_cfg = dict(mean={mean}, std={std}, to_rgb={rgb})
test_pipeline = [dict(type='Normalize', mean={mean}, std={std}, to_rgb={rgb})]
"""
CAFFE = {"style": "caffe", "mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "rgb": False}
PYTORCH = {"style": "pytorch", "mean": MEAN.tolist(), "std": STD.tolist(), "rgb": True}


@pytest.mark.parametrize("said", [True, False], ids=["meta", "statistics"])
@pytest.mark.parametrize("style", ["normalised", "0..255"])
def test_the_backbone_of_a_detector_of_mmdetection(tmp_path, style, said):
    images, net = noise(), trained("resnet50")
    net = calibrated(caffe_strides(net) if style == "0..255" else net, ON[style](images))
    state = {"backbone." + name: tensor for name, tensor in trunk(net).items()}
    state |= checkpoints.some("neck.lateral_convs.0.conv.weight", "rpn_head.rpn_conv.weight")
    state |= checkpoints.some("roi_head.bbox_head.fc_cls.weight")
    text = MM_CONFIG.format(**(CAFFE if style == "0..255" else PYTORCH))
    meta = {"config": text, "epoch": 12} if said else {"epoch": 12}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "a.pth")
    backbone, report = importer.load(tmp_path / "a.pth")
    assert report.layout.name == "mmdetection" and sum(report.dropped.values()) == 3 + 53
    assert difference(features(backbone, images), res5(net, ON[style](images))) < 1e-3
    assert any("those of the config (meta/config)" in note for note in report.notes) == said
    assert not any("bn1's statistics fit" in note for note in report.notes) or not said
    text = MM_CONFIG.format(**(PYTORCH if style == "0..255" else CAFFE))
    torch.save({"meta": {"config": text}, "state_dict": state}, tmp_path / "a.pth")
    assert any("the config says" in note for note in importer.load(tmp_path / "a.pth")[1].notes)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"architecture": "x86_64", "os": "linux"}'),
        ("config.json", '{"arch": "arm64", "image": "resnet-training:3"}'),
        ("config.yaml", "plot:\n  style: pytorch\n  antialias: true\n"),
        ("args.json", '{"arch": "two-tier", "antialiased": true}'),
    ],
)
def test_texts_about_something_else(tmp_path, name, text):
    torch.save(checkpoints.names(), tmp_path / "a.pth")
    (tmp_path / name).write_text(text)
    assert stated.read(tmp_path / "a.pth", {}) == stated.Stated({})


def test_metadata_of_a_safetensors_file_are_read(tmp_path):
    state = {k: v.clone() for k, v in checkpoints.names().items()}
    save_file(state, tmp_path / "a.safetensors", {"arch": "resnet50d"})
    with pytest.raises(InputError, match="architecture resnet50d"):
        importer.load(tmp_path / "a.safetensors")


def test_another_depth_than_is_said_is_a_doubt(tmp_path):
    torch.save({"state_dict": checkpoints.names(), "arch": "resnet50"}, tmp_path / "a.pth")
    assert any("tensors of resnet18" in n for n in importer.load(tmp_path / "a.pth")[1].notes)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"attnpool.k_proj.weight": (1, 1), "conv2.weight": (1, 1, 3, 3)}, "CLIP"),
        ({"conv1.0.weight": (1, 1, 3, 3), "conv1.3.weight": (1, 1, 3, 3)}, "three convolutions"),
        ({"layer2.0.downsample.1.weight": (128, 64, 1, 1)}, "pools before a shortcut"),
        ({"layer2.0.conv3.0.filt": (64, 1, 3, 3)}, "anti-aliased"),
        ({"layer1.0.se.fc1.weight": (4, 64, 1, 1)}, "SE-ResNet"),
    ],
)
def test_relatives_are_named(tmp_path, names, says):
    for prefix in ("", "visual."):
        state = checkpoints.names(prefix)
        state |= {prefix + name: torch.ones(shape) for name, shape in names.items()}
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(InputError, match=f"{says}.*torchvision's ResNets"):
            importer.load(tmp_path / "a.pth")


# --- several sets of weights, and networks behind a prefix ---------------------------------------

FC = checkpoints.some("fc.weight", "fc.bias")
AVERAGES = {
    "beside": (
        {"state_dict": checkpoints.names(), "state_dict_ema": checkpoints.names(seed=1)},
        "state_dict_ema",
    ),
    "of swa": (
        {
            "model": checkpoints.names() | FC,
            "model_ema": checkpoints.wrapped(checkpoints.names(seed=1) | FC)
            | {"n_averaged": torch.tensor(7)},
        },
        "model_ema",
    ),
    "in one dictionary": (
        {"state_dict": checkpoints.names() | FC | checkpoints.names("model_ema.module.", 1)},
        "model_ema",
    ),
    "of mmcv": (
        {
            "state_dict": checkpoints.names()
            | {"ema_" + k.replace(".", "_"): v for k, v in checkpoints.names(seed=1).items()}
        },
        "ema",
    ),
    "under two known names": (
        {"state_dict": checkpoints.names(), "model": checkpoints.names(seed=1)},
        "model",
    ),
}


@pytest.mark.parametrize("form", AVERAGES)
def test_two_sets_of_weights_are_two_encoders(tmp_path, form):
    content, role = AVERAGES[form]
    torch.save(content, tmp_path / "a.pth")
    backbone, report = importer.load(tmp_path / "a.pth")
    assert report.others == (role,)
    other, again = importer.load(tmp_path / "a.pth", encoder=role)
    assert again.encoder.role == role and report.encoder.role in again.others
    for seed, found in enumerate((backbone, other)):
        wanted = {k: v for k, v in checkpoints.names(seed=seed).items() if k in found.tensors}
        assert len(wanted) == len(found.tensors)
        assert all(torch.equal(found.tensors[k], v) for k, v in wanted.items())


def test_weights_under_a_name_of_their_own(tmp_path):
    content = {"ema": {"weights": checkpoints.names()}, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "a.pth")
    assert importer.load(tmp_path / "a.pth")[1].layout.name == "bare"


@pytest.mark.parametrize("prefix", ["model.", "net.encoder."])
def test_a_prefix_is_offered_and_taken(tmp_path, prefix):
    net, x = trained("resnet18"), torch.randn(1, 3, 65, 97)
    state = {prefix + k: v for k, v in net.state_dict().items()} | {"loss.w": torch.ones(2)}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2"}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="behind a prefix: say --prefix") as error:
        importer.load(tmp_path / "a.ckpt")
    offered = str(error.value).rpartition("--prefix ")[2]
    assert offered == prefix
    for said in (prefix, prefix.rstrip(".")):
        backbone, _ = importer.load(tmp_path / "a.ckpt", prefix=said)
        assert torch.equal(res5(load_resnet(backbone).eval(), x), res5(net, x))
    with pytest.raises(InputError, match=f"no tensor behind nothing.*--prefix {prefix}"):
        importer.load(tmp_path / "a.ckpt", prefix="nothing")


def test_what_is_not_explained_can_be_left_out_by_a_prefix(tmp_path):
    state = checkpoints.names("backbone.") | checkpoints.some("decoder.weight")
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"does not explain: decoder\.weight") as error:
        importer.load(tmp_path / "a.pth")
    prefix = str(error.value).rpartition("--prefix ")[2].split()[0]
    assert importer.load(tmp_path / "a.pth", prefix=prefix)[0].arch == "resnet18"


def test_the_trunk_of_a_detector_of_torchvision(tmp_path):
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    pyramid = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    net, x = FasterRCNN(pyramid, num_classes=3).eval(), torch.randn(1, 3, 64, 96)
    torch.save({"model": net.state_dict(), "epoch": 11}, tmp_path / "a.pth")
    backbone, report = importer.load(tmp_path / "a.pth")
    assert report.layout.name == "torchvision-detector"
    with torch.no_grad():
        theirs = OrderedDict(net.backbone.body(x))["3"]
    assert difference(res5(load_resnet(backbone).eval(), x), theirs) < 1e-6
