"""Folders of classes: SPLIT/CLASS/NAME.jpg, as ImageNet is usually unpacked. The label of an image
is the folder it lies in; its record says so with a box around the whole image."""

import os
from pathlib import Path

from detco.common.images import ENDINGS

from . import LAYOUTS, inspection
from .exports import SPLIT_FOLDER
from .reading import Reading, missing_split, need_folder

FEWEST = 2  # classes of a split


def splits(root: Path) -> list[str]:
    """The folders of split names that hold two or more folders with images."""
    if not root.is_dir():
        return []
    folders = sorted(path for path in root.iterdir() if SPLIT_FOLDER.fullmatch(path.name))
    return [folder.name for folder in folders if folder.is_dir() and _has_classes(folder)]


def read(root: Path, split: str, keypoints: bool = False) -> Reading:
    """Reads one split. Classes are its folders, sorted; the images of one may lie in folders below.

    Problems: a class without images, images beside the classes, fewer than two classes. Raises
    InputError for a folder or split that is not there.
    """
    folder, reading = need_folder(root, LAYOUTS["imagefolder"].needs) / split, Reading()
    if not folder.is_dir():
        raise missing_split(root, split, splits(root))
    classes = _classes(folder)
    loose = [name for name in os.listdir(folder) if _is_image(name)]
    if loose:
        reading.problems.append(
            f"{folder}: {len(loose):,} images lie beside the folders of classes (the first:"
            f" {min(loose)}); each belongs into the folder of its class"
        )
    elif len(classes) < FEWEST:
        reading.problems.append(
            f"{folder}: {len(classes)} folders of classes; at least {FEWEST} are needed"
        )
    reading.categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    _read_images(folder, reading)
    return reading


def _classes(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _has_classes(folder: Path) -> bool:
    """Whether it holds FEWEST folders with images, those of a split's name not counted."""
    names = [name for name in _classes(folder) if not SPLIT_FOLDER.fullmatch(name)]
    found = (name for name in names if next(_images(folder / name), None))
    return len([name for _, name in zip(range(FEWEST), found)]) == FEWEST


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def _images(folder: Path):
    """Paths of the images in a folder and those below it, sorted."""
    for place, below, names in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(names) if _is_image(name))


def _read_images(folder: Path, reading: Reading) -> None:
    """Adds the images of all classes."""
    found: list[tuple[str, int]] = []
    for category in reading.categories:
        paths = list(_images(folder / category["name"]))
        found += [(path, category["id"]) for path in paths]
        if not paths:
            reading.problems.append(
                f"{folder / category['name']}: a class without images; add some or delete the"
                " folder"
            )
    sizes = inspection.sizes([path for path, _ in found])
    for number, ((path, category_id), size) in enumerate(zip(found, sizes, strict=True), 1):
        if isinstance(size, str):
            reading.problems.append(f"{path}: {size}")
            continue
        width, height = size
        name, sides = os.path.relpath(path, folder), {"width": width, "height": height}
        reading.images.append({"id": number, "file_name": path, "name": name, **sides})
        label = {"id": number, "image_id": number, "category_id": category_id, "iscrowd": 0}
        reading.annotations.append({**label, "bbox": [0, 0, width, height], "area": width * height})
