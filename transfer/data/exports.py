"""Habits of tools that export COCO files, so that their good data are not taken for bad ones."""

import mmap
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from detco.common.images import ENDINGS

from .reading import Reading


def without_root(document: dict, path: Path, reading: Reading) -> tuple[list[dict], list[dict]]:
    """The categories and annotations of a COCO document without Roboflow's root category.

    Roboflow puts category 0, of supercategory "none", above all others; it is no class. Objects of
    it are faults, in one line; where a class below has its name, they are that class's.
    """
    categories, objects = document["categories"], document["annotations"]
    above = [entry.get("supercategory") for entry in categories if entry.get("id") != 0]
    root = [
        entry
        for entry in categories
        if entry.get("id") == 0
        and entry.get("supercategory") == "none"
        and entry.get("name") in above
    ]
    if not root:
        return categories, objects
    classes = [entry for entry in categories if entry.get("id") != 0]
    own = sum(entry.get("category_id") == 0 for entry in objects)
    name = root[0]["name"]
    same = [entry["id"] for entry in classes if entry.get("name") == name]
    if same:
        changed = [
            e | {"category_id": same[0]} if e.get("category_id") == 0 else e for e in objects
        ]
        return classes, changed
    line = (
        f"{path}: {own:,} objects of category 0 ('{name}'), which is no class but Roboflow's root"
        ' category; give them a class, or that category another supercategory than "none"'
    )
    reading.faults += [line] * own
    return classes, [entry for entry in objects if entry.get("category_id") != 0]


def numbered(objects: list[dict], path: Path, reading: Reading) -> list[dict]:
    """COCO annotations with ids of their own: numbered anew, with a note, where some are missing,
    repeated or no whole numbers."""
    ids = [entry.get("id") for entry in objects]
    if all(type(one) is int for one in ids) and len(set(ids)) == len(ids):
        return objects
    if any(one is not None for one in ids):
        reading.notes.append(
            f"{path}: annotation ids are not whole numbers used once each: numbered anew from 1"
        )
    return [entry | {"id": number} for number, entry in enumerate(objects, 1)]


# folders of a split: train, val2017, Valid, test_a, ...
SPLIT_FOLDER = re.compile(r"(train|val|dev|test)\w*", re.IGNORECASE)
# what tools put around a split's name in that of its file, and names that say none
AROUND = re.compile(
    r"^(instances|person_keypoints|annotations?)_(?=.)|(?<=.)[_.](annotations?|labels|coco)$"
)
NAMELESS = ("_annotations", "annotations", "coco", "dataset", "default", "labels", "result")
MOST_FILES = 20  # a folder with more JSON files holds one an image, as labelme writes them
KEYS = (b'"images"', b'"annotations"', b'"categories"')


def files_of_splits(root: Path) -> dict[str, Path]:
    """COCO files outside of annotations/, by split: beside the folders of images (labels.json of
    FiftyOne, result.json of Label Studio, dataset.json of labelme2coco), or in a folder for each
    split (Roboflow, FiftyOne, CVAT)."""
    found: dict[str, Path] = {}
    for path in _coco_files(root):
        found.setdefault(split_in(path.stem), path)
    for path in sorted(root.glob("[!.]*/_annotations.coco.json")):
        found.setdefault(path.parent.name, path)
    for folder in sorted(path for path in root.glob("[!.]*") if path.is_dir()):
        if SPLIT_FOLDER.fullmatch(folder.name):
            inside = [*_coco_files(folder), *_coco_files(folder / "annotations")]
            if len(inside) == 1 or (inside and split_in(inside[0].stem) in NAMELESS):
                found.setdefault(folder.name, inside[0])
    return found


def split_in(stem: str) -> str:
    """The name of a split in that of its file: `train` in instances_train and train_annotations."""
    short = AROUND.sub("", stem)
    return AROUND.sub("", short) or stem


def _coco_files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("[!.]*.json"))
    return [path for path in paths if _has_keys(path)] if len(paths) <= MOST_FILES else []


def _has_keys(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return all(text.find(key) >= 0 for key in KEYS)


# what Label Studio puts before the name of an uploaded file
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")


class Elsewhere:
    """The images below some folders, for those that are not where, or not called what, a file says.

    Found are: the other Unicode form (macOS writes NFD), another case (.Jpg), backslashes, folders
    of the machine that exported, Label Studio's prefix of uploaded files. `listed` is taken only
    for one file: of several, the one that shares most of the folders' names.
    """

    def __init__(self, folders: Iterable[Path], suffixes: tuple[str, ...] = ENDINGS):
        self.by_name: dict[str, list[str]] = defaultdict(list)
        for top in folders:
            for folder, below, names in os.walk(top):
                below[:] = [name for name in below if not name.startswith(".")]
                for name in names:
                    if name.lower().endswith(suffixes) and not name.startswith("."):
                        self.by_name[plain(name)].append(os.path.join(folder, name))

    def find(self, listed: str) -> str | None:
        """The path of the one image that is meant, or None."""
        parts = plain(listed).split("/")
        for name in dict.fromkeys((parts[-1], UPLOADED.sub("", parts[-1]))):
            paths = self.by_name.get(name, [])
            best = max((_shared(path, parts) for path in paths), default=0)
            most = {path for path in paths if _shared(path, parts) == best}
            if len(most) == 1:
                return most.pop()
            if most:
                return None
        return None

    def find_stem(self, stem: str, suffixes: tuple[str, ...]) -> str | None:
        """As `find`, for a path without suffix: that of the first suffix there is."""
        return next(filter(None, (self.find(stem + suffix) for suffix in suffixes)), None)


def _shared(path: str, parts: list[str]) -> int:
    """How many folders' names, counted from the file, two paths share."""
    count = 0
    for own, other in zip(reversed(plain(path).split("/")[:-1]), reversed(parts[:-1])):
        if own != other:
            break
        count += 1
    return count


def plain(name: str) -> str:
    """A path in one Unicode form, one case, with slashes."""
    return unicodedata.normalize("NFC", name).casefold().replace("\\", "/")
