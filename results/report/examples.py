"""Detections and attention maps on example pictures, as parts of a page that needs nothing else."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from detco.common.images import Range, open_image, to_rgb

from .attention import overlay
from .charts import squeezed

LONGEST, SHOWN = 480, 260  # pixels of an embedded picture; of its width in the page's drawing
TALL = 1.6  # times its width: a taller picture is drawn narrower
FINE = 2  # pixels of drawn masks for one of SHOWN
TEXT, LETTER = 11, 6.4  # size of a text over a picture, width of a letter of it
THRESHOLD = 0.5  # lowest score of a detection that is shown
OVERLAP = 0.5  # IoU from which a detection counts as right
COLOURS = {"truth": "#ffffff", "right": "#56b4e9", "wrong": "#ff8c1a"}
FILLED = 90  # of 255: how opaque a mask is within its outline


@dataclass(frozen=True)
class Box:
    """(x, y, width, height) in pixels, 0-based; `score` is NaN for ground truth; `right`: matches
    an object of its class. mask: compressed RLE of the picture's size; keypoints: x, y of a pixel
    and visibility (0: none) of each."""

    x: float
    y: float
    width: float
    height: float
    label: str
    score: float = math.nan
    right: bool = True
    mask: Mapping | None = None
    keypoints: Sequence[float] = ()

    @property
    def kind(self) -> str:
        """What it is, a key of COLOURS."""
        return "truth" if math.isnan(self.score) else "right" if self.right else "wrong"


@dataclass(frozen=True)
class Example:
    """A test picture with its objects, and what was found from each starting point
    (name -> boxes); value_range: of the data set, for more than 8 bits; skeletons: class -> pairs
    of its keypoints, counted from 1."""

    picture: Path
    width: int
    height: int
    truth: Sequence[Box]
    found: Mapping[str, Sequence[Box]]
    value_range: Range | None = None
    skeletons: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)


def matched(truth: Sequence[Box], found: Sequence[Box]) -> list[Box]:
    """The detections from THRESHOLD on, highest first; `right` where one is the first on an object
    of its class with IoU >= 0.5."""
    free, marked = list(truth), []
    for box in sorted((box for box in found if box.score >= THRESHOLD), key=lambda box: -box.score):
        same = [other for other in free if other.label == box.label]
        best = max(same, key=lambda other: iou(box, other), default=None)
        right = False
        if best is not None and iou(box, best) >= OVERLAP:
            right = True
            free.remove(best)
        marked.append(replace(box, right=right))
    return marked


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(0.0, across) * max(0.0, down)
    union = a.width * a.height + b.width * b.height - shared
    return shared / union if union else 0.0


def detection_panels(example: Example, number: int) -> list[tuple[str, str]]:
    """(caption, SVG) for the ground truth and each starting point. The picture itself is in the
    first only; `number`: its id."""
    scale = SHOWN / max(example.width, example.height / TALL)
    size = round(example.width * scale), round(example.height * scale)
    image = (
        f'<image id="picture{number}" href="{embedded(example.picture, example.value_range)}"'
        f' width="{size[0]}" height="{size[1]}"/>'
    )
    drawn = image + _drawn(example, example.truth, scale, size)
    panels = [("ground truth", f"{len(example.truth)} objects", drawn)]
    for name, found in example.found.items():
        boxes = matched(example.truth, found)
        right = sum(box.right for box in boxes)
        drawn = f'<use href="#picture{number}"/>' + _drawn(example, boxes, scale, size)
        name += "" if boxes else f": none above {THRESHOLD}"
        panels.append((name, f"{len(boxes)} found, {right} of them right", drawn))
    box = f'viewBox="0 0 {size[0]} {size[1]}" class="picture" role="img"'
    return [
        (name, f'<svg {box} aria-label="{escape(f"{name}, {count}")}">{inside}</svg>')
        for name, count, inside in panels
    ]


def _drawn(example: Example, boxes: Sequence[Box], scale: float, size: tuple[int, int]) -> str:
    """Masks, boxes, keypoints and labels; the surest on top."""
    ordered = list(reversed(boxes))
    parts, labels = [_masks(ordered, size)], []
    for box in ordered:
        text = box.label + ("" if math.isnan(box.score) else f" {box.score:.2f}")
        x, y, width, height = (
            round(scale * value, 1) for value in (box.x, box.y, box.width, box.height)
        )
        parts.append(
            f'<g class="{box.kind}"><title>{escape(text)}</title>'
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}"/>'
        )
        parts += [*_keypoints(box.keypoints, example.skeletons.get(box.label, ()), scale), "</g>"]
        labels.append(_label(text, x, y, size))
    return "".join(parts + labels)  # no line crosses a label


def _masks(boxes: Sequence[Box], size: tuple[int, int]) -> str:
    """The masks as one picture with transparency: each a translucent surface with its outline."""
    fine = FINE * size[0], FINE * size[1]
    sheet = np.zeros((fine[1], fine[0], 4), np.uint8)
    for box in boxes:
        if box.mask is None:
            continue
        own = Image.fromarray(255 * rle.decode(dict(box.mask)))
        inside = np.asarray(own.resize(fine, Image.Resampling.BILINEAR)) > 127
        edge = inside & ~_within(inside)
        colour = tuple(bytes.fromhex(COLOURS[box.kind][1:]))
        sheet[inside] = (*colour, FILLED)
        sheet[edge] = (*colour, 255)
    if not sheet.any():
        return ""
    address = _address(Image.fromarray(sheet), "PNG")
    return f'<image href="{address}" width="{size[0]}" height="{size[1]}"/>'


def _within(mask: np.ndarray) -> np.ndarray:
    """Where a mask also holds FINE pixels further up, down, left and right."""
    wide = np.pad(mask, FINE, mode="edge")
    middle = slice(FINE, -FINE)
    across = wide[middle, : -2 * FINE] & wide[middle, 2 * FINE :]
    return across & wide[: -2 * FINE, middle] & wide[2 * FINE :, middle]


def _keypoints(values: Sequence[float], skeleton: Sequence[Sequence[int]], scale: float) -> list:
    """Lines between those that the skeleton joins, and a dot for each; none for those of
    visibility 0."""
    points = [
        (scale * (x + 0.5), scale * (y + 0.5)) if visible else None
        for x, y, visible in zip(values[::3], values[1::3], values[2::3])
    ]
    parts = []
    for ends in skeleton:
        pair = [points[end - 1] for end in ends if 1 <= end <= len(points)]
        if len(pair) == 2 and pair[0] and pair[1]:
            (x, y), (x2, y2) = pair[0], pair[1]
            parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    dots = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in filter(None, points))
    return [*parts, *dots]


def _label(text: str, x: float, y: float, size: tuple[int, int]) -> str:
    """Above its box, or in it where the picture ends there; further left where it would end on the
    right; never cut."""
    room = size[0] - 2
    left = max(1, min(x + 1, size[0] - 1 - LETTER * len(text)))
    top = y - 2 if y > TEXT + 2 else max(y, 0) + TEXT
    top = min(top, size[1] - 2)
    fitted = squeezed(text, room, LETTER)
    return f'<text x="{left:.1f}" y="{top:.1f}"{fitted}>{escape(text)}</text>'


def attention_panels(
    pictures: Sequence[Path],
    maps: Mapping[str, Sequence[np.ndarray]],
    ranges: Mapping[Path, Range | None] = {},
) -> list[list[tuple[str, str]]]:
    """For each picture (name, data address) of itself and of its map from each backbone. ranges:
    of the values of pictures of more than 8 bits."""
    rows = []
    for number, path in enumerate(pictures):
        picture = _opened(path, ranges.get(path))
        row = [("picture", _address(picture))]
        rows.append(
            row
            + [(name, _address(overlay(picture, found[number]))) for name, found in maps.items()]
        )
    return rows


def embedded(path: Path, value_range: Range | None = None) -> str:
    """A picture as a data address: upright, at most LONGEST pixels, JPEG."""
    return _address(_opened(path, value_range))


def _opened(path: Path, value_range: Range | None) -> Image.Image:
    with open_image(path) as picture:
        picture.load()
        return to_rgb(picture, value_range)


def _address(picture: Image.Image, form: str = "JPEG") -> str:
    if form == "JPEG":
        picture = picture.copy()
        picture.thumbnail((LONGEST, LONGEST))
    data = io.BytesIO()
    picture.save(data, form, quality=82)
    return f"data:image/{form.lower()};base64," + base64.b64encode(data.getvalue()).decode()
