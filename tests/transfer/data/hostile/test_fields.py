"""Fields of a COCO file of other types, or of values that cannot be: what each does to
what is read."""

import json

import pytest

from detco.common.errors import InputError
from detco.transfer.data.dataset import load
from detco.transfer.data.making import subsets
from tests.factories.datasets import COCO, H, W, changed, refused, write_coco

HUGE = 10**400


def read(tmp_path, document):
    return load("coco", write_coco(tmp_path / "set", document), "train")


# (list, index, field): written so -> read so, and a part of the note
READ_AS = [
    ("images", 0, {"id": "7"}, "'id' in 'images'"),
    ("images", 0, {"id": 7.0}, "'id' in 'images'"),
    ("images", 0, {"width": float(W)}, "'width' in 'images'"),
    ("images", 0, {"height": str(H)}, "'height' in 'images'"),
    ("categories", 0, {"id": "90"}, "'id' in 'categories'"),
    ("annotations", 0, {"category_id": "90"}, "'category_id' in 'annotations'"),
    ("annotations", 0, {"category_id": 90.0}, "'category_id' in 'annotations'"),
    ("annotations", 0, {"image_id": " 7 "}, "'image_id' in 'annotations'"),
    ("annotations", 1, {"iscrowd": True}, "'iscrowd' in 'annotations'"),
    ("annotations", 1, {"iscrowd": "1"}, "'iscrowd' in 'annotations'"),
    ("annotations", 2, {"num_keypoints": 3}, "another num_keypoints"),
]


@pytest.mark.parametrize(("part", "index", "change", "note"), READ_AS)
def test_what_plainly_means_a_whole_number_is_read_as_it(part, index, change, note, tmp_path):
    """The same records and fingerprint as of the file that says it right, and a note."""
    right = load("coco", write_coco(tmp_path / "right" / "set"), "train")
    found = read(tmp_path, changed(part, index, **change))
    assert found.annotations == right.annotations and found.categories == right.categories
    assert found.fingerprint == right.fingerprint
    assert [image["id"] for image in found.images] == [image["id"] for image in right.images]
    (line,) = found.notes
    assert note in line and "; the first: " in line


IMPOSSIBLE = [
    *(("images", 0, {"id": value}, "whole number 'id'") for value in (True, 7.5, [7], {}, HUGE)),
    *(("images", 0, {"file_name": value}, "'file_name'") for value in (7, "", ["a"], "a\0b.jpg")),
    ("images", 0, {"file_name": "\ud800.jpg"}, "'file_name'"),
    *(
        ("images", 0, {"width": value}, "positive whole numbers")
        for value in (True, 0, -64, 64.5, "wide", None, HUGE, float("inf"), float("nan"), [64])
    ),
    ("images", 0, {"width": 1 << 20, "height": 1 << 20}, "positive whole numbers"),
    *(("categories", 0, {"id": value}, "whole number 'id'") for value in (True, "a", 1.5, HUGE)),
    *(("categories", 0, {"name": value}, "a 'name'") for value in (5, "", " ", "\udc00", ["cup"])),
    *(
        ("categories", 1, {"keypoints": value}, "list of names")
        for value in ("nose", {"a": 1}, [1, 2, 3], 5)
    ),
    ("categories", 1, {"keypoints": ["a", "a", "b"]}, "each keypoint once"),
    ("categories", 1, {"sigmas": [0.1, 0.1, True]}, "positive number"),
    ("categories", 1, {"sigmas": [0.1, 0.1, float("inf")]}, "positive number"),
    ("categories", 1, {"keypoint_flip": [["nose", "ear"]]}, "pairs of names"),
    ("categories", 1, {"keypoint_flip": 5}, "pairs of names"),
    *(
        ("annotations", 0, {"image_id": value}, "refers to image")
        for value in (True, "b.jpg", 7.5, None, [7], HUGE, float("nan"))
    ),
    *(
        ("annotations", 0, {"category_id": value}, "the file's are 5, 90")
        for value in (True, "cup", 90.5, None, [90], {"id": 90}, HUGE)
    ),
    *(
        ("annotations", 0, {"iscrowd": value}, "iscrowd must be 0 or 1")
        for value in ("no", 2, -1, 0.5, "", [], {})
    ),
    *(
        ("annotations", 0, {"bbox": value}, "bbox must be four numbers")
        for value in ("1 2 3 4", [1, 2, 3, "4"], [1, 2, 3, True], [1, 2, 3], None, {}, 5)
    ),
    ("annotations", 0, {"bbox": [1, 2, HUGE, -HUGE]}, "bbox must be four numbers"),
    *(
        ("annotations", 0, {"area": value}, "area")
        for value in (-1, "150.5", True, float("nan"), float("inf"), [150], HUGE, W * H * 2)
    ),
    *(("annotations", 0, {"segmentation": value}, "polygons, or RLE") for value in (0, "", True)),
    *(
        ("annotations", 2, {"keypoints": value}, "keypoints must be 3 times")
        for value in ([1, 2, 2], [1, 2, "2"] * 3, [1, 2, True] * 3, 5, {}, [1, 2, float("nan")] * 3)
    ),
    *(
        ("annotations", 2, {"keypoints": [6, 7, value, 0, 0, 0, 9, 9, 1]}, "0, 1 or 2")
        for value in (3, -1, 0.9)
    ),
    ("annotations", 2, {"keypoints": [600, 7, 2, 0, 0, 0, 9, 9, 1]}, "far outside"),
]


