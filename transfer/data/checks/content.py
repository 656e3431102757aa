"""What the images of a data set hold: part of its identity, and whether it is tested on what it was
trained on.

Images are compared by the bytes of their files: copies under other names and lists that overlap are
found, an image that was compressed anew is another one.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from detco.common import contents, depth
from detco.common.contents import FileContent
from detco.common.errors import InputError

from ..dataset import Dataset

OWN = ("file_name", "labels")  # files of an image; labels: its classes of pixels


def identified(
    train: Dataset, test: Dataset, report: Callable | None = None
) -> tuple[Dataset, Dataset]:
    """Both with `content` and, among `facts` of the test set, how many of its images are training
    images too (`in_training`). Raises InputError where all are."""
    both = read((train, test), report)
    train, test = (
        replace(one, content=hash_of(one, found)) for one, found in zip((train, test), both)
    )
    train, test = with_depths((train, test), both)
    doubled = shared(train, test, *both)
    if doubled and len(doubled) == len(test.images):
        raise InputError(all_shared(train, test, doubled))
    if doubled:
        test = replace(test, facts={**test.facts, "in_training": len(doubled)})
    return train, test


def with_depths(
    splits: Sequence[Dataset], found: Sequence[Sequence[tuple[FileContent, ...]]]
) -> list[Dataset]:
    """With the facts that so many images have more than 8 bits (`deep`) and which range of values
    is shown (`value_range`), and a note on images that this leaves with hardly a grey level. The
    first split is trained on: its range counts for all. Raises InputError, see depth.check."""
    looked, value_range = [], None
    for number, (dataset, files) in enumerate(zip(splits, found, strict=True)):
        paths = (image["file_name"] for image in dataset.images)
        deep = depth.candidates(paths, (own[0] for own in files))
        seen = depth.check(dataset.root, deep, value_range, measure=number == 0)
        value_range = seen.value_range
        facts = dict(dataset.facts)
        if seen.images:
            facts["deep"] = seen.images
        if value_range:
            facts["value_range"] = value_range
        notes = (*dataset.notes, seen.note) if seen.note else dataset.notes
        looked.append(replace(dataset, notes=notes, facts=facts))
    return looked


def read(
    splits: Sequence[Dataset], report: Callable | None = None
) -> list[list[tuple[FileContent, ...]]]:
    """For each data set the contents of each image's files. All in one reading."""
    files = [
        [[image[key] for key in OWN if key in image] for image in dataset.images]
        for dataset in splits
    ]
    flat = [path for images in files for paths in images for path in paths]
    found = iter(contents.of(flat, str(splits[0].root), report))
    return [[tuple(next(found) for _ in paths) for paths in images] for images in files]


def shared(
    train: Dataset,
    test: Dataset,
    trained: Sequence[tuple[FileContent, ...]],
    tested: Sequence[tuple[FileContent, ...]],
) -> list[tuple[str, str]]:
    """(path of a test image, path of a training image with the same bytes)."""
    first: dict[bytes, str] = {}
    for image, (pixels, *_) in zip(train.images, trained):
        if pixels is not contents.UNREADABLE:
            first.setdefault(pixels.digest, image["file_name"])
    return [
        (image["file_name"], first[pixels.digest])
        for image, (pixels, *_) in zip(test.images, tested)
        if pixels.digest in first
    ]


def all_shared(train: Dataset, test: Dataset, doubled: Sequence[tuple[str, str]]) -> str:
    """The line for a test set that is part of the training set."""
    tested, trained = doubled[0]
    example = "" if tested == trained else f" (the first: {tested} is {trained})"
    return (
        f"{test.root}: all {len(doubled):,} test images of split '{test.split}' are training images"
        f" of '{train.split}'{example}: such an AP says nothing about other images; name another"
        " split to test on"
    )


def hash_of(dataset: Dataset, found: Sequence[tuple[FileContent, ...]]) -> str:
    """sha256 over the images by name, as hex; where they lie, their ids and order do not count."""
    digest = hashlib.sha256()
    rows = ((image["name"], files) for image, files in zip(dataset.images, found))
    for name, files in sorted(rows, key=lambda row: row[0]):
        digest.update(name.encode(errors="surrogateescape") + b"\0")
        digest.update(b"".join(one.digest for one in files))
    return digest.hexdigest()
