"""Labels of drawn scenes, and the files that hold them in VOC, COCO and Cityscapes layout."""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from detco.common.files import write_atomic

from .painting import BACKGROUND, Painted, Scene
from .shapes import CATEGORIES, FIGURE, KEYPOINTS, SKELETON

_LEAST_SHARE = 0.25  # of an object's pixels that must be visible for it to be annotated
_LEAST_AREA = 24 / 128**2  # of the picture's short side squared
_STATIC = ("static", 4)  # Cityscapes' label of what belongs to no category


@dataclass(frozen=True)
class Label:
    """One annotated object: the mask of its visible part and the tight box around it,
    in whole pixels, 0-based."""

    number: int  # in Scene.ids
    category: int  # CATEGORIES[category]; the COCO id is one more
    box: tuple[int, int, int, int]  # x, y, width, height
    area: int
    segmentation: dict  # compressed RLE
    truncated: bool  # less than 80 % of it visible, covered or outside the picture
    difficult: bool  # less than half of it visible, or very small
    keypoints: tuple[float, ...] = ()  # 12 times x, y, v


def labels(s: Scene) -> list[Label]:
    """The labels of sufficiently visible objects, in painting order."""
    numbers = [k for k, item in enumerate(s.painted, len(BACKGROUND)) if item.shape in CATEGORIES]
    if not numbers:
        return []
    upright = np.ascontiguousarray(s.ids.T)  # pycocotools wants (h, w, n) masks column by column
    masks = (upright == np.array(numbers, np.uint8)[:, None, None]).view(np.uint8).T
    codes = rle.encode(masks)
    areas, boxes = rle.area(codes).tolist(), rle.toBbox(codes).astype(int).tolist()
    found = []
    for number, code, area, box in zip(numbers, codes, areas, boxes, strict=True):
        item = s.painted[number - len(BACKGROUND)]
        share, short = area / item.area, min(s.ids.shape)
        if share < _LEAST_SHARE or area < _LEAST_AREA * short**2:
            continue
        category = CATEGORIES.index(item.shape)
        code["counts"] = code["counts"].decode("ascii")
        difficult = share < 0.5 or max(box[2:]) < 0.11 * short
        points = _keypoints(s, number, item) if category == FIGURE else ()
        found.append(
            Label(number, category, tuple(box), area, code, share < 0.8, difficult, points)
        )
    return found


def _keypoints(s: Scene, number: int, item: Painted) -> tuple[float, ...]:
    """v is 2 where visible, 1 where something painted later covers it; outside the picture x, y, v
    are 0."""
    h, w = s.ids.shape
    flat: list[float] = []
    for x, y in item.joints.round(2).tolist():
        inside = 0 <= x < w and 0 <= y < h
        flat += (x, y, 1 if s.ids[int(y), int(x)] > number else 2) if inside else (0, 0, 0)
    return tuple(flat)


write = partial(write_atomic, lasting=False)  # a run killed half-way draws them again


def write_json(path: str | Path, value: object, indent: int | None = None) -> None:
    write(path, json.dumps(value, indent=indent))


class Voc:
    """Annotations/*.xml, ImageSets/Main/{trainval,test}.txt, JPEGImages/*.jpg."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: dict[str, list[str]] = {"train": [], "val": []}
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def add(self, name: str, split: str, s: Scene, found: list[Label], jpeg: bytes) -> str:
        """Returns the picture's path."""
        h, w = s.ids.shape
        size = f"<size><width>{w}</width><height>{h}</height><depth>3</depth></size>"
        objects = "\n".join(self._object(label) for label in found)
        head = f"<folder>{self.root.name}</folder><filename>{name}.jpg</filename>{size}"
        head += "<segmented>0</segmented>"
        write(
            f"{self.root}/Annotations/{name}.xml",
            f"<annotation>{head}\n{objects}\n</annotation>\n".encode(),
        )
        self.names[split].append(name)
        path = f"{self.root}/JPEGImages/{name}.jpg"
        write(path, jpeg)
        return path

    @staticmethod
    def _object(label: Label) -> str:
        """Corners 1-based and inclusive, as VOC has them."""
        x, y, w, h = label.box
        box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
        return (
            f"<object><name>{CATEGORIES[label.category].name}</name><pose>Unspecified</pose>"
            f"<truncated>{label.truncated:d}</truncated><difficult>{label.difficult:d}</difficult>"
            f"<bndbox>{box}</bndbox></object>"
        )

    def finish(self) -> None:
        for split, name in (("train", "trainval"), ("val", "test")):
            lines = "".join(f"{picture}\n" for picture in self.names[split])
            write(self.root / "ImageSets" / "Main" / f"{name}.txt", lines.encode())


