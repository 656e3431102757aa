"""Files that earlier code wrote are read as before: records, a backbone file, a detector, a suite.

`earlier/runs/record.json` is a record of the demo of commit 4c3c01f,
`earlier/backbone_header.json` the header of a backbone file as commit 61af0a2 wrote it,
`earlier/detector.safetensors` a detector file of commit 8ea2bf3, byte for byte.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detco.benchmarks import config
from detco.benchmarks.suites import files
from detco.benchmarks.suites.builtin import StartingPoint
from detco.common import backbone_file
from detco.results import grids, render, store, tables
from detco.transfer import detector
from detco.transfer.protocols import PROTOCOLS, protocol_hash
from tests.factories import ROOT

EARLIER = Path(__file__).parent / "earlier"


HASHES = {(row.name, row.version): protocol_hash(row) for row in PROTOCOLS.values()}


def test_a_record_of_earlier_code_is_read_and_fits_todays_protocol():
    """Its protocol says `optimiser`."""
    (record,), problems = store.read(EARLIER / "runs", HASHES)
    assert problems == [] and record["metrics"]["box_ap"] == pytest.approx(24.2, abs=0.05)
    assert record["spec"]["protocol_row"]["schedule"]["optimiser"] == "adamw"
    assert record["protocol_hash"] == HASHES["small-retinanet", 1]


def test_the_committed_records_fit_todays_protocols_and_give_the_readmes_table():
    records, problems = store.read(ROOT / "results" / "demo", HASHES)
    assert problems == [] and len(records) == 12
    for record in records:
        claimed = record["protocol"], record["protocol_version"]
        assert record["protocol_hash"] == HASHES[claimed]
    frame = tables.frame(records)
    chosen = [
        metric for metric in ("box_ap", "box_ap50", "mask_ap") if metric in set(frame["metric"])
    ]
    text = render.render(grids.grid(tables.ap_table(frame, metrics=chosen)), "md")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") > 10 and text in readme
    rows = [line.split(" | ") for line in readme.splitlines() if line.startswith("| supervised |")]
    values = [r["metrics"]["box_ap"] for r in records if r["starting_point"] == "supervised"]
    assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} (3)" in rows[0][1]


def test_a_backbone_file_of_earlier_code_is_read(tmp_path):
    """Its header as it was; for its weights a pattern, as 45 MB are too many to keep."""
    header = (EARLIER / "backbone_header.json").read_bytes()
    told = json.loads(header)
    metadata = told.pop("__metadata__")
    size = max(entry["data_offsets"][1] for entry in told.values())
    pattern = (np.arange(size // 4, dtype=np.uint32) % 251).astype("<f4") / 251
    path = tmp_path / "backbone.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + pattern.tobytes())
    found = backbone_file.read(path)
    assert (found.arch, found.method, found.stride_in) == ("resnet18", "moco-v2", "3x3")
    assert (found.channel_order, found.mean) == ("RGB", (123.675, 116.28, 103.53))
    assert found.std == (58.395, 57.12, 57.375)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert dict(found.metadata) == metadata and metadata["images_seen"] == "8"
    assert found.tensors.keys() == told.keys() and len(told) == 100
    for name, entry in told.items():
        first, end = (offset // 4 for offset in entry["data_offsets"])
        values = pattern[first:end].reshape(entry["shape"])
        assert np.array_equal(found.tensors[name].numpy(), values), name


def test_a_detector_file_of_earlier_code_is_read():
    """Its protocol says `optimiser`."""
    assert b"optimiser" in (EARLIER / "detector.safetensors").read_bytes()
    found = detector.read(EARLIER)
    assert found.protocol == PROTOCOLS["small-retinanet"]
    assert (found.engine, found.seed, found.iteration, found.kept) == (
        "torchvision",
        4,
        300,
        "final",
    )
    assert found.categories == ({"id": 7, "name": "cat"},)
    assert (found.backbone.method, found.backbone.sha256) == ("moco-v2", "ab" * 32)
    assert (found.backbone.channel_order, found.backbone.mean) == ("BGR", (1.0, 2.0, 3.0))
    assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {
        "a.weight": [[1.5, -2.0]],
        "count": 5,
    }


def test_a_suite_file_of_earlier_code_is_read():
    suite = files.load(str(EARLIER / "suite.yaml"))
    assert (suite.images, suite.images_by_class) == (
        Path("/path/to/my/pictures"),
        EARLIER / "by_class",
    )
    assert suite.start == (
        StartingPoint("random", random=True),
        StartingPoint("moco-v2-small", recipe="moco-v2-small"),
        StartingPoint("long", recipe="detco-small", settings={"epochs": 9}),
    )
    (task,) = suite.protocols
    row = PROTOCOLS["small-retinanet"]
    expected = replace(row, schedule=replace(row.schedule, optimizer="sgd"))
    assert config.override(row, task.settings) == expected
