"""The layout Cityscapes: instances from pictures of ids, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from detco.transfer.data.cityscapes import instances
from detco.transfer.data.dataset import coco_dict, load
from tests.factories.datasets import H, W, picture, refused


def test_cityscapes_instances_are_the_pixels_of_the_id_picture(cityscapes):
    root, ids = cityscapes
    val = load("cityscapes", root, "val")
    assert [c["name"] for c in val.categories] == [
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ]
    assert [(a["category_id"], a["iscrowd"]) for a in val.annotations] == [
        (24, 1),
        (26, 0),
        (26, 0),
    ]
    for a, value in zip(val.annotations, (24, 26000, 26001), strict=True):
        rows, columns = np.nonzero(ids == value)
        assert (mask_util.decode(a["segmentation"]) == (ids == value)).all()
        left, top = columns.min(), rows.min()
        assert a["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top] and a[
            "area"
        ] == len(rows)
    assert val.images[0] == {
        "id": 1,
        "file_name": str(root / "leftImg8bit/val/town/town_000001_leftImg8bit.png"),
        "name": "town_000001",
        "width": W,
        "height": H,
    }
    json.dumps(coco_dict(val))  # masks are text, not bytes


@pytest.mark.parametrize("seed", range(3))
def test_cityscapes_masks_of_random_id_pictures(seed):
    ids = (
        np.random.default_rng(seed).choice([7, 24, 26000, 26001, 33999], (13, 17)).astype(np.int32)
    )
    found = instances(ids)
    assert [mask_util.decode(a["segmentation"]).tolist() for a in found] == [
        (ids == value).astype(int).tolist() for value in (24, 26000, 26001, 33999)
    ]


def test_cityscapes_bad_input_is_refused_by_name(cityscapes):
    root, ids = cityscapes
    refused("no split 'vall', there are val; did you mean 'val'?", "cityscapes", root, "vall")
    labels = root / "gtFine/val/town/town_000001_gtFine_instanceIds.png"
    Image.fromarray(ids.T.copy()).save(labels)
    assert refused(f"is {H} x {W}, but ", "cityscapes", root, "val").startswith(str(labels))
    picture(labels)
    refused(f"{labels}: must hold one whole number a pixel", "cityscapes", root, "val")
    labels.write_bytes(b"no")
    refused(f"{labels}: not a picture that can be read", "cityscapes", root, "val")
    labels.unlink()
    refused(f"{labels}: no such file", "cityscapes", root, "val")
    next((root / "leftImg8bit/val/town").iterdir()).unlink()
    refused("the split is empty", "cityscapes", root, "val")
    shutil.rmtree(root / "gtFine")
    refused(
        f"{root / 'gtFine'}: no such folder (a Cityscapes layout has", "cityscapes", root, "val"
    )
