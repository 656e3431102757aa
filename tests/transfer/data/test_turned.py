"""EXIF orientations that keep the size: images are read as shown and counted, as
their boxes are ambiguous."""

import json

import numpy as np
import pytest
from PIL import Image

from detco.common.images import to_rgb
from detco.transfer import finetune
from detco.transfer.data import dataset, inspection
from detco.transfer.protocols import PROTOCOLS

ORIENTATION = 0x0112


def written(root, turn, size, stated=None):
    """One image, dark but for its stored upper left corner; `stated`: its size in the JSON."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 4, : size[0] // 4] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        pixels[size[1] // 2, size[0] // 2] = 9 if split == "val" else 0
        Image.fromarray(pixels).save(root / split / "a.png", exif=exif)
    width, height = stated or size
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": width, "height": height}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(document))
    return root


@pytest.mark.parametrize(
    ("turn", "size", "stated", "unseen"),
    [
        (1, (48, 32), None, False),
        (3, (48, 32), None, True),
        (2, (48, 32), None, True),
        (4, (48, 32), None, True),
        (6, (48, 32), (32, 48), False),
        (6, (32, 32), None, True),
        (1, (32, 32), None, False),
        (9, (32, 32), None, False),
    ],
)
def test_turns_that_the_size_does_not_tell_are_counted(
    tmp_path, caplog, turn, size, stated, unseen
):
    root = written(tmp_path, turn, size, stated)
    for _ in range(2):  # the second time it is remembered
        report = dataset.check("coco", root, "train")
        assert not report.problems
        assert [("1 pictures are turned" in note) for note in report.notes] == [True] * unseen
    noted = inspection.noted(dataset.load("coco", root, "train"))
    assert noted.facts == ({"turned": 1} if unseen else {})
    assert ("1 pictures are turned" in caplog.text) == unseen


def test_the_picture_is_read_as_exif_shows_it_and_the_record_says_so(tmp_path):
    root = written(tmp_path / "set", 3, (48, 32))
    with Image.open(root / "train/a.png") as picture:
        shown = np.asarray(to_rgb(picture))
    assert shown[-1, -1].min() == 255 and shown[0, 0].max() == 0
    data = {"layout": "coco", "root": str(root)}
    protocol = PROTOCOLS["small-retinanet"]
    out = finetune.finetune(protocol, "random", data, tmp_path / "out", "replay")
    assert out["data"]["test"]["turned"] == 1
    assert "test data: 1 images turned by EXIF whose boxes may not be" in out["deviations"]
