"""The engine `detectron2` in processes: killed and resumed, several at once, ends that say why."""

import errno
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from detco.common.errors import InputError, TrainingError
from detco.results.report import curves
from detco.transfer import finetune
from detco.transfer.engines import EngineJob, Launch
from tests.factories.detectors import SGD, fine_tune, job_for, shortened

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
from detco.transfer.engines.detectron2 import launch as detectron2_launch
from detco.transfer.engines.detectron2 import train

run = partial(fine_tune, "detectron2")

RUN = """
import sys, torch
from pathlib import Path
from detco.transfer.engines import Launch
from tests.factories.detectors import job_for, shortened
from detco.transfer.engines.detectron2 import engine, train
torch.set_num_threads(1)
train.CHECKPOINT_SECONDS = 0
engine.loading_processes = lambda job: int(sys.argv[4])
coco, out, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
row = shortened(name, iterations=6, precise_bn=2)
job = job_for(row, coco, out, launch=Launch(eval_period=2))
outcome = engine.run(job, lambda *a, **k: print(*a[:2], flush=True))
(out / "evaluations.json").write_text(str(outcome.facts["evaluations"]))
"""
ROW = shortened("small-retinanet", iterations=6, precise_bn=2)


@pytest.mark.parametrize(
    ("name", "workers"),
    # a running normaliser; drawn anchors and RoIs
    [
        ("small-retinanet", 2),
        ("small-faster-rcnn-fpn", 0),
    ],
)
def test_killed_training_goes_on_to_the_same_predictions(name, workers, scenes, tmp_path):
    """With and without loading processes; evaluations of before the kill are kept."""

    def start(out, workers):
        out.mkdir(exist_ok=True)
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            RUN,
            scenes / "coco",
            out,
            name,
            str(workers),
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    whole, killed = start(tmp_path / "whole", 0), start(tmp_path / "killed", workers)
    for line in killed.stdout:
        if line.startswith("train 4"):
            killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "predictions.json").exists()
    resumed = [
        line
        for line in start(tmp_path / "killed", workers).communicate()[0].splitlines()
        if line.startswith("train")
    ]
    # iterations before the checkpoint are not repeated
    assert resumed and resumed[0] in (
        "train 4",
        "train 5",
    )
    assert sum(line.startswith("train") for line in whole.communicate()[0].splitlines()) == 6
    for file in ("predictions.json", "evaluations.json"):
        expected = (tmp_path / "whole" / file).read_text()
        assert len(expected) > 2 and (tmp_path / "killed" / file).read_text() == expected
    assert [path.name for path in (tmp_path / "killed").rglob("records*")] == []


def test_detectron2s_own_curves_repeat_no_point_after_a_restart(tmp_path):
    """Written every 20 iterations; killed at 70, the checkpoint was of 45."""
    from detectron2.utils.events import EventStorage

    for first, last in ((0, 70), (45, 90)):
        trainer = train.Trainer.__new__(train.Trainer)
        trainer.cfg = SimpleNamespace(OUTPUT_DIR=str(tmp_path))
        trainer.start_iter, trainer.max_iter = first, 90
        writers = train.Writers()
        writers.trainer = weakref.proxy(trainer)
        with EventStorage(first) as storage:
            writers.before_train()
            for trainer.iter in range(first, last):
                storage.iter = trainer.iter
                storage.put_scalar("total_loss", float(first))
                writers.after_step()
            for writer in writers._writers:
                writer.close()
    found = curves.read(tmp_path)["total_loss"]
    assert found == [(19, 0.0), (39, 0.0), (59, 45.0), (79, 45.0), (89, 45.0)]


def test_two_processes_train_one_detector(scenes, tmp_path):
    stages = []
    row = replace(shortened("voc-faster-rcnn-c4-24k"), schedule=SGD)
    result = run(
        row,
        scenes,
        "voc",
        tmp_path,
        report=lambda *what, **_: stages.append(what[:2]),
        launch=Launch(num_gpus=2),
    )
    assert result["facts"]["processes"] == 2 and result["facts"]["norm"] == "naiveSyncBN"
    assert "naiveSyncBN over 2 processes (SyncBN runs on GPUs only)" in result["deviations"]
    # told by the first process, reported in this one
    assert ("train", 3) in stages and (
        "predict",
        10,
    ) in stages
    assert {p["image_id"] for p in json.loads((tmp_path / "predictions.json").read_text())} == set(
        range(1, 11)
    )


def test_the_training_pictures_are_let_go_of_before_training(scenes, tmp_path, monkeypatch):
    """Nobody holds them any more when the processes start; COCO's take more than a GB."""
    held, load = [], finetune.load_data

    def remembered(*given):
        train, test = load(*given)
        held.append(weakref.ref(train))
        return train, test

    class Started(Exception):
        pass

    def start(work, job, report):
        (records,) = work.args
        assert held[0]() is None and job.train.annotations == job.train.images == ()
        assert len(records) == 30 and records[0]["annotations"]
        raise Started

    monkeypatch.setattr(finetune, "load_data", remembered)
    monkeypatch.setattr(detectron2_launch, "start", start)
    with pytest.raises(Started):
        run(shortened("small-retinanet"), scenes, "coco", tmp_path)
    assert not list(tmp_path.rglob("records*"))


def die(job: EngineJob, report) -> None:
    """Stands in for the work of a process: the second one is killed, as when memory runs out."""
    from detectron2.utils import comm

    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)


