"""The Cityscapes layout: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and
gtFine/SPLIT/CITY/*_gtFine_instanceIds.png."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_util

from detco.common.errors import InputError
from detco.common.images import open_image

from . import LAYOUTS
from .reading import Reading, missing_split, need_folder, picture_size, short

CATEGORIES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
SEMANTIC = {  # the 19 classes that are scored pixel by pixel, in the order of Cityscapes' train ids
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    **CATEGORIES,
}
LABELS = 34  # label ids are 0..33
PICTURE = "_leftImg8bit.png"


def splits(root: Path) -> list[str]:
    """The names of the splits in the folder."""
    return sorted(path.name for path in (root / "leftImg8bit").glob("[!.]*") if path.is_dir())


def has_pixel_classes(root: Path, split: str) -> bool:
    """Whether there are pictures of the classes of pixels, which semantic protocols read."""
    return any((root / "gtFine" / split).glob("[!.]*/[!.]*_labelIds.png"))


def truth(picture: str | Path, kind: str) -> Path:
    """The label picture of a leftImg8bit picture; `kind` is "instanceIds" or "labelIds"."""
    picture = Path(picture)
    root, split, city = picture.parents[3], picture.parts[-3], picture.parts[-2]
    return root / "gtFine" / split / city / picture.name.replace(PICTURE, f"_gtFine_{kind}.png")


def read(root: Path, split: str, keypoints: bool = False, semantic: bool = False) -> Reading:
    """Reads one split: the 8 classes with instances under Cityscapes' own label ids, masks as
    compressed RLE.

    Pixels of a class below 1000 are groups that nobody told apart: iscrowd = 1. Boxes enclose the
    visible pixels. `semantic`: the 19 classes instead, one record a class and picture without a
    mask: the pixels stay in their file. Raises InputError for a folder or a split that is not
    there, or an empty split.
    """
    for folder in ("leftImg8bit", "gtFine"):
        need_folder(root / folder, LAYOUTS["cityscapes"].needs)
    if not (root / "leftImg8bit" / split).is_dir():
        raise missing_split(root / "leftImg8bit", split, splits(root))
    pictures = sorted((root / "leftImg8bit" / split).glob(f"[!.]*/[!.]*{PICTURE}"))
    if not pictures:
        raise InputError(
            f"{root / 'leftImg8bit' / split}: the split is empty: no CITY/*{PICTURE} in it"
        )
    classes, kind, objects_in = (
        (SEMANTIC, "labelIds", regions) if semantic else (CATEGORIES, "instanceIds", instances)
    )
    reading = Reading(categories=[{"id": key, "name": name} for key, name in classes.items()])
    with ThreadPoolExecutor() as pool:
        results = pool.map(
            lambda picture: _read_one(picture, truth(picture, kind), objects_in), pictures
        )
        for number, (picture, result) in enumerate(zip(pictures, results, strict=True), 1):
            if isinstance(result, str):
                reading.problems.append(result)
                continue
            (height, width), objects = result
            name = picture.name[: -len(PICTURE)]
            reading.images.append(
                {
                    "id": number,
                    "file_name": str(picture),
                    "name": name,
                    "width": width,
                    "height": height,
                    **({"labels": str(truth(picture, kind))} if semantic else {}),
                }
            )
            for record in objects:
                reading.annotations.append(
                    {"id": len(reading.annotations) + 1, "image_id": number, **record}
                )
    return reading


def _read_one(picture: Path, labels: Path, objects_in) -> tuple[tuple[int, int], list[dict]] | str:
    """((height, width), objects) of one picture, or what is wrong with it."""
    if not labels.exists():
        return f"{labels}: no such file, but {picture} needs it"
    try:
        width, height = picture_size(picture)
        with open_image(labels) as image:
            ids = np.asarray(image)
    except InputError as error:
        return str(error)
    except Exception as error:  # Pillow raises many kinds on broken files
        return f"{labels}: not a picture that can be read ({short(error)})"
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        return f"{labels}: must hold one whole number a pixel (grayscale)"
    if ids.shape != (height, width):
        return f"{labels}: is {ids.shape[1]} x {ids.shape[0]}, but {picture} is {width} x {height}"
    try:
        return ids.shape, objects_in(ids)
    except ValueError as error:
        return f"{labels}: {error}"


def _label(value: int) -> int:
    """A label id. Raises ValueError for one that cityscapesScripts would stumble over."""
    if not 0 <= value < LABELS:
        raise ValueError(f"label ids must be 0..{LABELS - 1}, found {value}")
    return value


def instances(ids: np.ndarray) -> list[dict]:
    """The objects in an instance-id picture [H, W] (label id * 1000 + number, or the label id alone
    for a group).

    Raises ValueError for an id of no label.
    """
    height, width = ids.shape
    flat = ids.T.ravel()  # RLE counts down the columns
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [flat.size]])
    values = flat[starts]
    objects = []
    for value in np.unique(values).tolist():
        label = _label(value // 1000 if value >= 1000 else value)
        if label not in CATEGORIES:
            continue
        first, last = starts[values == value], ends[values == value]
        gaps = first - np.concatenate([[0], last[:-1]])
        counts = [*np.stack([gaps, last - first], 1).ravel().tolist(), flat.size - int(last[-1])]
        rle = mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        objects.append(
            {
                "category_id": label,
                "bbox": mask_util.toBbox(rle).tolist(),
                "area": float((last - first).sum()),
                "iscrowd": int(value < 1000),
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
            }
        )
    return objects


def regions(ids: np.ndarray) -> list[dict]:
    """Box and area of each of the 19 classes in a label-id picture [H, W]. Raises ValueError for an
    id of no label."""
    found = []
    for label in np.unique(ids).tolist():
        if _label(label) in SEMANTIC:
            rows, columns = np.nonzero(ids == label)
            x, y = int(columns.min()), int(rows.min())
            box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
            found.append(
                {"category_id": label, "bbox": box, "area": float(len(rows)), "iscrowd": 0}
            )
    return found
