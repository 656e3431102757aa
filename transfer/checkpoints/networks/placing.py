"""The tensors of a vision transformer, ConvNeXt or Swin, under timm's names, as a whole network."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detco.common import networks
from detco.common.errors import InputError
from detco.common.values import shown

from ..rows import CheckpointLayout, Preprocessing
from . import configs, sizes

ASSUMED = "preprocessing: that of the project, the file does not say"


@dataclass(frozen=True)
class Placed:
    """A network as timm builds it; `tensors` float32 under timm's names. Whether all are there is
    for `backbone_file.check_tensors` to say."""

    arch: str
    model_args: dict[str, Any]
    tensors: dict[str, Tensor]
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = (ASSUMED,)


def place(layout: CheckpointLayout, found: Mapping[str, Tensor], path: Path) -> Placed:
    """Raises InputError, without the file's name, for tensors that make no network of the layout's
    family, and for those that are none of its."""
    refuse_quantised(found)
    said = configs.read(path)
    tensors = _joined(found)
    if layout.step:
        tensors = STEPS[layout.step](tensors)
    heads = said.heads or dict(layout.heads).get(_width(tensors), 0)
    archs = layout.archs
    if said.arch and networks.row_of(said.arch).family == layout.family:
        archs = (("", said.arch),)
    arch, model_args = sizes.find(layout.family, archs, tensors, heads)
    model_args |= dict(layout.model_args) | _said(layout, said)
    shapes = networks.expected_shapes(arch, model_args)
    if others := [shown(name) for name in tensors if name not in shapes]:
        raise InputError(
            f"has tensors that {arch} has no place for (timm's names): {', '.join(others[:8])}"
            + (f" and {len(others) - 8} more" if len(others) > 8 else "")
        )
    fitted = {name: _fitted(tensor, shapes[name]) for name, tensor in tensors.items()}
    pre, notes = layout.preprocessing, _notes(layout, said, model_args)
    if said.mean:
        pre = replace(pre, mean=said.mean, std=said.std)
        notes += ("mean and std are those of the config beside the file",)
    return Placed(arch, model_args, fitted, pre, notes, () if said.mean else (ASSUMED,))


def _width(tensors: Mapping[str, Tensor]) -> int:
    return next((t.shape[0] for n, t in tensors.items() if n == "patch_embed.proj.weight"), 0)


def _said(layout: CheckpointLayout, said: configs.Said) -> dict[str, Any]:
    """Arguments that follow from a config; ConvNeXt's inner normalisations do not obey it."""
    if layout.family != "vit":
        return {}
    found = {"norm_eps": said.norm_eps} if said.norm_eps else {}
    return found | (
        {"act_layer": said.activation}
        if "act_layer" in dict(layout.model_args) and said.activation
        else {}
    )


def _notes(
    layout: CheckpointLayout, said: configs.Said, model_args: Mapping[str, Any]
) -> tuple[str, ...]:
    notes = []
    if layout.vague and not said.mean:
        notes.append(
            "the names do not say whose it is: ImageNet's mean and std are assumed (timm's and"
            " Google's ViTs have 0.5), and bicubic resampling of positions"
        )
    guessed = not said.heads and not layout.heads and layout.family == "vit"
    if guessed and "num_heads" in model_args:
        notes.append(f"{model_args['num_heads']} attention heads, from the width: no tensor tells")
    if model_args.get("last_norm") is False:
        notes.append("it has no last normalisation: its map is not normalised")
    return tuple(notes)


def refuse_quantised(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(
                f"is quantised: {shown(name)} is {kind}; save the network in 16 or 32 bits"
            )


def _joined(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parts `NAME@0`, `NAME@1` ... joined along the first axis. Raises InputError where one lacks
    or does not fit."""
    tensors: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in found.items():
        whole, at, number = name.partition("@")
        if at:
            parts.setdefault(whole, {})[int(number)] = tensor
        else:
            tensors[name] = tensor
    for whole, own in parts.items():
        pieces = [own.get(number) for number in range(3)]
        if any(piece is None for piece in pieces):
            raise InputError(f"lacks the query, key or value of {shown(whole)} (timm's name)")
        try:
            tensors[whole] = torch.cat(pieces)  # type: ignore[arg-type]
        except RuntimeError:
            raise InputError(f"has a query, key and value of {shown(whole)} that differ") from None
    return tensors


def _fitted(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As float32; reshaped where nothing but axes of length 1 differ, as between a linear layer and
    a convolution of 1 x 1."""
    tensor = tensor.to(torch.float32, copy=True).contiguous()
    plain = [n for n in tensor.shape if n != 1]
    return tensor.reshape(shape) if plain == [n for n in shape if n != 1] else tensor


def _registers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2 adds the first position to the class token, timm has no position for it."""
    if not {"cls_token", "pos_embed"} <= tensors.keys() or tensors["pos_embed"].ndim != 3:
        raise InputError("lacks the class token or the positions of a DINOv2 with registers")
    first, patches = tensors["pos_embed"].float().split((1, tensors["pos_embed"].shape[1] - 1), 1)
    return tensors | {"cls_token": tensors["cls_token"].float() + first, "pos_embed": patches}


def _no_key_bias(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv3 has a bias of query, key and value, of which a mask takes the key's away; timm has
    those of query and value."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("attn.qkv.bias_mask"):
            thirds = tensor.chunk(3)
            if not (thirds[0] == 1).all() or (thirds[1] != 0).any() or not (thirds[2] == 1).all():
                raise InputError(f"has a {shown(name)} that masks something else than the key")
        elif name.endswith("attn.qkv.bias"):
            query, _, value = tensor.chunk(3)
            before = name.removesuffix("qkv.bias")
            found |= {f"{before}q_bias": query, f"{before}v_bias": value}
        else:
            found[name] = tensor
    return found


STEPS = {"registers": _registers, "no key bias": _no_key_bias}
