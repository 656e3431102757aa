"""`detco report` on a folder as runs leave it: the page, its commands, what is gone."""

import json
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from detco.benchmarks.cli import main as cli
from detco.benchmarks.report import examples, gather, reproduce
from detco.benchmarks.run import live
from detco.common import backbone_file
from detco.transfer.data import dataset
from detco.transfer.data.cityscapes import SEMANTIC
from tests.factories.pages import Page
from tests.factories.records import transfer_record


@pytest.fixture(scope="module")
def runs(tmp_path_factory, scenes):
    """Two starting points of the replay engine, as `detco transfer` makes them."""
    out = tmp_path_factory.mktemp("runs")
    backbone_file.write(out / "second.safetensors", backbone_file.random_backbone("resnet18", 1))
    for name, start in (("first", "random"), ("second", str(out / "second.safetensors"))):
        words = [
            "transfer",
            "small-faster-rcnn-fpn",
            "--weights",
            start,
            "--name",
            name,
            "--data",
            str(scenes / "coco"),
        ]
        more = [
            "--out",
            str(out),
            "--engine",
            "replay",
            "--seed",
            "3",
            "--set",
            "schedule.iterations=7",
        ]
        assert cli.main([*words, *more, "--device", "cpu"]) == 0
    return out


def test_report_of_real_runs(runs, capsys, monkeypatch):
    told = []

    @contextmanager
    def of_task(title):
        yield lambda stage, done, total: told.append((stage, done, total))

    monkeypatch.setattr(live, "of_task", of_task)
    assert cli.main(["report", str(runs)]) == 0
    stages = {"curves": 2, "detections": 1, "attention maps": 2, "page": 1}
    assert told == [(stage, n, total) for stage, total in stages.items() for n in range(total)]
    assert "report.html" in capsys.readouterr().out
    page = Page((runs / "report.html").read_text(encoding="utf-8"))
    assert {"detections", "attention", "again"} <= set(page.ids)
    pictures = [address for address in page.fetched if address.startswith("data:")]
    # each example once; for attention itself and a map for each starting point
    assert len(pictures) == 3 + 3 * 3
    assert [path.name for path in runs.glob(".report*")] == []


def test_commands_make_the_same_run_again(runs, scenes, tmp_path, monkeypatch):
    """What the page says under `make each row again` is typed in: the same run, by its identity and
    its numbers."""
    from detco.results import store

    records, _ = store.read(runs)
    lines = reproduce.commands(records)
    assert set(lines) == {"first", "second"}
    (line,) = lines["second"]
    assert "--set schedule.iterations=7" in line and line.count("--set") == 1
    monkeypatch.chdir(tmp_path)
    assert cli.main([*line.split()[1:], "--device", "cpu"]) == 0
    (again,), _ = store.read(tmp_path / reproduce.OUT)
    first = next(record for record in records if record["starting_point"] == "second")
    assert again["id"] == first["id"] and again["metrics"] == first["metrics"]


def test_commands_of_a_suite_draw_and_pretrain_first():
    recipe = {"name": "detco-small", "epochs": 9, "workers": 3}
    made = [
        {
            "id": "s" * 64,
            "kind": "scenes",
            "spec": {"settings": {"images": 20, "size": 64, "seed": 5}},
        },
        {
            "id": "p" * 64,
            "kind": "pretrain",
            "spec": {
                "starting_point": "mine",
                "recipe": recipe,
                "images": "/old/unlabelled",
                "images_identity": "s" * 64 + "/unlabelled",
                "seed": 2,
                "needs": ["s" * 64],
            },
        },
    ]
    record = transfer_record("detco-small", "c4", 4, 20.0)
    record |= {"starting_point": "mine"}
    record["spec"] |= {
        "needs": ["p" * 64, "s" * 64],
        "weights_identity": "p" * 64,
        "weights": "/old/b.safetensors",
    }
    record["spec"]["data"] = {"root": "/old/voc", "layout": "voc", "identity": "s" * 64 + "/voc"}
    other = record | {"id": "other", "seed": 1}
    assert reproduce.commands([record, other, *made])["mine"] == [
        "detco data scenes again/scenes-ssssssss --images 20 --size 64 --seed 5",
        (
            "detco pretrain detco-small --images again/scenes-ssssssss/unlabelled --out again/mine"
            " --seed 2 --set epochs=9"
        ),
        (
            "for seed in 1 4; do detco transfer c4 --weights again/mine/backbone.safetensors --data"
            " again/scenes-ssssssss/voc --layout voc --engine torchvision --name mine --out again"
            " --seed $seed; done"
        ),
    ]


