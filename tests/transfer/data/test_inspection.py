"""Images are checked before training: headers always, whole files with --verify;
good ones are remembered."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from detco.benchmarks.cli import main as cli
from detco.benchmarks.run import live
from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.data import dataset, inspection
from detco.transfer.protocols import PROTOCOLS

HOUR_AGO = time.time() - 3600


@pytest.fixture
def coco(tmp_path, scenes, cache):
    """The scenes in COCO layout, an hour old."""
    shutil.copytree(scenes / "coco", tmp_path / "coco")
    for path in (tmp_path / "coco").rglob("*.jpg"):
        os.utime(path, (HOUR_AGO, HOUR_AGO))
    return tmp_path / "coco"


@pytest.fixture
def opened(monkeypatch):
    """Pictures that are opened, with whether to the end."""
    calls, read = [], inspection.read

    def noted(path, whole=False):
        calls.append((Path(path).name, whole))
        return read(path, whole)

    monkeypatch.setattr(inspection, "read", noted)
    return calls


def pictures(coco: Path, split: str = "train") -> list[Path]:
    return [Path(image["file_name"]) for image in dataset.load("coco", coco, split).images]


def replaced(path: Path, content: bytes, age: float = HOUR_AGO) -> Path:
    path.write_bytes(content)
    os.utime(path, (age, age))
    return path


def truncated(path: Path) -> Path:
    """The header is whole, the pixels are not."""
    return replaced(path, path.read_bytes()[:-200])


def detco(capsys, *words) -> tuple[int, list[str]]:
    status = cli.main([str(word) for word in words])
    return status, capsys.readouterr().err.splitlines()


def transfer(coco: Path, out: Path, *more) -> list:
    return [
        "transfer",
        "small-retinanet",
        "--weights",
        "random",
        "--data",
        coco,
        "--out",
        out,
        "--engine",
        "replay",
        *more,
    ]


# --- what is refused, and when -------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_header_is_met_before_anything_runs(split, coco, tmp_path, capsys):
    """In training and test pictures alike: one line with the first file, the reason, how many more
    and the remedy."""
    first, second, *_ = pictures(coco, split)
    for path in (first, second):
        replaced(path, b"<html>not found</html>")
    status, (line,) = detco(capsys, *transfer(coco, tmp_path / "out"))
    assert status == 2 and not (tmp_path / "out").exists()
    assert line.startswith(
        f"detco: {first}: not a picture that can be read (cannot identify image file"
    )
    command = f"detco data check coco {coco} --split {split}"
    assert ", and 1 more; " in line and line.endswith(
        f"out of split {split} (`{command}` lists all)"
    )
    assert cli.main(command.split()[1:]) == 2
    out = capsys.readouterr().out
    assert str(first) in out and str(second) in out


def test_the_annotated_size_is_that_after_rotation(coco, tmp_path, capsys):
    """detectron2 788: a portrait whose JSON has the sensor's width and height would be found after
    all training."""
    path = pictures(coco)[0]
    with Image.open(path) as picture:
        turned, exif, size = picture.copy(), Image.Exif(), picture.size
    exif[0x0112] = 6
    turned.resize((40, 24)).save(path, exif=exif)
    annotations = coco / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    entry = next(image for image in content["images"] if image["file_name"] == path.name)
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != entry["id"]]
    for said, good in (((24, 40), True), ((40, 24), False), (size, False)):
        entry["width"], entry["height"] = said
        annotations.write_text(json.dumps(content))
        status, lines = detco(capsys, *transfer(coco, tmp_path / "out"))
        assert (status == 0) == good, lines
        if not good:
            text = (
                f"{path}: is 24 x 40 (after EXIF rotation), but the annotations say {said[0]} x"
                f" {said[1]}; mend the files"
            )
            assert len(lines) == 1 and text in lines[0]


def mine(coco, tmp_path) -> list:
    """A plan on paper of two protocols on one data set."""
    suite = tmp_path / "mine.yaml"
    protocols = "[small-retinanet, small-mask-rcnn-fpn]"
    suite.write_text(
        f"start: [random]\ndata: {{root: {coco}}}\nprotocols: {protocols}\nengine: replay\n"
    )
    return ["run", suite, "--out", tmp_path / "out", "--device", "cpu", "--dry-run"]


def test_a_truncated_test_picture_is_met_before_anything_runs(coco, tmp_path, capsys):
    """After all training nothing could stand for it. In a plan on paper it is one more line of what
    is missing, once though two protocols need it."""
    path = truncated(pictures(coco, "val")[3])
    status, (line,) = detco(capsys, *mine(coco, tmp_path))
    assert status == 2 and line.startswith(
        f"detco: before it can run: {path}: not a picture that can be read ("
    )
    assert "truncated" in line
    status, (line,) = detco(capsys, *transfer(coco, tmp_path / "out"))
    assert status == 2 and line.startswith(f"detco: {path}: not a picture that can be read (")
    assert not (tmp_path / "out").exists()


def test_a_truncated_training_picture_is_met_with_verify_only(coco, tmp_path, capsys):
    """Where it breaks while training goes on, another takes its place."""
    path = truncated(pictures(coco, "train")[3])
    assert detco(capsys, *mine(coco, tmp_path)) == (0, [])
    for words in ((*mine(coco, tmp_path), "--verify"), transfer(coco, tmp_path / "o", "--verify")):
        status, (line,) = detco(capsys, *words)
        assert status == 2 and f"{path}: not a picture that can be read (" in line
    assert detco(capsys, *transfer(coco, tmp_path / "out"))[0] == 0


def test_a_job_looks_again_before_its_engine_starts(coco, tmp_path, monkeypatch):
    """What broke between the plan and the job, perhaps days later on another machine."""
    data = {"layout": "coco", "root": coco}
    finetune.finetune(PROTOCOLS["small-retinanet"], "random", data, tmp_path / "a", "replay")
    path = replaced(pictures(coco)[5], b"")
    monkeypatch.setattr(
        "detco.transfer.engines.get", lambda name: pytest.fail("the engine was asked for")
    )
    with pytest.raises(
        InputError, match=rf"^{path}: not a picture that can be read \(.*; mend the files"
    ):
        finetune.finetune(PROTOCOLS["small-retinanet"], "random", data, tmp_path / "b", "replay")


def test_headers_that_a_layout_reads_itself_are_read_once(scenes, tmp_path, cache, opened):
    shutil.copytree(scenes / "voc", tmp_path / "voc")
    loaded = dataset.load("voc", tmp_path / "voc", "trainval")
    inspection.refuse(loaded)
    assert sorted(opened) == sorted(
        (Path(image["file_name"]).name, False) for image in loaded.images
    )
    inspection.refuse(loaded, whole=True)
    assert len(opened) == 2 * len(loaded.images)


@pytest.mark.parametrize("kind", ["a folder", "a named pipe", "a dangling link"])
def test_what_is_no_file_is_named_and_not_waited_for(kind, coco):
    path = pictures(coco)[0]
    path.unlink()
    make = {
        "a folder": path.mkdir,
        "a named pipe": lambda: os.mkfifo(path),
        "a dangling link": lambda: path.symlink_to("gone"),
    }
    make[kind]()
    text = "no such picture" if kind == "a dangling link" else "not a file"
    with pytest.raises(InputError, match=f"^{path}: {text}; "):
        inspection.refuse(dataset.load("coco", coco, "train"))
    assert f"{path}: {text}" in dataset.check("coco", coco, "train").problems


# --- what is remembered --------------------------------------------------------------------------


def test_good_pictures_are_looked_at_once_a_header_does_not_vouch_for_the_rest(coco, opened):
    paths = [str(path) for path in pictures(coco)]
    expected = []
    for path in paths:
        with Image.open(path) as picture:
            expected.append(picture.size)
    for whole in (False, True):
        opened.clear()
        assert inspection.sizes(paths, whole) == expected and len(opened) == len(paths)
        # no second look
        assert inspection.sizes(paths, whole) == expected and len(opened) == len(paths)
    opened.clear()
    assert inspection.sizes(paths) == expected and opened == []  # whole ones have a good header
    inspection.sizes(paths, whole=True, again=True)
    assert len(opened) == len(paths)


def test_data_check_looks_at_all_and_fills_what_is_remembered(coco, opened):
    dataset.check("coco", coco, "train")
    dataset.check("coco", coco, "train")
    names = [path.name for path in pictures(coco)]
    assert sorted(opened) == sorted((name, True) for name in 2 * names)
    inspection.refuse(dataset.load("coco", coco, "train"), whole=True)
    assert len(opened) == 2 * len(names)


def test_a_file_that_has_changed_in_place_is_looked_at_again(coco):
    paths = pictures(coco)
    texts = [str(path) for path in paths]
    good = inspection.sizes(texts, whole=True)
    content = paths[2].read_bytes()
    broken = content[:-200] + bytes(200)
    replaced(paths[2], broken, HOUR_AGO + 10)  # as many bytes, another time
    # zeros for pixels: decodes, if to grey
    assert len(broken) == len(content) and inspection.sizes(texts, whole=True) == good
    replaced(paths[2], content[: len(content) // 2].ljust(len(content), b"\xff"), HOUR_AGO + 20)
    found = inspection.sizes(texts, whole=True)
    assert isinstance(found[2], str) and found[:2] + found[3:] == good[:2] + good[3:]
    assert inspection.sizes(texts, whole=True)[2] == found[2]  # what was bad is never remembered
    replaced(paths[2], content, HOUR_AGO + 20)  # mended, with size and time of the bad one
    assert inspection.sizes(texts, whole=True) == good


def test_a_file_just_written_is_not_remembered(coco, opened):
    """It may change again within the same tick of the file system's clock."""
    path = replaced(pictures(coco)[0], pictures(coco)[0].read_bytes(), time.time())
    for _ in range(2):
        inspection.sizes([str(path)])
    assert len(opened) == 2


