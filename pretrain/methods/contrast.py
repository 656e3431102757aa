"""Momentum contrast: queues of keys, InfoNCE, the momentum update, and keys shuffled between groups
and processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """The last ``size`` keys of each level, first in first out; starts with random unit vectors.

    ``keys`` is (levels, dim, size); ``pointer`` is the column that the next key goes to.
    """

    def __init__(self, levels: int, dim: int, size: int):
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(levels, dim, size), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """keys (levels, n, dim), in the order in which they enter; of more than ``size`` only the
        last stay."""
        n, size = keys.shape[1], self.keys.shape[2]
        columns = (self.pointer + torch.arange(n, device=keys.device)) % size
        self.keys.index_copy_(
            2, columns[-size:], keys[:, -size:].transpose(1, 2).to(self.keys.dtype)
        )
        self.pointer.copy_((self.pointer + n) % size)


def info_nce(
    query: Tensor, positive: Tensor, queue: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """InfoNCE for each level, in float32: -log(exp(q.k+/t) / (exp(q.k+/t) + sum_j exp(q.k_j/t))), j
    over the queue.

    query, positive: (levels, n, dim), the positive without gradient; queue: (levels, dim, size).
    Returns the mean loss of each level, (levels,), and how many percent of the queries have a
    positive that beats every key of the queue, (levels,).
    """
    with torch.autocast(query.device.type, enabled=False):
        loss, wins = _InfoNCE.apply(query.float(), positive.float(), queue.float(), temperature)
    return loss.mean(-1), 100 * wins.mean(-1)


class _InfoNCE(torch.autograd.Function):
    """Loss of each query with its gradient, from parts of the queue in turn: the logits of all keys
    at once, and as many numbers more for the backward pass, would be gigabytes. The softmax is
    rescaled whenever a greater logit comes.

    With p the softmax over the positive and all keys, the gradient is (sum_j p_j k_j - k+) / t.
    """

    KEYS = 8192  # at a time

    @staticmethod
    def forward(
        ctx, query: Tensor, positive: Tensor, queue: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        match = (query * positive).sum(-1, keepdim=True) / temperature
        most, total, mean = match, torch.ones_like(match), positive
        wins = torch.ones_like(match)
        for keys in queue.split(_InfoNCE.KEYS, dim=2):
            logits = torch.bmm(query, keys).div_(temperature)
            here = logits.amax(-1, keepdim=True)
            wins = wins * (match > here)
            before, most = most, torch.maximum(most, here)
            weights, kept = logits.sub_(most).exp_(), (before - most).exp_()
            total = total * kept + weights.sum(-1, keepdim=True)
            mean = mean * kept + torch.bmm(weights, keys.transpose(1, 2))
        ctx.save_for_backward((mean / total - positive) / temperature)
        ctx.mark_non_differentiable(wins)
        return (most + total.log() - match).squeeze(-1), wins.squeeze(-1)

    @staticmethod
    def backward(ctx, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream.unsqueeze(-1) * gradient, None, None, None


@torch.no_grad()
def momentum_update(key: nn.Module, query: nn.Module, momentum: float) -> None:
    """key parameters <- momentum * key + (1 - momentum) * query. Buffers stay: the key's statistics
    are its own."""
    torch._foreach_lerp_(list(key.parameters()), list(query.parameters()), 1 - momentum)


def gather(x: Tensor, dim: int = 0) -> Tensor:
    """x of all processes, in the order of their ranks, along ``dim``; x itself if there
    is one process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    parts = [
        torch.empty_like(x, memory_format=torch.contiguous_format)
        for _ in range(dist.get_world_size())
    ]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, dim)


class Shuffle:
    """The batch of all processes in a random order, so that a key's group is not its query's
    (shuffling BN of MoCo).

    ``order`` is a permutation of the whole batch, the same on every process.
    """

    def __init__(self, order: Tensor):
        world = dist.get_world_size() if dist.is_initialized() else 1
        rank = dist.get_rank() if dist.is_initialized() else 0
        self.mine = order.chunk(world)[rank]
        self.back = order.argsort()

    def __call__(self, x: Tensor) -> Tensor:
        """This process' part, (n, ...), of the shuffled batch of all processes."""
        return gather(x)[self.mine]

    def undo(self, features: Tensor) -> Tensor:
        """Features (levels, n, dim) of the shuffled parts -> (levels, N, dim) of the whole batch,
        in its own order."""
        return gather(features, dim=1)[:, self.back]
