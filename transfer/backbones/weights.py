"""The backbone file: a ResNet trunk under torchvision's names that carries its own preprocessing.

Reading is strict: every tensor of the architecture in its shape and finite, nothing else, or an
error that lists what is wrong.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.common.tensors import BACKBONE, write_tensors
from detco.common.values import shown

ARCHS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
TRUNK = re.compile(
    r"(conv1|bn1|layer[1-4]\.\d+\.(conv[123]|bn[123]|downsample\.[01]))\.(weight|bias|running_mean|running_var)"
)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, 0..255
STAGES = ("stem", "res2", "res3", "res4", "res5")
# seconds without a write; the process may be on another machine, its number says nothing here
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
    tensors: dict[str, torch.Tensor]
    method: str = "random"
    sha256: str = ""
    channel_order: str = "RGB"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stride_in: str = "3x3"
    metadata: tuple[tuple[str, str], ...] = ()


@cache
def expected_shapes(arch: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a trunk's tensors, classifier and batch counters left out: 100 for
    ResNet-18, 265 for ResNet-50."""
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


def random_backbone(arch: str, seed: int) -> Backbone:
    """A trunk with torchvision's initial weights drawn from `seed`: the starting point `random`."""
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
    hint = "; `detco weights import` makes a backbone file of another project's checkpoint"
    metadata, tensors = read_tensors(path, hint)
    missing = [k for k in REQUIRED if k not in metadata]
    if metadata.get("format") == "detco-detector":
        raise InputError(
            f"{path} is a whole trained detector, not a backbone file: it is for `detco predict`"
        )
    if missing or metadata["format"] != BACKBONE["format"]:
        raise InputError(
            f"{path} is not a backbone file of this project (metadata lack"
            f" {', '.join(missing) or 'the format'})"
        )
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


def read_tensors(path: Path, hint: str = "") -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """(metadata, tensors) of a safetensors file. Raises InputError, which ends with `hint`."""
    try:
        with safe_open(path, framework="pt") as f:
            return f.metadata() or {}, {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
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
        raise InputError(f"{path}: channel_order must be RGB or BGR and stride_in 3x3 or 1x1")
    return metadata["channel_order"], mean, std, metadata["stride_in"]


def arch_of(tensors: dict[str, torch.Tensor]) -> str:
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


def check_tensors(path: Path, arch: str, tensors: dict[str, torch.Tensor]) -> None:
    """Raises InputError naming each tensor that is missing, does not belong, has another shape, is
    not finite, or cannot be what it is called."""
    wanted = expected_shapes(arch)
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


def write(path: Path, backbone: Backbone) -> str:
    """Write a backbone file, whole or not at all; returns its sha256. The same backbone gives the
    same bytes."""
    path = Path(path)
    check_tensors(path, backbone.arch, backbone.tensors)
    metadata = dict(backbone.metadata) | {
        **BACKBONE,
        "method": backbone.method,
        "arch": backbone.arch,
        "channel_order": backbone.channel_order,
        "mean": json.dumps(backbone.mean),
        "std": json.dumps(backbone.std),
        "stride_in": backbone.stride_in,
    }
    write_tensors(path, backbone.tensors, metadata)
    return sha256_of(path)


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


def stage_of(name: str) -> str:
    """`stem`, `res2` ... `res5` for a torchvision tensor name."""
    return f"res{int(name[5]) + 1}" if name.startswith("layer") else "stem"


def describe(backbone: Backbone) -> dict:
    """What `detco weights show` prints: architecture, origin, preprocessing, counts and the norm of
    each stage's weights."""
    square: dict[str, float] = {}
    for name, tensor in backbone.tensors.items():
        if "running_" not in name:
            square[stage_of(name)] = square.get(stage_of(name), 0.0) + float(
                tensor.double().square().sum()
            )
    meta = {key: shown(value, 20_000) for key, value in backbone.metadata}
    return {
        "architecture": backbone.arch,
        "method": shown(backbone.method),
        "epochs": meta.get("epochs", ""),
        "images seen": meta.get("images_seen", ""),
        "channel order": backbone.channel_order,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "stride in": backbone.stride_in,
        "tensors": len(backbone.tensors),
        "parameters": sum(t.numel() for k, t in backbone.tensors.items() if "running_" not in k),
        "stage norms": {stage: round(square[stage] ** 0.5, 4) for stage in STAGES},
        "source": meta.get("source", ""),
        "source sha256": meta.get("source_sha256", ""),
        "layout": meta.get("adapter", ""),
        "encoder": meta.get("encoder", ""),
        "sha256": backbone.sha256,
        "recipe": meta.get("recipe", ""),
        "assumed": meta.get("assumed", "[]"),
    }


def compare(one: Backbone, other: Backbone) -> dict:
    """What `detco weights show --compare` prints: which tensors are equal, equal under another
    name, or differ, and how far.

    `distance`: Frobenius norm of the difference over that of the first, by stage, over the tensors
    of the same name and shape."""
    digests = {name: _bytes_of(tensor) for name, tensor in other.tensors.items()}
    own = {name: _bytes_of(tensor) for name, tensor in one.tensors.items()}
    elsewhere = {digest: name for name, digest in digests.items() if own.get(name) != digest}
    identical, renamed, different = 0, {}, []
    change, size = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)
    for name, tensor in one.tensors.items():
        digest, twin = own[name], other.tensors.get(name)
        if digests.get(name) == digest:
            identical += 1
        elif digest in elsewhere:
            renamed[name] = elsewhere[digest]
        else:
            different.append(name)
        if twin is not None and twin.shape == tensor.shape:
            change[stage_of(name)] += float((tensor - twin).double().square().sum())
            size[stage_of(name)] += float(tensor.double().square().sum())
    same_way = ("arch", "channel_order", "mean", "std", "stride_in")
    return {
        "same architecture and preprocessing": all(
            getattr(one, key) == getattr(other, key) for key in same_way
        ),
        "identical": identical,
        "renamed": renamed,
        "different": len(different),
        "only in the second": len(
            other.tensors.keys() - one.tensors.keys() - set(renamed.values())
        ),
        "distance": {
            stage: round((change[stage] / size[stage]) ** 0.5, 6) for stage in STAGES if size[stage]
        },
    }


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return hashlib.sha256(
        repr(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes()
    ).digest()
