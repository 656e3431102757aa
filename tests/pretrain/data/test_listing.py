import os
import time

import numpy as np
import pytest

from detco.common.errors import InputError
from detco.pretrain.data import listing
from detco.pretrain.data.listing import Names, find


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A user's cache folder of its own, used from the third picture on."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(listing, "REMEMBER_FROM", 3)
    return folder / "detco"


def test_names_are_a_sequence_of_texts():
    texts = ["a", "", "b/\u00e4.jpg", os.fsdecode(b"\xff.jpg"), "z"]
    names = Names.of(texts)
    assert (
        list(names) == texts
        and names[-1] == "z"
        and names[-5] == "a"
        and names[1:4] == tuple(texts[1:4])
    )
    with pytest.raises(IndexError):
        names[5]
    assert list(Names.of([])) == []


def test_find_lists_the_tree_in_order_and_passes_over_other_files(tmp_path):
    for name in (
        "b/2.JPEG",
        "b/1.jpg",
        "a/x/9.png",
        "c.webp",
        ".hidden/3.jpg",
        "a/.4.jpg",
        "a/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    pictures = find(tmp_path)
    assert tuple(pictures.names) == ("a/x/9.png", "b/1.jpg", "b/2.JPEG", "c.webp")
    assert pictures.classes == ("a", "b") and pictures.path(1) == tmp_path / "b/1.jpg"


def test_fingerprint_knows_names_and_sizes(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"123")
    before = find(tmp_path).fingerprint
    assert find(tmp_path).fingerprint == before
    (tmp_path / "a.jpg").write_bytes(b"1234")
    changed = find(tmp_path).fingerprint
    os.rename(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert len({before, changed, find(tmp_path).fingerprint}) == 3


def test_no_pictures_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no pictures in this folder"):
        find(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find(tmp_path / "missing")


def tree(root, folders=3, each=4):
    """Settled: last changed a minute ago."""
    for f in range(folders):
        (root / f"n{f}").mkdir(parents=True)
        for i in range(each):
            (root / f"n{f}" / f"{i}.jpg").write_bytes(b"x" * (f + i + 1))
    for folder in (root, *root.iterdir()):
        os.utime(folder, (time.time() - 60,) * 2)
    return root


def listed(pictures):
    return list(zip(pictures.names, pictures.sizes.tolist(), strict=True))


def test_a_long_listing_is_remembered_until_the_tree_changes(tmp_path, cache, monkeypatch):
    root = tree(tmp_path / "root")
    first = find(root)
    assert len(list(cache.glob("*.npz"))) == 1 and not list(cache.glob("*.part"))
    with monkeypatch.context() as patch:
        patch.setattr(listing, "_walk", lambda root: pytest.fail("listed again"))
        again = find(root)
    assert listed(again) == listed(first) and again.fingerprint == first.fingerprint
    (root / "n1" / "new.jpg").write_bytes(b"123")
    assert len(find(root)) == 13
    (root / "n2" / "0.jpg").unlink()
    assert len(find(root)) == 12
    (root / "n3").mkdir()
    (root / "n3" / "a.jpg").write_bytes(b"1")
    assert len(find(root)) == 13


def test_a_folder_changed_just_now_may_change_again_unseen(tmp_path, monkeypatch):
    root = tree(tmp_path / "root")
    os.utime(root / "n1")
    find(root)
    walked = []
    original = listing._walk
    monkeypatch.setattr(listing, "_walk", lambda root: walked.append(root) or original(root))
    find(root)
    assert walked


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.write_bytes(f.read_bytes()[:100]),
        lambda f: f.write_bytes(b""),
        lambda f: np.savez(f, about=np.array("{}")),
    ],
)
def test_a_damaged_listing_is_made_again(tmp_path, cache, damage):
    root = tree(tmp_path / "root")
    first = find(root)
    damage(next(cache.glob("*.npz")))
    assert listed(find(root)) == listed(first)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(find(tree(tmp_path / "root"))) == 12


def test_a_text_file_of_paths(tmp_path):
    root = tree(tmp_path / "deep" / "root")
    text = tmp_path / "deep" / "list.txt"
    text.write_text(f"\ufeffroot/n1/3.jpg\n\nroot/n0/0.jpg\r\n{root}/n2/1.jpg\n./root/n1/3.jpg\n")
    pictures = find(text)
    # each once, below what they share
    assert listed(pictures) == [
        ("n0/0.jpg", 1),
        ("n1/3.jpg", 5),
        ("n2/1.jpg", 4),
    ]
    assert pictures.path(1) == root / "n1/3.jpg" and pictures.classes == ("n0", "n1", "n2")


def test_a_listing_that_cannot_be_finished_leaves_nothing(tmp_path, cache, monkeypatch):
    def full(file, **_):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(find(tree(tmp_path / "root"))) == 12
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    "content, message",
    [
        (b"root/n0/0.jpg\nroot/n0/gone.jpg\n", "line 2: no such picture: 'root/n0/gone.jpg'"),
        (b"root/n0\n", "line 1: no such picture: 'root/n0'"),
        (b"\n\n", "no paths in this file"),
        (b"\x89PNG\x00\x01", "line 1: no such picture"),
    ],
)
def test_bad_text_files_are_refused(tmp_path, content, message):
    tree(tmp_path / "root")
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        find(tmp_path / "list.txt")


