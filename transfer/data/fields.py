"""Fields of a COCO file that are not of the type they should have: read as what they plainly mean
and counted, or named as they were found."""

import math
import re
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any

# whole numbers in each list of a document; the ids of annotations are seen to in exports.numbered
WHOLE = {
    "categories": ("id",),
    "images": ("id", "width", "height"),
    "annotations": ("image_id", "category_id", "iscrowd", "num_keypoints"),
}
LARGEST_ID = 2**53  # beyond it, floats do not tell whole numbers apart
LARGEST_SIDE, LARGEST_IMAGE = 1 << 20, 1 << 31  # pixels; pycocotools counts in 32 bits

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother, _short.maxlong = 2, 60, 60, 40


class Remarks:
    """What was read as something else than it is written: how many of a kind, and the first."""

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, what: str, value: Any) -> None:
        self.counts[what] += 1
        self.first.setdefault(what, found(value))

    def lines(self, path: Path) -> list[str]:
        return [
            f"{path}: {count:,} {what}; the first: {self.first[what]}"
            for what, count in self.counts.items()
        ]


def mend(document: dict) -> Remarks:
    """Put whole numbers in place of texts, fractions of .0 and truth values that say one, in the
    fields of WHOLE. What says none is left for the reader to refuse."""
    remarks = Remarks()
    for part, names in WHOLE.items():
        for entry in document[part]:
            for name in names:
                value = entry.get(name)
                if value is None or type(value) is int:
                    continue
                number = _meant(value, name)
                if number is not None:
                    remarks.add(f"values of '{name}' in '{part}' read as whole numbers", value)
                    entry[name] = number
    return remarks


def _meant(value: Any, name: str) -> int | None:
    if isinstance(value, bool):  # as an id it would be an accident
        return int(value) if name == "iscrowd" else None
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_ID:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,15}(\.0*)?\s*", value):
        return int(float(value))
    return None


def is_id(value: Any) -> bool:
    """Whether `value` is a whole number that can be an id."""
    return type(value) is int and abs(value) < LARGEST_ID


def is_size(width: Any, height: Any) -> bool:
    """Whether these are whole numbers that can be the size of an image in pixels."""
    whole = type(width) is int and type(height) is int
    return (
        whole
        and min(width, height) > 0
        and max(width, height) <= LARGEST_SIDE
        and (width * height < LARGEST_IMAGE)
    )


def is_text(value: Any) -> bool:
    """Whether `value` is a text that is not empty and can be written: no halves of surrogates."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def found(value: Any) -> str:
    """A value of a file as it can be printed: one short line, however long or deep it is."""
    return _short.repr(value)


def keypoint_problem(category: dict) -> str:
    """What is wrong with a category's keypoints and what belongs to them; "" if nothing."""
    points = category.get("keypoints")
    if points is None:
        return ""
    if points == []:
        return ""
    if not isinstance(points, list) or not all(map(is_text, points)):
        return f"'keypoints' must be a list of names, found {found(points)}"
    if len(set(points)) < len(points):
        return f"'keypoints' must name each keypoint once, found {found(points)}"
    if "sigmas" in category and not _positive(category["sigmas"], len(points)):
        return f"'sigmas' must be one positive number a keypoint, found {found(category['sigmas'])}"
    if not _pairs(category.get("keypoint_flip", []), points):
        return "'keypoint_flip' must be pairs of names of its keypoints"
    return ""


def skeleton(category: dict) -> list | None:
    """The pairs of keypoints, counted from 1, that a drawing joins; None where they are
    no such pairs."""
    pairs = category.get("skeleton", [])
    return pairs if _pairs(pairs, range(1, len(category["keypoints"]) + 1)) else None


def _positive(values: Any, count: int) -> bool:
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(type(one) in (int, float) and 0 < one < math.inf for one in values)


def _pairs(values: Any, ends) -> bool:
    """Whether `values` is a list of pairs of what is in `ends`."""
    if not isinstance(values, list):
        return False
    pairs = all(isinstance(pair, list) and len(pair) == 2 for pair in values)
    return pairs and all(type(end) is type(ends[0]) and end in ends for p in values for end in p)


def crowd(value: Any) -> int:
    """`iscrowd` of an annotation. Raises ValueError."""
    if value is None:
        return 0
    if type(value) is not int or value not in (0, 1):
        raise ValueError(f"iscrowd must be 0 or 1, found {found(value)}")
    return value


def area(value: Any, width: int, height: int) -> float | None:
    """`area` of an annotation; None where it states none, or 0. Raises ValueError."""
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"area must be a number of pixels, found {found(value)}")
    if value > (width + 2) * (height + 2):
        raise ValueError(f"area {found(value)} is more than the image has ({width} x {height})")
    return value or None


def keypoints(value: Any, count: int, width: int, height: int) -> list:
    """`keypoints` of an annotation whose category has `count`: x, y, visibility of each; zeros
    where there are none. Raises ValueError."""
    if value is None or value == []:
        return [0] * (3 * count)
    good = isinstance(value, list) and len(value) == 3 * count
    if not good or not all(type(one) in (int, float) and abs(one) < 2**31 for one in value):
        raise ValueError(f"keypoints must be {count} times x, y, visibility, found {found(value)}")
    for x, y, visible in zip(value[::3], value[1::3], value[2::3], strict=True):
        if visible not in (0, 1, 2):
            raise ValueError(f"the visibility of a keypoint must be 0, 1 or 2, found {visible}")
        if visible and not (-width <= x <= 2 * width and -height <= y <= 2 * height):
            raise ValueError(f"a keypoint at {x:g} {y:g} is far outside ({width} x {height})")
    return value
