"""The backbone file: torchvision's names (timm's of other networks than ResNets), float32, and
metadata that say how to use it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from detco.common.backbone_file import FORMAT, OTHERS, write_tensors
from detco.common.networks import key_of

from .methods.stages import StagesTrunk


def write(path: Path, trunk: nn.Module, metadata: dict[str, str]) -> None:
    """Write the trunk's weights and running statistics with these metadata, whole or not at all."""
    form = FORMAT | {"stride_in": "3x3"}
    if isinstance(trunk, StagesTrunk):
        form = OTHERS | {"family": trunk.family, "model_args": key_of({})}
        trunk = trunk.net
    tensors = {
        name: value.float().contiguous().cpu()
        for name, value in trunk.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    write_tensors(path, tensors, form | metadata)
