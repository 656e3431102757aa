"""The backbone inside a detector of torchvision's parts, and the pyramids that stand on it."""

from collections import OrderedDict
from itertools import pairwise

import torchvision
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from detco.common.backbone_file import Backbone
from detco.common.errors import InputError
from detco.common.networks import RESNET, levels_of
from detco.common.networks.levels import Levels

from ...settings import Protocol
from ..networks import STRIDE, STRIDES, DetectorNetwork


class DetectorTrunk(nn.Module):
    """The ResNet trunk: picture batch (N, 3, H, W) -> the asked levels, e.g. {"res4": (N, 1024,
    H/16, W/16)}."""

    def __init__(self, backbone: Backbone, levels: tuple[str, ...]):
        super().__init__()
        net = load_resnet(backbone)
        self.stem = nn.Sequential(
            OrderedDict(conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool)
        )
        self.stages = nn.ModuleDict(
            {f"res{i + 1}": getattr(net, f"layer{i}") for i in (1, 2, 3, 4)}
        )
        self.levels = levels
        for level in list(self.stages)[list(self.stages).index(levels[-1]) + 1 :]:
            del self.stages[level]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, out = self.stem(x), OrderedDict()
        for level, stage in self.stages.items():
            x = stage(x)
            if level in self.levels:
                out[level] = x
        return out


def load_resnet(backbone: Backbone) -> nn.Module:
    """torchvision's ResNet of that architecture with the backbone's tensors, strictly loaded.

    The stride sits where the backbone says: for "1x1" (MSRA) it moves to the first convolution of
    each bottleneck.
    """
    net = getattr(torchvision.models, backbone.arch)(num_classes=1)
    state = net.state_dict()
    fresh = {k: v for k, v in state.items() if k.startswith("fc.") or "num_batches_tracked" in k}
    net.load_state_dict(fresh | backbone.tensors, strict=True)
    if backbone.stride_in == "1x1":
        for block in (
            m for m in net.modules() if isinstance(m, torchvision.models.resnet.Bottleneck)
        ):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    return net


def alone(backbone: Backbone, level: str) -> tuple[nn.Module, str]:
    """The network without a detector, images (N, 3, H, W) -> {level: map}, and the name of the
    level in it: a vision transformer's only one stands for res5. Raises InputError for another."""
    known = levels_of(backbone)
    if "last" in known and level == "res5":
        level = "last"
    if level not in known:
        raise InputError(
            f"unknown level {level!r} of {backbone.arch}; there are {', '.join(known)}"
        )
    if backbone.family == RESNET:
        return DetectorTrunk(backbone, (level,)), level
    return Levels(backbone), level


def channels(backbone: Backbone) -> dict[str, int]:
    return {name: level.channels for name, level in levels_of(backbone).items()}


class Pyramid(nn.Module):
    """Trunk and feature pyramid, with levels named p2 ... p7 of the row's width, `out_channels`."""

    def __init__(self, protocol: Protocol, backbone: Backbone, levels: tuple[str, ...]):
        super().__init__()
        width, wide = protocol.detector.fpn_channels, channels(backbone)
        single = "last" in wide
        self.trunk: nn.Module
        if backbone.family == RESNET:
            self.trunk = DetectorTrunk(backbone, levels)
        else:
            self.trunk = DetectorNetwork(backbone, protocol.schedule.drop_path)
        last = width if single else wide[levels[-1]]
        retina = protocol.architecture == "retinanet"
        top = LastLevelP6P7(last, width) if retina else LastLevelMaxPool()
        self.fpn: nn.Module
        if single:
            strides = tuple(STRIDES[level] for level in levels)
            self.fpn = SimplePyramid(wide["last"], strides, width, top)
        else:  # normalised as the papers do it (FPN.NORM) unless the trunk's norms are frozen
            norm = None if protocol.detector.norm == "FrozenBN" else nn.BatchNorm2d
            inputs = [wide[level] for level in levels]
            self.fpn = FeaturePyramidNetwork(inputs, width, extra_blocks=top, norm_layer=norm)
        self.levels = ("last",) if single else levels
        self.first, self.out_channels = int(levels[0][3:]), width

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.trunk(x)
        features = self.fpn(OrderedDict((level, found[level]) for level in self.levels)).values()
        return OrderedDict((f"p{i}", f) for i, f in enumerate(features, self.first))


class SimplePyramid(nn.Module):
    """ViTDet's pyramid from the last map of a vision transformer (arXiv 2203.16527, section 3):
    every level is made of that one map of stride 16, by transposed convolutions or pooling, and two
    convolutions with layer norms.

    {"last": (N, channels, H/16, W/16)} -> one map of `width` channels for each of `strides` (4, 8,
    16 or 32), and what `top` adds.
    """

    def __init__(self, channels: int, strides: tuple[int, ...], width: int, top: nn.Module):
        super().__init__()
        from timm.layers import LayerNorm2d  # of channels, as Detectron2's "LN"

        self.stages = nn.ModuleList()
        for stride in strides:
            layers: list[nn.Module] = []
            wide = [channels // 2**i for i in range((STRIDE // stride).bit_length())]
            for number, (before, after) in enumerate(pairwise(wide)):
                layers += [LayerNorm2d(before, eps=1e-6), nn.GELU()] if number else []
                layers.append(nn.ConvTranspose2d(before, after, 2, stride=2))
            if stride > STRIDE:
                wide = [channels]
                layers.append(nn.MaxPool2d(2))
            for before, kernel in ((wide[-1], 1), (width, 3)):
                layers.append(nn.Conv2d(before, width, kernel, padding=kernel // 2, bias=False))
                layers.append(LayerNorm2d(width, eps=1e-6))
            self.stages.append(nn.Sequential(*layers))
        self.top = top

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        maps = [stage(features["last"]) for stage in self.stages]
        names = [str(number) for number in range(len(maps))]
        maps, names = self.top(maps, maps, names)
        return OrderedDict(zip(names, maps))
