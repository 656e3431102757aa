"""Data in YOLO's format (a data.yaml, images/ and labels/) as COCO files."""

import os
from collections.abc import Mapping
from pathlib import Path

from detco.common.errors import InputError
from detco.common.images import ENDINGS

from .. import inspection
from ..reading import content_of, short
from .new_files import write_coco

SPLITS = ("train", "val", "valid", "test")
TOLERANCE = 0.01  # a share of the image by which values may leave 0 .. 1: rounding of tools


def description(root: Path) -> Path | None:
    """The YAML file of a YOLO data set, obj.data of Darknet and CVAT, or classes.txt; None where
    there is neither."""
    for name in ("data.yaml", "data.yml", "dataset.yaml", "obj.data", "classes.txt"):
        if (root / name).is_file():
            return root / name
    found = sorted(root.glob("[!.]*.y*ml"))
    return found[0] if len(found) == 1 else None


def convert(root: Path, about: Mapping, out: Path) -> dict[Path, tuple[int, int]]:
    """Writes OUT/annotations/instances_SPLIT.json for each split; gives their (images, objects).

    about: the YAML file's content: `names` (a list, or a mapping from numbers), `path` if any, and
    `train`, `val`, `test`: a folder of images, several, or a text file of paths; without them the
    one split `all` is what lies in images/. Labels are lines `class x y width height` (centre, as
    shares of the image) or `class x1 y1 x2 y2 ...` (a polygon); an image without labels has no
    objects. The images stay where they are. Raises InputError.
    """
    if not isinstance(about, Mapping):
        raise InputError(f"{root}: the YAML file must give 'names' and the places of splits")
    names = _names(about.get("names"), root)
    categories = [{"id": number, "name": name} for number, name in names.items()]
    has_points = "kpt_shape" in about
    documents: dict[str, dict] = {}
    first = None
    splits = {name: about[name] for name in SPLITS if about.get(name)} or {"all": "images"}
    for split, value in splits.items():
        images: list[dict] = []
        objects: list[dict] = []
        paths = _images(root, about, value)
        for number, (path, size) in enumerate(_sized(paths), 1):
            name = os.path.relpath(path, out) if Path(path).is_relative_to(out) else path
            images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
            for record in _objects(_label_file(path), size, names, has_points):
                objects.append({"id": len(objects) + 1, "image_id": number, **record})
        document = {"images": images, "annotations": objects, "categories": categories}
        documents[f"instances_{split}"] = document
        first = first or _label_file(paths[0])
    if not any(document["annotations"] for document in documents.values()):
        raise InputError(f"{root}: no image has a label file with objects in it, e.g. {first}")
    return write_coco(out, documents)


def of_darknet(path: Path) -> dict:
    """What obj.data says, lines `key = value`, as the YAML file would. Raises InputError."""
    lines = [line.partition("=") for line in _text(path).splitlines() if "=" in line]
    said = {key.strip(): value.strip() for key, _, value in lines}
    about: dict = {key: said[key] for key in SPLITS if key in said}
    if "names" not in said:
        raise InputError(f"{path}: no line `names = ...` that names the file of classes")
    listed = _text(_place(path.parent, about, said["names"]))
    return about | {"names": [line for line in listed.splitlines() if line.strip()]}


def _text(path: Path) -> str:
    return content_of(path).decode("utf-8-sig", "replace")


def _names(names, root: Path) -> dict[int, str]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if isinstance(names, Mapping) and names:
        texts = {key: str(name).strip() for key, name in names.items() if name is not None}
        if len(texts) == len(names) and all(type(key) is int for key in texts):
            return texts
    raise InputError(f"{root}: 'names' must list the classes, or give each number its name")


def _images(root: Path, about: Mapping, value) -> list[str]:
    """The images of a split."""
    found: list[str] = []
    for entry in value if isinstance(value, list) else [value]:
        place = _place(root, about, str(entry))
        if place.is_dir():
            found += _below(place)
            continue
        for line in _text(place).splitlines():
            if line.strip():
                beside = place.parent / line.strip()
                found.append(str(beside if beside.exists() else _place(root, about, line.strip())))
    if not found:
        raise InputError(f"{root}: no images in {value}")
    return found


def _place(root: Path, about: Mapping, entry: str) -> Path:
    """Where a path of the YAML file lies: below its `path`, or the file's folder; Roboflow writes
    ../train/images for ./train/images, CVAT data/train.txt for ./train.txt."""
    if "\0" in f"{about.get('path')}{entry}":
        raise InputError(f"{root}: a path in the YAML file has a NUL in it")
    tried = [Path(str(about.get("path") or ".")) / entry, Path(entry)]
    tried.append(Path(*[part for part in Path(entry).parts if part != ".."]))
    if Path(entry).parts[:1] == ("data",):
        tried.append(Path(*Path(entry).parts[1:]))
    for path in tried:
        if (root / path).exists():
            return (root / path).absolute()
    raise InputError(f"{root / tried[0]}: no such folder or list, but the data set's file names it")


def _below(folder: Path) -> list[str]:
    found = []
    for where, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [
            os.path.join(where, name)
            for name in names
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return sorted(found)


def _sized(paths: list[str]) -> list[tuple[str, tuple[int, int]]]:
    """Each image with its (width, height), upright."""
    pairs = []
    for path, size in zip(paths, inspection.sizes(paths), strict=True):
        if isinstance(size, str):
            raise InputError(f"{path}: {size}")
        pairs.append((path, size))
    return pairs


def _label_file(image: str) -> Path:
    """images/a.jpg has labels/a.txt, by the last folder of that name for which there is one; else
    it lies beside."""
    beside = Path(image).with_suffix(".txt")
    usual = []
    for index in range(len(beside.parts) - 2, -1, -1):
        if beside.parts[index] == "images":
            usual.append(Path(*beside.parts[:index], "labels", *beside.parts[index + 1 :]))
    there = (path for path in (*usual, beside) if path.exists())
    return next(there, usual[0] if usual else beside)


def _objects(
    path: Path, size: tuple[int, int], names: Mapping[int, str], has_points: bool
) -> list[dict]:
    if not path.exists():
        return []
    found = []
    try:
        lines = content_of(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file ({short(error)})") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_object(line.split(), size, names, has_points))
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from error
    return found


def _object(
    words: list[str], size: tuple[int, int], names: Mapping[int, str], has_points: bool
) -> dict:
    """The COCO record of a line. Raises ValueError saying what is wrong with it."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise ValueError("a class (by its number) and its places must be numbers") from None
    label, places = values[0], values[1:]
    if label not in names:
        raise ValueError(f"class {words[0]} is not among the {len(names)} of 'names'")
    if has_points:  # keypoints follow the box
        places = places[:4]
    if len(places) != 4 and (len(places) < 6 or len(places) % 2):
        raise ValueError(
            f"{len(words)} values: expected a class and four (a box), or a class and x, y of three"
            " points or more (a polygon)"
        )
    if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in places):
        raise ValueError("values must be shares of the image, from 0 to 1")
    width, height = size
    if len(places) == 4:
        x, y, w, h = places
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return {"category_id": int(label), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
    across = [value * width for value in places[::2]]
    down = [value * height for value in places[1::2]]
    box = [min(across), min(down), max(across) - min(across), max(down) - min(down)]
    polygon = [value for point in zip(across, down) for value in point]
    return {"category_id": int(label), "bbox": box, "iscrowd": 0, "segmentation": [polygon]}
