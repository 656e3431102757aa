"""The YAML file of a suite: its meaning, and what is refused."""

from dataclasses import replace

import pytest

from detco.benchmarks import config
from detco.benchmarks.cli.main import main
from detco.benchmarks.plan import suite_plan
from detco.benchmarks.suites import files
from detco.benchmarks.suites.builtin import Data, StartingPoint, Suite, Task
from detco.common.errors import InputError
from detco.transfer.protocols import PROTOCOLS
from tests.factories import ROOT

EXAMPLE = ROOT / "benchmarks" / "suites" / "own_images.yaml"


def test_short_and_long_forms_and_relative_paths(tmp_path):
    text = """
images: pics
data: {layout: voc, root: ../labelled, train: trainval, test: test}
start:
  - random
  - moco-v2-small
  - weights/mine.safetensors
  - runs/best/backbone.safetensors
  - {name: long, recipe: detco-small, settings: {epochs: 9}, seed: 3}
protocols:
  - small-faster-rcnn-c4
  - {protocol: small-retinanet, settings: {schedule.iterations: 300}}
seeds: 3
pretrain: {lr: 1e-2}
"""
    file = tmp_path / "own.yaml"
    file.write_text(text)
    suite = files.load(str(file))
    assert suite == Suite(
        "own",
        (
            StartingPoint("random", random=True),
            StartingPoint("moco-v2-small", recipe="moco-v2-small"),
            StartingPoint("mine", weights=tmp_path / "weights/mine.safetensors"),
            StartingPoint("best", weights=tmp_path / "runs/best/backbone.safetensors"),
            StartingPoint("long", recipe="detco-small", settings={"epochs": 9}, seed=3),
        ),
        (
            Task("small-faster-rcnn-c4"),
            Task("small-retinanet", settings={"schedule.iterations": 300}),
        ),
        Data(tmp_path / "../labelled", "voc", "trainval", "test"),
        tmp_path / "pics",
        seeds=3,
        pretrain={"lr": 0.01},
    )


def test_earlier_spellings_are_read(tmp_path):
    """`pictures` and `optimiser`, as before 2026-11."""
    text = "pictures: a\npictures_by_class: b\nstart: [random]\ntransfer: {schedule.%s: adamw}"
    path = tmp_path / "own.yaml"
    path.write_text(text % "optimiser")
    suite = files.load(str(path))
    assert (suite.images, suite.images_by_class) == (tmp_path / "a", tmp_path / "b")
    row = PROTOCOLS["voc-faster-rcnn-c4-24k"]
    for key in ("schedule.optimiser", "schedule.optimizer", "optimiser", "optimizer"):
        changed = config.override(row, {key: "adamw"})
        assert changed.schedule == replace(row.schedule, optimizer="adamw")
    path.write_text("images: a\npictures: b\nstart: [random]")
    with pytest.raises(InputError, match="images is given twice"):
        files.load(str(path))


