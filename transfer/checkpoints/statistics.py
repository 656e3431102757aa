"""What a network's normalisation says about its training: on which pixels, or that there was none.

The variance that `bn1` counted is that of conv1's output. It follows from conv1's weights and from
how alike neighbouring pixels of photographs are, up to the scale of the pixels. Decimal logarithm
of counted over expected variance, median over channels, measured for networks at their start (48
photographs) and after 120 iterations (others): 0.13 and 0.07 for pixels normalised per channel,
3.65 and 3.59 for 0..255, -1.13 and -1.20 for 0..1, -0.56 for -1..1 (start); channels differ by 0.3
at most.
"""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

NORMALISED, BYTES, UNIT, UNCLEAR = "normalised", "0..255", "0..1", ""
# half way between the measured logarithms, in the order of the scales
UNIT_FROM, NORMALISED_FROM, BYTES_FROM, BYTES_TO = -2.0, -0.85, 1.9, 5.4
# variances after a learnt scale, where the counted ones were multiplied into it: 0.001 to 2
FOLDED_FROM, FOLDED_TO = -2.3, 1.0
PER_PIXEL = 0.04  # correlation of pixels at a distance d: exp(-0.04 d)
CHANNELS = ((1.0, 0.90, 0.80), (0.90, 1.0, 0.91), (0.80, 0.91, 1.0))  # red, green, blue
ONE = 1e-3  # a variance this near to 1 is 1: some projects take `eps` off


def pixels(tensors: Mapping[str, Tensor]) -> str:
    """The scale of the pixels that a network was trained on: NORMALISED, BYTES, UNIT or UNCLEAR.
    tensors: torchvision's names, whole."""
    weight, variance = tensors["conv1.weight"].double(), tensors["bn1.running_var"].double()
    expected = _expected(weight)
    if min(float(expected.min()), float(variance.min())) <= 0:
        return UNCLEAR
    if affine(tensors):
        scale = tensors["bn1.weight"].double().abs().clamp(min=1e-30)
        found = float((scale**2 * expected).log10().median())
        if FOLDED_FROM < found < FOLDED_TO:
            return NORMALISED
        return BYTES if found <= FOLDED_FROM and found > FOLDED_FROM - 4 else UNCLEAR
    ratio = (variance / expected).log10()
    found = float(ratio.median())
    if float(ratio.quantile(0.9) - ratio.quantile(0.1)) > 2:
        return UNCLEAR  # no photographs, or hardly trained
    if found < NORMALISED_FROM:
        return UNIT if found > UNIT_FROM else UNCLEAR
    if found < BYTES_FROM:
        return NORMALISED
    return BYTES if found < BYTES_TO else UNCLEAR


def affine(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every normalisation has mean 0 and variance 1: its statistics were multiplied into
    scale and bias, or it never saw an image."""
    means = [value for name, value in tensors.items() if name.endswith("running_mean")]
    variances = [value for name, value in tensors.items() if name.endswith("running_var")]
    zero = all(not value.any() for value in means)
    return zero and all(bool(((value - 1).abs() < ONE).all()) for value in variances)


def untrained(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are initial weights: nothing counted, and scales and biases all 0 or 1."""
    norms = ("bn1", "bn2", "bn3", "downsample.1")
    learnt = [
        value
        for name, value in tensors.items()
        if name.rpartition(".")[0].endswith(norms) and name.endswith(("weight", "bias"))
    ]
    return affine(tensors) and all(bool(((v == 0) | (v == 1)).all()) for v in learnt)


def _expected(weight: Tensor) -> Tensor:
    """Variance of each output of a convolution over normalised photographs."""
    flat = weight.flatten(1)
    return torch.einsum("oi,ij,oj->o", flat, _covariance(weight.shape[-1]), flat)


@cache
def _covariance(size: int) -> Tensor:
    """Of the pixels of a patch, by channel, row and column."""
    side = torch.arange(size, dtype=torch.float64)
    places = torch.cartesian_prod(side, side)
    near = torch.exp(-PER_PIXEL * torch.cdist(places, places))
    return torch.kron(torch.tensor(CHANNELS, dtype=torch.float64), near)
