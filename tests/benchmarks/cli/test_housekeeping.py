"""`detco logs` finds a job by a part of its title; `detco clean` deletes what
finished jobs no longer need."""

import threading
import time

import pytest

from detco.benchmarks.cli import housekeeping
from detco.benchmarks.cli import main as cli
from detco.benchmarks.run import slurm
from detco.common.errors import InputError
from detco.results import store
from tests.factories import jobs


def job(out, name, status="done", title=None, kind="transfer"):
    folder = out / name
    folder.mkdir(parents=True)
    spec = {
        "format": 1,
        "id": f"{name:0<8}",
        "kind": kind,
        "title": title or f"title of {name}",
        "needs": [],
    }
    store.write_json(folder / "spec.json", spec)
    if status:
        record = {
            "format": 1,
            "id": spec["id"],
            "kind": kind,
            "status": status,
            "spec": spec,
            "metrics": {},
        }
        store.write_json(folder / "record.json", record)
    return folder


@pytest.fixture
def runs(tmp_path):
    job(tmp_path, "aaaa", title="retinanet from detco, seed 0")
    job(tmp_path, "aabb", title="retinanet from detco, seed 1")
    job(tmp_path, "cccc", title="retinanet from random, seed 0")
    return tmp_path


@pytest.mark.parametrize(
    "name, folder",
    [
        ("aabb", "aabb"),
        ("aaaa0", "aaaa"),
        ("retinanet from random, seed 0", "cccc"),
        ("random", "cccc"),
        ("detco 1", "aabb"),
    ],
)
def test_a_job_is_found_by_folder_id_or_title(runs, name, folder):
    assert housekeeping.find(runs, name) == runs / folder
    assert housekeeping.find(runs, str(runs / folder)) == runs / folder


def test_what_means_several_jobs_or_none_is_said(runs):
    with pytest.raises(
        InputError,
        match=("'detco' means 2 jobs"),
    ):
        housekeeping.find(runs, "detco")
    with pytest.raises(InputError, match="no job 'moco' below"):
        housekeeping.find(runs, "moco")
    with pytest.raises(InputError, match="no folder"):
        housekeeping.find(runs / "nowhere", "detco")


def test_logs_whole_and_its_end(runs, capsys):
    (runs / "cccc" / "log.txt").write_text("one\ntwo\nthree\n")
    assert cli.main(["logs", str(runs), "random"]) == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
    assert cli.main(["logs", str(runs), "random", "--lines", "2"]) == 0
    assert capsys.readouterr().out == "two\nthree\n"
    assert (
        cli.main(["logs", str(runs), "aaaa"]) == 2
        and "has not begun yet" in capsys.readouterr().err
    )


def test_a_log_with_control_characters_is_shown_escaped(runs, capsys):
    (runs / "cccc" / "log.txt").write_bytes(b"10%\r20%\r\n\x1b[2Jred\x9b1m\n\ta\x85b\n")
    assert cli.main(["logs", str(runs), "random", "--follow"]) == 0
    told = "10%\n20%\n\\x1b[2Jred\ufffd1m\n        a\ufffdb\n"
    assert capsys.readouterr().out == told
    assert cli.main(["logs", str(runs), "random", "--lines", "2"]) == 0
    assert capsys.readouterr().out == "".join(told.splitlines(keepends=True)[-2:])


def test_a_log_is_followed_until_the_job_is_over(runs, capsys, monkeypatch):
    monkeypatch.setattr(housekeeping, "WAIT", 0.05)
    log = runs / "cccc" / "log.txt"
    log.write_text("one\n")
    lock = store.take(runs / "cccc")

    def write():
        time.sleep(0.3)
        with log.open("a") as file:
            file.write("two\n")
        store.release(lock)

    writer = threading.Thread(target=write)
    writer.start()
    assert cli.main(["logs", str(runs), "random", "--follow"]) == 0
    writer.join()
    assert capsys.readouterr().out == "one\ntwo\n"


