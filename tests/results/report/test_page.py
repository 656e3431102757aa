"""The HTML page: self-contained, values as in the table, written whole or not at all."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from detco.common.errors import InputError
from detco.results import compare, tables
from detco.results.report import evaluations
from detco.results.report import page as report
from detco.results.report.curves import LossChart
from detco.results.report.examples import Box, Example
from tests.factories.pages import Page
from tests.factories.records import failed_record, planned_spec, three_seeds, transfer_record


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


def test_four_starting_points_fit_beside_the_truth(material):
    """Of a window of 1280 pixels the margins take 3 % on each side, gaps 0.8 rem of 16 pixels."""
    text = report.page(material).text
    least = re.search(r"\.panels \{ display: grid;[^}]*minmax\(min\((\d+)px", text)[1]
    assert "padding: 1.2rem clamp(.75rem, 3vw, 2.5rem)" in text and "gap: .8rem" in text
    assert 5 * int(least) + 4 * 0.8 * 16 <= 1280 * 0.94


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
