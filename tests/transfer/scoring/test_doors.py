"""A scorer that comes in by its door only: a row of SCORERS and a function."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest

from detco.common.errors import InputError
from detco.transfer import finetune, scoring
from detco.transfer.protocols import PROTOCOLS


@pytest.fixture
def shares(monkeypatch):
    """Found objects for each that is there, in percent."""
    module = ModuleType("detco.transfer.scoring.shares")
    module.score = lambda dataset, predictions, metrics: {
        "box_share": 100 * len(predictions) / len(dataset.annotations)
    }
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(scoring.SCORERS, "shares", scoring.Scorer("shares:score"))
    return "shares"


def test_a_protocol_asks_for_a_dummy_scorer(shares, scenes, tmp_path):
    row = replace(PROTOCOLS["small-retinanet"], name="small-shares", scorer=shares)
    data = {"layout": "voc", "root": scenes / "voc"}
    found = finetune.finetune(row, "random", data, tmp_path, "replay", device="cpu")
    assert found["scorer"] == "shares" and found["metrics"].keys() == {"box_share"}
    assert found["metrics"]["box_share"] > 0


def test_a_scorer_without_a_row_is_refused():
    with pytest.raises(InputError, match=r"scorer must be .*'shares'"):
        replace(PROTOCOLS["small-retinanet"], scorer="shares")


def test_a_scorer_of_other_metrics_is_refused_with_the_protocol():
    with pytest.raises(InputError, match=r"'voc2007' has the metrics box, got \['mask'\]"):
        replace(PROTOCOLS["small-mask-rcnn-fpn"], metrics=("mask",), scorer="voc2007")
