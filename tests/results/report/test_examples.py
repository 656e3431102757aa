"""Detections on pictures: boxes, masks and keypoints at their places, labels whole."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from detco.results.report.examples import COLOURS, LETTER, SHOWN, Box, Example, detection_panels

WIDTH, HEIGHT = 130, 65  # shown at twice its size
RIGHT = Box(20, 10, 40, 30, "dog", 0.9)
WRONG = Box(80, 5, 30, 30, "cat", 0.6)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "one.png"
    Image.new("RGB", (WIDTH, HEIGHT), (60, 70, 80)).save(path)
    return path


def panels(picture, truth, found, **more):
    """Caption -> the parsed SVG."""
    made = detection_panels(Example(picture, WIDTH, HEIGHT, truth, found, **more), 0)
    return {name: ET.fromstring(svg) for name, svg in made}


def coded(inside):
    return rle.encode(np.asfortranarray(inside.astype(np.uint8)))


def overlay(svg):
    """The picture of the masks, (height, width, 4)."""
    (address,) = [
        found.get("href") for found in svg.iter("image") if "image/png" in found.get("href")
    ]
    data = base64.b64decode(address.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)))


def test_boxes_right_and_wrong(picture):
    truth = [Box(21, 10, 40, 30, "dog")]
    found = {"mine": [RIGHT, WRONG, Box(0, 0, 5, 5, "dog", 0.49)]}
    made = panels(picture, truth, found)
    assert list(made) == ["ground truth", "mine"]
    assert made["mine"].get("aria-label") == "mine, 2 found, 1 of them right"
    groups = {group.get("class"): group for group in made["mine"].iter("g")}
    assert set(groups) == {"right", "wrong"}
    for kind, box in (("right", RIGHT), ("wrong", WRONG)):
        (rect,) = groups[kind].iter("rect")
        sides = [float(rect.get(key)) / 2 for key in ("x", "y", "width", "height")]
        assert sides == [box.x, box.y, box.width, box.height]
    assert [group.get("class") for group in made["ground truth"].iter("g")] == ["truth"]


def test_nothing_found_is_said(picture):
    made = panels(picture, [], {"mine": [Box(0, 0, 5, 5, "dog", 0.3)], "other": []})
    assert list(made) == ["ground truth", "mine: none above 0.5", "other: none above 0.5"]


def test_masks_are_translucent_with_an_outline(picture):
    """A rectangle: opaque along its edge, translucent inside, nothing outside; of the colour of its
    box."""
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[10:40, 20:60] = True
    truth, dog, cat = (
        Box(20, 10, 40, 30, *said, mask=coded(inside))
        for said in (("dog",), ("dog", 0.9), ("cat", 0.9))
    )
    made = panels(picture, [truth], {"right": [dog], "wrong": [cat], "none": [WRONG]})
    for name, kind in (("ground truth", "truth"), ("right", "right"), ("wrong", "wrong")):
        sheet = overlay(made[name])
        fine = sheet.shape[1] // WIDTH
        middle, edge = sheet[25 * fine, 40 * fine], sheet[25 * fine, 20 * fine]
        colour = list(bytes.fromhex(COLOURS[kind][1:]))
        assert list(middle[:3]) == colour and list(edge) == [*colour, 255]
        assert 0 < middle[3] < 255 and not sheet[5 * fine, 5 * fine].any()
        covered = (sheet[:, :, 3] > 0).sum() / fine**2
        assert covered == pytest.approx(inside.sum(), rel=0.02)
    assert len(list(made["none"].iter("image"))) == 0


def test_keypoints_with_their_skeleton(picture):
    """The middles of their pixels, at twice the size; lines between visible ones only."""
    points = (10, 20, 2, 30, 20, 1, 0, 0, 0)
    box = Box(5, 5, 40, 40, "dog", keypoints=points)
    found = [Box(5, 5, 40, 40, "dog", 0.9, keypoints=points)]
    skeletons = {"dog": [[1, 2], [2, 3], [3, 9]]}
    made = panels(picture, [box], {"mine": found}, skeletons=skeletons)
    for svg in made.values():
        dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in svg.iter("circle")]
        assert dots == [(21, 41), (61, 41)]
        (line,) = svg.iter("line")
        assert [float(line.get(key)) for key in ("x1", "y1", "x2", "y2")] == [21, 41, 61, 41]
    without = panels(picture, [box], {})["ground truth"]
    assert list(without.iter("line")) == [] and len(list(without.iter("circle"))) == 2


@pytest.mark.parametrize("place", [(0, 0), (120, 0), (120, 60), (0, 60), (-3, -3)])
@pytest.mark.parametrize("name", ["dog", "striped_disc_with_a_rather_long_name", "n" * 90])
def test_labels_are_whole_and_in_the_picture(picture, place, name):
    box = Box(*place, 10, 5, name, 0.75)
    (text,) = panels(picture, [], {"mine": [box]})["mine"].iter("text")
    assert text.text == f"{name} 0.75"
    x, y = float(text.get("x")), float(text.get("y"))
    wide = float(text.get("textLength") or LETTER * len(text.text))
    assert x >= 0 and x + wide <= SHOWN and 8 <= y <= SHOWN * HEIGHT / WIDTH


def test_names_are_escaped(picture):
    made = detection_panels(Example(picture, WIDTH, HEIGHT, [], {"<b>": [WRONG]}), 0)
    assert all("<b>" not in svg for _, svg in made) and re.search("&lt;b&gt;, 1 found", made[1][1])
