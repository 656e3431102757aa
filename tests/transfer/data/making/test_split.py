"""Splits: shares by class, groups kept whole, nothing overwritten, readable afterwards."""

import json
from collections import Counter

import pytest

from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import datasets as plan_datasets
from detco.benchmarks.suites.builtin import Data
from detco.common.errors import InputError
from detco.pretrain.data import listing
from detco.transfer.data import dataset
from detco.transfer.data.making import split
from tests.factories.datasets import H, W, picture, xml


def voc_set(root, count=20):
    """Images of two videos; every fifth image shows a zebra too."""
    for k in range(count):
        name = f"video{k % 4}_frame{k}"
        objects = [("ant", (1, 1, 9, 9))] + [("zebra", (3, 3, 20, 20))] * (k % 5 == 0)
        (root / "Annotations").mkdir(parents=True, exist_ok=True)
        (root / f"Annotations/{name}.xml").write_text(xml(*objects))
        picture(root / f"JPEGImages/{name}.jpg")
    return root


def coco_set(root, count=20):
    """Found elsewhere than the file says, as after Label Studio."""
    document = {
        "images": [
            {"id": k, "file_name": f"images\\1a2b3c4d-{k}.jpg", "width": W, "height": H}
            for k in range(count)
        ],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1 + k % 2, "bbox": [1, 2, 9, 9]}
            for k in range(count)
        ],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "pen"}],
        "info": {"year": 2020},
    }
    for k in range(count):
        picture(root / f"images/{k}.jpg")
    (root / "result.json").write_text(json.dumps(document))
    return root


def names(layout, root, part):
    return {image["name"] for image in dataset.load(layout, root, part).images}


def test_voc_is_divided_by_class_and_then_runs(tmp_path):
    root = voc_set(tmp_path / "set")
    done = split.write(root, 0.25, 0)
    assert done.images == {"train": 15, "val": 5} and done.objects == {"train": 18, "val": 6}
    data = plan_datasets.find_splits(Data(root))
    assert (data.layout, data.train, data.test) == ("voc", "train", "val")
    parts = [dataset.load("voc", root, part) for part in ("train", "val")]
    assert [Counter(a["category_id"] for a in part.annotations) for part in parts] == [
        {1: 15, 2: 3},
        {1: 5, 2: 1},
    ]
    every = {path.stem for path in (root / "JPEGImages").iterdir()}
    train, val = (names("voc", root, part) for part in ("train", "val"))
    assert train | val == every and not train & val
    with pytest.raises(InputError, match="there are splits already: train, val"):
        split.write(root)


def test_the_seed_decides_and_nothing_else(tmp_path):
    found = [voc_set(tmp_path / name) for name in "abc"]
    for root, seed in zip(found, (0, 0, 1)):
        split.write(root, 0.3, seed)
    lists = [(root / "ImageSets/Main/val.txt").read_text() for root in found]
    assert lists[0] == lists[1] != lists[2]


def test_frames_of_a_video_stay_together(tmp_path):
    root = voc_set(tmp_path)
    split.write(root, 0.25, 0, r"(video\d+)_")
    videos = [
        {name.split("_")[0] for name in names("voc", root, part)} for part in ("train", "val")
    ]
    assert not videos[0] & videos[1] and len(videos[0] | videos[1]) == 4 and videos[1]
    for pattern, text in (("(", "not a regular expression"), ("clip", "matches no name")):
        with pytest.raises(InputError, match=text):
            split.write(voc_set(tmp_path / text[:3]), 0.2, 0, pattern)


def test_one_coco_file_is_divided_and_its_images_are_found(tmp_path):
    root = coco_set(tmp_path)
    before = dataset.load("coco", root, "result")
    split.write(root, 0.2, 3)
    train, val = (dataset.load("coco", root, part) for part in dataset.default_splits("coco", root))
    assert (len(train.images), len(val.images)) == (16, 4) and not (train.notes or val.notes)
    assert Counter(a["category_id"] for a in val.annotations) == {1: 2, 2: 2}
    files = {image["file_name"] for image in before.images}
    assert files == {image["file_name"] for part in (train, val) for image in part.images}
    assert json.loads((root / "annotations/instances_val.json").read_text())["info"]["year"] == 2020


