"""`detco pretrain`: its messages, and its processes under torchrun."""

import json
import shutil

import pytest

from detco.benchmarks import config
from detco.benchmarks.cli import main as cli
from detco.benchmarks.run import worker
from detco.benchmarks.scenes import draw as scenes
from detco.common.errors import InputError
from detco.common.values import canonical_hash
from detco.pretrain import train
from detco.pretrain.data import listing
from detco.pretrain.recipes import Recipe, recipe_hash
from detco.results import store

SETTINGS = ("--set", "epochs=1", "--set", "batch=4", "--set", "queue=4", "--device", "cpu")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return scenes.draw(
        tmp_path_factory.mktemp("drawn"), images=4, size=64, unlabelled=8, classification=16
    )


def test_assumed_settings_probe_and_text_file(drawn, tmp_path, capfd):
    (tmp_path / "list.txt").write_text(
        "".join(f"{path}\n" for path in (drawn / "unlabelled").iterdir())
    )
    words = [
        "pretrain",
        "moco-v2-small",
        "--images",
        str(tmp_path / "list.txt"),
        "--out",
        str(tmp_path / "out"),
        *SETTINGS,
    ]
    assert cli.main([*words, "--probe", str(drawn / "classification")]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("assumed") and "batch=4" in lines[0] and "lr=" in lines[0]
    knn = json.loads((tmp_path / "out" / "knn.json").read_text())
    assert lines[-1].endswith(f": {knn['1']:.1f}% (before training: {knn['0']:.1f}%)")
    record = store.read_json(tmp_path / "out" / "record.json")
    assert record["status"] == "done" and record["facts"]["knn_percent"] == knn
    # of a finished run: not the other's accuracy
    assert cli.main([*words, "--probe", str(drawn / "unlabelled")]) == 0
    assert (
        capfd.readouterr()
        .out.splitlines()[-1]
        .startswith(f"no accuracy on {drawn / 'unlabelled'}: the run had finished")
    )


def test_what_is_trained_on_is_said_and_recorded(drawn, tmp_path, capfd):
    """Classes of supervised pretraining, and files that are passed over."""
    photos = tmp_path / "photos"
    shutil.copytree(drawn / "classification", photos)
    (photos / "notes.heic").write_bytes(b"x")
    classes = sorted(path.name for path in photos.iterdir() if path.is_dir())
    words = ["pretrain", "supervised-small", "--images", str(photos), "--out", str(tmp_path / "a")]
    assert cli.main([*words, "--set", "epochs=1", "--set", "batch=4", "--device", "cpu"]) == 0
    said = capfd.readouterr()
    assert f"{len(classes)} classes: {', '.join(classes)[:20]}" in said.out
    assert "1 file: 1 .heic" in said.err
    record = store.read_json(tmp_path / "a" / "record.json")
    assert record["facts"]["classes"] == classes
    assert any("1 file: 1 .heic" in text for text in record["warnings"])
    shutil.move(photos, tmp_path / "level" / "train")
    shutil.copytree(tmp_path / "level" / "train", tmp_path / "level" / "val")
    words[3], words[5] = str(tmp_path / "level"), str(tmp_path / "b")
    assert cli.main(words) == 2
    assert "splits, not classes" in capfd.readouterr().err and not (tmp_path / "b").exists()


def test_a_finished_run_is_of_these_images_and_not_of_others_like_them(drawn, tmp_path, capfd):
    """The same names and sizes with another pixel in one: not served, also not where the record is
    of a version that did not read the images."""
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(drawn / "unlabelled", images)
    words = ["pretrain", "moco-v2-small", "--images", str(images), "--out", str(out), *SETTINGS]
    assert cli.main(words) == 0 and "done before" not in capfd.readouterr().out
    assert cli.main(words) == 0
    assert "done before, nothing trained" in capfd.readouterr().out
    path = sorted(images.iterdir())[0]
    before = listing.find(images)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    assert listing.find(images).fingerprint == before.fingerprint
    assert cli.main(words) == 2
    assert "holds another run" in capfd.readouterr().err
    with pytest.raises(InputError, match="another set of images"):
        train.pretrain(recipe_of(out), images, out, device="cpu")
    data[-20] ^= 1
    path.write_bytes(data)
    assert cli.main(words) == 0
    older = store.read_json(out / "spec.json") | {"images_identity": before.fingerprint}
    determines = {"recipe": recipe_hash(recipe_of(out)), "images": before.fingerprint, "seed": 0}
    older["id"] = canonical_hash({"kind": "pretrain", **determines})
    store.write_json(out / "spec.json", older)
    capfd.readouterr()
    assert cli.main(words) == 2 and "by name and size only" in capfd.readouterr().err


def recipe_of(out):
    spec = store.read_json(out / "spec.json")
    return config.build(Recipe, spec["recipe"], "recipe")


def test_other_processes_of_torchrun_work_in_silence(drawn, tmp_path, monkeypatch, capfd):
    """They leave spec and record to the first, do not begin what is done, and let it say
    what is wrong."""
    monkeypatch.setenv("RANK", "1")
    asked = []
    monkeypatch.setattr(
        worker,
        "run_pretrain",
        lambda spec, folder, report: asked.append((spec["recipe"]["name"], folder)),
    )
    words = [
        "pretrain",
        "moco-v2-small",
        "--images",
        str(drawn / "unlabelled"),
        "--out",
        str(tmp_path / "out"),
        *SETTINGS,
    ]
    assert cli.main(words) == 0
    assert asked == [("moco-v2-small", tmp_path / "out")] and not (tmp_path / "out").exists()

    def wrong(*_):
        raise InputError("too few")

    monkeypatch.setattr(worker, "run_pretrain", wrong)
    assert cli.main(words) == 2
    store.write_json(tmp_path / "out" / "record.json", {"status": "done"})
    assert cli.main(words) == 0
    streams = capfd.readouterr()
    assert streams.out == "" and streams.err == ""