def test_a_process_that_dies_ends_the_others(scenes, tmp_path):
    with pytest.raises(TrainingError, match=r"process 1 of the training ended: .*SIGKILL"):
        detectron2_launch.start(
            die, job_for(ROW, scenes / "coco", tmp_path, launch=Launch(num_gpus=2)), print
        )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"),
            "out of GPU memory at iteration 3: lower --batch",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out of memory at iteration 3: lower --batch",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            r"loads pictures died at iteration 3: DataLoader",
        ),
        (
            FloatingPointError("Loss\nloss_dict = {'a': np.float64(nan), 'b': np.float64(1.0)}"),
            r"iteration 3: a = nan;",
        ),
        (
            InputError(
                "Caught in DataLoader worker\nTraceback\n"
                "detco.common.errors.InputError: cannot read x.jpg"
            ),
            r"^cannot read x.jpg$",
        ),
        (KeyError("x"), None),
    ],
)
def test_what_ended_a_training_is_one_line(error, words):
    told = detectron2_launch.explained(error, "at iteration 3")
    if words is None:
        assert told is None
    else:
        with pytest.raises(
            InputError if isinstance(error, InputError) else TrainingError, match=words
        ):
            raise told


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        (Launch(num_gpus=3), "2 images an iteration cannot be split over 3 processes"),
        (Launch(amp="fp16"), "--amp fp16 needs a GPU; on a CPU --amp bf16 works"),
        (Launch(amp="fp8"), "unknown precision 'fp8' for --amp; known: fp16, bf16"),
        (Launch(eval_period=-1), "--eval-period must not be negative, it is -1"),
        (Launch(num_machines=2), "several machines need --dist-url"),
        (Launch(num_machines=2, machine_rank=2), "--machine-rank from 0 to below --num-machines"),
    ],
)
def test_a_start_that_cannot_work_is_refused(launch, words, scenes, tmp_path):
    with pytest.raises(InputError, match=words):
        run(shortened("small-retinanet"), scenes, "voc", tmp_path, launch=launch)


# --- what a job goes on from: only its own checkpoints, never another file, never code -----------


class Part:
    """Stands for the trainer: what it holds is the number of the checkpoint it was read from."""

    def __init__(self):
        self.number = 0

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def checkpointer(folder: Path):
    torch.manual_seed(0)
    return train.Checkpointer(nn.Linear(2, 2), str(folder), trainer=Part())


def number_of(folder: Path):
    """The number of the checkpoint that a job goes on from, None from the start; both parts of it
    must be of one file."""
    made = checkpointer(folder)
    fresh = made.model.weight.detach().clone()
    resumed, number = made.resume(), made.checkpointables["trainer"].number
    expected = torch.full_like(fresh, number) if resumed else fresh
    assert torch.equal(made.model.weight, expected)
    return number if resumed else None


def write(path: Path, number: int, **changes):
    weights = {"weight": torch.full((2, 2), float(number)), "bias": torch.zeros(2)}
    torch.save({"model": weights, "trainer": {"number": number}} | changes, path)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "job" / "detectron2"
    folder.mkdir(parents=True)
    write(folder / "model_0000001.pth", 1)
    write(folder / "model_0000002.pth", 2)
    write(tmp_path / "model_0000009.pth", 9)  # of another job
    return folder


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("model_0000001.pth", 1),
        (None, 2),
        ("", 2),
        ("\n", 2),
        ("../../model_0000009.pth", 2),
        ("{parent}/model_0000009.pth", 2),
        ("model_0000003.pth", 2),
        ("evil.pkl", 2),
        ("model_0000007.pth", 2),
        ("\0", 2),
        (b"\xff\xfe", 2),
    ],
)
def test_only_a_checkpoint_of_its_own_folder_is_read(folder, tag, expected):
    (folder / "evil.pkl").write_bytes(pickle.dumps(Harm(folder / "ran")))
    (folder / "model_0000007.pth").symlink_to(folder.parents[1] / "model_0000009.pth")
    if isinstance(tag, str):
        tag = tag.format(parent=folder.parents[1]).encode()
    if tag is not None:
        (folder / "last_checkpoint").write_bytes(tag)
    assert number_of(folder) == expected and not (folder / "ran").exists()


def damaged(kind: str, path: Path):
    if kind == "code":
        torch.save({"model": Harm(path.parent / "ran"), "trainer": {"number": 5}}, path)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-300])
    elif kind == "another model":
        write(path, 5, model={"weight": torch.ones(3, 2), "bias": torch.ones(2)})
    elif kind == "half a state":
        write(path, 5, trainer={})
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("kind", ["code", "cut", "another model", "half a state", "empty"])
def test_one_that_cannot_be_read_gives_way_to_the_one_before_then_to_the_start(
    folder, kind, caplog
):
    caplog.set_level(logging.WARNING)
    (folder / "last_checkpoint").write_text("model_0000002.pth")
    damaged(kind, folder / "model_0000002.pth")
    assert number_of(folder) == 1
    assert "model_0000002.pth" in caplog.text and "model_0000001.pth" not in caplog.text
    damaged(kind, folder / "model_0000001.pth")
    assert number_of(folder) is None and "model_0000001.pth" in caplog.text
    assert not (folder / "ran").exists()


def test_the_last_one_alone_is_kept(folder):
    made = checkpointer(folder)
    nn.init.constant_(made.model.weight, 3.0)
    made.checkpointables["trainer"].number = 3
    made.save("model_0000003")
    assert [path.name for path in folder.glob("*.pth")] == ["model_0000003.pth"]
    assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
    assert number_of(folder) == 3 and (folder.parents[1] / "model_0000009.pth").exists()


def test_one_that_does_not_fit_on_the_disk_is_removed(folder, monkeypatch):
    """Half a file would keep a full disk full."""
    before = sorted(path.name for path in folder.iterdir())

    def full(_, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpointer(folder).save("model_0000003")
    assert sorted(path.name for path in folder.iterdir()) == before
