"""Pretraining recipes: one flat row per method, size and schedule, with the source
of its settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from detco.common.errors import InputError
from detco.common.settings import check

from .methods import METHODS, Method

# Ranges: every way to make a recipe checks them.
Count = Annotated[int, Ge(1)]
Amount = Annotated[int, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]

LEVELS = ("res2", "res3", "res4", "res5")
TERMS = ("global-global", "local-local", "global-local")

# Settings that change how a run goes but not what it gives; they stay out of the hash.
RUNNING = ("channels_last", "workers", "cache_gb", "checkpoint_minutes", "keep")


@dataclass(frozen=True)
class Recipe:
    """One pretraining run, all but its pictures and seed.

    Sizes are pixels, probabilities 0..1, ``lr`` is for ``lr_batch`` pictures and scales linearly
    with ``batch``. ``groups`` counts the groups of batch normalisation over all processes.
    ``assumed`` names the settings that the papers do not give. Raises InputError if settings
    contradict each other.
    """

    name: str
    method: str
    source: str
    assumed: tuple[str, ...] = ()
    # network and loss
    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    levels: tuple[str, ...] = ("res5",)
    level_weights: tuple[NotNegative, ...] = (1.0,)
    terms: tuple[str, ...] = ("global-global",)
    head: Literal["mlp", "linear"] = "mlp"  # mlp: Linear-ReLU-Linear; linear: one Linear
    hidden: Positive = 1.0  # width of the hidden layer of a head, in channels C_i of its level
    dim: Count = 128
    queue: Count = 65536
    # the first iterations do not train, they replace the random keys that the queues start with
    fill_queue: bool = False
    temperature: Positive = 0.2
    key_momentum: Share = 0.999
    groups: Count = 8
    # optimisation
    optimizer: Literal["sgd", "adamw"] = "sgd"
    epochs: Count = 200
    batch: Count = 256
    lr: Positive = 0.03
    lr_batch: Count = 256
    sgd_momentum: Share = 0.9
    weight_decay: NotNegative = 1e-4
    # cosine: once per iteration, to 0; step: x 0.1 at the milestones (epochs)
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[Amount, ...] = ()
    warmup_epochs: NotNegative = 0.0
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    channels_last: bool = True  # memory layout of weights and pictures
    compile: bool = False  # torch.compile of the network; needs a C++ compiler
    # views
    load_size: Amount = 0  # pictures are reduced to this short side once when read; 0: never
    view_size: Count = 224
    crop_scale: tuple[Share, Share] = (0.2, 1.0)
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    # brightness, contrast, saturation, hue
    jitter: tuple[NotNegative, NotNegative, NotNegative, Share] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: Share = 0.8
    gray_p: Share = 0.2
    gray_first: bool = False  # before the jitter
    blur_p: Share = 0.5
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    flip_p: Share = 0.5
    jigsaw_scale: tuple[Share, Share] = (0.6, 1.0)
    jigsaw_size: Count = 255
    patch_size: Count = 64
    # picture: drawn for each picture; grid: as they lie in it
    patch_order: Literal["picture", "grid"] = "picture"
    patch_blur_p: Share = 0.0
    patch_flip_p: Share = 0.0
    randaugment: tuple[Amount, Annotated[int, Ge(0), Le(30)]] = (0, 10)  # operations, magnitude
    # running
    # that read and cut pictures, for each training process; -1: by the cores, on a CPU none
    workers: Annotated[int, Ge(-1)] = -1
    cache_gb: NotNegative = 2.0  # decoded pictures are kept in memory if they all fit
    checkpoint_minutes: NotNegative = 10.0
    keep: Count = 2

    def __post_init__(self) -> None:
        check(self)
        problem = _contradiction(self)
        if problem:
            raise InputError(f"recipe {self.name!r}: {problem}")

    @property
    def traits(self) -> Method:
        """What is to be known of its method."""
        return METHODS[self.method]

    @property
    def local(self) -> bool:
        """Whether any loss looks at jigsaw patches."""
        return self.traits.local_views and self.terms != ("global-global",)

    @property
    def has_unused_parameters(self) -> bool:
        """Whether some weights have no part in the loss: stages above the last level, global heads
        without global queries."""
        return self.traits.local_views and (
            "res5" not in self.levels or "global-global" not in self.terms
        )


def _contradiction(r: Recipe) -> str | None:
    if r.method not in METHODS:
        return f"method is {r.method!r}; it can be {', '.join(METHODS)}"
    for name, values, allowed in (("levels", r.levels, LEVELS), ("terms", r.terms, TERMS)):
        if not values or len(set(values)) < len(values) or not set(values) <= set(allowed):
            return (
                f"{name} must be some of {', '.join(allowed)}, each once; it is"
                f" {', '.join(values) or 'empty'}"
            )
    if len(r.level_weights) != len(r.levels):
        return f"{len(r.level_weights)} level_weights for {len(r.levels)} levels"
    one = (r.levels, r.terms) == (("res5",), ("global-global",))
    if r.traits.has_keys and not r.traits.local_views and not one:
        able = " or ".join(name for name, method in METHODS.items() if method.local_views)
        return f"{r.method} has the level res5 and the term global-global only; more: method {able}"
    for name in ("crop_scale", "crop_ratio", "blur_sigma", "jigsaw_scale"):
        low, high = getattr(r, name)
        if not 0 < low <= high:
            return f"{name} is [{low:g}, {high:g}]; it needs two numbers above 0, the smaller first"
    if r.batch % r.groups:
        return f"batch {r.batch} does not divide into groups of {r.groups}"
    if min(r.view_size, r.patch_size) <= 16:
        # res4 would be one pixel, where oneDNN (3.13) leaves most of the bf16 weight gradient of
        # res5 unwritten
        return (
            f"view_size {r.view_size} and patch_size {r.patch_size} must be more than 16, or res5"
            " sees a single pixel"
        )
    for name, blurred, size in (
        ("view_size", r.blur_p, r.view_size),
        ("patch_size", r.patch_blur_p, r.patch_size),
    ):
        if blurred and int(3 * r.blur_sigma[1] + 0.5) >= size:
            return (
                f"blur_sigma goes to {r.blur_sigma[1]:g}; it must stay below a third of {name}"
                f" {size}"
            )
    if r.patch_size > r.jigsaw_size // 3:
        return (
            f"patch_size {r.patch_size} is larger than a cell of the 3 x 3 grid over jigsaw_size"
            f" {r.jigsaw_size}"
        )
    return None


def recipe_hash(recipe: Recipe) -> str:
    """sha256 (hex) of everything that determines the result; name, source and running settings are
    left out."""
    settings = {
        k: v for k, v in asdict(recipe).items() if k not in ("name", "source", "assumed", *RUNNING)
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


_MOCO_V2 = Recipe(
    name="moco-v2-200ep",
    method="moco-v2",
    source="MoCo v2, arXiv 2003.04297; facebookresearch/moco",
)

_MOCO_V1 = replace(
    _MOCO_V2,
    name="moco-v1-200ep",
    method="moco-v1",
    source="MoCo, arXiv 1911.05722; facebookresearch/moco",
    head="linear",
    temperature=0.07,
    schedule="step",
    milestones=(120, 160),
    gray_first=True,
    jitter=(0.4, 0.4, 0.4, 0.4),
    jitter_p=1.0,
    blur_p=0.0,
)

_DETCO_ASSUMED = ("lr", "hidden", "patch_order", "patch_blur_p", "patch_flip_p", "crop_ratio")

_DETCO = replace(
    _MOCO_V2,
    name="detco-200ep",
    method="detco",
    source="DetCo, arXiv 2102.04803",
    assumed=_DETCO_ASSUMED,
    levels=LEVELS,
    level_weights=(0.1, 0.4, 0.7, 1.0),
    terms=TERMS,
)

_DETCO_AA = replace(
    _DETCO,
    name="detco-aa-200ep",
    source="DetCo + RandAugment, arXiv 2102.04803",
    assumed=(*_DETCO_ASSUMED, "randaugment"),
    randaugment=(2, 10),
)

_SUPERVISED = replace(
    _MOCO_V2,
    name="supervised-90ep",
    method="supervised",
    source="ImageNet classification, 90 epochs; pytorch/examples imagenet",
    groups=8,
    epochs=90,
    lr=0.1,
    schedule="step",
    milestones=(30, 60, 80),
    crop_scale=(0.08, 1.0),
    jitter_p=0.0,
    gray_p=0.0,
    blur_p=0.0,
)

# Small pictures and networks, for a few minutes on a CPU: every setting that differs from the paper
# is our own.
_SMALL = dict(
    arch="resnet18",
    queue=128,
    fill_queue=True,
    key_momentum=0.97,
    groups=2,
    epochs=3,
    batch=64,
    optimizer="adamw",
    lr=2e-3,
    weight_decay=0.01,
    warmup_epochs=0.5,
    load_size=160,
    view_size=48,
    jigsaw_size=66,
    patch_size=20,
    blur_sigma=(0.1, 1.0),
)


def _small(full: Recipe, name: str, **own) -> Recipe:
    settings = {**_SMALL, **own}
    return replace(
        full, name=name, assumed=tuple(dict.fromkeys((*full.assumed, *settings))), **settings
    )


# Of the replication (docs/replication.md): some thousand real photographs, a night on a CPU. The
# sizes of views and patches have the paper's proportions (224, 255, 64); queue and key momentum fit
# some 2,000 updates; every run has the same images, epochs and rate.
_TINY = {
    **_SMALL,
    "queue": 1024,
    "key_momentum": 0.99,
    "epochs": 40,
    "lr": 4e-3,
    "view_size": 64,
    "jigsaw_size": 75,
    "patch_size": 20,
}


def _tiny(full: Recipe, name: str, **own) -> Recipe:
    return _small(full, name, **{**_TINY, **own})


ABLATIONS = (
    replace(_DETCO, name="detco-no-hierarchy", levels=("res5",), level_weights=(1.0,)),
    replace(_DETCO, name="detco-no-local-local", terms=("global-global", "global-local")),
    replace(_DETCO, name="detco-no-global-local", terms=("global-global", "local-local")),
    replace(
        _DETCO,
        name="detco-global-only",
        levels=("res5",),
        level_weights=(1.0,),
        terms=("global-global",),
    ),
    replace(_DETCO, name="detco-equal-weights", level_weights=(1.0, 1.0, 1.0, 1.0)),
)

TINY_ABLATIONS = tuple(
    _tiny(row, row.name + "-tiny") for row in ABLATIONS if row.name != "detco-global-only"
)

_ROWS = (
    _MOCO_V1,
    _MOCO_V2,
    replace(_MOCO_V2, name="moco-v2-800ep", epochs=800),
    replace(_DETCO, name="detco-100ep", epochs=100),
    _DETCO,
    replace(_DETCO, name="detco-800ep", epochs=800),
    replace(_DETCO_AA, name="detco-aa-100ep", epochs=100),
    _DETCO_AA,
    _SUPERVISED,
    *ABLATIONS,
    _small(_DETCO, "detco-small", epochs=4),
    _small(_MOCO_V2, "moco-v2-small", epochs=6),
    _small(
        _SUPERVISED,
        "supervised-small",
        epochs=8,
        batch=32,
        groups=1,
        lr=8e-3,
        weight_decay=0.05,
        schedule="cosine",
        milestones=(),
        view_size=64,
        crop_scale=(0.8, 1.0),
    ),
    _tiny(_DETCO, "detco-tiny"),
    _tiny(_MOCO_V2, "moco-v2-tiny"),
    # as much computing as detco-tiny, whose epochs take 2.6 times as long
    _tiny(_MOCO_V2, "moco-v2-tiny-long", epochs=104),
    _tiny(
        _SUPERVISED,
        "supervised-tiny",
        batch=32,
        groups=1,
        weight_decay=0.05,
        schedule="cosine",
        milestones=(),
        crop_scale=(0.35, 1.0),
    ),
    *TINY_ABLATIONS,
)

RECIPES: dict[str, Recipe] = {row.name: row for row in _ROWS}