def test_class_folders_are_divided_by_class(tmp_path):
    for name, count in (("cat", 10), ("dog", 20), ("eel", 1)):
        for k in range(count):
            picture(tmp_path / name / f"{k}.jpg")
    (tmp_path / "cat/._0.jpg").write_bytes(b"junk")
    done = split.write(tmp_path, 0.2)
    assert done.images == {"train": 25, "val": 6}
    val = (tmp_path / "val.txt").read_text().split()
    assert Counter(line.split("/")[0] for line in val) == {"cat": 2, "dog": 4}
    assert len(listing.find(tmp_path / "train.txt")) == 25
    with pytest.raises(InputError, match=r"train\.txt exists already"):
        split.write(tmp_path, 0.2)


def test_copies_of_an_image_stay_on_one_side(tmp_path):
    for k in range(20):
        picture(tmp_path / "cat" / f"{k}.jpg")
        picture(tmp_path / "dog" / f"{k}.jpg")
    for k in range(6):  # a chain of three, and pairs across classes
        (tmp_path / f"cat/copy{k}.jpg").write_bytes((tmp_path / f"cat/{k // 2}.jpg").read_bytes())
        (tmp_path / f"dog/copy{k}.jpg").write_bytes((tmp_path / f"cat/{9 + k}.jpg").read_bytes())
    for seed in range(5):
        split.write(tmp_path, 0.3, seed=seed)
        parts = []
        for part in ("train", "val"):
            names = (tmp_path / f"{part}.txt").read_text().split()
            parts.append({(tmp_path / name).read_bytes() for name in names})
            (tmp_path / f"{part}.txt").unlink()
        assert parts[0] and parts[1] and not parts[0] & parts[1]


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_impossible_shares(tmp_path, share):
    with pytest.raises(InputError, match="--val must be above 0 and below 1"):
        split.write(voc_set(tmp_path), share)


def test_what_cannot_be_divided(tmp_path, cityscapes):
    root, _ = cityscapes
    for folder, text in ((tmp_path / "no", "no such folder"), (root, "splits by its folders")):
        with pytest.raises(InputError, match=text):
            split.write(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing to divide"):
        split.write(tmp_path / "empty")
    with pytest.raises(InputError, match="no image is left for 'val'"):
        split.write(voc_set(tmp_path / "one", 1))


def test_a_class_is_never_only_in_one_part_where_it_can_be_in_both():
    labels = {str(k): Counter({"common": 1}) for k in range(100)}
    labels["7"]["rare"] = labels["50"]["rare"] = 1
    labels["9"]["once"] = 1
    for seed in range(5):
        val = split.chosen(labels, {name: [name] for name in labels}, 0.1, seed)
        assert len(val & {"7", "50"}) == 1 and "9" not in val and 9 <= len(val) <= 11


def test_a_third_part_takes_its_share_and_leaves_val_as_it_is(tmp_path):
    two, three = voc_set(tmp_path / "two"), voc_set(tmp_path / "three")
    split.write(two, 0.25, 0)
    done = split.write(three, 0.25, 0, test=0.25)
    assert done.images == {"train": 10, "val": 5, "test": 5}
    parts = [names("voc", three, part) for part in ("train", "val", "test")]
    assert set.union(*parts) == {path.stem for path in (three / "JPEGImages").iterdir()}
    assert sum(map(len, parts)) == 20 and parts[1] == names("voc", two, "val")
    for name in ("cat", "dog"):
        for k in range(10):
            picture(tmp_path / f"classes/{name}/{k}.jpg")
    assert split.write(tmp_path / "classes", 0.2, 0, None, 0.3).images["test"] == 6
    root = coco_set(tmp_path / "coco")
    split.write(root, 0.2, test=0.2)
    assert len(dataset.load("coco", root, "test").images) == 4
    for test in (-0.1, 0.8, float("nan")):
        with pytest.raises(InputError, match="--test must be 0"):
            split.write(voc_set(tmp_path / f"bad{test}"), 0.2, test=test)


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    root = voc_set(tmp_path)
    assert cli.main(["data", "split", str(root), "--val", "0.25", "--group", "frame[0-9]+"]) == 0
    assert "val.txt: 5 images, 6 objects" in capsys.readouterr().out
    third = voc_set(tmp_path / "third")
    assert cli.main(["data", "split", str(third), "--test", "0.2"]) == 0
    assert "test.txt: 4 images" in capsys.readouterr().out
