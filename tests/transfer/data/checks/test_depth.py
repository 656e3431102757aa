"""Labelled images of more than 8 bits: one range for training, testing and the kept detector."""

import json

import numpy as np
import pytest
from PIL import Image

from detco.benchmarks.cli import main as cli
from detco.common.errors import InputError
from detco.results import store
from detco.results.report import examples
from detco.transfer import detections, detector, finetune
from detco.transfer.backbones import attention
from detco.transfer.protocols import PROTOCOLS
from tests.factories.deep import deepened
from tests.factories.detectors import tiny, trained

ROW = PROTOCOLS["small-retinanet"]


def shown(path, value_range):
    """An image as it should be seen, (height, width), in plain NumPy."""
    low, high = value_range
    values = np.asarray(Image.open(path)).astype(float)
    return np.floor(np.clip((values - low) / (high - low) * 255, 0, 255) + 0.5).astype(np.uint8)


def prepared(root):
    return finetune.prepare(ROW, {"layout": "coco", "root": str(root)})


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_the_range_is_that_of_the_training_images(kind, scenes, tmp_path):
    root = deepened(scenes / "coco", tmp_path / "set", 4095, kind)
    train, test = prepared(root)
    values = [np.asarray(Image.open(image["file_name"])).ravel() for image in train.images]
    wanted = np.percentile(np.concatenate(values).astype(float), (0.1, 99.9))
    np.testing.assert_allclose(train.value_range, wanted, rtol=0.02)  # every few pixels count
    assert test.value_range == train.value_range
    assert test.facts["deep"] == len(test.images)


def test_a_run_says_it_and_the_identity_holds_it(scenes, tmp_path, capsys):
    root = deepened(scenes / "coco", tmp_path / "set", 4095)
    words = ["transfer", ROW.name, "--weights", "random", "--data", str(root), "--engine", "replay"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    record = store.read_json(next((tmp_path / "out").rglob("record.json")))
    train, test = prepared(root)
    assert record["data"]["test"]["value_range"] == list(train.value_range)
    assert any("become 0 to 255" in text for text in record["deviations"])
    low, high = train.value_range
    others = [one.facts | {"value_range": (low, high + 1)} for one in (train, test)]
    moved = [type(train)(**{**vars(train), "facts": facts}) for facts in others]
    assert finetune.identity_of(*moved) != finetune.identity_of(train, test)
    capsys.readouterr()
    assert cli.main(["data", "check", "coco", str(root)]) == 0
    assert f"values from {low:.6g} to {high:.6g} become 0 to 255" in capsys.readouterr().out


def test_ordinary_data_keep_pixels_and_identity(scenes, tmp_path):
    for root in (scenes / "coco", deepened(scenes / "coco", tmp_path / "set", 255 * 257)):
        train, test = prepared(root)
        assert train.value_range is None and "value_range" not in test.facts
        parts = [train.fingerprint, test.fingerprint, train.content, test.content]
        assert finetune.identity_of(train, test) == finetune.canonical_hash(parts)


def test_test_images_of_other_values_are_refused(scenes, tmp_path):
    root = deepened(scenes / "coco", tmp_path / "set", 4095)
    other = deepened(scenes / "coco", tmp_path / "other", 65535)
    (_, test), (_, wide) = prepared(root), prepared(other)
    for image, source in zip(test.images, wide.images, strict=True):
        with Image.open(source["file_name"]) as opened:
            values = np.asarray(opened).astype(np.uint32).clip(5000, 65535).astype(np.uint16)
        Image.fromarray(values).save(image["file_name"], "PNG")
    with pytest.raises(InputError, match=r"10 of 10 .* without contrast by the range"):
        prepared(root)


def test_the_kept_detector_and_all_drawings_see_the_same(scenes, tmp_path):
    root = deepened(scenes / "coco", tmp_path / "set", 4095)
    data = {"layout": "coco", "root": str(root)}
    row, out = tiny(ROW.name, iterations=1), tmp_path / "out"
    finetune.finetune(row, "random", data, out, "torchvision", device="cpu", keep_model="final")
    kept = detector.read(out)
    _, test = prepared(root)
    assert kept.value_range == test.value_range
    image = test.images[0]
    wanted = np.repeat(shown(image["file_name"], kept.value_range)[..., None], 3, 2)
    ((picture, _),) = detections.detect(kept, [image["file_name"]])
    assert np.array_equal(np.asarray(picture.pixels), wanted)
    drawn = examples._opened(image["file_name"], kept.value_range)
    assert np.array_equal(np.asarray(drawn), wanted)
    assert np.array_equal(np.asarray(attention.read(image["file_name"], kept.value_range)), wanted)


def test_predicting_images_that_lose_nearly_everything_is_said(scenes, tmp_path, caplog):
    root = deepened(scenes / "coco", tmp_path / "set", 4095)
    path = next(root.rglob("*.jpg"))
    list(detections._opened([path, path], trained(), None))
    assert caplog.text.count("8 bits keep 1") == 1


@pytest.mark.parametrize("pair", ["[3, 1]", "[1]", '"x"', "[0, 1e999]", "[true, null]"])
def test_a_damaged_range_in_a_detector_file_is_refused(pair, tmp_path):
    metadata = {"data": '{"train": {"value_range": ' + pair + "}}"}
    with pytest.raises(InputError, match="metadata data is damaged"):
        detector._data(tmp_path / "x", metadata)
    assert json.loads(metadata["data"])
