"""Networks of timm with four stages as trunks of pretraining, in place of a ResNet."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detco.common import networks
from detco.common.errors import InputError
from detco.common.networks.levels import padded

from ..recipes import LEVELS

LARGEST = 32  # stride of the last stage


class StagesTrunk(nn.Module):
    """A ConvNeXt or Swin: (n, 3, h, w) -> (res2, res3, res4, res5) at strides 4, 8, 16, 32, images
    padded with zeros, right and below, to a multiple of 32. Raises InputError for what has no four
    stages, and where timm is missing.

    They have layer norms, so that there is nothing to normalise in groups of the batch.
    """

    net: Any  # timm's classes have no common type

    def __init__(self, arch: str):
        super().__init__()
        row = networks.row_of(arch)
        if not row.stages:
            raise InputError(
                f"{arch} has one map and no stages: there is nothing that the levels of a recipe"
                " could mean; pretraining takes ResNets, ConvNeXt and Swin"
            )
        self.net, self.family = networks.build(arch, {}), row.family
        levels = networks.expected_levels(arch, {})
        self.channels = {name: levels[name].channels for name in LEVELS}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = padded(x, LARGEST)
        maps = self.net.forward_intermediates(x, intermediates_only=True, output_fmt="NCHW")
        return tuple(maps)
