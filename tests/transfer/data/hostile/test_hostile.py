"""Data damaged at random, with a fixed seed: each is one line that names the reason, or a good
load. Nothing crashes, hangs or is written outside of what a command was told.

More cases than in every test run: DETCO_HOSTILE=2000 in the environment.
"""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from detco.benchmarks.cli import main as cli
from detco.common.errors import InputError
from detco.transfer.data.dataset import Dataset, check, load
from detco.transfer.scoring import score as scoring
from tests.factories.datasets import COCO, H, W, write_coco

CASES = int(os.environ.get("DETCO_HOSTILE", "100"))
LIMIT = 10  # seconds that a case may take
DEEP: list = []
for _ in range(300):
    DEEP = [DEEP]
VALUES = (
    *(None, True, False, 0, 1, -1, 2, 7, 3.5, -0.0, 1e308, -1e308, 2**31, 2**53, 2**64, 10**400),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "a", "7", "no", "\ud800", "a\0b", "a\nb"),
    *("../../x", "/etc/passwd", "é" * 300, "f\0" + "1" * 4000, "o" * 50, "\x1b[31m", "%s{0}"),
    *([], [[]], {}, [1], [1, 2, 3, 4], ["a"] * 6, [1e9] * 8, [-5] * 6, DEEP),
    *({"size": [H, W], "counts": "1" * 99}, {"size": [H, W], "counts": [H * W, -1, 1]}),
    *({"size": [H, W], "counts": [10**9] * 9}, {"size": [1, 1], "counts": "0"}),
)
FILES = ("pipe", "folder", "empty", "link to nothing", "link to itself", "device")


