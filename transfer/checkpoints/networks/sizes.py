"""Which of timm's models the tensors are, and in which arguments they depart from it."""

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor

from detco.common import networks
from detco.common.errors import InputError

VITS = {  # (width, blocks) -> size
    (192, 12): "tiny",
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1152, 27): "so400m",
    (1280, 32): "huge",
    (1408, 40): "giant",
    (1536, 40): "giant",
    (1664, 48): "gigantic",
    (4096, 40): "7b",
}
HEADS = {1280: 16, 1408: 16, 1664: 16, 4096: 32, 1152: 16}  # width -> heads; else 64 channels each
CONVNEXTS = {  # (width of the first stage, blocks of the third) -> size
    (40, 6): "atto",
    (48, 6): "femto",
    (64, 6): "pico",
    (80, 8): "nano",
    (96, 9): "tiny",
    (96, 27): "small",
    (128, 27): "base",
    (192, 27): "large",
    (256, 27): "xlarge",
    (352, 27): "huge",
    (384, 30): "xxlarge",
}
SWINS = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base", (192, 18): "large"}
SCALES = {"vit": "init_values", "convnext": "ls_init_value"}  # arguments of LayerScale
Arguments = dict[str, Any]


def find(
    family: str, archs: tuple[tuple[str, str], ...], tensors: Mapping[str, Tensor], heads: int
) -> tuple[str, Arguments]:
    """(timm's name, the arguments in which the tensors depart from it).

    archs: size -> name; heads: of attention, 0: the usual number. Raises InputError, without the
    file's name, for tensors that make no such network.
    """
    size, wanted = MEASURES[family](tensors)
    names = dict(archs)
    arch = names.get(size, archs[0][1])
    usual = _usual(family, arch)
    if family == "vit":
        wanted["num_heads"] = heads or _heads(wanted, usual)
    differ = {key: v for key, v in wanted.items() if key in usual and usual[key] != v}
    if "mlp_ratio" in differ and wanted.get("packed") and "reg_tokens" not in usual:
        differ["mlp_ratio"] /= 2  # EVA's means one half of a gated layer, a plain ViT's both
    if "scaled" in differ:
        differ[SCALES[family]] = 1e-5 if differ.pop("scaled") else None
    return arch, differ


@cache
def _usual(family: str, arch: str) -> Arguments:
    return DEFAULTS[family](networks.outline(arch))


