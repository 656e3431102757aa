"""The backbone file: the trunk of a network that carries its own preprocessing. Pretraining and
imports write it, fine-tuning reads it.

ResNets are under torchvision's names (version 1), other families under timm's (version 2); version
2 says how timm rebuilds the network, too. Reading is strict: every tensor of the architecture in
its shape and finite, nothing else, or an error that lists what is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from . import networks
from .errors import InputError
from .files import sha256_of, write_atomic
from .networks import RESNET
from .resnet import ARCHS, IMAGENET_MEAN, IMAGENET_STD, expected_shapes
from .values import shown

if TYPE_CHECKING:  # commands that only name such files should not wait for torch
    from torch import Tensor

FORMAT = {"format": "detco-backbone", "format_version": "1"}  # metadata of a ResNet's file
OTHERS = FORMAT | {"format_version": "2"}
REQUIRED = ("format", "format_version", "method", "arch", "channel_order", "mean", "std")
OF_VERSION = {"1": ("stride_in",), "2": ("family", "model_args")}  # required beside these


@dataclass(frozen=True)
class Backbone:
    """A trunk and its preprocessing.

    `tensors`: names -> float32, torchvision's of ResNets, timm's of others; `mean`, `std`: three
        values in the order of `channel_order`, 0..255 scale;
    `stride_in`: which convolution of a bottleneck has the stride, "3x3" (torchvision) or "1x1"
    (MSRA); of ResNets only;
    `family`: "resnet", "vit", "convnext" or "swin"; `model_args`: in what timm's model departs from
    what its name `arch` means, see `networks`."""

    arch: str
    tensors: dict[str, Tensor]
    method: str = "random"
    sha256: str = ""
    channel_order: str = "RGB"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stride_in: str = "3x3"
    metadata: tuple[tuple[str, str], ...] = ()
    family: str = RESNET
    model_args: Mapping[str, Any] = field(default_factory=dict)


def random_backbone(arch: str, seed: int, model_args: Mapping[str, Any] | None = None) -> Backbone:
    """A trunk with the initial weights of torchvision, or of timm for what is no ResNet of
    torchvision's, drawn from `seed`: the starting point `random`. Raises InputError for an unknown
    architecture."""
    import torch
    import torchvision

    if arch not in ARCHS:
        args = dict(model_args or {})
        tensors = networks.random_tensors(arch, args, seed)
        return Backbone(arch, tensors, family=networks.row_of(arch).family, model_args=args)
    wanted = expected_shapes(arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = getattr(torchvision.models, arch)().state_dict()
    return Backbone(arch, {k: state[k] for k in wanted})


def random_twin(backbone: Backbone, seed: int) -> Backbone:
    """The same network with initial weights, for images that are prepared in the same way."""
    drawn = random_backbone(backbone.arch, seed, backbone.model_args)
    return replace(
        drawn,
        channel_order=backbone.channel_order,
        mean=backbone.mean,
        std=backbone.std,
        stride_in=backbone.stride_in,
    )


def read(path: Path) -> Backbone:
    """Read a backbone file. Raises InputError naming the file and each tensor that is missing,
    unknown, misshapen or not finite."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no backbone file at {path}")
    metadata, tensors = read_tensors(path, _advice(path))
    missing = [k for k in REQUIRED if k not in metadata]
    if metadata.get("format") == "detco-detector":
        raise InputError(
            f"{path} is a whole trained detector, not a backbone file: it is for `detco predict`"
        )
    if metadata.get("format") != FORMAT["format"]:
        raise InputError(
            f"{path} is not a backbone file of this project; `detco weights import` makes one of"
            " another project's checkpoint"
        )
    version = metadata.get("format_version", "")
    missing += [k for k in OF_VERSION.get(version, ()) if k not in metadata]
    if missing:
        raise InputError(f"{path} is a damaged backbone file: metadata lack {', '.join(missing)}")
    if version not in OF_VERSION:
        raise InputError(
            f"{path} has format version {shown(version)}, this program reads"
            f" {' and '.join(OF_VERSION)}: update it"
        )
    family, model_args = RESNET, dict[str, Any]()
    if version != FORMAT["format_version"]:
        family, model_args = network(path, metadata)
        if metadata["family"] != family:
            raise InputError(
                f"{path}: metadata family is {shown(metadata['family'])!r}, but"
                f" {shown(metadata['arch'])} is of {family}"
            )
    check_tensors(path, metadata["arch"], tensors, family, model_args)
    return Backbone(
        metadata["arch"],
        tensors,
        metadata["method"],
        sha256_of(path),
        *preprocessing(path, metadata),
        tuple(sorted(metadata.items())),
        family,
        model_args,
    )


def network(path: Path, metadata: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """(family, arguments of timm's model) as the metadata `arch` and `model_args` say them. Raises
    InputError."""
    try:
        row = networks.row_of(metadata["arch"])
        model_args = json.loads(metadata.get("model_args", "{}"))
        networks.check_arguments(metadata["arch"], model_args)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, AttributeError, RecursionError):
        found = shown(metadata["model_args"])
        raise InputError(f"{path}: metadata model_args must be JSON, not {found!r}") from None
    return row.family, model_args


