"""Duplicate objects and split classes: reported with counts, recorded, and merged if asked."""

import json
import unicodedata

import pytest

from detco.benchmarks.cli import main as cli
from detco.benchmarks.suites import files
from detco.benchmarks.suites.builtin import Data, StartingPoint, Suite, Task
from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.data import dataset, labels
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.scoring import score
from tests.factories.datasets import picture


def written(root, classes, objects, name="train", images=("a.jpg", "b.jpg")):
    """A COCO file: objects are (image number from 1, class number from 1, left side)."""
    document = {
        "images": [
            {"id": k, "file_name": file, "width": 64, "height": 48}
            for k, file in enumerate(images, 1)
        ],
        "categories": [{"id": k, "name": text} for k, text in enumerate(classes, 1)],
        "annotations": [
            {"id": k, "image_id": image, "category_id": label, "bbox": [x, 2, 20, 20]}
            for k, (image, label, x) in enumerate(objects)
        ],
    }
    for file in images:
        picture(root / name / file)
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{name}.json").write_text(json.dumps(document))
    return root


NFD = unicodedata.normalize("NFD", "Caf\u00e9")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("cat", "Cat", True),
        ("traffic light", "traffic  light ", True),
        ("traffic light", "traffic_light", True),
        ("Caf\u00e9", NFD, True),
        ("STRASSE", "stra\u00dfe", True),
        ("cat", "cats", False),
        ("-", "_", False),
        ("a1", "a2", False),
    ],
)
def test_which_names_are_alike(one, other, same):
    assert (labels.alike(one) == labels.alike(other)) == same


def test_split_classes_are_said_and_merged_if_asked(tmp_path, caplog):
    objects = [(1, 2, 1), (1, 1, 30), (2, 2, 1), (2, 3, 9)]
    root = written(tmp_path, ["Cat", "cat", "dog", "DOG"], objects)  # no object is a DOG
    apart = dataset.load("coco", root, "train")
    assert apart.facts == {"classes_alike": [["cat", "Cat"]]} and len(apart.categories) == 4
    assert "'cat' and 'Cat'" in caplog.text and "--merge-classes" in caplog.text
    one = dataset.load("coco", root, "train", merge_classes=True)
    assert one.facts == {"classes_merged": [["cat", "Cat"]]} and not one.notes
    assert [a["category_id"] for a in one.annotations] == [2, 2, 2, 3]
    assert [c["name"] for c in one.categories] == ["cat", "dog", "DOG"]
    whole = written(tmp_path / "x", ["cat", "dog"], [(1, 1, 1), (1, 1, 30), (2, 1, 1), (2, 2, 9)])
    assert one.fingerprint == dataset.load("coco", whole, "train").fingerprint != apart.fingerprint


def test_a_test_split_that_spells_a_class_otherwise(tmp_path):
    root = written(tmp_path, ["traffic light"], [(1, 1, 1)])
    written(tmp_path, ["Traffic_Light"], [(1, 1, 1)], "val")
    train = dataset.load("coco", root, "train")
    with pytest.raises(InputError, match=r"unknown category 'Traffic_Light'.*--merge-classes"):
        dataset.load("coco", root, "val", train.categories)
    test = dataset.load("coco", root, "val", train.categories, merge_classes=True)
    assert [c["name"] for c in test.categories] == ["traffic light"] and len(test.annotations) == 1


def test_objects_listed_twice_halve_the_score_of_a_perfect_detector_and_are_said(tmp_path):
    objects = [(1, 1, 1), (2, 1, 9)]
    root = written(tmp_path, ["cat"], [*objects, *objects])
    twice = dataset.load("coco", root, "train")
    found = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 1.0}
        for a in twice.annotations[:2]
    ]
    assert score.score(twice, found, "coco")["box_ap"] == pytest.approx(100 * 51 / 101)
    assert twice.facts == {"objects_repeated": 2}
    assert "2 objects are listed more than once" in twice.notes[0] and "a.jpg" in twice.notes[0]
    assert labels.deviations(twice, twice)[0] == "training data: 2 objects listed more than once"


def test_images_listed_twice_are_said(tmp_path):
    root = written(tmp_path, ["cat"], [(1, 1, 1), (3, 1, 9)], images=("a.jpg", "b.jpg", "a.jpg"))
    train = dataset.load("coco", root, "train")
    assert train.facts == {"images_repeated": 1}
    assert (
        "1 images are listed more than once" in train.notes[0] and "train/a.jpg" in train.notes[0]
    )


def test_the_record_and_its_footnotes_say_it(tmp_path):
    written(tmp_path, ["Cat", "cat"], [(1, 1, 1), (1, 2, 30), (2, 2, 9), (2, 2, 9)])
    written(tmp_path, ["Cat", "cat"], [(1, 1, 1), (1, 2, 30)], "val")
    data = {"layout": "coco", "root": str(tmp_path)}
    protocol = PROTOCOLS["small-retinanet"]
    out = finetune.finetune(protocol, "random", data, tmp_path / "out", "replay")
    assert out["data"]["train"]["objects_repeated"] == 1
    assert "training data: 1 objects listed more than once" in out["deviations"]
    assert "test data: classes of like names kept apart (Cat = cat)" in out["deviations"]
    data["merge_classes"] = True
    out = finetune.finetune(protocol, "random", data, tmp_path / "out2", "replay")
    assert out["data"]["train"]["classes_merged"] == [["cat", "Cat"]]
    assert "test data: classes of like names merged (Cat = cat)" in out["deviations"]


def test_the_command_takes_both_options(tmp_path, capsys):
    root = written(tmp_path, ["Cat", "cat"], [(1, 1, 1), (1, 2, 30), (1, 1, 60)])
    assert cli.main(["data", "check", "coco", str(root)]) == 0
    said = capsys.readouterr().out
    assert "note: " in said and "left out" in said and "--merge-classes" in said
    assert cli.main(["data", "check", "coco", str(root), "--strict", "--merge-classes"]) == 2
    said = capsys.readouterr().out
    assert "wrong: " in said and "--merge-classes" not in said


def test_a_transfer_is_told_to_merge_and_remembers_it(tmp_path, capsys):
    root = written(tmp_path / "data", ["Cat", "cat"], [(1, 1, 1), (1, 2, 30)])
    written(root, ["cat"], [(1, 1, 1)], "val")
    words = ["transfer", "small-retinanet", "--weights", "random", "--data", root, "--out"]
    words = [str(word) for word in (*words, tmp_path / "out", "--engine", "replay")]
    assert cli.main([*words, "--merge-classes"]) == 0
    capsys.readouterr()
    (path,) = (tmp_path / "out").rglob("record.json")
    record = json.loads(path.read_text())
    assert record["spec"]["data"]["merge_classes"] is True
    assert "training data: classes of like names merged (Cat = cat)" in record["deviations"]


def test_a_suite_passes_both_options_to_each_of_its_data_sets(tmp_path):
    own = Task("small-retinanet", data=Data(tmp_path / "own", merge_classes=True))
    suite = Suite(
        "mine",
        (StartingPoint("random", random=True),),
        data=Data(tmp_path),
        protocols=(own, Task("small-retinanet")),
    )
    strict = files.with_labels(suite, strict=True, merge_classes=False)
    assert (strict.data.strict, strict.data.merge_classes) == (True, False)
    told = strict.protocols[0].data
    assert (told.strict, told.merge_classes) == (True, True) and strict.protocols[1].data is None
