"""Detectors on vision transformers, ConvNeXt and Swin: their maps, rates, frozen parts, and what is
refused."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detco.common import backbone_file
from detco.common.errors import InputError
from detco.transfer import detections, detector, finetune
from detco.transfer.protocols import PROTOCOLS, as_record, from_record, protocol_hash
from tests.factories.detectors import shortened
from tests.factories.networks import TINY, drawn, file_of

pytest.importorskip("timm")
from detco.common.networks.levels import Levels
from detco.transfer.engines.networks import DetectorNetwork, regroup
from detco.transfer.engines.torchvision import engine
from detco.transfer.engines.torchvision.models import build
from detco.transfer.engines.torchvision.trunks import Pyramid, SimplePyramid

VIT, PATCH14, CONVNEXT, SWIN = TINY


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_patches_of_14_pixels_stand_for_16(images):
    backbone = drawn(PATCH14)
    net, plain = DetectorNetwork(backbone).eval(), Levels(backbone).eval()
    found = net(images)["last"]
    assert found.shape == (2, 32, 4, 6)
    smaller = F.interpolate(images, size=(56, 84), mode="bilinear", antialias=True)
    assert torch.equal(found, plain(smaller)["last"])
    part = images[..., :50, :33]  # padded first, so that a patch stands for 16 pixels there too
    assert torch.equal(net(part)["last"], net(F.pad(part, (0, 31, 0, 14)))["last"])
    whole = DetectorNetwork(drawn(VIT)).eval()(images)["last"]
    assert torch.equal(whole, Levels(drawn(VIT)).eval()(images)["last"])


@torch.no_grad()
def test_the_simple_pyramid_by_hand(images):
    """One level of stride 8: a transposed convolution, then 1 x 1 and 3 x 3 with layer norms over
    the channels."""
    torch.manual_seed(0)
    made = SimplePyramid(32, (8,), 16, LastLevelMaxPool())
    up, small, norm, large, last = made.stages[0]
    x = torch.randn(1, 32, 3, 5)
    wide = torch.zeros(1, 16, 6, 10)
    for dy in range(2):
        for dx in range(2):
            part = torch.einsum("ncyx,cd->ndyx", x, up.weight[:, :, dy, dx])
            wide[:, :, dy::2, dx::2] = part + up.bias[:, None, None]

    def normed(y):
        centred = y - y.mean(1, keepdim=True)
        return centred / (y.var(1, keepdim=True, correction=0) + 1e-6).sqrt()

    narrow = normed(torch.einsum("nchw,dc->ndhw", wide, small.weight[:, :, 0, 0]))
    expected = normed(F.conv2d(narrow, large.weight, padding=1))
    found, pooled = made({"last": x}).values()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(pooled, found[..., ::2, ::2])
    assert small.bias is None and norm.weight.shape == last.weight.shape == (16,)


@pytest.mark.parametrize("arch", TINY)
def test_a_pyramid_has_every_level_and_trains_every_tensor(arch, images):
    body = Pyramid(
        PROTOCOLS["small-faster-rcnn-fpn"], drawn(arch), ("res2", "res3", "res4", "res5")
    )
    levels = body(images)
    sizes = {name: tuple(level.shape[1:]) for name, level in levels.items()}
    width = PROTOCOLS["small-faster-rcnn-fpn"].detector.fpn_channels
    assert sizes == {
        "p2": (width, 16, 24),
        "p3": (width, 8, 12),
        "p4": (width, 4, 6),
        "p5": (width, 2, 3),
        "p6": (width, 1, 2),
    }
    sum(level.square().sum() for level in levels.values()).backward()
    assert [name for name, p in body.named_parameters() if p.grad is None] == []


def rates_of(arch: str, layer_decay: float) -> dict[str, tuple[float, float]]:
    """Name -> (rate, decay) of every tensor of a detector, each in one group only."""
    row = replace(PROTOCOLS["small-retinanet"], arch=arch)
    schedule = replace(row.schedule, lr=1.0, layer_decay=layer_decay)
    model = build(row, drawn(arch), 3, 0, None)
    optimizer = engine.make_optimizer(model, schedule)
    names, found = {id(p): name for name, p in model.named_parameters()}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert found.keys() == dict(model.named_parameters()).keys()
    return found


def test_rates_fall_from_layer_to_layer():
    found, net = rates_of(VIT, 0.5), "backbone.module.trunk.maps.net."
    rates = {name.removeprefix(net): rate for name, (rate, _) in found.items() if net in name}
    # ViTDet: positions and patches, blocks from 1, the detector's own above them all
    assert rates["blocks.1.mlp.fc1.weight"] == 2 * rates["blocks.0.attn.qkv.weight"]
    assert rates["blocks.0.norm1.bias"] == 2 * rates["pos_embed"] == 2 * rates["cls_token"]
    assert rates["pos_embed"] == rates["patch_embed.proj.weight"] == 0.5**3
    assert {rate for name, (rate, _) in found.items() if net not in name} == {1.0}


@pytest.mark.parametrize(("arch", "positions"), [(VIT, 1), (PATCH14, 1), (CONVNEXT, 0), (SWIN, 5)])
def test_positions_and_norms_are_not_decayed(arch, positions):
    found = rates_of(arch, 1.0)
    assert {rate for rate, _ in found.values()} == {1.0}
    plain = {name for name, (_, decay) in found.items() if decay == 0}
    assert sum("pos" in name for name in plain) == positions
    model = build(PROTOCOLS["small-retinanet"], drawn(arch), 3, 0, None)
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    norms += [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert len(plain) == positions + sum(len(list(m.parameters())) for m in norms)


def test_other_libraries_norms_are_not_decayed():
    class RmsNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    model = nn.Sequential(DetectorNetwork(drawn(VIT)), RmsNorm())
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.05)
    regroup(optimizer, model, 1.0)
    plain = {id(p) for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]}
    assert id(model[1].weight) in plain and len(plain) == 1 + 1 + 2 * 5


def test_windows_are_shifted_in_every_stage():
    """Of 7 x 7 positions, also where pretraining saw one window in the last stage."""
    net = DetectorNetwork(backbone_file.random_backbone(SWIN, 0, {"embed_dim": 24}))
    for stage in net.maps.net.layers:
        assert [block.shift for block in stage.blocks][:2] == [[0, 0], [3, 3]]


def test_resnets_keep_their_groups():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = optimizer.param_groups
    regroup(optimizer, model, 1.0)
    assert optimizer.param_groups is before


@pytest.mark.parametrize("arch", TINY)
def test_a_frozen_network_stays_bit_for_bit(arch, images):
    row = replace(PROTOCOLS["small-retinanet"], freeze="backbone")
    backbone = drawn(arch)
    model = build(row, backbone, 3, 0, None).train()
    fpn = {name: t.clone() for name, t in model.backbone.module.fpn.state_dict().items()}
    optimizer = engine.make_optimizer(model, row.schedule)
    targets = [{"boxes": torch.tensor([[4.0, 4, 40, 50]]), "labels": torch.tensor([1])}] * 2
    sum(model([*images], targets).values()).backward()
    optimizer.step()
    after = model.backbone.module.trunk.maps.net.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in backbone.tensors.items())
    moved = model.backbone.module.fpn.state_dict()
    assert not any(torch.equal(moved[name], t) for name, t in fpn.items() if "weight" in name)


@pytest.mark.parametrize(
    ("name", "arch"), [("small-mask-rcnn-fpn", VIT), ("small-retinanet", CONVNEXT)]
)
def test_detectors_train_on_it_and_are_kept(name, arch, scenes, tmp_path):
    """A kept one finds what its run found; the row says which network it is."""
    row = shortened(name, layer_decay=0.7, drop_path=0.1)
    data = {"layout": "coco", "root": scenes / "coco"}
    given = file_of(arch, tmp_path)
    result = finetune.finetune(
        row, given, data, tmp_path / "run", "torchvision", device="cpu", keep_model="final"
    )
    assert result["weights"]["arch"] == arch
    assert f"backbone {arch} (protocol: resnet18)" in result["deviations"]
    expected = json.loads((tmp_path / "run" / "predictions.json").read_text())
    kept = detector.read(tmp_path / "run")
    assert kept.backbone.model_args == TINY[arch]
    _, test = finetune.load_data(row, data)
    found = detections.detect(kept, [image["file_name"] for image in test.images])
    scores = [one["score"] for _, results in found for one in results]
    assert sorted(scores) == pytest.approx(sorted(one["score"] for one in expected), abs=1e-6)


def test_random_weights_of_another_architecture(scenes, tmp_path):
    data = {"layout": "coco", "root": scenes / "coco"}
    row = shortened("small-retinanet")
    result = finetune.finetune(row, "random:convnext_atto", data, tmp_path, "replay")
    assert (result["weights"]["method"], result["weights"]["arch"]) == ("random", "convnext_atto")


@pytest.mark.parametrize(
    ("name", "arch", "changes", "words"),
    [
        ("small-faster-rcnn-c4", "convnext_atto", {}, "takes ResNets only, not convnext_atto"),
        ("cityscapes-semantic", "vit_tiny_patch16_224", {}, "ResNets only.*dilates res5"),
        ("small-retinanet", "swin_tiny_patch4_window7_224", {"freeze": "res4"}, "freeze res4"),
        (
            "small-retinanet",
            "resnext50_32x4d",
            {},
            "unknown backbone architecture 'resnext50_32x4d'",
        ),
        ("small-retinanet", "beit_base_patch16_224", {}, "images of one size only"),
        ("small-retinanet", "vit_tiny_patch16_224.x", {}, "behind the dot"),
        (
            "small-retinanet",
            "convnext_atto",
            {"freeze": "backbone", "drop_path": 0.1},
            "drop_path .*where the backbone is frozen",
        ),
        ("small-retinanet", "resnet18", {"layer_decay": 0.7}, "layer_decay .*not with a ResNet"),
        ("small-retinanet", "resnet18", {"drop_path": 0.1}, "drop_path .*not with a ResNet"),
    ],
)
def test_what_does_not_go_together_is_refused(name, arch, changes, words):
    row = PROTOCOLS[name]
    schedule = replace(row.schedule, **{k: v for k, v in changes.items() if k != "freeze"})
    row = replace(row, schedule=schedule, freeze=changes.get("freeze", "none"))
    with pytest.raises(InputError, match=words):
        finetune.refuse_backbone(row, arch, "torchvision")


def test_images_of_one_size_only_are_refused():
    args = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    backbone = backbone_file.random_backbone("beit_base_patch16_224", 0, args)
    with pytest.raises(InputError, match="for images of 224 x 224 pixels only"):
        DetectorNetwork(backbone)


def test_rows_without_the_new_settings_keep_their_hash():
    row = PROTOCOLS["small-retinanet"]
    assert not {"layer_decay", "drop_path"} & as_record(row)["schedule"].keys()
    changed = replace(row, schedule=replace(row.schedule, layer_decay=0.7))
    assert from_record(as_record(changed))["schedule"]["layer_decay"] == 0.7
    assert protocol_hash(changed) != protocol_hash(row)
