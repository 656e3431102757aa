"""Keep a part of a detector as it is while the rest trains (a protocol's `freeze`)."""

from collections.abc import Iterable
from types import MethodType

from torch import nn


def freeze(parts: Iterable[nn.Module]) -> None:
    """No gradient for these modules, and evaluation mode even when the model around them trains:
    running statistics stay as they are, too."""
    for part in parts:
        part.requires_grad_(False).eval()
        # what `train` of the module around it calls
        part.train = MethodType(_stay, part)  # type: ignore[method-assign]


def _stay(part: nn.Module, mode: bool = True) -> nn.Module:
    return part
