"""The layouts of labelled data sets: a file here and a row of LAYOUTS each.

To add one: write a module in this folder that keeps `Reader`, and give LAYOUTS a row that names it.
The command's choices, suite files and the search for a folder's layout take it from there. What
others need to know of a layout is a property of its row; none of them asks for its name. This file
imports nothing heavy: commands that only show help read it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from detco.common.errors import InputError

if TYPE_CHECKING:
    from .reading import Reading


class Reader(Protocol):
    """What the module of a layout has.

    splits: the names of the splits below a data set's folder. read: one split; `keypoints` asks for
    those where a split also has objects without. Of layouts with pixel classes also
    `read(root, split, semantic=True)`, the classes of pixels in place of objects, and
    `has_pixel_classes(root, split) -> bool`, and of those that can be divided
    `write_splits(root, split, parts) -> dict`, files by part. InputError for what is not there.
    """

    def splits(self, root: Path) -> list[str]: ...

    def read(self, root: Path, split: str, keypoints: bool = False) -> Reading: ...


@dataclass(frozen=True)
class Layout:
    """A row of LAYOUTS.

    module: in this folder. title: for people. marker: a folder that tells the layout. needs: what a
    data set must have, for messages. pairs: usual (training, test) splits; the first that are both
    there count. reads_headers: reading looks at every image's header. pixel_classes: it can label
    every pixel. official_width: of the published images, where they all have one. boxes: else a
    label is the class of a whole image.
    """

    module: str
    title: str
    marker: str
    needs: str
    pairs: tuple[tuple[str, str], ...]
    reads_headers: bool = False
    pixel_classes: bool = False
    official_width: int | None = None
    boxes: bool = True


LAYOUTS = {
    "voc": Layout(
        "voc",
        title="VOC",
        marker="Annotations",
        needs="a VOC layout has Annotations, ImageSets/Main and JPEGImages",
        pairs=(
            ("trainval", "test"),
            ("train", "test"),
            ("train", "val"),
            ("train", "valid"),
            ("train", "validation"),
        ),
        reads_headers=True,  # the XML often has no size, or a wrong one
    ),
    "coco": Layout(
        "coco",
        title="COCO",
        marker="annotations",
        needs="a COCO layout has annotations/instances_SPLIT.json and folders of pictures",
        pairs=(
            ("train2017", "val2017"),
            ("train2014", "val2014"),
            ("train", "val"),
            ("train", "valid"),
            ("train", "validation"),
            ("train", "test"),
        ),
    ),
    "cityscapes": Layout(
        "cityscapes",
        title="Cityscapes",
        marker="gtFine",
        needs="a Cityscapes layout has leftImg8bit and gtFine",
        pairs=(("train", "val"), ("train", "test")),
        reads_headers=True,
        pixel_classes=True,
        official_width=2048,
    ),
    "imagefolder": Layout(
        "imagefolder",
        title="folders of classes",
        marker="train/CLASS",
        needs="folders of classes: train/CLASS/NAME.jpg, val/CLASS/NAME.jpg",
        pairs=(
            ("train", "val"),
            ("train", "valid"),
            ("train", "validation"),
            ("train", "test"),
        ),
        reads_headers=True,
        boxes=False,
    ),
}


def get(name: str) -> Layout:
    """A row of LAYOUTS. Raises InputError for an unknown name."""
    if name not in LAYOUTS:
        raise InputError(f"unknown layout '{name}': there are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def reader(name: str) -> Any:
    """The module of a layout, see `Reader`. Raises InputError for an unknown name."""
    return importlib.import_module(f"{__name__}.{get(name).module}")


def layout_of(folder: Path) -> str | None:
    """The layout of a data set: by the folder that marks it, and by splits that its reader finds
    (Kaggle's `annotations/` hold XML files, exports of tools have no marker)."""
    # not exists(): some systems ignore case
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    marked = [name for name, layout in LAYOUTS.items() if layout.marker in names]
    order = [*marked, *LAYOUTS] if names else []
    with_splits = (name for name in order if reader(name).splits(folder))
    return next(with_splits, marked[0] if marked else None)
