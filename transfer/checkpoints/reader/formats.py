"""Checkpoint files of any format opened as nested dictionaries of tensors, without running anything
in them.

What a file is, is told by its first bytes, not by its name. Tensors are views of the mapped file:
what is not used is never read.
"""

import io
import mmap
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detco.common.errors import InputError
from detco.common.values import shown

from . import distributed, folders, opcodes, stubs, tensors, unpickle

LARGEST_PICKLE = 1 << 27  # bytes of data.pkl in a torch file; ordinary ones have some 100 kB
LARGEST_NPZ = 1 << 30  # bytes, unpacked
HALF = ("damaged", "truncated", "not a whole")  # how messages about half a file begin
UNPACK = "unpack it and import the checkpoint in it"
NOT_CHECKPOINTS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file it points to: run `git lfs pull` where it came from",
    ),
    (b"\x1f\x8b", f"compressed with gzip: {UNPACK} (gunzip; tar xzf for a .tar.gz)"),
    (b"BZh", f"compressed with bzip2: {UNPACK} (bunzip2; tar xjf for a .tar.bz2)"),
    (b"\xfd7zXZ", f"compressed with xz: {UNPACK} (unxz; tar xJf for a .tar.xz)"),
    (b"\x28\xb5\x2f\xfd", f"compressed with zstd: {UNPACK} (unzstd)"),
    (b"7z\xbc\xaf", f"a 7z archive: {UNPACK}"),
    (b"Rar!", f"a rar archive: {UNPACK}"),
    (b"\x89HDF", "an HDF5 file (Keras): convert it to .npz or .pth with the project it comes from"),
)


@dataclass(frozen=True)
class Content:
    """`data`: what the file holds (dictionaries, lists, tensors, Inert); `metadata`: of a
    safetensors file."""

    format: str
    data: Any
    metadata: Mapping[str, str] = field(default_factory=dict)


def read(path: Path) -> Content:
    """Open a .pth, .pt, .ckpt, .torch, .pkl, .safetensors or .npz file, an index of shards, or a
    folder with one of them. Raises InputError: one line that says what is wrong."""
    path = folders.file_of(Path(path))
    if folders.is_index(path) and path.is_file():
        return Content("shards", folders.shards(path, read))
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    _refuse(path, head)
    try:
        if path.name == distributed.METADATA:
            return Content("distributed", distributed.read(path, _torch_piece))
        if head.startswith(b"PK\x03\x04"):
            return _zip(path)
        if head[8:9] == b"{":
            return _safetensors(path)
        return _stream(path)
    except InputError as error:
        what = str(error)
    except Exception as error:  # zipfile, numpy and torch raise many kinds for a hostile file
        what = f"damaged or truncated ({type(error).__name__}: {error})"
    again = "; copy or download it again" if what.startswith(HALF) else ""
    raise InputError(f"{path}: {shown(what, 250)}{again}")


def is_backbone_file(path: Path) -> bool:
    """Whether a file says that it is one of this project's backbone files."""
    from safetensors import SafetensorError, safe_open

    from detco.common.backbone_file import FORMAT

    if not Path(path).is_file():  # to open a pipe waits for ever
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT["format"]
    except (SafetensorError, OSError):
        return False


def _refuse(path: Path, head: bytes) -> None:
    """InputError for what is often saved under a checkpoint's name and is none."""
    if not head:
        raise InputError(f"{path} is empty")
    for start, what in NOT_CHECKPOINTS:
        if head.startswith(start):
            raise InputError(f"{path} is {what}")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<") and head[8:9] != b"{":
        raise InputError(
            f"{path} is a web page, not a checkpoint: the download gave an error or a login page"
        )
    if text.startswith((b"{", b"[")) and head[8:9] != b"{":
        raise InputError(f"{path} is a JSON text, not a checkpoint")
    if head[257:262] == b"ustar":
        raise InputError(
            f"{path} is a tar archive: {UNPACK} (tar xf); if torch before 0.2 wrote it, save the"
            " weights again with a newer one"
        )


def _safetensors(path: Path) -> Content:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())  # the file itself is no dictionary
            tensors = {name: file.get_tensor(name) for name in names}
            return Content("safetensors", tensors, file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"not a whole safetensors file: {error}") from None


# --- zip: torch since 1.6, and numpy's .npz ------------------------------------------------------


def _zip(path: Path) -> Content:
    with zipfile.ZipFile(path) as archive:
        entries = _entries(archive)
        if any(name.endswith(".npy") for name in entries):
            return _npz(path, entries)
        return _torch_zip(path, archive, entries)


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise InputError("an archive that holds a name twice: not written by torch or numpy")
    return entries


