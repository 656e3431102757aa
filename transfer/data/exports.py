"""Habits of tools that export COCO files, so that their good data are not taken for bad ones."""

from pathlib import Path

from .reading import Reading


def without_root(document: dict, path: Path, reading: Reading) -> tuple[list[dict], list[dict]]:
    """The categories and annotations of a COCO document without Roboflow's root category.

    Roboflow puts category 0, of supercategory "none", above all others; it is no class. Objects of
    it are faults, in one line; where a class below has its name, they are that class's.
    """
    categories, objects = document["categories"], document["annotations"]
    above = [entry.get("supercategory") for entry in categories if entry.get("id") != 0]
    root = [
        entry
        for entry in categories
        if entry.get("id") == 0
        and entry.get("supercategory") == "none"
        and entry.get("name") in above
    ]
    if not root:
        return categories, objects
    classes = [entry for entry in categories if entry.get("id") != 0]
    own = sum(entry.get("category_id") == 0 for entry in objects)
    name = root[0]["name"]
    same = [entry["id"] for entry in classes if entry.get("name") == name]
    if same:
        changed = [
            e | {"category_id": same[0]} if e.get("category_id") == 0 else e for e in objects
        ]
        return classes, changed
    line = (
        f"{path}: {own:,} objects of category 0 ('{name}'), which is no class but Roboflow's root"
        ' category; give them a class, or that category another supercategory than "none"'
    )
    reading.faults += [line] * own
    return classes, [entry for entry in objects if entry.get("category_id") != 0]


def numbered(objects: list[dict], path: Path, reading: Reading) -> list[dict]:
    """COCO annotations with ids of their own: numbered anew, with a note, where some are missing,
    repeated or no whole numbers."""
    ids = [entry.get("id") for entry in objects]
    if all(type(one) is int for one in ids) and len(set(ids)) == len(ids):
        return objects
    if any(one is not None for one in ids):
        reading.notes.append(
            f"{path}: annotation ids are not whole numbers used once each: numbered anew from 1"
        )
    return [entry | {"id": number} for number, entry in enumerate(objects, 1)]
