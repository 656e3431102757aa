"""Draws detected objects over their picture: masks, boxes with class and score, keypoints."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as rle

from detco.common.files import write_atomic
from detco.common.images import full_size

STRENGTH = 0.45  # of a mask over the picture
GOLDEN = 0.618034  # of the colour circle between one class and the next
LIGHT = 140  # of 255: text on colours from here on is black
QUALITY = 92  # of the JPEG


def objects(
    picture: Image.Image, found: Sequence[Mapping], categories: Sequence[Mapping]
) -> Image.Image:
    """The picture with its objects, the surest on top. found: COCO results in pixels of the file,
    whatever scale `picture` is decoded at; categories: COCO's."""
    sx, sy = (own / full for own, full in zip(picture.size, full_size(picture)))
    number = {category["id"]: n for n, category in enumerate(categories)}
    ordered = sorted(found, key=lambda result: result["score"])
    drawn = _masks(
        picture.convert("RGB"),
        [(r["segmentation"], colour(number[r["category_id"]])) for r in ordered if _mask(r)],
    )
    draw, unit = ImageDraw.Draw(drawn), max(1, round(min(picture.size) / 300))
    for result in ordered:
        category = categories[number[result["category_id"]]]
        shade = colour(number[result["category_id"]])
        if "keypoints" in result:
            points = np.reshape(result["keypoints"], (-1, 3))[:, :2]
            points = ((points + 0.5) * (sx, sy)).tolist()
            _keypoints(draw, points, category.get("skeleton", ()), shade, unit)
        if "bbox" in result:
            x, y, width, height = result["bbox"]
            corners = (x * sx, y * sy, (x + width) * sx, (y + height) * sy)
            draw.rectangle(corners, outline=shade, width=unit)
        x, y = _corner(result)
        text = f"{category['name']} {result['score']:.2f}"
        _label(draw, (x * sx, y * sy), text, shade, 10 + 2 * unit)
    return drawn


def colour(number: int) -> tuple[int, int, int]:
    """Of a class: bright, and far from that of the classes before and after."""
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _mask(result: Mapping) -> bool:
    return bool(result.get("segmentation"))


def _masks(
    picture: Image.Image, masks: Sequence[tuple[Mapping, tuple[int, int, int]]]
) -> Image.Image:
    if not masks:
        return picture.copy()
    pixels = np.asarray(picture, np.float32).copy()
    for mask, shade in masks:
        inside = rle.decode(mask)
        if inside.shape != pixels.shape[:2]:
            inside = np.asarray(
                Image.fromarray(inside).resize(picture.size, Image.Resampling.NEAREST)
            )
        inside = inside.astype(bool)
        pixels[inside] = (1 - STRENGTH) * pixels[inside] + STRENGTH * np.array(shade, np.float32)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _keypoints(
    draw: ImageDraw.ImageDraw,
    points: Sequence[Sequence[float]],
    skeleton: Sequence,
    shade: tuple,
    unit: int,
) -> None:
    """points: (x, y) of each; skeleton: pairs, counted from 1."""
    for pair in skeleton:
        # as the data set has them
        if len(pair) == 2 and all(isinstance(end, int) and 1 <= end <= len(points) for end in pair):
            draw.line([tuple(points[end - 1]) for end in pair], fill=shade, width=unit)
    for x, y in points:
        draw.ellipse(
            (x - 2 * unit, y - 2 * unit, x + 2 * unit, y + 2 * unit), fill=shade, outline="white"
        )


def _corner(result: Mapping) -> tuple[float, float]:
    """Where the label goes: the upper left corner of the box, or of a class of pixels."""
    box = result["bbox"] if "bbox" in result else rle.toBbox(result["segmentation"]).tolist()
    return box[0], box[1]


def _label(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, shade: tuple, size: int
) -> None:
    """Above the corner, or below it where the picture ends there; further left where it would
    end on the right."""
    font = ImageFont.load_default(size)
    left, _, right, bottom = draw.textbbox((0, 0), text, font)
    x = max(0, min(corner[0], draw.im.size[0] - (right - left + 4)))
    y = corner[1] - bottom - 2 if corner[1] - bottom - 2 >= 0 else corner[1]
    draw.rectangle((x, y, x + right - left + 4, y + bottom + 2), fill=shade)
    bright = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2]
    draw.text((x + 2 - left, y), text, "black" if bright >= LIGHT else "white", font)


def save(picture: Image.Image, path: Path) -> None:
    """Write as JPEG in one step; makes the folder."""
    write_atomic(path, lambda file: picture.save(file, "JPEG", quality=QUALITY))
