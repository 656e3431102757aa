"""Scoring is tried on two pictures before anything is trained."""

import math

import pytest

from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.data import dataset
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.scoring import score as scoring


@pytest.mark.parametrize(
    ("layout", "split", "scorer", "metrics"),
    [
        ("voc", "test", "voc2007", ("box",)),
        ("coco", "val", "coco", ("box", "mask")),
        ("coco", "val", "coco", ("keypoint",)),
        ("cityscapes", "val", "cityscapes", ("mask",)),
        ("cityscapes", "val", "cityscapes", ("semantic",)),
    ],
)
def test_two_pictures_score_100_against_themselves(
    layout, split, scorer, metrics, scenes, monkeypatch
):
    own = dataset.load(
        layout,
        scenes / layout,
        split,
        keypoints="keypoint" in metrics,
        semantic="semantic" in metrics,
    )
    seen = []
    monkeypatch.setattr(
        scoring, "score", lambda *given, score=scoring.score: seen.append((given[0], score(*given)))
    )
    scoring.rehearse(own, scorer, metrics)
    ((two, result),) = seen
    labelled = {a["image_id"] for a in own.annotations}
    assert [image["id"] for image in two.images] == [
        image["id"] for image in own.images if image["id"] in labelled
    ][:2]
    if metrics != ("semantic",):  # whose pixels stay in their file
        assert {
            v for k, v in result.items() if k.endswith(("_ap", "_ap50")) and not math.isnan(v)
        } == {100.0}


def test_what_cannot_be_scored_is_not_trained(scenes, tmp_path, monkeypatch):
    def fail(*_):
        raise InputError("no scorer here")

    monkeypatch.setattr(scoring, "score", fail)
    data = {"layout": "voc", "root": scenes / "voc"}
    with pytest.raises(InputError, match="no scorer here"):
        finetune.finetune(PROTOCOLS["small-retinanet"], "random", data, tmp_path / "out", "replay")
    assert not (tmp_path / "out").exists()
