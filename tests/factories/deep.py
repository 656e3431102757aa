"""Data sets whose images have more than 8 bits."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image


def deepened(source: Path, folder: Path, top: int, kind=np.uint16) -> Path:
    """A copy of a data set whose images are gray, with values from 0 to about `top`."""
    shutil.copytree(source, folder)
    for path in [*folder.rglob("*.png"), *folder.rglob("*.jpg")]:
        with Image.open(path) as image:
            values = np.asarray(image.convert("L")).astype(np.float64)
        deep = Image.fromarray((values * (top / 255)).astype(kind))
        deep.save(path, "TIFF" if kind == np.float32 else "PNG")
    return folder
