"""Detectron2's trainer for one job: backbone and data from us, steps that a restart repeats exactly, checkpoints by the clock."""

import os
import time
import weakref

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase, hooks
from detectron2.solver import get_default_optimizer_params
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .. import scoring
from . import Job, Report
from .detectron2_data import Batches, train_loader, trainable
from .detectron2_models import build
from .detectron2_predict import predict

CHECKPOINT_SECONDS = 120


class Trainer(DefaultTrainer):
    """DefaultTrainer put together for one job.

    Not by its own __init__, which passes `device_ids` to DistributedDataParallel even without GPUs, and knows its data and
    weights by name only.
    """

    def __init__(self, cfg, job: Job, report: Report):
        TrainerBase.__init__(self)
        self.cfg, self.job, self.report = cfg, job, report
        torch.manual_seed(job.seed)  # the same new layers in every process
        model = build(cfg, job.backbone)
        optimizer = self.build_optimizer(cfg, model)
        self.records = trainable(cfg, job.train)
        self.batches = self.batches_from(0)
        loader = train_loader(cfg, self.batches, self.records)
        trainer = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer(distributed(model), loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.steps = Steps(job, report)
        if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            self._trainer.register_hooks([ClipNorm(cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)])
        self.register_hooks(self.build_hooks())

    def batches_from(self, start: int) -> Batches:
        tall = [record["height"] > record["width"] for record in self.records]
        return Batches(tall, self.cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), self.cfg.SEED, start)

    def resume_or_load(self, resume: bool = True) -> None:
        """From the last checkpoint, if there is one; the data go on where it was written."""
        super().resume_or_load(resume)
        self.batches.start = self.start_iter

    def train(self) -> None:
        self._trainer._data_loader_iter  # noqa: B018 (made here, not in the first step: it takes one draw from torch's generator)
        # RetinaNet's loss is TorchScript, which rounds otherwise once it has been called a few times: a restart would show
        with torch.jit.optimized_execution(self.cfg.MODEL.DEVICE == "cuda"):
            super().train()

    def build_hooks(self) -> list:
        cfg, main, precise = self.cfg, comm.is_main_process(), None
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            precise = PreciseBN(self)
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            self.steps,
            precise,
            Saver(cfg.SOLVER.CHECKPOINT_PERIOD) if main else None,
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self.evaluate, eval_after_train=False),
            hooks.PeriodicWriter(self.build_writers()) if main else None,
        ]

    def evaluate(self) -> dict | None:
        """Metrics of the detector as it is now, for the curves."""
        found = predict(self.model, self.cfg, self.job.test, self.report)
        if found is not None:
            protocol = self.job.protocol
            return scoring.score(self.job.test, found, protocol.scorer, protocol.metrics)

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module) -> torch.optim.Optimizer:
        """SGD as Detectron2 builds it, or AdamW over the same groups; `ClipNorm` clips."""
        if cfg.SOLVER.get("OPTIMIZER") == "ADAMW":
            groups = get_default_optimizer_params(model, weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM)
            return torch.optim.AdamW(groups, cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)
        plain = cfg.clone()
        plain.defrost()
        plain.SOLVER.CLIP_GRADIENTS.ENABLED = False
        return super().build_optimizer(plain, model)


def distributed(model: nn.Module) -> nn.Module:
    """The model for several processes, on GPUs or not; alone it stays as it is."""
    if comm.get_world_size() == 1:
        return model
    devices = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


class Checkpointer(DetectionCheckpointer):
    """Keeps the last checkpoint only; a kill at any moment leaves one that can be read."""

    def save(self, name: str, **more) -> None:
        before = self.get_checkpoint_file() if self.has_checkpoint() else ""
        super().save(name, **more)
        if before and self.save_to_disk and before != self.get_checkpoint_file():
            os.remove(before)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        part = os.path.join(self.save_dir, "last_checkpoint.part")
        with open(part, "w") as file:
            file.write(last_filename_basename)
        os.replace(part, part.removesuffix(".part"))


class Saver(hooks.HookBase):
    """Checkpoints every `period` iterations, every two minutes and at the end."""

    def __init__(self, period: int):
        self.period, self.saved = period, time.monotonic()

    def after_step(self) -> None:
        done, now = self.trainer.iter + 1, time.monotonic()
        if done == self.trainer.max_iter:
            self.trainer.checkpointer.save("model_final")
        elif done % self.period == 0 or now - self.saved > CHECKPOINT_SECONDS:
            self.trainer.checkpointer.save(f"model_{done:07d}")
            self.saved = time.monotonic()


class Steps(hooks.HookBase):
    """Reports every iteration; what a restart must not change: random draws (anchors, RoIs), RetinaNet's running normaliser,
    and the seconds spent so far."""

    def __init__(self, job: Job, report: Report):
        self.seed, self.report = job.seed * 1_000_003 + 7919 * comm.get_rank(), report
        self.began, self.before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def before_step(self) -> None:
        torch.manual_seed(self.seed + self.trainer.iter)

    def after_step(self) -> None:
        if comm.is_main_process():
            latest = self.trainer.storage.latest()
            figures = {"loss": latest["total_loss"][0], "lr": latest["lr"][0]}
            self.report("train", self.trainer.iter + 1, self.trainer.max_iter, **figures)

    def state_dict(self) -> dict:
        return {"loss_normalizer": getattr(bare(self.trainer.model), "loss_normalizer", None), "seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.before = state["seconds"]
        if state["loss_normalizer"] is not None:
            bare(self.trainer.model).loss_normalizer = state["loss_normalizer"]


def bare(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


class ClipNorm(hooks.HookBase):
    """Clips the norm over all gradients (Detectron2's own clipping takes one tensor at a time)."""

    def __init__(self, largest: float):
        self.largest = largest

    def after_backward(self) -> None:
        if isinstance(self.trainer, AMPTrainer):
            self.trainer.grad_scaler.unscale_(self.trainer.optimizer)
        nn.utils.clip_grad_norm_(self.trainer.model.parameters(), self.largest)


class Counted:
    """The batches of a loader, each reported."""

    def __init__(self, loader, total: int, report: Report):
        self.loader, self.total, self.report = loader, total, report

    def __iter__(self):
        for done, batch in enumerate(self.loader):
            if comm.is_main_process():
                self.report("precise BN", done, self.total)
            yield batch


class PreciseBN(hooks.PreciseBN):
    """Detectron2's, over the batches that follow the training's, the same at every evaluation and in every process."""

    def __init__(self, trainer: Trainer):
        test, batches = trainer.cfg.TEST, trainer.batches_from(trainer.cfg.SOLVER.MAX_ITER)
        cfg = trainer.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        loader = Counted(train_loader(cfg, batches, trainer.records), test.PRECISE_BN.NUM_ITER, trainer.report)
        super().__init__(test.EVAL_PERIOD, trainer.model, loader, test.PRECISE_BN.NUM_ITER)
        self.seed = trainer.job.seed

    def update_stats(self) -> None:
        torch.manual_seed(self.seed)
        self._data_iter = None
        super().update_stats()
        if comm.get_world_size() > 1:  # each process has weighted by its own batch sizes
            for layer in get_bn_modules(self._model):
                torch.distributed.broadcast(layer.running_mean, 0)
                torch.distributed.broadcast(layer.running_var, 0)
