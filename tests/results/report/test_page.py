"""The HTML page: self-contained, values as in the table, written whole or not at all."""

import json
import re
import shutil
import socket
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detco.benchmarks.cli import main as cli
from detco.benchmarks.report import gather, reproduce
from detco.common import backbone_file
from detco.common.errors import InputError
from detco.results import compare, tables
from detco.results.report import evaluations
from detco.results.report import page as report
from detco.results.report.curves import LossChart
from detco.results.report.examples import Box, Example
from tests.factories.records import failed_record, planned_spec, three_seeds, transfer_record

VOID = {"meta", "img", "br", "image", "use", "input"}


class Page(HTMLParser):
    """Checks the nesting; collects texts by tag, ids and everything that would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.ids, self.fetched = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.fetched += [
            found[key] for key in ("src", "href", "xlink:href") if key in found and tag != "a"
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] not in ("style", "script"):
            self.texts.append(data.strip())


@pytest.fixture
def records():
    values = {
        ("detco-small", "c4"): [31.2, 33.5, 30.0],
        ("supervised", "c4"): [29.0, 30.5],
        ("random", "c4"): [10.0, 12.0],
    }
    made = [
        transfer_record(*cell, seed, value)
        for cell, found in values.items()
        for seed, value in enumerate(found)
    ]
    made += [
        failed_record("random", "retinanet", 0),
        transfer_record("detco-small", "retinanet", 0, 21.0),
    ]
    for record in made:
        record |= {"versions": {"torch": "2.15"}, "hardware": {"cores": 2}, "code": "abc"}
        record["spec"] |= {
            "protocol_row": {
                "name": record["protocol"],
                "version": 1,
                "schedule": {"iterations": 250},
            }
        }
    return made


@pytest.fixture
def material(records, tmp_path):
    for name in ("one", "two"):
        Image.new("RGB", (64, 48), (200, 10, 10)).save(tmp_path / f"{name}.jpg")
    box = Box(5, 5, 20, 20, "dog")
    found = {
        "random": [],
        "detco-small": [Box(6, 5, 20, 20, "dog", 0.91), Box(40, 30, 10, 10, "<cat>", 0.7)],
    }
    losses = {"detco-small": [(n, 5 / n) for n in range(1, 400)], "random": [(1, 2.0)]}
    return report.Material(
        title="pets & <more>",
        records=records,
        unfinished=[planned_spec("moco", "c4", 0)],
        problems=["/runs/x/record.json: metric box_ap is nan, not a finite number"],
        training={"c4": LossChart("total loss: RPN, boxes", losses)},
        examples={"c4 v1": [Example(tmp_path / "one.jpg", 64, 48, [box], found)]},
        attention=(
            [tmp_path / "two.jpg"],
            {"random": [np.zeros((48, 64))], "detco-small": [np.ones((48, 64))]},
        ),
        commands={"random": ["detco transfer c4 --weights random"]},
        notes={"training": ["curves of 2 jobs"]},
    )


def test_page_is_whole_and_fetches_nothing(material):
    text = report.page(material).text
    page = Page(text)
    assert (
        all(address.startswith(("data:image/jpeg;base64,", "#")) for address in page.fetched)
        and len(page.fetched) >= 4
    )
    assert not re.search(r"https?://", text) and "default-src 'none'" in text
    assert len(page.ids) == len(set(page.ids)) and "<cat>" not in text and "<more>" not in text
    wanted = [
        "results",
        "bars",
        "compared",
        "training",
        "detections",
        "attention",
        "settings",
        "again",
        "left-out",
    ]
    assert [name for name in page.ids if not name.startswith("picture")] == wanted
    command = "detco transfer c4 --weights random"
    for said in (
        "pets & <more>",
        "metric box_ap is nan",
        "curves of 2 jobs",
        command,
        "schedule.iterations",
    ):
        assert any(said in found for found in page.texts), said


def test_page_has_the_numbers_of_the_table(material, records):
    page = Page(report.page(material).text)
    mean, std = np.mean([31.2, 33.5, 30.0]), np.std([31.2, 33.5, 30.0], ddof=1)
    assert page.texts.count(f"{mean:.1f} ± {std:.1f} (3)") >= 2  # table and chart
    assert "failed" in page.texts and "–" in page.texts and "difference to supervised" in page.texts
    sentence = "c4 v1: pets, torchvision, VOC07 AP: box AP is highest from detco-small, 31.6 ± 1.8"
    assert any(text.startswith(sentence) for text in page.texts)
    facts = dict(
        zip(
            page.texts[page.texts.index("runs done") - 1 :: 2],
            page.texts[page.texts.index("runs done") :: 2],
        )
    )
    assert (facts["8"], next(number for number, what in facts.items() if what == "engine")) == (
        "runs done",
        "torchvision",
    )


def test_schedule_curve_and_published_numbers_are_shown():
    records = [
        r
        for k, ap in ((12, 29.4), (90, 39.3), (180, 41.5))
        for r in three_seeds("detco@200", f"coco-mask-rcnn-c4-{k}k", ap)
    ]
    text = report.page(report.Material("x", records)).text
    page = Page(text)
    assert "detco-200, published" in page.texts and "9 cells" not in page.texts
    assert any(
        "Each number beside its published one: 3 reproduced" in found for found in page.texts
    )
    line = re.search(r'<polyline points="([^"]*)" class="line k0"/>', text)[1]
    assert len(line.split()) == 3


def evaluated(start, seed, value, on_the_way):
    record = transfer_record(start, "c4", seed, value)
    record["spec"] |= {
        "protocol_row": {"name": "c4", "version": 1, "schedule": {"iterations": 900}}
    }
    found = [
        {"iteration": step, "metrics": {"box_ap": ap, "box_ap50": 99.0}}
        for step, ap in on_the_way.items()
    ]
    return record | {"facts": {"evaluations": found}}


def test_ap_on_the_way_is_the_mean_over_seeds_and_ends_at_the_result():
    """By hand: seeds share 300 and 600; a run without evaluations, or with a result only, is no
    part of it."""
    records = [
        evaluated("detco-small", 0, 30.0, {300: 10.0, 600: 20.0}),
        evaluated("detco-small", 1, 34.0, {300: 14.0, 450: 1.0, 600: 22.0}),
        evaluated("detco-small", 2, 99.0, {}),
        evaluated("random", 0, 12.0, {600: 5.0}),
        transfer_record("supervised", "c4", 0, 50.0),
    ]
    runs = tables.frame(records)
    columns = compare.headline_columns(tables.ap_table(runs))
    ((title, found),) = evaluations.curves(runs, records, columns).items()
    assert title == "c4 v1: pets, torchvision, VOC07 AP" and found.metric == "box_ap"
    random, detco = found.lines
    assert (random.name, random.points) == ("random", [(600, 5.0), (900, 12.0)]) and np.isnan(
        random.errors
    ).all()
    assert (detco.name, detco.points) == ("detco-small", [(300, 12.0), (600, 21.0), (900, 32.0)])
    assert detco.errors == pytest.approx([8**0.5, 2**0.5, 8**0.5])
    text = report.page(report.Material("x", records)).text
    assert (
        any("AP on the way" in said for said in Page(text).texts) and "training" in Page(text).ids
    )
    chart = text[text.index("line chart: box AP (percent) over iterations") :]
    assert [len(line.split()) for line in re.findall(r'<polyline points="([^"]*)"', chart)[:2]] == [
        2,
        3,
    ]
    assert (
        evaluations.curves(
            runs,
            [transfer_record("random", "c4", 0, 50.0) | {"id": r["id"]} for r in records],
            columns,
        )
        == {}
    )


def test_versions_name_every_detectron2(records):
    for record, own in zip(records, ("a8676b80f7de", "acd65d6c626b")):
        record["facts"] = {"detectron2": {"which": f"which of {own}", "hash": own}}
    text = " ".join(Page(report.page(report.Material(title="x", records=records)).text).texts)
    assert "detectron2 files which of a8676b80f7de (a8676b), which of acd65d6c626b (acd65d)" in text


def test_without_any_result():
    with pytest.raises(InputError, match="no fine-tuning results yet"):
        report.page(report.Material("x", []))


# --- the command, on a folder as runs leave it ---------------------------------------------------


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


def test_report_of_real_runs(runs, capsys):
    assert cli.main(["report", str(runs)]) == 0
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


def test_loss_of_a_chart_is_named(material):
    text = report.page(material).text
    assert "line chart: total loss: RPN, boxes over iterations" in text
    assert "total loss: RPN, boxes" in Page(text).texts


def test_pictures_are_numbered_on_an_anonymous_page(material):
    text = report.page(replace(material, anonymous=True)).text
    assert "one.jpg" not in text and "two.jpg" not in text
    assert {"c4 v1: picture 1", "picture 1"} <= set(Page(text).texts)


def test_engines_that_train_nothing_are_not_ranked(material, records):
    for record in records:
        record["engine"] = "replay" if record["protocol"] == "c4" else "torchvision"
    text = report.page(replace(material, untrained=["replay"])).text
    found = Page(text).texts
    c4 = "c4 v1: pets, replay, VOC07 AP"
    assert f"{c4}: nothing was trained (engine replay), so nothing is ranked." in found
    assert "without the engine replay: nothing was trained" in found
    assert not any("highest" in text for text in found) and "Wins, ties and losses" not in found


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
