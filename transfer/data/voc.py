"""The VOC layout: Annotations/NAME.xml, ImageSets/Main/SPLIT.txt, JPEGImages/NAME.jpg."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as ET

from detco.common.errors import InputError
from detco.common.files import open_regular

from . import LAYOUTS, inspection
from .reading import (
    Listing,
    Reading,
    box_fault,
    content_of,
    missing_split,
    need_folder,
    numbers,
    short,
)

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".JPG",
    ".JPEG",
    ".png",
    ".PNG",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".gif",
)


def splits(root: Path) -> list[str]:
    """The names of the splits in the folder; VOC's lists by class (aeroplane_train.txt, lines
    `000012 -1`) are none."""
    paths = sorted((root / "ImageSets" / "Main").glob("[!.]*.txt"))
    stems = {path.stem for path in paths}
    return [
        path.stem
        for path in paths
        if not (path.stem.rpartition("_")[2] in stems - {path.stem} and _of_a_class(path))
    ]


def _of_a_class(path: Path) -> bool:
    with suppress(OSError), open_regular(path, "r", encoding="utf-8", errors="replace") as file:
        return re.fullmatch(r".*\S\s+(-1|0|1)\s*", file.readline()) is not None
    return False


def read(root: Path, split: str, keypoints: bool = False) -> Reading:
    """Reads one split; 1-based inclusive corners become 0-based [xmin-1, ymin-1, xmax-xmin+1,
    ymax-ymin+1].

    `split` may join several of folders below the root: "VOC2007/trainval+VOC2012/trainval".
    Categories are VOC's own 20 in VOC's order when no others occur, else the names found, sorted;
    ids from 1. Raises InputError for a folder or a split that is not there, or an empty split.
    """
    reading, ids = Reading(), count(1)
    for part in split.split("+"):
        folder, _, name = part.rpartition("/")
        _read_split(root / folder, name, ids, reading)
    _number(reading)
    return reading


def _read_split(root: Path, split: str, ids: Iterator[int], reading: Reading) -> None:
    """Adds one split of one folder to the reading; its pictures get the next numbers."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        need_folder(root / folder, LAYOUTS["voc"].needs)
    listing = Listing()
    pictures = _pictures(listing.names(root / "JPEGImages"))
    listed = list(zip(_names(root, split, reading.notes), ids))
    paths = [str(root / "JPEGImages" / pictures[name]) for name, _ in listed if name in pictures]
    sizes = dict(zip(paths, inspection.sizes(paths), strict=True))
    for name, number in listed:
        if name not in pictures:
            reading.problems.append(
                f"{root / 'JPEGImages' / name}.jpg: no such picture, but split '{split}' lists it"
            )
        elif not listing.has(root / "Annotations", f"{name}.xml"):
            reading.problems.append(
                f"{root / 'Annotations' / name}.xml: no such file, but split '{split}' lists it"
            )
        else:
            picture = str(root / "JPEGImages" / pictures[name])
            try:
                _read_one(root, name, picture, sizes[picture], number, reading)
            except InputError as error:
                reading.problems.append(str(error))


def _names(root: Path, split: str, notes: list[str]) -> list[str]:
    """The picture names of a split, in the file's order, each once."""
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.exists():
        raise missing_split(path.parent, split, splits(root))
    try:
        lines = content_of(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file ({short(error)})") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"{path}: the split is empty; it must list one picture name a line")
    unique = dict.fromkeys(names)
    if len(unique) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        again = len(names) - len(unique)
        notes.append(
            f"{path}: {again:,} of {len(names):,} lines are repeated and count once; the first:"
            f" '{twice}'"
        )
    return list(unique)


def _pictures(files: frozenset[str]) -> dict[str, str]:
    """File name by name without suffix; where several pictures share a name, the suffix that comes
    first above."""
    found: dict[str, str] = {}
    for suffix in reversed(SUFFIXES):
        found |= {file[: -len(suffix)]: file for file in files if file.endswith(suffix)}
    return found


def _read_one(
    root: Path, name: str, picture: str, size: tuple[int, int] | str, number: int, reading: Reading
) -> None:
    """Adds one picture and its objects; `size`: (width, height), or why the picture cannot be
    read."""
    path = root / "Annotations" / f"{name}.xml"
    tree = _parse(path)
    if isinstance(size, str):
        raise InputError(f"{picture}: {size}")
    width, height = size
    said = [_size(tree, side, path) for side in ("width", "height")]
    if all(said) and said != [width, height]:
        found = f"{picture} is {width} x {height} (after EXIF rotation)"
        raise InputError(f"{path}: says {said[0]} x {said[1]}, but {found}")
    reading.images.append(
        {"id": number, "file_name": picture, "name": name, "width": width, "height": height}
    )
    for index, node in enumerate(tree.findall("object"), 1):
        _read_object(node, f"{path}: object {index}", reading.images[-1], reading)


def _parse(path: Path):
    try:
        tree = ET.fromstring(content_of(path))
    except ET.ParseError as error:
        raise InputError(f"{path}: malformed XML: {short(error)}") from error
    except InputError:
        raise
    except (DefusedXmlException, ValueError, LookupError) as error:  # entities; unknown encodings
        raise InputError(f"{path}: XML that is not accepted: {short(error)}") from error
    if tree.tag != "annotation":
        raise InputError(
            f"{path}: not a VOC annotation: its root is <{tree.tag}>, not <annotation>"
        )
    return tree


def _size(tree, side: str, path: Path) -> int:
    """The width or height the XML states; 0 where it states none, as some tools do."""
    text = tree.findtext(f"size/{side}") or "0"
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: size/{side} is '{text.strip()}', not a number") from error


def _read_object(node, where: str, image: dict, reading: Reading) -> None:
    name = (node.findtext("name") or "").strip()
    if not name:
        reading.faults.append(f"{where} has no name")
        return
    try:
        corners = [
            float(node.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
        ]
    except (TypeError, ValueError):
        corners = []
    if not numbers(corners, 4):
        reading.faults.append(
            f"{where} ('{name}') needs a bndbox with four numbers xmin, ymin, xmax, ymax"
        )
        return
    xmin, ymin, xmax, ymax = corners
    box = [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]
    # xmin = xmax would be one pixel wide by VOC's counting, but what writes such boxes are slips of
    # the hand
    fault = (
        "has no area"
        if xmax <= xmin or ymax <= ymin
        else box_fault(box, image["width"], image["height"])
    )
    if fault:
        written = " ".join(f"{value:g}" for value in corners)
        reading.faults.append(f"{where} ('{name}'): the box {written} {fault}")
        return
    difficult = (node.findtext("difficult") or "").strip().lower() in ("1", "true")
    reading.annotations.append(
        {
            "image_id": image["id"],
            "category": name,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "difficult": int(difficult),
        }
    )


def _number(reading: Reading) -> None:
    """Gives categories and annotations their ids."""
    found = {annotation["category"] for annotation in reading.annotations}
    names = CLASSES if found <= set(CLASSES) else sorted(found)
    ids = {name: number for number, name in enumerate(names, 1)}
    reading.categories = [{"id": number, "name": name} for name, number in ids.items()]
    for number, annotation in enumerate(reading.annotations, 1):
        annotation["id"] = number
        annotation["category_id"] = ids[annotation.pop("category")]
