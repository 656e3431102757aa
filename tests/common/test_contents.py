"""Hashes of files follow their content, also when a remembered hash is outdated."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detco.common import contents

HOUR_AGO = time.time() - 3600


@pytest.fixture
def opened(monkeypatch):
    """Paths of files that were read."""
    paths, read = [], contents._read

    def noted(file):
        paths.append(file[0])
        return read(file)

    monkeypatch.setattr(contents, "_read", noted)
    return paths


def written(path: Path, content: bytes, age: float = HOUR_AGO) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (age, age))
    return str(path)


def files(tmp_path, count=5) -> list[str]:
    return [written(tmp_path / "set" / f"{n}.jpg", bytes([n]) * 3000) for n in range(count)]


def test_the_hash_is_sha256_of_the_bytes_and_they_are_read_once(tmp_path, cache, opened):
    paths = files(tmp_path)
    wanted = [hashlib.sha256(bytes([n]) * 3000).digest() for n in range(5)]
    for _ in range(3):
        found = contents.of(paths, str(tmp_path / "set"))
        assert [one.digest for one in found] == wanted
    assert sorted(opened) == paths


@pytest.mark.parametrize("way", ["another date", "same size and date", "a file in its place"])
def test_what_has_changed_is_read_again(tmp_path, cache, way):
    paths = files(tmp_path)
    before = contents.of(paths, "x")
    path = Path(paths[2])
    if way == "a file in its place":
        os.replace(written(tmp_path / "set" / "new", b"7" * 3000), path)
    else:
        written(path, b"7" * 3000, HOUR_AGO + (way == "another date"))
    after = contents.of(paths, "x")
    assert after[2].digest == hashlib.sha256(b"7" * 3000).digest()
    assert after[:2] + after[3:] == before[:2] + before[3:]


def test_a_file_just_written_is_not_remembered(tmp_path, cache, opened):
    path = written(tmp_path / "a.jpg", b"1", time.time())
    for _ in range(2):
        contents.of([path], "x")
    assert opened == [path, path]


@pytest.mark.parametrize("damage", [b"", b"detco contents 1\nshort", b"something else" * 50])
def test_what_is_remembered_may_be_lost_or_damaged(tmp_path, cache, opened, damage):
    paths = files(tmp_path)
    good = contents.of(paths, "x")
    (place,) = cache.iterdir()
    place.write_bytes(damage)
    assert contents.of(paths, "x") == good and len(opened) == 10
    assert contents.of(paths, "x") == good and len(opened) == 10  # and is whole again


def test_what_is_no_file_has_no_content_and_is_not_waited_for(tmp_path, cache):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("gone")
    paths = [str(tmp_path / name) for name in ("pipe", "link", "gone", ".")]
    assert contents.of(paths, "x") == [contents.UNREADABLE] * 4


def test_a_stopped_reading_keeps_what_it_has_read(tmp_path, cache, opened):
    paths = files(tmp_path, 5)

    def stop(stage, done, total, **figures):
        assert (stage, total) == ("hash images", 5)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contents.of(paths, "x", stop)
    opened.clear()
    assert len(contents.of(paths, "x")) == 5 and not {*opened} & {*paths[:3]}


def test_the_progress_says_how_much_is_to_be_read(tmp_path, cache):
    path, calls = written(tmp_path / "a", bytes(300_000_000)), []
    contents.of([path], "x", lambda *args, **figures: calls.append((*args, figures)))
    contents.of([path], "x", lambda *args, **figures: calls.append((*args, figures)))
    assert calls == [("hash images", 1, 1, {"GB": 0.3})]


def test_files_that_can_hold_deep_pixels_are_told(tmp_path, cache):
    eight, sixteen = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint16)
    wanted = {"a.png": False, "b.png": True, "a.tif": True, "b.pgm": True, "a.jpg": False}
    for name in wanted:
        Image.fromarray(sixteen if name[0] == "b" else eight).save(tmp_path / name)
    found = contents.of([str(tmp_path / name) for name in wanted], "x")
    assert [one.deep for one in found] == list(wanted.values())
    assert contents.of([str(tmp_path / name) for name in wanted], "x") == found
