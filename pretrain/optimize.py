"""Precision, optimizer and learning rate of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import nn

from detco.common.device import fast_bf16

from .recipes import Recipe

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimizer."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters, recipe.lr, recipe.sgd_momentum, weight_decay=recipe.weight_decay, fused=True
    )


def precision(recipe: Recipe, device: torch.device) -> str:
    """What the recipe's precision means on this device: "auto" takes bf16 where it is fast, else
    fp16 on GPUs."""
    if recipe.precision != "auto":
        return recipe.precision
    if fast_bf16(device.type):
        return "bf16"
    return "fp16" if device.type == "cuda" else "float32"


def autocast(precision: str, device: torch.device):
    """A context in which the forward pass runs in this precision."""
    return (
        nullcontext() if precision == "float32" else torch.autocast(device.type, DTYPES[precision])
    )


def update(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, loss: torch.Tensor
) -> None:
    """Backward pass and one step of the optimizer."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Learning rate at ``epoch`` (a fraction counts): linear in the batch, warmed up, then cosine
    or in steps."""
    peak = recipe.lr * recipe.batch / recipe.lr_batch
    if epoch < recipe.warmup_epochs:
        return peak * (epoch + 1e-3) / recipe.warmup_epochs
    if recipe.schedule == "step":
        return peak * 0.1 ** sum(int(epoch) >= m for m in recipe.milestones)
    progress = (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
