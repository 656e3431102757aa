"""What all layouts share: boxes, fingerprints, default splits."""

import dataclasses

import pytest

from detco.common.errors import InputError
from detco.transfer.data.dataset import default_splits, load
from detco.transfer.data.reading import box_fault
from tests.factories.datasets import COCO, H, W, changed, write_coco


def test_box_fault_tolerates_one_pixel():
    assert box_fault([-1, -1, W + 2, H + 2], W, H) == ""
    for box in ([-1.1, 0, 9, 9], [0, -1.1, 9, 9], [0, 0, W + 1.1, 9], [0, 0, 9, H + 1.1]):
        assert "outside" in box_fault(box, W, H)
    for box in ([1, 1, 0, 9], [1, 1, 9, -1]):
        assert "no area" in box_fault(box, W, H)


def test_fingerprint_tells_contents_and_nothing_else(coco, tmp_path):
    before = load("coco", coco, "train").fingerprint
    assert len(before) == 64
    turned = {
        key: [dict(reversed(entry.items())) for entry in reversed(COCO[key])]
        for key in reversed(COCO)
    }
    elsewhere = write_coco(tmp_path / "else" / "where", turned, folder="images")
    assert load("coco", elsewhere, "train").fingerprint == before
    for number, document in enumerate(
        [
            changed("annotations", 0, bbox=[1, 2, 10, 20.25]),
            changed("annotations", 0, category_id=5),
            changed("annotations", 0, iscrowd=1),
            changed("annotations", 0, image_id=3),
            changed("annotations", 0, segmentation=[[1, 2, 11, 2, 11, 22, 1, 21]]),
            changed("annotations", 2, keypoints=[6, 7, 2, 0, 0, 0, 9, 9, 2]),
            changed("images", 2, width=W + 1),
            changed("images", 2, file_name="other.jpg"),
            changed("categories", 0, name="mug"),
            {**COCO, "annotations": COCO["annotations"][:3]},
        ]
    ):
        assert (
            load("coco", write_coco(tmp_path / str(number), document), "train").fingerprint
            != before
        )


def test_fingerprint_of_a_test_split_does_not_depend_on_the_training_categories(voc):
    alone = load("voc", voc, "test")
    numbered = load("voc", voc, "test", ({"id": 7, "name": "zebra"}, {"id": 9, "name": "ant"}))
    assert alone.annotations[0]["category_id"] == 1 and numbered.annotations[0]["category_id"] == 9
    assert alone.fingerprint == numbered.fingerprint


def test_a_data_set_cannot_be_changed(voc):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("voc", voc, "test").split = "train"


@pytest.mark.parametrize(
    ("layout", "there", "expected"),
    [
        ("voc", "train trainval val test", ("trainval", "test")),
        ("voc", "train trainval val", ("train", "val")),
        ("voc", "train test", ("train", "test")),
        ("voc", "trainval val", None),
        ("coco", "train2017 val2017 train val", ("train2017", "val2017")),
        ("coco", "train val test", ("train", "val")),
        ("coco", "train test", ("train", "test")),
        ("coco", "all", None),
        ("cityscapes", "train val test", ("train", "val")),
        ("cityscapes", "", None),
    ],
)
def test_default_splits(tmp_path, layout, there, expected):
    for name in there.split():
        path = {
            "voc": f"ImageSets/Main/{name}.txt",
            "coco": f"annotations/instances_{name}.json",
        }.get(layout)
        path = tmp_path / (path or f"leftImg8bit/{name}/x")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if expected:
        assert default_splits(layout, tmp_path) == expected
    else:
        with pytest.raises(InputError, match="which splits are for training") as error:
            default_splits(layout, tmp_path)
        assert str(tmp_path) in str(error.value) and all(
            name in str(error.value) for name in there.split()
        )
