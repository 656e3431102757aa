"""What a checkpoint, or a text beside it, says about its network's graph: settings that
no tensor shows.

Texts (config.json, args.yaml, a config in Python ...) are searched for `key: value`; none is
parsed, none is run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detco.common.errors import InputError
from detco.common.values import shown

NEIGHBOURS = (
    "config.json",
    "args.json",
    "config.yaml",
    "config.yml",
    "args.yaml",
    "hparams.yaml",
    "config.py",
)
BESIDE = " beside it"
OWN = (".json", ".yaml", ".yml", ".py")  # endings of a text that has the checkpoint's name
LONGEST, DEEPEST, MOST = 1 << 20, 6, 20_000  # bytes of a text; containers, values of a file

NAMES = ("arch", "architecture", "architectures")  # of the whole network
PARTS = ("backbone", "backbone_name", "model_name", "encoder_name", "base_model", "base_encoder")
RESNET = re.compile(r"(?i)\w*res_?ne[xs]?t.*")
# torchvision's graph under other projects' names for it; timm's tags (.a1_in1k) are its training
KNOWN = re.compile(
    r"((fast|faster|mask|keypoint)_?rcnn_|retinanet_|fcos_|detr_)?(tv_|ssl_|swsl_|gluon_)?"
    r"(wide_)?resnet_?(18|34|50|101|152)?(_2)?(_?v1b|_?v1[._]5)?"
    r"(_fpn|_c4)?(_v2|_coco|_scratch)*(\..*)?"
    r"|r_?(18|34|50|101|152)(_c4|_fpn)?|resnet(model|backbone|for\w+)"
)
PREFIX = re.compile(r"(hf_hub:|timm/|torchvision(\.models)?[./]|torchvision://|microsoft/)")
STRIDES = {
    ("stride_in_1x1", "true"): "1x1",
    ("stride_in_1x1", "false"): "3x3",
    ("style", "caffe"): "1x1",
    ("style", "pytorch"): "3x3",
    ("downsample_in_bottleneck", "true"): "1x1",
    ("downsample_in_bottleneck", "false"): "3x3",
}
OTHER_GRAPH = (
    "deep_stem",
    "avg_down",
    "downsample_in_first_stage",
    "antialias",
    "antialiased",
    "aa_layer",
    "blurpool",
)
OFF = ("false", "none", "null", "0", "")
INTERESTING = "|".join((*NAMES, *PARTS, *OTHER_GRAPH, "style", *(key for key, _ in STRIDES)))
# A value stands on the line of its key, or in a list that begins there: what follows on the next
# line is a key of its own (`arch:` above `  name: resnet50`).
PAIR = re.compile(
    rf"(?i)(?<!\w)['\"]?({INTERESTING})['\"]?[ \t]*[=:][ \t]*(?:\[\s*)?(['\"]?)([\w./:+-]+)"
)
MM_TYPE = re.compile(r"type=['\"](ResNe\w+)['\"]")
# what OpenMMLab's configs do with images, which they decode as BGR
MM_MEAN = re.compile(r"\bmean=[\[(]([\d., ]{5,100})[\])]")
MM_STD = re.compile(r"\bstd=[\[(]([\d., ]{5,100})[\])]")
MM_ORDER = re.compile(r"\b(?:bgr_)?to_rgb=(True|False)")
# A text beside the file may be about something else: this one is about a network.
ABOUT_A_NETWORK = re.compile(
    r"(?i)res_?ne[xs]?t|\b(num_classes|num_features|model_type|architectures|pretrained_cfg)\b"
)
MACHINES = re.compile(r"(?i)x86.*|amd64|arm64|aarch64|i\d86|ppc64\w*|sm_?\d+|cuda|cpu|linux.*")


Pixels = tuple[str, tuple[float, ...], tuple[float, ...]]  # channel order, mean, std


@dataclass(frozen=True)
class Stated:
    """`architectures`: names -> where each stands; `stride_in`: "1x1", "3x3" or, unsaid, "";
    `pixels`: what is done with images, and where that stands."""

    architectures: dict[str, str]
    stride_in: str = ""
    stride_where: str = ""
    pixels: Pixels | None = None
    pixels_where: str = ""


def read(path: Path, data: Any) -> Stated:
    """Raises InputError, without the file's name, for a graph that is none of torchvision's
    ResNets, or strides said in two ways."""
    found: dict[str, str] = {}
    strides: dict[str, str] = {}
    for where, key, value in _pairs(path, data):
        low = value.lower()
        if key in OTHER_GRAPH and low not in OFF:
            raise InputError(f"says {key} {shown(value)} ({where}): {_refused()}")
        if stride := STRIDES.get((key, low)):
            strides.setdefault(stride, f"{key} {shown(value)} ({where})")
        named = key in NAMES and low not in OFF and not MACHINES.fullmatch(low)
        if named or (key in PARTS and RESNET.fullmatch(value)):
            found.setdefault(value, where)
    if len(strides) > 1:
        raise InputError(f"says {' and '.join(strides.values())}: which stride it has is unclear")
    for name, where in found.items():
        if not KNOWN.fullmatch(PREFIX.sub("", name.lower().replace("-", "_"))):
            raise InputError(f"says architecture {shown(name)} ({where}): {_refused()}")
    stride = next(iter(strides), "")
    pixels = {said: where for where, text in _texts(path, data) for said in _pixels(text)}
    said = next(iter(pixels)) if len(pixels) == 1 else None
    return Stated(found, stride, strides.get(stride, ""), said, pixels[said] if said else "")


def _refused() -> str:
    return (
        "none of torchvision's ResNets, and the same tensors in another graph give other features;"
        " if it is wrong, --as NAME reads the file all the same"
    )


def _pairs(path: Path, data: Any) -> Iterator[tuple[str, str, str]]:
    """(where it stands, key in small letters, value)"""
    for place, value in _values(data):
        if isinstance(value, bool | int | float | str) and not _is_text(value):
            yield place, place.rpartition("/")[2].lower(), str(value)
    for where, text in _texts(path, data):
        yield from _in_text(text, where)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) > 200


def _texts(path: Path, data: Any) -> Iterator[tuple[str, str]]:
    """(where it stands, a config or other long text), in the file and beside it."""
    for place, value in _values(data):
        if _is_text(value):
            yield place, value
    for name in (*NEIGHBOURS, *(path.stem + end for end in OWN)):
        text = path.parent / name
        if text != path and text.is_file():
            with open(text, "rb") as file:
                content = file.read(LONGEST).decode(errors="replace")
            if ABOUT_A_NETWORK.search(content):
                yield name + BESIDE, content


def _pixels(text: str) -> Iterator[Pixels]:
    """(channel order, mean, std) where a text of OpenMMLab says each of them in one way."""
    means, stds = (_triples(pattern.findall(text)) for pattern in (MM_MEAN, MM_STD))
    orders = set(MM_ORDER.findall(text))
    if not len(means) == len(stds) == len(orders) == 1:
        return
    mean, std = means.pop(), stds.pop()
    if min(std) > 0 and not 0 < max(mean) <= 1:  # those are of pixels from 0 to 1
        yield "RGB" if orders == {"True"} else "BGR", mean, std


def _triples(found: list[str]) -> set[tuple[float, ...]]:
    """The different lists of three numbers."""
    triples: set[tuple[float, ...]] = set()
    for text in found:
        try:
            numbers = tuple(float(number) for number in text.split(",") if number.strip())
        except ValueError:
            continue
        if len(numbers) == 3:
            triples.add(numbers)
    return triples


def _in_text(text: str, where: str) -> Iterator[tuple[str, str, str]]:
    python = where.removesuffix(BESIDE).endswith(".py")
    for key, quote, value in PAIR.findall(text):
        named = key.lower() in (*NAMES, *PARTS)
        if not (named and python and not quote):  # a variable or a type, no name
            yield where, key.lower(), value
    for name in MM_TYPE.findall(text):
        yield where, "arch", name


def _values(data: Any) -> Iterator[tuple[str, Any]]:
    """Every plain value by its place a/b/c; in a list under the list's own name."""
    waiting, seen = [("", data, 0)], set()
    for place, item, depth in waiting:  # grows while it is walked
        if isinstance(item, torch.Tensor) or len(waiting) > MOST:
            continue
        if isinstance(item, dict | list | tuple):
            if depth < DEEPEST and id(item) not in seen:
                seen.add(id(item))
                pairs = item.items() if isinstance(item, dict) else (("", v) for v in item[:100])
                waiting += [
                    (f"{place}/{shown(key)}".strip("/"), value, depth + 1)
                    for key, value in pairs
                    if isinstance(key, str)
                ]
        else:
            yield place, item
