"""Networks beside torchvision's ResNets: vision transformers, ConvNeXt and Swin, which timm builds.

A network is timm's name and the arguments in which it departs from that name's. timm is an optional
dependency (`pip install timm`): what needs it raises InputError where it is missing.

To add a family: a row of ROWS. Its maps come from timm's `forward_intermediates` (see `levels`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from ..resnet import ARCHS, STAGES, stage_of
from ..resnet import expected_shapes as shapes_of_resnet
from ..values import shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..backbone_file import Backbone

RESNET = "resnet"
MISSING = "needs timm: pip install timm"
LARGEST = 20_000  # of any number among the arguments
# what timm's models have no argument for: `norm_eps` of every LayerNorm; `last_norm`: whether the
# map of a ViT is normalised; `positions`: how its grid of positions is resampled (see `levels`)
OWN = {"norm_eps": None, "last_norm": True, "positions": "antialias"}
POSITIONS = ("antialias", "bicubic", "offset")


@dataclass(frozen=True)
class Row:
    """Models of one kind. modules: of timm that define them; arguments: that a file may set;
    fixed: what detectors need; beside: parts behind the maps, which are left out; varies: whether
    images of any size fit; stages: four maps of stride 4 to 32, else one; windows: see
    `windows`."""

    family: str
    modules: tuple[str, ...]
    arguments: tuple[str, ...]
    fixed: tuple[tuple[str, Any], ...] = ()
    beside: tuple[str, ...] = ("head",)
    varies: bool = True
    stages: bool = False
    windows: bool = False


class Level(NamedTuple):
    channels: int
    stride: int


_VIT = (
    *("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "init_values"),
    *("qkv_bias", "act_layer", "class_token", "reg_tokens", "no_embed_class", "pre_norm"),
)
_EVA = (
    *("num_reg_tokens", "use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias"),
    *("swiglu_mlp", "scale_mlp", "qkv_fused", "ref_feat_shape", "rope_temperature"),
)
_DEEP = ("depths", "dims", "patch_size", "ls_init_value", "use_grn", "conv_mlp", "act_layer")
_WINDOWS = ("img_size", "window_size", "embed_dim", "depths", "num_heads", "mlp_ratio", "qkv_bias")
_BEHIND = ("fc_norm", "attn_pool", "head_drop", "head")
_ANY_SIZE = (("dynamic_img_size", True),)
_UNPOOLED = (("global_pool", ""),)
ROWS = (
    Row("vit", ("vision_transformer", "deit"), _VIT, _UNPOOLED + _ANY_SIZE, _BEHIND),
    Row("vit", ("eva",), _VIT + _EVA, _UNPOOLED + _ANY_SIZE, _BEHIND),
    Row("vit", ("beit",), _VIT + _EVA, _UNPOOLED, _BEHIND, varies=False),
    Row("convnext", ("convnext",), _DEEP, beside=("norm_pre", "head"), stages=True),
    Row(
        "swin",
        ("swin_transformer",),
        _WINDOWS,
        (("strict_img_size", False),),
        ("norm", "head"),
        stages=True,
        windows=True,
    ),
)
FAMILIES = (RESNET, *dict.fromkeys(row.family for row in ROWS))


def row_of(arch: str) -> Row:
    """The row of a model of timm. Raises InputError for another name, or where timm is missing."""
    timm = _timm(arch)
    found = (row for row in ROWS if timm.models.is_model_in_modules(arch, row.modules))
    row = next(found, None)
    if row is None:
        raise InputError(
            f"unknown backbone architecture {shown(arch)!r}; known: {', '.join(ARCHS)} and the"
            f" models of timm {timm.__version__} of the families {', '.join(FAMILIES[1:])}"
        )
    return row


def _timm(arch: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        raise InputError(f"{shown(arch)} {MISSING}") from None
    return timm


def build(arch: str, model_args: Mapping[str, Any], drop_path: float = 0.0) -> Any:
    """timm's model (an nn.Module) with its initial weights, without what stands behind its maps.
    Raises InputError for arguments that make no such network."""
    row, timm = row_of(arch), _timm(arch)
    check_arguments(arch, model_args)
    own = OWN | {key: value for key, value in model_args.items() if key in OWN}
    given = {key: value for key, value in model_args.items() if key not in OWN}
    given |= dict(row.fixed) | {"num_classes": 0, "drop_path_rate": drop_path}
    try:
        net = timm.create_model(arch, pretrained=False, **given)
    except Exception as error:  # of timm's models, for numbers that do not go together
        why = shown(str(error) or type(error).__name__, 200)
        raise InputError(f"{shown(arch)} with {json.dumps(dict(model_args))}: {why}") from None
    net = _bared(net, row, own)
    if row.windows:
        from .windows import pad_before_shift

        pad_before_shift(net)
    return net


def _bared(net: nn.Module, row: Row, own: Mapping[str, Any]) -> nn.Module:
    from torch import nn

    beside = row.beside if own["last_norm"] else ("norm", *row.beside)
    for name in beside:
        if getattr(net, name, None) is not None:
            setattr(net, name, nn.Identity())
    for part in net.modules():
        if own["norm_eps"] is not None and isinstance(part, nn.LayerNorm):
            part.eps = own["norm_eps"]
    return net


def check_arguments(arch: str, model_args: Mapping[str, Any]) -> None:
    """Raises InputError for arguments that a backbone file must not set."""
    allowed = (*row_of(arch).arguments, *OWN)
    for key, value in model_args.items():
        if key not in allowed:
            raise InputError(f"{shown(arch)} takes no argument {shown(key)!r} from a backbone file")
        if not _is_plain(value):
            raise InputError(f"{shown(arch)}: {key} cannot be {shown(str(value))}")
    if model_args.get("positions", POSITIONS[0]) not in POSITIONS:
        raise InputError(f"{shown(arch)}: positions must be one of {', '.join(POSITIONS)}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return 1 <= len(value) <= 4 and all(type(v) is int and 0 < v <= LARGEST for v in value)
    if isinstance(value, str):
        return value.replace("_", "").isalnum() and len(value) < 30
    if value is None or isinstance(value, bool):
        return True
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= LARGEST


def key_of(model_args: Mapping[str, Any]) -> str:
    """Arguments as one text, the same for the same ones."""
    return json.dumps(dict(model_args), sort_keys=True)


def expected_shapes(arch: str, model_args: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's tensors, what stands behind its maps left out."""
    return _outline(arch, key_of(model_args))[0]


