"""Narrow feature maps under autocast: results agree with float64, whatever values
lie in adjacent memory."""

import pytest
import torch
from torch import nn

from detco.transfer.engines import narrow


def poison():
    """Leave NaN in the memory that is handed out next."""
    for count in (64, 1024, 16384, 262144):
        torch.full((count,), float("nan"))


@pytest.mark.parametrize("size", [(3, 2), (6, 2), (4, 1), (1, 1)])
@pytest.mark.parametrize("width", [64, 256])
def test_strided_convolutions_of_narrow_maps_are_those_of_float64(size, width):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1))
    exact = nn.Conv2d(width, width, 3, 2, 1).double()
    exact.load_state_dict(model[0].state_dict())
    narrow.guard(model)
    x = torch.randn(2, width, *size, requires_grad=True)
    wanted = exact(y := x.detach().double().requires_grad_())
    wanted.square().sum().backward()
    for _ in range(3):
        x.grad = None
        model.zero_grad()
        poison()
        with torch.autocast("cpu", torch.bfloat16):
            found = model(x)
        found.square().sum().backward()
        pairs = ((found, wanted), (x.grad, y.grad), (model[0].weight.grad, exact.weight.grad))
        for ours, theirs in pairs:
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_other_convolutions_stay_as_they_are():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1, 2))
    narrow.guard(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert [layer(torch.ones(1, 8, 4, 3)).dtype for layer in model] == [torch.bfloat16] * 3
        assert [layer(torch.ones(1, 8, 4, 2)).dtype for layer in model] == [torch.float32] + [
            torch.bfloat16
        ] * 2
    before = model[0](torch.ones(1, 8, 4, 2))
    assert before.dtype == torch.float32 and torch.equal(
        before, nn.Conv2d.forward(model[0], torch.ones(1, 8, 4, 2))
    )
