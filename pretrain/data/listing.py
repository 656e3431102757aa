"""Which pictures there are: a folder tree or a text file of paths, a million of them in seconds,
and remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detco.common import contents, depth
from detco.common.errors import InputError
from detco.common.files import SETTLED, cache_file, write_atomic
from detco.common.images import ENDINGS, Range

log = logging.getLogger("detco.pretrain")

ARCHIVES = frozenset((".tar", ".tgz", ".gz", ".zip", ".7z"))
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
REMEMBER_FROM = 50_000  # pictures; fewer are listed again each time
DEEPEST = 20  # folders below one another
THREADS = 16  # a listing waits for the disk or the network


class Names(Sequence):
    """Texts in one block of bytes: a million take no Python object each, and worker processes share
    the block."""

    def __init__(self, block: bytes, ends: np.ndarray):
        self.block, self.ends = block, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        parts = [os.fsencode(name) for name in names]
        return cls(b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return os.fsdecode(self.block[self.ends[index - 1] if index else 0 : self.ends[index]])

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self.ends.tolist():  # three times as fast as one index after the other
            yield os.fsdecode(self.block[start:end])
            start = end


@dataclass(frozen=True, eq=False)
class Pictures:
    """Files under ``root`` in sorted order; ``names`` are relative paths, ``sizes`` bytes, (n,).

    passed_over: how many other files there are, by their endings; value_range: what becomes 0 and
    255 of those of more than 8 bits, where `looked_at` has found that they need it.
    """

    root: Path
    names: Names
    sizes: np.ndarray
    passed_over: Mapping[str, int] = field(default_factory=dict)
    value_range: Range | None = None

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / self.names[index]

    @property
    def classes(self) -> tuple[str, ...]:
        """The subfolders of the root that hold pictures, sorted."""
        return tuple(sorted({name.split("/", 1)[0] for name in self.names if "/" in name}))

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over relative paths and file sizes."""
        lines = "".join(
            f"{name}\0{size}\n" for name, size in zip(self.names, self.sizes.tolist(), strict=True)
        )
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()

    @property
    def doubts(self) -> list[str]:
        """What a user should know before training on them, one line each."""
        found = []
        if self.passed_over:
            found.append(f"{self.root}: passed over {_counts(self.passed_over)}")
        if len(self.classes) > 1 and SPLITS.issuperset(map(str.lower, self.classes)):
            found.append(
                f"{self.root}: its folders {', '.join(self.classes)} are splits, and all of them"
                f" are taken; name one of them, e.g. {self.root / self.classes[0]}"
            )
        return found

    def refuse_without_classes(self) -> None:
        """InputError unless there are at least two folders, each picture is in one, and the folders
        are classes."""
        classes = self.classes
        if len(classes) < 2 or any("/" not in name for name in self.names):
            raise InputError(
                f"{self.root}: supervised pretraining needs a folder of pictures for each class, at"
                " least two"
            )
        if SPLITS.issuperset(map(str.lower, classes)):
            raise InputError(
                f"{self.root}: its folders {', '.join(classes)} are splits, not classes; name one"
                f" of them, e.g. {self.root / classes[0]}"
            )

    def content(self, report: Callable | None = None) -> str:
        """The first of `looked_at`."""
        return self.looked_at(report)[0]

    def looked_at(self, report: Callable | None = None) -> tuple[str, Range | None]:
        """sha256 (hex) over relative paths and what the files hold, which is read once and then
        remembered (detco.common.contents), and the range of values (detco.common.depth). Raises
        InputError where decoding would leave hardly a grey level of most images."""
        paths = [os.path.join(self.root, name) for name in self.names]
        found = contents.of(paths, str(self.root), report)
        deep = depth.check(self.root, depth.candidates(paths, found), measure=True)
        if deep.note:
            log.warning("%s", deep.note)
        digest = hashlib.sha256()
        for name, one in zip(self.names, found, strict=True):
            digest.update(name.encode(errors="surrogateescape") + b"\0" + one.digest)
        if deep.value_range:
            digest.update(str(deep.value_range).encode())
        return digest.hexdigest(), deep.value_range

    def only(self, indices: Sequence[int]) -> Pictures:
        names = Names.of(self.names[i] for i in indices)
        return replace(self, names=names, sizes=self.sizes[list(indices)])

    def without(self, bad: dict[int, str]) -> Pictures:
        return self.only([i for i in range(len(self)) if i not in bad]) if bad else self


def find(source: Path) -> Pictures:
    """The pictures of ``source``: of a folder all files below it whose name ends like a picture's,
    hidden ones passed over; of a text file the paths in it, one a line, relative to its own folder
    or absolute, each taken once.

    A listing of many files is remembered in the user's cache folder and taken again as long as no
    folder of the tree has changed (a file written over in place is not noticed). Raises InputError
    if there is nothing, or a path is missing; OSError if something cannot be read.
    """
    source = Path(source)
    if source.is_file():
        if source.suffix.lower() in ARCHIVES:
            raise InputError(f"{source} is an archive: unpack it and name the folder")
        return _of_text(source)
    if not source.is_dir():
        special = source.exists()
        wrong = "neither a folder nor a regular file" if special else "no such folder of pictures"
        raise InputError(f"{source}: {wrong}")
    remembered = _remembered(source)
    if remembered:
        return remembered
    began = time.time()
    found, folders, others = _walk(str(source))
    if not found:
        raise InputError(f"{source}: {_nothing(others)}")
    found.sort()
    names, sizes = Names.of(name for name, _ in found), [size for _, size in found]
    pictures = Pictures(source, names, np.array(sizes, np.int64), others)
    if len(found) >= REMEMBER_FROM:
        _remember(pictures, folders, began)
    return pictures


