"""Convolutions of narrow feature maps in bfloat16 on a CPU: oneDNN gives wrong numbers there,
float32 takes their place."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

WIDEST = 2  # pixels of a feature map; from 3 on the numbers are right


def guard(model: nn.Module) -> None:
    """Let the strided convolutions of a model run in float32 where autocast on a CPU meets a map of
    up to 2 pixels' width.

    With AMX (oneDNN 3.12) kernels larger than 1 x 1 of stride 2 read memory beyond such a map:
    RetinaNet's p6 and p7 of small pictures, forward and backward, come out as NaN or as something
    else, another one in each run.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.stride[1] > 1 and module.kernel_size[1] > 1:
            module.forward = partial(_forward, module.forward)


def _forward(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.device.type != "cpu" or x.shape[-1] > WIDEST or not torch.is_autocast_enabled("cpu"):
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        return forward(x.float())
