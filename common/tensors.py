"""Tensors with texts about them in one safetensors file: the form of files between packages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

BACKBONE = {"format": "detco-backbone", "format_version": "1"}  # metadata of every backbone file


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all; the same content gives the same bytes (the
    library's order of metadata is random). Raises OSError."""
    from safetensors.torch import save

    data = memoryview(save(dict(tensors), dict(metadata)))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8 : 8 + length]))
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts = (len(text).to_bytes(8, "little"), text, data[8 + length :])
    write_atomic(path, lambda file: file.writelines(parts))
