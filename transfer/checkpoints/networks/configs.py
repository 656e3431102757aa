"""What the configs beside a checkpoint say of its network: those of Hugging Face's transformers and
of timm (`config.json`), of open_clip and of image processors."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detco.common.errors import InputError
from detco.common.values import shown

CONFIGS = ("config.json", "open_clip_config.json")
PROCESSOR = "preprocessor_config.json"
LARGEST = 1 << 20  # bytes
ACTIVATIONS = {  # as configs call them -> as timm does
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
}


@dataclass(frozen=True)
class Said:
    """`arch`: timm's name; `heads` 0, `norm_eps` 0, others empty: not said. mean, std: 0..255."""

    arch: str = ""
    heads: int = 0
    norm_eps: float = 0.0
    activation: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def read(path: Path) -> Said:
    """What stands beside a checkpoint. Raises InputError, without its name, for a config that is
    broken or says what cannot be."""
    config: dict = {}
    for name in CONFIGS:
        config = config or _json(path.parent / name)
    pixels = _json(path.parent / PROCESSOR)
    own = _dict(config.get("pretrained_cfg")) or _dict(config.get("preprocess_cfg"))
    vision = _dict(config.get("vision_config")) or config
    mean = _numbers(pixels.get("image_mean") or own.get("mean"))
    std = _numbers(pixels.get("image_std") or own.get("std"))
    if bool(mean) != bool(std) or (std and min(std) <= 0):
        raise InputError("has a config beside it whose mean and std of pixels make no sense")
    arch = config.get("architecture", "")
    return Said(
        arch.partition(".")[0] if isinstance(arch, str) else "",
        int(_number(vision.get("num_attention_heads"), 1, 1000)),
        _number(vision.get("layer_norm_eps"), 1e-15, 0.1),
        _activation(vision),
        mean,
        std,
    )


def _activation(config: Mapping) -> str:
    said = config.get("hidden_act", "")
    if not said:
        return ""
    if not isinstance(said, str) or said not in ACTIVATIONS:
        raise InputError(
            f"has a config beside it with activation {shown(str(said))}; known:"
            f" {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[said]


def _json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        with open(path, "rb") as file:
            return _dict(json.loads(file.read(LARGEST)))
    except (ValueError, RecursionError):
        raise InputError(f"has a broken {path.name} beside it (no JSON)") from None


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _number(value: Any, low: float, high: float) -> float:
    """0 for what is no number in the range."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return value if right else 0


def _numbers(value: Any) -> tuple[float, ...]:
    """Three numbers from 0 to 1 as 0 to 255."""
    if not isinstance(value, list) or len(value) != 3:
        return ()
    if not all(isinstance(v, int | float) and math.isfinite(v) and abs(v) <= 1 for v in value):
        return ()
    return tuple(round(255 * v, 6) for v in value)
