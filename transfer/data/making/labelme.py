"""labelme's files, one JSON an image, as one COCO file."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

from detco.common.errors import InputError

from .. import exports, inspection
from ..fields import found as shown
from ..reading import json_of, numbers
from .new_files import write_coco

CORNERS = {"rectangle": 2, "polygon": 3, "circle": 2}  # points that a shape needs


def files(root: Path) -> list[Path]:
    """labelme's files below a folder: JSON with `shapes`. Raises InputError for malformed JSON."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        paths = (Path(folder, name) for name in sorted(names) if name.lower().endswith(".json"))
        found += [path for path in paths if not path.name.startswith(".") and _has_shapes(path)]
    return found


def _has_shapes(path: Path) -> bool:
    try:
        # the whole file: tools that sort keys write the image itself first
        return path.is_file() and b'"shapes"' in path.read_bytes()
    except OSError:
        return False


def convert(root: Path, out: Path) -> dict[Path, tuple[int, int]]:
    """Writes OUT/annotations/instances_all.json; gives its (images, objects).

    A rectangle, a circle (its centre and a point of it) and a polygon are an object each; shapes of
    one label and `group_id` are one object. Only objects of polygons have masks. The images stay
    where they are. Raises InputError, also for other shapes: they have no box.
    """
    paths = files(root)
    if not paths:
        raise InputError(f"{root}: no JSON file with 'shapes', as labelme writes one an image")
    elsewhere = exports.Elsewhere([root])
    documents = [json_of(path) for path in paths]
    pictures = [_picture(*pair, elsewhere) for pair in zip(paths, documents, strict=True)]
    images, groups = [], []
    looks = inspection.sizes(pictures)
    for number, (path, document) in enumerate(zip(paths, documents, strict=True), 1):
        picture, size = pictures[number - 1], looks[number - 1]
        if isinstance(size, str):
            raise InputError(f"{picture}: {size}")
        stated = (document.get("imageWidth"), document.get("imageHeight"))
        if None not in stated and stated != size:
            raise InputError(
                f"{path}: says {shown(stated[0])} x {shown(stated[1])}, but {picture} is"
                f" {size[0]} x {size[1]} (after EXIF rotation)"
            )
        inside = Path(picture).is_relative_to(out)
        name = os.path.relpath(picture, out) if inside else picture
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        groups += [(number, label, shapes) for label, shapes in _groups(path, document)]
    labels = {label: n for n, label in enumerate(sorted({label for _, label, _ in groups}), 1)}
    objects = [
        {"id": n, "image_id": image, "category_id": labels[label], "iscrowd": 0} | _object(shapes)
        for n, (image, label, shapes) in enumerate(groups, 1)
    ]
    categories = [{"id": n, "name": label} for label, n in labels.items()]
    document = {"images": images, "annotations": objects, "categories": categories}
    return write_coco(out, {"instances_all": document})


def _picture(path: Path, document, elsewhere: exports.Elsewhere) -> str:
    """The image of a file. Raises InputError."""
    shapes = document.get("shapes") if isinstance(document, Mapping) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, Mapping) for shape in shapes):
        raise InputError(f"{path}: 'shapes' must be a list of objects, as labelme writes it")
    name = document.get("imagePath")
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"{path}: 'imagePath' must name the image, found {shown(name)}")
    beside = (path.parent / name.replace("\\", "/")).absolute()
    found = str(beside) if beside.is_file() else elsewhere.find(name)
    if not found:
        raise InputError(
            f"{beside}: no such picture, but {path} names it; put it there (labelme can keep images"
            " in its files alone: those are not read)"
        )
    return os.path.abspath(found)


def _groups(path: Path, document: Mapping) -> list[tuple[str, list[dict]]]:
    """(label, shapes) of each object; a shape: `kind`, `points` as x, y, ... Raises InputError."""
    groups: dict[tuple, list[dict]] = {}
    for number, shape in enumerate(document["shapes"], 1):
        where = f"{path}: shape {number}"
        label, kind, points = (shape.get(key) for key in ("label", "shape_type", "points"))
        kind = kind or "polygon"  # labelme before version 3 knew no other
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"{where}: 'label' must be a name, found {shown(label)}")
        if kind not in CORNERS:
            able = ", ".join(CORNERS)
            raise InputError(
                f"{where} ('{label}') is a {shown(kind)}, which has no box; there are {able}"
            )
        good = isinstance(points, list) and all(numbers(point, 2) for point in points)
        if not good or len(points) < CORNERS[kind]:
            raise InputError(
                f"{where} ('{label}'): a {kind} needs {CORNERS[kind]} points [x, y], found"
                f" {shown(points)}"
            )
        group = shape.get("group_id")
        own = number if group is None else f"group {group}"
        flat = [value for point in points for value in point]
        groups.setdefault((label.strip(), own), []).append({"kind": kind, "points": flat})
    return [(label, shapes) for (label, _), shapes in groups.items()]


def _object(shapes: list[dict]) -> dict:
    """The box around all shapes, and their mask where all are polygons."""
    boxes = [_corners(shape) for shape in shapes]
    x0, y0 = (min(box[k] for box in boxes) for k in (0, 1))
    x1, y1 = (max(box[k] for box in boxes) for k in (2, 3))
    record: dict = {"bbox": [x0, y0, x1 - x0, y1 - y0]}
    if all(shape["kind"] == "polygon" for shape in shapes):
        record["segmentation"] = [shape["points"] for shape in shapes]
    return record


def _corners(shape: Mapping) -> tuple[float, float, float, float]:
    across, down = shape["points"][::2], shape["points"][1::2]
    if shape["kind"] == "circle":
        radius = math.hypot(across[1] - across[0], down[1] - down[0])
        return across[0] - radius, down[0] - radius, across[0] + radius, down[0] + radius
    return min(across), min(down), max(across), max(down)
