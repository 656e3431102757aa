"""Images of more than 8 bits a pixel: how many there are, and by which range they become 8 bits.

16 bits are divided by 257. Where that would leave hardly a grey level (12-bit counts become 16,
nearly black ones), and where pixels are floating-point numbers, one range of a data set becomes 0
to 255: the 0.1 to the 99.9 percentile of its training images. Lowest and highest value would not
do: one dead or burnt-out pixel decides them.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .errors import InputError
from .files import cache_file, write_atomic
from .images import Range, open_image, to_8_bits

log = logging.getLogger("detco.images")
VERSION = 2  # of what is remembered
THREADS = 16  # they wait for the disk
LOOKED_AT = 64  # images, spread over all of more than 8 bits
MEASURED = 256  # images whose values make the range
PIXELS = 1 << 16  # of an image, spread over it
PERCENTILES = (0.1, 99.9)
FEWEST = 32  # grey levels that 16 bits divided by 257 must leave an image that has so many values
FEWEST_OF_RANGE = 16  # and a range: it is meant for all images, some of which have less contrast
REMEDY = "scale all of them to 8 bits by one range, e.g. from the lowest to the highest count"


@dataclass(frozen=True)
class Looked:
    """images: how many have more than 8 bits, of which `looked_at` were decoded; lost: number of
    the file -> what would be lost of it; floats: images with floating-point pixels."""

    images: int
    looked_at: int
    lost: dict[int, str]
    floats: int
    value_range: Range | None


@dataclass(frozen=True)
class Depth:
    """images: how many have more than 8 bits; value_range: what becomes 0 and 255, None: 0 and
    65535; note: on those that lose nearly all they hold ("" if there are none)."""

    images: int = 0
    value_range: Range | None = None
    note: str = ""


def check(
    root: object,
    files: Sequence[tuple[str, bytes]],
    value_range: Range | None = None,
    measure: bool = False,
) -> Depth:
    """What must be known of a data set's images before any is used.

    files: (path, digest) of those that may have more than 8 bits, see `candidates`; value_range:
    of the training images; measure: these are the training images. Looked at once, then remembered
    by the digests. Raises InputError where at least half of those looked at would be left with
    hardly a grey level, or some have floating-point pixels and there is no range.
    """
    if not files:
        return Depth(0, value_range)
    files = sorted(files, key=lambda file: file[1])  # neither names nor order count
    found = _remembered(files, value_range, measure)
    lost, value_range = found.lost, found.value_range
    if not lost and not (found.floats and value_range is None):
        return Depth(found.images, value_range)
    if found.floats and value_range is None and 2 * len(lost) < found.looked_at:
        raise InputError(
            f"{root}: {found.floats} of {found.images} images of more than 8 bits have"
            " floating-point pixels, the others counts: store all of them in one way"
        )
    number, loss = next(iter(lost.items()))
    by_range = "" if value_range is None else f" by the range {said(value_range)}"
    text = f"{root}: {len(lost)} of {found.looked_at} images of more than 8 bits would be left"
    text += f" nearly without contrast{by_range} (the first: {files[number][0]} {loss})"
    if 2 * len(lost) >= found.looked_at:
        raise InputError(f"{text}; {REMEDY}")
    return Depth(found.images, value_range, f"{text}; if that is not meant, {REMEDY}")


def candidates(paths: Iterable[str], contents: Iterable) -> list[tuple[str, bytes]]:
    """(path, digest) of the files that may have more than 8 bits; contents: a FileContent each."""
    return [(path, one.digest) for path, one in zip(paths, contents, strict=True) if one.deep]


def said(value_range: Range) -> str:
    return f"{value_range[0]:.6g} to {value_range[1]:.6g}"


def policy(value_range: Range) -> str:
    """What a user is told of a range."""
    return (
        f"images of more than 8 bits: values from {said(value_range)} become 0 to 255"
        f" ({PERCENTILES[0]} and {PERCENTILES[1]} percentiles of the training images)"
    )


def _remembered(
    files: Sequence[tuple[str, bytes]], value_range: Range | None, measure: bool
) -> Looked:
    digest = hashlib.sha256(b"".join(digest for _, digest in files))
    about = json.dumps([VERSION, digest.hexdigest(), value_range, measure])
    place = cache_file("depth", about, ".json")
    with suppress(OSError, ValueError, LookupError, TypeError):
        return _read(place)
    found = _look([path for path, _ in files], value_range, measure)
    with suppress(OSError):
        write_atomic(place, json.dumps(asdict(found)))
    return found


def _read(place: Path) -> Looked:
    known = Looked(**json.loads(place.read_bytes()))
    lost = {int(number): str(loss) for number, loss in known.lost.items()}
    low, high = known.value_range or (0.0, 0.0)
    pair = (float(low), float(high)) if known.value_range else None
    return Looked(int(known.images), int(known.looked_at), lost, int(known.floats), pair)


def _look(paths: Sequence[str], value_range: Range | None, measure: bool) -> Looked:
    with ThreadPoolExecutor(THREADS) as pool:
        kinds = list(pool.map(_kind_of, paths))
    deep = [number for number, kind in enumerate(kinds) if kind]
    shown = _spread(deep, LOOKED_AT)
    lost = _losses(paths, shown, value_range)
    if measure and 2 * len(lost) >= len(shown) > 0:
        counts = [paths[number] for number in deep if kinds[number] != "colour"]
        value_range = _measured(_spread(counts, MEASURED))
        lost = _losses(paths, shown, value_range)
    return Looked(len(deep), len(shown), lost, kinds.count("float"), value_range)


def _spread(items: Sequence, most: int) -> list:
    return list(items[:: -(-len(items) // most) or 1])


@contextmanager
def _broken_ones_apart() -> Iterator[None]:
    """Of broken files others tell. What fails for another reason (no memory, too many open files,
    a disk) is raised: what is found here is remembered."""
    try:
        yield
    except MemoryError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
    except Exception as error:
        log.debug("left out: %s", error)


def _kind_of(path: str) -> str:
    """`kind` of a file; "" for a broken one, of which others tell."""
    with _broken_ones_apart(), open_image(path) as image:
        return kind(image)
    return ""


def kind(image: Image.Image) -> str:
    """Of an opened image of more than 8 bits: "float", "counts" or, where Pillow reads the upper 8
    of 16 bits, "colour"; "" for 8 bits."""
    if image.mode == "F":
        return "float"
    if image.mode.startswith("I"):
        return "counts"
    return "colour" if ";16" in str(getattr(image, "tile", "")) else ""


def _losses(paths: Sequence[str], shown: Sequence[int], value_range: Range | None) -> dict:
    found = {}
    for number in shown:
        with _broken_ones_apart():
            if loss := loss_of(paths[number], value_range):
                found[number] = loss
    return found


def loss_of(path: str, value_range: Range | None) -> str:
    """What 8 bits lose of an image in words; "" for nothing. Raises whatever Pillow does."""
    with open_image(path) as image:
        if not kind(image):
            return ""
        if kind(image) == "colour":
            return _loss_of_colour(image)
        if kind(image) == "float" and value_range is None:
            return "has floating-point pixels, for which there is no range"
        values = _values(image)
    if not values.size:
        return "has no finite value"
    lowest, highest, count = values.min(), values.max(), len(np.unique(values))
    has = f"has {count} values from {lowest:.6g} to {highest:.6g}"
    if value_range is None and (lowest < 0 or highest > 65535):
        return f"{has}, which are not 16 bits"
    levels = len(np.unique(to_8_bits(values, value_range)))
    if levels >= min(FEWEST if value_range is None else FEWEST_OF_RANGE, count):
        return ""
    return f"{has}, of which 8 bits keep {levels} grey level(s)"


def _loss_of_colour(image: Image.Image) -> str:
    top = int(np.asarray(image).max())
    if not 0 < top < FEWEST:
        return ""
    return f"has 16-bit colours, whose upper 8 bits are read: they reach {top} of 255"


def _values(image: Image.Image) -> np.ndarray:
    """Finite values spread over an image, PIXELS at most."""
    flat = np.asarray(image).ravel()
    step = -(-flat.size // PIXELS)
    flat = flat[:: step | 1]  # an even step might meet the same column in each row
    return flat[np.isfinite(flat)]


def _measured(paths: Sequence[str]) -> Range | None:
    """PERCENTILES of all values; lowest and highest where these are one; None if all are one."""
    found = []
    for path in paths:
        with _broken_ones_apart(), open_image(path) as image:
            found.append(_values(image).astype(np.float64))
    values = np.concatenate(found) if found else np.empty(0)
    if not values.size:
        return None
    low, high = np.percentile(values, PERCENTILES)
    if low == high:
        low, high = values.min(), values.max()
    return (float(low), float(high)) if low < high else None
