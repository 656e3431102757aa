"""The engine `detectron2` with pictures that break: replaced alike after a restart and in every
process, counted over all."""

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from detco.common.errors import InputError
from detco.transfer.engines import EngineJob, Launch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
from detectron2.utils import comm

from detco.transfer.engines.detectron2 import data, engine
from detco.transfer.engines.detectron2 import launch as detectron2_launch
from detco.transfer.engines.detectron2 import records as detectron2_records
from detco.transfer.engines.detectron2 import train as detectron2_train
from tests.factories.detectors import job_for, shortened


@pytest.fixture
def coco(scenes, tmp_path):
    shutil.copytree(scenes / "coco", tmp_path / "coco")
    return tmp_path / "coco"


ROW = shortened("small-retinanet", iterations=5)


def truncate(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:-200])


def drawn(job: EngineJob, monkeypatch, out: Path) -> list[list[str]]:
    """The files of the training pictures in the order in which each process takes them."""
    records = detectron2_records.write(job.train, out / "records.json")
    files, processes = [], job.launch.processes
    with monkeypatch.context() as patch:
        patch.setattr(comm, "get_world_size", lambda: processes)
        for rank in range(processes):
            patch.setattr(comm, "get_rank", lambda rank=rank: rank)
            batches = data.GroupedBatches(records.tall, 2 // processes, job.seed)
            batches = islice(batches, job.protocol.schedule.iterations)
            files.append(
                [records[number]["file_name"] for batch in batches for number, _, _ in batch]
            )
    return files


class Stopped(Exception):
    pass


def run(job: EngineJob, stop: int = 0) -> tuple[dict, object]:
    """Losses by iteration and the outcome; stopped after iteration `stop`, its checkpoint not
    written yet."""
    losses = {}

    def report(stage, done, total, **figures):
        if stage == "train":
            losses[done] = figures["loss"]
            if done == stop:
                raise Stopped

    try:
        return losses, engine.run(replace(job), report)  # it lets go of the job's pictures
    except Stopped:
        return losses, None


def test_it_is_the_same_in_loading_processes_and_after_a_restart(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(detectron2_train, "CHECKPOINT_SECONDS", -1)
    job = job_for(ROW, coco, tmp_path / "whole")
    (files,) = drawn(job, monkeypatch, tmp_path)
    order = list(dict.fromkeys(files))
    victims = order[1], order[6]
    for path in victims:
        truncate(path)
    losses, outcome = run(job)
    facts = outcome.facts["replaced"]
    assert (facts["pictures"], facts["first"].split(": ")[0]) == (
        2,
        f"cannot read the picture {victims[0]}",
    )
    assert facts["draws"] >= sum(file in victims for file in files) >= 2
    assert "2 training pictures could not be read and were replaced by others" in outcome.deviations
    again = replace(job, out=tmp_path / "again")
    again.out.mkdir()
    monkeypatch.setattr(engine, "loading_processes", lambda job: 2)
    first, none = run(again, stop=3)
    rest, outcome_again = run(again)
    assert none is None and sorted(first) == [1, 2, 3] and sorted(rest) == [3, 4, 5]
    assert first | rest == losses and outcome_again.facts["replaced"] == facts
    assert outcome_again.predictions.read_text() == outcome.predictions.read_text()


def test_processes_count_together(coco, tmp_path, monkeypatch):
    job = job_for(ROW, coco, tmp_path / "out", launch=Launch(num_gpus=2))
    files = drawn(job, monkeypatch, tmp_path)
    assert not set(files[0]) & set(files[1])
    victims = files[0][0], files[1][1]
    for path in victims:
        truncate(path)
    facts = engine.run(job, lambda *_, **__: None).facts["replaced"]
    assert facts["pictures"] == 2 and facts["draws"] >= 2 and victims[0] in facts["first"]


def test_too_many_in_all_processes_end_the_run(coco, tmp_path, monkeypatch):
    """Fewer in each than are allowed."""
    job = job_for(ROW, coco, tmp_path / "out", launch=Launch(num_gpus=2))
    files = drawn(job, monkeypatch, tmp_path)
    for path in (*files[0][:4], *files[1][:4]):
        truncate(path)
    with pytest.raises(InputError) as error:
        engine.run(job, lambda *_, **__: None)
    text = str(error.value)
    assert (
        "of 30 training pictures cannot be read, up to 5 are replaced; the first: cannot read the"
        " picture" in text
    )
    assert (
        int(text.split()[0]) in (6, 7, 8)
        and "\n" not in text
        and not (job.out / "predictions.json").exists()
    )


def test_a_test_picture_that_breaks_ends_the_job(coco, tmp_path, monkeypatch):
    job = job_for(ROW, coco, tmp_path / "out")
    path = job.test.images[7]["file_name"]

    def report(stage, done, total, **figures):
        if (stage, done) == ("train", total):
            truncate(path)

    with pytest.raises(
        InputError,
        match=(
            rf"^cannot read the picture {path}: .*; a test picture cannot be replaced: bring it"
            r" back"
        ),
    ):
        engine.run(job, report)


def test_a_mistake_of_a_user_in_any_process_is_one_line():
    text = (
        "Caught Unreadable in DataLoader worker\nTraceback\n"
        "detco.transfer.data.inspection.Unreadable: cannot read x.jpg: cut"
    )
    assert str(detectron2_launch.explained(InputError(text), "")) == "cannot read x.jpg: cut"
