"""The views of a picture: geometry on uint8 for each one; colour, blur and flip on whole batches on the device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.recipes import Recipe

MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255
STD = (58.395, 57.12, 57.375)

ORDERS = tuple(itertools.permutations(range(4)))  # of brightness, contrast, saturation, hue
GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision


def names(recipe: Recipe) -> tuple[str, ...]:
    """The views that a recipe needs."""
    if recipe.method == "supervised":
        return ("image",)
    return ("global_query", "global_key", *(("local_query", "local_key") if recipe.local else ()))


# ---- geometry: one picture at a time, uint8


def crop_box(rng: np.random.Generator, height: int, width: int, scale: tuple[float, float],
             ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random region, drawn as torchvision's RandomResizedCrop draws it."""
    areas = height * width * rng.uniform(*scale, 10)
    ratios = np.exp(rng.uniform(*np.log(ratio), 10))
    ws, hs = np.rint(np.sqrt(areas * ratios)).astype(int), np.rint(np.sqrt(areas / ratios)).astype(int)
    for w, h in zip(ws.tolist(), hs.tolist(), strict=True):
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))  # the whole, within the ratios
    return (height - h) // 2, (width - w) // 2, h, w


def resized_crop(picture: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """Region of a (3, h, w) uint8 picture at size x size, bilinear with antialiasing."""
    top, left, h, w = box
    region = picture[None, :, top : top + h, left : left + w]
    return F.interpolate(region, size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def jigsaw(region: Tensor, patch: int, rng: np.random.Generator) -> Tensor:
    """(3, s, s) -> (9, 3, patch, patch): one random crop from each cell of a 3 x 3 grid, in random order."""
    cell = region.shape[-1] // 3
    offsets = rng.integers(cell - patch + 1, size=(9, 2)).tolist()
    out = region.new_empty(9, 3, patch, patch)
    for i, (place, (dy, dx)) in enumerate(zip(rng.permutation(9).tolist(), offsets, strict=True)):
        y, x = i // 3 * cell + dy, i % 3 * cell + dx
        out[place] = region[:, y : y + patch, x : x + patch]
    return out


def cut(picture: Tensor, recipe: Recipe, rng: np.random.Generator) -> dict[str, Tensor]:
    """The views of a (3, h, w) uint8 picture: name -> uint8 (3, v, v), or (9, 3, p, p) for local ones."""
    views = {}
    for name in names(recipe):
        local = name.startswith("local")
        scale, size = (recipe.jigsaw_scale, recipe.jigsaw_size) if local else (recipe.crop_scale, recipe.view_size)
        region = resized_crop(picture, crop_box(rng, *picture.shape[1:], scale, recipe.crop_ratio), size)
        views[name] = jigsaw(region, recipe.patch_size, rng) if local else region
    return views


# ---- colour, blur, flip: whole batches of float pictures in 0..1, parameters (n,), as torchvision on tensors


def _per_sample(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)


def gray(x: Tensor) -> Tensor:
    """(n, 3, h, w) -> (n, 1, h, w)"""
    return (x * x.new_tensor(GRAY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * _per_sample(factor)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(x, gray(x).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(x, gray(x), factor)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(x), x, _per_sample(factor)).clamp_(0, 1)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by ``shift`` (-0.5..0.5, in turns).

    In HSV, a channel of a colour with hue h is v - v s max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6, with n = 5, 3, 1
    for red, green, blue: torchvision's piecewise conversion written without cases.
    """
    high, low = x.amax(1), x.amin(1)
    chroma = high - low
    red, green, blue = x.unbind(1)
    sextant = torch.where(high == red, green - blue, torch.where(high == green, blue - red, red - green))
    start = torch.where(high == red, 0.0, torch.where(high == green, 2.0, 4.0))
    hue = start + sextant / chroma.clamp_min(1e-8) + 6 * shift.view(-1, 1, 1)  # in sixths of a turn
    k = (hue[:, None] + hue.new_tensor((5, 3, 1)).view(1, 3, 1, 1)).remainder_(6)
    return high[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)


def gaussian_blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each picture with its own sigma (pixels); the kernel is cut at ``radius``, the borders are reflected."""
    n, c, h, w = x.shape
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma.view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)
    x = F.pad(x, (radius,) * 4, mode="reflect").view(1, n * c, h + 2 * radius, w + 2 * radius)
    x = F.conv2d(x, kernel.view(n * c, 1, -1, 1), groups=n * c)
    return F.conv2d(x, kernel.view(n * c, 1, 1, -1), groups=n * c).view(n, c, h, w)


JITTER = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


class Photometric:
    """The colour part of MoCo v2's augmentation for a batch: jitter in random order, grayscale, blur, flip, normalise.

    ``draws`` are uniform numbers in 0..1, (n, DRAWS), made with the geometry, so that they do not depend on the device.
    """

    DRAWS = 9

    def __init__(self, recipe: Recipe, local: bool):
        self.recipe = recipe
        self.blur_p = recipe.patch_blur_p if local else recipe.blur_p
        self.flip_p = recipe.patch_flip_p if local else recipe.flip_p

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """uint8 (n, 3, h, w) -> normalised float32 in channels_last."""
        x = images.float().div_(255)
        for step in self.steps(draws):
            x = step(x)
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) / 255 for v in (MEAN, STD))
        return x.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)

    def steps(self, draws: Tensor) -> Iterator:
        """The operations on the batch that the draws ask for, each on the pictures that it concerns."""
        r = self.recipe
        jittered = draws[:, 0] < r.jitter_p
        order = torch.tensor(ORDERS)[(draws[:, 1] * len(ORDERS)).long()]
        factors = draws[:, 2:6] * 2 - 1
        amount = torch.tensor(r.jitter)
        factors = torch.where(torch.arange(4) < 3, (1 + factors * amount).clamp_min(0), factors * amount)
        for place in range(4):
            for op, adjust in enumerate(JITTER):
                if r.jitter[op]:
                    yield _on(jittered & (order[:, place] == op), adjust, factors[:, op])
        yield _on(draws[:, 6] < r.gray_p, lambda x, _: gray(x).expand_as(x), draws[:, 6])
        low, high = r.blur_sigma
        sigma = low + (high - low) * draws[:, 7] / max(self.blur_p, 1e-9)
        yield _on(draws[:, 7] < self.blur_p, lambda x, s: gaussian_blur(x, s, int(3 * high + 0.5)), sigma)
        yield _on(draws[:, 8] < self.flip_p, lambda x, _: x.flip(-1), sigma)


