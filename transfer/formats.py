"""Checkpoint files of any format opened as nested dictionaries of tensors, without running anything in them.

What a file is, is told by its first bytes, not by its name. Tensors are views of the mapped file: what is not used is never read.
"""

import io
import math
import mmap
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import InputError, unpickle

LARGEST_PICKLE = 1 << 27  # bytes of data.pkl in a torch file; ordinary ones have some 100 kB
LARGEST_NPZ = 1 << 31  # bytes, unpacked
NOT_CHECKPOINTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to: run `git lfs pull` where it came from"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"\x89HDF", "an HDF5 file (Keras): convert it to .npz or .pth with the project it comes from"),
)


@dataclass(frozen=True)
class Content:
    """`data`: what the file holds (dictionaries, lists, tensors, Inert); `metadata`: of a safetensors file."""

    format: str
    data: Any
    metadata: Mapping[str, str] = field(default_factory=dict)


def read(path: Path) -> Content:
    """Open a .pth, .pt, .ckpt, .torch, .pkl, .safetensors or .npz file. Raises InputError: one line that says what is wrong."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}" + (" (it is a folder)" if path.is_dir() else ""))
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    _refuse(path, head)
    try:
        if head.startswith(b"PK\x03\x04"):
            return _zip(path)
        if head[8:9] == b"{":
            return _safetensors(path)
        return _stream(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def is_backbone_file(path: Path) -> bool:
    """Whether a file says that it is one of this project's backbone files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == "detco-backbone"
    except (SafetensorError, OSError):
        return False


def _refuse(path: Path, head: bytes) -> None:
    """InputError for what is often saved under a checkpoint's name and is none."""
    if not head:
        raise InputError(f"{path} is empty")
    for start, what in NOT_CHECKPOINTS:
        if head.startswith(start):
            raise InputError(f"{path} is {what}")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{path} is a web page, not a checkpoint: the download gave an error or a login page")
    if text.startswith((b"{", b"[")) and head[8:9] != b"{":
        raise InputError(f"{path} is a JSON text, not a checkpoint")
    if head[257:262] == b"ustar":
        raise InputError(f"{path} is a tar archive (torch before 0.2, or a packed folder): save the weights again with torch.save")


def _safetensors(path: Path) -> Content:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return Content("safetensors", {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"not a whole safetensors file: {error}") from None


# --- zip: torch since 1.6, and numpy's .npz --------------------------------------------------------------------------


def _zip(path: Path) -> Content:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) < len(archive.infolist()):
                raise InputError("an archive that holds a name twice: not written by torch or numpy")
            if any(name.endswith(".npy") for name in entries):
                return _npz(path, entries)
            return _torch_zip(path, archive, entries)
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"a damaged or truncated file: {error}") from None


def _npz(path: Path, entries: Mapping[str, zipfile.ZipInfo]) -> Content:
    import numpy as np

    if sum(entry.file_size for entry in entries.values()) > LARGEST_NPZ:
        raise InputError(f"it says that it unpacks to more than {LARGEST_NPZ >> 30} GB; no backbone is that large")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            numbers = {name: arrays[name] for name in arrays.files}
    except (ValueError, MemoryError, KeyError) as error:
        raise InputError(f"not a .npz file of numbers: {error}") from None
    return Content("numpy", {k: torch.from_numpy(v) for k, v in numbers.items() if v.dtype.kind in "iufb"})