@pytest.mark.parametrize(
    "text, parts",
    [
        ("imges: x\nstart: [random]", ["unknown key 'imges'", "did you mean 'images'"]),
        ("start: [random]\ndata: {rot: x}", ["unknown key 'data.rot'", "'root'"]),
        ("start: [random]\ndata: {layout: voc}", ["data.root is missing"]),
        ("start: [random]\ndata: {root: x, layout: vok}", ["data: unknown layout 'vok'", "'voc'"]),
        ("start: [random]\nseeds: three", ["seeds must be a whole number", "'three'"]),
        (
            "start: [{name: a, recipe: x, random: true}]",
            ["'a' needs exactly one of recipe, weights, random"],
        ),
        ("start: [{name: a/b, random: true}]", ["'a/b'", "names folders"]),
        ("start: 3", ["start must be a list, got 3"]),
        ("start: []", ["start: needs at least one starting point"]),
        ("start: [random, {name: random, recipe: detco-small}]", ["'random' is given twice"]),
        (
            "start: [detco-smal]",
            ["unknown starting point 'detco-smal'", "did you mean 'detco-small'"],
        ),
        (
            "start: [moco-v3-300e]",
            ["unknown starting point 'moco-v3-300e'", "did you mean 'moco-v3-300ep'"],
        ),
        ("start: [Random]", ["did you mean 'random'"]),
        ("start: [zzzzzz]", ["`detco weights list`"]),
        (
            "start: [random]\nprotocols: [{protocol: small-retinanet, start: [randm]}]",
            ["'randm'", "did you mean 'random'"],
        ),
        (
            "start: [random]\nprotocols: [{protocol: small-retinanet, seeds: 0}]",
            ["protocols[0].seeds", "at least 1, got 0"],
        ),
        ("start: [random]\namp: fp8", ["amp must be 'fp16' or 'bf16', got the text 'fp8'"]),
        ("start: [random]\namp: true", ["amp must be 'fp16' or 'bf16', got true"]),
        ("start: [random]\neval_period: -5", ["eval_period", "at least 0, got -5"]),
        ("start: [random]\nseeds: -1", ["seeds", "at least 1, got -1"]),
        ("start: [random]\nname: a/b", ["'a/b' cannot be the name of the folder"]),
        ("start: [random]\nname: ..", ["'..' cannot be the name of the folder"]),
        ("pictures: x", ["start is missing"]),
        ("just words", ["`key: value` lines"]),
        ("start: [random\nseeds: 1", ["line 2", "not valid YAML"]),
    ],
)
def test_wrong_files_are_refused_with_the_path(tmp_path, text, parts):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        files.load(str(file))
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_unknown_suite_and_missing_file():
    with pytest.raises(InputError, match="unknown suite 'dmeo'; did you mean 'demo'"):
        files.load("dmeo")
    with pytest.raises(InputError, match=r"nowhere.yaml: No such file"):
        files.load("nowhere.yaml")


def test_the_example_runs_after_editing_two_lines(tmp_path, drawn, photos, capsys):
    lines = EXAMPLE.read_text().splitlines()
    marked = [line for line in lines if "# EDIT" in line]
    assert len(marked) == 2
    file = tmp_path / "own file.yaml"
    words = ["init", str(file), "--images", str(photos), "--data", str(drawn / "voc")]
    assert main(words) == 0
    assert f"detco run '{file}' --dry-run" in capsys.readouterr().out
    assert main(words) == 2 and "exists already" in capsys.readouterr().err
    assert main(["init", str(tmp_path / "new.yaml"), "--data", "/nowhere"]) == 2
    assert not (tmp_path / "new.yaml").exists()
    # nothing else is changed
    changed = [pair for pair in zip(lines, file.read_text().splitlines(), strict=True)]
    assert [old for old, new in changed if old != new] == marked
    jobs = suite_plan.plan(files.load(str(file)), tmp_path / "out")
    assert [job.kind for job in jobs] == ["pretrain"] * 2 + ["transfer"] * 27
    protocols = list(dict.fromkeys(job.spec["protocol"] for job in jobs[2:]))
    assert protocols == ["small-faster-rcnn-c4", "small-faster-rcnn-fpn", "small-retinanet"]
    assert jobs[2].spec["data"] | {"identity": ""} == {
        "layout": "voc",
        "train": "trainval",
        "test": "test",
        "root": str(drawn / "voc"),
        "identity": "",
        "pictures": [6, 2],
    }


def test_a_wrong_setting_names_the_file(tmp_path):
    path = tmp_path / "own.yaml"
    for text, words in (
        ("start: [detco-small]\npretrain: {epoch: 20}", "settings of detco-small: unknown setting"),
        (
            "start: [random]\nprotocols: [{protocol: small-retinanet, settings: {schedul.lr: 1}}]",
            "settings of small-retinanet: unknown setting",
        ),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=f"{path}: {words}"):
            files.load(str(path))


def test_random_weights_of_another_architecture_have_a_row_of_their_own(tmp_path):
    """In both spellings; a baseline `random` is of the protocol's architecture."""
    text = "start: [random, 'random:convnext_atto', {random: true, arch: swin_tiny}]\n"
    path = tmp_path / "suite.yaml"
    path.write_text(text + "protocols: [{protocol: small-retinanet, data: {root: voc}}]\n")
    found = [(row.name, row.arch) for row in files.load(str(path)).start]
    assert found == [
        ("random", ""),
        ("random-convnext_atto", "convnext_atto"),
        ("random-swin_tiny", "swin_tiny"),
    ]
