"""A protocol that comes in by its door only: a row of PROTOCOLS."""

import json
from dataclasses import replace

import pytest

from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import suite_plan
from detco.benchmarks.run import worker
from detco.benchmarks.suites.builtin import Data, StartingPoint, Suite, Task
from detco.common.errors import InputError
from detco.transfer import protocols


@pytest.fixture
def dummy(monkeypatch) -> protocols.Protocol:
    base = protocols.PROTOCOLS["small-retinanet"]
    schedule = replace(base.schedule, iterations=7)
    row = replace(base, name="tiny-retinanet", version=3, schedule=schedule)
    monkeypatch.setitem(protocols.PROTOCOLS, row.name, row)
    return row


def test_a_dummy_protocol_is_listed_and_shown(dummy, capsys):
    assert cli.main(["protocols", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["tiny-retinanet"]["hash"] == protocols.protocol_hash(dummy)
    assert cli.main(["protocols", "show", "tiny-retinanet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schedule"]["iterations"] == 7


def test_a_dummy_protocol_is_planned_and_run(dummy, scenes, tmp_path):
    start = (StartingPoint("random", random=True),)
    suite = Suite("x", start, (Task("tiny-retinanet", Data(scenes / "voc")),), engine="replay")
    (job,) = suite_plan.plan(suite, tmp_path, device="cpu")
    assert job.title == "tiny-retinanet from random, seed 0"
    job.folder.mkdir(parents=True)
    record = worker.run_job(job.spec, job.folder, lambda *_, **__: None)
    assert (record["status"], record["protocol"], record["protocol_version"]) == (
        "done",
        "tiny-retinanet",
        3,
    )
    assert record["protocol_hash"] == protocols.protocol_hash(dummy)


def test_published_data_in_a_layout_without_a_row_are_refused():
    data = protocols.PROTOCOLS["coco-retinanet-90k"].data
    with pytest.raises(InputError, match="unknown layout 'yolo': there are voc, coco, cityscapes"):
        replace(data, layout="yolo")