@pytest.mark.parametrize(
    "launch, said",
    [
        ({}, ""),
        ({"amp": True}, " --amp fp16"),  # as earlier versions wrote it
        ({"amp": "bf16", "eval_period": 500}, " --amp bf16 --eval-period 500"),
        ({"num_gpus": 4, "num_machines": 2, "dist_url": "tcp://gone:1"}, " --num-gpus 8"),
    ],
)
def test_commands_start_the_engine_as_it_was(launch, said):
    record = transfer_record("random", "c4", 0, 20.0)
    record["spec"] |= {"weights": "random", "launch": launch}
    plain = transfer_record("random", "c4", 1, 20.0)
    line, *other = reproduce.commands([record, plain])["random"]
    if said:
        assert line.endswith(f"--out again{said} --seed 0") and other[0].endswith(
            "--out again --seed 1"
        )
    else:
        assert line.startswith("for seed in 0 1; do") and other == []


def test_what_is_gone_is_said(runs, tmp_path, capsys):
    """Predictions and data set gone: the page is still made, and says so."""
    copy = tmp_path / "copy"
    shutil.copytree(runs, copy)
    for path in copy.rglob("record.json"):
        record = json.loads(path.read_text())
        record["spec"]["data"]["root"] = "/nowhere"
        path.write_text(json.dumps(record))
    next(copy.rglob("first*/predictions.json")).unlink()
    assert cli.main(["report", str(copy), "--out", str(tmp_path / "page.html")]) == 0
    text = " ".join(Page((tmp_path / "page.html").read_text()).texts)
    assert (
        "no predictions kept of first" in text
        and "no example pictures: " in text
        and "/nowhere" in text
    )
    assert cli.main(["report", str(copy), "--out", str(tmp_path / "no" / "page.html")]) == 2


def test_anonymous_page_of_real_runs(runs, scenes, tmp_path, monkeypatch, capsys):
    """In its bytes: no host, no user, no home folder, no path of runs or data."""
    home = tmp_path / "ada lovelace"
    copy = home / "secret runs"
    shutil.copytree(runs, copy)
    for path in copy.rglob("record.json"):
        record = json.loads(path.read_text())
        record["hardware"]["host"] = "host-of-ada"
        record["facts"] = {"note": f"weights of {home}/mine.pth"}
        path.write_text(json.dumps(record))
    (copy / "broken").mkdir()
    (copy / "broken" / "record.json").write_text("{}")
    monkeypatch.setattr(socket, "gethostname", lambda: "machine-of-ada")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(gather, "_attention", lambda *_: {})
    words = ["report", str(copy), "--out", str(tmp_path / "page.html"), "--figures"]
    assert cli.main([*words, str(tmp_path / "charts"), "--anonymous"]) == 0
    assert f"charts: 1 files in {tmp_path / 'charts'}" in capsys.readouterr().out
    charts = list((tmp_path / "charts").iterdir())
    assert [path.suffix for path in charts] == [".svg"]
    for path in (tmp_path / "page.html", *charts):
        text = path.read_bytes().decode()
        places = (home, tmp_path, runs, scenes, tmp_path.parent, Path.cwd())
        for word in ("-of-ada", "lovelace", *map(str, places)):
            assert word not in text, word
    page = Page((tmp_path / "page.html").read_text())
    assert any("record.json: has no format number" in text for text in page.texts)
    assert any("--data PATH/coco" in text for text in page.texts)
    named = [Path(image).name for image in (scenes / "coco").rglob("*.jpg")]
    assert not any(name in text for name in named for text in page.texts)


@pytest.mark.parametrize(
    "words, text",
    [
        (["--figure-format", "svg"], "--figure-format is for charts as files: add --figures"),
        (
            ["--figures", "charts", "--figure-format", "png"],
            "unknown --figure-format 'png'; known: svg, pdf",
        ),
    ],
)
def test_wrong_options_of_figures(runs, words, text, capsys):
    try:
        status = cli.main(["report", str(runs), *words])
    except SystemExit as end:
        status = end.code
    assert status == 2 and text in capsys.readouterr().err


def test_classes_of_pixels_are_drawn_from_their_file(scenes):
    test = dataset.load("cityscapes", scenes / "cityscapes", "val", semantic=True)
    image = test.images[0]
    here = [one for one in test.annotations if one["image_id"] == image["id"]]
    made = examples._Boxes(test, ("semantic",), {image["id"]: image}).of(here)[image["id"]]
    ids = np.asarray(Image.open(image["labels"]))
    assert {box.label for box in made} == {SEMANTIC[label] for label in {*ids.flat} & {*SEMANTIC}}
    assert len(made) > 1
    for box, one in zip(made, here, strict=True):
        assert (mask.decode(box.mask) == (ids == one["category_id"])).all()
