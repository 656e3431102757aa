"""Detections and attention maps on example pictures, as parts of a page that needs nothing else."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from detco.common.images import Range, open_image, to_rgb

from .attention import overlay

LONGEST, SHOWN = 480, 260  # pixels of an embedded picture, and in the page
LETTERS = 9  # of a class's name beside its box
THRESHOLD = 0.5  # lowest score of a detection that is shown
OVERLAP = 0.5  # IoU from which a detection counts as right


@dataclass(frozen=True)
class Box:
    """(x, y, width, height) in pixels, 0-based; `score` is NaN for ground truth; `right`: matches
    an object of its class."""

    x: float
    y: float
    width: float
    height: float
    label: str
    score: float = math.nan
    right: bool = True


@dataclass(frozen=True)
class Example:
    """A test picture with its objects, and what was found from each starting point
    (name -> boxes); value_range: of the data set, for more than 8 bits."""

    picture: Path
    width: int
    height: int
    truth: Sequence[Box]
    found: Mapping[str, Sequence[Box]]
    value_range: Range | None = None


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
        marked.append(Box(box.x, box.y, box.width, box.height, box.label, box.score, right))
    return marked


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(0.0, across) * max(0.0, down)
    union = a.width * a.height + b.width * b.height - shared
    return shared / union if union else 0.0


def detection_panels(example: Example, number: int) -> list[tuple[str, str]]:
    """(name, SVG) for the ground truth and each starting point. The picture itself is in the first
    only; `number`: its id."""
    scale = SHOWN / max(example.width, example.height)
    size = f"{example.width * scale:.0f}", f"{example.height * scale:.0f}"
    image = (
        f'<image id="picture{number}" href="{embedded(example.picture, example.value_range)}"'
        f' width="{size[0]}" height="{size[1]}"/>'
    )
    panels = [("ground truth", image + _boxes(example.truth, scale))]
    for name, found in example.found.items():
        panels.append(
            (name, f'<use href="#picture{number}"/>' + _boxes(matched(example.truth, found), scale))
        )
    box = f'viewBox="0 0 {size[0]} {size[1]}" class="picture" role="img"'
    return [
        (name, f'<svg {box} aria-label="{escape(name)}">{inside}</svg>') for name, inside in panels
    ]


def _boxes(boxes: Sequence[Box], scale: float) -> str:
    """Rectangles with a short label each; the whole text is their tip."""
    parts = []
    for box in boxes:
        kind, score = (
            ("truth", "")
            if math.isnan(box.score)
            else ("right" if box.right else "wrong", f" {box.score:.2f}")
        )
        x, y, width, height = (
            round(scale * value, 1) for value in (box.x, box.y, box.width, box.height)
        )
        tip = f"<title>{escape(box.label + score)}</title>"
        parts.append(
            f'<g>{tip}<rect x="{x}" y="{y}" width="{width}" height="{height}" class="{kind}"/>'
        )
        parts.append(
            f'<text x="{x + 1}"'
            f' y="{y - 2 if y > 12 else y + 9}">{escape(box.label[:LETTERS] + score)}</text></g>'
        )
    return "".join(parts)


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


def _address(picture: Image.Image) -> str:
    picture = picture.copy()
    picture.thumbnail((LONGEST, LONGEST))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
