"""The engine `detectron2` really run: every architecture, restarts, processes, and ends that say
why."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detco.common import backbone_file
from detco.common.errors import InputError, TrainingError
from detco.transfer import detector, finetune
from detco.transfer.data import dataset
from detco.transfer.engines import EngineJob, Launch
from detco.transfer.engines.detectron2 import version
from detco.transfer.engines.torchvision import engine as torchvision_rcnn
from detco.transfer.protocols import PROTOCOLS, Schedule

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
from detco.transfer.engines.detectron2 import config as detectron2_config
from detco.transfer.engines.detectron2 import engine as detectron2_rcnn
from detco.transfer.engines.detectron2 import launch as detectron2_launch
from detco.transfer.engines.detectron2 import models
from detco.transfer.engines.detectron2 import train as detectron2_train


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """At 64 px a second thread mostly waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SGD = Schedule(3, 2, 1e-3, steps=(2,), warmup=2, precise_bn=2)


def tiny(name: str, **changes):
    """A row at 64 px for a few iterations, with its own optimizer."""
    row = PROTOCOLS[name]
    small = replace(
        row.schedule,
        iterations=3,
        images=2,
        warmup=1,
        steps=(2,),
        precise_bn=min(2, row.schedule.precise_bn),
    )
    crop = 65 if row.resize.crop else 0
    resize = replace(row.resize, train=(64,), train_max=128, test=64, test_max=128, crop=crop)
    arch = "resnet50" if row.architecture == "fcn-16s" else "resnet18"
    return replace(row, schedule=replace(small, **changes), resize=resize, arch=arch)


def run(row, scenes: Path, layout: str, out: Path, **more) -> dict:
    data = {"layout": layout, "root": scenes / layout}
    return finetune.finetune(row, "random", data, out, "detectron2", device="cpu", **more)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("small-faster-rcnn-c4", "voc"),
        ("small-faster-rcnn-fpn", "voc"),
        ("small-mask-rcnn-c4", "coco"),
        ("small-mask-rcnn-fpn", "coco"),
        ("small-retinanet", "voc"),
        ("small-keypoint-rcnn", "coco"),
        ("voc-faster-rcnn-c4-24k", "voc"),
        ("cityscapes-instance", "cityscapes"),
        ("cityscapes-semantic", "cityscapes"),
    ],
)
def test_every_architecture_trains_and_is_scored(name, layout, scenes, tmp_path):
    row, seen = tiny(name), []
    result = run(
        row,
        scenes,
        layout,
        tmp_path,
        report=lambda stage, done, total, **figures: seen.append((stage, done, total)),
    )
    assert [done for stage, done, _ in seen if stage == "train"] == [1, 2, 3] and (
        "predict",
        10,
        10,
    ) in seen
    assert (("precise BN", 0, 2) in seen) == bool(row.schedule.precise_bn)
    wanted = {"semantic": "miou"} | {
        metric: f"{metric}_ap" for metric in ("box", "mask", "keypoint")
    }
    assert {wanted[metric] for metric in row.metrics} <= result["metrics"].keys()
    assert result["facts"]["norm"] == "BN" and result["engine"] == "detectron2"
    assert result["facts"]["detectron2"]["hash"] == version.identify().hash
    assert result["facts"].get("mask_format") == (
        "bitmask" if "mask" in row.metrics else None
    )  # the scenes' masks are RLE
    check_predictions(
        json.loads((tmp_path / "predictions.json").read_text()), row, scenes / layout, layout
    )
    assert not list(tmp_path.rglob("*.pth")) and (tmp_path / "detectron2" / "config.yaml").exists()


def check_predictions(predictions: list[dict], row, root: Path, layout: str) -> None:
    test = dataset.load(
        layout, root, {"voc": "test"}.get(layout, "val"), semantic="semantic" in row.metrics
    )
    sizes = {image["id"]: image for image in test.images}
    assert predictions or row.architecture == "retinanet"
    for found in predictions:
        image = sizes[found["image_id"]]
        if "bbox" in found:
            x, y, w, h = found["bbox"]
            assert (
                x >= 0
                and y >= 0
                and x + w <= image["width"] + 1e-3
                and y + h <= image["height"] + 1e-3
            )
        if {"mask", "semantic"} & set(row.metrics):
            assert found["segmentation"]["size"] == [image["height"], image["width"]]


