"""Pretraining recipes: one flat row per method, size and schedule, with the source
of its settings."""

from __future__ import annotations

import hashlib
import json
import math
import re
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


RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")


@dataclass(frozen=True)
class Recipe:
    """One pretraining run, all but its pictures and seed.

    Each setting says what it is, its unit and, where a paper gives it, whose. Raises InputError for
    values out of range and settings that contradict each other.
    """

    name: Annotated[str, "of the row"]
    method: Annotated[str, "what is learnt: detco, moco-v1, moco-v2, supervised"]
    source: Annotated[str, "paper or project that the settings are from"]
    assumed: Annotated[tuple[str, ...], "settings that the source does not give"] = ()
    # network and loss
    arch: Annotated[
        str, "backbone: resnet18, 34, 50 or 101, or timm's name of a ConvNeXt or Swin"
    ] = "resnet50"
    levels: Annotated[tuple[str, ...], "stages with a loss; DetCo"] = ("res5",)
    level_weights: Annotated[tuple[NotNegative, ...], "weight of each level's loss; DetCo"] = (1.0,)
    terms: Annotated[tuple[str, ...], "query-key pairs of views that are contrasted; DetCo"] = (
        "global-global",
    )
    head: Annotated[
        Literal["mlp", "linear"],
        "mlp: Linear-ReLU-Linear (MoCo v2); linear: one Linear (MoCo v1)",
    ] = "mlp"
    hidden: Annotated[Positive, "width of a head's hidden layer, in channels of its level"] = 1.0
    dim: Annotated[Count, "length of the embeddings; MoCo: 128"] = 128
    queue: Annotated[Count, "keys kept as negatives; MoCo: 65,536"] = 65536
    fill_queue: Annotated[
        bool, "the first iterations do not train, they replace the queues' random keys"
    ] = False
    temperature: Annotated[Positive, "of the softmax over similarities; MoCo v1 0.07, v2 0.2"] = 0.2
    key_momentum: Annotated[Share, "share of the key encoder kept at each iteration; MoCo"] = 0.999
    groups: Annotated[
        Count, "of batch normalisation, over all processes: the GPUs of the published run"
    ] = 8
    # optimisation
    optimizer: Annotated[Literal["sgd", "adamw"], "MoCo: SGD with momentum"] = "sgd"
    epochs: Annotated[Count, "passes over the images"] = 200
    batch: Annotated[Count, "images an iteration, over all processes"] = 256
    lr: Annotated[Positive, "learning rate for `lr_batch` images; scales linearly with `batch`"] = (
        0.03
    )
    lr_batch: Annotated[Count, "images that `lr` is for"] = 256
    sgd_momentum: Annotated[Share, "of SGD; AdamW has none"] = 0.9
    weight_decay: Annotated[NotNegative, "of every parameter; MoCo: 1e-4"] = 1e-4
    schedule: Annotated[
        Literal["cosine", "step"],
        "cosine: to 0, an iteration at a time (MoCo v2); step: x 0.1 at the milestones",
    ] = "cosine"
    milestones: Annotated[tuple[Amount, ...], "epochs at which `step` lowers the rate"] = ()
    warmup_epochs: Annotated[NotNegative, "epochs over which the rate rises linearly from 0"] = 0.0
    precision: Annotated[
        Literal["auto", "float32", "bf16", "fp16"],
        "of convolutions; auto: bf16 where the device is fast at it, else fp16 on a GPU",
    ] = "auto"
    channels_last: Annotated[bool, "memory layout of weights and images; changes speed only"] = True
    compile: Annotated[bool, "torch.compile of the network; needs a C++ compiler"] = False
    # views
    load_size: Annotated[
        Amount, "pixels: images are reduced to this short side once when read; 0: never"
    ] = 0
    view_size: Annotated[Count, "pixels a side of a global view; MoCo: 224"] = 224
    crop_scale: Annotated[
        tuple[Share, Share], "area of a crop, as a share of the image; MoCo: 0.2 to 1"
    ] = (0.2, 1.0)
    crop_ratio: Annotated[tuple[Positive, Positive], "width over height of a crop"] = (3 / 4, 4 / 3)
    jitter: Annotated[
        tuple[NotNegative, NotNegative, NotNegative, Share],
        "most change of brightness, contrast, saturation and hue; MoCo v2",
    ] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: Annotated[Share, "probability of the colour jitter; MoCo v2: 0.8"] = 0.8
    gray_p: Annotated[Share, "probability of a view without colour; MoCo: 0.2"] = 0.2
    gray_first: Annotated[bool, "gray before the jitter; MoCo v1"] = False
    blur_p: Annotated[Share, "probability of a Gaussian blur; MoCo v2: 0.5"] = 0.5
    blur_sigma: Annotated[tuple[Positive, Positive], "pixels, of the blur; MoCo v2"] = (0.1, 2.0)
    flip_p: Annotated[Share, "probability of a mirrored view"] = 0.5
    jigsaw_scale: Annotated[
        tuple[Share, Share], "area of the crop that patches are cut from; DetCo"
    ] = (0.6, 1.0)
    jigsaw_size: Annotated[Count, "pixels a side of that crop, cut into 3 x 3 cells; DetCo"] = 255
    patch_size: Annotated[Count, "pixels a side of a patch, drawn inside its cell; DetCo"] = 64
    patch_order: Annotated[
        Literal["picture", "grid"],
        "of the patches' embeddings: drawn for each image, or as they lie in it",
    ] = "picture"
    patch_blur_p: Annotated[Share, "probability of a blurred patch"] = 0.0
    patch_flip_p: Annotated[Share, "probability of a mirrored patch"] = 0.0
    randaugment: Annotated[
        tuple[Amount, Annotated[int, Ge(0), Le(30)]],
        "operations and magnitude of RandAugment (arXiv 1909.13719); 0 operations: none",
    ] = (0, 10)
    # running
    workers: Annotated[
        Annotated[int, Ge(-1)],
        "processes that read and cut images, for each training process; -1: by the cores, on a"
        " CPU none",
    ] = -1
    cache_gb: Annotated[NotNegative, "decoded images are kept in memory if they all fit"] = 2.0
    checkpoint_minutes: Annotated[NotNegative, "between checkpoints"] = 10.0
    keep: Annotated[Count, "checkpoints that are kept"] = 2

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


