"""Detectron2's models of a config, and the strict loading of a backbone file into any of them.

timm's networks stand under Detectron2's FPN, or its pyramid of ViTDet where there is one map only.
"""

import json
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.modeling import Backbone as Bottom
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from detco.common.backbone_file import Backbone, random_backbone
from detco.common.errors import InputError
from detco.common.networks import RESNET, levels_of
from detco.common.resnet import stage_of

from ...backbones.export import detectron2_name
from ..freezing import freeze
from ..networks import STRIDE, STRIDES, DetectorNetwork, networks_in
from .heads import put_group_norms

WHOLE = 5  # MODEL.BACKBONE.FREEZE_AT where no stage trains


def build(cfg, backbone: Backbone) -> nn.Module:
    """The config's detector with the backbone in it. Raises InputError if not every tensor found
    its place."""
    if cfg.MODEL.RESNETS.RES5_DILATION > 1 and cfg.MODEL.RESNETS.DEPTH < 50:
        raise InputError(
            f"FCN-16s dilates res5, which Detectron2 cannot do in {backbone.arch}; take a ResNet-50"
            " or 101"
        )
    model = assemble(cfg)
    load_backbone(model, backbone)
    if cfg.MODEL.BACKBONE.FREEZE_AT >= WHOLE:
        freeze(networks_in(model))
    heads: Any = getattr(model, "roi_heads", None)
    if cfg.MODEL.BACKBONE.FREEZE_AT >= WHOLE and hasattr(heads, "res5"):
        freeze(part for name, part in heads.res5.named_children() if name != "norm")
    return model


def assemble(cfg) -> nn.Module:
    """The config's detector with new weights. RetinaNet's group norms are put in here: the release
    of 2021 asks for one of a single channel and raises; later versions build these very layers."""
    if cfg.MODEL.META_ARCHITECTURE != "RetinaNet" or cfg.MODEL.RETINANET.NORM != "GN":
        return build_model(cfg)
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.RETINANET.NORM = ""
    model = build_model(plain)
    put_group_norms(model.head)
    return model


def load_backbone(model: nn.Module, backbone: Backbone) -> None:
    """Copy every tensor of the backbone to its place. Raises InputError naming those without one,
    and places left empty."""
    if backbone.family != RESNET:
        for network in networks_in(model):
            network.maps.net.load_state_dict(backbone.tensors, strict=True)
        return
    places, found = model.state_dict(), names_in(model, backbone)
    problems = [
        f"{name} has no place ({place})" for name, place in found.items() if place not in places
    ]
    for name, place in found.items():
        if place in places and places[place].shape != backbone.tensors[name].shape:
            problems.append(
                f"{name} {tuple(backbone.tensors[name].shape)} does not fit"
                f" {tuple(places[place].shape)}"
            )
    problems += [f"{place} gets nothing" for place in trunk_places(places) - set(found.values())]
    if problems:
        raise InputError(
            f"the backbone ({backbone.arch}) does not fit into this detector:"
            f" {'; '.join(sorted(problems)[:8])}"
        )
    with torch.no_grad():
        for name, place in found.items():
            places[place].copy_(backbone.tensors[name])


def names_in(model: nn.Module, backbone: Backbone) -> dict[str, str]:
    """torchvision's name -> where that tensor lies in a Detectron2 model (res5 of C4: in
    the box head)."""
    trunk = "backbone.bottom_up." if hasattr(model.backbone, "bottom_up") else "backbone."
    in_head = hasattr(getattr(model, "roi_heads", None), "res5")
    return {
        name: (
            ("roi_heads." if in_head and stage_of(name) == "res5" else trunk)
            + detectron2_name(name)
        )
        for name in backbone.tensors
    }


def trunk_places(places: dict[str, Tensor]) -> set[str]:
    """Names of a model's tensors that belong to the ResNet trunk; batch counters and C4's extra
    norm do not."""
    return {
        place
        for place in places
        if any(part in ("stem", "res2", "res3", "res4", "res5") for part in place.split("."))
        and "num_batches" not in place
        and not place.startswith("roi_heads.res5.norm.")
    }


class NetworkBackbone(Bottom):
    """The network that MODEL.NETWORK names, with initial weights: `load_backbone` puts the file's
    in."""

    def __init__(self, cfg):
        super().__init__()
        keys = cfg.MODEL.NETWORK
        made = random_backbone(keys.ARCH, 0, json.loads(keys.ARGS))
        self.network = DetectorNetwork(made, keys.DROP_PATH)
        self.shapes = {
            name: ShapeSpec(channels=level.channels, stride=STRIDES.get(name, STRIDE))
            for name, level in levels_of(made).items()
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.network(images)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.shapes


@BACKBONE_REGISTRY.register()
def build_network_pyramid(cfg, input_shape: ShapeSpec) -> Bottom:
    """Levels p2 to p6, for RetinaNet p3 to p7, as Detectron2 makes them of a ResNet."""
    bottom, width, levels = NetworkBackbone(cfg), cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN
    shapes, retina = bottom.output_shape(), len(levels.IN_FEATURES) == 3
    if "last" not in shapes:
        top = LastLevelP6P7(shapes["res5"].channels, width) if retina else LastLevelMaxPool()
        return FPN(bottom, levels.IN_FEATURES, width, levels.NORM, top)
    from detectron2.modeling.backbone.vit import SimpleFeaturePyramid  # not in the release of 2021

    top = LastLevelP6P7(width, width, "p5") if retina else LastLevelMaxPool()
    scales = [STRIDE / STRIDES[name] for name in levels.IN_FEATURES]
    return SimpleFeaturePyramid(bottom, "last", width, scales, top)
