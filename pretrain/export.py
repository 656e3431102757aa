"""The backbone file: torchvision's names (timm's of other networks than ResNets), float32, and
metadata that say how to use it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from detco.common.backbone_file import form_of, write_tensors

from .methods.stages import StagesTrunk


def write(path: Path, trunk: nn.Module, metadata: dict[str, str]) -> None:
    """Write the trunk's weights and running statistics with these metadata, whole or not at all."""
    form = form_of()
    if isinstance(trunk, StagesTrunk):
        form, trunk = form_of(trunk.family), trunk.net
    tensors = {
        name: value.float().contiguous().cpu()
        for name, value in trunk.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    write_tensors(path, tensors, form | metadata)
