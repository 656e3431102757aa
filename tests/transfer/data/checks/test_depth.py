"""Labelled images of more than 8 bits: what is refused before training."""

import shutil
from dataclasses import replace

import numpy as np
from PIL import Image

from detco.benchmarks.cli import main as cli
from detco.results import store
from detco.transfer.engines import ENGINES


def test_fine_tuning_refuses_them_when_it_is_planned(tmp_path, scenes, capsys, monkeypatch):
    """In --dry-run's plan too; an engine with a reader of its own takes no deep image at all."""
    shutil.copytree(scenes / "coco", tmp_path / "set")
    images = sorted((tmp_path / "set").rglob("*.png")) + sorted((tmp_path / "set").rglob("*.jpg"))

    def deepen(top):
        for path in images:
            with Image.open(path) as image:
                values = np.asarray(image.convert("L")).astype(np.uint16)
            Image.fromarray(values * (top // 255)).save(path, "PNG")

    words = ["transfer", "small-retinanet", "--weights", "random", "--data", str(tmp_path / "set")]
    words += ["--out", str(tmp_path / "out"), "--engine"]
    deepen(4095)
    assert cli.main([*words, "replay"]) == 2
    assert "nearly black" in capsys.readouterr().err
    deepen(255 * 255)
    assert cli.main([*words, "replay"]) == 0
    record = store.read_json(next((tmp_path / "out").rglob("record.json")))
    assert record["data"]["test"]["deep"] > 0
    monkeypatch.setitem(ENGINES, "replay", replace(ENGINES["replay"], reads_deep=False))
    assert cli.main([*words[:-2], str(tmp_path / "other"), "--engine", "replay"]) == 2
    assert "clip to white" in capsys.readouterr().err
