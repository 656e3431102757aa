"""The training pictures in Detectron2's format, once on a machine: a file that every process maps
into its memory.

Detectron2 keeps a serialised list in each process. A file is shared by the training and the loading
processes, whatever way they are started, and needs no room in /dev/shm.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as rle

from detco.common.errors import InputError

from ...data import cityscapes, masks
from ...data.dataset import Dataset
from ...data.densepose import FIELDS
from ..torchvision.pictures import resize_mask


class Records:
    """A sequence of records in Detectron2's standard format, each decoded from the file when it is
    asked for.

    ends: where each record ends in the file, in bytes; tall: whether its picture is higher than
    wide; mask_format: Detectron2's INPUT.MASK_FORMAT.
    """

    def __init__(self, path: Path, ends: np.ndarray, tall: np.ndarray, mask_format: str):
        self.path, self.ends, self.tall, self.mask_format = path, ends, tall, mask_format
        self._bytes = np.memmap(path, np.uint8, "r")

    def __reduce__(self):
        """Another process maps the file itself."""
        return Records, (self.path, self.ends, self.tall, self.mask_format)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> dict:
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        start = self.ends[number - 1] if number else 0
        record = json.loads(self._bytes[start : self.ends[number]].tobytes())
        for annotation in record.get("annotations", ()):
            annotation["bbox_mode"] = BoxMode.XYWH_ABS
        return record


def write(
    dataset: Dataset,
    path: Path,
    semantic: bool = False,
    least_keypoints: int = 0,
    densepose: bool = False,
) -> Records:
    """Write the pictures with something to learn from, as Detectron2 chooses them, to `path`.

    semantic: classes of pixels, no objects; least_keypoints: visible ones that a picture must have;
    densepose: whether it must have an object with points on the body.
    Raises InputError if no picture is left.
    """
    ends, tall, polygons = [], [], True
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        for record in usable(records(dataset, semantic), least_keypoints, densepose):
            annotations = record.get("annotations", ())
            polygons &= all(
                isinstance(a.get("segmentation", []), list) for a in annotations if not a["iscrowd"]
            )
            file.write(json.dumps(record).encode())
            ends.append(file.tell())
            tall.append(record["height"] > record["width"])
    if not ends:
        what = "visible keypoints" if least_keypoints else "objects"
        raise InputError(f"{dataset.root}: no picture of split {dataset.split} has {what}")
    return Records(path, np.array(ends), np.array(tall), "polygon" if polygons else "bitmask")


def usable(
    found: Iterable[dict], least_keypoints: int = 0, densepose: bool = False
) -> Iterator[dict]:
    """Detectron2's choice: pictures with an object that is no crowd and, where asked for, enough
    visible keypoints, or an object with points of DensePose."""
    for record in found:
        annotations = record.get("annotations")
        if annotations is None:
            yield record
            continue
        visible = sum(flag > 0 for a in annotations for flag in a.get("keypoints", ())[2::3])
        if densepose and not any("dp_x" in a for a in annotations):
            continue
        if visible >= least_keypoints and not all(a["iscrowd"] for a in annotations):
            yield record


def records(dataset: Dataset, semantic: bool = False) -> Iterator[dict]:
    """The pictures in Detectron2's standard format: 0-based XYWH boxes, class numbers in the order
    of the categories."""
    number = {category["id"]: i for i, category in enumerate(dataset.categories)}
    of_picture: dict[int, list[dict]] = {image["id"]: [] for image in dataset.images}
    for annotation in dataset.annotations:
        of_picture[annotation["image_id"]].append(annotation)
    for image in dataset.images:
        record = picture(image)
        if semantic:
            record["sem_seg_file_name"] = str(cityscapes.truth(image["file_name"], "labelIds"))
        else:
            record["annotations"] = [
                _object(a, number[a["category_id"]]) for a in of_picture[image["id"]]
            ]
        yield record


def picture(image: dict) -> dict:
    """A picture in Detectron2's format without its labels."""
    return {key: image[key] for key in ("file_name", "height", "width")} | {"image_id": image["id"]}


def scaled(record: dict, width: int, height: int) -> dict:
    """A record with its labels in pixels of the same picture at another size."""
    sx, sy = width / record["width"], height / record["height"]
    smaller = record | {"width": width, "height": height}
    if "annotations" in record:
        smaller["annotations"] = [_scaled(a, sx, sy, width, height) for a in record["annotations"]]
    return smaller


def _scaled(annotation: dict, sx: float, sy: float, width: int, height: int) -> dict:
    x, y, w, h = annotation["bbox"]
    smaller = annotation | {"bbox": [x * sx, y * sy, w * sx, h * sy]}
    mask = annotation.get("segmentation")
    if isinstance(mask, dict):
        pixels = resize_mask(masks.decode(mask, *mask["size"]), height, width)
        smaller["segmentation"] = rle.encode(np.asfortranarray(pixels))
    elif mask:
        smaller["segmentation"] = [
            [v * (sy if i % 2 else sx) for i, v in enumerate(polygon)] for polygon in mask
        ]
    if "keypoints" in annotation:
        factors = (sx, sy, 1)
        smaller["keypoints"] = [v * factors[i % 3] for i, v in enumerate(annotation["keypoints"])]
    return smaller


def _object(annotation: dict, number: int) -> dict:
    """Coordinates as floats: Detectron2 resizes whole numbers in place, and so cuts
    off their fractions."""
    box = [float(value) for value in annotation["bbox"]]
    record = {
        "bbox": box,
        "bbox_mode": int(BoxMode.XYWH_ABS),
        "category_id": number,
        "iscrowd": annotation["iscrowd"],
    }
    mask = annotation.get("segmentation")
    if mask:
        record["segmentation"] = (
            mask if isinstance(mask, dict) else [list(map(float, polygon)) for polygon in mask]
        )
    if "keypoints" in annotation:  # COCO's are numbers of pixels, Detectron2's continuous
        record["keypoints"] = [
            v if i % 3 == 2 else v + 0.5 for i, v in enumerate(annotation["keypoints"])
        ]
    return record | {name: annotation[name] for name in FIELDS if name in annotation}
