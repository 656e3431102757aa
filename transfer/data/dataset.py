"""Labelled data sets in VOC, COCO or Cityscapes layout, read strictly into COCO-style
records, and checked."""

import logging
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from detco.common import depth
from detco.common.errors import InputError
from detco.common.images import Range
from detco.common.values import printable

from . import LAYOUTS, Layout, get, inspection, labels, reader
from .checks import counting
from .reading import Reading, check_command, fingerprint, need_folder

# (layout, folder names in lower case, split) -> pictures, pictures with objects (0: not published)
OFFICIAL = {
    ("voc", ("voc2007",), "trainval"): (5011, 0),
    ("voc", ("voc2007",), "test"): (4952, 0),
    ("voc", ("voc2012",), "trainval"): (11540, 0),
    ("coco", ("coco", "coco2017"), "train2017"): (118287, 117266),
    ("coco", ("coco", "coco2017"), "val2017"): (5000, 0),
    ("coco", ("coco", "coco2014"), "densepose_train2014"): (26437, 0),
    ("coco", ("coco", "coco2014"), "densepose_valminusminival2014"): (5984, 0),
    ("coco", ("coco", "coco2014"), "densepose_minival2014"): (1508, 0),
    ("cityscapes", ("cityscapes",), "train"): (2975, 0),
    ("cityscapes", ("cityscapes",), "val"): (500, 0),
}
# COCO's borders between small, medium and large objects, in pixels of area
SMALL, MEDIUM = (
    32**2,
    96**2,
)

log = logging.getLogger("detco.transfer")