def test_schedule_and_evaluations_on_the_way(scenes, tmp_path):
    """The rate of every iteration is the torchvision engine's; metrics of iteration 2 are in
    Detectron2's own log."""
    row, rates = (
        replace(tiny("voc-faster-rcnn-c4-24k"), schedule=replace(SGD, iterations=4, steps=(3,))),
        [],
    )

    def report(stage, done, total, **figures):
        rates.extend([figures["lr"]] if "lr" in figures else [])

    result = run(row, scenes, "voc", tmp_path, report=report, launch=Launch(eval_period=2))
    assert rates == pytest.approx(
        [row.schedule.lr * torchvision_rcnn.lr_factor(row.schedule, i) for i in range(4)]
    )
    lines = [
        json.loads(line)
        for line in (tmp_path / "detectron2" / "metrics.json").read_text().splitlines()
    ]
    assert any("box_ap50" in line for line in lines)
    (on_the_way,) = result["facts"]["evaluations"]  # the last is the result
    assert on_the_way["iteration"] == 2 and set(on_the_way["metrics"]) <= set(result["metrics"])
    assert "box_ap50" in on_the_way["metrics"]


def test_cosine_is_that_of_the_torchvision_engine():
    row = PROTOCOLS["small-retinanet"]
    cfg = detectron2_config.resolve(
        row, backbone_file.Backbone("resnet18", {}), detectron2_config.RunConfig(device="cpu")
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    scheduler, found = detectron2_train.Trainer.build_lr_scheduler(cfg, optimizer), []
    for _ in range(row.schedule.iterations):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [
        row.schedule.lr * torchvision_rcnn.lr_factor(row.schedule, i)
        for i in range(row.schedule.iterations)
    ]
    assert found == pytest.approx(expected, abs=0.01 * row.schedule.lr)


def test_optimizer_decays_what_the_torchvision_engine_decays():
    row, backbone = PROTOCOLS["small-retinanet"], backbone_file.random_backbone("resnet18", 0)
    cfg = detectron2_config.resolve(
        row, backbone, detectron2_config.RunConfig(device="cpu", processes=1)
    )
    model = models.build(cfg, backbone)
    optimizer = detectron2_train.Trainer.build_optimizer(cfg, model)
    plain = {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    assert plain == {id(p) for m in norms for p in m.parameters()}
    assert isinstance(optimizer, torch.optim.AdamW) and {
        g["weight_decay"] for g in optimizer.param_groups
    } == {0.0, 0.05}


@pytest.mark.parametrize("scale", [1.0, 512.0])
def test_every_step_clips_the_gradients_of_all_tensors_together(scale):
    """Also those that a scaler for half precision has made larger: they are clipped at their own
    size."""
    layer = nn.Linear(3, 2)
    before = [p.detach().clone() for p in layer.parameters()]
    layer.weight.grad, layer.bias.grad = (
        torch.full((2, 3), 3.0 * scale),
        torch.full((2,), 4.0 * scale),
    )
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    detectron2_train.clip_before_steps(optimizer, list(layer.parameters()), 1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
    scaler.scale(torch.zeros(()))  # a scaler learns its scale at the first loss
    scaler.step(optimizer)
    norm = (6 * 9 + 2 * 16) ** 0.5
    moved = [old - new for old, new in zip(before, layer.parameters(), strict=True)]
    assert torch.allclose(moved[0], torch.full((2, 3), 3 / norm)) and torch.allclose(
        moved[1], torch.full((2,), 4 / norm)
    )


def test_small_rows_clip_in_the_engine(scenes, tmp_path, monkeypatch):
    """The optimizer that really trains has it: once a step, with the row's norm over all parameters
    that are trained."""
    seen, clip = [], nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        nn.utils, "clip_grad_norm_", lambda p, most: seen.append((len(p), most)) or clip(p, most)
    )
    run(tiny("small-retinanet"), scenes, "voc", tmp_path)
    assert len(seen) == 3 and {most for _, most in seen} == {
        PROTOCOLS["small-retinanet"].schedule.clip
    }
    job = job_for(scenes, tmp_path / "again")
    model = models.build(detectron2_rcnn.config(job, "bitmask"), job.backbone)
    assert {count for count, _ in seen} == {len(list(model.parameters()))}


def test_a_loss_that_is_not_finite_ends_the_job_and_says_where(scenes, tmp_path):
    row = tiny("small-retinanet", lr=1e30, clip=0.0, warmup=0)
    with pytest.raises(
        TrainingError, match=r"loss not finite at iteration [12]: .*(nan|inf).*; lower schedule.lr"
    ):
        run(row, scenes, "coco", tmp_path)
    assert not (tmp_path / "predictions.json").exists()


RUN = """
import sys, torch
from pathlib import Path
from detco.transfer.engines import Launch
from detco.transfer.engines.detectron2 import engine, train
from tests.transfer.engines.detectron2.test_engine import job_for
torch.set_num_threads(1)
train.CHECKPOINT_SECONDS = 0
engine.loading_processes = lambda job: int(sys.argv[4])
job = job_for(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], launch=Launch(eval_period=2))
outcome = engine.run(job, lambda *a, **k: print(*a[:2], flush=True))
(Path(sys.argv[2]) / "evaluations.json").write_text(str(outcome.facts["evaluations"]))
"""


def job_for(scenes: Path, out: Path, name: str = "small-retinanet", **more) -> EngineJob:
    train, test = (dataset.load("coco", scenes / "coco", split) for split in ("train", "val"))
    return EngineJob(
        tiny(name, iterations=6, precise_bn=2),
        backbone_file.random_backbone("resnet18", 0),
        train,
        test,
        4,
        out,
        **more,
    )


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("small-retinanet", 2),
        ("small-faster-rcnn-fpn", 0),
    ],  # a running normaliser; drawn anchors and RoIs
)
def test_killed_training_goes_on_to_the_same_predictions(name, workers, scenes, tmp_path):
    """With and without loading processes; evaluations of before the kill are kept."""

    def start(out, workers):
        out.mkdir(exist_ok=True)
        command = [sys.executable, "-W", "ignore", "-c", RUN, scenes, out, name, str(workers)]
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
    assert resumed and resumed[0] in (
        "train 4",
        "train 5",
    )  # iterations before the checkpoint are not repeated
    assert sum(line.startswith("train") for line in whole.communicate()[0].splitlines()) == 6
    for file in ("predictions.json", "evaluations.json"):
        expected = (tmp_path / "whole" / file).read_text()
        assert len(expected) > 2 and (tmp_path / "killed" / file).read_text() == expected
    assert [path.name for path in (tmp_path / "killed").rglob("records*")] == []