def refuse_arch(recipe: Recipe) -> None:
    """InputError for a network that timm cannot build, which the recipe's own checks, made without
    timm, do not see."""
    if recipe.arch not in RESNETS:
        from detco.common.networks import expected_levels

        expected_levels(recipe.arch, {})


def _contradiction(r: Recipe) -> str | None:
    if r.method not in METHODS:
        return f"method is {r.method!r}; it can be {', '.join(METHODS)}"
    if r.arch not in RESNETS and not re.fullmatch(r"(convnext|swin)\w*_\w+", r.arch):
        return (
            f"arch must be one of {', '.join(RESNETS)} or timm's name of a ConvNeXt or Swin, not"
            f" {r.arch!r}: levels are stages, which a vision transformer does not have"
        )
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


def filling(recipe: Recipe, iterations: int) -> int:
    """Iterations, of that many in all, that only replace the random keys of the queues. Raises
    InputError if they are more than half."""
    if not (recipe.fill_queue and recipe.traits.has_keys):
        return 0
    count = math.ceil(recipe.queue / recipe.batch)
    if 2 * count > iterations:
        raise InputError(
            f"{count} of {iterations} iterations would only fill the queues of {recipe.queue}"
            " keys: give more pictures or epochs, a smaller queue, or --set fill_queue=false"
        )
    return count


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
    epochs=16,
    batch=64,
    optimizer="adamw",
    lr=4e-3,
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
    _small(_DETCO, "detco-small"),
    _small(_MOCO_V2, "moco-v2-small"),
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