@pytest.fixture
def full(tmp_path):
    """Jobs with files of every kind; what may go has 1000 bytes."""
    done, failed, working = (
        job(tmp_path, "done"),
        job(tmp_path, "failed", "failed"),
        job(tmp_path, "working"),
    )
    planned = job(tmp_path, "planned", None)
    for folder in (done, failed, working, planned):
        (folder / "detectron2").mkdir()
        for name in (
            "checkpoint-000000010.pt",
            "checkpoint.pt",
            "backbone.safetensors.tmp",
            "detectron2/model_0000004.pth",
            "detectron2/model_final.pth",
            "predictions.json.part",
        ):
            (folder / name).write_bytes(b"x" * 1000)
        for name in ("backbone.safetensors", "predictions.json", "log.txt"):
            (folder / name).write_bytes(b"y")
    (tmp_path / "slurm").mkdir()
    for name in ("7_1_submitted.pkl", "7_1_0_log.out", "7_10_submitted.pkl", "17_1_submitted.pkl"):
        (tmp_path / "slurm" / name).write_bytes(b"x" * 1000)
    store.write_json(done / slurm.NUMBER, {"number": "7_1", "folder": str(tmp_path / "slurm")})
    lock = store.take(working)
    yield tmp_path
    store.release(lock)


def sizes(folder):
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_clean_shows_first_and_takes_nothing_else(full, capsys):
    before = sizes(full)
    assert cli.main(["clean", str(full)]) == 0
    text = capsys.readouterr().out
    assert (
        "checkpoints of transfer jobs  5 files" in text
        and "files of Slurm jobs           2 files" in text
    )
    assert (
        f"would be freed; to delete them: detco clean {full} --yes" in text
        and sizes(full) == before
    )
    assert cli.main(["clean", str(full), "--yes"]) == 0
    gone = {
        "done/checkpoint-000000010.pt",
        "done/checkpoint.pt",
        "done/backbone.safetensors.tmp",
        "done/detectron2/model_0000004.pth",
        "done/predictions.json.part",
        "slurm/7_1_submitted.pkl",
        "slurm/7_1_0_log.out",
    }
    assert before.keys() - sizes(full).keys() == gone
    capsys.readouterr()
    assert cli.main(["clean", str(full)]) == 0 and capsys.readouterr().out.startswith(
        "nothing to delete"
    )
    assert cli.main(["clean", str(full), "--models", "--yes"]) == 0
    assert before.keys() - sizes(full).keys() == gone | {"done/detectron2/model_final.pth"}


def test_clean_lists_every_path_that_it_would_take(full, capsys):
    assert cli.main(["clean", str(full)]) == 0
    listed = capsys.readouterr().out.splitlines()
    for name in ("done/checkpoint.pt", "done/detectron2/model_0000004.pth", "slurm/7_1_0_log.out"):
        assert str(full / name) in listed


@pytest.mark.parametrize("number", ["*", "7_1", "../x", "", None, ["7"], "7_1/../.."])
@pytest.mark.parametrize("where", ["{outside}", "{out}/../outside", "{out}/link", "outside", 5])
def test_clean_takes_nothing_outside_whatever_a_job_says(full, tmp_path_factory, number, where):
    outside = tmp_path_factory.mktemp("outside")
    for name in ("7_1_submitted.pkl", "model_0000004.pth", "checkpoint.pt", "last_checkpoint"):
        (outside / name).write_bytes(b"x")
    (full / "link").symlink_to(outside)
    folder = where.format(outside=outside, out=full) if isinstance(where, str) else where
    store.write_json(full / "done" / slurm.NUMBER, {"number": number, "folder": folder})
    bad = job(full, "bad")
    (bad / "detectron2").symlink_to(outside)
    (bad / "checkpoint-1.pt").symlink_to(outside / "checkpoint.pt")
    before = sizes(outside)
    assert cli.main(["clean", str(full), "--models", "--yes"]) == 0
    assert sizes(outside) == before and len(before) == 4
    assert (full / "slurm" / "7_10_submitted.pkl").exists()
    assert not (bad / "checkpoint-1.pt").is_symlink()  # the link itself was the job's


def test_clean_leaves_folders_that_are_named_as_files(full):
    (full / "done" / "checkpoint-2.pt").mkdir()
    assert cli.main(["clean", str(full), "--yes"]) == 0
    assert (full / "done" / "checkpoint-2.pt").is_dir()


def test_status_of_finished_runs_names_what_shows_them(tmp_path, capsys, monkeypatch):
    out = tmp_path / "my runs"
    jobs.run([jobs.job(out, "a"), jobs.job(out, "b")], out)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["status", str(out)]) == 0
    said = "all done: detco table 'my runs'; as a page: detco report 'my runs'"
    assert capsys.readouterr().out.splitlines() == ["2 jobs: 2 done", said]
    job(out, "planned", status="")
    assert cli.main(["status", str(out)]) == 0
    assert "all done" not in capsys.readouterr().out