def _npz(path: Path, entries: Mapping[str, zipfile.ZipInfo]) -> Content:
    import numpy as np

    if sum(entry.file_size for entry in entries.values()) > LARGEST_NPZ:
        raise InputError(
            f"it says that it unpacks to more than {LARGEST_NPZ >> 30} GB; no backbone is that"
            " large"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            read = {name: file[name] for name in file.files}
    except (ValueError, MemoryError, KeyError) as error:
        why = str(error) or type(error).__name__
        raise InputError(f"not a .npz file of numbers: {why}") from None
    arrays = {
        name: value
        for name, value in read.items()
        if isinstance(value, np.ndarray) and value.dtype.name in stubs.KINDS
    }
    return Content(
        "numpy",
        {
            name: torch.from_numpy(v.astype(v.dtype.newbyteorder("="), copy=False))
            for name, v in arrays.items()
        },
    )


def _torch_zip(
    path: Path, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]
) -> Content:
    name = _pickle_in(entries)
    storages: dict[str, stubs.Storage] = {}
    pickled = io.BytesIO(archive.read(name))
    data = unpickle.load(pickled, storages)  # refuses what would exhaust torch as well
    pickled.seek(0)
    if opcodes.check(pickled) <= unpickle.PLAIN:  # torch would make other objects
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return Content(
                    "torch", torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                )
        except Exception:  # of any library: torch goes by the name's ending too
            pass  # damaged, or newer or older than this torch: our reader says what is wrong
    mapped = _map(path)
    _place(storages, mapped, archive, entries, name.removesuffix("data.pkl"))
    return Content("torch", tensors.Tensors(mapped).of(data))


def _torch_piece(piece: memoryview) -> Any:
    """What a torch file that lies within a larger file holds; tensors are views of it."""
    with zipfile.ZipFile(io.BytesIO(piece)) as archive:
        entries = _entries(archive)
        name = _pickle_in(entries)
        storages: dict[str, stubs.Storage] = {}
        data = unpickle.load(io.BytesIO(archive.read(name)), storages)
        _place(storages, piece, archive, entries, name.removesuffix("data.pkl"))
    return tensors.Tensors(piece).of(data)


def _pickle_in(entries: Mapping[str, zipfile.ZipInfo]) -> str:
    """The name of a torch file's pickle. Raises InputError for another archive."""
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if any(name.rpartition("/")[2] == "constants.pkl" for name in entries):
        raise InputError(
            "a TorchScript program, not weights: save model.state_dict() in the project it comes"
            " from"
        )
    if len(pickles) != 1:
        names = ", ".join(list(entries)[:3]) + (" ..." if len(entries) > 3 else "")
        raise InputError(
            f"a zip archive, but not one that torch.save or numpy.savez wrote; it holds"
            f" {names or 'nothing'}: {UNPACK} (unzip)"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise InputError(
            "a compressed zip archive; torch.save does not compress, so this is a packed folder or"
            " a trap"
        )
    if entries[pickles[0]].file_size > LARGEST_PICKLE:
        raise InputError(
            f"its pickle has {entries[pickles[0]].file_size >> 20} MB; a checkpoint's has less"
            " than one"
        )
    return pickles[0]


def _place(
    storages: Mapping,
    mapped: mmap.mmap | memoryview,
    archive: zipfile.ZipFile,
    entries: Mapping,
    folder: str,
) -> None:
    """Where in the file the numbers of each storage begin."""
    order = entries.get(folder + "byteorder")
    if order and archive.read(order) != b"little":
        raise InputError("written on a big-endian machine; save it again on an ordinary one")
    for storage in storages.values():
        entry = entries.get(f"{folder}data/{storage.key}")
        if entry is None or entry.file_size != storage.count * stubs.SIZES.get(storage.dtype, 1):
            raise InputError(
                f"damaged: the numbers of storage {storage.key[:40]!r} are missing or of another"
                " length"
            )
        storage.start = _start(mapped, entry)


def _start(mapped: mmap.mmap | memoryview, entry: zipfile.ZipInfo) -> int:
    """Offset of a stored entry's first byte: behind its local header, whose name and extra field
    have their own lengths."""
    header = entry.header_offset
    name, extra = (
        int.from_bytes(mapped[header + at : header + at + 2], "little") for at in (26, 28)
    )
    return header + 30 + name + extra


# --- pickles: torch before 1.6, Detectron2 -------------------------------------------------------


def _stream(path: Path) -> Content:
    with open(path, "rb") as file:
        first = unpickle.load(file)
        old_torch = isinstance(first, int) and first == unpickle.MAGIC
        data = unpickle.load_torch(file) if old_torch else first
    return Content("torch" if old_torch else "pickle", tensors.Tensors(_map(path)).of(data))


def _map(path: Path) -> mmap.mmap:
    """The file as memory; pages are read when used, and what is written to them stays in memory."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
