"""Images, boxes, masks and keypoints are transformed together; an iteration's batch depends
only on seed and iteration."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from detco.common.errors import InputError
from detco.transfer.data import dataset as datasets
from detco.transfer.engines.torchvision.pictures import (
    DetectionPictures,
    Wanted,
    batches,
    flip_order,
    read_rgb,
    resized_shape,
)
from detco.transfer.settings import Resize


@pytest.fixture(scope="module")
def dataset(scenes):
    return datasets.load("coco", scenes / "coco", "train")


@pytest.fixture(scope="module")
def pictures(dataset):
    return DetectionPictures(dataset, Wanted(masks=True), 192)


@pytest.mark.parametrize(
    ("height", "width", "short", "longest", "expected"),
    [
        (480, 640, 800, 1333, (800, 1067)),
        (500, 353, 800, 1333, (1133, 800)),
        (200, 1000, 800, 1333, (267, 1333)),
    ],
)
def test_resized_shape(height, width, short, longest, expected):
    assert resized_shape(height, width, short, longest) == expected


def test_boxes_bound_their_masks_at_any_size_and_flipped(pictures):
    for key in ((0, 64, False), (1, 96, False), (2, 96, True), (3, 64, True)):
        pixels, target = pictures[key]
        assert pixels.shape[1:] == target["masks"].shape[1:] and min(pixels.shape[1:]) == key[1]
        for box, mask in zip(target["boxes"], target["masks"], strict=True):
            ys, xs = torch.where(mask > 0)
            tight = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
            # nearest-neighbour resizing of the mask moves an edge by a pixel
            assert (box - tight).abs().max() <= 1.6


def test_flip_mirrors_picture_and_boxes(pictures):
    (plain, straight), (mirrored, flipped) = pictures[0, 64, False], pictures[0, 64, True]
    assert torch.equal(mirrored, plain.flip(2))
    width = plain.shape[2]
    x0, y0, x1, y1 = straight["boxes"].unbind(1)
    assert torch.allclose(flipped["boxes"], torch.stack([width - x1, y0, width - x0, y1], 1))
    assert torch.equal(flipped["masks"], straight["masks"].flip(2))


def test_pixels_are_those_of_the_file_in_the_wanted_colour_order(dataset):
    short = min(dataset.images[0]["height"], dataset.images[0]["width"])
    expected = np.asarray(Image.open(dataset.images[0]["file_name"]).convert("RGB")).transpose(
        2, 0, 1
    )
    assert np.array_equal(
        DetectionPictures(dataset, Wanted("RGB"), 999)[0, short, False][0].numpy(), expected
    )
    assert np.array_equal(
        DetectionPictures(dataset, Wanted("BGR"), 999)[0, short, False][0].numpy(), expected[::-1]
    )


def test_keypoints_follow_their_person(scenes):
    dataset = datasets.load("coco", scenes / "coco", "train", keypoints=True)
    pictures = DetectionPictures(dataset, Wanted(keypoints=True), 192)
    number = pictures.trainable()[0]
    names = pictures.names
    raw = next(
        a for a in pictures.of_image[dataset.images[number]["id"]] if any(a["keypoints"][2::3])
    )
    points = np.array(raw["keypoints"], float).reshape(-1, 3)
    image = dataset.images[number]
    for flip in (False, True):
        pixels, target = pictures[number, 128, flip]
        scale = np.array([pixels.shape[2] / image["width"], pixels.shape[1] / image["height"]])
        for i, name in enumerate(names):
            other = (
                name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
                if flip
                else name
            )
            x, y, v = points[names.index(other)]
            if v == 0:
                continue
            expected = (np.array([x, y]) + 0.5) * scale
            if flip:
                expected[0] = pixels.shape[2] - expected[0]
            assert target["keypoints"][0, i].numpy() == pytest.approx([*expected, v], abs=1e-3)


def test_an_object_without_visible_keypoints_keeps_its_box(scenes):
    """As in Detectron2; a picture with nothing but such objects is not trained on."""
    dataset = datasets.load("coco", scenes / "coco", "train", keypoints=True)
    first = dataset.annotations[0]["image_id"]
    mine = [a for a in dataset.annotations if a["image_id"] == first]
    hidden = mine[0] | {"keypoints": [0] * len(mine[0]["keypoints"]), "num_keypoints": 0}
    number = [image["id"] for image in dataset.images].index(first)
    for others in (mine[1:], []):
        pictures = DetectionPictures(
            replace(dataset, annotations=(hidden, *others)), Wanted(keypoints=True), 192
        )
        target = pictures[number, 64, False][1]
        assert len(target["boxes"]) == len(target["keypoints"]) == 1 + len(others)
        assert not target["keypoints"][0, :, 2].any()
        assert pictures.trainable() == (
            [number] if any(any(a["keypoints"][2::3]) for a in others) else []
        )


def test_flip_order_swaps_sides():
    assert flip_order(["nose", "left_eye", "right_eye", "left_foot", "right_foot"]) == [
        0,
        2,
        1,
        4,
        3,
    ]
    assert flip_order(["a", "left_only"]) == [0, 1]


def test_batches_go_on_anywhere_and_see_every_picture_once_a_pass(pictures):
    resize = Resize((64, 96), 192, 64, 192)
    whole = list(islice(batches(pictures, resize, 4, seed=1, start=0), 40))
    assert list(islice(batches(pictures, resize, 4, seed=1, start=17), 5)) == whole[17:22]
    assert list(islice(batches(pictures, resize, 4, seed=2, start=0), 5)) != whole[:5]
    tall = [image["height"] > image["width"] for image in pictures.dataset.images]
    assert all(len({tall[number] for number, _, _ in batch}) == 1 for batch in whole)
    seen = np.bincount([number for batch in whole for number, _, _ in batch], minlength=len(tall))
    # passes are permutations; a few wait in the other group
    assert seen.max() - seen.min() <= 2 and seen.sum() == 160
    assert {short for batch in whole for _, short, _ in batch} == {64, 96}
    assert {flip for batch in whole for _, _, flip in batch} == {False, True}


def test_crowds_are_not_trained_on(dataset):
    crowd = tuple(a | {"iscrowd": 1} for a in dataset.annotations)
    with pytest.raises(InputError, match="no picture of split train has annotations"):
        next(
            batches(
                DetectionPictures(replace(dataset, annotations=crowd), Wanted(), 192),
                Resize(),
                2,
                0,
                0,
            )
        )


def test_odd_pictures_become_rgb_and_broken_ones_are_named(tmp_path):
    grey16 = np.full((5, 4), 0x8000, np.uint16)
    Image.fromarray(grey16).save(tmp_path / "grey16.png")
    Image.new("CMYK", (4, 5), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    Image.new("L", (4, 5), 77).save(tmp_path / "grey.png")
    assert (
        np.asarray(read_rgb(tmp_path / "grey16.png")).tolist() == np.full((5, 4, 3), 128).tolist()
    )
    red, green, blue = np.asarray(read_rgb(tmp_path / "cmyk.jpg"))[2, 2].tolist()
    assert red > 200 and green < 60 and blue < 60
    assert np.asarray(read_rgb(tmp_path / "grey.png")).tolist() == np.full((5, 4, 3), 77).tolist()
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cmyk.jpg").read_bytes()[:-40])
    for name in ("text.jpg", "cut.jpg", "missing.jpg"):
        with pytest.raises(InputError, match=name):
            read_rgb(tmp_path / name)


def test_a_picture_of_another_size_than_annotated_is_refused(tmp_path, dataset):
    Image.new("RGB", (10, 12)).save(tmp_path / "x.png")
    wrong = replace(
        dataset,
        images=(dataset.images[0] | {"file_name": str(tmp_path / "x.png")},),
        annotations=(),
    )
    with pytest.raises(InputError, match=r"x\.png is 10 x 12 px, its annotation says"):
        DetectionPictures(wrong, Wanted(), 192)[0, 64, False]