@pytest.fixture(autouse=True)
def limited():
    """A case that hangs fails instead."""

    def late(*_):
        raise TimeoutError(f"a case took more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def places(value, path=()):
    """Paths to all that a JSON value holds."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list) and len(path) < 5:
            yield from places(inner, (*path, key))


def damaged(document, draw: random.Random):
    """A JSON document with one to three values replaced, taken away or doubled."""
    for _ in range(draw.randint(1, 3)):
        document = json.loads(json.dumps(document))  # a copy, also of what was put in before
        *above, key = draw.choice(list(places(document)))
        holder = document
        for step in above:
            holder = holder[step]
        kind = draw.random()
        if kind < 0.8:
            holder[key] = draw.choice(VALUES)
        elif kind < 0.9 or isinstance(holder, dict):
            del holder[key]
        else:
            holder.insert(key, holder[key])
        if not document or not list(places(document)):
            break
    return document


def bytes_damaged(content: bytes, draw: random.Random) -> bytes:
    """Bytes cut off, changed, taken out or put in."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        kind = draw.randrange(4)
        if kind == 0 and len(content) > 1:
            del content[at:]
        elif kind == 1:
            content[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 2:
            del content[at : at + draw.randint(1, 9)]
        else:
            content[at:at] = draw.randbytes(draw.randint(1, 9))
    return bytes(content)


def put(kind: str, path: Path) -> None:
    """What is no regular file, or an empty one, in the place of a file."""
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    else:
        path.symlink_to({"device": "/dev/zero", "link to itself": path}.get(kind, "nothing"))


def text_of(document, draw: random.Random) -> bytes:
    content = json.dumps(document).encode()
    if draw.random() < 0.15:
        content = bytes_damaged(content, draw)
    if draw.random() < 0.05:
        content = content.replace(b"7", b"9" * 5000, 1)
    return content


def is_fine(what, *args, **kwargs) -> bool:
    """Whether it goes well; else it must be refused in one line that is not endless."""
    signal.alarm(LIMIT)
    try:
        what(*args, **kwargs)
        return True
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 2000, str(error)[:3000]
        return False
    finally:
        signal.alarm(0)


def tree(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


def test_coco_files(tmp_path):
    root, good = write_coco(tmp_path / "set"), 0
    path = root / "annotations/instances_train.json"
    for case in range(2 * CASES):
        draw = random.Random(case)
        path.write_bytes(text_of(damaged(COCO, draw), draw))
        good += is_fine(load, "coco", root, "train", strict=case % 2)
        if case % 10 == 0:
            is_fine(check, "coco", root)
    assert 0 < good < 2 * CASES


def random_file(root: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(path for path in root.rglob("*") if path.is_file()))


def copies(source: Path, tmp_path: Path):
    """A damaged copy of a folder for each case."""
    for case in range(CASES):
        draw, root = random.Random(case), tmp_path / "copy"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(source, root)
        for _ in range(draw.randint(1, 2)):
            path = random_file(root, draw)
            if draw.random() < 0.2:
                put(draw.choice(FILES), path)
            elif path.read_bytes():
                path.write_bytes(bytes_damaged(path.read_bytes(), draw))
        yield draw, root


XML = (
    *("", "a", "-1", "1e9", "nan", "inf", "9" * 5000, "1_0", "&#0;", "<x/>", "<![CDATA[7]]>"),
    *("&e;", "<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>", "<a>" * 5000, "\n\n", "é"),
)


def test_voc_folders(voc, tmp_path):
    good = 0
    for draw, root in copies(voc, tmp_path):
        path = root / "Annotations" / "one.xml"
        if draw.random() < 0.5 and path.is_file():
            parts = path.read_text(errors="replace").split(">")
            parts[draw.randrange(len(parts))] = draw.choice(XML)
            path.write_text(">".join(parts))
        good += is_fine(load, "voc", root, "trainval")
        is_fine(check, "voc", root)
    assert 0 < good < CASES


def test_cityscapes_folders(cityscapes, tmp_path):
    good = 0
    for _, root in copies(cityscapes[0], tmp_path):
        good += is_fine(load, "cityscapes", root, "val")
        is_fine(check, "cityscapes", root)
    assert 0 < good < CASES


def test_predictions(tmp_path):
    sizes = {"width": W, "height": H}
    image = {"id": 7, "file_name": "b.jpg", "name": "b.jpg", **sizes}
    category = {"id": 90, "name": "cup", "keypoints": ["a", "b"], "keypoint_flip": []}
    mask = scoring.masks.checked({"size": [H, W], "counts": [10, 100, H * W - 110]}, H, W)
    truth = {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 100.0}
    truth |= {"iscrowd": 0, "segmentation": mask, "keypoints": [1, 2, 2] * 2, "num_keypoints": 2}
    dataset = Dataset("x", "coco", tmp_path, "val", (category,), (image,), (truth,), "")
    found = {key: truth[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
    found |= {"score": 0.5, "keypoints": [1.0, 2.0, 0.5] * 2}
    path, good = tmp_path / "predictions.json", 0
    for case in range(CASES):
        draw = random.Random(case)
        path.write_bytes(text_of(damaged([found, found], draw), draw))
        good += is_fine(scoring.score_file, dataset, path, "coco", ("box", "mask", "keypoint"))
    for kind in FILES:
        put(kind, path)
        assert not is_fine(scoring.score_file, dataset, path)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        path.touch()
    assert 0 < good < CASES


def test_the_command_says_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys):
    """`data check` and `transfer`: exit status 2 or 0, a line and no traceback."""
    root, here = write_coco(tmp_path / "set"), tmp_path / "here"
    write_coco(root, name="annotations/instances_val.json", folder="val")
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = tree(root)
    path = root / "annotations/instances_train.json"
    out = str(tmp_path / "out")
    words = ["transfer", "small-retinanet", "--weights", "random", "--data", str(root)]
    words += ["--engine", "replay", "--out", out]
    for case in range(0, CASES, 5):
        draw = random.Random(case)
        path.write_bytes(text_of(damaged(COCO, draw), draw))
        signal.alarm(LIMIT)
        if not is_fine(load, "coco", root, "train"):
            assert cli.main(words) == 2
            (line,) = [one for one in capsys.readouterr().err.splitlines() if "detco: " in one]
            assert line.startswith("detco: ") and "Traceback" not in line
            assert not Path(out).exists()
        assert cli.main(["data", "check", "coco", str(root)]) in (0, 2)
        assert "Traceback" not in capsys.readouterr().err
    assert tree(root) == before and tree(here) == []
