"""The one table of transfer protocols: what is trained on which schedule and how it is scored.

A row holds the task only; what belongs to the weights (channel order, mean, std, stride) travels with the weights.
Rows derive from one another with `dataclasses.replace`. Changing a row means raising its version: a test freezes the hashes.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

Architecture = Literal[
    "faster-rcnn-c4", "faster-rcnn-fpn", "mask-rcnn-c4", "mask-rcnn-fpn", "retinanet", "keypoint-rcnn-fpn"
]


@dataclass(frozen=True)
class Schedule:
    """Optimisation. `steps` are the iterations at which the rate drops by 10; they are unused with `decay="cosine"`."""

    iterations: int
    images: int  # per iteration, over all devices
    lr: float
    optimiser: Literal["sgd", "adamw"] = "sgd"
    decay: Literal["step", "cosine"] = "step"
    steps: tuple[int, ...] = ()
    momentum: float = 0.9
    weight_decay: float = 1e-4  # norm layers are never decayed
    warmup: int = 1000  # iterations, linear
    clip: float = 0.0  # largest gradient norm; 0: no clipping
    precise_bn: int = 200  # iterations over which the BN statistics are re-estimated before testing; 0: off


@dataclass(frozen=True)
class Resize:
    """Shorter side in pixels (training: one drawn from `train` for each picture), longer side at most `*_max`."""

    train: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    train_max: int = 1333
    test: int = 800
    test_max: int = 1333


@dataclass(frozen=True)
class Detector:
    """What the detector adds to the backbone. The defaults are Detectron2's for FPN; (train, test) where two are given."""

    anchors: tuple[tuple[int, ...], ...] = ((32,), (64,), (128,), (256,), (512,))  # sizes in pixels for each level
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_pre_nms: tuple[int, int] = (2000, 1000)
    rpn_post_nms: tuple[int, int] = (1000, 1000)
    rpn_batch: int = 256
    roi_batch: int = 512
    roi_positive: float = 0.25  # largest share of positives among them
    roi_size: int = 7  # RoIAlign resolution for boxes
    sampling_ratio: int = 0  # RoIAlign samples a bin; 0: as many as fit
    fpn_channels: int = 256
    fc_width: int = 1024
    mask_size: int = 14  # RoIAlign resolution for masks and keypoints; masks have twice as much
    mask_convs: int = 4
    keypoint_convs: tuple[int, ...] = (512,) * 8
    retina_convs: int = 4
    retina_norm: Literal["", "GN"] = ""
    retina_prior: float = 0.01
    detections: int = 100  # kept for each picture


@dataclass(frozen=True)
class Protocol:
    """One transfer protocol. `scorer` is the definition of AP: COCO's, or VOC's of that year (PROTOCOLS: never one name)."""

    name: str
    version: int
    source: str
    architecture: Architecture
    schedule: Schedule
    resize: Resize = Resize()
    detector: Detector = Detector()
    metrics: tuple[Literal["box", "mask", "keypoint"], ...] = ("box",)
    scorer: Literal["coco", "voc2007", "voc2012"] = "coco"
    arch: str = "resnet50"  # of the backbone, where the weights are random


# --- small rows: learn something in a minute on two CPU cores, on any data set in VOC or COCO layout -----------------

SMALL_SCHEDULE = Schedule(
    iterations=250, images=4, lr=1e-3, optimiser="adamw", decay="cosine", weight_decay=0.05, warmup=25, clip=10.0,
    precise_bn=0,
)  # fmt: skip
SMALL_DETECTOR = Detector(
    anchors=((16,), (32,), (64,), (128,), (256,)), aspect_ratios=(1.0,),
    rpn_pre_nms=(300, 300), rpn_post_nms=(100, 50), rpn_batch=64, roi_batch=32, roi_positive=0.5, sampling_ratio=2,
    fpn_channels=64, fc_width=256, mask_convs=2, keypoint_convs=(64,) * 4, detections=50,
)  # fmt: skip
SMALL_C4_DETECTOR = replace(
    SMALL_DETECTOR, anchors=((16, 32, 64),), rpn_post_nms=(100, 30), roi_batch=16, roi_size=6
)
SMALL_FPN = Protocol(
    "small-faster-rcnn-fpn", 1, "this project: small settings for two CPU cores", "faster-rcnn-fpn",
    SMALL_SCHEDULE, Resize((96,), 192, 96, 192), SMALL_DETECTOR, arch="resnet18",
)  # fmt: skip
SMALL_C4 = replace(  # larger pictures: its RPN sees one level of stride 16 only
    SMALL_FPN, name="small-faster-rcnn-c4", architecture="faster-rcnn-c4", detector=SMALL_C4_DETECTOR, scorer="voc2007",
    resize=Resize((128,), 256, 128, 256), schedule=replace(SMALL_SCHEDULE, iterations=300),
)  # fmt: skip

ROWS = (
    SMALL_C4,
    SMALL_FPN,
    replace(
        SMALL_C4, name="small-mask-rcnn-c4", architecture="mask-rcnn-c4", metrics=("box", "mask"), scorer="coco",
    ),
    replace(SMALL_FPN, name="small-mask-rcnn-fpn", architecture="mask-rcnn-fpn", metrics=("box", "mask")),
    replace(
        SMALL_FPN, name="small-retinanet", architecture="retinanet", schedule=replace(SMALL_SCHEDULE, iterations=350),
        detector=replace(  # its anchors start at three times the finest stride: smaller ones leave few positives
            SMALL_DETECTOR, anchors=((24, 32), (48, 64), (96, 128), (192, 256), (384, 512)),
            retina_convs=2, retina_norm="GN", retina_prior=0.05,
        ),
    ),
    replace(SMALL_FPN, name="small-keypoint-rcnn", architecture="keypoint-rcnn-fpn", metrics=("keypoint", "box")),
)  # fmt: skip
PROTOCOLS = {row.name: row for row in ROWS}


def protocol_hash(protocol: Protocol) -> str:
    """First 16 hex digits of the sha256 over every field of the row, version included."""
    return hashlib.sha256(json.dumps(asdict(protocol), sort_keys=True).encode()).hexdigest()[:16]


def departures(protocol: Protocol) -> tuple[str, ...]:
    """Where a protocol differs from the row of the same name, one text a field, e.g. `schedule.iterations 50 (row: 150)`."""
    row = PROTOCOLS.get(protocol.name)
    if row is None:
        return (f"protocol {protocol.name} is not in the table",)
    ours, theirs = _flat(asdict(protocol)), _flat(asdict(row))
    return tuple(f"{key} {ours[key]} (row: {theirs[key]})" for key in ours if ours[key] != theirs[key])


def _flat(fields: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in fields.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
