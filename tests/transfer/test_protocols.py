"""Rows of the protocol table are frozen: a change needs a new version (and then a
new hash here)."""

from dataclasses import replace

import pytest

from detco.benchmarks import config
from detco.common.errors import InputError
from detco.transfer.protocols import PROTOCOLS, departures, protocol_hash

FROZEN = {
    "small-faster-rcnn-c4": (1, "b31c72e87571c981"),
    "small-faster-rcnn-fpn": (1, "2a6c7b766e6b70f1"),
    "small-mask-rcnn-c4": (1, "ed3c2d4c48ac4bd7"),
    "small-mask-rcnn-fpn": (1, "b03bd8ff78eeed7c"),
    "small-retinanet": (1, "c0244a2169531bcd"),
    "small-keypoint-rcnn": (1, "2d5a737504c31598"),
    "small-faster-rcnn-fpn-long": (1, "ae1c11b06e045620"),
    "small-retinanet-long": (1, "308a49d79b4a6349"),
    "small-keypoint-rcnn-long": (1, "d2714966de39368c"),
    "small-faster-rcnn-c4-long": (1, "d06b37d7ca441b2a"),
    "small-faster-rcnn-fpn-long-frozen": (1, "1e7c49577fff5ac0"),
    "coco-mask-rcnn-c4-12k": (1, "e92740294ff33310"),
    "coco-mask-rcnn-c4-90k": (1, "4a1f538aaef97cfd"),
    "coco-mask-rcnn-c4-180k": (1, "224b585785bc3ecb"),
    "coco-mask-rcnn-fpn-12k": (1, "10a9ae9880a40200"),
    "coco-mask-rcnn-fpn-90k": (1, "b96aa08e37301918"),
    "coco-mask-rcnn-fpn-180k": (1, "50f65c3419f18a8c"),
    "coco-retinanet-12k": (1, "6d26eac919ee3cf4"),
    "coco-retinanet-90k": (1, "b6efab8190cb594a"),
    "coco-retinanet-180k": (1, "6dba7ee830264728"),
    "coco-keypoint-rcnn-180k": (1, "f22970f3e3964919"),
    "coco-densepose": (1, "5adb00cac5a827ea"),
    "coco-densepose-s1x": (1, "e088ec69eb6971ec"),
    "voc-faster-rcnn-c4-24k": (1, "90723f6cf8980ad9"),
    "cityscapes-instance": (1, "9377b6f2e62d16ea"),
    "cityscapes-semantic": (1, "6b33da2d2f79d73a"),
    "voc-faster-rcnn-fpn-144k": (1, "c636802b60de0287"),
    "voc-faster-rcnn-fpn-144k-frozen": (1, "c7fa13061c3d7bf1"),
    "coco-1pct-mask-rcnn-fpn": (1, "99472322d64b0e6c"),
    "coco-2pct-mask-rcnn-fpn": (1, "a196d4a6091a9a90"),
    "coco-5pct-mask-rcnn-fpn": (1, "14c180a3b00271de"),
    "coco-10pct-mask-rcnn-fpn": (1, "51676f1786bd12a5"),
    "coco-1pct-retinanet": (1, "990c971d2423ba31"),
    "coco-2pct-retinanet": (1, "ade238ee91aa440e"),
    "coco-5pct-retinanet": (1, "17f18b5507f842e9"),
    "coco-10pct-retinanet": (1, "d29a971f9f853485"),
    "small-knn": (1, "63158fb4133c1810"),
    "small-linear": (1, "f190c3a32e9c8606"),
    "imagenet-linear": (1, "9085bfbb94bebbae"),
    "small-svm": (1, "a3f0fe5e9a231e4c"),
    "voc07-svm": (1, "c92e7dce5bc452e2"),
    "voc07-svm-low-shot": (1, "2a7e83740b6231c6"),
    "imagenet-knn": (1, "853bd7fd3c794fb2"),
}


def test_rows_are_frozen():
    assert {name: (row.version, protocol_hash(row)) for name, row in PROTOCOLS.items()} == FROZEN


def test_names_are_unique_and_rows_complete():
    from detco.transfer import protocols

    assert len(PROTOCOLS) == len(protocols.ROWS)
    for row in PROTOCOLS.values():
        schedule = row.schedule
        assert row.source and row.metrics
        if row.architecture in ("knn", "svm"):  # nothing is trained by gradient
            assert (schedule.iterations, schedule.epochs, schedule.lr) == (0, 0, 0)
            continue
        assert max(schedule.iterations, schedule.epochs) > schedule.warmup
        assert schedule.decay == "cosine" or schedule.steps


def test_any_change_changes_the_hash_and_is_named():
    row = PROTOCOLS["small-retinanet"]
    changed = replace(
        row,
        schedule=replace(row.schedule, iterations=7),
        detector=replace(row.detector, retina_prior=0.1),
    )
    assert protocol_hash(changed) != protocol_hash(row)
    assert departures(row) == ()
    assert departures(changed) == (
        f"schedule.iterations 7 (protocol: {row.schedule.iterations})",
        "detector.retina_prior 0.1 (protocol: 0.05)",
    )


@pytest.mark.parametrize(
    "key, value",
    [
        ("schedule.iterations", -2),
        ("schedule.images", 0),
        ("resize.train", []),
        ("resize.train", [0]),
        ("schedule.lr", 0),
        ("detector.anchors", [[]]),
        ("detector.roi_positive", 2),
    ],
)
def test_settings_out_of_range_are_refused(key, value):
    with pytest.raises(InputError, match=key):
        config.override(PROTOCOLS["small-retinanet"], {key: value})


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("small-retinanet", {"metrics": []}, "metrics"),
        ("small-retinanet", {"metrics": ["mask"]}, "metrics"),
        ("small-retinanet", {"metrics": ["box", "box"]}, "twice"),
        ("small-mask-rcnn-fpn", {"metrics": ["box", "semantic"]}, "metrics"),
        ("small-retinanet", {"anchors": [[32]]}, "anchors"),
        ("small-mask-rcnn-fpn", {"anchors": [[32], [64]]}, "anchors"),
        ("small-faster-rcnn-c4", {"anchors": [[32], [64]]}, "anchors"),
        ("small-faster-rcnn-c4", {"arch": "resnet19"}, "arch"),
        ("small-retinanet", {"iterations": 0}, "schedule.iterations must be at least 1"),
        ("small-retinanet", {"epochs": 3}, "iterations and warmup must be 0"),
        ("small-retinanet", {"classifier": {"level": "res4"}}, "a classifier belongs to"),
        ("small-knn", {"freeze": "none"}, "knn needs freeze backbone"),
        ("small-knn", {"neighbours": []}, "neighbours"),
        ("small-knn", {"neighbours": [5, 5]}, "twice"),
        ("small-knn", {"level": "res6"}, "level"),
        ("small-knn", {"crop": 200}, r"resize.crop must be from 1 to resize.test \(110\), got 200"),
        ("small-knn", {"metrics": ["box"]}, "metrics"),
        ("small-svm", {"costs": []}, "costs"),
        ("small-svm", {"costs": [0]}, "costs"),
        ("small-svm", {"folds": 1}, "folds"),
        ("small-svm", {"shots": [1, 2]}, "there must be one of classifier.costs"),
        ("small-linear", {"epochs": 0}, "schedule.epochs must be at least 1"),
        ("small-linear", {"lr": 0}, "schedule.lr must be above 0"),
    ],
)
def test_what_could_only_fail_in_the_job_is_refused(name, changes, word):
    with pytest.raises(InputError, match=word):
        config.override(PROTOCOLS[name], changes)
