"""Rows of the protocol table are frozen: a change needs a new version (and then a new hash here)."""

from dataclasses import replace

from transfer.protocols import PROTOCOLS, departures, protocol_hash

FROZEN = {
    "small-faster-rcnn-c4": (1, "aaf389c7e7f2efca"),
    "small-faster-rcnn-fpn": (1, "976db7892b6d6c02"),
    "small-mask-rcnn-c4": (1, "016dbd2fc4c295d0"),
    "small-mask-rcnn-fpn": (1, "db7f29f718f29711"),
    "small-retinanet": (1, "b01f6a8d02d66f51"),
    "small-keypoint-rcnn": (1, "759c8b8f28ae03ea"),
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
