"""Folders of classes: what is read, and one clear line for what cannot be used."""

import pytest
from PIL import Image

from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.data import dataset, imagefolder, layout_of
from detco.transfer.protocols import PROTOCOLS
from tests.factories import datasets


@pytest.fixture
def root(tmp_path):
    return datasets.classes(tmp_path / "mine", 3, 2)


def prepared(root, name="small-knn"):
    return finetune.prepare(PROTOCOLS[name], {"layout": "imagefolder", "root": str(root)})


def test_classes_are_folders_and_each_image_has_one(root):
    (root / "train/red/below").mkdir()
    Image.new("RGB", (20, 10)).save(root / "train/red/below/more.JPG")
    (root / "train/red/notes.txt").write_text("no image")
    train = dataset.load("imagefolder", root, "train")
    assert [c["name"] for c in train.categories] == ["blue", "green", "red"]
    of_image = {a["image_id"]: a["category_id"] for a in train.annotations}
    assert [(i["name"], of_image[i["id"]]) for i in train.images] == [
        *((f"blue/{n}.png", 1) for n in range(3)),
        *((f"green/{n}.png", 2) for n in range(3)),
        *((f"red/{n}.png", 3) for n in range(3)),
        ("red/below/more.JPG", 3),
    ]
    assert train.annotations[-1]["bbox"] == [0, 0, 20, 10]


def test_the_layout_is_recognised_where_no_other_fits(root, tmp_path):
    assert layout_of(root) == "imagefolder" and imagefolder.splits(root) == ["train", "val"]
    # YOLO: train/images and train/labels are no classes
    for split in ("train", "val"):
        datasets.picture(tmp_path / "yolo" / split / "images" / "a.jpg")
        (tmp_path / "yolo" / split / "labels").mkdir()
    assert layout_of(tmp_path / "yolo") is None


def test_classes_of_training_count_for_the_test_split(root):
    train, test = prepared(root)
    assert train.categories == test.categories and len(test.images) == 6
    Image.new("RGB", (20, 10)).save(datasets.classes(root, 0, 0) / "val/red/x.png")
    (root / "val/cyan").mkdir()
    Image.new("RGB", (20, 10)).save(root / "val/cyan/x.png")
    with pytest.raises(InputError, match=r"unknown category 'cyan' .*training has blue, green"):
        prepared(root)


def test_a_class_with_one_image_cannot_be_learnt_from(root):
    for number in (1, 2):
        (root / f"train/green/{number}.png").unlink()
    with pytest.raises(InputError, match=r"class 'green' of split 'train' has 1 image; .* needs 2"):
        prepared(root)


def test_a_class_without_images_is_named(root):
    (root / "train/empty").mkdir()
    with pytest.raises(InputError, match="train/empty: a class without images"):
        prepared(root)


def test_images_beside_the_classes_are_refused(root):
    Image.new("RGB", (20, 10)).save(root / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(InputError, match="1 images lie beside the folders of classes"):
        prepared(root)


def test_one_class_is_none(tmp_path):
    root = datasets.classes(tmp_path, 2, 2, ("red",))
    with pytest.raises(InputError, match="1 folders of classes; at least 2"):
        dataset.load("imagefolder", root, "train")


def test_a_broken_image_and_a_missing_split_are_named(root):
    (root / "train/red/0.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"train/red/0\.png: not a picture that can be read"):
        prepared(root)
    with pytest.raises(InputError, match=r"no split 'vall', there are train, val; did you mean"):
        dataset.load("imagefolder", root, "vall")


def test_detectors_and_classifiers_refuse_each_others_data(root, scenes):
    with pytest.raises(InputError, match="folders of classes have no boxes to detect"):
        prepared(root, "small-retinanet")
    with pytest.raises(InputError, match="needs data in the layout imagefolder, these are in voc"):
        finetune.prepare(PROTOCOLS["small-knn"], {"layout": "voc", "root": str(scenes / "voc")})
