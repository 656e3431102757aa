"""Detectron2's trainer for one job: backbone and data from us, steps that a restart repeats
exactly, checkpoints by the clock.

Only what the release of 2021 (v0.6) and today's main have in common is used; hooks, clipping, mixed
precision and the state of a checkpoint are our own, so that both train alike.
"""

import copy
import logging
import math
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultTrainer, SimpleTrainer, TrainerBase, hooks
from detectron2.solver import get_default_optimizer_params
from detectron2.utils import comm
from detectron2.utils.events import TensorboardXWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detco.common.errors import one_line
from detco.common.files import write_atomic
from detco.common.progress import Report
from detco.common.values import shown

from ... import detector
from ...scoring import score as scoring
from ...settings import Protocol
from .. import EngineJob, narrow
from ..networks import regroup
from ..replacing import Broken, Replaced
from .data import TrainLoader
from .launch import AMP
from .models import build
from .predict import predict
from .records import Records

CHECKPOINT_SECONDS = 120
log = logging.getLogger("detco.transfer")


class Trainer(DefaultTrainer):
    """DefaultTrainer put together for one job.

    Not by its own __init__, which passes `device_ids` to DistributedDataParallel even without GPUs,
    and knows its data and weights by name only.
    """

    def __init__(self, cfg, job: EngineJob, records: Records, report: Report):
        TrainerBase.__init__(self)
        self.cfg, self.job, self.records, self.report = cfg, job, records, report
        torch.manual_seed(job.seed)  # the same new layers in every process
        model = build(cfg, job.backbone)
        optimizer = self.build_optimizer(cfg, model)
        regroup(optimizer, model, job.protocol.schedule.layer_decay)
        self.batches = TrainLoader(cfg, records)
        self._trainer = step_trainer(distributed(model), self.batches, optimizer, job)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.steps, self.evaluation = Steps(job, report), Evaluation(cfg.TEST.EVAL_PERIOD)
        self.replacements = Replacements(
            Replaced(job.train, len(records), comm.is_main_process()), self.batches.broken
        )
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """From the last checkpoint that can be read, if there is one; the data go on where
        it was written."""
        if resume and self.checkpointer.resume():
            self.start_iter = self.iter + 1
        self.batches.start = self.start_iter

    def train(self) -> None:
        # RetinaNet's loss is TorchScript, which rounds otherwise once it has been called a few
        # times: a restart would show
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
            self.replacements,  # after what draws pictures
            self.evaluation,  # before a checkpoint, which then has its metrics
            Saver(cfg.SOLVER.CHECKPOINT_PERIOD) if main else None,
            Writers() if main else None,
        ]

    def build_writers(self) -> list:
        """Detectron2's own; its TensorBoard files take back what a killed run wrote
        beyond the checkpoint."""
        *others, _ = super().build_writers()
        return [*others, TensorboardXWriter(self.cfg.OUTPUT_DIR, purge_step=self.start_iter)]

    def evaluate(self) -> dict[str, float] | None:
        """Metrics (percent) of the detector as it is now, in the first process; None
        in the others."""
        found = predict(self.model, self.cfg, self.job.test, self.report)
        return None if found is None else self.scored(found)

    def scored(self, found: list[dict]) -> dict[str, float]:
        """Metrics (percent) of COCO results of the test pictures; those that its data leave
        undefined are left out."""
        protocol = self.job.protocol
        metrics = scoring.score(self.job.test, found, protocol.scorer, protocol.metrics)
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def state_dict(self) -> dict:
        """What a restart needs beside the model. Main keeps the optimizer and the scaler itself,
        the release of 2021 does not."""
        own = {"optimizer": self._trainer.optimizer.state_dict()}
        if isinstance(self._trainer, MixedTrainer):
            own["scaler"] = self._trainer.scaler.state_dict()
        return TrainerBase.state_dict(self) | {"_trainer": own}

    def load_state_dict(self, state: dict) -> None:
        TrainerBase.load_state_dict(self, state)
        self._trainer.optimizer.load_state_dict(state["_trainer"]["optimizer"])
        if isinstance(self._trainer, MixedTrainer):
            self._trainer.scaler.load_state_dict(state["_trainer"]["scaler"])

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module) -> torch.optim.Optimizer:
        """SGD as Detectron2 builds it, or AdamW over the same groups; with clipping, the norm over
        all gradients before each step (Detectron2's own clipping takes one tensor at a time)."""
        plain = cfg.clone()
        plain.defrost()
        plain.SOLVER.CLIP_GRADIENTS.ENABLED = False
        if cfg.SOLVER.get("OPTIMIZER") == "ADAMW":
            groups = get_default_optimizer_params(
                model, weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM
            )
            optimizer = torch.optim.AdamW(
                groups, cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY
            )
        else:
            optimizer = super().build_optimizer(plain, model)
        if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            clip_before_steps(
                optimizer, list(model.parameters()), cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
            )
        return optimizer