def _heads(wanted: Arguments, usual: Arguments) -> int:
    """Of attention; no tensor tells. Raises InputError."""
    width = wanted["embed_dim"]
    if width == usual["embed_dim"]:
        return usual["num_heads"]
    heads = HEADS.get(width, width // 64)
    if not heads or width % heads:
        raise InputError(f"has a width of {width}: its number of attention heads cannot be told")
    return heads


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise InputError(f"has no {name} (timm's name): half a network, or another one")
    return tuple(tensors[name].shape)


def _depth(tensors: Mapping[str, Tensor], before: str) -> int:
    numbers = [int(m[1]) for name in tensors if (m := re.match(before + r"(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def _vit(tensors: Mapping[str, Tensor]) -> tuple[str, Arguments]:
    width, _, patch, *_ = (*_shape(tensors, "patch_embed.proj.weight"), 0, 0, 0)
    depth = _depth(tensors, r"blocks\.")
    tokens = {"cls_token": 1, "reg_token": 0}
    for name in tokens:
        tokens[name] = (1, *tensors[name].shape)[-2] if name in tensors else 0
    found: Arguments = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "class_token": bool(tokens["cls_token"]),
        "reg_tokens": tokens["reg_token"],
        "num_reg_tokens": tokens["reg_token"],
        "pre_norm": "norm_pre.weight" in tensors,
        "scaled": any(re.fullmatch(r"blocks\.0\.(ls1\.gamma|gamma_1)", name) for name in tensors),
        "use_abs_pos_emb": "pos_embed" in tensors,
        "use_rel_pos_bias": "blocks.0.attn.relative_position_bias_table" in tensors,
        "use_shared_rel_pos_bias": "rel_pos_bias.relative_position_bias_table" in tensors,
        "last_norm": "norm.weight" in tensors,
    }
    if "blocks.0.mlp.fc1.weight" in tensors:
        found["mlp_ratio"] = _shape(tensors, "blocks.0.mlp.fc1.weight")[0] / width
        hidden = _shape(tensors, "blocks.0.mlp.fc2.weight")[-1]
        found["packed"] = found["mlp_ratio"] == 2 * hidden / width
    if "pos_embed" in tensors:
        found |= _grid(tensors["pos_embed"].shape[-2], sum(tokens.values()), patch)
    for name in (
        "blocks.0.attn.relative_position_bias_table",
        "rel_pos_bias.relative_position_bias_table",
    ):
        if name in tensors:
            found["img_size"] = (math.isqrt(tensors[name].shape[0] - 3) + 1) // 2 * patch
    return VITS.get((width, depth), "giant" if found.get("packed") else ""), found


def _grid(positions: int, extra: int, patch: int) -> Arguments:
    """Of a table of positions that has or has not those of the tokens beside the patches."""
    for patches in (positions - extra, positions):
        side = math.isqrt(max(patches, 0))
        if side and side * side == patches:
            return {
                "img_size": side * patch,
                "no_embed_class": bool(extra) and patches == positions,
            }
    raise InputError(f"has {positions} positions, which are no square grid of patches")


def _convnext(tensors: Mapping[str, Tensor]) -> tuple[str, Arguments]:
    depths = [_depth(tensors, rf"stages\.{n}\.blocks\.") for n in range(4)]
    dims = [_shape(tensors, f"stages.{n}.blocks.0.conv_dw.weight")[0] for n in range(4)]
    grn = "stages.0.blocks.0.mlp.grn.weight" in tensors
    found = {"depths": depths, "dims": dims, "use_grn": grn}
    found["patch_size"] = _shape(tensors, "stem.0.weight")[-1]
    found["scaled"] = "stages.0.blocks.0.gamma" in tensors
    size = CONVNEXTS.get((dims[0], depths[2]), "")
    return ("v2-" if grn else "") + (size or "tiny"), found


def _swin(tensors: Mapping[str, Tensor]) -> tuple[str, Arguments]:
    depths = [_depth(tensors, rf"layers\.{n}\.blocks\.") for n in range(4)]
    tables = [
        _shape(tensors, f"layers.{n}.blocks.0.attn.relative_position_bias_table") for n in range(4)
    ]
    window = (math.isqrt(tables[0][0]) + 1) // 2
    width = _shape(tensors, "patch_embed.proj.weight")[0]
    found = {"depths": depths, "embed_dim": width, "num_heads": [table[1] for table in tables]}
    return SWINS.get((width, depths[2]), ""), found | {"window_size": window}


def _of_vit(net: Any) -> Arguments:
    """The arguments that timm's model of a name has."""
    block = net.blocks[0]
    usual = {
        "img_size": net.patch_embed.img_size[0],
        "patch_size": net.patch_embed.patch_size[0],
        "embed_dim": net.embed_dim,
        "depth": len(net.blocks),
        "num_heads": block.attn.num_heads,
        "last_norm": True,
    }
    if hasattr(block.mlp, "fc1"):
        usual["mlp_ratio"] = block.mlp.fc1.out_features / net.embed_dim
    names = {name for name, _ in net.named_parameters()}
    usual["scaled"] = bool(names & {"blocks.0.ls1.gamma", "blocks.0.gamma_1"})
    if hasattr(net, "num_reg_tokens"):
        usual |= {"reg_tokens": net.num_reg_tokens, "class_token": net.has_class_token}
        usual |= {"no_embed_class": net.no_embed_class, "pre_norm": "norm_pre.weight" in names}
    elif net.num_prefix_tokens > 1:
        usual["num_reg_tokens"] = net.num_prefix_tokens - 1
    if hasattr(net, "rel_pos_bias"):
        usual["use_abs_pos_emb"] = "pos_embed" in names
        usual["use_rel_pos_bias"] = "blocks.0.attn.relative_position_bias_table" in names
        usual["use_shared_rel_pos_bias"] = net.rel_pos_bias is not None
    return usual


def _of_convnext(net: Any) -> Arguments:
    return {
        "depths": [len(stage.blocks) for stage in net.stages],
        "dims": [info["num_chs"] for info in net.feature_info],
        "patch_size": net.stem[0].kernel_size[0],
        "use_grn": any("grn" in name for name, _ in net.named_parameters()),
        "scaled": net.stages[0].blocks[0].gamma is not None,
    }


def _of_swin(net: Any) -> Arguments:
    blocks = [stage.blocks[0] for stage in net.layers]
    return {
        "depths": [len(stage.blocks) for stage in net.layers],
        "embed_dim": net.feature_info[0]["num_chs"],
        "num_heads": [block.attn.num_heads for block in blocks],
        "window_size": blocks[0].attn.window_size[0],
    }


MEASURES = {"vit": _vit, "convnext": _convnext, "swin": _swin}
DEFAULTS = {"vit": _of_vit, "convnext": _of_convnext, "swin": _of_swin}