@pytest.mark.parametrize("name", ["small-faster-rcnn-c4", "small-mask-rcnn-fpn", "small-retinanet"])
def test_half_precision_trains_and_is_said(name, scenes, tmp_path):
    """bf16 on a CPU: the first loss is that of float32 but for rounding, and the row says what it
    ran."""
    losses = {}
    for amp in ("", "bf16"):
        found = losses[amp] = []

        def report(stage, done, total, found=found, **figures):
            found.extend([figures["loss"]] if stage == "train" else [])

        layout = "coco" if "mask" in name else "voc"
        result = run(
            tiny(name),
            scenes,
            layout,
            tmp_path / (amp or "float32"),
            report=report,
            launch=Launch(amp=amp),
        )
    assert result["facts"]["precision"] == "bfloat16"
    assert "automatic mixed precision (bfloat16)" in result["deviations"]
    assert (
        losses["bf16"][0] == pytest.approx(losses[""][0], rel=0.05) and losses["bf16"] != losses[""]
    )


def test_two_processes_train_one_detector(scenes, tmp_path):
    stages = []
    row = replace(tiny("voc-faster-rcnn-c4-24k"), schedule=SGD)
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
    assert ("train", 3) in stages and (
        "predict",
        10,
    ) in stages  # told by the first process, reported in this one
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
        run(tiny("small-retinanet"), scenes, "coco", tmp_path)
    assert not list(tmp_path.rglob("records*"))


