"""The COCO layout: one JSON file a split with images, annotations and categories, and
folders of pictures."""

import json
import mmap
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from detco.common.errors import InputError

from . import LAYOUTS, densepose, exports, fields, masks
from .reading import (
    Listing,
    Reading,
    box_fault,
    json_of,
    missing_split,
    need_folder,
    numbers,
)

# what is read of a category
OF_A_CATEGORY = ("id", "name", "keypoints", "keypoint_flip", "skeleton", "sigmas")
PREFIXES = ("instances_", "person_keypoints_")
# COCO's files for other tasks that lie beside those, and keys of such files under other names
OTHER_TASKS = ("captions_", "panoptic_", "stuff_", "image_info_")
OF_OTHER_TASKS = (b"caption", b"segments_info")
# COCO 2014 was divided anew; its images stayed where they were
OF_VAL2014 = ("minival2014", "valminusminival2014")


def splits(root: Path) -> list[str]:
    """The names of the splits in the folder: of files with objects, not of captions, panoptic
    segments or predictions beside them."""
    named = [path for path in (root / "annotations").glob("[!.]*.json") if _has_objects(path)]
    return sorted({*map(_split_name, named), *exports.files_of_splits(root)})


def _has_objects(path: Path) -> bool:
    """Whether a file may hold objects, by its name or, for other names, by the keys in it; also
    true for a broken one, which the reader will name."""
    if path.name.startswith(PREFIXES):
        return True
    if path.name.startswith(OTHER_TASKS) or not path.is_file():
        return False
    if not path.stat().st_size:
        return True
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        keys = [key for key in OF_OTHER_TASKS if text.find(b'"%s"' % key) >= 0]
        return not keys and text.find(b'"images"') >= 0


def read(root: Path, split: str, keypoints: bool = False) -> Reading:
    """Reads one split: annotations/{instances,person_keypoints}_{split}.json, or the JSON file that
    `split` names; or several, joined by "+".

    `keypoints` prefers the keypoint file where a split has both. Category ids stay as in the file.
    Masks are polygons or compressed RLE ({"size": [h, w], "counts": str}). Pictures are looked up
    in listings, never opened. Raises InputError for a file that is not there or not COCO.
    """
    need_folder(root, LAYOUTS["coco"].needs)
    whole = [split] if _is_one(root, split) else split.split("+")
    parts = [_read_file(root, annotation_file(root, part, keypoints)) for part in whole]
    return parts[0] if len(parts) == 1 else _joined(parts, root)


def _is_one(root: Path, split: str) -> bool:
    """Whether a split's own name has "+" in it: a path, or a file of the data set."""
    named = [root / "annotations" / f"{prefix}{split}.json" for prefix in PREFIXES]
    return any(path.is_file() for path in (Path(split), root / split, *named))


def _joined(parts: list[Reading], root: Path) -> Reading:
    """Several splits as one. They must have the same categories, and no image id twice."""
    whole = Reading(parts[0].categories)
    for part in parts:
        if part.categories != whole.categories:
            whole.problems.append(f"{root}: splits with different categories cannot be joined")
        whole.images += part.images
        whole.annotations += part.annotations
        whole.problems += part.problems
        whole.faults += part.faults
        whole.spoilt += part.spoilt
        whole.notes += part.notes
        whole.facts |= part.facts
    if len({image["id"] for image in whole.images}) < len(whole.images):
        whole.problems.append(f"{root}: splits that share image ids cannot be joined")
    whole.annotations = [one | {"id": i} for i, one in enumerate(whole.annotations, 1)]
    return whole


def _read_file(root: Path, path: Path) -> Reading:
    document = parse(path)
    reading = Reading()
    remarks = fields.mend(document)
    classes, objects = exports.without_root(document, path, reading)
    reading.categories = _categories(classes, path, reading, remarks)
    images = images_of(document["images"], path, reading.problems)
    folder = _picture_folder(root, path, images.values())
    _find_others(root, path, folder, images, reading)
    reading.images = [
        {
            "id": key,
            "file_name": os.path.join(folder, image.get("found") or image["file_name"]),
            "name": _name(image["file_name"]),
            "width": image["width"],
            "height": image["height"],
        }
        for key, image in sorted(images.items())
    ]
    _annotations(exports.numbered(objects, path, reading), path, images, reading, remarks)
    reading.notes += remarks.lines(path)
    return reading


