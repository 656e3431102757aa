"""Files written whole or not at all."""

import errno
import hashlib
import os
import socket
import subprocess

import pytest

from detco.common.files import (
    cache_dir,
    cache_file,
    open_regular,
    read_regular,
    sha256_of,
    write_atomic,
)


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("content", [b"whole", "whole", lambda file: file.write(b"whole")])
def test_bytes_texts_and_writers_are_written(content, lasting, tmp_path):
    path = tmp_path / "new" / "folder" / "x.bin"
    for _ in range(2):  # also over an older one
        write_atomic(path, content, lasting)
    assert path.read_bytes() == b"whole" and os.listdir(path.parent) == ["x.bin"]


def test_a_name_that_is_no_text_is_written_escaped(tmp_path):
    write_atomic(tmp_path / "x", "a\udcffb")
    assert (tmp_path / "x").read_bytes() == b"a\\udcffb"


def test_what_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    write_atomic(path, "old")

    def broken(file):
        file.write(b"half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_atomic(path, broken)

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot write: No space left on device") as error:
        write_atomic(path, "new")
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]


def test_what_killed_processes_left_is_removed(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    path, dead, living = tmp_path / "a[1].pth", str(gone.pid), str(os.getppid())
    names = [
        f"a[1].pth.{dead}.part",
        f"a[1].pth.{living}.part",
        f"b.pth.{dead}.part",
        f"a1.pth.{dead}.part",
        "a[1].pth.x.part",
    ]
    for name in names:
        (tmp_path / name).touch()
    write_atomic(path, lambda file: file.write(b"first"))
    # perhaps still being written on another machine
    assert {p.name for p in tmp_path.iterdir()} == {
        *names,
        path.name,
    }
    for name in names:
        os.utime(tmp_path / name, (0, 0))
    write_atomic(path, lambda file: file.write(b"again"))
    assert {p.name for p in tmp_path.iterdir()} == {
        *names[1:],
        path.name,
    } and path.read_bytes() == b"again"


def test_hash_is_that_of_the_content(tmp_path):
    content = bytes(range(256)) * 9000  # more than is read at a time
    (tmp_path / "x").write_bytes(content)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_cache_lies_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = hashlib.sha256(b"/pictures").hexdigest()[:24]
    assert cache_file("listed", "/pictures", ".npz") == tmp_path / "detco" / f"listed-{name}.npz"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "detco"


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device", "link to a pipe"])
def test_only_regular_files_are_opened(kind, tmp_path):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        os.mkfifo(path)
    if kind.startswith("link"):
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "x")
    with pytest.raises(OSError, match="not a regular file") as caught:
        open_regular(path)
    with pytest.raises(OSError, match="not a regular file"):
        sha256_of(path)
    assert caught.value.filename == str(path)


def test_regular_files_are_opened_through_links_too(tmp_path):
    (tmp_path / "x").write_text("é\n", encoding="utf-8")
    (tmp_path / "link").symlink_to("x")
    assert read_regular(tmp_path / "link") == "é\n".encode()
    with open_regular(tmp_path / "x", "r", encoding="utf-8") as file:
        assert file.read() == "é\n"
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
