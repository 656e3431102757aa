"""Attention maps of a backbone: where its features are active, as in DetCo's figure (arXiv
2102.04803)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from detco.common import backbone_file
from detco.common.errors import InputError
from detco.common.images import Range

from ..engines.torchvision.pictures import read_rgb, resized_shape
from ..engines.torchvision.trunks import STRIDES, alone

SHORT = 224  # pixels of the shorter side, as the backbones were pretrained
MOST = 2**21  # pixels of a picture whose map is drawn; larger ones are reduced
DECODED = 50_000_000  # pixels that are decoded for it; a small file can hold very many


def read(path: Path | str, value_range: Range | None = None) -> Image.Image:
    """A picture for `maps` and what is drawn from them: RGB, of MOST pixels at most. A figure shows
    it much smaller, and maps of many megapixels would take gigabytes each. Raises InputError for
    what cannot be read or, JPEGs aside, has more than DECODED pixels. value_range: of the data set,
    for more than 8 bits."""
    picture = read_rgb(str(path), DECODED, value_range)
    scale = (MOST / (picture.width * picture.height)) ** 0.5
    if scale < 1:
        size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BOX)
    return picture


def maps(
    backbone: backbone_file.Backbone,
    pictures: list[Path],
    level: str = "res5",
    short: int = SHORT,
    ranges: Mapping[Path, Range | None] = {},
) -> list[np.ndarray]:
    """One map a picture, (height, width) of the picture as `read` gives it, float32 from 0 to 1.

    The mean over the channels of a level (res2 ... res5; of a vision transformer res5 alone, its
    patches behind the last block), bilinearly upsampled over the picture and
    stretched to 0..1 for each picture by itself (a level without any contrast gives 0). `short`:
    the side that pictures are resized to before; `ranges`: as for `read`. Raises InputError for an
    unknown level and a picture that cannot be read.
    """
    if level not in STRIDES:
        raise InputError(f"unknown level {level!r}; there are {', '.join(STRIDES)}")
    if short < STRIDES[level]:
        raise InputError(
            f"pictures of {short} pixels leave nothing at {level}: it sees one position for"
            f" {STRIDES[level]}"
        )
    trunk, level = alone(backbone, level)
    trunk.eval()
    with torch.inference_mode():
        opened = (read(path, ranges.get(path)) for path in pictures)
        return [_map(trunk, backbone, picture, level, short) for picture in opened]


def _map(
    trunk: nn.Module,
    backbone: backbone_file.Backbone,
    picture: Image.Image,
    level: str,
    short: int,
) -> np.ndarray:
    height, width = resized_shape(picture.height, picture.width, short, 8 * short)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    if backbone.channel_order == "BGR":
        pixels = pixels[:, :, ::-1]
    pixels = (pixels - np.float32(backbone.mean)) / np.float32(backbone.std)
    batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    mean = trunk(batch)[level].mean(1, keepdim=True)
    size = (picture.height, picture.width)
    full = functional.interpolate(mean, size=size, mode="bilinear", align_corners=False)[0, 0]
    low, high = full.aminmax()
    return ((full - low) / (high - low) if high > low else torch.zeros_like(full)).numpy()
