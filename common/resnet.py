"""ResNets under torchvision's names: the architectures, their tensors, ImageNet's statistics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from .errors import InputError
from .values import shown

if TYPE_CHECKING:
    from torch import Tensor

ARCHS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
# RGB, 0..255
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
STAGES = ("stem", "res2", "res3", "res4", "res5")
TRUNK = re.compile(
    r"(conv1|bn1|layer[1-4]\.\d+\.(conv[123]|bn[123]|downsample\.[01]))"
    r"\.(weight|bias|running_mean|running_var)"
)


@cache
def expected_shapes(arch: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a trunk's tensors, classifier and batch counters left out: 100 for
    ResNet-18, 265 for ResNet-50."""
    import torch
    import torchvision

    if arch not in ARCHS:
        raise InputError(
            f"unknown backbone architecture {shown(arch)!r}; known: {', '.join(ARCHS)}"
        )
    with torch.device("meta"):
        state = getattr(torchvision.models, arch)().state_dict()
    return {
        k: tuple(v.shape)
        for k, v in state.items()
        if not k.startswith("fc.") and "num_batches" not in k
    }


def arch_of(tensors: Mapping[str, Tensor]) -> str:
    """The architecture whose tensors these are, or nearly are. Raises InputError for a relative
    that no detector here takes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    stem, second = shapes.get("conv1.weight", ()), shapes.get("layer1.0.conv2.weight", ())
    if stem[2:] == (3, 3):
        raise InputError(
            "holds a ResNet for tiny pictures (its stem is a 3 x 3 convolution); the detectors here"
            " need 7 x 7"
        )
    if stem and stem[0] != 64:
        raise InputError(
            f"holds a ResNet {stem[0] / 64:g} times as wide in every stage; known:"
            f" {', '.join(ARCHS)}"
        )
    if len(second) == 4 and second[0] != second[1]:
        raise InputError(f"holds a ResNeXt (grouped convolutions); known: {', '.join(ARCHS)}")
    return min(ARCHS, key=lambda arch: len(shapes.items() ^ expected_shapes(arch).items()))


def stage_of(name: str) -> str:
    """`stem`, `res2` ... `res5` for a torchvision tensor name."""
    return f"res{int(name[5]) + 1}" if name.startswith("layer") else "stem"
