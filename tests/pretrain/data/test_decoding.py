import logging

import numpy as np
import pytest
from PIL import Image

from detco.common.errors import InputError
from detco.pretrain.data.decoding import Bad, BadPicture, check, decode, memory
from detco.pretrain.data.listing import find


@pytest.fixture
def ramp():
    return (np.arange(40 * 60).reshape(40, 60) * 65535 // (40 * 60)).astype(np.uint16)


def colours():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)  # 40 x 48


@pytest.mark.parametrize(
    "suffix, options, tolerance",
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("tiff", {}, 0),
        ("ppm", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpg", {"quality": 97, "subsampling": 0}, 12),
    ],
)
def test_rgb_in_any_format(tmp_path, suffix, options, tolerance):
    Image.fromarray(colours()).save(tmp_path / f"a.{suffix}", **options)
    out = decode(tmp_path / f"a.{suffix}")
    assert out.dtype == np.uint8 and out.shape == (40, 48, 3)
    assert np.abs(out.astype(int) - colours().astype(int)).max() <= tolerance


def test_gray_becomes_three_equal_channels(tmp_path, ramp):
    gray = (ramp >> 8).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), np.repeat(gray[..., None], 3, 2))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_are_scaled_not_clipped(tmp_path, ramp, suffix):
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}")
    expected = np.rint(ramp / 257).astype(int)
    out = decode(tmp_path / f"a.{suffix}")
    assert np.abs(out.astype(int) - expected[..., None]).max() <= 1
    assert out.max() >= 254 and len(np.unique(out)) > 200


def test_one_bit_pictures_are_black_and_white(tmp_path):
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        decode(tmp_path / "a.png"), np.repeat(np.eye(8, dtype=np.uint8)[..., None] * 255, 3, 2)
    )


def test_cmyk_becomes_rgb(tmp_path):
    Image.fromarray(colours()).convert("CMYK").save(tmp_path / "a.jpg", quality=98, subsampling=0)
    assert Image.open(tmp_path / "a.jpg").mode == "CMYK"
    assert np.abs(decode(tmp_path / "a.jpg").astype(int) - colours().astype(int)).mean() < 4


def test_palette_and_animation_give_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (9, 7), c) for c in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / "a.gif").n_frames == 3
    np.testing.assert_array_equal(
        decode(tmp_path / "a.gif"), np.broadcast_to([255, 0, 0], (7, 9, 3))
    )


def test_alpha_is_laid_over_white(tmp_path):
    picture = np.zeros((4, 5, 4), np.uint8)
    picture[:2] = (10, 200, 30, 255)
    picture[2] = (0, 0, 0, 128)
    Image.fromarray(picture).save(tmp_path / "a.png")
    out = decode(tmp_path / "a.png")
    assert (
        (out[:2] == (10, 200, 30)).all()
        and (np.abs(out[2].astype(int) - 127) <= 1).all()
        and (out[3] == 255).all()
    )
    Image.fromarray(picture).convert("LA").save(tmp_path / "b.png")
    assert (decode(tmp_path / "b.png")[3] == 255).all()
    palette = Image.new("P", (3, 3), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "c.png", transparency=0)
    assert (decode(tmp_path / "c.png") == 255).all()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_reduced_to_a_short_side(tmp_path, suffix):
    big = np.asarray(Image.fromarray(colours()).resize((960, 800), Image.BICUBIC))
    Image.fromarray(big).save(tmp_path / f"a.{suffix}")
    out = decode(tmp_path / f"a.{suffix}", 100)
    assert out.shape == (100, 120, 3)
    exact = np.asarray(Image.fromarray(big).resize((120, 100), Image.BILINEAR)).astype(int)
    assert np.abs(out.astype(int) - exact).mean() < 3
    assert decode(tmp_path / f"a.{suffix}", 2000).shape == (800, 960, 3)  # never enlarged


def spoil(folder):
    """Four files that are no pictures, in four ways; their names."""
    Image.fromarray(colours()).save(folder / "cut.jpg", quality=95)
    data = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "float.tiff")
    return {
        "cut.jpg": "(?i)truncated",
        "empty.png": "identify",
        "text.jpg": "identify",
        "float.tiff": "floating",
    }


def test_bad_pictures_say_why(tmp_path):
    for name, reason in spoil(tmp_path).items():
        with pytest.raises(BadPicture, match=reason):
            decode(tmp_path / name)
    with pytest.raises(BadPicture, match="No such file"):
        decode(tmp_path / "gone.jpg")


def folder_of(tmp_path, good):
    for i in range(good):
        (tmp_path / f"good{i:03}.png").write_bytes(b"")
    spoil(tmp_path)
    for i in range(good):
        Image.new("RGB", (4, 4)).save(tmp_path / f"good{i:03}.png")
    return find(tmp_path)


def test_bad_pictures_are_reported_listed_and_left_out(tmp_path, caplog):
    pictures = folder_of(tmp_path, good=396)
    done = []
    bad = check(
        pictures, lambda i: decode(pictures.path(i)), threads=2, report=lambda *a: done.append(a)
    )
    assert {pictures.names[i] for i in bad} == {"cut.jpg", "empty.png", "text.jpg", "float.tiff"}
    assert done[-1] == ("pictures", 400, 400)
    say = Bad(pictures, tmp_path / "bad.txt")
    with caplog.at_level(logging.WARNING, logger="detco.pretrain"):
        say(dict(list(bad.items())[:3]))
        say(bad)  # 4 of 400: just 1 %; three of them for the second time
    assert sorted(record.getMessage().split(":")[1].strip() for record in caplog.records) == sorted(
        str(pictures.path(i)) for i in bad
    )
    lines = (tmp_path / "bad.txt").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith(f"{tmp_path}/cut.jpg: ")
    left = pictures.without(bad)
    assert len(left) == 396 and all(name.startswith("good") for name in left.names)
    assert all(left.sizes[i] == left.path(i).stat().st_size for i in (0, 200, 395))


def test_more_than_one_percent_bad_is_an_error(tmp_path):
    pictures = folder_of(tmp_path, good=395)
    bad = check(pictures, lambda i: decode(pictures.path(i)), threads=1)
    with pytest.raises(InputError, match=r"4 of 399 pictures .*cut\.jpg"):
        Bad(pictures, tmp_path / "bad.txt")(bad)


@pytest.mark.parametrize(
    "short_side, each", [(0, 40 * 48 * 3), (20, 20 * 24 * 3), (100, 40 * 48 * 3)]
)
def test_memory_of_all_pictures_is_guessed_from_headers(tmp_path, short_side, each):
    for i in range(7):
        Image.fromarray(colours()).save(tmp_path / f"{i}.png")
    assert memory(find(tmp_path), short_side) == 7 * each
    assert memory(find(tmp_path), short_side, looked_at=3) == 7 * each