ABOUT = (
    '{"root": "ROOT", "pictures": []}',
    '{"root": "ROOT", "pictures": {"/NAME": 3}}',
    '{"root": "elsewhere", "pictures": {}}',
)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"root": 1}', "[" * 100_000, *ABOUT])
def test_what_is_remembered_may_be_lost_or_damaged(content, coco, cache, opened):
    paths = [str(path) for path in pictures(coco)]
    good = inspection.sizes(paths)
    (place,) = cache.iterdir()
    place.write_text(
        content.replace("ROOT", os.path.dirname(paths[0])).replace(
            "NAME", os.path.basename(paths[0])
        )
    )
    assert inspection.sizes(paths) == good and len(opened) == 2 * len(paths)
    assert inspection.sizes(paths) == good and len(opened) == 2 * len(paths)  # and is whole again
    shutil.rmtree(cache)
    assert inspection.sizes(paths) == good and len(opened) == 3 * len(paths)
    # nothing else is left lying about
    assert [path.name for path in cache.iterdir()] == [place.name]


def test_nothing_can_be_written_and_nothing_is_said(coco, cache):
    paths = [str(path) for path in pictures(coco)]
    cache.parent.mkdir()
    cache.write_text("a file in the place of the folder")
    assert inspection.sizes(paths) == inspection.sizes(paths)


