"""The optimizer of the engine `detectron2`: rates, decay, clipping, evaluations on the way."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from detco.common import backbone_file
from detco.transfer.engines import Launch
from detco.transfer.engines.torchvision import engine as torchvision_rcnn
from detco.transfer.protocols import PROTOCOLS
from tests.factories.detectors import SGD, fine_tune, job_for, shortened

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
from detco.transfer.engines.detectron2 import config as detectron2_config
from detco.transfer.engines.detectron2 import engine as detectron2_rcnn
from detco.transfer.engines.detectron2 import models
from detco.transfer.engines.detectron2 import train as detectron2_train

run = partial(fine_tune, "detectron2")


def test_schedule_and_evaluations_on_the_way(scenes, tmp_path):
    """The rate of every iteration is the torchvision engine's; metrics of iteration 2 are in
    Detectron2's own log."""
    row, rates = (
        replace(
            shortened("voc-faster-rcnn-c4-24k"), schedule=replace(SGD, iterations=4, steps=(3,))
        ),
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
    """Also those that a scaler for half precision has made larger: they are clipped at
    their own size."""
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
    run(shortened("small-retinanet"), scenes, "voc", tmp_path)
    assert len(seen) == 3 and {most for _, most in seen} == {
        PROTOCOLS["small-retinanet"].schedule.clip
    }
    job = job_for(shortened("small-retinanet"), scenes / "coco", tmp_path / "again")
    model = models.build(detectron2_rcnn.config(job, "bitmask"), job.backbone)
    assert {count for count, _ in seen} == {len(list(model.parameters()))}
