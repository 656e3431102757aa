"""Whether pictures can be read and have their annotated size: headers or whole files, in threads,
remembered by size and date.

Only what was found good is remembered, a file for each folder of pictures in the user's cache
folder; it may be deleted at any time. Threads, because Pillow decodes without Python's lock, and a
network's disk answers many at once.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from detco.common.errors import InputError
from detco.common.files import cache_file, is_settled, write_atomic
from detco.common.images import open_image, upright_size
from detco.common.progress import Report

from . import LAYOUTS
from .reading import check_command, short, turned_unseen

if TYPE_CHECKING:
    from .dataset import Dataset

CHUNK = {False: 64, True: 8}  # pictures that a thread takes at a time: headers, whole ones
LOOKING = 16  # threads that read headers: they wait for the disk
STAGE = "check pictures"

log = logging.getLogger("detco.transfer")


class Unreadable(InputError):
    """A picture that cannot be decoded, or no longer has the size it should have. `path`: which."""

    def __init__(self, text: str, path: str = ""):
        super().__init__(text)
        self.path = path


class Size(tuple):
    """(width, height) of a picture after EXIF rotation. `turned`: EXIF turns it and the size does
    not tell, see `reading.turned_unseen`."""

    turned = False


Looked = tuple[int, int] | str  # a `Size`, or why a picture cannot be read


def noted(dataset: Dataset, found: Sequence[Looked] | None = None) -> Dataset:
    """The data set with a warning and the fact `turned`, where EXIF turns pictures and nothing
    tells whether the boxes are meant for them as shown (as they are read) or as stored. found:
    what `sizes` said; None: look now."""
    if found is None:
        found = sizes(_paths(dataset.images))
    if not (note := turned_note(dataset, dataset.images, found)):
        return dataset
    log.warning("%s", note)
    facts = dataset.facts | {"turned": len(_turned(dataset.images, found))}
    return replace(dataset, notes=(*dataset.notes, note), facts=facts)


def _paths(images: Sequence[dict]) -> list[str]:
    return [image["file_name"] for image in images]


def _turned(images: Sequence[dict], found: Sequence[Looked]) -> list[str]:
    """The pictures that EXIF turns while their size does not tell."""
    looks = zip(_paths(images), found, strict=True)
    return [path for path, size in looks if isinstance(size, Size) and size.turned]


def turned_note(dataset: Dataset, images: Sequence[dict], found: Sequence[Looked]) -> str:
    """The warning of `noted` on these images of a data set; "" if there is none."""
    paths = _turned(images, found) if LAYOUTS[dataset.layout].boxes else []
    if not paths:
        return ""
    return (
        f"{dataset.root}: split '{dataset.split}': {len(paths):,} pictures are turned or mirrored"
        " by EXIF, and their size does not tell whether the boxes are; they are read as EXIF shows"
        f" them: see that boxes fit, or store them upright; the first: {paths[0]}"
    )


def refuse(
    dataset: Dataset, whole: bool = False, report: Report | None = None
) -> list[Looked] | None:
    """InputError naming the first picture that cannot be read or is not of its annotated size, and
    how many more there are. Returns what `sizes` said, None where it did not look.

    whole: decode each to the end; else headers, which the readers of some layouts have
    looked at already."""
    if LAYOUTS[dataset.layout].reads_headers and not whole:
        return None
    said = None if report is None else lambda done, total: report(STAGE, done, total)
    found = sizes(_paths(dataset.images), whole, report=said)
    wrong = faults(dataset.images, found)
    if wrong:
        more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        command = check_command(dataset.layout, dataset.root, dataset.split)
        raise InputError(
            f"{wrong[0]}{more}; mend the files or take them out of split {dataset.split}"
            f" (`{command}` lists all)"
        )
    return found


def faults(images: Sequence[dict], found: Sequence[Looked]) -> list[str]:
    """What is wrong with a data set's pictures, one line with its path for each that is not good.
    found: what `sizes` says of each."""
    lines = (fault(image, size) for image, size in zip(images, found, strict=True))
    return [line for line in lines if line]


def fault(image: dict, size: Looked) -> str:
    """What is wrong with a picture (`file_name`, `width`, `height`) of which `sizes` says `size`;
    "" if nothing."""
    path, width, height = image["file_name"], image["width"], image["height"]
    if isinstance(size, str):
        return f"{path}: {size}"
    if size != (width, height):
        return (
            f"{path}: is {size[0]} x {size[1]} (after EXIF rotation), but the annotations say"
            f" {width} x {height}"
        )
    return ""


def sizes(
    paths: Sequence[str],
    whole: bool = False,
    again: bool = False,
    report: Callable[[int, int], object] | None = None,
) -> list[Looked]:
    """(width, height) after EXIF rotation of each picture, or why it cannot be read.

    whole: decode it to the end, else read the header; again: also what is remembered as good;
    report(done, total) is called on the way.
    """
    if not paths:
        return []
    memory = Memory(paths)
    step = CHUNK[whole]
    chunks = [paths[start : start + step] for start in range(0, len(paths), step)]
    found: list[Looked] = []
    with ThreadPoolExecutor((os.cpu_count() or 1) if whole else LOOKING) as pool:
        waiting = [pool.submit(_sizes, chunk, memory, whole, again) for chunk in chunks]
        try:
            for future in waiting:
                found += future.result()
                if report:
                    report(len(found), len(paths))
        finally:
            pool.shutdown(cancel_futures=True)
            memory.save()
    return found


def _sizes(paths: Sequence[str], memory: Memory, whole: bool, again: bool) -> list[Looked]:
    return [_size(path, memory, whole, again) for path in paths]


def _size(path: str, memory: Memory, whole: bool, again: bool) -> Looked:
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            return "not a file"
        known = None if again else memory.recall(path, state, whole)
        if known is None:
            known = read(path, whole)
            memory.note(path, state, known, whole)
        return known
    except FileNotFoundError:
        return "no such picture"
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # of the process, not of the picture
            raise InputError(
                f"{path}: {error.strerror}: allow more than `ulimit -n` says (now"
                f" {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}) and start again"
            ) from error
        return f"not a picture that can be read ({short(error)})"
    except Exception as error:  # Pillow raises many kinds on broken files
        return f"not a picture that can be read ({short(error)})"


def fault_now(image: dict) -> str:
    """What is wrong with one picture decoded to the end, as `fault`; nothing is
    remembered or recalled."""
    try:
        return fault(image, read(image["file_name"], whole=True))
    except Exception as error:
        return f"cannot read the picture {image['file_name']}: {short(error)}"


def read(path: str, whole: bool = False) -> tuple[int, int]:
    """(width, height) after EXIF rotation of one picture; raises whatever Pillow does. whole:
    decoded to the end."""
    with open_image(path) as picture:
        size = Size(upright_size(picture))
        size.turned = turned_unseen(picture)
        if whole:
            picture.load()
    return size


class Memory:
    """The good pictures below the folder that all `paths` share: path -> (bytes, time of change,
    width, height, flags), the last 1 for decoded whole plus 2 for `Size.turned`."""

    def __init__(self, paths: Sequence[str]):
        self.root = os.path.commonpath({os.path.dirname(os.path.abspath(path)) for path in paths})
        self.place = cache_file("looked-at", self.root, ".json")
        self.known = self._read()
        self.new: dict[str, list[int]] = {}

    def _read(self) -> dict[str, list[int]]:
        """What is remembered; nothing if the file is missing, damaged or about another folder."""
        try:
            content = json.loads(self.place.read_bytes())
            return dict(content["pictures"]) if content["root"] == self.root else {}
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return {}

    def _name(self, path: str) -> str:
        return os.path.abspath(path)[len(self.root) :]

    def recall(self, path: str, state: os.stat_result, whole: bool) -> tuple[int, int] | None:
        """(width, height) of a picture that was good and has not changed since; None where that is
        not known."""
        match self.known.get(self._name(path)):
            case [size, changed, width, height, int(flags)]:
                if (size, changed) == (state.st_size, state.st_mtime_ns) and (
                    flags & 1 or not whole
                ):
                    known = Size((width, height))
                    known.turned = bool(flags & 2)
                    return known
        return None

    def note(self, path: str, state: os.stat_result, size: tuple[int, int], whole: bool) -> None:
        """Remember a good picture, unless it could change once more without another time stamp."""
        if is_settled(state):
            flags = int(whole) + 2 * getattr(size, "turned", False)
            self.new[self._name(path)] = [state.st_size, state.st_mtime_ns, *size, flags]

    def save(self) -> None:
        """Written atomically. What another process has added meanwhile stays, except in the moment
        between: then it is looked at again, as it is where nothing can be written."""
        if not self.new:
            return
        known = self._read()
        for name, entry in self.new.items():
            before = known.get(name)
            # decoded whole counts for more
            if not (isinstance(before, list) and before[:4] == entry[:4] and not entry[4] & 1):
                known[name] = entry
        with suppress(OSError):
            write_atomic(self.place, json.dumps({"root": self.root, "pictures": known}))
