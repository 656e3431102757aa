"""DensePose's labels: points of the body's surface in an annotation, what a detection says of them,
and the files that say what the surface is.

Güler et al., arXiv 1802.00434. The body has 24 parts with coordinates U, V; points and masks lie in
a square of 256 x 256 that is stretched over the object's box. A detection has `densepose`:
{"shape_chw": [3, h, w], "labels_uv_str": a PNG in base64} of part, U and V (0 to 255) at each pixel
of its box, the form in which the project DensePose itself compresses them.
"""

import base64
import binascii
import importlib.util
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detco.common.errors import InputError
from detco.common.images import open_image

from . import fields, masks
from .reading import DENSEPOSE, numbers

PARTS, SIDE = 24, 256
MASKS = 14  # coarse parts of the body
RANGES = dict(zip(DENSEPOSE, ((1, PARTS), (0, 1), (0, 1), (0, SIDE), (0, SIDE)), strict=True))
FIELDS = (*RANGES, "dp_masks")
PROJECT = ("densepose", "av", "scipy")  # modules: Detectron2's project and what it imports
URL = "https://dl.fbaipublicfiles.com/densepose/data/"
MIRROR = "UV_symmetry_transforms.mat"  # training flips images
SURFACE, COARSE, DISTANCES = "SMPL_subdiv.mat", "SMPL_SUBDIV_TRANSFORM.mat", "Pdist_matrix.pkl"
FILES = (MIRROR, SURFACE, COARSE, DISTANCES)


def checked(entry: dict) -> dict:
    """The fields of DensePose of an annotation; {} where it has none. Raises ValueError saying what
    is wrong with them."""
    there = [name for name in FIELDS if entry.get(name) is not None]
    if not there:
        return {}
    if absent := [name for name in FIELDS if name not in there]:
        raise ValueError(f"it has {there[0]}, but no {absent[0]}")
    counts = set()
    for name, (least, most) in RANGES.items():
        values = entry[name]
        if not numbers(values) or not values:
            raise ValueError(f"{name} must be a list of numbers, found {fields.found(values)}")
        wrong = [one for one in values if not least <= one <= most]
        if name == "dp_I":
            wrong += [one for one in values if one != int(one)]
        if wrong:
            kind = "whole numbers " * (name == "dp_I")
            raise ValueError(f"{name} must be {kind}from {least} to {most}, found {wrong[0]:g}")
        counts.add(len(values))
    if len(counts) > 1:
        lengths = ", ".join(f"{name} has {len(entry[name])}" for name in RANGES)
        raise ValueError(f"its lists of points differ in length: {lengths}")
    _check_masks(entry["dp_masks"])
    return {name: entry[name] for name in FIELDS}


def _check_masks(found: Any) -> None:
    """Raises ValueError unless it is a list of `MASKS` masks, [] for a part that is not seen."""
    if not isinstance(found, list) or len(found) > MASKS:
        raise ValueError(f"dp_masks must be a list of at most {MASKS}, found {fields.found(found)}")
    for number, mask in enumerate(found, 1):
        wrong = masks.fault(mask, SIDE, SIDE) if mask else ""
        if wrong:
            raise ValueError(f"dp_masks, part {number}: {wrong}")


def folders(root: Path | None = None) -> list[Path]:
    """Where the files of the surface may lie, the likeliest first: `densepose` beside the folder of
    a data set and below DETECTRON2_DATASETS, and where Detectron2 keeps what it has downloaded."""
    below = [root.absolute().parent] if root else []
    below.append(Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).absolute())
    cache = Path(os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache").expanduser()
    return [*dict.fromkeys(folder / "densepose" for folder in below), cache / "densepose" / "data"]


def surface(root: Path | None = None) -> dict[str, Path]:
    """The path of each of FILES. Raises InputError naming those that are nowhere."""
    places = folders(root)
    found = {
        name: folder / name
        for folder in places[::-1]
        for name in FILES
        if (folder / name).is_file()
    }
    if absent := [name for name in FILES if name not in found]:
        raise InputError(
            f"{places[0]}: no {', '.join(absent)}, which DensePose needs; download them from {URL}"
            " into that folder"
        )
    return found


def missing_modules() -> list[str]:
    """What of the project DensePose is not installed here."""
    return [name for name in PROJECT if importlib.util.find_spec(name) is None]


def need_project(what: str) -> None:
    """InputError unless the project DensePose is here; what: for which it is needed."""
    if absent := missing_modules():
        raise InputError(
            f"{what} needs Detectron2's project DensePose; not installed: {', '.join(absent)};"
            " `detco doctor` says how to get it"
        )


def packed(labels: np.ndarray) -> dict:
    """Part, U, V uint8 (3, h, w) as JSON."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(labels.transpose(1, 2, 0))).save(file, "PNG")
    return {
        "shape_chw": list(labels.shape),
        "labels_uv_str": base64.b64encode(file.getvalue()).decode("ascii"),
    }


def unpacked(found: dict) -> np.ndarray:
    """What `packed` was given. Raises ValueError for what is damaged."""
    _, height, width = found["shape_chw"]
    try:
        with open_image(io.BytesIO(base64.b64decode(found["labels_uv_str"]))) as image:
            if (image.format, image.size, image.mode) != ("PNG", (width, height), "RGB"):
                raise ValueError("another size than it says")
            return np.asarray(image).transpose(2, 0, 1)
    except (OSError, SyntaxError, binascii.Error, TypeError) as error:
        raise ValueError(f"no PNG in base64 ({error})") from None


def fault(entry: dict) -> str:
    """What is wrong with the `densepose` of a prediction; "" if nothing. It may have none."""
    if "densepose" not in entry:
        return ""
    found, shape = entry["densepose"], [3, *sides(entry["bbox"])]
    if not isinstance(found, dict) or found.get("shape_chw") != shape:
        return f"densepose must have the size of its box, shape_chw {shape}"
    if not isinstance(found.get("labels_uv_str"), str):
        return "densepose must have labels_uv_str, a PNG in base64"
    try:
        labels = unpacked(found)[0]
    except ValueError as error:
        return f"densepose: labels_uv_str is damaged: {error}"
    if labels.max() > PARTS:
        return f"densepose: a part is {labels.max()}, there are {PARTS}"
    return ""


def sides(box: list[float]) -> tuple[int, int]:
    """(height, width) of what is predicted in a box, in pixels."""
    return max(int(box[3]), 1), max(int(box[2]), 1)


def as_found(annotation: dict) -> dict:
    """The `densepose` of a perfect detection: what the points of an object say, at their pixels."""
    height, width = sides(annotation["bbox"])
    labels = np.zeros((3, height, width), np.uint8)
    if "dp_x" in annotation:
        x = np.array(annotation["dp_x"]) * annotation["bbox"][2] / 255
        y = np.array(annotation["dp_y"]) * annotation["bbox"][3] / 255
        place = np.minimum(y.astype(int), height - 1), np.minimum(x.astype(int), width - 1)
        labels[0][place] = annotation["dp_I"]
        for layer, name in ((1, "dp_U"), (2, "dp_V")):
            labels[layer][place] = np.round(255 * np.array(annotation[name]))
    return packed(labels)