def _on(mask: Tensor, operation, parameter: Tensor):
    """The operation on the pictures of the mask, in place."""
    chosen = mask.nonzero().squeeze(1)

    def step(x: Tensor) -> Tensor:
        if not len(chosen):
            return x
        index = chosen.to(x.device, non_blocking=True)
        return x.index_copy_(0, index, operation(x[index], parameter[chosen].to(x.device, non_blocking=True)))

    return step


def draw(recipe: Recipe, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The uniform numbers of the photometric operations of one picture's views: name -> (views, DRAWS)."""
    return {name: rng.random((9 if name.startswith("local") else 1, Photometric.DRAWS), dtype=np.float32)
            for name in names(recipe)}


def finish(batch: dict[str, Tensor], recipe: Recipe, device: torch.device) -> dict[str, Tensor]:
    """Cut uint8 views of a batch and their draws -> normalised float views on the device, ready for the encoders."""
    ready = {name: batch[name].to(device, non_blocking=True) for name in ("label",) if name in batch}
    for name in names(recipe):
        images = batch[name].to(device, non_blocking=True)
        local = images.dim() == 5
        flat = images.flatten(0, 1) if local else images
        flat = Photometric(recipe, local)(flat, batch[f"{name}_draws"])
        ready[name] = flat.unflatten(0, images.shape[:2]) if local else flat
    return ready