def clip_before_steps(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], largest: float
) -> None:
    """Clip the norm over all gradients at every step of the optimizer, where a scaler has made them
    whole again."""

    def clip(*_) -> None:
        nn.utils.clip_grad_norm_(parameters, largest)

    optimizer.register_step_pre_hook(clip)


def distributed(model: nn.Module) -> nn.Module:
    """The model for several processes, on GPUs or not; alone it stays as it is."""
    if comm.get_world_size() == 1:
        return model
    devices = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def step_trainer(
    model: nn.Module, batches: TrainLoader, optimizer: torch.optim.Optimizer, job: EngineJob
) -> SimpleTrainer:
    """Detectron2's own step in float32, `MixedTrainer` in a lower precision."""
    if job.launch.amp:
        return MixedTrainer(model, batches, optimizer, job.device, AMP[job.launch.amp])
    return SimpleTrainer(model, batches, optimizer)


class MixedTrainer(SimpleTrainer):
    """Steps under autocast. Detectron2's AMPTrainer knows bf16 in main only, and GPUs only."""

    def __init__(self, model, batches, optimizer, device: str, precision: torch.dtype):
        super().__init__(model, batches, optimizer)
        narrow.guard(model)
        self.device, self.precision = device, precision
        self.scaler = torch.amp.GradScaler(device, enabled=precision == torch.float16)

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        waited = time.perf_counter() - start
        with torch.autocast(self.device, self.precision):
            losses = self.model(data)
        self.optimizer.zero_grad()
        self.scaler.scale(sum(losses.values())).backward()
        self._write_metrics(losses, waited)
        self.scaler.step(self.optimizer)
        self.scaler.update()


class Checkpointer(DetectionCheckpointer):
    """Keeps the last checkpoint only; a kill at any moment leaves one that can be read."""

    def save(self, name: str, **more) -> None:
        try:
            super().save(name, **more)
        except Exception:  # half a file would keep a full disk full
            (Path(self.save_dir) / f"{name}.pth").unlink(missing_ok=True)
            raise
        # Behind a link of the user's the folder may hold checkpoints of others.
        own = self.save_to_disk and not Path(self.save_dir).is_symlink()
        for path in self.files() if own else ():
            if path.name != f"{name}.pth":
                path.unlink()

    def files(self) -> list[Path]:
        """The checkpoints in the job's own folder: the one that `last_checkpoint` names, then the
        latest. What else it may name, in another folder or behind a link, is none."""
        folder = Path(self.save_dir)
        named = ""
        with suppress(OSError, ValueError):
            named = (folder / "last_checkpoint").read_text().strip()
        found = [path for path in folder.glob("model_*.pth") if not path.is_symlink()]
        return sorted(found, key=lambda path: (path.name == named, path.name), reverse=True)

    def resume(self) -> bool:
        """Go on from the first of `files` that can be read and is of this job; False where
        there is none. The log says which cannot. Only tensors and plain values are read:
        nothing in a file runs."""
        start = copy.deepcopy(self._state())
        for path in self.files():
            try:
                self._restore(torch.load(path, map_location="cpu", weights_only=True))
                return True
            except Exception as error:  # a damaged file may raise anything
                self._restore(start)
                if comm.is_main_process():
                    log.warning("left out: checkpoint %s: %s", path, shown(one_line(error), 200))
        return False

    def _state(self) -> dict:
        return {"model": self.model.state_dict()} | {
            name: part.state_dict() for name, part in self.checkpointables.items()
        }

    def _restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        for name, part in self.checkpointables.items():
            part.load_state_dict(state[name])

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_atomic(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)


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


