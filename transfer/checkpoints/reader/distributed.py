"""Folders that torch.distributed.checkpoint writes, read without running anything in them.

`.metadata` is a pickle that says which tensors there are and where their pieces lie; each piece is
a torch file of its own within a `*.distcp` file.
"""

import hashlib
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.common.values import shown

from . import stubs, unpickle

METADATA, PIECES = ".metadata", "*.distcp"
NOT_ONE = "not the metadata of a torch.distributed.checkpoint folder"


@dataclass(frozen=True)
class Piece:
    """Where a part of a tensor lies in a file, and `offset`: its first element in the tensor."""

    file: str
    start: int
    length: int
    offset: tuple[int, ...]


def is_folder(path: Path) -> bool:
    return (path / METADATA).is_file() and any(path.glob(PIECES))


def digest_of(path: Path) -> str:
    """Of the metadata and all files beside it that hold pieces: sha256 of their hashes."""
    files = [path, *sorted(path.parent.glob(PIECES))]
    lines = [f"{file.name} {sha256_of(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read(path: Path, opened: Callable[[memoryview], Any]) -> dict[str, Any]:
    """What was saved, nested as it was. path: the `.metadata`; `opened` reads one piece. Raises
    InputError, without the file's name."""
    with open(path, "rb") as file:
        about = unpickle.load(file)
    if not isinstance(about, dict):
        raise InputError(NOT_ONE)
    described, stored = about.get("state_dict_metadata"), about.get("storage_data")
    routes = about.get("planner_data")
    if not isinstance(described, dict) or not isinstance(stored, dict):
        raise InputError(NOT_ONE)
    pieces = _pieces(stored)
    files = _Files(path.parent, opened)
    data: dict[str, Any] = {}
    for name, what in described.items():
        if type(name) is str and isinstance(what, dict):
            value = _whole(name, what.get("size"), pieces.get(name, []), files)
            _put(data, routes.get(name) if isinstance(routes, dict) else None, name, value)
    return data


def _pieces(stored: Mapping[Any, Any]) -> dict[str, list[Piece]]:
    """Name of a tensor or value -> its pieces."""
    found: dict[str, list[Piece]] = {}
    for key, place in stored.items():
        if not isinstance(key, dict) or not isinstance(place, dict):
            raise InputError(NOT_ONE)
        name: Any = key.get("fqn")
        offset: Any = key.get("offset") or ()
        file: Any = place.get("relative_path")
        start: Any = place.get("offset")
        length: Any = place.get("length")
        if place.get("transform_descriptors"):
            raise InputError(
                "its pieces were transformed (compressed) when they were saved; load it where it"
                " was made and save the state_dict() with torch.save"
            )
        sound = type(name) is str and type(file) is str and stubs.is_shape(offset)
        if not sound or not all(stubs.is_shape((n,)) for n in (start, length)):
            raise InputError(NOT_ONE)
        found.setdefault(name, []).append(Piece(file, start, length, offset))
    return found


class _Files:
    """The files that pieces lie in, each mapped once."""

    def __init__(self, folder: Path, opened: Callable[[memoryview], Any]):
        self.folder, self.opened = folder, opened
        self.mapped: dict[str, memoryview] = {}
        self.left = 0  # bytes that pieces may still take: each byte of a file belongs to one

    def value(self, piece: Piece) -> Any:
        if piece.file not in self.mapped:
            self.mapped[piece.file] = self._map(piece.file)
            self.left += len(self.mapped[piece.file])
        data = self.mapped[piece.file][piece.start : piece.start + piece.length]
        self.left -= piece.length
        if len(data) < piece.length or self.left < 0:
            raise InputError(f"truncated or damaged: {shown(piece.file)} is shorter than it says")
        return self.opened(data)

    def _map(self, name: str) -> memoryview:
        # only what `digest_of` covers, and nothing outside the folder
        plain = "\0" not in name and Path(name).name == name and Path(name).match(PIECES)
        if not plain or not (self.folder / name).is_file():
            raise InputError(f"there is no {shown(name)} beside it, which it lists")
        with open(self.folder / name, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _whole(name: str, size: Any, pieces: list[Piece], files: _Files) -> Any:
    """A tensor put together, or what else was saved under this name."""
    if not pieces:
        raise InputError(f"has no piece of {shown(name)}")
    if size is None:
        return files.value(pieces[0])
    if not stubs.is_shape(size):
        raise InputError(NOT_ONE)
    parts = list(_parts(name, pieces, files))
    if len(parts) == 1 and tuple(parts[0][1].shape) == size:
        return parts[0][1]
    whole_size = torch.Size(size)
    if sum(part.numel() for _, part in parts) != whole_size.numel():
        raise InputError(f"the pieces of {shown(name)} do not make up its shape {size}")
    whole = torch.empty(whole_size, dtype=parts[0][1].dtype)
    filled = torch.zeros(whole_size, dtype=torch.bool)
    for offset, part in parts:
        fits = len(offset) == part.ndim == len(size) and part.dtype == whole.dtype
        region = tuple(slice(at, at + n) for at, n in zip(offset, part.shape))
        if not fits or whole[region].shape != part.shape or filled[region].any():
            raise InputError(f"the pieces of {shown(name)} do not fit together")
        whole[region], filled[region] = part, True
    return whole


def _parts(
    name: str, pieces: list[Piece], files: _Files
) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
    for piece in pieces:
        part = files.value(piece)
        # an expanded tensor would claim more numbers than the piece has
        if not isinstance(part, torch.Tensor) or part.nbytes > piece.length:
            raise InputError(f"a piece of {shown(name)} is no tensor of its own")
        yield piece.offset, part


def _put(data: dict[str, Any], route: Any, name: str, value: Any) -> None:
    """Put a value where it was before the names were joined: {"model": {"conv1.weight": ...}};
    under its joined name where that is not said."""
    *folders, last = route if type(route) is tuple and route else (name,)
    for key in folders:
        data = data.setdefault(str(key), {})
        if not isinstance(data, dict):
            raise InputError(f"{shown(name)} lies within something that is no dictionary")
    data[str(last)] = value
