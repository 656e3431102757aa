"""`detco track` and `--track`: what arrives in Weights & Biases and MLflow, without a network."""

import importlib.util
import json

import pytest

from detco.benchmarks.cli.main import main
from detco.benchmarks.report import track
from detco.common.errors import InputError
from tests.factories.records import put, transfer_record


def needs(module):
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed"
    )


@pytest.fixture
def runs(tmp_path):
    """Two finished runs and a failed one; the first has a curve."""
    folder = tmp_path / "runs"
    for seed, status in enumerate(("done", "done", "failed")):
        record = transfer_record("random", "c4", seed, 30.0 + seed, status=status)
        record["id"] = str(seed) * 64
        record["spec"] |= {"title": f"run {seed}", "seed": seed}
        if status == "failed":
            record["error"] = "on purpose"
        put(folder / str(seed), record)
    lines = [{"stage": "train", "iteration": n, "loss": 1 / n, "lr": "nan"} for n in (10, 20)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "0" / "metrics.jsonl").write_text(text)
    return folder


@needs("wandb")
def test_wandb_offline_holds_settings_curves_and_results(runs, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["track", str(runs), "--to", "wandb"]) == 0
    assert "2 runs sent to wandb project detco" in capsys.readouterr().out
    folders = sorted((runs / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    first, second = (next(folder.glob("*.wandb")).read_bytes() for folder in folders)
    for text in (b"train/loss", b"0.05", b"data.root", b'"/data/pets"', b"box_ap/dog", b"30"):
        assert text in first, text  # the file holds texts as they are
    assert b"train/loss" not in second and b"31" in second


@needs("mlflow")
def test_mlflow_holds_settings_curves_and_results_once(runs, tmp_path, monkeypatch, capsys):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "ml").as_uri())
    try:
        for text in ("2 runs sent", "0 runs sent"):
            assert main(["track", str(runs), "--to", "mlflow"]) == 0
            assert text in capsys.readouterr().out
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("detco").experiment_id
        there = {run.info.run_name: run for run in client.search_runs([experiment])}
        assert set(there) == {"run 0", "run 1"}
        first = there["run 0"]
        assert first.data.params["data.root"] == '"/data/pets"' and first.data.params["seed"] == "0"
        assert first.data.metrics["box_ap"] == 30.0 and first.data.metrics["box_ap.dog"] == 30.0
        curve = client.get_metric_history(first.info.run_id, "train.loss")
        assert [(point.step, point.value) for point in curve] == [(10, 0.1), (20, 0.05)]
    finally:
        mlflow.set_tracking_uri(None)


def test_what_fails_on_the_way_says_how_to_go_on(runs, monkeypatch, capsys):
    def refuses(sent, folder):
        raise ConnectionError("no route to host")

    row = track.Tracker("json", "json", lambda: "nowhere", refuses)
    monkeypatch.setitem(track.TRACKERS, "wandb", row)
    assert main(["track", str(runs), "--to", "wandb"]) == 1
    said = capsys.readouterr().err
    assert "no route to host" in said and f"detco track {runs} --to wandb" in said
    assert not list(runs.rglob(track.MARK))


@pytest.mark.parametrize("command", ["run smoke", "transfer small-knn --weights random"])
def test_a_missing_package_is_said_before_the_work(command, tmp_path, monkeypatch, capsys):
    row = track.Tracker("no_such_module", "wandb", lambda: "", lambda sent, folder: None)
    monkeypatch.setitem(track.TRACKERS, "wandb", row)
    words = [*command.split(), "--out", str(tmp_path / "out"), "--track", "wandb"]
    assert main(words) == 2
    assert capsys.readouterr().err == "detco: wandb is not installed: pip install wandb\n"
    assert not (tmp_path / "out").exists()


def test_a_run_sends_its_jobs_when_it_is_done(tmp_path, drawn, monkeypatch):
    there = []
    row = track.Tracker("json", "json", lambda: "x", lambda sent, folder: there.append(sent))
    monkeypatch.setitem(track.TRACKERS, "mlflow", row)
    words = ["transfer", "small-retinanet", "--weights", "random", "--data", str(drawn / "voc")]
    words += ["--out", str(tmp_path), "--engine", "replay", "--track", "mlflow"]
    assert main(words) == 0
    (sent,) = there
    assert sent.title == "small-retinanet from random, seed 0" and "box_ap" in sent.metrics
    assert sent.settings["protocol_row.name"] == "small-retinanet" and sent.settings["seed"] == 0
    record = json.loads(next(tmp_path.rglob("record.json")).read_text())
    assert sent.id == record["id"] and sent.metrics["box_ap"] == record["metrics"]["box_ap"]


def test_places_are_apart_and_one_that_keeps_nothing_is_refused(monkeypatch):
    names = ("WANDB_MODE", "WANDB_ENTITY", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_DISABLED")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    found = [track.TRACKERS["wandb"].place()]
    for name, value in zip(names[:4], ("offline", "us", "https://x", "p"), strict=True):
        monkeypatch.setenv(name, value)
        found.append(track.TRACKERS["wandb"].place())
    assert len(set(found)) == 5 and found[-1] == "wandb project us/p at https://x (offline)"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(InputError, match="nothing would be sent"):
        track.TRACKERS["wandb"].place()
