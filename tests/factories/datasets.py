"""Tiny data sets in the layouts VOC, COCO and Cityscapes, and how they are refused."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detco.common.errors import InputError
from detco.transfer.data.dataset import load

W, H = 64, 48


def picture(path: Path, size=(W, H), **save):
    """Noise, another for each folder and name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32("/".join(path.parts[-2:]).encode())
    Image.fromarray(
        np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    ).save(path, **save)


def xml(*objects, size=(W, H)):
    text = "".join(
        f"<object><name>{name}</name>{more}"
        f"<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, (a, b, c, d), more in ((*o, "")[:3] for o in objects)
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation>{sides}{text}</annotation>"


COCO = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "width": W, "height": H},
        {"id": 3, "file_name": "a.jpg", "width": W, "height": H},
        {"id": 4, "file_name": "empty.jpg", "width": W, "height": H},
    ],
    "categories": [
        {"id": 90, "name": "cup"},
        {"id": 5, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]},
    ],
    "annotations": [
        {
            "id": 0,
            "image_id": 7,
            "category_id": 90,
            "bbox": [1, 2, 10, 20.5],
            "area": 150.5,
            "iscrowd": 0,
            "segmentation": [[1, 2, 11, 2, 11, 22, 1, 22], [0, 0, 5, 5]],
        },
        {
            "id": 8,
            "image_id": 7,
            "category_id": 90,
            "bbox": [0, 0, 64, 48],
            "iscrowd": 1,
            "segmentation": {"size": [H, W], "counts": [10, 100, H * W - 110]},
        },
        {
            "id": 5,
            "image_id": 3,
            "category_id": 5,
            "bbox": [5, 5, 30, 30],
            "segmentation": [],
            "keypoints": [6, 7, 2, 0, 0, 0, 9, 9, 1],
            "num_keypoints": 2,
        },
        {"id": 6, "image_id": 3, "category_id": 5, "bbox": [50, 40, 14.5, 8]},
    ],
}


def write_coco(root: Path, document=COCO, name="annotations/instances_train.json", folder="train"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(document if isinstance(document, str) else json.dumps(document))
    if isinstance(document, dict):
        for image in document["images"]:
            picture(root / folder / image["file_name"])
    return root


def changed(key, index, **change):
    document = json.loads(json.dumps(COCO))
    document[key][index] |= change
    return document


def refused(message, *args, **kwargs):
    """Asserts that loading is refused in one line that holds `message`; gives the line."""
    with pytest.raises(InputError) as error:
        load(*args, **kwargs)
    line = str(error.value)
    assert message in line and "\n" not in line
    return line


def classes(
    root: Path, train: int = 8, val: int = 4, names=("red", "green", "blue"), size=(40, 32)
):
    """Folders of classes with images of noise, each class around a colour of its own."""
    for split, images in (("train", train), ("val", val)):
        for number, name in enumerate(names):
            for index in range(images):
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw = np.random.default_rng((len(split), number, index))
                colour = np.roll([220, 40, 40], number)
                noise = draw.normal(0, 40, (size[1], size[0], 3))
                Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(path)
    return root
