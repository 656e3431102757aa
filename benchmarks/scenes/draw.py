"""Draws labelled scenes: a data set in VOC, COCO and Cityscapes layout, an unlabelled and a
classification part."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from detco.common.errors import InputError
from detco.common.progress import Report

from ..suites.builtin import DRAWING
from .layouts import Cityscapes, Coco, Voc, labels, write, write_json
from .painting import Scene, portrait, scene
from .shapes import CATEGORIES

_LABELLED, _UNLABELLED, _CLASSIFICATION = range(3)  # an image is determined by part, seed and index
# files of the job, when a suite draws into its folder
_OF_A_JOB = (
    "spec.json",
    "progress.json",
    "record.json",
    "log.txt",
)


def draw(
    out: Path,
    images: int = 1000,
    seed: int = 0,
    size: int = 128,
    unlabelled: int | None = None,
    classification: int | None = None,
    report: Report | None = None,
) -> Path:
    """Draws a data set into the folder `out` and returns it.

    images: labelled pictures, at least 4. Every fourth is for testing (VOC test, COCO val,
        Cityscapes val), the others for training (VOC trainval, COCO train, Cityscapes train); the
        three layouts hold the same pictures.
    size: short side in pixels; the long side is up to 1.4 times as long.
    unlabelled: pictures of one object each, to pretrain on; default twice `images`. One object, as
        in ImageNet: with many objects per image, a contrastive method tells images apart by their
        colours and backgrounds.
    classification: the same kind in classification/<category>/; default `images`.

    An image depends only on the seed, its part and its number, so a smaller set is a prefix of a
    larger one. A finished set (scenes.json says which) is returned at once; an interrupted one is
    completed. Raises InputError where `out` holds a set drawn with other parameters, or where a
    parameter makes no sense.
    """
    out = Path(out)
    unlabelled = 2 * images if unlabelled is None else unlabelled
    classification = images if classification is None else classification
    wanted = {
        "images": images,
        "seed": seed,
        "size": size,
        "unlabelled": unlabelled,
        "classification": classification,
    }
    _check(wanted)
    wanted = {"format": DRAWING, **wanted}
    if _finished(out, wanted):
        return out
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "scenes.json.unfinished", wanted, indent=1)
    # Once this is allocated and freed, glibc reuses the memory of arrays below 16 MB: 20 % faster.
    np.empty(1 << 24, np.uint8)
    total, done = images + unlabelled + classification, 0
    for pictures in (
        _labelled(out, images, seed, size),
        _portraits(out / "unlabelled", _UNLABELLED, unlabelled, seed, size),
        _portraits(out / "classification", _CLASSIFICATION, classification, seed, size),
    ):
        for _ in pictures:
            done += 1
            if report:
                report("scenes", done, total)
    os.replace(out / "scenes.json.unfinished", out / "scenes.json")
    return out


def _check(parameters: dict[str, int]) -> None:
    least = {"images": 4, "seed": 0, "size": 64, "unlabelled": 0, "classification": 0}
    for name, value in parameters.items():
        if not isinstance(value, int) or value < least[name]:
            raise InputError(
                f"scenes: {name} is {value!r}, it must be a whole number of at least {least[name]}"
            )


def _finished(out: Path, wanted: dict[str, int]) -> bool:
    """Whether the set with these parameters is complete. Raises InputError if the
    folder holds something else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder; name a new folder for the scenes")
    for name in ("scenes.json", "scenes.json.unfinished"):
        if (out / name).exists():
            there = _read(out / name)
            if there == wanted:
                return name == "scenes.json"
            differ = [
                f"{k} {there.get(k)} instead of {v}" for k, v in wanted.items() if there.get(k) != v
            ]
            raise InputError(
                f"{out} holds scenes drawn with {', '.join(differ)}; name a new folder or delete"
                " this one"
            )
    foreign = (
        sorted(name for name in os.listdir(out) if name[0] != "." and name not in _OF_A_JOB)
        if out.exists()
        else []
    )
    if foreign:
        raise InputError(
            f"{out} holds {foreign[0]}, which was not drawn here; name a new folder for the scenes"
        )
    return False


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged; delete its folder and draw again")
    return content


def _generator(seed: int, part: int, index: int) -> np.random.Generator:
    return np.random.default_rng((seed, part, index))


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _labelled(out: Path, images: int, seed: int, size: int):
    """One picture a step in all three layouts; the lists and annotation files after the last."""
    voc, coco, cityscapes = Voc(out / "voc"), Coco(out / "coco"), Cityscapes(out / "cityscapes")
    for index in range(images):
        s = scene(_generator(seed, _LABELLED, index), size)
        name, split, found, pixels = (
            f"{index:06d}",
            "val" if index % 4 == 3 else "train",
            labels(s),
            s.pixels(),
        )
        path = voc.add(name, split, s, found, _jpeg(pixels))
        coco.add(name, split, s, found, path)
        cityscapes.add(name, split, s, found, pixels)
        yield
    voc.finish()
    coco.finish()


def _portraits(folder: Path, part: int, count: int, seed: int, size: int):
    """Pictures of one object, the categories in turn; with a folder for each category in the
    classification part."""
    folders = [folder / shape.name if part == _CLASSIFICATION else folder for shape in CATEGORIES]
    for each in folders:
        each.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        k = index % len(CATEGORIES)
        _write_once(
            folders[k] / f"{index:06d}.jpg",
            lambda i=index, k=k: portrait(_generator(seed, part, i), size, k),
        )
        yield


def _write_once(path: Path, make: Callable[[], Scene]) -> None:
    """Draw an image unless its file exists: files are written whole, so those of an
    interrupted run are kept."""
    if not path.exists():
        write(path, _jpeg(make().pixels()))
