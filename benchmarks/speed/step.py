"""Training steps a second and peak memory: DetCo written straight from the paper, and ours, on the
same views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detco.common.errors import InputError
from detco.common.progress import Report
from detco.pretrain import optimize
from detco.pretrain.methods.detco import DetCo
from detco.pretrain.methods.encoder import Trunk
from detco.pretrain.recipes import RECIPES, Recipe

from .. import config, speed
from .baseline_step import UsualDetCo

USUAL, SAME, OURS, BARE = "usual, float32", "ours, float32", "ours", "bare passes"
Step = Callable[[], object]


@dataclass(frozen=True)
class StepSpeed:
    """Milliseconds a step (and, on a GPU, GiB at the peak) of each way, and the ratios that the
    project aims at."""

    title: str
    milliseconds: dict[str, speed.Spread]
    gib: dict[str, float]
    faster: speed.Spread
    faster_same_precision: speed.Spread
    of_bare: speed.Spread

    def __str__(self) -> str:
        width = max(map(len, self.milliseconds))
        lines = [self.title, f"{'':{width}}  ms a step{'  GiB at the peak' * bool(self.gib)}"]
        for name, spread in self.milliseconds.items():
            memory = f"  {self.gib[name]:15.2f}" if self.gib else ""
            lines.append(f"{name:{width}}  {spread.median:9.1f}{memory}")
        lines += [
            f"usual / ours: {self.faster} times",
            f"usual / ours, both float32: {self.faster_same_precision} times",
            f"speed of ours in that of the bare forward and backward passes: {self.of_bare}",
        ]
        if self.gib:
            lines.append(
                f"peak memory of ours in that of the usual: {self.gib[OURS] / self.gib[USUAL]:.2f}"
            )
        return "\n".join(lines)


def measure(
    device: str = "auto",
    recipe: str | None = None,
    batch: int | None = None,
    repeats: int = 5,
    report: Report | None = None,
) -> StepSpeed:
    """Time steps of the ways in turn: forward, loss, backward, update, momentum, queues,
    on random views.

    Batch normalisation: the usual one over the whole batch, ours in the recipe's groups. "bare
    passes" are our trunk's alone, in our precision: forward and backward for the query views,
    forward for the key views. Raises InputError.
    """
    place = speed.resolve(device)
    torch.backends.cudnn.benchmark = True
    name = recipe or ("detco-200ep" if place.type == "cuda" else "detco-small")
    row = config.find(RECIPES, name, "recipe")
    if not row.traits.local_views or len(row.levels) != 4 or len(row.terms) != 3:
        raise InputError(
            f"recipe {name}: the step is compared for DetCo with four levels and three terms"
        )
    if batch is None:
        batch = row.batch
    if repeats < 1 or batch < 1:
        raise InputError("--batch and --repeats must be at least 1")
    row = replace(row, batch=batch)
    try:
        ways, gib = _ways(row, place)
        seconds = speed.alternate(ways, repeats, speed.device_clock(place), report)
    except torch.OutOfMemoryError:
        raise InputError(
            f"a batch of {row.batch} does not fit on this GPU in all the ways; try --batch"
            f" {row.batch // 2}"
        ) from None
    title = (
        f"a step of {row.name}: {row.arch}, batch {row.batch}, views of {row.view_size} and 9 x"
        f" {row.patch_size}, {row.queue} keys; ours: {optimize.precision(row, place)},"
        f" channels_last; {speed.machine(place)}"
    )
    each = {way: speed.Spread.of([1000 * s for s in values]) for way, values in seconds.items()}
    ratios = [speed.ratio(seconds, *pair) for pair in ((USUAL, OURS), (USUAL, SAME), (BARE, OURS))]
    return StepSpeed(title, each, gib, *ratios)


def _ways(recipe: Recipe, place: torch.device) -> tuple[dict[str, Step], dict[str, float]]:
    """The steps, each run once already, and on a GPU the peak of each in GiB, its weights, queues
    and views included."""
    low = optimize.precision(recipe, place)
    makers = {
        USUAL: lambda: _usual(recipe, place),
        SAME: lambda: _ours(replace(recipe, precision="float32"), place),
        OURS: lambda: _ours(replace(recipe, precision=low), place),
        BARE: lambda: _bare(recipe, low, place),
    }
    ways, gib = {}, {}
    for name, make in makers.items():
        before = torch.cuda.memory_allocated(place) if place.type == "cuda" else 0
        ways[name] = make()
        ways[name]()
        if place.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place)
            ways[name]()
            gib[name] = (torch.cuda.max_memory_allocated(place) - before) / 2**30
    return ways, gib


def _views(recipe: Recipe, place: torch.device, layout: torch.memory_format) -> dict[str, Tensor]:
    torch.manual_seed(0)
    n, v, p = recipe.batch, recipe.view_size, recipe.patch_size
    batch = {f"global_{role}": torch.randn(n, 3, v, v, device=place) for role in ("query", "key")}
    batch |= {
        f"local_{role}": torch.randn(n * 9, 3, p, p, device=place) for role in ("query", "key")
    }
    batch = {name: x.contiguous(memory_format=layout) for name, x in batch.items()}
    return {
        name: x.unflatten(0, (n, 9)) if name.startswith("local") else x for name, x in batch.items()
    }


def _usual(recipe: Recipe, place: torch.device) -> Step:
    model, batch = UsualDetCo(recipe).to(place), _views(recipe, place, torch.contiguous_format)
    kind, more = (
        (torch.optim.AdamW, {})
        if recipe.optimizer == "adamw"
        else (torch.optim.SGD, {"momentum": recipe.sgd_momentum})
    )
    optimizer = kind(model.query.parameters(), recipe.lr, weight_decay=recipe.weight_decay, **more)

    def step() -> None:
        loss, keys = model(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.enqueue(keys)
        loss.item()

    return step


def _ours(recipe: Recipe, place: torch.device) -> Step:
    model = DetCo(recipe, recipe.groups).to(place, memory_format=torch.channels_last)
    batch, order = (
        _views(recipe, place, torch.channels_last),
        torch.randperm(recipe.batch).to(place),
    )
    optimizer = optimize.optimizer(recipe, model.query.parameters())
    scaler = torch.amp.GradScaler(place.type, enabled=recipe.precision == "fp16")

    def step() -> None:
        with optimize.autocast(recipe.precision, place):
            output = model(batch, order)
        optimize.update(optimizer, scaler, output["loss"])
        model.enqueue(output["keys"])
        output["loss"].item()

    return step


def _bare(recipe: Recipe, precision: str, place: torch.device) -> Step:
    trunk = Trunk(recipe.arch).to(place, memory_format=torch.channels_last)
    batch = {
        name: x.flatten(0, 1) if x.dim() == 5 else x
        for name, x in _views(recipe, place, torch.channels_last).items()
    }

    def step() -> None:
        with optimize.autocast(precision, place):
            loss = sum(
                f.float().mean()
                for kind in ("global", "local")
                for f in trunk(batch[f"{kind}_query"])
            )
            with torch.no_grad():
                for kind in ("global", "local"):
                    trunk(batch[f"{kind}_key"])
        trunk.zero_grad(set_to_none=True)
        loss.backward()
        loss.item()

    return step
