"""The backbone file: torchvision's names, float32, and metadata that say how to use it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn


def write(path: Path, trunk: nn.Module, metadata: dict[str, str]) -> None:
    """Write the trunk's weights and running statistics with these metadata, whole or not at all."""
    tensors = {
        name: value.float().contiguous().cpu()
        for name, value in trunk.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(
        _bytes(tensors, {"format": "detco-backbone", "format_version": "1", **metadata})
    )
    os.replace(temporary, path)


def _bytes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The file's bytes with its metadata in sorted order: the library's order is random, and so
    would the sha256 be."""
    data = save(tensors, metadata)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
