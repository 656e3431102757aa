"""Rows of the protocol table are frozen: a change needs a new version (and then a new hash here)."""

from dataclasses import replace

from transfer.protocols import PROTOCOLS, departures, protocol_hash

FROZEN = {
    "small-faster-rcnn-c4": (1, "40c394748ad70e5e"),
    "small-faster-rcnn-fpn": (1, "382a9d3e3f8f18c6"),
    "small-mask-rcnn-c4": (1, "a8edec2e2b9933a6"),
    "small-mask-rcnn-fpn": (1, "f488186d8882e2fa"),
    "small-retinanet": (1, "33ab65d25b8e373f"),
    "small-keypoint-rcnn": (1, "dd940c6665d2e7f6"),
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