@pytest.mark.parametrize(("part", "index", "change", "message"), IMPOSSIBLE)
def test_what_cannot_be_is_refused(part, index, change, message, tmp_path):
    root = write_coco(tmp_path / "set")
    text = json.dumps(changed(part, index, **change))
    (root / "annotations/instances_train.json").write_text(text)
    line = refused(message, "coco", root, "train", strict=True)
    assert len(line) < 600


def test_an_area_of_nothing_is_that_of_the_mask(tmp_path):
    """150.5 stated for a polygon of 10 x 20 pixels; 0 counts as not stated."""
    found = read(tmp_path, changed("annotations", 0, area=0))
    assert found.annotations[0]["area"] == 200
    assert any("no area but 0" in line for line in found.notes)


def test_keypoints_without_names_are_said_to_be_left_aside(tmp_path):
    document = changed("categories", 1)
    del document["categories"][1]["keypoints"]
    found = read(tmp_path, document)
    assert not any("keypoints" in a for a in found.annotations)
    assert any("their category names none" in line for line in found.notes)


def test_only_what_is_read_of_a_category_is_kept(tmp_path):
    deep = {"a": [[[[]]]]}
    found = read(
        tmp_path, changed("categories", 1, color=deep, skeleton=[[1, 9]], other=float("nan"))
    )
    assert set(found.categories[0]) == {"id", "name", "keypoints", "keypoint_flip"}
    assert any("skeleton" in line for line in found.notes)


TEXTS = {
    "a whole number of 400 digits": ('"area": 150.5', f'"area": {HUGE}'),
    "of 5,000 digits": ('"area": 150.5', '"area": ' + "9" * 5000),
    "deep": ('"area": 150.5', '"area": ' + "[" * 100_000 + "]" * 100_000),
    "as deep as can be read": ('"area": 150.5', '"area": ' + "[" * 900 + "]" * 900),
    "an object as deep": ('"name": "cup"', '"name": ' + '{"a":' * 400 + "1" + "}" * 400),
    "not UTF-8": ('"cup"', '"c\udcffp"'),
    "infinite": ('"area": 150.5', '"area": 1e999'),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_that_python_itself_stumbles_over(name, tmp_path):
    root = write_coco(tmp_path / "set")
    text = json.dumps(COCO).replace(*TEXTS[name])
    assert text != json.dumps(COCO)
    path = root / "annotations/instances_train.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert len(refused("instances_train.json: ", "coco", root, "train", strict=True)) < 600


def test_a_share_of_a_file_with_mixed_ids_loses_no_object(tmp_path):
    """Images numbered as text, objects that refer to them by number."""
    document = json.loads(json.dumps(COCO))
    for image in document["images"]:
        image["id"] = str(image["id"])
    source = write_coco(tmp_path / "set", document) / "annotations/instances_train.json"
    out, counts = subsets.write(source, 100, 0, tmp_path / "share.json")
    assert counts == {"of": 3, "images": 3, "annotations": 4}
    assert len(json.loads(out.read_bytes())["annotations"]) == 4


@pytest.mark.parametrize("value", [[7], None, True, HUGE])
def test_a_share_of_a_file_with_ids_of_other_types_is_refused(value, tmp_path):
    source = write_coco(tmp_path / "set", changed("images", 0, id=value))
    with pytest.raises(InputError, match="whole number 'id'"):
        subsets.write(source / "annotations/instances_train.json", 50, 0)
