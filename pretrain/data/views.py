"""The views of a picture: geometry on uint8 for each one; colour, blur and flip on whole batches on
the device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import RandAugment
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from detco.common.resnet import IMAGENET_MEAN, IMAGENET_STD

from ..recipes import Recipe

ORDERS = tuple(itertools.permutations(range(4)))  # of brightness, contrast, saturation, hue
GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision


def names(recipe: Recipe) -> tuple[str, ...]:
    """The views that a recipe needs."""
    if not recipe.traits.has_keys:
        return ("image",)
    return ("global_query", "global_key", *(("local_query", "local_key") if recipe.local else ()))


# ---- geometry: one picture at a time, uint8


def crop_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random region, drawn as torchvision's
    RandomResizedCrop draws it."""
    least, most = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * rng.random())
        aspect = math.exp(least + (most - least) * rng.random())
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int((height - h + 1) * rng.random()), int((width - w + 1) * rng.random()), h, w
    # the whole, within the ratios
    w, h = (
        min(width, round(height * ratio[1])),
        min(height, round(width / ratio[0])),
    )
    return (height - h) // 2, (width - w) // 2, h, w


def resized_crop(picture: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """Region of a (3, h, w) uint8 picture at size x size, bilinear with antialiasing."""
    top, left, h, w = box
    region = picture[None, :, top : top + h, left : left + w]
    return F.interpolate(
        region, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )[0]


def jigsaw(region: Tensor, patch: int, rng: np.random.Generator, shuffle: bool = True) -> Tensor:
    """(3, s, s) -> (9, 3, patch, patch): one random crop from each cell of a 3 x 3 grid, in random
    order or row by row."""
    cell = region.shape[-1] // 3
    order = rng.permutation(9).tolist() if shuffle else range(9)
    offsets = rng.integers(cell - patch + 1, size=(9, 2)).tolist()
    corners = [(i // 3 * cell + y, i % 3 * cell + x) for i, (y, x) in enumerate(offsets)]
    return torch.stack(
        [region[:, y : y + patch, x : x + patch] for y, x in (corners[i] for i in order)]
    )


def cut(picture: Tensor, recipe: Recipe, rng: np.random.Generator) -> dict[str, Tensor]:
    """The views of a (3, h, w) uint8 picture: name -> uint8 (3, v, v), or (9, 3, p, p)
    for local ones."""
    views = {}
    for name in names(recipe):
        local = name.startswith("local")
        scale, size = (
            (recipe.jigsaw_scale, recipe.jigsaw_size)
            if local
            else (recipe.crop_scale, recipe.view_size)
        )
        region = resized_crop(
            picture, crop_box(rng, *picture.shape[1:], scale, recipe.crop_ratio), size
        )
        view = (
            jigsaw(region, recipe.patch_size, rng, recipe.patch_order == "picture")
            if local
            else region
        )
        views[name] = randaugment(view, *recipe.randaugment, rng) if recipe.randaugment[0] else view
    return views


def randaugment(view: Tensor, operations: int, magnitude: int, rng: np.random.Generator) -> Tensor:
    """torchvision's RandAugment on a uint8 view, (3, v, v), or on each patch of (9, 3, p,
    p) by itself."""
    augment = RandAugment(operations, magnitude)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the state of the process
        torch.manual_seed(int(rng.integers(2**62)))
        images = [
            pil_to_tensor(augment(to_pil_image(image))) for image in view.view(-1, *view.shape[-3:])
        ]
    return torch.stack(images).view(view.shape)


# ---- colour, blur, flip: batches of float pictures (n, 3, h, w) in 0..1, parameters (n,), as
# torchvision on tensors. Each may overwrite its input.


def _per_sample(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)


def gray(x: Tensor) -> Tensor:
    """(n, 3, h, w) -> (n, 1, h, w)"""
    red, green, blue = x.split(1, 1)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    return x.mul_(_per_sample(factor)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = gray(x.mean((2, 3), keepdim=True))
    return x.mul_(_per_sample(factor)).add_(mean.mul_(_per_sample(1 - factor))).clamp_(0, 1)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    return x.lerp_(gray(x), _per_sample(1 - factor)).clamp_(0, 1)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by ``shift`` (in turns).

    HSV's piecewise conversion written without cases. With the hue h in sixths of a turn and the
    chroma c, from red: c |h| = green + blue - red + high - 2 low, with the sign of green - blue.
    Back, a channel is low at the colour opposite to its own and up to a sixth of a turn from there,
    high from two sixths on.
    """
    red, green, blue = x.unbind(1)
    high, low = (most(most(red, green), blue) for most in (torch.maximum, torch.minimum))
    chroma = high - low
    hue = (green + blue).sub_(red).add_(high).sub_(low, alpha=2).copysign_(green - blue)
    turned = (shift.view(-1, 1, 1) + 0.5).remainder(1) + 1  # hues are counted from cyan, 0..1
    hue = torch.addcdiv(turned, hue, chroma.clamp_min(1e-8), value=1 / 6).frac_()
    below, above = low - chroma, low.add_(chroma, alpha=2)
    for channel, start, middle, slope in (
        (red, above, 1 / 2, -6),
        (green, below, 1 / 3, 6),
        (blue, below, 2 / 3, 6),
    ):
        torch.addcmul(
            start, chroma, (hue - middle).abs_().clamp_(1 / 6, 1 / 3), value=slope, out=channel
        )
    return x


def gaussian_blur(x: Tensor, sigma: Tensor, greatest: float) -> Tensor:
    """Blur each picture with its own sigma (pixels, up to ``greatest``), kernels cut at 3 sigma,
    borders reflected."""
    reach = (3 * sigma + 0.5).long()
    radius = int(3 * greatest + 0.5) if x.is_cuda else int(reach.max())  # the GPU is not waited for
    taps = torch.arange(radius + 1, device=x.device)
    weights = torch.exp(-0.5 * (taps / sigma.view(-1, 1)) ** 2) * (taps <= reach.view(-1, 1))
    # of the middle, and of both sides
    weights = weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])
    padded = F.pad(x, (radius,) * 4, mode="reflect")
    plane, row = padded[0, 0].numel(), padded.shape[3]
    line = padded.flatten(
        1
        # of all rows of a picture, which is faster than rows: what is mixed at their ends is left
        # out
    )
    for step in (1, row):
        size = line.shape[1] - 2 * radius * step
        blurred = line.narrow(1, radius * step, size) * weights[:, :1]
        for i in range(1, radius + 1):
            sides = line.narrow(1, (radius - i) * step, size) + line.narrow(
                1, (radius + i) * step, size
            )
            blurred.addcmul_(sides, weights[:, i : i + 1])
        line = blurred
    return line.as_strided(x.shape, (line.shape[1], plane, row, 1))


JITTER = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


class Photometric:
    """The colour part of MoCo v2's augmentation for a batch: jitter in random order, grayscale,
    blur, flip, normalise.

    ``draws`` are uniform numbers in 0..1, (n, DRAWS), made with the geometry, so that they do not
    depend on the device.
    """

    DRAWS = 9

    def __init__(self, recipe: Recipe, local: bool):
        self.recipe = recipe
        self.blur_p = recipe.patch_blur_p if local else recipe.blur_p
        self.flip_p = recipe.patch_flip_p if local else recipe.flip_p

    def __call__(self, images: Tensor, draws: Tensor, out: Tensor | None = None) -> Tensor:
        """uint8 (n, 3, h, w) -> normalised float32 in the recipe's memory layout, or in ``out``."""
        mean, std = (
            torch.tensor(v, device=images.device).view(1, 3, 1, 1) / 255
            for v in (IMAGENET_MEAN, IMAGENET_STD)
        )
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        if out is None:
            out = torch.empty_like(images, dtype=torch.float32, memory_format=layout)
        steps = list(self.steps(draws.numpy()))
        chosen = np.stack([rows for _, rows, _ in steps])
        for part in _parts(images, self.jitter(draws.numpy())):
            x = images[part].contiguous().float().mul_(1 / 255)
            for step in chosen[:, part].any(1).nonzero()[0]:
                operation, _, parameter = steps[step]
                x = _on(x, chosen[step, part], operation, parameter[part])
            out[part] = x.sub_(mean).mul_(1 / std).contiguous(memory_format=layout)
        return out

    def jitter(self, draws: np.ndarray) -> np.ndarray:
        """Which of ORDERS each picture's jitter goes by, (n,); -1: none."""
        return np.where(
            draws[:, 0] < self.recipe.jitter_p, (draws[:, 1] * len(ORDERS)).astype(int), -1
        )

    def steps(self, draws: np.ndarray) -> Iterator[tuple[Callable, np.ndarray, np.ndarray]]:
        """What the draws ask for, in order: (operation, which of the pictures, its parameter for
        each of them)."""
        r = self.recipe
        number = self.jitter(draws)
        jittered, order = number >= 0, np.array(ORDERS)[number]
        factors = (draws[:, 2:6] * 2 - 1) * np.array(r.jitter, np.float32)
        factors[:, :3] = (1 + factors[:, :3]).clip(0)
        grayed = (lambda x, _: gray(x).expand_as(x)), draws[:, 6] < r.gray_p, draws[:, 6]
        if r.gray_first:
            yield grayed
        for place in range(4):
            for op, adjust in enumerate(JITTER):
                if r.jitter[op]:
                    yield adjust, jittered & (order[:, place] == op), factors[:, op]
        if not r.gray_first:
            yield grayed
        low, high = r.blur_sigma
        sigma = low + (high - low) * draws[:, 7] / max(self.blur_p, 1e-9)
        yield lambda x, s: gaussian_blur(x, s, high), draws[:, 7] < self.blur_p, sigma
        yield lambda x, _: x.flip(-1), draws[:, 8] < self.flip_p, sigma


def _parts(images: Tensor, alike: np.ndarray) -> Iterator[slice | np.ndarray]:
    """What is worked on at a time. On a GPU the whole batch; on a CPU what stays in a core's cache
    from one operation to the
    next: a picture, or several small ones whose jitter is ``alike``, (n,), so that all of them go
    through each operation."""
    n, values = len(images), images[0].numel()
    if images.is_cuda or values >= 2**16:
        rows = n if images.is_cuda else 1
        return (slice(start, start + rows) for start in range(0, n, rows))
    rows, order = 2**19 // values, np.argsort(alike, kind="stable")
    groups = np.split(order, np.diff(alike[order]).nonzero()[0] + 1)
    return (group[start : start + rows] for group in groups for start in range(0, len(group), rows))


def _on(x: Tensor, chosen: np.ndarray, operation: Callable, parameter: np.ndarray) -> Tensor:
    """The operation on the chosen pictures of x."""
    if not chosen.any():
        return x
    value = torch.from_numpy(parameter[chosen]).to(x.device, non_blocking=True)
    if chosen.all():
        return operation(x, value).contiguous()
    index = torch.from_numpy(chosen.nonzero()[0]).to(x.device, non_blocking=True)
    return x.index_copy_(0, index, operation(x.index_select(0, index), value))


def draw(recipe: Recipe, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The uniform numbers of the photometric operations of one picture's views: name
    -> (views, DRAWS)."""
    return {
        name: rng.random(
            (9 if name.startswith("local") else 1, Photometric.DRAWS), dtype=np.float32
        )
        for name in names(recipe)
    }


def finish(
    batch: dict[str, Tensor],
    recipe: Recipe,
    device: torch.device,
    over: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Cut uint8 views of a batch and their draws -> normalised float views on the device, ready for
    the encoders.

    ``over``: views that this has returned for an earlier batch, as large, and are no longer needed:
    they are written over, as a system takes as long to provide new memory as a pass over it.
    """
    ready = {
        name: batch[name].to(device, non_blocking=True) for name in ("label",) if name in batch
    }
    for name in names(recipe):
        images = batch[name].to(device, non_blocking=True)
        local = images.dim() == 5
        flat, out = (
            x.flatten(0, 1) if local and x is not None else x
            for x in (images, (over or {}).get(name))
        )
        flat = Photometric(recipe, local)(flat, batch[f"{name}_draws"], out)
        ready[name] = flat.unflatten(0, images.shape[:2]) if local else flat
    return ready
