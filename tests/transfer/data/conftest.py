"""A tiny data set in each layout."""

import numpy as np
import pytest
from PIL import Image

from tests.factories.datasets import H, W, picture, write_coco, xml


@pytest.fixture
def voc(tmp_path):
    """Two training pictures, one without objects; one for testing."""
    root = tmp_path / "voc"
    annotations = {
        "one": xml(("zebra", (1, 1, W, H)), ("ant", (3, 4, 10.5, 20), "<difficult>1</difficult>")),
        "two": xml(),
        "three": xml(("ant", (0, 5, 20, H + 1))),
    }
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/trainval.txt").write_text("two\none\n\n")
    (root / "ImageSets/Main/test.txt").write_text("three")
    (root / "Annotations").mkdir()
    for name, text in annotations.items():
        (root / f"Annotations/{name}.xml").write_text(text)
        picture(root / f"JPEGImages/{name}.jpg")
    return root


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "set")


@pytest.fixture
def cityscapes(tmp_path):
    """One picture: two cars, a group of persons, a caravan and road that do not count."""
    ids = np.full((H, W), 7, np.uint16)
    ids[10:20, 5:30] = 26000
    ids[12:40, 28:50] = 26001
    ids[0:3, 0:60] = 24
    ids[45:, :9] = 29000
    root = tmp_path / "cityscapes"
    picture(root / "leftImg8bit/val/town/town_000001_leftImg8bit.png")
    (root / "gtFine/val/town").mkdir(parents=True)
    Image.fromarray(ids).save(root / "gtFine/val/town/town_000001_gtFine_instanceIds.png")
    return root, ids
