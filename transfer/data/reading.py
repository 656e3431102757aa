"""What the three layout readers share: what a reading yields, checks of boxes, picture headers,
folder listings."""

import difflib
import hashlib
import json
import math
import os
import shlex
import struct
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from detco.common import files
from detco.common.errors import InputError
from detco.common.images import full_size, open_image, orientation, upright_size

# pixels a box may reach over the border: tools differ in counting from 0 or 1, and in rounding
OUTSIDE = 1.0
LARGEST = 2**53  # of a number in data
# Bad objects that are left out with a warning instead of refused: this share of all objects, and
# always so many. COCO's own train2017 has two boxes without height among its 860,001; BCCD has two
# boxes of one point among 4,886.
TOLERATED = 0.01
ALWAYS_TOLERATED = 5
DENSEPOSE = ("dp_I", "dp_U", "dp_V", "dp_x", "dp_y")  # lists of an annotation, a number a point


@dataclass
class Reading:
    """One split as it was read, good parts only; what was wrong is in `problems` and `faults`, one
    line each.

    `problems` make a data set unusable. `faults` are single objects that were left out, a line an
    object (the same line for objects that are left out for one reason): see `tolerate`. `spoilt`:
    how many of them by class, where that is known. `notes` are warnings; `facts` what the record
    says of them.
    """

    categories: list[dict] = field(default_factory=list)
    images: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    spoilt: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    facts: dict = field(default_factory=dict)

    def leave_out(self, line: str, name: str) -> None:
        """A bad object of the class `name`."""
        self.faults.append(line)
        self.spoilt[name] += 1

    def tolerate(self, where: str, strict: bool = False) -> None:
        """Few bad objects become a note and the fact `left_out`; many, or any if
        `strict`, become problems."""
        if not self.faults:
            return
        count, total = len(self.faults), len(self.annotations) + len(self.faults)
        few = count <= max(ALWAYS_TOLERATED, TOLERATED * total) and self.annotations
        if strict or not few:
            self.problems += dict.fromkeys(self.faults)
            return
        self.problems += self._lost_classes(where)
        self.facts["left_out"] = count
        self.notes.append(
            f"{where}: {count:,} of {total:,} objects left out (--strict refuses them); the first:"
            f" {self.faults[0]}"
        )

    def _lost_classes(self, where: str) -> list[str]:
        """Lines for classes of which no good object is left: a score would be over fewer."""
        names = {category["id"]: category["name"] for category in self.categories}
        good = {names[annotation["category_id"]] for annotation in self.annotations}
        return [
            f"{where}: no object of class '{name}' can be used ({count:,} bad); mend them, or take"
            f" them out of the file; the first bad object: {self.faults[0]}"
            for name, count in self.spoilt.items()
            if name not in good
        ]


def need_folder(folder: Path, needs: str) -> Path:
    """`folder`, or InputError naming it and saying what is needed."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder ({needs})")
    return folder


def missing_split(where: Path, split: str, found: Iterable[str]) -> InputError:
    """The error for a split that is not there: names those that are, and the nearest."""
    found = sorted(found)
    near = difflib.get_close_matches(split, found, n=1)
    have = f"there are {', '.join(found)}" if found else "there are none"
    return InputError(
        f"{where}: no split '{split}', {have}" + (f"; did you mean '{near[0]}'?" if near else "")
    )


def check_command(layout: str, root: Path, split: str, **options: bool) -> str:
    """The command that lists all that is wrong with a split, as a shell takes it."""
    words = ["detco", "data", "check", layout, str(root), "--split", split]
    words += [f"--{name.replace('_', '-')}" for name, given in options.items() if given]
    return shlex.join(words)


def numbers(values, count: int | None = None) -> bool:
    """Whether `values` is a list of `count` (any number if None) finite numbers, none so large that
    NumPy could not count in it."""
    if not isinstance(values, list) or (count is not None and len(values) != count):
        return False
    try:
        finite = all(map(math.isfinite, values)) and max(map(abs, values), default=0) < LARGEST
        return finite and bool not in set(map(type, values))
    except (TypeError, OverflowError):  # a text; a whole number beyond all floats
        return False


def box_fault(box: list[float], width: int, height: int) -> str:
    """What is wrong with a 0-based [x, y, w, h] box in a picture of this size; "" if nothing."""
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return "has no area"
    if x < -OUTSIDE or y < -OUTSIDE or x + w > width + OUTSIDE or y + h > height + OUTSIDE:
        return f"reaches outside the picture ({width} x {height})"
    return ""


def is_on_its_side(path: str) -> bool:
    """Whether EXIF turns a picture that has been read before by 90 degrees, and its size with it;
    of square ones `turned_unseen` tells."""
    with open_image(path) as picture:
        width, height = full_size(picture)
        return orientation(picture) >= 5 and width != height


def turned_unseen(picture: Image.Image) -> bool:
    """Whether EXIF turns or mirrors a picture and its size does not tell: by 180 degrees, or a
    square one. Annotations of the picture as it is stored then look like good ones."""
    turn = orientation(picture)
    width, height = full_size(picture)
    return turn in (2, 3, 4) or (turn >= 5 and width == height)


def picture_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of a picture, after EXIF rotation, from its header. Raises InputError if it
    is not a picture."""
    try:
        with open_image(path) as picture:
            return upright_size(picture)
    except Exception as error:  # Pillow raises many kinds on broken files
        raise InputError(f"{path}: not a picture that can be read ({short(error)})") from error


