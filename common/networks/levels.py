"""The maps of a network that timm builds, for images of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..backbone_file import Backbone
from ..errors import InputError
from . import OWN, build, levels_of, row_of


class Levels(nn.Module):
    """Normalised images (N, 3, H, W) -> {level: (N, channels, H / stride, W / stride)}, sizes
    rounded up: images are padded with zeros, right and below, to a multiple of the largest stride.

    A vision transformer has one level, `last`: its patches behind the last block and, if
    `last_norm`, the last normalisation; class token and registers are left out. `levels`: channels
    and stride of each; `fixed`: (H, W) of the only images that fit, None where any do.
    """

    net: Any  # timm's classes have no common type
    fixed: tuple[int, int] | None

    def __init__(self, backbone: Backbone, last_norm: bool = True, drop_path: float = 0.0):
        super().__init__()
        row = row_of(backbone.arch)
        self.net = build(backbone.arch, backbone.model_args, drop_path)
        self.net.load_state_dict(backbone.tensors, strict=True)
        self.levels = levels_of(backbone)
        self.multiple = max(level.stride for level in self.levels.values())
        self.positions = (OWN | dict(backbone.model_args))["positions"]
        self.stages, self.last_norm = row.stages, last_norm and not row.stages
        if not row.stages and not last_norm:
            self.net.norm = nn.Identity()  # a parameter without a gradient stops some optimizers
        self.fixed = None if row.varies else tuple(self.net.patch_embed.img_size)

    def set_size(self, size: tuple[int, int]) -> None:
        """Change the only size that fits: timm resamples biases of positions. size: (H, W), of
        whole patches."""
        if self.fixed:
            self.net.set_input_size(img_size=size)
            self.fixed = size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        if self.fixed and (height, width) != self.fixed:
            raise InputError(
                f"images of {height} x {width} do not fit: the positions of this network are for"
                f" {self.fixed[0]} x {self.fixed[1]}"
            )
        maps = self._maps(padded(images, self.multiple))
        return dict(zip(self.levels, maps, strict=True))

    def _maps(self, images: Tensor) -> list[Tensor]:
        how: dict[str, Any] = {"indices": None if self.stages else 1, "norm": self.last_norm}
        how |= {"intermediates_only": True, "output_fmt": "NCHW"}
        table = getattr(self.net, "pos_embed", None)
        if table is None or self.fixed:
            return self.net.forward_intermediates(images, **how)
        patches, old = self.net.patch_embed, self.net.patch_embed.grid_size
        new = (images.shape[-2] // self.multiple, images.shape[-1] // self.multiple)
        body = _Body(self.net, how)
        patches.grid_size = new  # else timm resamples in its own way
        try:
            changed = {"net.pos_embed": resampled(table, old, new, self.positions)}
            return functional_call(body, changed, (images,))
        finally:
            patches.grid_size = old


class _Body(nn.Module):
    """`forward_intermediates` as a module's forward."""

    net: Any

    def __init__(self, net: nn.Module, how: dict):
        super().__init__()
        self.net, self.how = net, how

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.net.forward_intermediates(images, **self.how)


def padded(images: Tensor, multiple: int) -> Tensor:
    """Images (N, 3, H, W) with zeros right and below, up to whole multiples of pixels."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def resampled(table: Tensor, old: tuple[int, int], new: tuple[int, int], how: str) -> Tensor:
    """A table of positions (1, tokens + old grid, width) for another grid; tokens that are no
    patches keep theirs.

    how: "bicubic" (MAE, MoCo v3, iBOT and ViTDet), "antialias" (timm, DINOv2 with registers), or
    "offset": the scale is (new + 0.1) / old (DINO, DINOv2 without registers).
    """
    if old == new:
        return table
    extra = table.shape[1] - old[0] * old[1]
    grid = table[:, extra:].reshape(1, *old, -1).permute(0, 3, 1, 2).float()
    if how == "offset":
        scale = tuple((n + 0.1) / o for n, o in zip(new, old))
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    else:
        grid = F.interpolate(grid, size=new, mode="bicubic", antialias=how == "antialias")
    grid = grid.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat([table[:, :extra], grid], 1)
