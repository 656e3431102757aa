"""Draws attention maps over their pictures, side by side for several backbones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detco.common.files import write_atomic

# colours of matplotlib's viridis, dark to bright
COLOURS = (
    (68, 1, 84),
    (59, 82, 139),
    (33, 145, 140),
    (94, 201, 98),
    (253, 231, 37),
)
STRENGTH = 0.6  # of the map over the picture
WIDEST = 2240  # pixels: a strip of a picture would make a figure of gigabytes
HEIGHT, GAP, TITLE = 224, 8, 26  # pixels: of a picture in a figure, between them, of a line of text


def overlay(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """The picture under its map, at the size of the map. heat: (height, width), 0 (dark)
    to 1 (bright)."""
    if picture.size != heat.shape[::-1]:
        picture = picture.resize(heat.shape[::-1], Image.Resampling.BOX)
    anchors = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(heat, anchors, [colour[c] for colour in COLOURS]) for c in range(3)]
    grey = np.asarray(picture.convert("L"), float)[:, :, None]
    mixed = STRENGTH * np.stack(channels, -1) + (1 - STRENGTH) * grey
    return Image.fromarray(mixed.round().astype(np.uint8))


def figure(
    pictures: Sequence[Image.Image], maps: Mapping[str, Sequence[np.ndarray]], level: str
) -> Image.Image:
    """A row for each picture: itself, then its map from each backbone (name -> maps), with their
    names above."""
    font, note = (
        ImageFont.load_default(14),
        f"mean activation of {level}, for each map by itself: dark is low, bright is high",
    )
    widths = [round(picture.width * HEIGHT / picture.height) for picture in pictures]
    widths = [min(max(1, width), WIDEST) for width in widths]
    wide = max([*widths, *(round(font.getlength(name)) for name in maps)]) + GAP
    size = (
        max(GAP + wide * (1 + len(maps)), round(font.getlength(note)) + 2 * GAP),
        2 * TITLE + len(pictures) * (HEIGHT + GAP),
    )
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(["picture", *maps]):
        draw.text((GAP + column * wide, 5), name, "black", font)
        for row, (picture, width) in enumerate(zip(pictures, widths, strict=True)):
            shown = overlay(picture, maps[name][row]) if column else picture.convert("RGB")
            place = (GAP + column * wide, TITLE + row * (HEIGHT + GAP))
            sheet.paste(shown.resize((width, HEIGHT), Image.Resampling.BICUBIC), place)
    draw.text((GAP, size[1] - TITLE + 4), note, "black", font)
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Write in one step, in the format that the name asks for."""
    form = Image.registered_extensions()[path.suffix.lower()]
    write_atomic(path, lambda file: sheet.save(file, form))
