"""The command: exit statuses, one clear line for bad input, a whole suite from drawing to table."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from detco.benchmarks.cli import commands
from detco.benchmarks.cli import main as cli
from detco.benchmarks.scenes import draw as scenes
from detco.common.files import sha256_of
from detco.results import store
from tests.factories import ROOT
from tests.factories.processes import detco
from tests.factories.records import transfer_record

SUITE = """
scenes: {images: 16, size: 64, unlabelled: 8, classification: 8}
images: unlabelled
start: [random, detco-small]
protocols:
  - {protocol: small-faster-rcnn-fpn, data: {root: coco, layout: coco, train: train, test: val}}
pretrain: {epochs: 1, batch: 4, queue: 32, fill_queue: false}
transfer: {schedule.iterations: 2, schedule.warmup: 1}
engine: torchvision
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return scenes.draw(
        tmp_path_factory.mktemp("drawn"), images=8, size=64, unlabelled=0, classification=0
    )


def refused(capsys, *words):
    """Exit status 2 and exactly one line on standard error: that line."""
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as end:
        status = end.code
    streams = capsys.readouterr()
    assert status == 2 and streams.out == "" and streams.err.startswith("detco: ")
    assert streams.err.count("\n") == 1
    return streams.err


@pytest.mark.parametrize(
    "words, parts",
    [
        (["tabel", "x"], ["unknown command 'tabel'", "did you mean 'table'"]),
        (["data", "chekc", "voc", "x"], ["unknown action 'chekc'", "'check'"]),
        (["data", "check", "vok", "x"], ["unknown layout 'vok'", "'voc'"]),
        (["table", "x", "--format", "pdf"], ["unknown --format 'pdf'", "terminal, md, csv"]),
        (["transfer", "small-retinanet"], ["required: --weights, --out"]),
        (["run", "dmeo"], ["unknown suite 'dmeo'", "'demo'"]),
        (["run", "/nowhere/own.yaml"], ["/nowhere/own.yaml", "No such file"]),
        (["run", "smoke", "--jobs", "0"], ["--jobs must be at least 1"]),
        (["run", "smoke", "--seeds", "0"], ["--seeds must be at least 1"]),
        (["run", "smoke", "--seeds", "two"], ["--seeds", "invalid int value: 'two'"]),
        (
            ["protocols", "show", "small-retina"],
            ["unknown protocol 'small-retina'", "'small-retinanet'"],
        ),
        (
            ["protocols", "show", "small-retinanet", "--weights", "x.safetensors"],
            ["--weights goes with --detectron2"],
        ),
        (
            ["pretrain", "detco-smal", "--images", "x", "--out", "y"],
            ["unknown recipe 'detco-smal'", "'detco-small'"],
        ),
        (["pretrain", "detco-small", "--images", "/nowhere", "--out", "y"], ["/nowhere"]),
        (
            ["pretrain", "detco-small", "--images", "x", "--out", "y", "--set", "epochs"],
            ["expected key=value"],
        ),
        (["weights", "show", "/nowhere.safetensors"], ["/nowhere.safetensors"]),
        (["status", "/nowhere"], ["no folder /nowhere"]),
        (["table", "/nowhere"], ["no folder /nowhere"]),
        (["table", "."], ["no fine-tuning results yet"]),
        (["data", "check", "voc", "/nowhere"], ["/nowhere"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, tmp_path, monkeypatch, words, parts):
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, *words)
    assert all(part in line for part in parts), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "more, words",
    [
        (["--weights", "/nowhere.safetensors"], "/nowhere.safetensors"),
        (["--weights", "random", "--set", "schedule.iteratons=3"], "'schedule.iterations'"),
        (["--weights", "random", "--engine", "torchvisoin"], "unknown engine"),
        (["--weights", "random", "--train", "trainvla"], "trainvla"),
        (["--weights", "random", "--name", "a/b"], "names folders"),
        (["--weights", "random", "--amp", "bf61"], "did you mean 'bf16'"),
        (
            ["--weights", "random", "--eval-period", "-2"],
            "--eval-period: must not be negative, it is -2",
        ),
    ],
)
def test_transfer_refuses(capsys, tmp_path, drawn, more, words):
    base = ["transfer", "small-retinanet", "--data", drawn / "voc", "--out", tmp_path / "out"]
    assert words in refused(capsys, *base, *more)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def own_suite(tmp_path, drawn, monkeypatch):
    """A suite file whose fine-tunings are planned for Detectron2, here or not."""
    monkeypatch.setattr("detco.transfer.engines.resolve", lambda name: "detectron2")
    file = tmp_path / "own.yaml"
    data, launch = f"data: {{root: {drawn / 'voc'}}}", "amp: bf16\neval_period: 100"
    file.write_text(f"start: [random]\nprotocols: [small-retinanet]\n{data}\n{launch}\n")
    return file


@pytest.mark.parametrize(
    "more",
    [
        ["--device", "cpu"],
        ["--device", "cpu", "--dry-run"],
        ["--executor", "slurm", "--slurm", "gpus=0"],
    ],
)
def test_float16_without_a_gpu_is_refused_before_any_work(capsys, tmp_path, own_suite, more):
    line = refused(capsys, "run", own_suite, "--out", tmp_path / "out", "--amp", *more)
    assert (
        line == "detco: --amp fp16 needs a GPU; on a CPU --amp bf16 works\n"
        and not (tmp_path / "out").exists()
    )


def test_a_suites_precision_and_period_and_those_of_the_command(monkeypatch, tmp_path, own_suite):
    from detco.benchmarks.cli import run

    found = []
    monkeypatch.setattr(
        run, "_planned", lambda jobs, *_: found.append(jobs[-1].spec["launch"]) or 0
    )
    base = ["run", str(own_suite), "--out", str(tmp_path / "out"), "--device", "cpu", "--dry-run"]
    for more in ([], ["--eval-period", "0"], ["--eval-period", "7", "--amp", "bf16"]):
        assert cli.main([*base, *more]) == 0
    bf16 = {"amp": "bf16"}
    assert found == [bf16 | {"eval_period": 100}, bf16, bf16 | {"eval_period": 7}]
    monkeypatch.setattr("detco.benchmarks.run.machine.visible_gpus", lambda: ["0"])
    monkeypatch.setattr("detco.benchmarks.run.machine.facts", lambda slot: {"gpu": "some"})
    assert cli.main([*base[:4], "--dry-run", "--amp"]) == 0 and found[-1] == {
        "amp": "fp16",
        "eval_period": 100,
    }


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("start", ["scenes: {images: 16, size: 64}\n", ""])
def test_a_scorer_of_another_layout_is_refused_when_the_plan_is_made(
    capsys, tmp_path, drawn, start, dry
):
    """For data that are drawn, those that are there, and one fine-tuning; another metric of VOC's
    is none of another layout."""
    root = "coco" if start else drawn / "coco"
    text = f"{start}start: [random]\nprotocols: [small-mask-rcnn-fpn]\ndata: {{root: {root}}}\n"
    file = tmp_path / "own.yaml"
    file.write_text(text + "transfer: {scorer: cityscapes, metrics: [mask]}\n")
    words = ["--out", tmp_path / "out", "--engine", "replay", "--device", "cpu"]
    one = ["--weights", "random", "--data", root, "--set", "scorer=cityscapes"]
    one += ["--set", "metrics=[mask]", *words]
    asked = [["run", file, *words, *dry]]
    asked += [] if start or dry else [["transfer", "small-mask-rcnn-fpn", *one]]
    for command in asked:
        assert cli.main([str(word) for word in command]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert all(part in line for part in ("'cityscapes' needs", "in coco", "scorer=coco"))
        assert not (tmp_path / "out").exists()


def test_every_command_has_help_with_its_example(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for command in commands.COMMANDS:
        with pytest.raises(SystemExit) as end:
            cli.main([*command.name.split(), "--help"])
        text = capsys.readouterr().out
        assert end.value.code == 0 and max(map(len, text.splitlines())) <= 80
        example = " ".join(text.replace("\\\n", "").partition("example: ")[2].split())
        assert example == " ".join(command.example.split())
        assert example.startswith(f"detco {command.name.split()[0]}")


def test_a_terminal_gets_long_messages_in_lines_that_fit(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["recipes", "show", "nope"]) == 2
    piped = capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["recipes", "show", "nope"]) == 2
    shown = capsys.readouterr().err
    assert piped.count("\n") == 1 and len(piped) > 80
    assert max(map(len, shown.splitlines())) <= 80 and shown.split() == piped.split()


def test_examples_in_the_help_can_be_parsed():
    parser = commands.parser("0")
    for command in commands.COMMANDS:
        for line in command.example.splitlines():
            assert (
                parser.parse_args(shlex.split(line)[1:]).command.split()[0]
                == command.name.split()[0]
            )
    assert all(callable(cli.function_of(command.call)) for command in commands.COMMANDS)


def test_recipes_as_json_and_text(capsys):
    from detco.pretrain.recipes import RECIPES

    assert cli.main(["recipes", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed.keys() == RECIPES.keys() and listed["moco-v2-200ep"]["queue"] == 65536
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(RECIPES)
    assert cli.main(["recipes", "show", "detco-small"]) == 0
    shown = capsys.readouterr().out
    assert "key_momentum" in shown and str(RECIPES["detco-small"].key_momentum) in shown
    assert cli.main(["recipes", "show", "detco-smal"]) == 2
    assert "did you mean 'detco-small'" in capsys.readouterr().err


def test_protocols_as_json_and_text(capsys):
    from detco.transfer.protocols import PROTOCOLS, protocol_hash

    assert cli.main(["protocols", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["hash"] for row in rows} == {
        name: protocol_hash(row) for name, row in PROTOCOLS.items()
    }
    assert cli.main(["protocols", "show", "small-retinanet", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == next(row for row in rows if row["name"] == "small-retinanet")
    assert cli.main(["protocols", "show", "small-retinanet"]) == 0
    iterations = PROTOCOLS["small-retinanet"].schedule.iterations
    assert re.search(rf"^schedule.iterations: {iterations}$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize("what", ["protocols", "recipes"])
def test_lists_and_rows_fit_a_terminal(what, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([what]) == 0
    listed = capsys.readouterr().out
    name = listed.splitlines()[1].split()[0]
    assert cli.main([what, "show", name]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, (listed + shown).splitlines())) <= 80
    assert "show NAME" in listed and f"name: {name}" in shown


@pytest.mark.parametrize(
    ("words", "start"),
    [
        ([], "usage: detco [-h]"),
        (["help"], "usage: detco [-h]"),
        (["help", "run"], "usage: detco run"),
    ],
)
def test_help_without_dashes(words, start, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 0 and capsys.readouterr().out.startswith(start)


@pytest.mark.parametrize(
    ("words", "near", "help_of"),
    [
        (["table", "demo", "--basline", "random"], "--baseline", "detco table"),
        (["run", "smoke", "--dry-rnu"], "--dry-run", "detco run"),
        (["weights", "list", "a", "b"], "", "detco weights list"),
    ],
)
def test_an_unknown_argument_names_the_nearest_and_the_commands_own_help(
    words, near, help_of, capsys
):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    assert f"(see `{help_of} --help`)" in said
    assert ("did you mean" in said) == bool(near) and near in said


def test_doctor_tells_what_only_some_commands_need(capsys, monkeypatch):
    from detco.benchmarks.cli import doctor

    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setitem(doctor.OPTIONAL, "no_such_module", ("no-such-package", "nothing"))
    monkeypatch.setitem(doctor.OPTIONAL, "pytest", ("pytest", "tests"))
    assert cli.main(["doctor"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    states = {line[1]: line[0] for line in lines}
    assert (states["no-such-package"], states["pytest"], states["slurm"]) == ("missing", "ok", "ok")


def test_doctor_finds_this_installation(capsys):
    import torch

    cli.main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    facts = {fact["name"]: fact["says"] for fact in found["facts"]}
    assert facts["torch"] == torch.__version__.split("+")[0] or torch.__version__.startswith(
        facts["torch"]
    )
    assert found["problems"] == [] and "cores" in facts and "detectron2" in facts


def test_doctor_says_what_missing_things_mean(monkeypatch, capsys):
    from detco.benchmarks.cli import doctor

    known = doctor._version
    fakes = {"pycocotools": None, "pandas": "1.5.3"}
    monkeypatch.setattr(
        doctor, "_version", lambda name: fakes[name] if name in fakes else known(name)
    )
    assert doctor.main(SimpleNamespace(json=False)) == 1
    text = capsys.readouterr().out
    assert "problem  pycocotools is missing: COCO data cannot be read" in text
    assert "problem  pandas 1.5.3 is older than 2.2: no tables" in text


def test_data_check_lists_what_is_wrong(capsys, drawn, tmp_path):
    import shutil

    assert cli.main(["data", "check", "voc", str(drawn / "voc"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {split["split"]: split["images"] for split in found["splits"]} == {
        "trainval": 6,
        "test": 2,
    }
    assert cli.main(["data", "check", str(drawn / "voc"), "--json"]) == 0  # finds the layout
    assert json.loads(capsys.readouterr().out) == found
    assert cli.main(["data", "check", str(tmp_path)]) == 2
    assert f"{tmp_path}: no known layout" in capsys.readouterr().err
    broken = tmp_path / "voc"
    shutil.copytree(drawn / "voc", broken)
    victim = sorted((broken / "JPEGImages").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:200])
    assert cli.main(["data", "check", "voc", str(broken)]) == 2
    streams = capsys.readouterr()
    assert victim.name in streams.out and streams.err == f"detco: 1 problem in {broken}\n"


def test_table_leaves_out_doubtful_records_by_path(capsys, tmp_path):
    for number, value in enumerate([30.0, 32.0, float("nan")]):
        record = transfer_record("detco-small", "c4", number, value)
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "record.json").write_text(json.dumps(record))
    assert cli.main(["table", str(tmp_path), "--format", "csv", "--metrics", "box_ap"]) == 0
    streams = capsys.readouterr()
    (row,) = csv.DictReader(streams.out.splitlines())
    assert (float(row["mean"]), row["n"]) == (31.0, "2")
    assert streams.err.startswith(f"left out: {tmp_path / '2' / 'record.json'}: ")

    assert "box_ap is nan" in streams.err
    assert "did you mean 'detco-small'" in refused(
        capsys, "table", tmp_path, "--baseline", "detco-smal"
    )


def test_of_many_doubtful_records_the_first_are_named_and_the_rest_counted(capsys, tmp_path):
    for number in range(27):
        record = transfer_record("detco-small", "c4", number, 30.0 if number < 2 else float("nan"))
        (tmp_path / f"{number:02}").mkdir()
        (tmp_path / f"{number:02}" / "record.json").write_text(json.dumps(record))
    assert cli.main(["table", str(tmp_path)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21 and lines[-1] == "left out: 5 more records"
    assert all(f"{number + 2:02}/record.json" in line for number, line in enumerate(lines[:20]))


def test_a_failed_transfer_says_why_and_how_to_repeat_it(tmp_path, drawn):
    """A learning rate that blows up: status 1, the end of the log, the command; then the
    mended one runs."""
    base = [
        "transfer",
        "small-faster-rcnn-fpn",
        "--weights",
        "random",
        "--data",
        drawn / "coco",
        "--out",
        tmp_path / "o",
    ]
    done = detco(
        *base,
        "--device",
        "cpu",
        "--set",
        "schedule.lr=1e30",
        "--set",
        "schedule.iterations=6",
        "--set",
        "schedule.clip=0",
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr.splitlines()[0]
    assert re.search(
        r"failed: small-faster-rcnn-fpn from random, seed 0: TrainingError: .*not finite",
        done.stderr,
    )
    assert (
        "by itself: python -m detco.benchmarks.run.worker" in done.stderr
        and "1 of 1 jobs failed" in done.stderr
    )
    text = detco("table", tmp_path / "o").stdout
    assert re.search(r"^random +failed$", text, re.M)


def test_a_suite_from_drawing_to_table_with_the_real_parts(tmp_path):
    """Killed in the middle and run again: nothing finished is repeated; a third call does nothing
    and prints the same."""
    (tmp_path / "tiny.yaml").write_text(SUITE)
    words = [
        sys.executable,
        "-m",
        "detco.benchmarks.cli.main",
        "run",
        "tiny.yaml",
        "--device",
        "cpu",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    end = time.time() + 120
    while (
        not list(tmp_path.glob("tiny/pretrain/*/progress.json"))
        and first.poll() is None
        and time.time() < end
    ):
        time.sleep(0.05)
    first.kill()
    first.wait()
    before = {record["id"]: record for record in store.read(tmp_path)[0]}
    assert [record["kind"] for record in before.values()] == ["scenes"]

    done = detco("run", "tiny.yaml", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records, problems = store.read(tmp_path / "tiny")
    assert problems == [] and sorted(r["kind"] for r in records) == [
        "pretrain",
        "scenes",
        "transfer",
        "transfer",
    ]
    after = {record["id"]: record for record in records}
    assert all(after[key] == record for key, record in before.items())
    cells = {r["starting_point"]: r for r in records if r["kind"] == "transfer"}
    backbone = next((tmp_path / "tiny" / "pretrain").glob("detco-small-*/backbone.safetensors"))

    assert cells["detco-small"]["weights"]["sha256"] == sha256_of(backbone)
    assert (
        cells["detco-small"]["data"]["test"]["images"] == 4
        and cells["random"]["engine"] == "torchvision"
    )
    assert {"torch", "numpy", "python"} <= cells["random"]["versions"].keys() and cells["random"][
        "code"
    ]
    assert any("schedule.iterations 2" in text for text in cells["random"]["deviations"])
    rows = list(csv.DictReader((tmp_path / "tiny" / "table.csv").open()))
    table = {(row["starting point"], row["metric"]): float(row["mean"]) for row in rows}
    assert table["random", "box_ap"] == pytest.approx(cells["random"]["metrics"]["box_ap"])
    assert "tiny/table.md" in done.stdout and "difference to random" in done.stdout

    again = detco("run", "tiny.yaml", "--device", "cpu", cwd=tmp_path)
    assert again.returncode == 0 and "started" in done.stdout and "started" not in again.stdout
    first, _, rest = again.stdout.partition("\n")
    assert first.startswith("4 of 4 jobs done before, nothing trained")
    assert done.stdout.endswith(rest) and "difference to random" in rest
    assert {r["id"]: r for r in store.read(tmp_path / "tiny")[0]} == after
    shown = detco("weights", "show", backbone, "--json")
    assert json.loads(shown.stdout)["method"] == "detco"
    state = detco("status", tmp_path / "tiny")
    counts, shows = state.stdout.splitlines()
    assert counts == "4 jobs: 4 done" and shows.startswith("all done: detco table ")