def die(job: EngineJob, report) -> None:
    """Stands in for the work of a process: the second one is killed, as when memory runs out."""
    from detectron2.utils import comm

    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)


def test_a_process_that_dies_ends_the_others(scenes, tmp_path):
    with pytest.raises(TrainingError, match=r"process 1 of the training ended: .*SIGKILL"):
        detectron2_launch.start(die, job_for(scenes, tmp_path, launch=Launch(num_gpus=2)), print)


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
        run(tiny("small-retinanet"), scenes, "voc", tmp_path, launch=launch)


def test_other_engines_refuse_what_they_lack(scenes, tmp_path):
    data = {"layout": "cityscapes", "root": scenes / "cityscapes"}
    with pytest.raises(InputError, match="cityscapes-semantic needs the engine detectron2"):
        finetune.finetune(tiny("cityscapes-semantic"), "random", data, tmp_path, "torchvision")
    with pytest.raises(
        InputError, match="--num-gpus, --amp: only the engine detectron2 has this, not replay"
    ):
        finetune.finetune(
            tiny("small-retinanet"),
            "random",
            data,
            tmp_path,
            "replay",
            launch=Launch(num_gpus=2, amp="fp16"),
        )


def test_a_batch_below_the_published_devices_is_a_deviation(scenes):
    job = job_for(scenes, Path("x"))
    row = PROTOCOLS["coco-retinanet-90k"]
    lone = replace(job, protocol=replace(row, schedule=replace(row.schedule, images=1)))
    assert detectron2_rcnn.deviations(lone) == ("BN over 1 image (row: 2 a device)",)
    assert detectron2_rcnn.deviations(replace(job, protocol=row)) == ()


def test_both_engines_learn_the_same_small_job_within_their_noise(scenes, tmp_path):
    """60 iterations, tested on the 30 training scenes, three seeds each: means apart by less than
    their spread allows."""
    row = PROTOCOLS["small-faster-rcnn-fpn"]
    row = replace(
        row,
        schedule=replace(row.schedule, iterations=60, warmup=5),
        resize=replace(row.resize, train=(64,), test=64),
    )
    data = {"layout": "coco", "root": scenes / "coco", "train": "train", "test": "train"}
    found = {}
    for engine in ("detectron2", "torchvision"):
        runs = [
            finetune.finetune(
                row, "random", data, tmp_path / f"{engine}{seed}", engine, seed, "cpu"
            )["metrics"]["box_ap50"]
            for seed in range(3)
        ]
        found[engine] = np.mean(runs), np.std(runs, ddof=1)
    (ours, spread), (theirs, other) = found["detectron2"], found["torchvision"]
    assert ours > 3 and theirs > 3
    assert abs(ours - theirs) < 3 * np.hypot(max(spread, 2), max(other, 2)) / 3**0.5


@pytest.mark.parametrize(
    ("values", "kept"), [((10.0, 30.0, 20.0), 2), ((10.0, 20.0, 30.0), 3), ((5.0, 5.0, 5.0), 1)]
)
def test_the_best_detector_of_all_evaluations_is_kept(values, kept, scenes, tmp_path, monkeypatch):
    """By the row's main metric; the last evaluation is that of the result. Its weights are those of
    that iteration."""
    scores, weights_then = iter(values), {}

    def scored(self, found):
        done = min(self.iter + 1, self.max_iter)
        weights_then[done] = float(self.model.state_dict()["head.cls_score.weight"].double().sum())
        return {"box_ap": next(scores), "box_ap50": 1.0}

    monkeypatch.setattr(detectron2_train.Trainer, "scored", scored)
    run(
        tiny("small-retinanet"),
        scenes,
        "coco",
        tmp_path,
        launch=Launch(eval_period=1),
        keep_model="best",
    )
    found = detector.read(tmp_path)
    assert (found.kept, found.iteration) == ("best", kept) and len(set(weights_then.values())) == 3
    assert float(found.tensors["head.cls_score.weight"].double().sum()) == weights_then[kept]
