"""Small networks of timm, one of each family, and protocols on them."""

from pathlib import Path

from detco.common import backbone_file
from detco.common.backbone_file import Backbone

TINY = {
    "vit_tiny_patch16_224": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "vit_small_patch14_dinov2": {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 70},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "swin_tiny_patch4_window7_224": {"depths": [1, 1, 2, 1], "embed_dim": 24},
}


def drawn(arch: str, seed: int = 0) -> Backbone:
    return backbone_file.random_backbone(arch, seed, TINY[arch])


def file_of(arch: str, folder: Path) -> Path:
    path = folder / f"{arch}.safetensors"
    backbone_file.write(path, drawn(arch))
    return path
