"""Images of more than 8 bits a pixel whose counts use a small part of their range: 12-bit counts in
a 16-bit file become 16 grey levels, nearly black ones."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np

from .errors import InputError
from .images import open_image, to_rgb

LOOKED_AT = 64  # images, spread over all that may be deep
FEWEST = 32  # grey levels that must be left, where there are so many: 13 bits or more of 16
REMEDY = "scale all of them to 8 bits by one range, e.g. from the lowest to the highest count"


def check(root: object, paths: Sequence[str]) -> tuple[int, str]:
    """How many of the images looked at have more than 8 bits, and a note on those that lose nearly
    all of what they hold ("" if there are none).

    paths: images that may have more than 8 bits, see `detco.common.contents`. Raises InputError
    where at least half of the deep ones looked at would be left with fewer than FEWEST grey levels,
    or have floating-point pixels.
    """
    deep, lost = 0, []
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        with suppress(Exception):  # of broken files others tell
            loss = _loss(path)
            deep += loss is not None
            lost += [f"{path} {loss}"] if loss else []
    if not lost:
        return deep, ""
    text = f"{root}: {len(lost)} of {deep} images of more than 8 bits would be left nearly black or"
    text += f" cannot be converted (the first: {lost[0]})"
    if 2 * len(lost) >= deep:
        raise InputError(f"{text}; {REMEDY}")
    return deep, f"{text}; if that is not meant, {REMEDY}"


def _loss(path: str) -> str | None:
    """What is lost of an image in words; "" for nothing; None for an image of 8 bits."""
    with open_image(path) as image:
        if image.mode == "F":
            return "has floating-point pixels, whose range nothing says"
        if not image.mode.startswith("I"):
            return None
        counts = np.unique(np.asarray(image))
        levels = len(np.unique(np.asarray(to_rgb(image))))
    if levels >= min(FEWEST, len(counts)):
        return ""
    return f"counts from {counts[0]} to {counts[-1]}, of which 8 bits keep {levels} grey level(s)"


def deep_of(paths: Iterable[str], contents: Iterable) -> list[str]:
    """Paths of the files that may have more than 8 bits; contents: a FileContent for each."""
    return [path for path, one in zip(paths, contents, strict=True) if one.deep]