def outline(arch: str, model_args: Mapping[str, Any] | None = None) -> Any:
    """The model without numbers: its shapes and what it says of itself, made at once."""
    import torch

    with torch.device("meta"):
        return build(arch, model_args or {})


@cache
def _outline(arch: str, arguments: str) -> tuple[dict[str, tuple[int, ...]], dict[str, Level]]:
    """(shapes of the tensors, levels), without any numbers."""
    net = outline(arch, json.loads(arguments))
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = [Level(info["num_chs"], info["reduction"]) for info in net.feature_info]
    if row_of(arch).stages:
        return shapes, dict(zip(STAGES[1:], found, strict=True))
    return shapes, {"last": found[-1]}


def expected_levels(arch: str, model_args: Mapping[str, Any]) -> dict[str, Level]:
    """The maps of a model of timm, without any numbers."""
    return _outline(arch, key_of(model_args))[1]


def part_of(family: str, name: str) -> str:
    """Where a tensor stands: `stem`, `res2` ... `res5`, or in a vision transformer `blocks.0` ...,
    `norm`."""
    if family == RESNET:
        return stage_of(name)
    first, number, *_ = (*name.split("."), "")
    if first in ("stages", "layers"):
        return f"res{int(number) + 2}"
    return {"blocks": f"blocks.{number}", "norm": "norm"}.get(first, "stem")


def levels_of(backbone: Backbone) -> dict[str, Level]:
    """Channels and stride of each map: `res2` to `res5` of a network of four stages, `last` of a
    vision transformer."""
    if backbone.family != RESNET:
        return expected_levels(backbone.arch, backbone.model_args)
    shapes = shapes_of_resnet(backbone.arch)
    last = {name[5]: shape[0] for name, shape in shapes.items() if name.startswith("layer")}
    return {f"res{int(n) + 1}": Level(width, 2 ** (int(n) + 1)) for n, width in last.items()}


def random_tensors(arch: str, model_args: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """timm's initial weights drawn from `seed`."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(build(arch, model_args).state_dict())