class Coco:
    """annotations/{instances,person_keypoints}_{train,val}.json,
    {train,val}/*.jpg (VOC's files)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: dict[str, list[dict]] = {"train": [], "val": []}
        self.annotations: dict[str, list[dict]] = {"train": [], "val": []}
        for folder in ("annotations", "train", "val"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def add(self, name: str, split: str, s: Scene, found: list[Label], jpeg: str) -> None:
        """`jpeg`: path of the picture, which gets a hard link here, or a copy where
        the file system has none."""
        path = f"{self.root}/{split}/{name}.jpg"
        _link(jpeg, path)
        h, w = s.ids.shape
        picture = int(name) + 1
        self.images[split].append(
            {"id": picture, "file_name": f"{name}.jpg", "width": w, "height": h}
        )
        for label in found:
            annotation = {
                "id": len(self.annotations[split]) + 1,
                "image_id": picture,
                "category_id": label.category + 1,
                "bbox": label.box,
                "area": label.area,
                "segmentation": label.segmentation,
                "iscrowd": 0,
            }
            if label.keypoints:
                annotation |= {
                    "keypoints": label.keypoints,
                    "num_keypoints": sum(v > 0 for v in label.keypoints[2::3]),
                }
            self.annotations[split].append(annotation)

    def finish(self) -> None:
        categories = [
            {"id": k, "name": shape.name, "supercategory": "shape"}
            for k, shape in enumerate(CATEGORIES, 1)
        ]
        person = [categories[FIGURE] | {"keypoints": KEYPOINTS, "skeleton": SKELETON}]
        for split, images in self.images.items():
            annotations = self.annotations[split]
            figures = [a for a in annotations if "keypoints" in a]
            plain = [{k: v for k, v in a.items() if "keypoints" not in k} for a in annotations]
            for kind, rows, classes in (
                ("instances", plain, categories),
                ("person_keypoints", figures, person),
            ):
                content = {
                    "info": {"description": "drawn scenes"},
                    "licenses": [],
                    "images": images,
                }
                path = self.root / "annotations" / f"{kind}_{split}.json"
                write_json(path, content | {"annotations": rows, "categories": classes})


def _link(source: str, path: str) -> None:
    if os.path.exists(path):  # from a run that was interrupted
        os.remove(path)
    try:
        os.link(source, path)
    except OSError:
        with open(source, "rb") as f:
            write(path, f.read())


class Cityscapes:
    """leftImg8bit/{train,val}/scenes/*.png and
    gtFine/{train,val}/scenes/*_{instanceIds,labelIds}.png, *_polygons.json.

    Each category stands in for one of the eight instance classes (Shape.cityscapes). As in
    Cityscapes the polygons are whole outlines, back to front; they may leave the picture. What
    belongs to no category is "static".
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for kind in ("leftImg8bit", "gtFine"):
            for split in ("train", "val"):
                (root / kind / split / "scenes").mkdir(parents=True, exist_ok=True)

    def add(self, name: str, split: str, s: Scene, found: list[Label], pixels: np.ndarray) -> None:
        """`pixels` (h, w, 3) uint8."""
        stem = f"{split}/scenes/scenes_{name}_000000"
        classes = [*BACKGROUND, *[_STATIC] * len(s.painted)]
        instances = [label_id for _, label_id in classes]
        counts: dict[int, int] = {}
        for label in found:
            classes[label.number] = CATEGORIES[label.category].cityscapes
            label_id = classes[label.number][1]
            instances[label.number] = 1000 * label_id + counts.get(label_id, 0)
            counts[label_id] = counts.get(label_id, 0) + 1
        outlines = [*s.polygons, *(item.points.round().astype(int) for item in s.painted)]
        polygons = [
            {"label": c, "polygon": p.tolist()} for (c, _), p in zip(classes, outlines, strict=True)
        ]
        h, w = s.ids.shape
        truth = f"{self.root}/gtFine/{stem}_gtFine"
        write_json(f"{truth}_polygons.json", {"imgHeight": h, "imgWidth": w, "objects": polygons})
        write(f"{truth}_labelIds.png", png(np.array([i for _, i in classes], np.uint8)[s.ids]))
        write(f"{truth}_instanceIds.png", png(np.array(instances, np.uint16)[s.ids]))
        write(f"{self.root}/leftImg8bit/{stem}_leftImg8bit.png", png(pixels, compression=0))


def png(pixels: np.ndarray, compression: int = 1) -> bytes:
    """A PNG file's bytes. pixels: (h, w) uint8 or uint16, or (h, w, 3) uint8. Ten times faster than
    Pillow, which tries five filters on every row.

    Noisy images hardly shrink: compression 0 stores them uncompressed.
    """
    h, w = pixels.shape[:2]
    # each row: a 0 for "no filter", then its pixels as big-endian bytes
    rows = np.zeros((h, 1 + pixels[0].nbytes), np.uint8)
    rows[:, 1:] = (
        pixels.astype(pixels.dtype.newbyteorder(">"), copy=False).view(np.uint8).reshape(h, -1)
    )
    header = struct.pack(
        ">IIBBBBB", w, h, 8 * pixels.itemsize, 2 if pixels.ndim == 3 else 0, 0, 0, 0
    )
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(rows, compression)),
        (b"IEND", b""),
    ):
        check = zlib.crc32(content, zlib.crc32(kind))
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
    return data
