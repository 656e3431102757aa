"""Messages of the readers that no other test meets: true, in one line, and a way on."""

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from detco.benchmarks.cli import main as cli
from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.data import dataset
from detco.transfer.data.checks import examine
from detco.transfer.data.making import animal_pose, labelme, split, yolo
from detco.transfer.protocols import PROTOCOLS
from tests.factories.datasets import H, W, changed, picture, write_coco, xml


def yolo_set(root, about, names="cup\n", labels="0 0.5 0.5 0.1 0.1\n"):
    picture(root / "images/a.jpg")
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    (root / "obj.names").write_text(names)
    (root / "obj.data").write_text(about)
    return root


def of_darknet(root, **more):
    yolo.convert(root, yolo.of_darknet(root / "obj.data"), root / "out")


def of_names(root):
    yolo.convert(root, {"names": ["cup"]}, root / "out")


def darknet_without_names(root):
    of_darknet(yolo_set(root, "train = train.txt\n"))


def darknet_with_an_empty_list(root):
    yolo_set(root, "names = data/obj.names\ntrain = data/train.txt\n")
    (root / "train.txt").write_text("\n")
    of_darknet(root)


def yolo_with_a_broken_image(root):
    (yolo_set(root, "") / "images/a.jpg").write_bytes(b"no image")
    of_names(root)


def yolo_labels_that_are_no_text(root):
    of_names(yolo_set(root, "", labels=b"\xff\xfe0"))


def yolo_without_labels(root):
    (yolo_set(root, "") / "labels/a.txt").unlink()
    of_names(root)


def labelme_with_a_broken_image(root):
    (root / "a.jpg").write_bytes(b"no image")
    shapes = [{"label": "cup", "shape_type": "rectangle", "points": [[1, 2], [3, 4]]}]
    (root / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.jpg"}))
    labelme.convert(root, root / "out")


def empty_rle(root):
    counts = rle.encode(np.asfortranarray(np.zeros((H, W), np.uint8)))["counts"].decode()
    mask = {"size": [H, W], "counts": counts}
    write_coco(root, changed("annotations", 0, segmentation=mask))
    dataset.load("coco", root, "train", strict=True)


def voc_folder(root):
    (root / "train").mkdir()
    for name in "abcdef":
        picture(root / f"train/{name}.jpg")
        (root / f"train/{name}.xml").write_text(xml(("ant", (1, 1, 9, 9))))
    return root


def voc_without_that_split(root):
    dataset.load("voc", voc_folder(root), "trian")


def labels_beyond_cityscapes(root):
    folder = root / "gtFine/val/town"
    folder.mkdir(parents=True)
    picture(root / "leftImg8bit/val/town/town_1_leftImg8bit.png")
    Image.fromarray(np.full((H, W), 50000, np.uint16)).save(
        folder / "town_1_gtFine_instanceIds.png"
    )
    dataset.load("cityscapes", root, "val")


def animal_pose_of(**change):
    def build(root):
        (root / "images").mkdir()
        picture(root / "images/a.jpg")
        animal = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9], "keypoints": [[1, 2, 1]]}
        about = {"images": {"1": "a.jpg"}, "annotations": [animal | change.pop("animal", {})]}
        about |= {"categories": [{"id": 1, "name": "cat"}]} | change
        (root / "keypoints.json").write_text(json.dumps(about))
        animal_pose.convert(root, root / "out")

    return build


def animal_pose_without_json(root):
    (root / "keypoints.json").write_text("{")
    animal_pose.convert(root, root / "out")


CASES = {
    "obj.data: no line `names = ...`": darknet_without_names,
    "no images in data/train.txt": darknet_with_an_empty_list,
    "images/a.jpg: not a picture that can be read": yolo_with_a_broken_image,
    "labels/a.txt: not a text file": yolo_labels_that_are_no_text,
    "no image has a label file with objects in it, e.g. .*labels/a.txt": yolo_without_labels,
    "a.jpg: not a picture that can be read": labelme_with_a_broken_image,
    "segmentation is RLE that is empty": empty_rle,
    "no split 'trian', there are train; did you mean 'train'": voc_without_that_split,
    "label ids must be 0..33, found 50": labels_beyond_cityscapes,
    "keypoints.json: malformed JSON": animal_pose_without_json,
    "'annotations' must be a list": animal_pose_of(annotations=None),
    "'categories' must list": animal_pose_of(categories=[{"id": 1, "name": "../cat"}]),
    "'images' must give": animal_pose_of(images={"1": "../../a.jpg"}),
    "annotation 0: no category 7": animal_pose_of(animal={"category_id": 7}),
    "annotation 0: bbox must be": animal_pose_of(animal={"bbox": [1, 2, "9", 9]}),
    "annotation 0: keypoints must be": animal_pose_of(animal={"keypoints": [[1, "2", 1]]}),
    "cannot read .*gone.jpg: No such file or directory$": animal_pose_of(
        images={"1": "gone.jpg", "2": "a.jpg"}
    ),
}


@pytest.mark.parametrize("message", CASES)
def test_what_is_refused(message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        CASES[message](tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_repeated_lines_of_a_list_count_once(tmp_path):
    root = voc_folder(tmp_path)
    (root / "train/ImageSets/Main").mkdir(parents=True)
    (root / "train/ImageSets/Main/mine.txt").write_text("b\na\nb\nb\n")
    found = dataset.load("voc", root / "train", "mine")
    assert [image["name"] for image in found.images] == ["b", "a"]
    assert found.notes[0].endswith("2 of 4 lines are repeated and count once; the first: 'b'")


def test_the_command_that_a_message_names_works(tmp_path):
    """Two steps: one folder has annotations, and dividing that gives two splits."""
    root = tmp_path / "my set"
    root.mkdir()
    with pytest.raises(InputError, match="there is train only") as caught:
        dataset.default_splits("voc", voc_folder(root))
    for _ in range(2):
        words = shlex.split(re.search("`(.*?)`", str(caught.value))[1])
        try:
            split.write(type(root)(words[-1]))
        except InputError as error:
            caught.value.args = (str(error),)
    assert cli.main(words[1:]) == 2  # it is done, and not done again
    assert dataset.default_splits("voc", root / "train") == ("train", "val")


def test_test_images_that_were_trained_on_are_a_footnote(tmp_path, scenes):
    _, test = finetune.load_data(
        PROTOCOLS["small-retinanet"], {"layout": "coco", "root": str(scenes / "coco")}
    )
    test.facts["in_training"] = 3
    (line,) = examine.deviations(test)
    assert line == f"3 of {len(test.images)} test images are training images too"