@dataclass(frozen=True)
class Dataset:
    """One split of a labelled data set.

    categories: {"id", "name"}, and for keypoints "keypoints" (names), "skeleton", "keypoint_flip"
        (pairs of names), "sigmas" where the file has them.
    images: {"id" int, "file_name" absolute path, "name", "width", "height"}, sizes after EXIF
        rotation.
    annotations: {"id", "image_id", "category_id", "bbox" [x, y, w, h] 0-based, "area", "iscrowd"},
        with "segmentation" (polygons, or compressed RLE with `counts` a str), "keypoints" and
        "num_keypoints", "difficult" (VOC) if any. Boxes are as written in the file: they may reach
        up to a pixel over the border.
    fingerprint: sha256 over what is labelled; the same wherever the data lie, in whatever order,
        under whatever ids.
    notes: warnings, a line each; facts: what the record says of them."""

    name: str
    layout: str
    root: Path
    split: str
    categories: tuple[dict, ...]
    images: tuple[dict, ...]
    annotations: tuple[dict, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    facts: dict = field(default_factory=dict)
    content: str = ""

    @property
    def value_range(self) -> Range | None:
        """What becomes 0 and 255 of images of more than 8 bits, once that is known
        (detco.common.depth)."""
        return self.facts.get("value_range")


def load(
    layout: str,
    root: Path | str,
    split: str,
    categories=None,
    keypoints: bool = False,
    semantic: bool = False,
    strict: bool = False,
    merge_classes: bool = False,
) -> Dataset:
    """Reads one split. `categories`: those of the training split, whose names and ids then count.

    `keypoints`: prefer COCO's person_keypoints file where a split also has an instances file.
    `semantic`: the classes of pixels instead of objects (Cityscapes layout only). `strict`: a
    single bad object is refused, else few are left out, see `Reading.tolerate`. `merge_classes`:
    classes whose names are alike become one, see `labels.look`. Raises InputError (one line, with
    the path) for anything that is missing, malformed or contradictory.
    """
    dataset, problems = _read(
        layout, root, split, categories, keypoints, semantic, strict, merge_classes
    )
    for note in dataset.notes:
        log.warning("%s", note)
    if problems:
        more = len(problems) - 1
        asked = {"keypoints": keypoints, "strict": strict, "merge_classes": merge_classes}
        command = check_command(layout, Path(root), split, **asked)
        rest = f" (and {more} more: `{command}` lists them)" if more else ""
        raise InputError(problems[0] + rest)
    return dataset


def default_splits(layout: str, root: Path | str) -> tuple[str, str]:
    """(train, test): the first usual pair of which both are there. Raises InputError where
    that is unclear."""
    row, root = get(layout), _root(root)
    found = reader(layout).splits(root)
    for pair in row.pairs:
        if set(pair) <= set(found):
            return pair
    have = f"there are {', '.join(found)}" if found else f"there are none; {row.needs}"
    if len(found) == 1:
        command = shlex.join(("detco", "data", "split", str(root)))
        have = f"there is {found[0]} only; `{command}` makes two of it"
    raise InputError(f"{root}: which splits are for training and for testing? Name them ({have})")


def coco_dict(dataset: Dataset) -> dict:
    """The data set as a COCO annotation file; file names relative to its root where the pictures
    lie under it."""
    images = [
        {**image, "file_name": _relative(image["file_name"], dataset.root)}
        for image in dataset.images
    ]
    return {
        "info": {"description": dataset.name},
        "images": images,
        "annotations": [dict(annotation) for annotation in dataset.annotations],
        "categories": [dict(category) for category in dataset.categories],
    }


def _root(root: Path | str) -> Path:
    return need_folder(Path(root).absolute(), "the data set's folder")


def _relative(path: str, root: Path) -> str:
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path


def _read(
    layout,
    root,
    split,
    categories=None,
    keypoints=False,
    semantic=False,
    strict=False,
    merge_classes=False,
) -> tuple[Dataset, list[str]]:
    """The data set without its bad parts, and what makes it unusable."""
    row, root = get(layout), _root(root)
    if semantic and not row.pixel_classes:
        able = " or ".join(other.title for other in LAYOUTS.values() if other.pixel_classes)
        raise InputError(
            f"{root}: semantic segmentation needs a data set in {able} layout, this one is {layout}"
        )
    read = reader(layout).read
    reading = read(root, split, semantic=True) if semantic else read(root, split, keypoints)
    problems = reading.problems
    total = len(reading.annotations) + len(reading.faults)
    where = f"{root}: split '{split}'"
    reading.tolerate(where, strict)
    labels.look(reading, where, merge_classes and not semantic)
    if categories is not None:
        _renumber(reading, categories, where, merge_classes)
    if unit := counting.unit_problem(where, reading.images, reading.annotations):
        problems.append(unit)
    if not total and not problems:
        problems.append(f"{where} has pictures but no objects")
    dataset = Dataset(
        f"{root.name}_{Path(split).stem}",
        layout,
        root,
        split,
        tuple(reading.categories),
        tuple(reading.images),
        tuple(reading.annotations),
        fingerprint(reading.categories, reading.images, reading.annotations),
        tuple(reading.notes),
        reading.facts,
    )
    return dataset, problems


def _renumber(reading: Reading, categories, where: str, merge_classes: bool = False) -> None:
    """Puts the given categories in place of the reading's own, matched by name; with
    `merge_classes` also by a name that is alike."""
    ids = {category["name"]: category["id"] for category in categories}
    alike = {labels.alike(name): name for name in ids}
    names = {category["id"]: category["name"] for category in reading.categories}
    pictures = {image["id"]: image["file_name"] for image in reading.images}
    unknown: dict[str, str] = {}
    kept = []
    for annotation in reading.annotations:
        name = names[annotation["category_id"]]
        if merge_classes:
            name = alike.get(labels.alike(name), name)
        if name in ids:
            kept.append({**annotation, "category_id": ids[name]})
        else:
            unknown.setdefault(name, pictures[annotation["image_id"]])
    have = ", ".join(list(ids)[:20]) + (", ..." if len(ids) > 20 else "")
    for name, picture in unknown.items():
        reading.problems.append(
            f"{where}: unknown category '{name}' (first in {picture}); training has {have}"
            + (
                f"; if '{alike[labels.alike(name)]}' is the same: --merge-classes"
                if labels.alike(name) in alike
                else ""
            )
        )
    reading.categories, reading.annotations = list(categories), kept


@dataclass(frozen=True)
class CheckReport:
    """What `check` found: a dict a split (see `_numbers`), the first of `problem_count` problems,
    and notes (warnings), a line each."""

    layout: str
    root: Path
    splits: tuple[dict, ...]
    problems: tuple[str, ...]
    problem_count: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            *(_lines(split) for split in self.splits),
            *(f"note: {printable(line)}" for line in self.notes),
            *(f"wrong: {printable(line)}" for line in self.problems),
        ]
        if self.problem_count > len(self.problems):
            lines.append(f"... and {self.problem_count - len(self.problems)} more")
        return "\n".join(lines)


