"""Detectron2's models of a config, and the strict loading of a backbone file into any of them."""

from typing import Any

import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from detco.common.backbone_file import Backbone
from detco.common.errors import InputError
from detco.common.networks import RESNET
from detco.common.resnet import stage_of

from ...backbones.export import detectron2_name
from ..freezing import freeze
from ..networks import networks_in
from . import networks as networks  # enters its builder into Detectron2's registry
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
