import json
import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detco.pretrain.journal import Journal, probed
from detco.pretrain.recipes import RECIPES, replace

FIGURES = {
    "loss": 8.0,
    "loss/global-global/res5": 8.0,
    "accuracy/global-global/res5": 25.0,
    "accuracy/local-local/res5": 75.0,
    "std/global/res5": 0.2,
    "std/local/res5": 0.1,
    "lr": 0.03,
}


@pytest.fixture
def recipe():
    return replace(RECIPES["detco-small"], dim=16, batch=8)


def curve(folder, name):
    events = EventAccumulator(str(folder / "tb"))
    events.Reload()
    return [(event.step, round(event.value, 4)) for event in events.Scalars(name)]


def test_every_figure_becomes_a_curve_that_goes_on_after_an_interruption(tmp_path, recipe):
    journal = Journal(tmp_path, recipe, 0, None)
    for done in range(1, 31):
        journal.iteration(done, 45, FIGURES | {"loss": float(done)})
    journal.close()
    journal = Journal(tmp_path, recipe, 20, None)  # the checkpoint was older than the end
    for done in range(21, 46):
        journal.iteration(done, 45, FIGURES | {"loss": float(done)})
    journal.close()
    assert curve(tmp_path, "loss") == [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.0), (45, 45.0)]
    assert curve(tmp_path, "std/local/res5")[0] == (10, 0.1) and curve(
        tmp_path, "accuracy/local-local/res5"
    )[0] == (10, 75.0)


def test_progress_line_has_mean_accuracy_least_spread_and_speed(tmp_path, recipe):
    said = []
    journal = Journal(
        tmp_path,
        recipe,
        0,
        lambda stage, done, total, **figures: said.append((stage, done, total, figures)),
    )
    journal.iteration(1, 5, FIGURES)
    journal.probe(0, 0, 0.125)
    journal.iteration(2, 5, FIGURES)
    journal.close()
    (stage, done, total, line), (_, _, _, second) = said
    assert (stage, done, total) == ("pretrain", 1, 5) and list(line) == [
        "loss",
        "accuracy",
        "std",
        "pictures/s",
    ]
    assert (line["loss"], line["accuracy"], line["std"]) == (8.0, 50.0, 0.1) and line[
        "pictures/s"
    ] > 8
    assert second["knn"] == 0.125


def test_collapse_is_warned_of(tmp_path, recipe, caplog):
    journal = Journal(tmp_path, recipe, 0, None)
    with caplog.at_level(logging.WARNING, logger="detco.pretrain"):
        journal.epoch(1, FIGURES)  # evenly spread features have 0.25
        assert not caplog.records
        journal.epoch(2, FIGURES | {"std/local/res5": 0.02})
    journal.close()
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 2: the features local/res5 have collapsed: std 0.02, evenly spread ones have 0.25"
    ]


def test_probe_goes_on_after_an_interruption(tmp_path, recipe):
    journal = Journal(tmp_path, recipe, 0, None)
    journal.probe(0, 0, 0.1), journal.probe(1, 10, 0.3)
    journal.close()
    journal = Journal(tmp_path, recipe, 10, None)
    journal.probe(2, 20, 0.4)
    journal.close()
    assert json.loads((tmp_path / "knn.json").read_text()) == {"0": 0.1, "1": 0.3, "2": 0.4}
    journal = Journal(tmp_path, recipe, 0, None)  # another run from the beginning
    journal.probe(0, 0, 0.2)
    journal.close()
    assert json.loads((tmp_path / "knn.json").read_text()) == {"0": 0.2}
    assert curve(tmp_path, "knn")[-1] == (0, 0.2)


def test_a_run_that_starts_anew_or_goes_on_repeats_no_point(tmp_path, recipe):
    """The probe before training is made again where no checkpoint was there; that of the checkpoint
    itself stays."""
    for start, accuracy in ((0, 0.1), (0, 0.2), (20, 0.3)):
        journal = Journal(tmp_path, recipe, start, None)
        if start == 0:
            journal.probe(0, 0, accuracy)
        for done in range(start + 1, start + 31):
            journal.iteration(done, 60, FIGURES)
            if done % 20 == 0:
                journal.probe(done // 20, done, accuracy)
        journal.close()
    assert curve(tmp_path, "knn") == [(0, 0.2), (20, 0.2), (40, 0.3)]
    assert [step for step, _ in curve(tmp_path, "loss")] == [10, 20, 30, 40, 50]


def test_what_an_earlier_version_measured_as_shares_goes_on_in_percent(tmp_path, recipe):
    (tmp_path / "probe.json").write_text('{"0": 0.125, "1": 0.5}')
    journal = Journal(tmp_path, recipe, 10, None)
    journal.probe(2, 20, 75.0)
    journal.close()
    assert probed(tmp_path) == {"0": 12.5, "1": 50.0, "2": 75.0}