# --- what is not taken, and what it may mean -----------------------------------------------------


def test_jfif_and_jpe_are_pictures_and_others_are_counted_by_ending(tmp_path):
    for name in ("a.jfif", "b.JPE", "c.jpg", "d.heic", "e.heic", "noending", "sub/f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for folder in (tmp_path, tmp_path / "sub"):  # settled
        os.utime(folder, (time.time() - 60,) * 2)
    for _ in range(2):  # listed, then remembered
        pictures = find(tmp_path)
        assert list(pictures.names) == ["a.jfif", "b.JPE", "c.jpg"]
        assert pictures.passed_over == {".heic": 2, "": 1, ".txt": 1}
        (line,) = pictures.doubts
        assert "4 files" in line and "2 .heic, 1 without ending, 1 .txt" in line


def test_nothing_but_shards_is_said_to_be_that(tmp_path):
    for number in range(3):
        (tmp_path / f"{number:04}.tar").write_bytes(b"x")
    with pytest.raises(InputError, match=r"3 files: 3 \.tar; unpack"):
        find(tmp_path)
    with pytest.raises(InputError, match="archive: unpack"):
        find(tmp_path / "0000.tar")


def test_a_list_with_labels_is_said_to_be_that(tmp_path):
    (tmp_path / "a b.jpg").write_bytes(b"x")
    source = tmp_path / "list.txt"
    source.write_text("a b.jpg\na b.jpg 7\n")
    with pytest.raises(InputError, match="line 2: a path and a label"):
        find(source)
    source.write_text("a b.jpg\nc.jpg 7\n")
    with pytest.raises(InputError, match="line 2: no such picture"):
        find(source)


@pytest.mark.parametrize(
    "folders, splits",
    [
        (("train", "val"), True),
        (("Train", "Test", "valid"), True),
        (("train", "dog"), False),
        (("cat", "dog"), False),
        (("train",), False),
    ],
)
def test_splits_are_no_classes(folders, splits, tmp_path):
    for name in folders:
        (tmp_path / name / "x").mkdir(parents=True)
        (tmp_path / name / "x" / "1.jpg").write_bytes(b"x")
    pictures = find(tmp_path)
    assert any("are splits" in line for line in pictures.doubts) is splits
    if splits or len(folders) < 2:
        with pytest.raises(InputError, match="splits, not classes" if splits else "each class"):
            pictures.refuse_without_classes()
    else:
        pictures.refuse_without_classes()


def test_a_picture_outside_every_class_is_refused(tmp_path):
    for name in ("cat/1.jpg", "dog/1.jpg", "1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match="each class"):
        find(tmp_path).refuse_without_classes()


def test_a_pipe_is_no_list_of_paths(tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(InputError, match="neither a folder nor a regular file"):
        find(tmp_path / "list.txt")
