"""Whether bfloat16 is fast on a device."""

from __future__ import annotations

CPU_FEATURES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def fast_bf16(device: str) -> bool:
    """Whether `cpu` or `cuda` multiplies bfloat16 in hardware. Emulation is slower than float32."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # A torch that lacks one of the questions was built for a processor without the feature.
    return device == "cpu" and any(getattr(torch.cpu, name, bool)() for name in CPU_FEATURES)
