"""Animal Pose (Cao et al., ICCV 2019: arXiv 1908.05806) as COCO files, smaller, with a split, and
the training images once more in a folder a class."""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from detco.common.errors import InputError
from detco.common.images import ENDINGS, full_size, open_image, to_rgb
from detco.common.progress import Report

from ..reading import json_of, numbers, short
from .new_files import write_coco

VAL_PERCENT = 25
QUALITY = 90  # of the JPEGs that are written


def convert(
    root: Path, out: Path, size: int | None = None, report: Report | None = None
) -> dict[Path, tuple[int, int]]:
    """Write OUT/train, OUT/val, OUT/annotations and OUT/by-class; gives each COCO file's (images,
    objects).

    root: the official download, `keypoints.json` and `images/`. Its boxes are [x0, y0, x1, y1] and
    its keypoints triples [x, y, visible], in pixels. size: the short side of the images that are
    written, in pixels; larger ones are reduced, with their labels; None: files are copied. An image
    is in `val` by the sha256 of its name: 25 of 100. instances_*.json has the five classes,
    person_keypoints_*.json one category `animal`. by-class: links to the images of `train`, each
    under the class of its largest object. Raises InputError.
    """
    about = _read(root / "keypoints.json")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; name a new one")
    objects: dict[str, list[dict]] = {}
    for record in about["annotations"]:
        objects.setdefault(str(record["image_id"]), []).append(record)
    splits: dict[str, list[dict]] = {"train": [], "val": []}
    for number, (key, name) in enumerate(sorted(about["images"].items(), key=lambda i: i[1]), 1):
        split = "val" if _drawn(name) < VAL_PERCENT else "train"
        source, target = root / "images" / name, out / split / name
        width, height, factor = _image(source, target, size)
        record = {"id": number, "file_name": name, "width": width, "height": height}
        own = [_object(one, factor, (width, height)) for one in objects.get(key, [])]
        splits[split].append(record | {"objects": own})
        if report is not None:
            report("convert", number, len(about["images"]))
    return _write(out, splits, about["categories"])


def _read(path: Path) -> dict:
    """The official file. Raises InputError where it is another one."""
    if not path.exists():
        raise InputError(
            f"{path}: no such file; it comes with the official download of Animal Pose"
        )
    about = json_of(path)
    images = about.get("images") if isinstance(about, dict) else None
    if not isinstance(images, dict) or not images or not all(map(_is_image, images.values())):
        raise InputError(
            f"{path}: 'images' must give each id the name of an image, as in Animal Pose's own file"
        )
    twice = [name for name, count in Counter(images.values()).items() if count > 1]
    if twice:
        raise InputError(f"{path}: two images have the name {twice[0]!r}")
    categories = about.get("categories")
    if not categories or not isinstance(categories, list) or not all(map(_is_class, categories)):
        raise InputError(
            f"{path}: 'categories' must list the classes, each with 'id' (a number) and 'name'"
        )
    if not isinstance(about.get("annotations"), list):
        raise InputError(f"{path}: 'annotations' must be a list of animals")
    ids = [category["id"] for category in categories]
    for index, record in enumerate(about["annotations"]):
        if not isinstance(record, dict):
            raise InputError(f"{path}: annotation {index} is no object: {record!r}")
        box, points = record.get("bbox"), record.get("keypoints")
        if str(record.get("image_id")) not in images:
            raise InputError(f"{path}: annotation {index}: no image {record.get('image_id')!r}")
        if record.get("category_id") not in ids:
            raise InputError(
                f"{path}: annotation {index}: no category {record.get('category_id')!r}"
            )
        if not _is_box(box):
            raise InputError(f"{path}: annotation {index}: bbox must be corners, got {box}")
        if not isinstance(points, list) or not all(map(_is_point, points)):
            raise InputError(f"{path}: annotation {index}: keypoints must be [x, y, visible]")
    return about


def _is_name(name) -> bool:
    """Whether a file or folder can have this name; the converter writes under it."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _is_image(name) -> bool:
    return _is_name(name) and name.lower().endswith(ENDINGS)


def _is_class(category) -> bool:
    """Whether this is a category whose name can be that of a folder."""
    return (
        isinstance(category, dict)
        and type(category.get("id")) is int
        and _is_name(category.get("name"))
    )


def _is_box(box) -> bool:
    return numbers(box, 4) and box[2] > box[0] and box[3] > box[1]


def _is_point(point) -> bool:
    return isinstance(point, list) and len(point) == 3 and numbers(point[:2])


def _drawn(name: str) -> int:
    """0 .. 99, always the same for a name."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100


def _image(source: Path, target: Path, size: int | None) -> tuple[int, int, float]:
    """Write an image; its width, height and by how much it was reduced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_image(source) as opened:
            picture = to_rgb(opened)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {source}: {short(error)}") from error
    full = full_size(picture)
    factor = min(1.0, size / min(full)) if size else 1.0
    if factor == 1.0:
        shutil.copyfile(source, target)
        return (*full, factor)
    width, height = (max(1, round(side * factor)) for side in full)
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    small.save(target, quality=QUALITY)
    return width, height, factor


def _object(record: Mapping, factor: float, size: tuple[int, int]) -> dict:
    """One animal as COCO has it, in pixels of the written image; the box ends at its edges."""
    x0, y0, x1, y1 = (value * factor for value in record["bbox"])
    x0, y0, x1, y1 = max(0.0, x0), max(0.0, y0), min(x1, size[0]), min(y1, size[1])
    points: list[float] = []
    for x, y, visible in record["keypoints"]:
        points += [x * factor, y * factor, 2] if visible else [0, 0, 0]
    return {
        "category_id": record["category_id"],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": 0,
        "keypoints": points,
        "num_keypoints": sum(flag > 0 for flag in points[2::3]),
    }


def _write(
    out: Path, splits: Mapping[str, list[dict]], categories: list[dict]
) -> dict[Path, tuple[int, int]]:
    names = {category["id"]: category["name"] for category in categories}
    points = {key: categories[0][key] for key in ("keypoints", "skeleton") if key in categories[0]}
    classes = [{"id": number, "name": name} for number, name in names.items()]
    animal = [{"id": 1, "name": "animal", **points}]
    documents = {}
    for split, images in splits.items():
        objects = [
            {"image_id": image["id"], **one} for image in images for one in image.pop("objects")
        ]
        if split == "train":
            _sort_by_class(out, images, objects, names)
        plain = [{k: v for k, v in one.items() if "keypoints" not in k} for one in objects]
        for kind, own, rows in (
            ("instances", classes, plain),
            ("person_keypoints", animal, [one | {"category_id": 1} for one in objects]),
        ):
            numbered = [{"id": number, **row} for number, row in enumerate(rows, 1)]
            document = {"images": images, "annotations": numbered, "categories": own}
            documents[f"{kind}_{split}"] = document
    return write_coco(out, documents)


def _sort_by_class(
    out: Path, images: list[dict], objects: list[dict], names: Mapping[int, str]
) -> None:
    largest: dict[int, dict] = {}
    for one in objects:
        known = largest.get(one["image_id"])
        if known is None or one["area"] > known["area"]:
            largest[one["image_id"]] = one
    for image in images:
        if image["id"] in largest:
            folder = out / "by-class" / names[largest[image["id"]]["category_id"]]
            folder.mkdir(parents=True, exist_ok=True)
            os.link(out / "train" / image["file_name"], folder / image["file_name"])
