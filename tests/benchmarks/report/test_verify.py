"""`detco verify`: records are compared with scores computed anew from the predictions."""

import json
from functools import partial

import pytest

from detco.benchmarks.cli import main as cli
from tests.factories.detectors import replayed


@pytest.fixture
def run(scenes, tmp_path):
    """A finished run of the engine that needs no training, with its record."""
    folder = tmp_path / "runs" / "one"
    replayed("small-retinanet", scenes, folder)
    return folder


def change(folder, name, edit):
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))


def test_equal_until_a_number_or_a_prediction_is_changed(run, capsys):
    verify = partial(cli.main, ["verify", str(run.parent)])
    assert verify() == 0
    assert "equal" in capsys.readouterr().out
    claimed = json.loads((run / "record.json").read_text())["metrics"]["box_ap"]

    change(run, "record.json", lambda record: record["metrics"].update(box_ap=claimed / 2))
    assert verify() == 1
    said = capsys.readouterr().out
    assert f"box_ap {claimed / 2:.4f}, scored anew {claimed:.4f}" in said and "0 of 1 runs" in said

    change(run, "record.json", lambda record: record["metrics"].update(box_ap=claimed))
    change(run, "predictions.json", lambda found: found.clear())
    assert verify() == 1 and "scored anew 0.0000" in capsys.readouterr().out


def test_what_cannot_be_scored_is_named(run, capsys):
    (run / "predictions.json").unlink()
    assert cli.main(["verify", str(run.parent)]) == 1
    assert "cannot be scored" in capsys.readouterr().out
    (run / "record.json").write_text("{")
    assert cli.main(["verify", str(run.parent)]) == 1
    assert "left out" in capsys.readouterr().err
    assert cli.main(["verify", str(run / "nowhere")]) == 2
