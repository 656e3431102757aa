"""One policy of opening and decoding images, for pretraining and fine-tuning alike."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from . import files

# What is opened, by content and whatever a name ends in. Pillow knows more, and for PostScript it
# starts Ghostscript, which runs what stands in the file.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
# Of files taken for images, in lower case; of several that share a name the first counts.
ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"),
    *(".jfif", ".jpe", ".ppm", ".pgm"),
)

EXIF_ORIENTATION = 0x0112
FULL_SIZE = "full_size"  # attribute of an image that its decoder reduces

Range = tuple[float, float]  # of values of pixels: the lowest and the highest

# Pillow warns of more than half of what it opens; whoever has such images knows.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(source: Path | str | BinaryIO) -> Image.Image:
    """An image of one of FORMATS whose header has been read, to be closed by the caller.

    A JPEG with more pixels than Pillow opens (179 million) is given at 1/2, 1/4 or 1/8 of its size,
    by the decoder; `full_size` tells its own. Raises ValueError for other content and for more
    pixels, OSError for what is no regular file, and whatever Pillow raises for a broken header.
    """
    if isinstance(source, Path | str):
        files.refuse_special(source)
    try:
        return Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"cannot identify image file: none of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        return _reduced(source)


def _too_large() -> str:
    return f"more than {_limit() / 1e6:.0f} megapixels; cut it into tiles"


def _limit() -> int:
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)


def _reduced(source: Path | str | BinaryIO) -> Image.Image:
    """A JPEG at the largest scale below the limit. Raises ValueError for other formats."""
    if not isinstance(source, Path | str):
        source.seek(0)
    try:
        picture = JpegImagePlugin.JpegImageFile(source)
    except SyntaxError:  # what Pillow raises for another format
        raise ValueError(_too_large()) from None
    if not decode_at_most(_limit(), picture):
        picture.close()
        raise ValueError(_too_large())
    return picture


def decode_at_most(pixels: int, picture: Image.Image) -> bool:
    """Whether an opened image has no more pixels than that, or is a JPEG, which will then be
    decoded at 1/2, 1/4 or 1/8 of its size. Nothing is decoded yet."""
    is_jpeg = isinstance(picture, JpegImagePlugin.JpegImageFile)
    full = full_size(picture)
    for divisor in (1, 2, 4, 8) if is_jpeg else (1,):
        width, height = full[0] // divisor, full[1] // divisor
        if width * height <= pixels:
            if divisor > 1:
                picture.draft(picture.mode, (max(1, width), max(1, height)))
                setattr(picture, FULL_SIZE, full)
            return True
    return False


def full_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) in pixels of the file, whatever scale `picture` is decoded at."""
    return getattr(picture, FULL_SIZE, picture.size)


def orientation(picture: Image.Image) -> int:
    """How EXIF says a picture is turned, 1 to 8 (1: not); reads the header only."""
    if picture.format == "PNG" and "exif" not in picture.info:
        return 1  # Pillow would decode all of the picture to look for EXIF behind the pixels
    turn = picture.getexif().get(EXIF_ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """`full_size` after the EXIF rotation that detection readers apply."""
    width, height = full_size(picture)
    return (height, width) if orientation(picture) >= 5 else (width, height)


def to_rgb(picture: Image.Image, value_range: Range | None = None) -> Image.Image:
    """An opened picture as 8-bit RGB, upright.

    The EXIF orientation is applied (as Detectron2 does). Gray, palette and CMYK are converted; more
    than 8 bits are scaled (`to_8_bits`), not clipped; what is transparent lies on white; of an
    animation the first frame is taken. `full_size` of it is upright, too. value_range: of the data
    set, see detco.common.depth. Raises ValueError for floating-point pixels without it, and
    whatever Pillow raises for a broken file.
    """
    size = upright_size(picture)
    rgb = _converted(ImageOps.exif_transpose(picture), value_range)
    if size != rgb.size:
        setattr(rgb, FULL_SIZE, size)
    return rgb


def _converted(picture: Image.Image, value_range: Range | None) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode == "F" and value_range is None:
        raise ValueError("floating-point pixels, and no range of values is known")
    if picture.mode == "F" or picture.mode.startswith("I"):
        return Image.fromarray(to_8_bits(np.asarray(picture), value_range)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def to_8_bits(values: np.ndarray, value_range: Range | None = None) -> np.ndarray:
    """Values of any shape as uint8: what lies outside the range is clipped, NaN becomes 0.

    value_range: what becomes 0 and 255; None: 0 and 65535, as of 16 bits, which Pillow also hands
    out as 32-bit integers.
    """
    if value_range is None:
        return (values.astype(np.float32).clip(0, 65535) / 257 + 0.5).astype(np.uint8)
    low, high = value_range
    scaled = values.astype(np.float64)
    scaled -= low
    scaled /= high - low
    scaled *= 255
    return (np.nan_to_num(scaled, copy=False).clip(0, 255) + 0.5).astype(np.uint8)
