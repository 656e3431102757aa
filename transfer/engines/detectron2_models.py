"""What Detectron2 lacks for the papers' protocols, in its registries: the C4 head with the extra norm, and the FCN-16s head.

Also the strict loading of a backbone file into any of its models.
"""

from itertools import pairwise

import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, ResNet
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from .. import InputError
from ..weights import Backbone, stage_of

RES5_BLOCKS = {18: 2, 34: 3, 50: 3, 101: 3, 152: 3}


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """The C4 box head of MoCo and DetCo: res5, then one more normalisation; the mask head shares both.

    Unlike Detectron2's own it follows the backbone's depth: basic blocks for ResNet-18 and 34.
    """

    @classmethod
    def _build_res5_block(cls, cfg):
        net = cfg.MODEL.RESNETS
        width = 8 * net.RES2_OUT_CHANNELS
        more = {"block_class": BasicBlock}
        if net.DEPTH >= 50:
            more = {"block_class": BottleneckBlock, "stride_in_1x1": net.STRIDE_IN_1X1}
            more["bottleneck_channels"] = 8 * net.NUM_GROUPS * net.WIDTH_PER_GROUP
        count = RES5_BLOCKS[net.DEPTH]
        blocks = ResNet.make_stage(
            num_blocks=count, stride_per_block=[2] + [1] * (count - 1), in_channels=width // 2, out_channels=width,
            norm=net.NORM, **more,
        )  # fmt: skip
        res5 = nn.Sequential(*blocks)
        res5.add_module("norm", get_norm(net.NORM, width))
        return res5, width


@SEM_SEG_HEADS_REGISTRY.register()
class FCN16sHead(nn.Module):
    """FCN-16s (MoCo, appendix): two dilated 3 x 3 convolutions with norm and ReLU on the dilated res5, a 1 x 1 classifier.

    Features (N, C, H / 16, W / 16) -> logits (N, classes, H, W), upsampled bilinearly; in training the cross entropy with
    targets (N, H, W) of class numbers, without those that are `ignore`.
    """

    def __init__(self, cfg, input_shape: dict[str, ShapeSpec]):
        super().__init__()
        head = cfg.MODEL.SEM_SEG_HEAD
        (self.in_feature,) = head.IN_FEATURES
        self.stride, self.ignore_value = head.COMMON_STRIDE, head.IGNORE_VALUE
        widths = [input_shape[self.in_feature].channels, head.CONVS_DIM, head.CONVS_DIM]
        convs = [
            Conv2d(
                before, after, 3, padding=head.DILATION, dilation=head.DILATION, bias=False,
                norm=get_norm(head.NORM, after), activation=F.relu,
            )
            for before, after in pairwise(widths)
        ]  # fmt: skip
        self.convs, self.predictor = nn.Sequential(*convs), Conv2d(head.CONVS_DIM, head.NUM_CLASSES, 1)
        for layer in (*convs, self.predictor):
            weight_init.c2_msra_fill(layer)

    def forward(self, features: dict[str, Tensor], targets: Tensor | None = None):
        logits = self.predictor(self.convs(features[self.in_feature])).float()
        logits = F.interpolate(logits, scale_factor=self.stride, mode="bilinear", align_corners=False)
        if not self.training:
            return logits, {}
        logits = logits[..., : targets.shape[-2], : targets.shape[-1]]  # strides round up
        return None, {"loss_sem_seg": F.cross_entropy(logits, targets, ignore_index=self.ignore_value)}


def build(cfg, backbone: Backbone) -> nn.Module:
    """The config's detector with the backbone in it. Raises InputError if not every tensor found its place."""
    if cfg.MODEL.RESNETS.RES5_DILATION > 1 and cfg.MODEL.RESNETS.DEPTH < 50:
        raise InputError(f"FCN-16s dilates res5, which Detectron2 cannot do in {backbone.arch}; take a ResNet-50 or 101")
    model = assemble(cfg)
    load_backbone(model, backbone)
    return model


def assemble(cfg) -> nn.Module:
    """The config's detector with new weights. RetinaNet's group norms are put in here: the release of 2021 asks for one of a
    single channel and raises; later versions build these very layers."""
    if cfg.MODEL.META_ARCHITECTURE != "RetinaNet" or cfg.MODEL.RETINANET.NORM != "GN":
        return build_model(cfg)
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.RETINANET.NORM = ""
    model = build_model(plain)
    for name in ("cls_subnet", "bbox_subnet"):
        layers = []
        for layer in getattr(model.head, name):
            layers.append(layer)
            if isinstance(layer, nn.Conv2d):
                layers.append(get_norm("GN", layer.out_channels).to(layer.weight.device))
        setattr(model.head, name, nn.Sequential(*layers))
    return model


def load_backbone(model: nn.Module, backbone: Backbone) -> None:
    """Copy every tensor of the backbone to its place. Raises InputError naming those without one, and places left empty."""
    places, found = model.state_dict(), names_in(model, backbone)
    problems = [f"{name} has no place ({place})" for name, place in found.items() if place not in places]
    for name, place in found.items():
        if place in places and places[place].shape != backbone.tensors[name].shape:
            problems.append(f"{name} {tuple(backbone.tensors[name].shape)} does not fit {tuple(places[place].shape)}")
    problems += [f"{place} gets nothing" for place in trunk_places(places) - set(found.values())]
    if problems:
        raise InputError(f"the backbone ({backbone.arch}) does not fit into this detector: {'; '.join(sorted(problems)[:8])}")
    with torch.no_grad():
        for name, place in found.items():
            places[place].copy_(backbone.tensors[name])


def names_in(model: nn.Module, backbone: Backbone) -> dict[str, str]:
    """torchvision's name -> where that tensor lies in a Detectron2 model (res5 of C4: in the box head)."""
    trunk = "backbone.bottom_up." if hasattr(model.backbone, "bottom_up") else "backbone."
    in_head = hasattr(getattr(model, "roi_heads", None), "res5")
    return {
        name: ("roi_heads." if in_head and stage_of(name) == "res5" else trunk) + detectron2_name(name)
        for name in backbone.tensors
    }


def detectron2_name(name: str) -> str:
    """`layer1.0.bn2.weight` -> `res2.0.conv2.norm.weight`, `conv1.weight` -> `stem.conv1.weight`. In C4's head: `res5.0...`."""
    *path, last = name.split(".")
    if len(path) == 1:
        return "stem.conv1." + ("norm." if path[0] == "bn1" else "") + last
    stage, block, part, *rest = path
    if part == "downsample":
        part = "shortcut.norm" if rest == ["1"] else "shortcut"
    elif part.startswith("bn"):
        part = f"conv{part[2:]}.norm"
    return f"{stage_of(stage)}.{block}.{part}.{last}"


def trunk_places(places: dict[str, Tensor]) -> set[str]:
    """Names of a model's tensors that belong to the ResNet trunk; batch counters and C4's extra norm do not."""
    return {
        place
        for place in places
        if any(part in ("stem", "res2", "res3", "res4", "res5") for part in place.split("."))
        and "num_batches" not in place
        and not place.startswith("roi_heads.res5.norm.")
    }
