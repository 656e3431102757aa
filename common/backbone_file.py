"""The backbone file: a ResNet trunk under torchvision's names that carries its own preprocessing.
Pretraining and imports write it, fine-tuning reads it.

Reading is strict: every tensor of the architecture in its shape and finite, nothing else, or an
error that lists what is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from .errors import InputError
from .files import sha256_of, write_atomic
from .resnet import IMAGENET_MEAN, IMAGENET_STD, expected_shapes
from .values import shown

if TYPE_CHECKING:  # commands that only name such files should not wait for torch
    from torch import Tensor

FORMAT = {"format": "detco-backbone", "format_version": "1"}  # metadata of every backbone file
REQUIRED = (
    "format",
    "format_version",
    "method",
    "arch",
    "channel_order",
    "mean",
    "std",
    "stride_in",
)


@dataclass(frozen=True)
class Backbone:
    """A trunk and its preprocessing.

    `tensors`: torchvision names -> float32; `mean`, `std`: three values in the order of
        `channel_order`, 0..255 scale;
    `stride_in`: which convolution of a bottleneck has the stride, "3x3" (torchvision) or "1x1"
    (MSRA)."""

    arch: str
    tensors: dict[str, Tensor]
    method: str = "random"
    sha256: str = ""
    channel_order: str = "RGB"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stride_in: str = "3x3"
    metadata: tuple[tuple[str, str], ...] = ()


def random_backbone(arch: str, seed: int) -> Backbone:
    """A trunk with torchvision's initial weights drawn from `seed`: the starting point `random`."""
    import torch
    import torchvision

    wanted = expected_shapes(arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = getattr(torchvision.models, arch)().state_dict()
    return Backbone(arch, {k: state[k] for k in wanted})


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
    if missing:
        raise InputError(f"{path} is a damaged backbone file: metadata lack {', '.join(missing)}")
    if metadata["format_version"] != "1":
        raise InputError(
            f"{path} has format version {shown(metadata['format_version'])}, this program reads 1:"
            " update it"
        )
    check_tensors(path, metadata["arch"], tensors)
    pre = preprocessing(path, metadata)
    return Backbone(
        metadata["arch"],
        tensors,
        metadata["method"],
        sha256_of(path),
        *pre,
        tuple(sorted(metadata.items())),
    )


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
    if metadata["channel_order"] not in ("RGB", "BGR") or metadata["stride_in"] not in (
        "3x3",
        "1x1",
    ):
        found = f"{shown(metadata['channel_order'])!r} and {shown(metadata['stride_in'])!r}"
        raise InputError(
            f"{path}: channel_order must be RGB or BGR and stride_in 3x3 or 1x1, not {found}"
        )
    return metadata["channel_order"], mean, std, metadata["stride_in"]


def check_tensors(path: Path, arch: str, tensors: dict[str, Tensor]) -> None:
    """Raises InputError naming each tensor that is missing, does not belong, has another shape, is
    not finite, or cannot be what it is called."""
    import torch

    wanted = _shapes_of(path, arch)
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


def _shapes_of(path: Path, arch: str) -> dict[str, tuple[int, ...]]:
    try:
        return expected_shapes(arch)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write(path: Path, backbone: Backbone) -> str:
    """Write a backbone file, whole or not at all; returns its sha256. The same backbone gives the
    same bytes."""
    path = Path(path)
    check_tensors(path, backbone.arch, backbone.tensors)
    metadata = dict(backbone.metadata) | {
        **FORMAT,
        "method": backbone.method,
        "arch": backbone.arch,
        "channel_order": backbone.channel_order,
        "mean": json.dumps(backbone.mean),
        "std": json.dumps(backbone.std),
        "stride_in": backbone.stride_in,
    }
    write_tensors(path, backbone.tensors, metadata)
    return sha256_of(path)


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
