"""Images of more than 8 bits: by which range of values they are shown, and what is refused."""

import json
import logging
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from detco.common import backbone_file, contents, depth, images
from detco.common.errors import InputError
from detco.pretrain.data import listing
from detco.pretrain.data.decoding import decode
from detco.pretrain.recipes import RECIPES
from detco.pretrain.train import pretrain


def save(folder, kind, count, top, low=0):
    """Images of random values from `low` to `top`."""
    rng = np.random.default_rng(top)
    paths = []
    for number in range(count):
        values = rng.integers(low, top + 1, (20, 20))
        if kind == "8 bits":
            image = Image.fromarray(values.astype(np.uint8))
        elif kind == "float":
            image = Image.fromarray(values.astype(np.float32))
        elif kind == "signed":
            image = Image.fromarray(values.astype(np.int32))
        else:
            image = Image.fromarray(values.astype(np.uint16))
        end = "png" if kind == "png" else "tif"
        paths.append(str(folder / f"{kind[:3].strip()}{top}-{number}.{end}"))
        image.save(paths[-1])
    return paths


def files(paths, folder):
    return depth.candidates(paths, contents.of(paths, str(folder)))


def naive(paths):
    """The percentiles of all values by sorting, with linear interpolation between neighbours."""
    values = np.sort(np.concatenate([np.asarray(Image.open(path)).ravel() for path in paths]))
    found = []
    for percent in (0.1, 99.9):
        place = percent / 100 * (len(values) - 1)
        below = int(place)
        part = place - below
        found.append(float(values[below]) * (1 - part) + float(values[below + 1]) * part)
    return found


@pytest.mark.parametrize(
    "kind, low, top",
    [("png", 0, 4095), ("tif", 0, 100), ("tif", 0, 4095), ("float", -5, 900), ("signed", -999, 99)],
)
def test_values_of_a_part_of_the_range_are_stretched(kind, low, top, tmp_path):
    """Pretraining's reader by the range of its images, against the formula in plain NumPy."""
    paths = save(tmp_path, kind, 4, top, low)
    found = depth.check("set", files(paths, tmp_path), measure=True)
    assert found.images == 4 and found.note == ""
    np.testing.assert_allclose(found.value_range, naive(paths), rtol=1e-12)
    first, last = found.value_range
    pictures = listing.find(tmp_path)
    value_range = pictures.looked_at()[1]
    assert value_range == found.value_range
    for path in paths:
        values = np.asarray(Image.open(path)).astype(float)
        wanted = np.floor(np.clip((values - first) / (last - first) * 255, 0, 255) + 0.5)
        assert np.array_equal(decode(path, 0, value_range), np.repeat(wanted[..., None], 3, 2))
    with pytest.raises(InputError, match="of 4 images"):  # tested on, where nothing gives a range
        depth.check("set", files(paths, tmp_path))


@pytest.mark.parametrize("kind, top", [("png", 65535), ("tif", 65535), ("png", 16383)])
def test_ordinary_16_bits_stay_as_they_were(kind, top, tmp_path):
    paths = save(tmp_path, kind, 4, top)
    assert depth.check("set", files(paths, tmp_path), measure=True) == depth.Depth(4)
    pictures = listing.find(tmp_path)
    assert pictures.looked_at()[1] is None
    values = np.asarray(Image.open(paths[0])).astype(float)
    assert np.array_equal(decode(paths[0])[..., 0], np.floor(values / 257 + 0.5))


def test_images_of_8_bits_and_of_few_values_lose_nothing(tmp_path):
    tiffs = save(tmp_path, "8 bits", 3, 255)
    assert [path for path, _ in files(tiffs, tmp_path)] == tiffs  # a TIFF may be deep
    two = tmp_path / "two.png"
    Image.fromarray(np.array([[0, 65535], [65535, 0]], np.uint16)).save(two)
    one = tmp_path / "one.png"
    Image.fromarray(np.full((4, 4), 7, np.uint16)).save(one)
    paths = [*tiffs, str(two), str(one)]
    assert depth.check("set", files(paths, tmp_path), measure=True) == depth.Depth(2)


def test_what_is_never_silent(tmp_path):
    good, bad = save(tmp_path, "png", 3, 65535), save(tmp_path, "png", 3, 1000)
    found = depth.check("set", files([*good, *bad[:2]], tmp_path), measure=True)
    assert found.images == 5 and found.value_range is None
    assert "2 of 5 images" in found.note and "of which 8 bits keep" in found.note
    with pytest.raises(InputError, match="nearly without contrast by the range"):
        depth.check("set", files(bad, tmp_path), (1e8, 2e8))
    floats = save(tmp_path, "float", 1, 9)
    with pytest.raises(InputError, match=r"1 of 4 .* floating-point"):
        depth.check("set", files([*good, *floats], tmp_path), measure=True)
    hollow = tmp_path / "hollow.tif"
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(hollow)
    with pytest.raises(InputError, match="floating-point pixels, for which there is no range"):
        depth.check("set", files([str(hollow)], tmp_path), measure=True)
    with pytest.raises(InputError, match="has no finite value"):
        depth.check("set", files([str(hollow)], tmp_path), (0.0, 1.0))


def test_16_bit_colours_of_which_little_is_read(tmp_path):
    """Pillow reads the upper 8 bits of them: 12-bit counts keep 16 levels, and no range helps."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    values = np.random.default_rng(0).integers(0, 4096, (8, 8, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path = tmp_path / "colour.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(InputError, match=r"16-bit colours.* reach 15 of 255"):
        depth.check("set", files([str(path)], tmp_path), measure=True)


def test_nan_is_black_and_infinity_an_end():
    values = np.array([np.nan, -np.inf, np.inf, 1.0, 3.0, 2.0], np.float32)
    assert images.to_8_bits(values, (1.0, 3.0)).tolist() == [0, 0, 255, 0, 255, 128]


def test_it_is_looked_at_once_and_names_do_not_count(tmp_path, monkeypatch):
    paths = files(save(tmp_path, "png", 4, 4095), tmp_path)
    first = depth.check("set", paths, measure=True)
    monkeypatch.setattr(depth, "_look", None)
    assert depth.check("set", paths[::-1], measure=True) == first


def test_a_failure_that_passes_is_not_remembered(tmp_path, monkeypatch):
    paths = save(tmp_path, "png", 4, 4095)
    files = [(path, str(number).encode()) for number, path in enumerate(paths)]

    def too_many(path):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(depth, "open_image", too_many)
        with pytest.raises(OSError, match="Too many"):
            depth.check("x", files, measure=True)
    found = depth.check("x", files, measure=True)
    assert found.images == 4 and found.value_range[1] == pytest.approx(4095, rel=0.01)


def test_pretraining_has_the_range_in_its_identity_and_file(tmp_path, caplog):
    save(tmp_path, "png", 4, 4095)
    recipe = replace(RECIPES["moco-v2-small"], epochs=1, batch=4, view_size=32, fill_queue=False)
    with caplog.at_level(logging.INFO, "detco.pretrain"):
        made = backbone_file.read(pretrain(recipe, tmp_path, tmp_path / "out", device="cpu"))
    found = listing.find(tmp_path).looked_at()[1]
    assert json.loads(dict(made.metadata)["value_range"]) == list(found)
    assert "become 0 to 255" in caplog.text
