"""Pretraining and fine-tuning see the same pixels, and the right ones."""

import numpy as np
import pytest
from PIL import Image

from detco.common.images import to_rgb
from detco.pretrain.data.decoding import BadPicture, decode
from detco.transfer.data.inspection import Unreadable
from detco.transfer.engines.torchvision.pictures import read_rgb

RAMP = np.arange(24).reshape(4, 6)


def transparent(path):
    """Red, half of it to be seen, the rest not at all."""
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., 0], pixels[:, :3, 3] = 255, 255
    Image.fromarray(pixels).save(path)
    expected = np.full((4, 6, 3), 255)
    expected[:, :3, 1:] = 0
    return expected


def sixteen_bits(path):
    deep = (RAMP * 2849).astype(np.uint16)  # 0 to 65527
    Image.fromarray(deep).save(path)
    return np.repeat(np.floor(deep / 257 + 0.5)[..., None], 3, 2)


def palette(path):
    picture = Image.fromarray((RAMP % 3).astype(np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(path)
    return np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])[RAMP % 3]


def gray(path):
    Image.fromarray(RAMP.astype(np.uint8)).save(path)
    return np.repeat(RAMP[..., None], 3, 2)


def turned(path):
    """Lies on its side; the camera held upright says so."""
    pixels = np.repeat(RAMP[..., None], 3, 2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    return np.rot90(pixels, -1)


@pytest.mark.parametrize("make", [transparent, sixteen_bits, palette, gray, turned])
def test_both_sides_see_the_same_pixels(make, tmp_path):
    expected = make(tmp_path / "a.png")
    pretraining = decode(tmp_path / "a.png")
    finetuning = np.asarray(read_rgb(str(tmp_path / "a.png")))
    assert pretraining.tolist() == finetuning.tolist() == expected.tolist()


def test_pixels_without_a_range_are_refused_on_both_sides(tmp_path):
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "a.tiff")
    for read, error in ((decode, BadPicture), (read_rgb, Unreadable)):
        with pytest.raises(error, match="floating-point pixels have no defined range"):
            read(tmp_path / "a.tiff")


def test_rgb_is_left_as_it_is():
    picture = Image.new("RGB", (3, 2), (1, 2, 3))
    assert np.asarray(to_rgb(picture)).tolist() == [[[1, 2, 3]] * 3] * 2
