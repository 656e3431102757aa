"""Data sets for planning suites; nothing is trained."""

import pytest
from PIL import Image

from detco.benchmarks.scenes import draw as scenes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A small drawn data set in all layouts."""
    return scenes.draw(
        tmp_path_factory.mktemp("drawn"), images=8, size=64, unlabelled=66, classification=66
    )


@pytest.fixture
def photos(tmp_path):
    """66 pictures: more than the recipes' batch of 64."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(66):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return folder
