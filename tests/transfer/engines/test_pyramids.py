"""timm's networks in Detectron2's models: equal pyramids in both engines, whole runs, what the
release of 2021 lacks."""

import copy
import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from detco.common.backbone_file import random_backbone
from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.protocols import PROTOCOLS
from tests.factories.detectors import shortened
from tests.factories.networks import TINY, drawn, file_of

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
pytest.importorskip("timm")
from detco.transfer import engines
from detco.transfer.engines.detectron2 import config as detectron2_config
from detco.transfer.engines.detectron2 import memory, models
from detco.transfer.engines.detectron2.config import RunConfig
from detco.transfer.engines.networks import networks_in
from detco.transfer.engines.torchvision.models import build

VIT, PATCH14, CONVNEXT, SWIN = TINY
PYRAMID = engines.has_simple_pyramid("detectron2")
OF_ONE_MAP = pytest.mark.skipif(not PYRAMID, reason="the release of 2021 has no simple pyramid")
ARCHS = [*(pytest.param(a, marks=OF_ONE_MAP) for a in (VIT, PATCH14)), CONVNEXT, SWIN]


def both(name: str, arch: str):
    """(the torchvision engine's body, Detectron2's), the second with the first one's tensors."""
    row, backbone = replace(PROTOCOLS[name], freeze="backbone"), drawn(arch)
    ours = build(row, backbone, 3, 0, None).backbone.module
    cfg = detectron2_config.resolve(row, backbone, RunConfig(3, device="cpu", processes=1))
    model = models.build(cfg, backbone)
    theirs = model.backbone
    pyramid = {n: p for n, p in theirs.named_parameters() if "network" not in n}
    (network,) = networks_in(theirs)
    assert not any(p.requires_grad for p in network.parameters())
    assert all(
        torch.equal(network.maps.net.state_dict()[key], t) for key, t in backbone.tensors.items()
    )
    return ours.eval(), model.eval(), pyramid


def copied(ours, theirs: dict) -> None:
    """Detectron2's tensors of the pyramid take the values of ours: the simple pyramid's in their
    order, an FPN's by level, the topmost convolutions last in both."""
    own = [p for n, p in ours.fpn.named_parameters()]
    if hasattr(ours.fpn, "inner_blocks"):
        own = []
        for level in range(len(ours.fpn.inner_blocks)):
            for blocks in (ours.fpn.inner_blocks, ours.fpn.layer_blocks):
                own += list(blocks[level].parameters())
        own += [p for n, p in ours.fpn.extra_blocks.named_parameters()]
    assert len(own) == len(theirs)
    with torch.no_grad():
        for mine, their in zip(own, theirs.values(), strict=True):
            assert mine.shape == their.shape
            their.copy_(mine)


@pytest.mark.parametrize("name", ["small-faster-rcnn-fpn", "small-retinanet"])
@pytest.mark.parametrize("arch", ARCHS)
@torch.no_grad()
def test_both_engines_have_the_same_pyramid(name, arch):
    ours, model, pyramid = both(name, arch)
    copied(ours, pyramid)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    if PYRAMID and arch in (VIT, PATCH14):  # Detectron2 pads for FPNs only
        images[..., 50:, :] = images[..., 83:] = 0
        found, expected = ours(images), model.backbone(images[..., :50, :83])
    else:
        found, expected = ours(images), model.backbone(images)
    assert list(found) == list(expected)
    for level in expected:
        torch.testing.assert_close(found[level], expected[level], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_detector_trains_on_it_and_the_config_says_which(arch, scenes, tmp_path):
    row = shortened("small-mask-rcnn-fpn", layer_decay=0.7, drop_path=0.1)
    data, given = {"layout": "coco", "root": scenes / "coco"}, file_of(arch, tmp_path)
    out = tmp_path / "run"
    result = finetune.finetune(row, given, data, out, "detectron2", device="cpu")
    assert result["weights"]["arch"] == arch and {"box_ap", "mask_ap"} <= result["metrics"].keys()
    text = (out / "detectron2" / "config.yaml").read_text()
    assert f"ARCH: {arch}" in text and "DROP_PATH: 0.1" in text


@pytest.mark.parametrize("arch", ARCHS)
def test_memory_is_estimated_without_numbers(arch, scenes, tmp_path):
    row = shortened("small-retinanet")
    cfg = detectron2_config.resolve(row, drawn(arch), RunConfig(3, device="cuda"))
    one, two = (memory.estimate(cfg, images) for images in (1, 2))
    assert 0 < one < two < 2 * one


def test_the_release_of_2021_says_what_it_lacks(monkeypatch, tmp_path):
    place = SimpleNamespace(submodule_search_locations=[str(tmp_path)], origin="x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: place)
    with pytest.raises(InputError, match=r"needs the pyramid of ViTDet.*--engine torchvision"):
        finetune.refuse_backbone(PROTOCOLS["small-retinanet"], VIT, "detectron2")
    finetune.refuse_backbone(PROTOCOLS["small-retinanet"], CONVNEXT, "detectron2")


def vitdets(backbone) -> torch.nn.Module:
    """Detectron2's own vision transformer, without windows and relative positions, with the
    backbone's tensors; nothing is left over but the class token's position, which is made up."""
    from detectron2.modeling.backbone.vit import ViT

    made = TINY[VIT]
    net = ViT(1024, 16, 3, made["embed_dim"], made["depth"], made["num_heads"])
    tensors = dict(backbone.tensors)
    grid = tensors["pos_embed"]
    tensors["pos_embed"] = torch.cat([torch.zeros_like(grid[:, :1]), grid], 1)
    net.load_state_dict(tensors, strict=True)
    return net


@OF_ONE_MAP
def test_training_is_that_of_detectron2s_own_vision_transformer():
    """Its features at another size than that of pretraining, and its losses over 5 updates of the
    same detector on the same images."""
    args = TINY[VIT] | {"class_token": False, "last_norm": False, "positions": "bicubic"}
    args["norm_eps"] = 1e-6
    backbone = random_backbone(VIT, 0, args)
    row = replace(PROTOCOLS["small-faster-rcnn-fpn"], arch=VIT)
    cfg = detectron2_config.resolve(row, backbone, RunConfig(3, device="cpu", processes=1))
    ours = models.build(cfg, backbone).train()
    theirs = copy.deepcopy(ours)
    theirs.backbone.net, theirs.backbone.in_feature = vitdets(backbone), "last_feat"
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.backbone(images)
        for level, found in ours.backbone(images).items():
            torch.testing.assert_close(found, expected[level], rtol=1e-4, atol=1e-5)
    losses = [losses_of(model, 5) for model in (ours, theirs)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    assert losses[0][-1].sum() < losses[0][0].sum()


def losses_of(model, updates: int) -> torch.Tensor:
    """The losses (updates, kinds) on one made-up image, with the same draws of anchors and
    boxes."""
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    wanted = Instances((64, 96), gt_boxes=Boxes(torch.tensor([[8.0, 8, 60, 56], [50, 20, 90, 60]])))
    wanted.gt_classes = torch.tensor([0, 2])
    image = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(1))
    optimizer, found = torch.optim.SGD(model.parameters(), 0.005), []
    for update in range(updates):
        torch.manual_seed(update)
        with EventStorage():
            losses = model([{"image": image.float(), "instances": wanted}])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        found.append(torch.stack([value.detach() for value in losses.values()]))
    return torch.stack(found)
