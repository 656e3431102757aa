"""Commands with random bad arguments from fixed seeds, run through `main` in this process.

Each trial: exit status 0, 1 or 2, one line that says what is wrong, no traceback, nothing written
outside of its folder. `DETCO_TRIALS=1000` draws more of them.
"""

import json
import math
import os
import random
from pathlib import Path

import pytest
from PIL import Image

from detco.benchmarks.cli import commands, run
from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import suite_plan
from detco.benchmarks.run import worker
from detco.benchmarks.scenes import draw as scenes
from detco.benchmarks.suites import files
from tests.factories import ROOT

DEMO = ROOT / "results" / "demo"

TRIALS = int(os.environ.get("DETCO_TRIALS", "30"))
ODD = (  # as YAML has them
    "~",
    "true",
    "0",
    "-1",
    "1",
    "2.5",
    "1e9",
    "1e400",
    ".nan",
    "-.inf",
    "9223372036854775807",
    "9" * 30,
    "9" * 5000,
    "2020-01-01",
    "2020-13-45",
    "24:00:00",
    "''",
    "x",
    "..",
    "/",
    "../../outside",
    "/outside",
    '"a\\0b"',
    '"\\ud800"',
    '"\\x1b[31mred"',
    '"two\\nlines"',
    "ü | ` * <b>",
    "x" * 5000,
    "[]",
    "{}",
    "[[]]",
    "[1, x, ~]",
    "{a: {b: {c: 1}}}",
    "{1: 2}",
    "{2020-01-01: 1}",
    "{? [a] : 1}",
    "!!binary aGk=",
    "!!set {a}",
    "!!bool x",
    "!!python/name:os.system",
    "*nowhere",
    "&a [*a]",
    "[" * 200,
)
SUITE = {
    "name": "own",
    "start": [
        "random",
        {"name": "m", "recipe": "moco-v2-small", "settings": {"epochs": 1}, "seed": 3},
    ],
    "protocols": [
        "small-retinanet",
        {"protocol": "small-mask-rcnn-fpn", "settings": {"schedule.iterations": 9}, "seeds": 2},
    ],
    "data": {"layout": "coco", "root": "coco", "train": "train", "test": "val"},
    "images": "unlabelled",
    "scenes": {"images": 160, "size": 64, "seed": 1},
    "seeds": 2,
    "pretrain": {"batch": 8},
    "transfer": {"schedule.images": 2},
    "engine": "torchvision",
    "keep_model": "final",
    "slurm": {"time": "1:00", "gpus": 1},
    "amp": None,
    "eval_period": 0,
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where trials happen; what lies around it must stay as it is."""
    home = tmp_path / "around" / "home"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    return home


def trial(argv: list[str], home: Path, capsys) -> int:
    """Run a command; its exit status."""
    try:
        status = cli.main(argv)
    except SystemExit as error:  # of argparse
        status = error.code
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert status in (0, 1, 2), (argv, status)
    assert "Traceback" not in said.err and "Error:" not in said.err, said.err
    if status == 2:
        assert lines and lines[-1].startswith("detco: "), (argv, said)
        assert len(lines[-1]) < 2000 and lines[-1].isprintable(), (argv, lines[-1])
    assert [path.name for path in home.parent.parent.iterdir()] == ["around"]
    assert [path.name for path in home.parent.iterdir()] == ["home"]
    return status


def places(value, path=()):
    """Every place in a document, inner ones too."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield from places(inner, (*path, key))


def with_odd(draw: random.Random, document: dict) -> str:
    """The document as YAML with one to three odd values, keys or characters in it."""
    tree, odd = json.loads(json.dumps(document)), {}
    for number in range(draw.choice([1, 1, 1, 2, 3])):
        mark = f"@{number}@"
        *parents, last = draw.choice(list(places(tree))[1:])
        inner = tree
        for parent in parents:
            inner = inner[parent]
        same = json.dumps(inner[last])
        odd[json.dumps(mark)] = draw.choice(ODD) if draw.random() < 0.8 else same
        if isinstance(inner, dict) and draw.random() < 0.1:
            inner[mark] = inner.pop(last)
        else:
            inner[last] = mark
    text = json.dumps(tree)
    for mark, value in odd.items():
        text = text.replace(mark, value)
    if draw.random() < 0.1:
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice("\0\t\x1b{}[]:,&*!|>%@`#\n-?") + text[place + 1 :]
    return text


def test_suite_files(home, capsys):
    found = []
    for seed in range(TRIALS):
        draw = random.Random(seed)
        (home / "own.yaml").write_text(with_odd(draw, SUITE), encoding="utf-8")
        found.append(trial(["run", "own.yaml", "--out", "out", "--dry-run"], home, capsys))
    assert {0, 2} <= set(found) and not (home / "out").exists()


# --- command lines -------------------------------------------------------------------------------

WORDS = (  # as a shell passes them on
    "",
    " ",
    "0",
    "1",
    "-1",
    "3",
    "nan",
    "inf",
    "-inf",
    "1e9",
    "1_0",
    "٣",
    "9" * 30,
    "9" * 5000,
    str(2**63),
    str(2**63 - 1),
    ".",
    "..",
    "../../outside",
    "nowhere/there",
    "~",
    "-",
    "--",
    "x" * 300,
    "x" * 5000,
    "\x1b[31mred\x1b[0m",
    "two\nlines",
    "\udcff",
    "ü|`*<b>",
    "random",
    "demo",
    "small-retinanet",
    "moco-v2-small",
    "detco-small",
    "box_ap",
    "a=b",
    "a=",
    "=",
    "schedule.iterations=0",
    "schedule.lr=nan",
    "name=../../outside",
    "gpus=1e99",
    "time=99999999999999999999",
    "metrics=[]",
    "anchors=[[1]]",
    "batch=" + "9" * 20,
    "a=[" * 100,
    "text.txt",
    "folder",
    "folder/text.txt",
    "picture.png",
    "/dev/null",
    "/dev/zero",
)
UNTRIED = ("doctor", "speed runner", "speed step", "speed views")  # they work, whatever is said
NETWORK = ("--download",)


def a_line(draw: random.Random) -> list[str]:
    """A command with odd words in the place of its arguments."""
    command = draw.choice([row for row in commands.COMMANDS if row.name not in UNTRIED])
    words = command.name.split()
    for name, more in command.options:
        needed = not name.startswith("-") and more.get("nargs") not in ("?", "*")
        if name in NETWORK or draw.random() > (0.97 if needed or more.get("required") else 0.25):
            continue
        words += [name] if name.startswith("-") else []
        if more.get("action") == "store_true":
            continue
        places = ("/", "/dev/null/x") if name.endswith("out") else ()  # else all that is there
        choices = more.get("choices") if draw.random() < 0.3 else None
        words.append(draw.choice(list(choices or WORDS + places)))
    return words + [draw.choice(WORDS)] * (draw.random() < 0.05)


@pytest.fixture
def idle(home, monkeypatch):
    """What jobs would do is not done; what lies in the folder is there to be misunderstood."""
    monkeypatch.setattr(run, "work", lambda *_: 1)
    monkeypatch.setattr(scenes, "draw", lambda out, **_: out)
    (home / "folder").mkdir()
    for name in ("text.txt", "folder/text.txt"):
        (home / name).write_text("no list, no weights, no data\n")
    Image.new("RGB", (9, 9)).save(home / "picture.png")
    return home


def test_command_lines(idle, capsys):
    found = [trial(a_line(random.Random(seed)), idle, capsys) for seed in range(TRIALS)]
    assert 2 in found and set(found) <= {0, 1, 2}


# --- records, plans and progress that somebody has edited ----------------------------------------

VALUES = (
    None,
    True,
    0,
    -1,
    2**40,
    2**70,
    1e308,
    math.nan,
    math.inf,
    "",
    "x",
    "../../outside",
    "/dev/zero",
    "\x1b]0;title\x07",
    "\ud800",
    "a|b`c*<script>",
    "x" * 3000,
    [],
    [[]],
    [None, "x", 1],
    {},
    {"x": None},
    {"a": {"b": {"c": [1]}}},
)
FILES = (b"", b"{", b"[1]", b"null", b"\xff\xfe", b"1" * 6000, b"[" * 50_000, b"{}")
ROWS = ("random", "detco-small")
COMMANDS_ON_A_FOLDER = (
    ["status", "runs"],
    ["status", "runs", "--json"],
    ["table", "runs"],
    ["table", "runs", "--format", "md"],
    ["table", "runs", "--format", "csv", "--strict"],
    ["table", "runs", "--against", "detco-arxiv-v1"],
    ["compare", *ROWS, "runs"],
    ["report", "runs"],
    ["logs", "runs", "random"],
    ["clean", "runs", "--models", "--yes"],
    ["run", "own.yaml", "--out", "runs", "--dry-run"],
)


@pytest.fixture
def runs(home):
    """A plan of few jobs, records of committed runs beside it, one of each kind of file."""
    (home / "own.yaml").write_text(json.dumps(SUITE))
    for number, name in enumerate(["random-seed0", "detco-small-seed0"]):
        record = json.loads((DEMO / "small-faster-rcnn-fpn" / name / "record.json").read_text())
        write(home / "runs" / str(number) / "record.json", record)
        write(home / "runs" / str(number) / "spec.json", record["spec"])
    jobs = suite_plan.plan(files.load("own.yaml"), home / "runs")
    for job in jobs[:4]:
        write(job.folder / "spec.json", job.spec)
    for job in jobs[:2]:
        write(
            job.folder / "record.json",
            worker.record_of(job.spec, {})
            | {"stages": {"pretrain": [10, 2.5]}, "wall_seconds": 3.5, "ended": 1e9},
        )
    state = {"pid": 1, "host": "h", "started": 1e9, "time": 1e9, "stage": "train", "done": 3}
    state |= {"total": 9, "speed": 1.5, "figures": {"loss": 1.5, "lr": "nan"}, "trained": [3, 9]}
    write(jobs[3].folder / "progress.json", state)
    write(jobs[3].folder / ".slurm.json", {"number": "7_1", "folder": str(home / "runs/slurm")})
    return home


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edited(draw: random.Random, content: dict) -> bytes:
    """The file with one to three odd values in it, or without some; or no JSON at all."""
    if draw.random() < 0.1:
        return draw.choice(FILES)
    tree = json.loads(json.dumps(content))
    for _ in range(draw.choice([1, 1, 2, 3])):
        *parents, last = draw.choice(list(places(tree))[1:] or [("x",)])
        inner = tree
        for parent in parents:
            inner = inner[parent]
        if draw.random() < 0.15 and isinstance(inner, dict):
            inner.pop(last, None)
        else:
            inner[last] = json.loads(json.dumps(draw.choice(VALUES)))
    return json.dumps(tree).encode()


def test_records(runs, capsys):
    found = sorted(runs.rglob("*.json"))
    whole = {path: path.read_bytes() for path in found}
    for seed in range(TRIALS):
        one_edited(random.Random(seed), whole, runs, capsys)


def one_edited(draw: random.Random, whole: dict[Path, bytes], runs: Path, capsys) -> int:
    path = draw.choice(list(whole))
    path.write_bytes(edited(draw, json.loads(whole[path])))
    try:
        return trial(draw.choice(COMMANDS_ON_A_FOLDER), runs, capsys)
    finally:
        for other, content in whole.items():
            other.write_bytes(content)
