"""Rows of the protocol table are frozen: a change needs a new version (and then a new hash here)."""

from dataclasses import replace

from transfer.protocols import PROTOCOLS, departures, protocol_hash

FROZEN = {
    "small-faster-rcnn-c4": (1, "b31c72e87571c981"),
    "small-faster-rcnn-fpn": (1, "2a6c7b766e6b70f1"),
    "small-mask-rcnn-c4": (1, "a06dbc8ad9e1de63"),
    "small-mask-rcnn-fpn": (1, "b03bd8ff78eeed7c"),
    "small-retinanet": (1, "c0244a2169531bcd"),
    "small-keypoint-rcnn": (1, "2d5a737504c31598"),
    "coco-mask-rcnn-c4-12k": (1, "7dd80c07129bd925"),
    "coco-mask-rcnn-c4-90k": (1, "12d80c9e140c9777"),
    "coco-mask-rcnn-c4-180k": (1, "2a5a7c48964e26a7"),
    "coco-mask-rcnn-fpn-12k": (1, "2752406990003079"),
    "coco-mask-rcnn-fpn-90k": (1, "89bfb7750ad114b2"),
    "coco-mask-rcnn-fpn-180k": (1, "bc3f67e2256ecf48"),
    "coco-retinanet-12k": (1, "10e4da0b470ec2de"),
    "coco-retinanet-90k": (1, "aa2702128878d277"),
    "coco-retinanet-180k": (1, "98e6067ac0ea9322"),
    "coco-keypoint-rcnn-180k": (1, "cde5f7fb3e379931"),
    "voc-faster-rcnn-c4-24k": (1, "fc8fc0af65b5728f"),
    "cityscapes-instance": (1, "a3cee81f9955b43e"),
    "cityscapes-semantic": (1, "6669e7c4801ebe06"),
    "coco-1pct-mask-rcnn-fpn": (1, "030d1b44dcb0ec46"),
    "coco-2pct-mask-rcnn-fpn": (1, "0c4064dd30f5ee7a"),
    "coco-5pct-mask-rcnn-fpn": (1, "db3c55ce7b6e7550"),
    "coco-10pct-mask-rcnn-fpn": (1, "c8f0339a6e0f266a"),
    "coco-1pct-retinanet": (1, "e65fd2cfedeb3f9f"),
    "coco-2pct-retinanet": (1, "f7123cd711c2df4c"),
    "coco-5pct-retinanet": (1, "788350e354bff21a"),
    "coco-10pct-retinanet": (1, "59e3a9820d2a6486"),
}


def test_rows_are_frozen():
    assert {name: (row.version, protocol_hash(row)) for name, row in PROTOCOLS.items()} == FROZEN


def test_names_are_unique_and_rows_complete():
    from transfer import protocols

    assert len(PROTOCOLS) == len(protocols.ROWS)
    for row in PROTOCOLS.values():
        assert row.source and row.metrics and row.schedule.iterations > row.schedule.warmup
        assert row.schedule.decay == "cosine" or row.schedule.steps


def test_any_change_changes_the_hash_and_is_named():
    row = PROTOCOLS["small-retinanet"]
    changed = replace(row, schedule=replace(row.schedule, iterations=7), detector=replace(row.detector, retina_prior=0.1))
    assert protocol_hash(changed) != protocol_hash(row)
    assert departures(row) == ()
    assert departures(changed) == (
        f"schedule.iterations 7 (row: {row.schedule.iterations})",
        "detector.retina_prior 0.1 (row: 0.05)",
    )
