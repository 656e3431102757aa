"""Masks as COCO writes them: polygons, or RLE, checked before pycocotools' C code sees any.

pycocotools trusts what it is given: counts that end within a number or reach beyond the image make
it read and write outside its memory.
"""

import re
from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from detco.common.images import open_image

from .reading import numbers

# A number of compressed RLE is written in characters of 5 bits; bit 5 says that more follow, bit 4
# of the last one is the sign.
COMPRESSED = re.compile(rb"[0-o]*[0-O]")
BITS, MORE, SIGN = 5, 0x20, 0x10
LONGEST = 7  # characters of a number; pycocotools writes at most so many
FAR = 10  # image sides away from it: pycocotools crashes on polygons much farther out
OUTLINE = 1 << 26  # pixels along a polygon: pycocotools allocates 60 bytes for each


def checked(mask: object, height: int, width: int) -> list | dict:
    """A `segmentation` of an annotation as polygons or compressed RLE {"size", "counts": str}.

    Parts of fewer than three points draw nothing and are left out. Raises ValueError saying what is
    wrong with a mask that does not fit an image of this size or is empty.
    """
    if isinstance(mask, list):
        return _polygons(mask, height, width)
    if not isinstance(mask, dict) or not _has_size(mask, height, width):
        raise ValueError(f"segmentation must be polygons, or RLE of size [{height}, {width}]")
    counts = mask.get("counts")
    if isinstance(counts, list):
        return _compressed(counts, height, width)
    wrong = fault(mask, height, width)
    if wrong:
        raise ValueError(wrong)
    if not area(mask, height, width):
        raise ValueError("segmentation is RLE that is empty")
    return {"size": [height, width], "counts": mask["counts"]}


def fault(mask: object, height: int, width: int) -> str:
    """What is wrong with compressed RLE for an image of this size; "" if nothing."""
    if not isinstance(mask, dict) or not _has_size(mask, height, width):
        return f"segmentation must be compressed RLE of size [{height}, {width}]"
    try:
        found = runs(mask.get("counts"))
    except ValueError as error:
        return f"segmentation is malformed RLE: {error}"
    total = int(found.sum())
    if found.min() < 0 or total != height * width:
        return (
            f"segmentation is malformed RLE: its runs cover {total} pixels, the image has"
            f" {height} x {width}"
        )
    return ""


def runs(counts: object) -> np.ndarray:
    """The lengths (n,) int64 of the runs of zeros and ones, in turn, that compressed counts say.

    Raises ValueError for what is no such text; lengths may still be negative.
    """
    if isinstance(counts, str):
        counts = counts.encode("utf-8", errors="replace")
    if not isinstance(counts, bytes) or not COMPRESSED.fullmatch(counts):
        raise ValueError("its counts are not a text of characters 0 to o that ends in 0 to O")
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(codes & MORE == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > LONGEST:
        raise ValueError("a number in its counts is too long")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & (MORE - 1)) << (BITS * places), starts)
    values -= np.where(codes[ends] & SIGN, 1 << (BITS * lengths), 0)
    # from the fourth on, a number is the difference to the one two before it
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def as_rle(mask: list | dict, height: int, width: int) -> dict:
    """A checked mask as compressed RLE {"size", "counts": str}."""
    if isinstance(mask, dict):
        return mask
    merged = rle.merge(rle.frPyObjects(mask, height, width))
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}


def of_label(labels: str | Path, label: int) -> dict:
    """The pixels of one label id in a label picture as compressed RLE {"size", "counts": str}."""
    with open_image(labels) as picture:
        inside = np.asfortranarray(np.asarray(picture) == label, np.uint8)
    return {"size": list(inside.shape), "counts": rle.encode(inside)["counts"].decode("ascii")}


def decode(mask: list | dict, height: int, width: int) -> np.ndarray:
    """A checked mask as (height, width) uint8, 1 inside."""
    return rle.decode(as_rle(mask, height, width))


def area(mask: list | dict, height: int, width: int) -> float:
    """Pixels inside a checked mask."""
    return float(rle.area(as_rle(mask, height, width)))


def _has_size(mask: dict, height: int, width: int) -> bool:
    size = mask.get("size")
    if not isinstance(size, list | tuple) or set(map(type, size)) != {int}:
        return False
    return list(size) == [height, width]


def _polygons(mask: list, height: int, width: int) -> list:
    parts = [part for part in mask if numbers(part) and len(part) >= 6 and len(part) % 2 == 0]
    if not parts:
        raise ValueError("segmentation has no polygon of three or more points")
    far = FAR * max(height, width)
    for part in parts:
        if max(part) > far or min(part) < -far:
            raise ValueError(
                f"segmentation has points far outside the picture ({width} x {height})"
            )
        if len(part) * (max(part) - min(part)) > OUTLINE and _outline(part) > OUTLINE:
            raise ValueError(f"segmentation has an outline of more than {OUTLINE:,} pixels")
    return parts


def _outline(part: list) -> float:
    points = np.array(part, float).reshape(-1, 2)
    steps = np.abs(points - np.roll(points, 1, axis=0))
    return float(steps.max(1).sum())


def _compressed(counts: list, height: int, width: int) -> dict:
    whole = set(map(type, counts)) == {int} and min(counts) >= 0
    if not whole or sum(counts) != height * width:
        raise ValueError(f"the RLE counts must be whole numbers that sum to {height} x {width}")
    if not sum(counts[1::2]):
        raise ValueError("segmentation is RLE that is empty")
    packed = rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}
