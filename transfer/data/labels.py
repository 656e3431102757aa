"""Labels that are doubled or split: images and objects listed more than once, classes whose names
differ in case, spaces or Unicode form only. They are warned about, as each lowers AP in silence."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from .reading import Reading

if TYPE_CHECKING:
    from .dataset import Dataset

# A table has a footnote for more than this share of the objects or images; the record has it all.
WORTH_A_FOOTNOTE = 0.001


def alike(name: str) -> str:
    """What names that differ in case, spaces (also written _ or -) or Unicode form only
    have in common."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return "".join(letter for letter in text if not letter.isspace() and letter not in "_-") or text


def look(reading: Reading, where: str, merge: bool = False) -> None:
    """Adds notes and facts on doubled and split labels; with `merge`, classes that are alike become
    the one of them with most objects."""
    groups = _alike_classes(reading)
    if groups and merge:
        _merge(reading, groups)
        reading.facts["classes_merged"] = groups
    elif groups:
        reading.facts["classes_alike"] = groups
        first = " and ".join(f"'{name}'" for name in groups[0])
        reading.notes.append(
            f"{where}: {len(groups)} class{'es are' if len(groups) > 1 else ' is'} listed under"
            f" several names, the first {first}: --merge-classes makes each one class, else rename"
        )
    _doubled_images(reading, where)
    _doubled_objects(reading, where)


def deviations(train: Dataset, test: Dataset) -> list[str]:
    """Footnotes for a table: what was noted of the labels of both splits."""
    found = []
    for title, dataset in (("training", train), ("test", test)):
        facts, objects = dataset.facts, len(dataset.annotations)
        counts = (
            ("turned", "images turned by EXIF whose boxes may not be", len(dataset.images)),
            ("left_out", "bad objects left out", objects),
            ("images_repeated", "images listed more than once", len(dataset.images)),
            ("objects_repeated", "objects listed more than once", objects),
        )
        for key, text, total in counts:
            if facts.get(key, 0) > WORTH_A_FOOTNOTE * total:
                found.append(f"{title} data: {facts[key]:,} {text}")
        for key, text in (("classes_alike", "kept apart"), ("classes_merged", "merged")):
            if facts.get(key):
                names = "; ".join(" = ".join(group) for group in facts[key])
                found.append(f"{title} data: classes of like names {text} ({names})")
    return found


def _alike_classes(reading: Reading) -> list[list[str]]:
    """Groups of names that are alike, the name with most objects first; only names with objects."""
    names = {category["id"]: category["name"] for category in reading.categories}
    counts = Counter(names[a["category_id"]] for a in reading.annotations)
    groups = defaultdict(list)
    for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        groups[alike(name)].append(name)
    return sorted(group for group in groups.values() if len(group) > 1)


def _merge(reading: Reading, groups: list[list[str]]) -> None:
    ids = {category["name"]: category["id"] for category in reading.categories}
    into = {ids[name]: ids[group[0]] for group in groups for name in group[1:]}
    reading.categories = [c for c in reading.categories if c["id"] not in into]
    for annotation in reading.annotations:
        annotation["category_id"] = into.get(annotation["category_id"], annotation["category_id"])


def _doubled_images(reading: Reading, where: str) -> None:
    counts = Counter(image["file_name"] for image in reading.images)
    again = sum(counts.values()) - len(counts)
    if again:
        reading.facts["images_repeated"] = again
        first = next(path for path, count in counts.items() if count > 1)
        reading.notes.append(
            f"{where}: {again:,} images are listed more than once, each is scored as often; the"
            f" first: {first}"
        )


def _doubled_objects(reading: Reading, where: str) -> None:
    """Objects with image, class and box of another: a perfect detector finds one of them only."""
    counts = Counter(
        (a["image_id"], a["category_id"], *a["bbox"])
        for a in reading.annotations
        if not a["iscrowd"]
    )
    again = sum(counts.values()) - len(counts)
    if again:
        reading.facts["objects_repeated"] = again
        number, _, *box = next(key for key, count in counts.items() if count > 1)
        path = next(image["file_name"] for image in reading.images if image["id"] == number)
        written = " ".join(f"{value:g}" for value in box)
        reading.notes.append(
            f"{where}: {again:,} objects are listed more than once (same image, class and box), of"
            f" which a detector can find one only; the first: [{written}] in {path}; delete the"
            " copies"
        )
