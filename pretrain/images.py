"""Folders of pictures: listing, decoding to 8-bit RGB whatever the format, and finding the bad ones."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pretrain import InputError

log = logging.getLogger("detco.pretrain")

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


class BadPicture(Exception):
    """A file that cannot be decoded; the message says why."""


@dataclass(frozen=True)
class Pictures:
    """Files under ``root`` in sorted order; ``names`` are relative paths, ``sizes`` bytes."""

    root: Path
    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / self.names[index]

    @property
    def classes(self) -> tuple[str, ...]:
        """The subfolders of the root that hold pictures, sorted."""
        return tuple(sorted({name.split("/", 1)[0] for name in self.names if "/" in name}))

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over relative paths and file sizes."""
        lines = "".join(f"{name}\0{size}\n" for name, size in zip(self.names, self.sizes, strict=True))
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()

    def without(self, bad: dict[int, str]) -> Pictures:
        keep = [i for i in range(len(self)) if i not in bad]
        return Pictures(self.root, tuple(self.names[i] for i in keep), tuple(self.sizes[i] for i in keep))


def find(root: Path) -> Pictures:
    """All files under ``root`` whose name ends like a picture's; hidden files and folders are passed over.

    Raises InputError if there is no such folder or no picture in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder of pictures")
    found = sorted(_walk(str(root), ""))
    if not found:
        raise InputError(f"{root}: no pictures in this folder ({', '.join(sorted(EXTENSIONS))})")
    names, sizes = zip(*found, strict=True)
    return Pictures(root, names, sizes)


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield prefix + entry.name, entry.stat().st_size


def decode(path: Path, short_side: int = 0) -> np.ndarray:
    """The picture as uint8 RGB, (height, width, 3); a short side above ``short_side`` (if not 0) is reduced to it.

    Gray, palette, CMYK and 16-bit pictures are converted (16 bits are scaled, not clipped), alpha is laid over white,
    of an animation the first frame is taken, the EXIF orientation is ignored (as torchvision does).
    Raises BadPicture.
    """
    try:
        with Image.open(path) as picture:
            if short_side:
                picture.draft("RGB", _reduced(picture.size, short_side))
            picture.load()
            picture = _rgb(picture)
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


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I"):  # 16 bits, which Pillow also hands out as 32-bit integers
        values = np.asarray(picture).astype(np.float32)
        return Image.fromarray((values.clip(0, 65535) / 257 + 0.5).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise BadPicture("floating-point pixels have no defined range")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def check(pictures: Pictures, read: Callable[[int], object], threads: int,
          report: Callable | None = None) -> dict[int, str]:
    """Decode every picture once: index -> reason of the bad ones. ``read(index)`` decodes one, or raises BadPicture."""

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


def tell(pictures: Pictures, bad: dict[int, str], listing: Path) -> None:
    """Warn of each bad picture, list them in the file ``listing``; InputError if they are more than 1 %."""
    lines = [f"{pictures.path(index)}: {reason}" for index, reason in sorted(bad.items())]
    for line in lines:
        log.warning("left out: %s", line)
    temporary = listing.with_name(listing.name + ".tmp")
    temporary.write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")
    os.replace(temporary, listing)
    if len(bad) * 100 > len(pictures):
        raise InputError(f"{len(bad)} of {len(pictures)} pictures in {pictures.root} cannot be read, more than 1 %: "
                         f"{'; '.join(lines[:3])}{' ...' if len(lines) > 3 else ''} (all in {listing})")
