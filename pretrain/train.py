"""The pretraining loop, from a folder of pictures to a backbone file: one process, several, or several machines."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from pretrain import InputError, checkpoints, images, views
from pretrain.detco import DetCo
from pretrain.loader import SHUFFLE, Batches, Views, generator, loader
from pretrain.moco import MoCo
from pretrain.recipes import Recipe, recipe_hash
from pretrain.supervised import Supervised

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what happened and at which iteration."""


@dataclass(frozen=True)
class Process:
    """This process among all that train together."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


def pretrain(recipe: Recipe, images: Path, out: Path, seed: int = 0, device: str = "auto",
             report: Callable | None = None) -> Path:
    """Train on the pictures under ``images`` and return ``out/backbone.safetensors``.

    Goes on from the checkpoints in ``out`` if the run was interrupted, and returns at once if it has finished. Under
    torchrun, all processes call this with the same arguments. ``report(stage, done, total, **figures)`` is called at
    every step. Raises InputError for what the user gave, TrainingError when the loss is not finite.
    """
    if seed < 0:
        raise InputError(f"the seed is {seed}; it must not be negative")
    with _join(device) as process:
        return Run(recipe, Path(images), Path(out), seed, process, report if process.first else None).go()


@contextmanager
def _join(device: str):
    """Join the other processes if torchrun started several; on GPUs through NCCL, else through gloo."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
        torch.backends.cudnn.benchmark = True
    if world == 1 or dist.is_initialized():
        yield Process(place, dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Process(place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Process(place, dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


class Run:
    """One pretraining run: its pictures, model, optimiser and files."""

    def __init__(self, recipe: Recipe, pictures: Path, out: Path, seed: int, process: Process, report: Callable | None):
        self.recipe, self.out, self.seed, self.process, self.report = recipe, out, seed, process, report
        self.pictures = images.find(pictures)
        self.file = out / "backbone.safetensors"
        self.identity = {"recipe_hash": recipe_hash(recipe), "seed": str(seed), "pictures": self.pictures.fingerprint}
        self.precision = precision(recipe, process.device)

    def go(self) -> Path:
        if self._finished():
            return self.file
        self.out.mkdir(parents=True, exist_ok=True)
        state = checkpoints.load(self.out)
        if state:
            self._same(state["identity"])
        self._read_pictures()
        self._build()
        start = self._restore(state) if state else 0
        self._train(start)
        if self.process.first:
            self._export()
            checkpoints.clear(self.out)
        if self.process.world > 1:
            dist.barrier()
        return self.file

    def _finished(self) -> bool:
        if not self.file.exists():
            return False
        with safe_open(self.file, "pt") as file:
            self._same(file.metadata() or {})
        return True

    def _same(self, other: dict[str, str]) -> None:
        names = {"recipe_hash": "recipe", "seed": "seed", "pictures": "pictures"}
        differ = [names[key] for key, value in self.identity.items() if other.get(key) != value]
        if differ:
            what = " and ".join(differ)
            raise InputError(f"{self.out} holds a run with another {what}; use another --out, or remove it")

    def _read_pictures(self) -> None:
        """Decode every picture once, leave out the bad ones."""
        self.data = Views(self.pictures, self.recipe, self.seed)
        bad = images.check(self.pictures, self.data.read, torch.get_num_threads(), self.report)
        images.tell(self.pictures, bad, self.out / "bad_pictures.txt")
        self.data.use(self.pictures.without(bad))
        if len(self.data.pictures) < self.recipe.batch:
            raise InputError(f"{self.pictures.root}: {len(self.data.pictures)} pictures are fewer than a batch "
                             f"({self.recipe.batch}); give more pictures or --set batch={len(self.data.pictures)}")
        if self.recipe.method == "supervised" and (len(self.data.pictures.classes) < 2 or -1 in self.data.labels):
            raise InputError(f"{self.pictures.root}: supervised pretraining needs a folder of pictures for each class")

    def _build(self) -> None:
        r, process = self.recipe, self.process
        groups = max(1, r.groups // process.world)
        if r.batch % process.world or (r.batch // process.world) % groups or (r.groups % process.world and groups > 1):
            raise InputError(f"batch {r.batch} in {r.groups} groups cannot be shared by {process.world} processes")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model = _model(r, groups, len(self.data.pictures.classes))
        self.model.to(process.device, memory_format=torch.channels_last)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = optimizer(r, trained)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.precision == "fp16")
        self.filling = math.ceil(r.queue / r.batch) if r.fill_queue else 0
        self.batches = Batches(len(self.data.pictures), r, self.seed, 0, process.rank, process.world)

    def _restore(self, state: dict) -> int:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        return state["iteration"]

    def _checkpoint(self, iteration: int) -> None:
        state = {"identity": self.identity, "iteration": iteration, "model": self.model.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        checkpoints.save(self.out, iteration, state, self.recipe.keep)

    def _train(self, start: int) -> None:
        r, process = self.recipe, self.process
        self.batches.start = start
        total, per_epoch = self.batches.total, self.batches.per_epoch
        model = self._distributed()
        curves = _curves(self.out / "tb", start) if process.first else None
        saved = clock = time.monotonic()
        data = loader(self.data, self.batches, pin_memory=process.device.type == "cuda")
        for iteration, batch in enumerate(data, start):
            lr = learning_rate(r, iteration / per_epoch)
            figures = self._step(model, batch, iteration, lr)
            done, now = iteration + 1, time.monotonic()
            figures |= {"lr": lr, "pictures_per_second": r.batch / (now - clock)}
            clock = now
            if curves and (done % 10 == 0 or done == total):
                for name, value in figures.items():
                    curves.add_scalar(name, value, done)
            if self.report:
                self.report("pretrain", done, total, **_headline(figures))
            if process.first and done < total and (done % per_epoch == 0 or now - saved > 60 * r.checkpoint_minutes):
                self._checkpoint(done)
                saved = clock = time.monotonic()
        if curves:
            curves.close()

    def _distributed(self) -> nn.Module:
        if self.process.world == 1:
            return self.model
        ids = [self.process.device.index] if self.process.device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers`")  # its successor is missing before torch 2.15
            # Each process keeps its own running statistics; those of the first are saved.
            return nn.parallel.DistributedDataParallel(self.model, device_ids=ids, broadcast_buffers=False)

    def _step(self, model: nn.Module, batch: dict, iteration: int, lr: float) -> dict[str, float]:
        """One iteration; returns its figures, the means over all processes. The keys enter the queues at the end."""
        device = self.process.device
        ready = views.finish(batch, self.recipe, device)
        order = generator(SHUFFLE, self.seed, iteration).permutation(self.recipe.batch)
        trains = iteration >= self.filling
        with autocast(self.precision, device), torch.set_grad_enabled(trains):
            output = model(ready, torch.from_numpy(order).to(device))
        names = ["loss", *output["figures"]]
        values = torch.stack([output["loss"].detach(), *output["figures"].values()])
        if self.process.world > 1:
            dist.all_reduce(values)
            values /= self.process.world
        figures = dict(zip(names, values.tolist(), strict=True))
        wrong = [name for name, value in figures.items() if not math.isfinite(value)]
        if wrong:
            raise TrainingError(f"{', '.join(wrong)} not finite at iteration {iteration} (lr {lr:.4g}); "
                                "a smaller lr, a longer warmup_epochs or precision=float32 may help")
        if trains:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            update(self.optimizer, self.scaler, output["loss"])
        self.model.enqueue(output["keys"])
        return figures

    def _export(self) -> None:
        """Write the backbone file: torchvision names, float32, its own preprocessing."""
        r = self.recipe
        tensors = {name: value.float().contiguous().cpu() for name, value in self.model.trunk.state_dict().items()
                   if not name.endswith("num_batches_tracked")}
        metadata = {
            "format": "detco-backbone", "format_version": "1", "method": r.method, "arch": r.arch,
            "epochs": str(r.epochs), "images_seen": str(self.batches.total * r.batch), "channel_order": "RGB",
            "mean": json.dumps(views.MEAN), "std": json.dumps(views.STD), "stride_in": "3x3",
            "source": f"recipe {r.name} on {len(self.data.pictures)} pictures", "source_sha256": "",
            "recipe": json.dumps(asdict(r)), "assumed": json.dumps(r.assumed), "precision": self.precision,
            **self.identity}
        temporary = self.file.with_name(self.file.name + ".tmp")
        temporary.write_bytes(_safetensors(tensors, metadata))
        os.replace(temporary, self.file)


def _safetensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The file's bytes with its metadata in sorted order: the library's order is random, and so would the sha256 be."""
    data = save(tensors, metadata)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _model(recipe: Recipe, groups: int, classes: int) -> nn.Module:
    if recipe.method == "supervised":
        return Supervised(recipe, groups, classes)
    return (DetCo if recipe.method == "detco" else MoCo)(recipe, groups)


def optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimiser."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(parameters, recipe.lr, recipe.sgd_momentum, weight_decay=recipe.weight_decay, fused=True)


def precision(recipe: Recipe, device: torch.device) -> str:
    """What the recipe's precision means on this device: "auto" takes bf16 where it is fast, else fp16 on GPUs."""
    if recipe.precision != "auto":
        return recipe.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    fast = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return "bf16" if device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in fast) else "float32"


def autocast(precision: str, device: torch.device):
    """A context in which the forward pass runs in this precision."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, DTYPES[precision])


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, loss: torch.Tensor) -> None:
    """Backward pass and one step of the optimiser."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Learning rate at ``epoch`` (a fraction counts): linear in the batch, warmed up, then cosine or in steps."""
    peak = recipe.lr * recipe.batch / recipe.lr_batch
    if epoch < recipe.warmup_epochs:
        return peak * (epoch + 1e-3) / recipe.warmup_epochs
    if recipe.schedule == "step":
        return peak * 0.1 ** sum(int(epoch) >= m for m in recipe.milestones)
    progress = (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def _headline(figures: dict[str, float]) -> dict[str, float]:
    """The few figures for the progress line: the mean accuracy and the least spread of the features show a collapse."""
    accuracy = [value for name, value in figures.items() if name.startswith("accuracy/")]
    spread = [value for name, value in figures.items() if name.startswith("std")]
    return {"loss": figures["loss"], "accuracy": sum(accuracy) / len(accuracy), "std": min(spread),
            "lr": figures["lr"], "pictures_per_second": figures["pictures_per_second"]}


def _curves(folder: Path, start: int):
    from torch.utils.tensorboard import SummaryWriter  # takes a second; only the first process needs it

    return SummaryWriter(str(folder), purge_step=start)
