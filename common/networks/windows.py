"""Swin's windows as its authors and torchvision make them: a map is padded to whole windows, then
shifted. timm shifts first, which gives other features where the map has no whole windows."""

from types import MethodType
from typing import Any

from torch import Tensor
from torchvision.models.swin_transformer import shifted_window_attention


def pad_before_shift(net: Any) -> None:
    """Change timm's Swin in place."""
    for stage in net.layers:
        for number, block in enumerate(stage.blocks):
            window = block.attn.window_size
            block.shift = [side // 2 for side in window] if number % 2 else [0, 0]
            block._attn = MethodType(_attention, block)


def _attention(block: Any, x: Tensor) -> Tensor:
    """(N, H, W, channels) -> the same."""
    own = block.attn
    places = own.relative_position_index
    bias = own.relative_position_bias_table[places.view(-1)].view(*places.shape, -1)
    return shifted_window_attention(
        x,
        own.qkv.weight,
        own.proj.weight,
        bias.permute(2, 0, 1)[None],
        list(own.window_size),
        own.num_heads,
        shift_size=list(block.shift),
        qkv_bias=own.qkv.bias,
        proj_bias=own.proj.bias,
        training=block.training,
    )