def check(
    layout: str,
    root: Path | str,
    splits=None,
    limit: int = 50,
    report=None,
    keypoints: bool = False,
    strict: bool = False,
    merge_classes: bool = False,
) -> CheckReport:
    """Reads the named splits (one name, several, or all there are), decodes every picture, lists
    all that is wrong.

    The first split's categories count for the others. `limit`: how many problems are listed; all
    are counted. `report(stage, done, total)` is called as it goes on. `keypoints`, `strict`,
    `merge_classes`: as in `load`.
    Raises InputError for an unknown layout and a folder that is not there.
    """
    row, root = get(layout), _root(root)
    if isinstance(splits, str):
        splits = [splits]
    names = list(splits or _in_order(row, reader(layout).splits(root)))
    problems, found, notes, categories = [], [], [], None
    there: list[Dataset] = []
    if not names:
        problems.append(f"{root}: no splits; {row.needs}")
    for name in names:
        try:
            dataset, wrong = _read(
                layout,
                root,
                name,
                categories,
                keypoints,
                strict=strict,
                merge_classes=merge_classes,
            )
        except InputError as error:
            problems.append(str(error))
            continue
        categories = categories or dataset.categories
        found.append(_numbers(dataset))
        there.append(dataset)
        if row.pixel_classes and reader(layout).has_pixel_classes(root, name):
            pixels = reader(layout).read(root, name, semantic=True)
            wrong += [text for text in pixels.problems if text not in wrong]
        broken, turned = _look_at_pictures(dataset, report)
        problems += wrong + broken
        notes += [*dataset.notes, *_official_notes(found[-1]), *turned]
    held = _contents(there, report)
    _look_at_depth(there, held, problems, notes)
    if tuple(one.split for one in there[:2]) in row.pairs:
        _look_for_copies(there[:2], held[:2], problems, notes)
    listed = tuple(problems[:limit])
    return CheckReport(layout, root, tuple(found), listed, len(problems), tuple(notes))


def _contents(splits: list[Dataset], report) -> list:
    """What the files of the splits hold, read once for all that asks for it."""
    from .checks import content

    said = report and (lambda stage, done, total, **_: report(stage, done, total))
    return content.read(splits, said) if splits else []


def _look_at_depth(
    splits: list[Dataset], held: list, problems: list[str], notes: list[str]
) -> None:
    """Images of more than 8 bits: by which range they are shown, or why they cannot be."""
    from .checks import content

    try:
        looked = content.with_depths(splits, held)
    except InputError as error:
        problems.append(str(error))
        return
    for before, one in zip(splits, looked, strict=True):
        notes += one.notes[len(before.notes) :]
    if looked and (value_range := looked[0].value_range):
        notes.append(f"{splits[0].root}: {depth.policy(value_range)}")


def _look_for_copies(
    pair: list[Dataset], held: list, problems: list[str], notes: list[str]
) -> None:
    """Test images that are training images: a problem where all are, else a note."""
    from .checks import content

    train, test = pair
    doubled = content.shared(train, test, *held)
    if doubled and len(doubled) == len(test.images):
        problems.append(content.all_shared(train, test, doubled))
    elif doubled:
        notes.append(
            f"{test.root}: {len(doubled):,} of {len(test.images):,} images of '{test.split}' are"
            f" training images of '{train.split}' too (the first: {doubled[0][0]})"
        )


def _in_order(layout: Layout, found: list[str]) -> list[str]:
    """The splits there are, the usual training split first."""
    pair = next((pair for pair in layout.pairs if set(pair) <= set(found)), ())
    return [*pair, *(name for name in found if name not in pair)]


