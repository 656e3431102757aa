"""Training curves: the values read back equal those reported, also after an interruption."""

import numpy as np
import pytest

from detco.benchmarks.run import progress
from detco.results.report import curves


def test_reported_figures_are_read_back(tmp_path):
    seen = []
    report = progress.Curves(
        tmp_path / "tb", lambda *words, **figures: seen.append((words, figures))
    )
    report("starting", 0, 0)
    for step in range(1, 51):
        report("train", step, 50, loss=100 / step, lr=1e-3 * step, note="text")
    report("predict", 1, 10)
    report.close()
    assert len(seen) == 52 and seen[1] == (
        ("train", 1, 50),
        {"loss": 100.0, "lr": 1e-3, "note": "text"},
    )
    found = curves.read(tmp_path / "tb")
    assert set(found) == {"loss", "lr"} and [step for step, _ in found["loss"]] == list(
        range(1, 51)
    )
    assert [value for _, value in found["loss"]] == pytest.approx(
        [100 / step for step in range(1, 51)], rel=1e-6
    )


def test_an_interrupted_run_takes_back_what_it_did_twice(tmp_path):
    for first, last, value in ((1, 30, 1.0), (21, 40, 2.0)):
        report = progress.Curves(tmp_path, lambda *_, **__: None)
        for step in range(first, last + 1):
            report("train", step, 40, loss=value)
        report.close()
    expected = [(step, 1.0 if step <= 20 else 2.0) for step in range(1, 41)]
    assert curves.read(tmp_path)["loss"] == expected


def test_a_long_run_writes_few_points_and_the_last(tmp_path):
    report = progress.Curves(tmp_path, lambda *_, **__: None)
    for step in range(1, 4502):
        report("train", step, 4501, loss=float(step))
    report.close()
    steps = [step for step, _ in curves.read(tmp_path)["loss"]]
    assert len(steps) <= progress.CURVE_POINTS + 1 and steps[-1] == 4501 and steps[0] == 5


def test_evaluations_on_the_way_have_tags_of_their_own_and_are_not_repeated(tmp_path):
    """Of a long run with few points: each evaluation is written; what is done again after a kill
    counts once."""
    for first, last in ((1, 2600), (1501, 4600)):
        report = progress.Curves(tmp_path, lambda *_, **__: None)
        for step in range(first, last + 1):
            report("train", step, 4600, loss=float(step))
            if step % 1000 == 0:
                report("predict", 1, 1)
                report(
                    "evaluate",
                    step,
                    4600,
                    box_ap=step / 100 + first / 10_000,
                    **{"box_ap/dog": 1.0},
                )
        report.close()
    found = curves.read(tmp_path)
    assert set(found) == {"loss", "eval/box_ap", "eval/box_ap/dog"}
    expected = [
        (step, step / 100 + (1 if step == 1000 else 1501) / 10_000)
        for step in (1000, 2000, 3000, 4000)
    ]
    assert [step for step, _ in found["eval/box_ap"]] == [step for step, _ in expected]
    assert [value for _, value in found["eval/box_ap"]] == pytest.approx(
        [value for _, value in expected], rel=1e-6
    )
    steps = [step for step, _ in found["loss"]]
    assert steps == list(range(5, 4601, 5)) and all(value == step for step, value in found["loss"])


def test_no_figures_no_files(tmp_path):
    report = progress.Curves(tmp_path / "tb", lambda *_, **__: None)
    report("predict", 3, 3)
    report.close()
    assert not (tmp_path / "tb").exists() and curves.read(tmp_path / "tb") == {}


def test_smoothing_keeps_the_mean_of_equal_shares():
    values = np.random.default_rng(0).normal(size=600)
    points = [(step, value) for step, value in enumerate(values)]
    found = curves.smooth(points, 200)
    assert np.array(found) == pytest.approx(np.array(points).reshape(200, 3, 2).mean(1))
    assert (
        curves.smooth(points[:7], 200) == points[:7]
        and len(curves.smooth(points[:401], 200)) <= 200
    )
