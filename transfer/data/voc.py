"""The VOC layout: Annotations/NAME.xml, ImageSets/Main/SPLIT.txt, JPEGImages/NAME.jpg; also without
lists, with a folder for each split, and with XML files beside the images."""

import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as ET

from detco.common.errors import InputError
from detco.common.files import open_regular
from detco.common.images import ENDINGS

from . import LAYOUTS, exports, fields, inspection
from .reading import (
    Listing,
    Reading,
    box_fault,
    content_of,
    is_on_its_side,
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


# Names of the folders of annotations and of images, the published ones first; "" is beside
# each other.
ANNOTATIONS = ("Annotations", "annotations", "labels", "")
IMAGES = ("JPEGImages", "images", "Images", "")
ALL = "all"  # the split of a folder without lists


# what tools write for an object that is left out of the score, or is not
DIFFICULT = {"": 0, "0": 0, "false": 0, "1": 1, "true": 1}


def splits(root: Path) -> list[str]:
    """The names of the splits in the folder: its lists, without VOC's lists by class
    (aeroplane_train.txt, lines `000012 -1`); else its folders of split names with annotations in
    them; else `all`, where it has annotations itself."""
    paths = sorted((root / "ImageSets" / "Main").glob("[!.]*.txt"))
    stems = {path.stem for path in paths}
    listed = [
        path.stem
        for path in paths
        if not (path.stem.rpartition("_")[2] in stems - {path.stem} and _of_a_class(path))
    ]
    if listed or not root.is_dir():
        return listed
    folders = sorted(path for path in root.iterdir() if exports.SPLIT_FOLDER.fullmatch(path.name))
    found = [folder.name for folder in folders if _annotation_folder(folder)]
    return found or ([ALL] if _annotation_folder(root) else [])


def _annotation_folder(root: Path) -> Path | None:
    """The folder that has XML files: one of the usual ones in `root`, or itself."""
    folders = (root / name for name in ANNOTATIONS)
    return next((folder for folder in folders if any(folder.glob("[!.]*.xml"))), None)


def _image_folder(root: Path) -> Path:
    """The folder of images: one of the usual ones in `root`, or itself. Raises InputError."""
    for name in IMAGES[:-1]:
        if (root / name).is_dir():
            return root / name
    if any(name.lower().endswith(ENDINGS) for name in Listing().names(root)):
        return root
    return need_folder(root / IMAGES[0], LAYOUTS["voc"].needs)


def _of_a_class(path: Path) -> bool:
    with suppress(OSError), open_regular(path, "r", encoding="utf-8", errors="replace") as file:
        return re.fullmatch(r".*\S\s+(-1|0|1)\s*", file.readline()) is not None
    return False


def read(root: Path, split: str, keypoints: bool = False) -> Reading:
    """Reads one split; 1-based inclusive corners become 0-based [xmin-1,
    ymin-1, xmax-xmin+1, ymax-ymin+1].

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
    listed = (root / "ImageSets" / "Main").is_dir()
    if not listed and split not in splits(root):
        if not splits(root):
            need_folder(root / "Annotations", LAYOUTS["voc"].needs)
        raise missing_split(root, split, splits(root))
    base = root if listed or split == ALL else root / split
    annotations = _annotation_folder(base) or need_folder(
        base / "Annotations", LAYOUTS["voc"].needs
    )
    images, listing = _image_folder(base), Listing()
    if listed:
        names = _names(root, split, reading.notes)
    else:
        names = sorted(path.stem for path in annotations.glob("[!.]*.xml"))
        _note_unlabelled(images, names, reading.notes)
    located = [_located(name, annotations, images, listing) for name in names]
    paths = [picture for picture, _ in located if picture]
    looks = dict(zip(paths, inspection.sizes(paths), strict=True))
    elsewhere: exports.Elsewhere | None = None
    unsized: list[str] = []
    for name, (picture, xml), number in zip(names, located, ids):
        if picture and xml:
            try:
                if not _read_one(Path(xml), name, picture, looks[picture], number, reading):
                    unsized.append(picture)
            except InputError as error:
                reading.problems.append(str(error))
            continue
        elsewhere = elsewhere or exports.Elsewhere([root], (*ENDINGS, ".xml"))
        path = annotations / f"{name}.xml" if picture else images / f"{name}.jpg"
        what = "file" if picture else "picture"
        there = elsewhere.find_stem(name, (".xml",) if picture else ENDINGS)
        hint = f"; there is {there}" if there else ""
        reading.problems.append(f"{path}: no such {what}, but split '{split}' lists it{hint}")
    _note_turned(unsized, root, split, reading.notes)


def _note_turned(unsized: list[str], root: Path, split: str, notes: list[str]) -> None:
    """Images on their side by EXIF whose XML states no size: either could be meant."""
    turned = [path for path in unsized if is_on_its_side(path)]
    if turned:
        notes.append(
            f"{root}: split '{split}': {len(turned):,} XML files state no size, and EXIF turns"
            " their images; they are read as EXIF shows them: see that boxes fit, or store them"
            f" upright; the first: {turned[0]}"
        )


def _located(
    name: str, annotations: Path, images: Path, listing: Listing
) -> tuple[str | None, str | None]:
    """Paths of the image and the XML of a listed name, which may have folders and, as some tools
    write it, a suffix or the other Unicode form."""
    parent, base = os.path.split(name)
    picture = _file(images / parent, base, ENDINGS, listing)
    stem, suffix = os.path.splitext(base)
    if picture is None and suffix.lower() in ENDINGS:
        base = stem
        picture = _file(images / parent, base, ENDINGS, listing)
    xml = _file(annotations / parent, base, (".xml",), listing)
    return picture, xml


def _file(folder: Path, stem: str, suffixes: tuple[str, ...], listing: Listing) -> str | None:
    """The file of this stem in a folder; of several, that of the first suffix."""
    found = listing.stems(folder, suffixes)
    for text in (stem, unicodedata.normalize("NFC", stem)):
        if text in found:
            return os.path.join(folder, found[text])
    return None


def _note_unlabelled(images: Path, names: list[str], notes: list[str]) -> None:
    """Images without an XML file belong to no split."""
    stems = Listing().stems(images, ENDINGS)
    count = len(set(stems.values())) - sum(name in stems for name in names)
    if count > 0:
        notes.append(f"{images}: {count:,} images without an XML file are left out")


def _names(root: Path, split: str, notes: list[str]) -> list[str]:
    """The picture names of a split, in the file's order, each once. Quotes around names and lines
    that begin with `# ` are passed over."""
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.exists():
        raise missing_split(path.parent, split, splits(root))
    try:
        lines = content_of(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file ({short(error)})") from error
    names = [
        line.strip().strip("\"'").replace("\\", "/") for line in lines if _is_name(line.strip())
    ]
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


def _is_name(line: str) -> bool:
    return bool(line.strip("\"'")) and not line.startswith("# ") and line != "#"


def _read_one(
    path: Path, name: str, picture: str, size: tuple[int, int] | str, number: int, reading: Reading
) -> bool:
    """Adds one picture and its objects; `size`: (width, height), or why the picture
    cannot be read. Returns whether the XML states a size."""
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
    return all(said)


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
        raise InputError(
            f"{path}: size/{side} is {fields.found(text.strip())}, not a number"
        ) from error


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
        line = f"{where} ('{name}') needs a bndbox with four numbers xmin, ymin, xmax, ymax"
        reading.leave_out(line, name)
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
        reading.leave_out(f"{where} ('{name}'): the box {written} {fault}", name)
        return
    stated = (node.findtext("difficult") or "0").strip().lower()
    if stated not in DIFFICULT:
        line = f"{where} ('{name}'): difficult must be 0 or 1, found {fields.found(stated)}"
        reading.leave_out(line, name)
        return
    reading.annotations.append(
        {
            "image_id": image["id"],
            "category": name,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "difficult": DIFFICULT[stated],
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


def write_splits(root: Path, split: str, parts: Mapping[str, list[dict]]) -> dict[str, Path]:
    """Lists in ImageSets/Main for the images (records) of each part of the one split there is."""
    from .making.new_files import written

    if split != ALL and not (root / "ImageSets" / "Main").is_dir():
        command = shlex.join(("detco", "data", "split", str(root / split)))
        raise InputError(f"{root}: only '{split}' has annotations: `{command}` divides that folder")
    files = {part: root / "ImageSets" / "Main" / f"{part}.txt" for part in parts}
    names = {part: [image["name"] for image in images] for part, images in parts.items()}
    written({files[part]: "".join(f"{name}\n" for name in names[part]) for part in parts})
    return files