def _numbers(dataset: Dataset) -> dict:
    """The numbers of one split: pictures, objects, and for each category objects,
    small, medium, large."""
    table = {
        c["name"]: dict.fromkeys(("objects", "small", "medium", "large"), 0)
        for c in dataset.categories
    }
    names = {c["id"]: c["name"] for c in dataset.categories}
    for a in dataset.annotations:
        size = "small" if a["area"] < SMALL else "medium" if a["area"] < MEDIUM else "large"
        table[names[a["category_id"]]]["objects"] += 1
        table[names[a["category_id"]]][size] += 1
    numbers = {
        key: sum(row[key] for row in table.values())
        for key in ("objects", "small", "medium", "large")
    }
    with_objects = {a["image_id"] for a in dataset.annotations if not a["iscrowd"]}
    return {
        "split": dataset.split,
        "images": len(dataset.images),
        "images_with_objects": len(with_objects),
        **numbers,
        "crowd": sum(a["iscrowd"] for a in dataset.annotations),
        "difficult": sum(a.get("difficult", 0) for a in dataset.annotations),
        "with_mask": sum("segmentation" in a for a in dataset.annotations),
        "with_keypoints": sum(a.get("num_keypoints", 0) > 0 for a in dataset.annotations),
        "with_densepose": sum("dp_x" in a for a in dataset.annotations),
        "categories": table,
        "fingerprint": dataset.fingerprint,
        "official": _official(dataset),
        "root": str(dataset.root),
    }


def _official(dataset: Dataset) -> tuple[int, int] | None:
    """The published (pictures, pictures with objects) if folder and split are named like the
    official ones."""
    width = LAYOUTS[dataset.layout].official_width
    if width and dataset.images and dataset.images[0]["width"] != width:
        return None
    for (layout, folders, split), sizes in OFFICIAL.items():
        if (layout, split) == (
            dataset.layout,
            dataset.split,
        ) and dataset.root.name.lower() in folders:
            return sizes
    return None


def _official_notes(numbers: dict) -> list[str]:
    where = f"{numbers['root']}: split '{numbers['split']}'"
    keys, words = ("images", "images_with_objects"), ("pictures", "pictures with objects")
    rows = zip(keys, words, numbers["official"] or (0, 0), strict=True)
    return [
        f"{where} has {numbers[key]:,} {what}, the official one {should:,}"
        for key, what, should in rows
        if should and numbers[key] != should
    ]


def _look_at_pictures(dataset: Dataset, report=None) -> tuple[list[str], list[str]]:
    """Problems: pictures that cannot be decoded to the end, or whose size is not the annotated one.
    Notes: that EXIF turns some and nothing tells whether boxes are meant for them as shown."""
    # the reader has named the others
    there = [image for image in dataset.images if os.path.lexists(image["file_name"])]
    said = report and (lambda done, total: report(f"check {dataset.split}", done, total))
    paths = [image["file_name"] for image in there]
    found = inspection.sizes(paths, whole=True, again=True, report=said)
    note = inspection.turned_note(dataset, there, found)
    return inspection.faults(there, found), [note] if note else []


def _lines(numbers: dict) -> str:
    """One split as text: a line of numbers, then a line a category."""
    official = {None: "", True: ", the official size", False: ", not the official size"}[
        None if numbers["official"] is None else not _official_notes(numbers)
    ]
    points = numbers["with_densepose"]
    surface = f"\n  {points:,} objects with points of DensePose" if points else ""
    head = (
        f"{printable(numbers['split'])}: {numbers['images']:,} pictures{official},"
        f" {numbers['images_with_objects']:,} with objects; {numbers['objects']:,} objects"
        f" ({numbers['small']:,} small, {numbers['medium']:,} medium, {numbers['large']:,} large;"
        f" {numbers['crowd']:,} crowd, {numbers['difficult']:,} difficult)\n  fingerprint"
        f" {numbers['fingerprint']}{surface}"
    )
    rows = [
        f"  {printable(name)}: {row['objects']:,} ({row['small']:,} small,"
        f" {row['medium']:,} medium, {row['large']:,} large)"
        for name, row in numbers["categories"].items()
    ]
    return "\n".join([head, *rows])
