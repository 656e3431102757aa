"""Which pictures there are: a folder tree or a text file of paths, a million of them in seconds,
and remembered."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detco.common.errors import InputError
from detco.common.files import cache_file, write_atomic

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
REMEMBER_FROM = 50_000  # pictures; fewer are listed again each time
SETTLED = 2.0  # seconds after which a change of a folder is sure to change its time stamp again
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


@dataclass(frozen=True, eq=False)
class Pictures:
    """Files under ``root`` in sorted order; ``names`` are relative paths, ``sizes`` bytes, (n,)."""

    root: Path
    names: Names
    sizes: np.ndarray

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

    def only(self, indices: Sequence[int]) -> Pictures:
        return Pictures(
            self.root, Names.of(self.names[i] for i in indices), self.sizes[list(indices)]
        )

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
        return _of_text(source)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder of pictures")
    remembered = _remembered(source)
    if remembered:
        return remembered
    began = time.time()
    found, folders = _walk(str(source))
    if not found:
        raise InputError(f"{source}: no pictures in this folder ({', '.join(sorted(EXTENSIONS))})")
    found.sort()
    pictures = Pictures(
        source, Names.of(name for name, _ in found), np.array([size for _, size in found], np.int64)
    )
    if len(found) >= REMEMBER_FROM:
        _remember(pictures, folders, began)
    return pictures


def _walk(root: str) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """Pictures below ``root`` as (relative path, bytes), and its folders with the times of their
    last change (ns)."""

    def scan(folder: str) -> tuple[int, list, list]:
        changed, files, below = os.stat(os.path.join(root, folder)).st_mtime_ns, [], []
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    below.append(f"{folder}{entry.name}/")
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                    dangling = entry.is_symlink() and not os.path.exists(
                        entry.path
                    )  # a bad picture like others
                    files.append((folder + entry.name, 0 if dangling else entry.stat().st_size))
        return changed, files, below

    found, folders, level = [], {}, [""]
    with ThreadPoolExecutor(THREADS) as pool:
        while level:
            scanned = list(pool.map(scan, level))
            folders |= {
                folder: changed for folder, (changed, _, _) in zip(level, scanned, strict=True)
            }
            found += [file for _, files, _ in scanned for file in files]
            level = [folder for _, _, below in scanned for folder in below]
            if any(folder.count("/") > DEEPEST for folder in level):
                raise InputError(
                    f"{root}: folders more than {DEEPEST} deep; does a link lead back to a folder"
                    " above it?"
                )
    return found, folders


def _of_text(source: Path) -> Pictures:
    paths: dict[str, int] = {}
    with open(
        source, encoding="utf-8-sig", errors="surrogateescape", newline="\n"
    ) as lines:  # one by one: is it a text?
        for number, line in enumerate(lines, 1):
            if line.strip():
                path = os.path.normpath(os.path.join(os.path.abspath(source.parent), line.strip()))
                paths[path] = _size(path)
                if paths[path] < 0:
                    raise InputError(
                        f"{source}, line {number}: no such picture: {line.strip()[:200]!r}"
                    )
    if not paths:
        raise InputError(f"{source}: no paths in this file (one a line)")
    root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    names = sorted(paths)
    return Pictures(
        root,
        Names.of(os.path.relpath(name, root) for name in names),
        np.array([paths[name] for name in names], np.int64),
    )


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
    """Written beside and moved, so that it is whole or not there; a folder in which nothing can be
    written is no error."""
    place = _place(pictures.root)
    about = json.dumps(
        {"root": os.fsdecode(pictures.root.absolute()), "folders": folders, "began": began}
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
        return Pictures(root, names, sizes)
    except Exception:  # missing, damaged, of another version, a folder gone: list again
        return None