def _torch_zip(path: Path, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> Content:
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if any(name.rpartition("/")[2] == "constants.pkl" for name in entries):
        raise InputError("a TorchScript program, not weights: save model.state_dict() in the project it comes from")
    if len(pickles) != 1:
        raise InputError("a zip archive, but not one that torch.save or numpy.savez wrote")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise InputError("a compressed zip archive; torch.save does not compress, so this is a packed folder or a trap")
    if entries[pickles[0]].file_size > LARGEST_PICKLE:
        raise InputError(f"its pickle has {entries[pickles[0]].file_size >> 20} MB; a checkpoint's has less than one")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Content("torch", torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except (pickle.UnpicklingError, RuntimeError, *unpickle.DAMAGE):
        pass  # more than tensors and plain containers in it, or damaged: read without making any of it
    return _without_objects(path, archive, entries, pickles[0])


def _without_objects(path: Path, archive: zipfile.ZipFile, entries: Mapping, name: str) -> Content:
    storages: dict[str, unpickle.Storage] = {}
    data = unpickle.load(io.BytesIO(archive.read(name)), storages)
    folder = name.removesuffix("data.pkl")
    order = entries.get(folder + "byteorder")
    if order and archive.read(order) != b"little":
        raise InputError("written on a big-endian machine; save it again on an ordinary one")
    mapped = _map(path)
    for storage in storages.values():
        entry = entries.get(f"{folder}data/{storage.key}")
        if entry is None or entry.file_size != storage.count * unpickle.SIZES.get(storage.dtype, 1):
            raise InputError(f"damaged: the numbers of storage {storage.key[:40]!r} are missing or of another length")
        storage.start = _start(mapped, entry)
    return Content("torch", _Tensors(mapped).of(data))


def _start(mapped: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Offset of a stored entry's first byte: behind its local header, whose name and extra field have their own lengths."""
    header = entry.header_offset
    name, extra = (int.from_bytes(mapped[header + at : header + at + 2], "little") for at in (26, 28))
    return header + 30 + name + extra


# --- pickles: torch before 1.6, Detectron2 -----------------------------------------------------------------------------


def _stream(path: Path) -> Content:
    with open(path, "rb") as file:
        first = unpickle.load(file)
        old_torch = isinstance(first, int) and first == unpickle.MAGIC
        data = unpickle.load_torch(file) if old_torch else first
    return Content("torch" if old_torch else "pickle", _Tensors(_map(path)).of(data))


# --- descriptions of tensors -> tensors ------------------------------------------------------------------------------


def _map(path: Path) -> mmap.mmap:
    """The file as memory; pages are read when used, and what is written to them stays in memory."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


class _Tensors:
    """Replaces descriptions of tensors and arrays by tensors, all the way down; each container once."""

    def __init__(self, mapped: mmap.mmap):
        self.bytes = torch.frombuffer(mapped, dtype=torch.uint8)
        self.seen: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        waiting = [(holder := [value], 0)]
        for container, key in waiting:  # grows while it is walked: no recursion, so no depth is too deep
            item = container[key]
            if isinstance(item, unpickle.Lazy):
                container[key] = self.tensor(item)
            elif isinstance(item, unpickle.Array):
                container[key] = _array(item)
            elif isinstance(item, dict | list) and id(item) not in self.seen:
                self.seen[id(item)] = item
                waiting += [(item, k) for k in (list(item) if isinstance(item, dict) else range(len(item)))]
        return holder[0]

    def tensor(self, lazy: unpickle.Lazy) -> torch.Tensor:
        storage, item = lazy.storage, unpickle.SIZES.get(lazy.dtype, 1)
        count = storage.count * unpickle.SIZES.get(storage.dtype, 1) // item
        last = lazy.offset + sum((n - 1) * step for n, step in zip(lazy.shape, lazy.stride)) + 1
        if storage.start is None:
            raise InputError(f"truncated or damaged: storage {storage.key[:40]!r} is not in the file")
        if math.prod(lazy.shape) and (last > count or math.prod(lazy.shape) > last - lazy.offset):
            raise InputError(f"damaged: a tensor of shape {lazy.shape} reaches outside its {count} numbers")
        source = self.bytes if storage.data is None else torch.frombuffer(bytearray(storage.data), dtype=torch.uint8)
        numbers = source[storage.start : storage.start + count * item]
        if len(numbers) != count * item:
            raise InputError(f"truncated: it ends before storage {storage.key[:40]!r} does")
        if storage.start % item:
            numbers = numbers.clone()
        numbers = numbers.view(getattr(torch, lazy.dtype))
        return numbers.as_strided(lazy.shape, lazy.stride, numbers.storage_offset() + lazy.offset)


def _array(array: unpickle.Array) -> torch.Tensor | None:
    """None for an array of something else than numbers."""
    try:
        return torch.from_numpy(array.read())
    except (ValueError, TypeError):
        return None
