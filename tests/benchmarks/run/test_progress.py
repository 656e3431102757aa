"""What a job writes of its figures while it trains."""

import json

from detco.benchmarks.run.progress import METRICS, Metrics, read_metrics


def trained(folder, start, end, total=5000, report=lambda *_, **__: None):
    metrics = Metrics(folder, report)
    for done in range(start + 1, end + 1):
        metrics("train", done, total, loss=1.0 / done, note="x")
        if done % 1000 == 0:
            metrics("evaluate", done, total, box_ap=float(done))


def test_a_thousand_points_every_evaluation_and_fifty_lines_of_log(tmp_path, capsys):
    said = []
    trained(tmp_path, 0, 5000, report=lambda *words, **figures: said.append(words))
    assert len(said) == 5005  # the view sees every report
    lines = read_metrics(tmp_path / METRICS)
    points = [line for line in lines if line["stage"] == "train"]
    assert [line["iteration"] for line in points] == list(range(5, 5001, 5))
    assert points[1] == {"stage": "train", "iteration": 10, "loss": 0.1}
    evaluated = [line for line in lines if line["stage"] == "evaluate"]
    assert [line["box_ap"] for line in evaluated] == [1000.0, 2000.0, 3000.0, 4000.0, 5000.0]
    log = capsys.readouterr().out.splitlines()
    assert len(log) == 50 + 5 and log[0] == "train 100/5000: loss 0.01"


def test_a_resumed_run_repeats_no_point(tmp_path):
    trained(tmp_path, 0, 2600)
    whole = (tmp_path / METRICS).read_text()
    (tmp_path / METRICS).write_text(whole + '{"stage": "tra')  # killed while it wrote
    trained(tmp_path, 2000, 5000)
    resumed = (tmp_path / METRICS).read_text()
    (tmp_path / "other").mkdir()
    trained(tmp_path / "other", 0, 5000)
    assert resumed == (tmp_path / "other" / METRICS).read_text()


def test_a_link_is_not_followed(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("keep\n")
    (tmp_path / METRICS).symlink_to(mine)
    trained(tmp_path, 0, 10, total=10)
    assert mine.read_text() == "keep\n" and not (tmp_path / METRICS).is_symlink()
    assert len((tmp_path / METRICS).read_text().splitlines()) == 10
    assert json.loads((tmp_path / METRICS).read_text().splitlines()[0])["iteration"] == 1