def _counts(others: Mapping[str, int]) -> str:
    """`70 files: 40 .heic, 30 without ending`, the most frequent first."""
    ends = sorted(others, key=lambda end: (-others[end], end))
    named = [f"{others[end]} {end or 'without ending'}" for end in ends[:8]]
    total = sum(others.values())
    more = ", ..." if len(ends) > 8 else ""
    return f"{total} file{'s' * (total > 1)}: {', '.join(named)}{more}"


def _nothing(others: Mapping[str, int]) -> str:
    text = f"no pictures in this folder ({', '.join(sorted(ENDINGS))})"
    if others:
        text += f"; it holds {_counts(others)}"
    if ARCHIVES & others.keys():
        text += "; unpack archives (and shards of WebDataset) first"
    return text


def _walk(root: str) -> tuple[list[tuple[str, int]], dict[str, int], dict[str, int]]:
    """Pictures below ``root`` as (relative path, bytes), its folders with the times of their last
    change (ns), and how many other files there are, by their endings."""

    def scan(folder: str) -> tuple[int, list, list, Counter]:
        changed, files, below = os.stat(os.path.join(root, folder)).st_mtime_ns, [], []
        others: Counter[str] = Counter()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                end = os.path.splitext(entry.name)[1].lower()
                if entry.is_dir():
                    below.append(f"{folder}{entry.name}/")
                elif end in ENDINGS:
                    # A link that leads nowhere is a bad picture like others.
                    dangling = entry.is_symlink() and not os.path.exists(entry.path)
                    files.append((folder + entry.name, 0 if dangling else entry.stat().st_size))
                else:
                    others[end] += 1
        return changed, files, below, others

    found, folders, level = [], {}, [""]
    passed_over: Counter[str] = Counter()
    with ThreadPoolExecutor(THREADS) as pool:
        while level:
            scanned = list(pool.map(scan, level))
            below: list[str] = []
            for folder, (changed, files, inside, others) in zip(level, scanned, strict=True):
                folders[folder] = changed
                found += files
                below += inside
                passed_over += others
            level = below
            if any(folder.count("/") > DEEPEST for folder in level):
                raise InputError(
                    f"{root}: folders more than {DEEPEST} deep; does a link lead back to a folder"
                    " above it?"
                )
    return found, folders, dict(passed_over)


def _of_text(source: Path) -> Pictures:
    paths: dict[str, int] = {}
    # one by one: is it a text?
    with open(source, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                path = os.path.normpath(os.path.join(os.path.abspath(source.parent), line.strip()))
                paths[path] = _size(path)
                if paths[path] < 0:
                    raise InputError(f"{source}, line {number}: {_not_there(source, line.strip())}")
    if not paths:
        raise InputError(f"{source}: no paths in this file (one a line)")
    root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    names = sorted(paths)
    return Pictures(
        root,
        Names.of(os.path.relpath(name, root) for name in names),
        np.array([paths[name] for name in names], np.int64),
    )


def _not_there(source: Path, line: str) -> str:
    path, _, label = line.rpartition(" ")
    if path and _size(os.path.join(os.path.abspath(source.parent), path.strip())) >= 0:
        return (
            f"a path and a label ({label[:40]!r}), but a list holds paths alone, one a line; for"
            " supervised pretraining lay the pictures into a folder for each class"
        )
    return f"no such picture: {line[:200]!r}"


def _size(path: str) -> int:
    """Bytes of a file; -1 if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in what is no path
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _place(root: Path) -> Path:
    return cache_file("pictures", str(root.absolute()), ".npz")


def _remember(pictures: Pictures, folders: dict[str, int], began: float) -> None:
    """Written atomically; a cache folder that cannot be written to is no error."""
    place = _place(pictures.root)
    about = json.dumps(
        {
            "root": os.fsdecode(pictures.root.absolute()),
            "folders": folders,
            "began": began,
            "passed_over": pictures.passed_over,
        }
    )
    arrays: dict[str, Any] = {
        "about": np.array(about),
        "ends": pictures.names.ends,
        "sizes": pictures.sizes,
        "names": np.frombuffer(pictures.names.block, np.uint8),
    }
    with suppress(OSError):
        write_atomic(place, lambda file: np.savez(file, **arrays))


def _remembered(root: Path) -> Pictures | None:
    """The listing of an earlier time, if every folder is as it was then."""
    try:
        with np.load(_place(root), allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            names, sizes = Names(file["names"].tobytes(), file["ends"]), file["sizes"]
        if about["root"] != os.fsdecode(root.absolute()):
            return None
        for folder, changed in about["folders"].items():
            now = os.stat(root / folder).st_mtime_ns
            if now != changed or now > (about["began"] - SETTLED) * 1e9:
                return None
        return Pictures(root, names, sizes, about["passed_over"])
    except Exception:  # missing, damaged, of another version, a folder gone: list again
        return None
