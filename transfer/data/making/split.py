"""Divides a data set without splits: VOC without lists, one COCO file, or folders of classes."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detco.common import contents
from detco.common.errors import InputError
from detco.common.images import ENDINGS

from .. import dataset, layout_of, reader
from .new_files import written


@dataclass(frozen=True)
class Division:
    """What was written: files by part, how many images and (except of class folders) objects."""

    files: dict[str, Path]
    images: dict[str, int]
    objects: dict[str, int]


def write(
    root: Path,
    share: float = 0.2,
    seed: int = 0,
    pattern: str | None = None,
    test: float = 0.0,
) -> Division:
    """Writes lists or annotation files of `train` and `val`, the latter with about `share` of the
    images of each class, and where `test` is above 0 of a third part with that share.

    pattern: a regular expression; images in whose names its first group (or all of it) matches the
    same text stay together, as frames of a video must. Raises InputError, and for files that exist.
    """
    if not 0 < share < 1:
        raise InputError(f"--val must be above 0 and below 1, it is {share:g}")
    if not 0 <= test < 1 - share:
        raise InputError(f"--test must be 0 (none) or more, and with --val below 1, it is {test:g}")
    shares = {"val": share, "test": test}
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    layout = layout_of(root)
    if layout is None:
        return _class_folders(root, shares, seed, pattern)
    found = reader(layout).splits(root)
    if len(found) > 1:
        raise InputError(f"{root}: there are splits already: {', '.join(found)}")
    write_splits = getattr(reader(layout), "write_splits", None)
    if write_splits is None:
        raise InputError(f"{root}: a {layout} data set has splits by its folders; move those")
    data = dataset.load(layout, root, found[0])
    labels: dict[str, Counter] = {image["file_name"]: Counter() for image in data.images}
    paths = {image["id"]: image["file_name"] for image in data.images}
    for annotation in data.annotations:
        labels[paths[annotation["image_id"]]][annotation["category_id"]] += 1
    names = {path: os.path.relpath(path, root) for path in labels}
    groups = _with_copies(_groups(names, pattern), root)
    by_path = {image["file_name"]: image for image in data.images}
    parts = {
        part: [by_path[path] for path in paths]
        for part, paths in _parts(labels, groups, shares, seed).items()
    }
    objects = {
        part: sum(labels[image["file_name"]].total() for image in images)
        for part, images in parts.items()
    }
    _refuse_empty(parts)
    files = write_splits(root.absolute(), found[0], parts)
    return Division(files, {part: len(images) for part, images in parts.items()}, objects)


def _parts(
    labels: Mapping[str, Counter],
    groups: Mapping[str, list[str]],
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, list[str]]:
    """The images of each part, in their order; `val` is the same with and without a third part."""
    left = dict(groups)
    of_path = dict.fromkeys(labels, "train")
    taken = 0.0
    for part, share in shares.items():
        if share:
            found = chosen(labels, left, share / (1 - taken), seed)
            of_path |= dict.fromkeys(found, part)
            left = {name: group for name, group in left.items() if group[0] not in found}
            taken += share
    wanted = ["train", *(part for part in shares if shares[part])]
    return {part: [path for path in labels if of_path[path] == part] for part in wanted}


def chosen(
    labels: Mapping[str, Counter], groups: Mapping[str, list[str]], share: float, seed: int
) -> set[str]:
    """The images that make `share` of the objects of each class, whole groups of them.

    labels: objects by class of each image. Classes are served from the rarest on, groups in the
    order of sha256("SEED GROUP"); a class in two groups or more gets at least one. Images without
    objects are a class of their own.
    """
    order = sorted(groups, key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    inside = {group: _sum(labels, groups[group]) for group in order}
    totals = sum(inside.values(), Counter())
    taken: Counter = Counter()
    undecided = dict.fromkeys(order)
    val: set[str] = set()
    for label, total in sorted(totals.items(), key=lambda item: (item[1], str(item[0]))):
        wanted = share * total
        if sum(label in counts for counts in inside.values()) > 1:
            wanted = max(1, wanted)
        for group in [group for group in undecided if label in inside[group]]:
            del undecided[group]
            if taken[label] + inside[group][label] / 2 <= wanted:
                taken += inside[group]
                val.update(groups[group])
    return val


def _sum(labels: Mapping[str, Counter], members: list[str]) -> Counter:
    total: Counter = Counter()
    for name in members:
        total += labels[name] or Counter({"without objects": 1})
    return total


def _groups(names: Mapping[str, str], pattern: str | None) -> dict[str, list[str]]:
    """Images by what the pattern finds in their names; alone where there is none, or no match."""
    if pattern is None:
        return {name: [path] for path, name in names.items()}
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--group {pattern}: not a regular expression ({error})") from error
    groups = defaultdict(list)
    matched = False
    for path, name in names.items():
        match = expression.search(name)
        matched = matched or match is not None
        text = (match[1] if expression.groups else match[0]) if match else None
        groups[f"alone {name}" if text is None else f"group {text}"].append(path)
    if not matched:
        example = next(iter(names.values()), "")
        raise InputError(f"--group {pattern}: matches no name of an image, e.g. '{example}'")
    return dict(groups)


def _with_copies(groups: Mapping[str, list[str]], root: Path) -> dict[str, list[str]]:
    """Groups joined where they hold the same bytes: a copy of a training image tests nothing."""
    paths = [path for group in groups.values() for path in group]
    found = contents.of([str(root / path) for path in paths], str(root))
    # Of a file that cannot be read nothing is known: it is a copy of none.
    digest_of = {
        path: path.encode(errors="surrogateescape") if one is contents.UNREADABLE else one.digest
        for path, one in zip(paths, found, strict=True)
    }
    joined: dict[str, list[str]] = {}
    holder: dict[bytes, str] = {}  # digest -> the group that has it
    for name, group in groups.items():
        into = {holder[digest_of[path]] for path in group if digest_of[path] in holder}
        first = min(into, default=name)
        members = [path for other in sorted(into) for path in joined.pop(other)] + group
        joined[first] = members
        holder |= {digest_of[path]: first for path in members}
    return joined


def _class_folders(
    root: Path, shares: Mapping[str, float], seed: int, pattern: str | None
) -> Division:
    """Lists train.txt, val.txt and, where asked for, test.txt of paths below folders of classes,
    beside them."""
    labels = {}
    for folder in sorted(path for path in root.glob("[!.]*") if path.is_dir()):
        for where, below, names in os.walk(folder):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(names):
                if name.lower().endswith(ENDINGS) and not name.startswith("."):
                    path = os.path.relpath(os.path.join(where, name), root)
                    labels[path] = Counter({folder.name: 1})
    if len({next(iter(counts)) for counts in labels.values()}) < 2:
        raise InputError(
            f"{root}: nothing to divide: neither a data set in a known layout nor two folders of"
            " images, one a class"
        )
    groups = _groups({path: path for path in labels}, pattern)
    parts = _parts(labels, _with_copies(groups, root), shares, seed)
    _refuse_empty(parts)
    files = {part: root / f"{part}.txt" for part in parts}
    written({files[part]: "".join(f"{path}\n" for path in parts[part]) for part in parts})
    return Division(files, {part: len(parts[part]) for part in parts}, {})


def _refuse_empty(parts: Mapping[str, list]) -> None:
    for part, images in parts.items():
        if not images:
            raise InputError(
                f"no image is left for '{part}': there are too few, or too few groups; choose"
                " another --val, --test or --group"
            )