def annotation_file(root: Path, split: str, keypoints: bool = False) -> Path:
    """Where the annotations of a split lie. Raises InputError naming the splits that exist."""
    if split.endswith(".json"):
        for path in (root / split, Path(split)):
            if path.exists():
                return path.absolute()
        raise InputError(f"{root / split}: no such annotation file")
    prefixes = PREFIXES[::-1] if keypoints else PREFIXES
    names = [f"annotations/{prefix}{split}.json" for prefix in (*prefixes, "")]
    for name in names:
        if (root / name).exists():
            return root / name
    others = {_split_name(path): path for path in (root / "annotations").glob("[!.]*.json")}
    for found in (exports.files_of_splits(root), others):
        if split in found:
            return found[split]
    raise missing_split(root / "annotations", split, splits(root))


def _split_name(path: Path) -> str:
    if path.name == "_annotations.coco.json":
        return path.parent.name
    return exports.split_in(path.stem)


def parse(path: Path) -> dict:
    """The content of an annotation file. Raises InputError for what is not one."""
    document = json_of(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise InputError(f"{path}: not a COCO annotation file: it has no list '{key}'")
        if any(not isinstance(entry, dict) for entry in document[key]):
            raise InputError(f"{path}: not a COCO annotation file: '{key}' must hold objects only")
    if not document["images"]:
        raise InputError(f"{path}: the split is empty: it lists no images")
    return document


def _categories(
    entries: list[dict], path: Path, reading: Reading, remarks: fields.Remarks
) -> list[dict]:
    """The category records by id, with the pairs of keypoints that a mirror swaps where they
    can be told."""
    known: dict[Any, dict] = {}
    names = set()
    for entry in entries:
        key, name = entry.get("id"), entry.get("name")
        if not fields.is_id(key) or not fields.is_text(name):
            reading.problems.append(
                f"{path}: a category needs a whole number 'id' and a 'name': {fields.found(entry)}"
            )
            continue
        where = f"{path}: category {key} ('{name}')"
        problem = fields.keypoint_problem(entry)
        if problem:
            reading.problems.append(f"{where}: {problem}")
        elif key in known or name in names:
            reading.problems.append(f"{where} occurs more than once")
        else:
            known[key] = _category(entry, remarks)
        names.add(name)
    return [known[key] for key in sorted(known)]


def _category(entry: dict, remarks: fields.Remarks) -> dict:
    """The record of one category: what this project reads of it, no more."""
    record = {key: entry[key] for key in OF_A_CATEGORY if key in entry}
    if not record.get("keypoints"):
        return {key: record[key] for key in ("id", "name")}
    if fields.skeleton(record) is None:
        remarks.add("categories have a skeleton that is no pairs of keypoints", record["skeleton"])
        del record["skeleton"]
    return {"keypoint_flip": _mirrored(record["keypoints"]), **record}


def _mirrored(points: list[str]) -> list[list[str]]:
    """Pairs of keypoint names that differ in left and right only."""
    pairs = [[point, point.replace("left", "right")] for point in points if "left" in point]
    return [pair for pair in pairs if pair[1] in points]


def images_of(entries: list[dict], path: Path, problems: list[str]) -> dict[int, dict]:
    """The images of a document by id; what is wrong goes to problems."""
    known: dict[Any, dict] = {}
    for entry in entries:
        key, name = entry.get("id"), entry.get("file_name")
        if not fields.is_id(key) or not _is_name(name):
            problems.append(
                f"{path}: an image needs a whole number 'id' and a 'file_name':"
                f" {fields.found(entry)}"
            )
        elif key in known:
            problems.append(
                f"{path}: image id {key} occurs more than once ({known[key]['file_name']}, {name})"
            )
        elif not fields.is_size(entry.get("width"), entry.get("height")):
            size = f"{fields.found(entry.get('width'))} x {fields.found(entry.get('height'))}"
            problems.append(
                f"{path}: image {key} ({name}): width and height must be positive whole numbers"
                f" (of pixels), found {size}"
            )
        else:
            known[key] = entry
    return known


def _is_name(name: object) -> bool:
    """Whether it can be that of a file; bytes that are no text are written as surrogates."""
    try:
        return (
            isinstance(name, str)
            and bool(name.encode(errors="surrogateescape"))
            and "\0" not in name
        )
    except UnicodeEncodeError:
        return False


def _name(file_name: str) -> str:
    return os.path.basename(file_name) if os.path.isabs(file_name) else file_name


def _picture_folder(root: Path, path: Path, images: Collection[dict]) -> Path:
    """The folder that has the listed pictures, or the one that lacks fewest of them."""
    fewest, best = len(images) + 1, root
    listing = Listing()
    for folder in _usual_folders(root, path):
        if not folder.is_dir():
            continue
        missing = sum(not listing.has(folder, image["file_name"]) for image in images)
        if missing < fewest:
            fewest, best = missing, folder
        if not missing:
            break
    return best


def _usual_folders(root: Path, path: Path) -> list[Path]:
    """Where the pictures of an annotation file may lie, the likeliest first. Those of
    train2017_1pct.json are in train2017."""
    near, listing, split = [], Listing(), _split_name(path).removeprefix("densepose_")
    for parent in (root, root / "images"):
        for name in listing.names(parent):
            if split.startswith(name) or (name == "val2014" and split in OF_VAL2014):
                near.append(parent / name)
    near.sort(key=lambda folder: len(folder.name), reverse=True)
    own = near[0] if near else path.parent
    inside = [own / "data", own / "images"]
    return [*near, root / "images", root, path.parent, *inside, root / "data"]


def _find_others(root: Path, path: Path, folder: Path, images: dict, reading: Reading) -> None:
    """Pictures that are not where the file says: `found` is their place, where it is certain; the
    rest are problems that say where one of that name lies.

    Where the split has a folder, another split's picture of that name is not it.
    """
    listing = Listing()
    absent = [one for one in images.values() if not listing.has(folder, one["file_name"])]
    if not absent:
        return
    own = root / _split_name(path)
    tops = [top for top in (own, root / "images" / own.name, path.parent) if top.is_dir()]
    if path.parent in (root, root / "annotations"):
        tops = tops[:-1] or [root]
    near, anywhere = exports.Elsewhere(tops), exports.Elsewhere([root])
    found = []
    for image in absent:
        image["found"] = near.find(image["file_name"])
        if image["found"]:
            found.append(image)
            continue
        there = anywhere.find(image["file_name"])
        hint = f"; there is {there}" if there else ""
        listed = folder / image["file_name"]
        reading.problems.append(f"{listed}: no such picture, but {path} lists it{hint}")
    if found:
        reading.notes.append(
            f"{path}: {len(found):,} of {len(images):,} pictures lie elsewhere than it says; the"
            f" first: '{found[0]['file_name']}' is {found[0]['found']}"
        )


def _annotations(
    entries: list[dict],
    path: Path,
    images: dict[int, dict],
    reading: Reading,
    remarks: fields.Remarks,
) -> None:
    categories = {category["id"]: category for category in reading.categories}
    for entry in entries:
        where = f"{path}: annotation {entry['id']}"
        problem = _reference_problem(entry, images, categories)
        if problem:
            reading.faults.append(f"{where}: {problem}")
            continue
        image = images[entry["image_id"]]
        category = categories[entry["category_id"]]
        try:
            record = _annotation(entry, image, category)
        except ValueError as error:
            reading.leave_out(f"{where} ({image['file_name']}): {error}", category["name"])
            continue
        reading.annotations.append(record)
        _remark(entry, record, remarks)


def _reference_problem(entry: dict, images: dict[int, dict], categories: dict[int, dict]) -> str:
    """What is wrong with an entry's image and category; "" if nothing."""
    image_id, category_id = entry.get("image_id"), entry.get("category_id")
    if not fields.is_id(image_id) or image_id not in images:
        return f"refers to image {fields.found(image_id)}: the file lists no good image of that id"
    if not fields.is_id(category_id) or category_id not in categories:
        known = ", ".join(map(str, list(categories)[:10])) + ", ..." * (len(categories) > 10)
        return f"unknown category {fields.found(category_id)}: the file's are {known or 'none'}"
    return ""


def _annotation(entry: dict, image: dict, category: dict) -> dict:
    """The record of one object. Raises ValueError saying what is wrong with its box, mask,
    area or keypoints."""
    height, width = image["height"], image["width"]
    record = {
        "id": entry["id"],
        "image_id": image["id"],
        "category_id": category["id"],
        "bbox": _box(entry.get("bbox"), width, height),
        "iscrowd": fields.crowd(entry.get("iscrowd")),
    }
    if entry.get("segmentation") not in (None, [], {}):
        record["segmentation"] = masks.checked(entry["segmentation"], height, width)
    record["area"] = fields.area(entry.get("area"), width, height)
    if record["area"] is None:
        record["area"] = _area(record, height, width)
    count = len(category.get("keypoints", ()))
    if count:
        record["keypoints"] = fields.keypoints(entry.get("keypoints"), count, width, height)
        record["num_keypoints"] = sum(flag > 0 for flag in record["keypoints"][2::3])
    return record | densepose.checked(entry)


def _remark(entry: dict, record: dict, remarks: fields.Remarks) -> None:
    """What was taken otherwise than an annotation says."""
    if entry.get("area") == 0:
        remarks.add("objects state no area but 0: that of the mask or box counts", entry["id"])
    if entry.get("num_keypoints", 0) and "keypoints" not in record:
        remarks.add("objects have keypoints, but their category names none", entry["id"])
    stated = entry.get("num_keypoints")
    if "keypoints" in record and stated not in (None, record["num_keypoints"]):
        remarks.add("objects state another num_keypoints than are visible, which count", stated)


def _box(value: object, width: int, height: int) -> list:
    """`bbox` of an annotation. Raises ValueError."""
    if not isinstance(value, list) or not numbers(value, 4):
        raise ValueError(
            f"bbox must be four numbers [x, y, width, height], found {fields.found(value)}"
        )
    fault = box_fault(value, width, height)
    if fault:
        written = " ".join(f"{side:g}" for side in value)
        raise ValueError(f"the box {written} {fault}")
    return value


def _area(record: dict, height: int, width: int) -> float:
    """The area of the mask, or of the box where there is none (files without `area` are common)."""
    mask = record.get("segmentation")
    if mask is None:
        return float(record["bbox"][2] * record["bbox"][3])
    return masks.area(mask, height, width)


def write_splits(root: Path, split: str, parts: Mapping[str, list[dict]]) -> dict[str, Path]:
    """annotations/instances_PART.json for the images (records) of each part of the one split there
    is, with paths relative to the data set's folder."""
    from .making.new_files import written

    source = annotation_file(root, split)
    document = parse(source)
    fields.mend(document)  # ids as they were read
    texts = {}
    for part, images in parts.items():
        paths = {image["id"]: Path(image["file_name"]) for image in images}
        kept = [
            entry | {"file_name": _below(root, paths[entry["id"]])}
            for entry in document["images"]
            if entry.get("id") in paths
        ]
        objects = [entry for entry in document["annotations"] if entry.get("image_id") in paths]
        path = root / "annotations" / f"instances_{part}.json"
        texts[path] = json.dumps(document | {"images": kept, "annotations": objects})
    written(texts)
    return dict(zip(parts, texts))


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
