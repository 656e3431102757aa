import numpy as np
import pytest
import torch

from detco.pretrain.methods import contrast
from detco.pretrain.methods.contrast import Queue, info_nce, momentum_update


def naive_info_nce(query, positive, queue, t):
    """One row at a time, as written in the papers, in float64."""
    losses, wins = [], []
    for q, k in zip(query, positive, strict=True):
        negatives = [np.exp(q @ queue[:, j] / t) for j in range(queue.shape[1])]
        match = np.exp(q @ k / t)
        losses.append(-np.log(match / (match + sum(negatives))))
        wins.append(match > max(negatives))
    return np.mean(losses), np.mean(wins)


def unit(*shape, axis=-1):
    x = torch.randn(*shape)
    return x / x.norm(dim=axis, keepdim=True)


@pytest.fixture(params=[8192, 16])
def keys_at_a_time(request, monkeypatch):
    """The whole queue at once, and in parts."""
    monkeypatch.setattr(contrast._InfoNCE, "KEYS", request.param)


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_info_nce_against_naive_numpy(size, temperature, keys_at_a_time):
    torch.manual_seed(0)
    query, positive, queue = unit(3, 6, 8), unit(3, 6, 8), unit(3, 8, size, axis=1)
    loss, accuracy = info_nce(query, positive, queue, temperature)
    for level in range(3):
        expected = naive_info_nce(
            *(x[level].double().numpy() for x in (query, positive, queue)), temperature
        )
        assert loss[level].item() == pytest.approx(expected[0], rel=1e-5)
        assert accuracy[level].item() == pytest.approx(100 * expected[1])


def test_info_nce_gradient_is_that_of_cross_entropy_over_positive_and_queue(keys_at_a_time):
    torch.manual_seed(0)
    query, positive, queue = unit(2, 5, 8), unit(2, 5, 8), unit(2, 8, 40, axis=1)
    a, b = query.clone().requires_grad_(), query.clone().requires_grad_()
    weights = torch.tensor([0.3, 2.0])
    (info_nce(a, positive, queue, 0.2)[0] * weights).sum().backward()
    for level in range(2):
        logits = (
            torch.cat(
                [(b[level] * positive[level]).sum(1, keepdim=True), b[level] @ queue[level]], 1
            )
            / 0.2
        )
        loss = (
            torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
            * weights[level]
        )
        loss.backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_info_nce_of_logits_beyond_the_range_of_exp(keys_at_a_time):
    """At a temperature of 0.005 logits reach 200: e^200 is no float32."""
    query = torch.tensor([[[1.0, 0.0]]]).requires_grad_()
    queue = torch.stack([torch.linspace(-1, 1, 50), torch.zeros(50)])[None]
    loss, accuracy = info_nce(query, torch.tensor([[[0.9, 0.1]]]), queue, 0.005)
    loss.sum().backward()
    logits = np.concatenate([[0.9], np.linspace(-1, 1, 50)]).astype(np.float64) / 0.005
    assert (
        loss.item() == pytest.approx(np.logaddexp.reduce(logits) - logits[0], rel=1e-5)
        and accuracy.item() == 0
    )
    assert torch.isfinite(query.grad).all()


def test_info_nce_is_in_float32_under_autocast():
    torch.manual_seed(0)
    query, positive, queue = unit(1, 4, 128), unit(1, 4, 128), unit(1, 128, 64, axis=1)
    plain = info_nce(query, positive, queue, 0.07)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = info_nce(query, positive, queue, 0.07)[0]
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, rtol=0, atol=0)


@pytest.mark.parametrize("size, batch", [(8, 4), (10, 4), (4, 4), (3, 5)])
def test_queue_is_first_in_first_out(size, batch):
    torch.manual_seed(0)
    queue = Queue(2, 3, size)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(2, size))
    expected, pointer = queue.keys.numpy().copy(), 0
    for _ in range(5):
        keys = torch.randn(2, batch, 3)
        queue.enqueue(keys)
        for i in range(batch):
            expected[:, :, pointer] = keys[:, i].numpy()
            pointer = (pointer + 1) % size
        np.testing.assert_array_equal(queue.keys.numpy(), expected)
        assert queue.pointer.item() == pointer


def test_follow_moves_parameters_not_statistics():
    torch.manual_seed(0)
    key, query = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)) for _ in range(2)
    )
    query[1].running_mean.fill_(5.0)
    before = [p.detach().numpy().astype(np.float64) for p in key.parameters()]
    momentum_update(key, query, 0.9)
    for old, new, q in zip(before, key.parameters(), query.parameters(), strict=True):
        np.testing.assert_allclose(
            new.detach().numpy(), 0.9 * old + 0.1 * q.detach().numpy(), rtol=1e-6, atol=1e-7
        )
    assert key[1].running_mean.abs().max() == 0
