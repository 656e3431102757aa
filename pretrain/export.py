"""The backbone file: torchvision's names, float32, and metadata that say how to use it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from detco.common.backbone_file import FORMAT, write_tensors


def write(path: Path, trunk: nn.Module, metadata: dict[str, str]) -> None:
    """Write the trunk's weights and running statistics with these metadata, whole or not at all."""
    tensors = {
        name: value.float().contiguous().cpu()
        for name, value in trunk.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    write_tensors(path, tensors, FORMAT | metadata)