def short(error: BaseException) -> str:
    """An exception as part of one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()).split(" <_io")[0][:200] or type(error).__name__


def content_of(path: Path) -> bytes:
    """The content of a file of a data set. Raises InputError where it cannot be read, or is a pipe,
    a device or a folder."""
    try:
        return files.read_regular(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {short(error)}") from error


def json_of(path: Path) -> Any:
    """The JSON in a file of a data set. Raises InputError for what is none, or cannot be read."""
    try:
        return json.loads(content_of(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: malformed JSON: {error.msg}: line {error.lineno}, column {error.colno}"
        ) from error
    except InputError:
        raise
    # no UTF-8, nested too deep, a whole number of thousands of digits
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: malformed JSON: {short(error)}") from error


class Listing:
    """Which files are in which folders: one listing a folder, not one look a file."""

    def __init__(self):
        self._names: dict[str, frozenset[str]] = {}
        self._stems: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}

    def names(self, folder: str | Path) -> frozenset[str]:
        """The names in a folder; empty if there is no such folder."""
        folder = str(folder)
        if folder not in self._names:
            found = os.listdir(folder) if os.path.isdir(folder) else ()
            self._names[folder] = frozenset(found)
        return self._names[folder]

    def stems(self, folder: str | Path, suffixes: tuple[str, ...]) -> dict[str, str]:
        """File by name without suffix, as written and in Unicode form NFC, of the files with one of
        these suffixes in any case; where files share a name, the suffix that comes first counts."""
        key = (str(folder), suffixes)
        if key not in self._stems:
            found = self._stems[key] = {}
            for suffix in reversed(suffixes):
                for name in sorted(self.names(folder), reverse=True):
                    if name.lower().endswith(suffix) and not name.startswith("."):
                        stem = name[: -len(suffix)]
                        found[unicodedata.normalize("NFC", stem)] = found[stem] = name
        return self._stems[key]

    def has(self, folder: Path, name: str) -> bool:
        """Whether folder/name is there; `name` may have sub-folders in it."""
        parent, base = os.path.split(os.path.join(folder, name))
        return base in self.names(parent)


def fingerprint(categories, images, annotations) -> str:
    """sha256 over names and sizes of the pictures and over the objects, as hex; ids, paths and
    order do not count."""
    names = {category["id"]: category["name"] for category in categories}
    pictures = {image["id"]: image["name"] for image in images}
    digest = hashlib.sha256()
    for image in sorted(images, key=lambda image: image["name"]):
        line = f"{image['name']}\0{image['width']}\0{image['height']}\n"
        digest.update(line.encode(errors="surrogateescape"))
    objects = []
    for a in annotations:
        mask = a.get("segmentation", ())
        text = [
            pictures.get(a["image_id"], ""),
            names[a["category_id"]],
            str(a["iscrowd"]),
            str(a.get("difficult", 0)),
        ]
        text.append(mask["counts"] if isinstance(mask, dict) else "")
        parts = () if isinstance(mask, dict) else mask
        packed = [
            _packed(values) for values in (a["bbox"], [a["area"]], a.get("keypoints", ()), *parts)
        ]
        packed += [_packed(a[name]) for name in DENSEPOSE if name in a]
        text += [mask["counts"] if mask else "" for mask in a.get("dp_masks", ())]
        names_of = "\0".join(text).encode(errors="surrogateescape")
        objects.append(hashlib.sha256(names_of + b"".join(packed)).digest())
    for one in sorted(objects):
        digest.update(one)
    return digest.hexdigest()


def _packed(values) -> bytes:
    return struct.pack(f"<i{len(values)}d", len(values), *values)
