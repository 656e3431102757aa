"""Animal Pose's own file, which is only like COCO's, as COCO files."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from detco.benchmarks.cli.main import main
from detco.common.errors import InputError
from detco.transfer.data import dataset
from detco.transfer.data.making import animal_pose

NAMES = ["left_eye", "right_eye", "nose"]


@pytest.fixture
def official(tmp_path):
    """Twelve images of 80 x 40 pixels, one animal in each but the first, which has two; the form of
    the download."""
    root = tmp_path / "official"
    (root / "images").mkdir(parents=True)
    images, annotations = {}, []
    for number in range(1, 13):
        images[str(number)] = f"2007_{number:06}.jpg"
        pixels = np.full((40, 80, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(root / "images" / images[str(number)])
        annotations.append(
            {
                "image_id": number,
                "bbox": [10, 4, 50, 36],
                "keypoints": [[12, 8, 1], [0, 0, 0], [40, 20, 1]],
                "num_keypoints": 2,
                "category_id": 1 + number % 2,
            }
        )
    annotations.append({**annotations[0], "bbox": [60, 4, 90, 44], "category_id": 1})
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    categories = [{**one, "keypoints": NAMES, "skeleton": [[1, 2]]} for one in categories]
    about = {"images": images, "annotations": annotations, "categories": categories}
    (root / "keypoints.json").write_text(json.dumps(about))
    return root


def test_labels_are_halved_with_the_images(official, tmp_path, capsys):
    out = tmp_path / "coco"
    assert main(["data", "convert", "animal-pose", str(official), str(out), "--size", "20"]) == 0
    assert "instances_train.json" in capsys.readouterr().out
    train, val = (dataset.load("coco", out, split) for split in ("train", "val"))
    assert len(train.images) + len(val.images) == 12 and train.images and val.images
    for image in (*train.images, *val.images):
        with Image.open(image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (40, 20)
    boxes = [one["bbox"] for one in (*train.annotations, *val.annotations)]
    # corners 10, 4, 50, 36 and 60, 4, 90, 44, the second cut at the edges, at half the size
    assert sorted(boxes) == sorted([[5, 2, 20, 16]] * 12 + [[30, 2, 10, 18]])
    posed = dataset.load("coco", out, "train", keypoints=True)
    assert [c["name"] for c in posed.categories if c.get("keypoints")] == ["animal"]
    points = {tuple(one["keypoints"]) for one in posed.annotations}
    assert points == {(6, 4, 2, 0, 0, 0, 20, 10, 2)}


def test_training_images_lie_in_a_folder_a_class_by_their_largest_animal(official, tmp_path):
    out = tmp_path / "coco"
    animal_pose.convert(official, out)
    train = {path.name for path in (out / "train").iterdir()}
    sorted_by = {
        path.name: path.parent.name for path in (out / "by-class").glob("*/*") if path.is_file()
    }
    assert sorted_by.keys() == train
    about = json.loads((official / "keypoints.json").read_text())
    first = {name: key for key, name in about["images"].items()}
    for name, kind in sorted_by.items():
        assert kind == ("cat" if int(first[name]) % 2 else "dog")
        assert os.path.samefile(out / "train" / name, out / "by-class" / kind / name)
        assert (out / "train" / name).read_bytes() == (official / "images" / name).read_bytes()


def test_the_split_is_the_same_whatever_else_there_is(official, tmp_path):
    animal_pose.convert(official, tmp_path / "a")
    about = json.loads((official / "keypoints.json").read_text())
    about["images"] = dict(list(about["images"].items())[::-1][:6])
    kept = {int(key) for key in about["images"]}
    about["annotations"] = [one for one in about["annotations"] if one["image_id"] in kept]
    (official / "keypoints.json").write_text(json.dumps(about))
    animal_pose.convert(official, tmp_path / "b")
    first = {path.name for path in (tmp_path / "a" / "val").iterdir()}
    again = tmp_path / "b" / "val"
    assert {p.name for p in again.iterdir()} == first & set(about["images"].values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about: about.update(images=[]), "'images' must give each id the name of an image"),
        (lambda about: about["images"].update({"1": "a.txt"}), "'images' must give each id"),
        (lambda about: about["images"].update({"1": about["images"]["2"]}), "two images have the"),
        (lambda about: about["categories"][0].update(id=[1]), "'categories' must list"),
        (lambda about: about["annotations"][2].update(bbox=[9, 9, 5, 12]), "annotation 2: bbox"),
        (lambda about: about["annotations"][1].update(keypoints=[1, 2]), "annotation 1: keypoints"),
        (lambda about: about["annotations"].append("dog"), "annotation 13"),
        (lambda about: about["annotations"][0].update(image_id=99), "annotation 0: no image 99"),
        (lambda about: about["images"].update({"1": "gone.jpg"}), "gone.jpg"),
    ],
)
def test_another_file_is_refused_by_its_place(official, tmp_path, change, words):
    path = official / "keypoints.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    with pytest.raises(InputError, match=words):
        animal_pose.convert(official, tmp_path / "out")


def test_nothing_is_written_over(official, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not an empty folder"):
        animal_pose.convert(official, tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        animal_pose.convert(tmp_path, tmp_path / "new")
