"""The four views by the usual pipeline: MoCo's transforms on PIL images, one sample at a
time, and PIRL's jigsaw."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms

from detco.common.images import open_image
from detco.pretrain.recipes import Recipe


class GaussianBlur:
    """Blur with Pillow, sigma drawn uniformly, as MoCo v2 and SimCLR do."""

    def __init__(self, sigma: tuple[float, float]):
        self.sigma = sigma

    def __call__(self, picture: Image.Image) -> Image.Image:
        return picture.filter(ImageFilter.GaussianBlur(radius=random.uniform(*self.sigma)))


class UsualViews:
    """path -> the views of a recipe, float32 and normalised: global (3, v, v), local (9,
    3, p, p)."""

    def __init__(self, recipe: Recipe):
        r = self.recipe = recipe
        colour = [
            transforms.RandomApply([transforms.ColorJitter(*r.jitter)], p=r.jitter_p),
            transforms.RandomGrayscale(p=r.gray_p),
        ]
        normalise = [
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
        self.whole = transforms.Compose(
            [
                transforms.RandomResizedCrop(r.view_size, scale=r.crop_scale),
                *colour,
                transforms.RandomApply([GaussianBlur(r.blur_sigma)], p=r.blur_p),
                transforms.RandomHorizontalFlip(r.flip_p),
                *normalise,
            ]
        )
        self.region = transforms.RandomResizedCrop(r.jigsaw_size, scale=r.jigsaw_scale)
        self.patch = transforms.Compose([transforms.RandomCrop(r.patch_size), *colour, *normalise])

    def __call__(self, path: Path) -> dict[str, Tensor]:
        with open_image(path) as file:
            picture = file.convert("RGB")
        return {
            "global_query": self.whole(picture),
            "global_key": self.whole(picture),
            "local_query": self.jigsaw(picture),
            "local_key": self.jigsaw(picture),
        }

    def jigsaw(self, picture: Image.Image) -> Tensor:
        region, cell = self.region(picture), self.recipe.jigsaw_size // 3
        corners = [(column * cell, row * cell) for row in range(3) for column in range(3)]
        patches = [self.patch(region.crop((x, y, x + cell, y + cell))) for x, y in corners]
        random.shuffle(patches)
        return torch.stack(patches)
