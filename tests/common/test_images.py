"""Pretraining and fine-tuning decode the same, correct pixels."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from detco.common.images import FORMATS, full_size, open_image, to_rgb, upright_size
from detco.pretrain.data.decoding import BadPicture, decode
from detco.results.report.examples import embedded
from detco.transfer.data import inspection
from detco.transfer.data.cityscapes import read as read_cityscapes
from detco.transfer.data.inspection import Unreadable
from detco.transfer.data.reading import picture_size
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
        with pytest.raises(error, match="floating-point pixels"):
            read(tmp_path / "a.tiff")


def test_rgb_is_left_as_it_is():
    picture = Image.new("RGB", (3, 2), (1, 2, 3))
    assert np.asarray(to_rgb(picture)).tolist() == [[[1, 2, 3]] * 3] * 2


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A file that is there once `gs` was started."""
    started = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho > {started}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return started


def of_cityscapes(path):
    """As an image of labels."""
    picture = path.parent / "leftImg8bit" / "val" / "a" / "a_leftImg8bit.png"
    labels = path.parent / "gtFine" / "val" / "a" / "a_gtFine_instanceIds.png"
    for one in (picture, labels):
        one.parent.mkdir(parents=True)
    Image.new("RGB", (10, 10)).save(picture)
    labels.write_bytes(path.read_bytes())
    raise ValueError(*read_cityscapes(path.parent, "val").problems)


def of_check(path):
    raise ValueError(*inspection.sizes([str(path)], whole=True))


READERS = {
    "pretraining": decode,
    "torchvision": read_rgb,
    "headers": picture_size,
    "labels": of_cityscapes,
    "check": of_check,
    "reports": embedded,
}


def test_pillow_would_start_ghostscript(tmp_path, ghostscript):
    path = tmp_path / "a.jpg"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises((OSError, subprocess.SubprocessError)), Image.open(path) as picture:
        picture.load()
    assert ghostscript.exists()


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_starts_ghostscript(reader, tmp_path, ghostscript):
    path = tmp_path / "a.jpg"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises((ValueError, BadPicture), match="cannot identify"):
        READERS[reader](path)
    assert not ghostscript.exists()


@pytest.mark.detectron2
@pytest.mark.parametrize("key", ["file_name", "sem_seg_file_name"])
def test_detectron2_is_given_no_other_formats(key, tmp_path, ghostscript):
    pytest.importorskip("detectron2")
    from detectron2.config import get_cfg

    from detco.transfer.engines.detectron2.data import mapper

    Image.new("RGB", (10, 10)).save(tmp_path / "good.png")
    (tmp_path / "a.jpg").write_bytes(POSTSCRIPT)
    record = {"file_name": str(tmp_path / "good.png"), "width": 10, "height": 10}
    with pytest.raises(Unreadable, match="cannot identify"):
        mapper(get_cfg(), True)(record | {key: str(tmp_path / "a.jpg"), "annotations": []})
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_known_by_content(kind, tmp_path):
    path = tmp_path / "a.xyz"
    Image.new("RGB", (7, 5)).save(path, kind)
    with open_image(path) as picture:
        assert picture.size == (7, 5)
    with open(path, "rb") as file, open_image(file) as picture:
        assert picture.size == (7, 5)


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(BadPicture, match="a named pipe"):
        decode(tmp_path / "a.jpg")
    with pytest.raises(Unreadable, match="a named pipe"):
        read_rgb(str(tmp_path / "a.jpg"))


@pytest.fixture
def small_limit(monkeypatch):
    """Images of more than 2,000 pixels are too large."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_too_large_an_image_is_told_to_be_cut(tmp_path, small_limit, suffix):
    path = tmp_path / f"large.{suffix}"
    Image.new("RGB", (60, 50), "red").save(path)
    with pytest.raises(ValueError, match="cut it into tiles"):
        open_image(path)


@pytest.mark.parametrize(
    ("size", "read"),
    [((40, 40), (40, 40)), ((60, 50), (30, 25)), ((200, 100), (50, 25)), ((300, 300), (38, 38))],
)
def test_a_large_jpeg_is_decoded_at_the_largest_scale_that_fits(tmp_path, small_limit, size, read):
    path = tmp_path / "large.jpg"
    across = np.linspace(0, 255, size[0], dtype=np.uint8)
    Image.fromarray(np.tile(across, (size[1], 1))).save(path, quality=95)
    with open(path, "rb") as file:
        for source in (path, file):
            with open_image(source) as picture:
                pixels = np.asarray(to_rgb(picture)).astype(int)
            assert pixels.shape == (read[1], read[0], 3)
            assert abs(pixels[5, :, 0] - np.linspace(0, 255, read[0])).max() < 12


def test_more_than_an_eighth_can_mend_is_told_to_be_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("L", (400, 400)).save(tmp_path / "large.jpg")
    with pytest.raises(ValueError, match="cut it into tiles"):
        open_image(tmp_path / "large.jpg")


def test_a_warning_of_an_attack_is_not_shown(tmp_path):
    """Between half of the limit and the limit Pillow warns; in a process of its own, as a test has
    other filters."""
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    code = (
        "import sys; from detco.common.images import Image, open_image;"
        " Image.MAX_IMAGE_PIXELS = 1000; print(open_image(sys.argv[1]).size)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(40, 40)\n", "")


@pytest.mark.parametrize(("turn", "size"), [(1, (200, 100)), (3, (200, 100)), (6, (100, 200))])
def test_a_reduced_jpeg_knows_its_full_size(tmp_path, small_limit, turn, size):
    path, exif = tmp_path / "large.jpg", Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (200, 100), "red").save(path, exif=exif)
    with open_image(path) as picture:
        assert full_size(picture) == (200, 100) and upright_size(picture) == size
        rgb = to_rgb(picture)
    assert full_size(rgb) == size and rgb.size == (size[0] // 4, size[1] // 4)
    assert inspection.sizes([str(path)]) == inspection.sizes([str(path)], whole=True) == [size]


def test_pretraining_reads_a_large_jpeg_reduced(tmp_path, small_limit):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (60, 50), "red").save(path)
    assert decode(path).shape == (25, 30, 3) and decode(path, 10).shape == (10, 12, 3)
    Image.new("RGB", (60, 50), "red").save(tmp_path / "large.png")
    assert "cut it into tiles" in inspection.sizes([str(tmp_path / "large.png")])[0]
    with pytest.raises(BadPicture, match="cut it into tiles"):
        decode(tmp_path / "large.png")