class Writers(hooks.PeriodicWriter):
    """Detectron2's, opened when it is known where training goes on."""

    def __init__(self) -> None:
        super().__init__([])

    def before_train(self) -> None:
        self._writers = self.trainer.build_writers()


class Evaluation(hooks.HookBase):
    """Scores the test pictures every `period` iterations (0: never) but the last, after which the
    job itself does.

    found: {"iteration", "metrics" (percent)} of each, also of those before a restart; in the first
    process only. Where the job keeps its best detector, `best` is the main metric of the one that
    is kept.
    """

    def __init__(self, period: int):
        self.period, self.found, self.best = period, [], -math.inf

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if not self.period or done % self.period or done == self.trainer.max_iter:
            return
        metrics = self.trainer.evaluate()
        if metrics is not None:
            self.found.append({"iteration": done, "metrics": metrics})
            self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
            self.trainer.report("evaluate", done, self.trainer.max_iter, **metrics)
            self.keep(done, metrics)
        comm.synchronize()  # the others waited for the first one's scoring

    def keep(self, done: int, metrics: dict[str, float]) -> None:
        """The detector as it is, if the job keeps the best and none before was better."""
        job = self.trainer.job
        value = metrics.get(main_metric(job.protocol), -math.inf)
        if job.keep_model == "best" and value > self.best:
            self.best = value
            detector.save(job, "detectron2", self.trainer.checkpointer.model.state_dict(), done)

    def state_dict(self) -> dict:
        return {"found": self.found, "best": self.best}

    def load_state_dict(self, state: dict) -> None:
        self.found, self.best = list(state["found"]), state["best"]


def main_metric(protocol: Protocol) -> str:
    """The metric that the best of several evaluations is chosen by: the row's first."""
    first = protocol.metrics[0]
    return "miou" if first == "semantic" else f"{first}_ap"


class Replacements(hooks.HookBase):
    """Counts the pictures that could not be read in any process. Every process has the count: they
    end together, and after a restart each takes it from the checkpoint."""

    def __init__(self, replaced: Replaced, broken: list[Broken]):
        self.replaced, self.broken = replaced, broken

    def after_step(self) -> None:
        found = comm.all_gather(list(self.broken))
        self.broken.clear()
        for share in found:
            self.replaced.add(share)

    def state_dict(self) -> dict:
        return self.replaced.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.replaced.load_state_dict(state)


class Steps(hooks.HookBase):
    """Reports every iteration; what a restart must not change: random draws (anchors, RoIs),
    RetinaNet's running normaliser, and the seconds spent so far."""

    def __init__(self, job: EngineJob, report: Report):
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
            rates = [group["lr"] for group in self.trainer.optimizer.param_groups]
            rate = latest["lr"][0] if len(set(rates)) == 1 else max(rates)
            figures = {"loss": latest["total_loss"][0], "lr": rate}
            self.report("train", self.trainer.iter + 1, self.trainer.max_iter, **figures)

    def state_dict(self) -> dict:
        return {
            "loss_normalizer": getattr(bare(self.trainer.model), "loss_normalizer", None),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict) -> None:
        self.before = state["seconds"]
        if state["loss_normalizer"] is not None:
            bare(self.trainer.model).loss_normalizer = state["loss_normalizer"]


def bare(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


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
    """Detectron2's, over the batches that follow the training's, the same at every evaluation and
    in every process."""

    def __init__(self, trainer: Trainer):
        test = trainer.cfg.TEST
        cfg = trainer.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        batches = TrainLoader(cfg, trainer.records, cfg.SOLVER.MAX_ITER, trainer.batches.broken)
        loader = Counted(batches, test.PRECISE_BN.NUM_ITER, trainer.report)
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
