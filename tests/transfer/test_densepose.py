"""DensePose's labels and files: what is read, and what is refused. The project is not needed."""

import base64
import json

import numpy as np
import pytest

from detco.benchmarks.cli.main import main
from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.data import densepose
from detco.transfer.data.dataset import check, load
from detco.transfer.engines import ALONE
from detco.transfer.protocols import PROTOCOLS
from tests.factories import densepose as made

ROW = PROTOCOLS["coco-densepose"]
TRAIN, TEST = "densepose_train2014", "densepose_minival2014"
JOINED = f"{TRAIN}+densepose_valminusminival2014"


@pytest.fixture
def coco(tmp_path):
    return made.people(tmp_path)


def document_of(coco, split=TRAIN) -> tuple[dict, object]:
    path = coco / "annotations" / f"{split}.json"
    return json.loads(path.read_text()), path


def test_labels_are_those_of_the_file(coco):
    found = load("coco", coco, TRAIN)
    document, _ = document_of(coco)
    entries = {entry["id"]: entry for entry in document["annotations"]}
    for annotation in found.annotations:
        entry = entries[annotation["id"]]
        assert {k: annotation.get(k) for k in densepose.FIELDS} == {
            k: entry.get(k) for k in densepose.FIELDS
        }
    count = sum("dp_x" in entry for entry in entries.values())
    assert 0 < count < len(entries)
    assert check("coco", coco, TRAIN).splits[0]["with_densepose"] == count


def test_joined_splits_have_the_images_of_each(coco):
    whole = load("coco", coco, JOINED)
    parts = [load("coco", coco, split) for split in JOINED.split("+")]
    assert whole.images == parts[0].images + parts[1].images
    assert {image["file_name"].rsplit("/", 2)[1] for image in parts[1].images} == {"val2014"}
    boxes = [a["bbox"] for part in parts for a in part.annotations]
    assert [a["bbox"] for a in whole.annotations] == boxes
    ids = [a["id"] for a in whole.annotations]
    assert len(set(ids)) == len(ids)
    with pytest.raises(InputError, match="share image ids"):
        load("coco", coco, f"{TRAIN}+{TRAIN}")


def test_joined_splits_need_the_same_categories(coco):
    document, path = document_of(coco, "densepose_valminusminival2014")
    document["categories"][0]["name"] = "chimpanzee"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="different categories"):
        load("coco", coco, JOINED)


def test_a_point_more_is_another_data_set(coco):
    before = load("coco", coco, TRAIN).fingerprint
    document, path = document_of(coco)
    labelled = next(entry for entry in document["annotations"] if "dp_U" in entry)
    labelled["dp_U"][0] = 1 - labelled["dp_U"][0]
    path.write_text(json.dumps(document))
    changed = load("coco", coco, TRAIN).fingerprint
    labelled["dp_masks"] = [[]] * 14
    path.write_text(json.dumps(document))
    assert len({before, changed, load("coco", coco, TRAIN).fingerprint}) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dp_V": None}, "has dp_I, but no dp_V"),
        ({"dp_I": [25.0] * 30}, "dp_I must be whole numbers from 1 to 24, found 25"),
        ({"dp_I": [1.5] * 30}, "dp_I must be whole numbers from 1 to 24, found 1.5"),
        ({"dp_U": [1.5] * 30}, "dp_U must be from 0 to 1, found 1.5"),
        ({"dp_x": [-1.0] * 30}, "dp_x must be from 0 to 256, found -1"),
        ({"dp_x": [3.0] * 29}, "differ in length"),
        ({"dp_y": "many"}, "dp_y must be a list of numbers"),
        ({"dp_y": []}, "dp_y must be a list of numbers"),
        ({"dp_masks": [{"size": [256, 256], "counts": "0"}]}, "dp_masks, part 1: "),
        ({"dp_masks": [{"size": [9, 9], "counts": "a9"}]}, "RLE of size \\[256, 256\\]"),
        ({"dp_masks": {}}, "dp_masks must be a list"),
    ],
)
def test_wrong_labels_are_refused(coco, change, words):
    document, path = document_of(coco)
    next(entry for entry in document["annotations"] if "dp_U" in entry).update(change)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=words):
        load("coco", coco, TRAIN, strict=True)


def data_of(coco, **more) -> dict:
    return {"layout": "coco", "root": str(coco), "train": TRAIN, "test": TEST} | more


def test_only_people_are_detected(coco):
    document, path = document_of(coco)
    document["categories"].append({"id": 2, "name": "dog"})
    document["annotations"][1]["category_id"] = 2
    for entry in document["annotations"][1:]:
        entry.pop("dp_x", None) if entry["category_id"] == 2 else None
    for name in densepose.FIELDS:
        document["annotations"][1].pop(name, None)
    path.write_text(json.dumps(document))
    train, _ = finetune.load_data(ROW, data_of(coco))
    assert [category["name"] for category in train.categories] == ["person"]
    assert len(train.annotations) == len(document["annotations"]) - 1


def test_data_without_points_are_refused(coco):
    document, path = document_of(coco)
    for entry in document["annotations"]:
        for name in densepose.FIELDS:
            entry.pop(name, None)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"points of DensePose .* found them in 0"):
        finetune.load_data(ROW, data_of(coco))


def test_files_of_the_body_that_are_absent_are_named(coco, monkeypatch, tmp_path):
    (coco.parent / "densepose" / densepose.MIRROR).unlink()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError) as told:
        finetune.load_data(ROW, data_of(coco))
    text = str(told.value)
    assert densepose.MIRROR in text and densepose.SURFACE not in text and densepose.URL in text
    made.body(tmp_path / "cache" / "densepose" / "data")  # where Detectron2 itself puts them
    assert densepose.surface(coco)[densepose.MIRROR].is_relative_to(tmp_path / "cache")


def test_without_the_project_nothing_starts(coco, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(densepose, "PROJECT", ("no_such_project",))
    with pytest.raises(InputError, match="no_such_project"):
        finetune.refuse(ROW, "detectron2", ALONE)
    command = ["transfer", ROW.name, "--weights", "random", "--data", str(coco)]
    out = tmp_path / "out"
    assert main([*command, "--out", str(out), "--engine", "torchvision"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "needs the engine detectron2" in said[0] and not out.exists()


def test_labels_survive_packing():
    labels = np.random.default_rng(0).integers(0, 25, (3, 7, 5)).astype(np.uint8)
    assert (densepose.unpacked(densepose.packed(labels)) == labels).all()


def test_wrong_predictions_are_refused():
    labels = np.zeros((3, 4, 6), np.uint8)
    good = densepose.packed(labels)
    entry = {"bbox": [0, 0, 6.9, 4.2]}
    assert densepose.fault(entry) == densepose.fault(entry | {"densepose": good}) == ""
    labels[0, 0, 0] = 25
    text = base64.b64encode(b"no image").decode()
    for wrong, words in (
        (densepose.packed(labels), "a part is 25"),
        (good | {"shape_chw": [3, 6, 4]}, "shape_chw [3, 4, 6]"),
        (good | {"labels_uv_str": 5}, "a PNG in base64"),
        (good | {"labels_uv_str": text}, "is damaged"),
        (good | {"labels_uv_str": "%"}, "is damaged"),
        (densepose.packed(labels[:, :2]) | {"shape_chw": [3, 4, 6]}, "another size"),
        ([], "the size of its box"),
    ):
        assert words in densepose.fault(entry | {"densepose": wrong})
