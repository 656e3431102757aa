"""What a trained detector finds on pictures: COCO results of each, and all of them as
one COCO file."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pycocotools import mask as rle

from detco.common import depth
from detco.common.errors import InputError
from detco.common.images import full_size

from . import engines
from .detector import TrainedDetector
from .engines.torchvision.pictures import read_rgb

log = logging.getLogger("detco.transfer")


@dataclass(frozen=True)
class Picture:
    """`image`: its entry in a COCO file ("id", "file_name", "width", "height");
    `pixels`: RGB, upright."""

    image: dict
    pixels: Image.Image


def detect(
    detector: TrainedDetector,
    paths: Sequence[Path],
    device: str = "cpu",
    problems: list[str] | None = None,
) -> Iterator[tuple[Picture, list[dict]]]:
    """Each picture with its COCO results in pixels of the picture, as the engine gives them.

    problems: list that collects a line for each picture that cannot be read; None raises the first
    as InputError."""
    return engines.get(detector.engine).detect(detector, _opened(paths, detector, problems), device)


def _opened(
    paths: Sequence[Path], detector: TrainedDetector, problems: list[str] | None
) -> Iterator[Picture]:
    warned = False
    for number, path in enumerate(paths, 1):
        try:
            pixels = read_rgb(str(path), value_range=detector.value_range)
        except InputError as error:
            if problems is None:
                raise
            problems.append(str(error))
        else:
            if not warned and (loss := depth.loss_of(str(path), detector.value_range)):
                log.warning("%s %s; the detector was trained on other values", path, loss)
                warned = True  # of one, as the others are likely to be like it
            width, height = full_size(pixels)
            image = {"id": number, "file_name": str(path), "width": width, "height": height}
            yield Picture(image, pixels)


def as_coco(detector: TrainedDetector, images: Sequence[dict], found: Iterable[dict]) -> dict:
    """A COCO file of predicted objects. Each annotation is a COCO result (with its `score`; the
    third number of a keypoint is a score too) and what such files have besides: `id`, `area`,
    `iscrowd`; classes of pixels get their `bbox`.
    """
    annotations = [{"id": number, **_complete(result)} for number, result in enumerate(found, 1)]
    return {
        "info": {
            "description": f"predictions of {detector.protocol.name}",
            "engine": detector.engine,
            "detector": detector.sha256,
            "iteration": detector.iteration,
        },
        "images": list(images),
        "categories": [dict(category) for category in detector.categories],
        "annotations": annotations,
    }


def _complete(result: dict) -> dict:
    mask = result.get("segmentation")
    box = result["bbox"] if "bbox" in result else rle.toBbox(mask).tolist()
    area = float(rle.area(mask)) if mask else box[2] * box[3]
    return {**result, "bbox": box, "area": area, "iscrowd": 0}
