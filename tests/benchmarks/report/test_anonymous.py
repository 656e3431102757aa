"""An anonymous page: no machine, no user, no path, and all else as it is."""

import getpass
import socket
from pathlib import Path

import pytest

from detco.benchmarks.report import anonymous
from detco.results.report.curves import LossChart
from detco.results.report.page import Material
from tests.factories.records import transfer_record

HOST, USER = "gpu17.lab.example", "lovelace"


@pytest.fixture
def record(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    monkeypatch.setenv("HOME", "/home/lovelace")
    record = transfer_record("random", "c4", 0, 10.0)
    record["spec"]["data"]["root"] = "/scratch/my data/pets"
    record["hardware"] = {"host": "node3", "cores": 2}
    return record


def hidden(record, **more):
    return anonymous.hidden(Material(title="of /x/y", records=[record], **more), Path("runs"))


@pytest.mark.parametrize(
    "text, shown",
    [
        ("/home/lovelace/x/record.json: no metrics", "PATH/record.json: no metrics"),
        ("--data '/scratch/my data/pets' --layout voc", "--data PATH/pets --layout voc"),
        ("'/scratch/my data/pets/val.json' is gone", "'PATH/val.json' is gone"),
        ("in ../other/place, ~/mine and ~ada/theirs", "in PATH/place, PATH/mine and PATH/theirs"),
        ("/home/lovelace is full", "PATH is full"),
        ("failed on gpu17, of lovelace", "failed on hidden, of hidden"),
        ("node3: out of memory", "hidden: out of memory"),
        ("see (/tmp/a.log)", "see (PATH/a.log)"),
        # no paths
        ("12/40 done, 3 images/s and/or 1 / 2", "12/40 done, 3 images/s and/or 1 / 2"),
        ("https://arxiv.org/abs/2102.04803", "https://arxiv.org/abs/2102.04803"),
        ("detco-small, box AP 10.0 ± 1.0", "detco-small, box AP 10.0 ± 1.0"),
        ("runs/random-seed0", "runs/random-seed0"),
    ],
)
def test_texts(record, text, shown):
    made = hidden(record, problems=[text], notes={"training": [text]}, commands={"a": [text]})
    shown = shown.replace("--data PATH/pets", "--data 'PATH/pets'")
    assert made.problems == made.notes["training"] == made.commands["a"] == [shown]


def test_records_keep_their_numbers(record):
    made = hidden(record, training={"c4": LossChart("loss", {"random": [(1, 2.0)]})})
    (anonymous_record,) = made.records
    assert anonymous_record["hardware"] == {"cores": 2} and made.title == "Transfer to detection"
    assert anonymous_record["spec"]["data"]["root"] == "PATH/pets"
    assert anonymous_record["metrics"] == record["metrics"]
    assert made.training["c4"].lines == {"random": [[1, 2.0]]} and made.anonymous
    assert record["hardware"]["host"] == "node3"  # the record itself is untouched


def test_a_home_that_is_the_root_hides_no_more(record, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    made = hidden(record, problems=["/data/x is gone, 3 images/s"])
    assert made.problems == ["PATH/x is gone, 3 images/s"]
