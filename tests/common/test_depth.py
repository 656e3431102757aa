"""Images of more than 8 bits are checked before training."""

import numpy as np
import pytest
from PIL import Image

from detco.common import contents, depth
from detco.common.errors import InputError
from detco.pretrain.data import listing


def save(folder, kind, count, top):
    """Images of random counts from 0 to `top`."""
    rng = np.random.default_rng(top)
    paths = []
    for number in range(count):
        values = rng.integers(0, top + 1, (20, 20))
        if kind == "8 bits":
            image = Image.fromarray(values.astype(np.uint8))
        elif kind == "float":
            image = Image.fromarray(values.astype(np.float32), "F")
        else:
            image = Image.fromarray(values.astype(np.uint16))
        end = "png" if kind == "png" else "tif"
        paths.append(str(folder / f"{kind[:3].strip()}{top}-{number}.{end}"))
        image.save(paths[-1])
    return paths


def deep(paths, folder):
    return depth.deep_of(paths, contents.of(paths, str(folder)))


@pytest.mark.parametrize(
    "kind, top, words",
    [
        ("png", 65535, None),
        ("tif", 65535, None),
        ("png", 16383, None),  # 14 bits: 64 levels
        ("png", 4095, r"counts from \d+ to 40\d\d, of which 8 bits keep 1[67]"),
        ("tif", 100, "keep 1 grey level"),
        ("float", 1, "floating-point"),
    ],
)
def test_what_8_bits_leave(kind, top, words, tmp_path):
    paths = deep(save(tmp_path, kind, 4, top), tmp_path)
    assert len(paths) == 4
    if words is None:
        assert depth.check("set", paths) == (4, "")
        return
    with pytest.raises(InputError, match=words) as caught:
        depth.check("set", paths)
    assert "4 of 4" in str(caught.value) and "scale all of them" in str(caught.value)


def test_images_of_8_bits_and_of_few_values_lose_nothing(tmp_path):
    tiffs = save(tmp_path, "8 bits", 3, 255)
    assert deep(tiffs, tmp_path) == tiffs  # a TIFF may be deep; these are not
    two = tmp_path / "two.png"
    Image.fromarray(np.array([[0, 65535], [65535, 0]], np.uint16)).save(two)
    one = tmp_path / "one.png"
    Image.fromarray(np.full((4, 4), 7, np.uint16)).save(one)
    assert depth.check("set", [*tiffs, str(two), str(one)]) == (2, "")


def test_a_few_are_noted_and_half_are_refused(tmp_path):
    good, bad = save(tmp_path, "png", 3, 65535), save(tmp_path, "png", 3, 1000)
    deep, note = depth.check("set", [*good, *bad[:2]])
    assert deep == 5 and "2 of 5 images" in note and bad[0] in note
    with pytest.raises(InputError, match="3 of 6"):
        depth.check("set", [*good, *bad])


def test_pretraining_and_fine_tuning_look_before_they_start(tmp_path):
    save(tmp_path, "png", 3, 4095)
    with pytest.raises(InputError, match="3 of 3 images of more than 8 bits"):
        listing.find(tmp_path).content()
