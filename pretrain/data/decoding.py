"""Pictures on disk: decoding to 8-bit RGB whatever the format, and finding the bad ones."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from detco.common.errors import InputError
from detco.common.images import Range, open_image, to_rgb
from detco.common.progress import Report

from .listing import Pictures

log = logging.getLogger("detco.pretrain")


class BadPicture(Exception):
    """A file that cannot be decoded; the message says why."""


def decode(path: Path, short_side: int = 0, value_range: Range | None = None) -> np.ndarray:
    """The picture as uint8 RGB, (height, width, 3); a short side above ``short_side`` (if not 0) is
    reduced to it; value_range: of the data set, for more than 8 bits.

    How pictures of other modes are converted: detco.common.images. Raises BadPicture.
    """
    try:
        with open_image(path) as picture:
            if short_side:
                picture.draft("RGB", _reduced(picture.size, short_side))
            picture.load()
            picture = to_rgb(picture, value_range)
            if short_side and short_side < min(picture.size):
                size = _reduced(picture.size, short_side)
                picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
            return np.array(picture)
    except BadPicture:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise BadPicture(" ".join(str(error).split()) or type(error).__name__) from error


def _reduced(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    scale = short_side / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def memory(pictures: Pictures, short_side: int = 0, looked_at: int = 64) -> int:
    """Bytes that all pictures take when decoded, guessed from the headers of a few spread
    over the whole."""
    values = []
    for index in range(0, len(pictures), max(1, len(pictures) // looked_at)):
        with suppress(Exception), open_image(pictures.path(index)) as picture:
            reduced = 0 < short_side < min(picture.size)
            width, height = _reduced(picture.size, short_side) if reduced else picture.size
            values.append(3 * width * height)
    return len(pictures) * sum(values) // max(1, len(values))


def check(
    pictures: Pictures, read: Callable[[int], object], threads: int, report: Report | None = None
) -> dict[int, str]:
    """Decode every picture once: index -> reason of the bad ones. ``read(index)`` decodes one, or
    raises BadPicture."""

    def attempt(index: int) -> str | None:
        try:
            read(index)
        except BadPicture as error:
            return str(error)

    bad = {}
    with ThreadPoolExecutor(threads) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # about harmless metadata
        for index, reason in enumerate(pool.map(attempt, range(len(pictures)))):
            if reason is not None:
                bad[index] = reason
            if report:
                report("pictures", index + 1, len(pictures))
    return bad


class Bad:
    """The bad pictures of a run: each is warned of once and listed in a file; more than 1 %
    are an InputError.

    Without a file nothing is logged: another process does it.
    """

    def __init__(self, pictures: Pictures, listing: Path | None):
        self.pictures, self.listing = pictures, listing
        self.reasons: dict[int, str] = {}
        if listing:
            listing.unlink(missing_ok=True)

    def __call__(self, found: dict[int, str]) -> None:
        """Take note of more bad pictures, index -> reason. Raises InputError."""
        new = {
            index: reason for index, reason in sorted(found.items()) if index not in self.reasons
        }
        if not new:
            return
        self.reasons |= new
        if self.listing:
            with open(self.listing, "a", errors="surrogateescape") as listing:
                for line in self._lines(new):
                    log.warning("left out: %s", line)
                    listing.write(f"{line}\n")
        count, total = len(self.reasons), len(self.pictures)
        if count * 100 > total:
            some = "; ".join(self._lines(self.reasons)[:3]) + (" ..." if count > 3 else "")
            raise InputError(
                f"{count} of {total} pictures in {self.pictures.root} cannot be read, more than 1"
                f" %: {some}" + (f" (listed in {self.listing})" if self.listing else "")
            )

    def _lines(self, reasons: dict[int, str]) -> list[str]:
        return [f"{self.pictures.path(index)}: {reason}" for index, reason in reasons.items()]
