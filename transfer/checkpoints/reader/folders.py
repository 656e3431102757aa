"""Checkpoints that are a folder or several files: a model of a hub, shards with an index,
DeepSpeed; torch's distributed format is read by `distributed`."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.common.values import shown

from . import distributed

INDEX = ".index.json"  # beside shards: {"weight_map": {name of a tensor: file}}
WHOLE = ("model.safetensors", "pytorch_model.bin")  # names that hubs give
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".torch", ".bin", ".pkl", ".tar", ".npz")
LARGEST = 1 << 24  # bytes of an index


def file_of(path: Path) -> Path:
    """The file that a folder means, its index where the weights are in shards; any other path as it
    is. Raises InputError where that is none or unclear."""
    if path.match(distributed.PIECES) and distributed.is_folder(path.parent):
        return path.parent / distributed.METADATA
    if not path.is_dir():
        return path
    if distributed.is_folder(path):
        return path / distributed.METADATA
    if states := _deepspeed(path):
        return states
    indices = sorted(path.glob("*" + INDEX))
    for found in (*(path / name for name in WHOLE), *indices[:1]):
        if found.is_file():
            return found
    files = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if len(files) == 1:
        return path / files[0]
    if files:
        listed = ", ".join(shown(name) for name in files[:5]) + (" ..." if len(files) > 5 else "")
        raise InputError(f"{path} is a folder with {len(files)} checkpoints ({listed}): name one")
    raise InputError(f"no checkpoint at {path} (it is a folder, and none of a known name is in it)")


def _deepspeed(path: Path) -> Path | None:
    """The weights in a folder that DeepSpeed wrote, which names the newest step in `latest`."""
    if (path / "latest").is_file():
        step = (path / "latest").read_bytes()[:200].decode(errors="replace").strip()
        if step in (".", "..") or Path(step).name != step:  # the step lies in the folder
            return None
        path = path / step
    states, several = (path / f"mp_rank_0{n}_model_states.pt" for n in (0, 1))
    if several.is_file() or list(path.glob("zero_pp_rank_*_model_states.pt")):
        raise InputError(
            f"{path} holds weights that DeepSpeed split between processes: make them one file with"
            " the zero_to_fp32.py that lies beside them, and import that"
        )
    return states if states.is_file() else None


def is_index(path: Path) -> bool:
    return path.name.endswith(INDEX)


def shards(path: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    """The tensors of all shards that an index lists; `read` opens one. Raises InputError."""
    files = _files(path)
    merged: dict[str, Any] = {}
    for file in sorted(set(files.values())):
        if not (path.parent / file).is_file():
            raise InputError(f"{path}: there is no {shown(file)} beside it, which it lists")
        found = read(path.parent / file).data
        listed = [name for name, where in files.items() if where == file]
        missing = [name for name in listed if not isinstance(found, dict) or name not in found]
        if missing:
            raise InputError(f"{path}: {shown(missing[0])} is not in {shown(file)}, as it says")
        merged |= {name: found[name] for name in listed}
    return merged


def _files(path: Path) -> dict[str, str]:
    """Name of a tensor -> name of its file, which lies beside the index."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError
        files = json.loads(path.read_bytes())["weight_map"]
        sound = all(_is_plain(name) for name in files.values())
        if not files or not sound:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(
            f"{path} is no index of shards: it has no weight_map from names to files beside it"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return files


def _is_plain(name: Any) -> bool:
    """Whether this is the name of a file beside the index, and not of another index."""
    plain = type(name) is str and Path(name).name == name and name not in ("", ".", "..")
    return plain and "\0" not in name and not name.endswith(INDEX)


def name_of(path: Path) -> str:
    """What a checkpoint is called: its file, the folder of a distributed one."""
    return path.absolute().parent.name if path.name == distributed.METADATA else path.name


def digest_of(path: Path) -> str:
    """sha256 of a file; of an index or a distributed checkpoint: of the hashes of all its files."""
    if path.name == distributed.METADATA:
        return distributed.digest_of(path)
    if not is_index(path):
        return sha256_of(path)
    lines = [
        f"{name} {sha256_of(path.parent / name)}" for name in sorted(set(_files(path).values()))
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
