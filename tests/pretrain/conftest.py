"""Pictures to pretrain on."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """26 pictures in two folders: 3 batches of 8 an epoch, two pictures left over."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(26):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        small.resize((80, 60), Image.BICUBIC).save(folder / "ab"[i % 2] / f"{i:02}.png")
    return folder
