"""What the tensors of a ResNet leave open: the pixels it was trained on and where its strides are.

Decided by what the file or a text beside it says, else by the statistics of its normalisation, else
by its layout; a guess is reported as one.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from detco.common.errors import InputError
from detco.common.values import shown

from . import stated, statistics
from .detect import inside
from .reader.formats import Content
from .rows import IMAGENET, MSRA, CheckpointLayout, Preprocessing

ASSUMED = "preprocessing: that of the project, the file does not say"
ALIKE = {statistics.BYTES: MSRA, statistics.NORMALISED: IMAGENET}  # what a scale of pixels suggests
SAID = {
    statistics.BYTES: "Caffe style: BGR, only the mean subtracted, stride in the 1x1 convolution",
    statistics.NORMALISED: "torchvision's style: normalised RGB, stride in the 3x3 convolution",
}


@dataclass(frozen=True)
class Network:
    """A trunk (torchvision's names, whole) and all tensors of the place it was found in."""

    layout: CheckpointLayout
    arch: str
    tensors: Mapping[str, Tensor]
    beside: Mapping[str, Tensor]


@dataclass(frozen=True)
class Style:
    """`assumed`: what of the preprocessing is; `untrained`: the file holds initial weights."""

    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = (ASSUMED,)
    untrained: bool = False


def style_of(network: Network, path: Path, content: Content, forced: bool) -> Style:
    """Raises InputError, without the file's name, for a graph that is none of torchvision's
    ResNets, unless the user said whose file it is (`forced`)."""
    own = _own(content.data)
    if own:
        return Style(own, (), ())
    notes: list[str] = []
    says = _stated(path, content, forced, notes)
    pre = network.layout.preprocessing
    assumed: tuple[str, ...] = (ASSUMED,)
    if from_file := _pixel_mean(network.beside, pre):
        pre, assumed = from_file, ()
        notes.append("mean, std and channel order are the file's own pixel_mean and pixel_std")
    elif says.pixels and not forced:
        pre, assumed = _by_config(network, says.pixels, notes), ()
        notes.append(f"mean, std and channel order are those of the config ({says.pixels_where})")
    else:
        pre = _by_statistics(network, forced, notes)
    if says.stride_in and says.stride_in != pre.stride_in:
        pre = replace(pre, stride_in=says.stride_in)
        notes.append(f"stride in the {says.stride_in} convolution: {says.stride_where}")
    if network.layout.vague and not forced and not says.architectures:
        notes.append(
            "no architecture is named, in the file or beside it: torchvision's graph is assumed; an"
            " anti-aliased ResNet or other strides have the same tensors and other features"
        )
    notes += [
        f"says architecture {shown(name)} ({where}), has the tensors of {network.arch}"
        for name, where in says.architectures.items()
        if (depth := re.search(r"18|34|50|101|152", name)) and depth[0] not in network.arch
    ]
    untrained = statistics.untrained(network.tensors)
    if untrained:
        notes.append("its normalisation never saw an image: these are initial weights")
    return Style(pre, tuple(notes), assumed, untrained)


def _stated(path: Path, content: Content, forced: bool, notes: list[str]) -> stated.Stated:
    try:
        return stated.read(path, [content.data, dict(content.metadata)])
    except InputError as error:
        if not forced:
            raise
        notes.append(f"the file {error}".partition(":")[0] + ", read as --as says all the same")
        return stated.Stated({})


def _by_statistics(network: Network, forced: bool, notes: list[str]) -> Preprocessing:
    """The layout's preprocessing, or where the layout proves none what bn1's statistics fit."""
    layout, seen = network.layout, statistics.pixels(network.tensors)
    pre = layout.preprocessing
    if seen == statistics.UNCLEAR:
        if layout.vague and not forced and not statistics.untrained(network.tensors):
            notes.append(
                "bn1's statistics do not tell on which pixels it was trained: "
                f"{_scale(pre)} {pre.channel_order} is assumed"
            )
        return pre
    if seen == _scale(pre):
        return pre
    if layout.vague and not forced and seen in ALIKE:
        notes.append(
            f"bn1's statistics fit pixels {seen}, so it is read in {SAID[seen]}; --as NAME says"
            " another"
        )
        return ALIKE[seen]
    notes.append(
        f"bn1's statistics fit pixels {seen}, but as {layout.name} it is read with {_scale(pre)};"
        " --as NAME says another layout"
    )
    return pre


def _by_config(network: Network, pixels: stated.Pixels, notes: list[str]) -> Preprocessing:
    """What a config says is done with images; a doubt where bn1's statistics fit others."""
    order, mean, std = pixels
    stride = "1x1" if max(std) <= 2 else "3x3"
    pre = Preprocessing(order, mean, std, stride)
    seen = statistics.pixels(network.tensors)
    if seen not in (statistics.UNCLEAR, _scale(pre)):
        notes.append(f"bn1's statistics fit pixels {seen}, the config says {_scale(pre)}")
    return pre


def _scale(pre: Preprocessing) -> str:
    if max(pre.std) <= 2:
        return statistics.BYTES
    return statistics.UNIT if min(pre.std) > 200 else statistics.NORMALISED


def _pixel_mean(tensors: Mapping[str, Tensor], usual: Preprocessing) -> Preprocessing | None:
    """What Detectron2's detectors keep in their files; the order of the channels follows from the
    means, as blue is the darkest."""
    found = [tensors[name] for name in ("pixel_mean", "pixel_std") if name in tensors]
    if [value.numel() for value in found] != [3, 3]:
        return None
    mean, std = (tuple(value.double().flatten().tolist()) for value in found)
    if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise InputError(
            f"says pixel_mean {mean} and pixel_std {std}: they must be finite, and std above 0"
        )
    order = usual.channel_order
    if mean[0] != mean[2]:
        order = "BGR" if mean[0] < mean[2] else "RGB"
    stride = "1x1" if max(std) <= 2 else "3x3"  # MSRA's weights are the ones without a std
    return Preprocessing(order, mean, std, stride)


def _own(data: Any) -> Preprocessing | None:
    """The preprocessing that our own exports bring. Raises InputError for an impossible one."""
    own = inside(data, "preprocessing")
    if not isinstance(own, dict) or own.keys() != {"channel_order", "mean", "std", "stride_in"}:
        return None
    numbers = [own[key] for key in ("mean", "std")]
    sound = all(
        type(v) is tuple and len(v) == 3 and all(type(n) is float and math.isfinite(n) for n in v)
        for v in numbers
    )
    sound = sound and min(own["std"]) > 0
    if (
        not sound
        or own["channel_order"] not in ("RGB", "BGR")
        or own["stride_in"] not in ("3x3", "1x1")
    ):
        raise InputError(
            f"says preprocessing {shown(str(own), 200)}, which makes no sense: channel_order is RGB"
            " or BGR, mean and std three finite numbers, std above 0, stride_in 3x3 or 1x1"
        )
    return Preprocessing(**own)