def _advice(path: Path) -> str:
    """What to do about a file that cannot be read: one that begins like a safetensors file is
    damaged, and another project's checkpoint would have to be imported."""
    try:
        with open(path, "rb") as file:
            begins = file.read(9)
    except OSError:
        return ""
    if begins[8:] == b"{":
        return "; it is damaged: copy or make it again"
    return "; `detco weights import` makes a backbone file of another project's checkpoint"


def read_tensors(path: Path, hint: str = "") -> tuple[dict[str, str], dict[str, Tensor]]:
    """(metadata, tensors) of a safetensors file. Raises InputError, which ends with `hint`."""
    try:
        with safe_open(path, framework="pt") as f:
            names = f.keys()  # it is not a dict
            return f.metadata() or {}, {name: f.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file: {shown(str(error), 200)}{hint}"
        ) from None


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors. Raises InputError."""
    try:
        with safe_open(path, framework="pt") as f:
            return f.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file: {shown(str(error), 200)}"
        ) from None


def preprocessing(
    path: Path, metadata: dict[str, str]
) -> tuple[str, tuple[float, ...], tuple[float, ...], str]:
    """(channel order, mean, std, stride in) as metadata say them. Raises InputError for values that
    cannot be."""
    mean, std = _triple(path, metadata, "mean"), _triple(path, metadata, "std")
    order, stride_in = metadata["channel_order"], metadata.get("stride_in", "3x3")
    if order not in ("RGB", "BGR") or stride_in not in ("3x3", "1x1"):
        raise InputError(
            f"{path}: channel_order must be RGB or BGR and stride_in 3x3 or 1x1, not"
            f" {shown(order)!r} and {shown(stride_in)!r}"
        )
    return order, mean, std, stride_in


def check_tensors(
    path: Path,
    arch: str,
    tensors: Mapping[str, Tensor],
    family: str = RESNET,
    model_args: Mapping[str, Any] | None = None,
) -> None:
    """Raises InputError naming each tensor that is missing, does not belong, has another shape, is
    not finite, or cannot be what it is called."""
    import torch

    wanted = _shapes_of(path, arch, family, model_args or {})
    problems = [f"{k} is missing" for k in wanted if k not in tensors]
    problems += [f"{shown(k)} does not belong to {arch}" for k in tensors if k not in wanted]
    for k in wanted.keys() & tensors.keys():
        if tuple(tensors[k].shape) != wanted[k]:
            problems.append(f"{k} has shape {tuple(tensors[k].shape)}, not {wanted[k]}")
        elif not tensors[k].is_floating_point():
            problems.append(
                f"{k} has whole numbers ({str(tensors[k].dtype).removeprefix('torch.')})"
            )
        elif not torch.isfinite(tensors[k]).all():
            problems.append(f"{k} is not finite")
        elif k.endswith("running_var") and (tensors[k] < 0).any():
            problems.append(f"{k} is a variance below 0")
    if problems:
        listed = "; ".join(sorted(problems)[:8]) + (
            f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        )
        raise InputError(f"{path} does not hold a whole {arch}: {listed}")


def _shapes_of(
    path: Path, arch: str, family: str, model_args: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    try:
        if family != RESNET:
            return networks.expected_shapes(arch, model_args)
        return expected_shapes(arch)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write(path: Path, backbone: Backbone) -> str:
    """Write a backbone file, whole or not at all; returns its sha256. The same backbone gives the
    same bytes."""
    path = Path(path)
    family, model_args = backbone.family, backbone.model_args
    check_tensors(path, backbone.arch, backbone.tensors, family, model_args)
    metadata = dict(backbone.metadata) | {
        **form_of(family, backbone.stride_in, model_args),
        "method": backbone.method,
        "arch": backbone.arch,
        "channel_order": backbone.channel_order,
        "mean": json.dumps(backbone.mean),
        "std": json.dumps(backbone.std),
    }
    write_tensors(path, backbone.tensors, metadata)
    return sha256_of(path)


def form_of(
    family: str = RESNET, stride_in: str = "3x3", model_args: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The metadata that say which version a file is of, and how its network is built."""
    if family == RESNET:
        return FORMAT | {"stride_in": stride_in}
    return OTHERS | {"family": family, "model_args": networks.key_of(model_args or {})}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all; the same content gives the same bytes (the
    library's order of metadata is random). Raises OSError."""
    from safetensors.torch import save

    data = memoryview(save(dict(tensors), dict(metadata)))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8 : 8 + length]))
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts = (len(text).to_bytes(8, "little"), text, data[8 + length :])
    write_atomic(path, lambda file: file.writelines(parts))


def _triple(path: Path, metadata: dict[str, str], key: str) -> tuple[float, ...]:
    try:
        values = tuple(float(v) for v in json.loads(metadata[key]))
    except (ValueError, TypeError, OverflowError, RecursionError):
        values = ()
    if (
        len(values) != 3
        or not all(map(math.isfinite, values))
        or (key == "std" and min(values) <= 0)
    ):
        what = "three numbers above 0" if key == "std" else "three numbers"
        raise InputError(
            f"{path}: metadata {key} must be a JSON list of {what}, not {shown(metadata[key])!r}"
        )
    return values
