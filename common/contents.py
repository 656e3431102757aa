"""What image files hold, as a hash each: read once, then remembered by path, size and dates."""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from .files import cache_file, is_settled, write_atomic

STAGE = "hash images"
HEADER = b"detco contents 1\n"
KEY, DIGEST = 16, 32  # bytes; an entry is a key, a digest and a byte of flags
ENTRY = KEY + DIGEST + 1
BLOCK = 1 << 20
THREADS = 16  # they wait for the disk or the network
CHUNK = 64  # files that a thread takes at a time
SAVED_EVERY = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class FileContent:
    """digest: sha256 of the bytes; deep: whether such a file can hold more than 8 bits a pixel."""

    digest: bytes
    deep: bool = False


UNREADABLE = FileContent(bytes(DIGEST))


def of(paths: Sequence[str], about: str, report: Callable | None = None) -> list[FileContent]:
    """The content of each file; UNREADABLE for what is no file or cannot be read.

    about: the folder or list that the files belong to; it names the file in the user's cache folder
    that remembers them. Only files that are new, or changed in size or date, are read.
    `report(STAGE, done, total, GB=...)` is called on the way, with the sizes of what must be read.
    """
    memory = Remembered(about)
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        looked = [one for found in pool.map(memory.look, chunks) for one in found]
    unread = [number for number, (content, _, _) in enumerate(looked) if content is None]
    if unread:
        size = sum(looked[number][2] for number in unread) / 1e9
        said = report and (lambda done: report(STAGE, done, len(unread), GB=round(size, 1)))
        read = _read_all([(paths[number], *looked[number][1:]) for number in unread], memory, said)
        for number, content in zip(unread, read, strict=True):
            looked[number] = (content, b"", 0)
    return [content or UNREADABLE for content, _, _ in looked]


def _read_all(
    files: Sequence[tuple[str, bytes, int]], memory: "Remembered", said: Callable | None
) -> list[FileContent]:
    """Reads files (path, key, bytes); what was read is remembered, also where it is stopped."""
    found: list[FileContent] = []
    saved = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for (_, key, _), content in zip(files, pool.map(_read, files), strict=True):
                found.append(content)
                if key and content is not UNREADABLE:
                    memory.new[key] = content
                if said:
                    said(len(found))
                if time.monotonic() - saved > SAVED_EVERY:
                    memory.save()
                    saved = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
            memory.save()
    return found


def _read(file: tuple[str, bytes, int]) -> FileContent:
    digest, head = hashlib.sha256(), b""
    try:
        with open(file[0], "rb") as opened:
            while block := opened.read(BLOCK):
                head = head or block[:32]
                digest.update(block)
    except OSError:
        return UNREADABLE
    return FileContent(digest.digest(), may_be_deep(head))


def may_be_deep(head: bytes) -> bool:
    """Whether a file with these first 32 bytes can hold more than 8 bits a pixel: a PNG of 16 bits,
    any TIFF, any PGM or PPM."""
    if head.startswith(b"\x89PNG"):
        return head[24:25] == b"\x10"
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or head[:2] in (
        b"P2",
        b"P3",
        b"P5",
        b"P6",
    )


class Remembered:
    """Contents by a key of (path, size, dates), in one file of the user's cache folder; it may be
    deleted at any time."""

    def __init__(self, about: str):
        self.place = cache_file("contents", os.path.abspath(about), ".bin")
        self.known = self._load()
        self.new: dict[bytes, FileContent] = {}

    def _load(self) -> dict[bytes, FileContent]:
        """What is remembered; nothing where the file is missing or damaged: all is read again."""
        try:
            data = self.place.read_bytes()
        except OSError:
            return {}
        if not data.startswith(HEADER) or (len(data) - len(HEADER)) % ENTRY:
            return {}
        known = {}
        for start in range(len(HEADER), len(data), ENTRY):
            end = start + ENTRY - 1
            known[data[start : start + KEY]] = FileContent(data[start + KEY : end], data[end] == 1)
        return known

    def look(self, paths: Sequence[str]) -> list[tuple[FileContent | None, bytes, int]]:
        """(content, key, bytes) of each file: no content where it must be read, no key where it
        changed so lately that it could change once more without another time stamp."""
        return [self._look(path) for path in paths]

    def _look(self, path: str) -> tuple[FileContent | None, bytes, int]:
        try:
            state = os.stat(path)
        except (OSError, ValueError):
            return UNREADABLE, b"", 0
        if not stat.S_ISREG(state.st_mode):
            return UNREADABLE, b"", 0
        if not is_settled(state):
            return None, b"", state.st_size
        dates = f"{state.st_mtime_ns} {state.st_ctime_ns}"  # archives bring the first along
        text = f"{os.path.abspath(path)}\0{state.st_size}\0{dates}"
        key = hashlib.blake2b(os.fsencode(text), digest_size=KEY).digest()
        return self.known.get(key), key, state.st_size

    def save(self) -> None:
        """Add the new contents to the file; what another process added meanwhile stays."""
        if not self.new:
            return
        entries = self._load() | self.new
        blocks = [key + one.digest + bytes([one.deep]) for key, one in entries.items()]
        with suppress(OSError):
            write_atomic(self.place, HEADER + b"".join(blocks))