WRITE = """
import sys
from detco.transfer.data import inspection
for turn in range(15):
    inspection.sizes(sys.argv[1:], whole=turn % 2 == 0, again=True)
"""


def test_several_processes_at_once_leave_it_whole(coco, cache, opened):
    paths = [str(path) for path in pictures(coco)]
    shares = (paths[:20], paths[10:], paths)
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, *share]) for share in shares]
    while any(writer.poll() is None for writer in writers):
        for place in cache.glob("*.json") if cache.is_dir() else ():
            json.loads(place.read_bytes())
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    (place,) = cache.iterdir()
    known = json.loads(place.read_bytes())["pictures"]
    for name, (size, changed, width, height, whole) in known.items():
        path = os.path.dirname(paths[0]) + name
        state = os.stat(path)
        with Image.open(path) as picture:
            assert (size, changed, (width, height)) == (
                state.st_size,
                state.st_mtime_ns,
                picture.size,
            ) and whole in (0, 1)
    inspection.sizes(paths, whole=True)
    inspection.sizes(paths, whole=True)
    assert len(opened) == len({name for name, _ in opened})  # each at most once more


def test_a_header_never_takes_back_that_a_picture_was_whole(coco):
    """Two processes, one of them with --verify: whoever writes last, the other's work is kept."""
    paths = [str(path) for path in pictures(coco)]
    slow = inspection.Memory(paths)
    inspection.sizes(paths, whole=True)
    slow.note(paths[0], os.stat(paths[0]), (1, 2), whole=False)
    with Image.open(paths[1]) as picture:
        slow.note(paths[1], os.stat(paths[1]), picture.size, whole=False)
    slow.save()
    found = inspection.Memory(paths)
    assert found.recall(paths[1], os.stat(paths[1]), True) == picture.size
    assert found.recall(paths[0], os.stat(paths[0]), False) == (1, 2)


# --- what is said on the way ---------------------------------------------------------------------


def test_progress_goes_to_the_end_and_to_a_line_every_ten_seconds(coco, monkeypatch, capsys):
    calls, loaded = [], dataset.load("coco", coco, "train")
    inspection.refuse(loaded, whole=True, report=lambda *call: calls.append(call))
    assert calls[-1] == ("check pictures", 30, 30) and [done for _, done, _ in calls] == sorted(
        {done for _, done, _ in calls}
    )
    monkeypatch.setattr(live, "LINE_EVERY", 0.0)
    with live.of_task("mine") as report:
        inspection.refuse(loaded, whole=True, report=report)
    assert capsys.readouterr().err.splitlines()[-1] == "mine: check pictures 30/30"


def test_too_few_open_files_are_no_fault_of_a_picture(coco, monkeypatch):
    def read(path, whole=False):
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr(inspection, "read", read)
    with pytest.raises(InputError, match="ulimit -n"):
        inspection.sizes([str(path) for path in pictures(coco)])
