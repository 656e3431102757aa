"""The one table of transfer protocols: what is trained on which schedule and how it is scored.

A row holds the task only; what belongs to the weights (channel order, mean, std, stride) travels
with the weights. Rows derive from one another with `dataclasses.replace`. Changing a row means
raising its version: a test freezes the hashes.
"""

import hashlib
import json
from dataclasses import asdict, replace
from fractions import Fraction

from detco.common.errors import InputError
from detco.common.values import flatten

from .settings import (
    Architecture,
    Classifier,
    DensePose,
    Detector,
    Protocol,
    Published,
    Resize,
    Schedule,
)

# --- small rows: learn something in a minute on two CPU cores, on any data set in VOC or COCO
# layout -----------------

SMALL_SCHEDULE = Schedule(
    iterations=250,
    images=4,
    lr=1e-3,
    optimizer="adamw",
    decay="cosine",
    weight_decay=0.05,
    warmup=25,
    clip=10.0,
    precise_bn=0,
)
SMALL_DETECTOR = Detector(
    anchors=((16,), (32,), (64,), (128,), (256,)),
    aspect_ratios=(1.0,),
    rpn_pre_nms=(300, 300),
    rpn_post_nms=(100, 50),
    rpn_batch=64,
    roi_batch=32,
    roi_positive=0.5,
    sampling_ratio=2,
    fpn_channels=64,
    fc_width=256,
    mask_convs=2,
    keypoint_convs=(64,) * 4,
    detections=50,
)
SMALL_C4_DETECTOR = replace(
    SMALL_DETECTOR, anchors=((16, 32, 64),), rpn_post_nms=(100, 30), roi_batch=16, roi_size=6
)
SMALL_FPN = Protocol(
    "small-faster-rcnn-fpn",
    1,
    "this project: small settings for two CPU cores",
    "faster-rcnn-fpn",
    SMALL_SCHEDULE,
    Resize((96,), 192, 96, 192),
    SMALL_DETECTOR,
    arch="resnet18",
)
SMALL_C4 = replace(  # larger pictures: its RPN sees one level of stride 16 only
    SMALL_FPN,
    name="small-faster-rcnn-c4",
    architecture="faster-rcnn-c4",
    detector=SMALL_C4_DETECTOR,
    scorer="voc2007",
    resize=Resize((128,), 256, 128, 256),
    schedule=replace(SMALL_SCHEDULE, iterations=300),
)

SMALL_RETINANET = replace(
    SMALL_FPN,
    name="small-retinanet",
    architecture="retinanet",
    schedule=replace(SMALL_SCHEDULE, iterations=350),
    # its anchors start at three times the finest stride: smaller ones leave few positives
    detector=replace(
        SMALL_DETECTOR,
        anchors=((24, 32), (48, 64), (96, 128), (192, 256), (384, 512)),
        retina_convs=2,
        retina_norm="GN",
        retina_prior=0.05,
    ),
)
SMALL_KEYPOINTS = replace(
    SMALL_FPN,
    name="small-keypoint-rcnn",
    architecture="keypoint-rcnn-fpn",
    metrics=("keypoint", "box"),
)

SMALL_ROWS = (
    SMALL_C4,
    SMALL_FPN,
    replace(
        SMALL_C4,
        name="small-mask-rcnn-c4",
        architecture="mask-rcnn-c4",
        metrics=("box", "mask"),
        scorer="coco",
        # res5 on 14 x 14 would take most of the time
        detector=replace(SMALL_C4_DETECTOR, mask_size=8),
    ),
    replace(
        SMALL_FPN, name="small-mask-rcnn-fpn", architecture="mask-rcnn-fpn", metrics=("box", "mask")
    ),
    SMALL_RETINANET,
    SMALL_KEYPOINTS,
)

# Longer ones for the replication: images pretrained on for a night deserve a detector that has seen
# some 16,000 (docs/replication.md).
LONG_SCHEDULE = replace(SMALL_SCHEDULE, iterations=1000, images=16, lr=2e-3, warmup=100)


def _long(row: Protocol, **schedule) -> Protocol:
    longer = replace(LONG_SCHEDULE, **schedule)
    return replace(row, name=f"{row.name}-long", scorer="coco", schedule=longer)


LONG_ROWS = (
    *map(_long, (SMALL_FPN, SMALL_RETINANET, SMALL_KEYPOINTS)),
    # its heads take three times as long
    _long(SMALL_C4, iterations=1500, images=8),
    replace(_long(SMALL_FPN), name="small-faster-rcnn-fpn-long-frozen", freeze="backbone"),
)


# --- the papers' rows: the detection configs of MoCo and DetCo, 8 GPUs ---------------------------

DETCO, MOCO = "DetCo, arXiv 2102.04803 and its configs", "MoCo, arXiv 1911.05722 and its configs"
SSL_TRANSFER = "Ericsson, arXiv 2011.13377 and its configs (linusericsson/ssl-transfer)"
COCO = Published("coco", ("coco/train2017",), "coco/val2017", 80, (118_287, 5_000))
VOC = Published(
    "voc", ("VOC2007/trainval", "VOC2012/trainval"), "VOC2007/test", 20, (5_011 + 11_540, 4_952)
)
DENSEPOSE = Published(
    "coco",
    ("coco/densepose_train2014", "coco/densepose_valminusminival2014"),
    "coco/densepose_minival2014",
    1,
    (26_437 + 5_984, 1_508),
)
CITYSCAPES = Published("cityscapes", ("cityscapes/train",), "cityscapes/val", 8, (2_975, 500))
SCHEDULES = {  # iterations of 16 images; COCO's 90k and 180k are Detectron2's 1x and 2x
    "12k": Schedule(12_000, 16, 0.02, steps=(9_000, 11_000), devices=8),
    "90k": Schedule(90_000, 16, 0.02, steps=(60_000, 80_000), devices=8),
    "180k": Schedule(180_000, 16, 0.02, steps=(120_000, 160_000), devices=8),
}
# Resize.train_max is 1333 for every row: DetCo's C4 configs for self-supervised weights, and only
# these, say 1200 (`--set resize.train_max=1200`), so that its supervised rows were trained on other
# terms.
C4_DETECTOR = Detector(
    anchors=((32, 64, 128, 256, 512),),
    rpn_pre_nms=(12_000, 6_000),
    rpn_post_nms=(2_000, 1_000),
    roi_size=14,
)
RETINA_DETECTOR = Detector(  # three scales an octave
    anchors=tuple(tuple(size * 2 ** (k / 3) for k in range(3)) for size in (32, 64, 128, 256, 512)),
)


def _coco(
    name: str,
    architecture: Architecture,
    detector: Detector,
    metrics=("box", "mask"),
    lr: float = 0.02,
) -> list[Protocol]:
    """One detector on COCO for each of the three schedules."""
    return [
        Protocol(
            f"coco-{name}-{length}",
            1,
            DETCO,
            architecture,
            replace(schedule, lr=lr),
            detector=detector,
            metrics=metrics,
            data=COCO,
        )
        for length, schedule in SCHEDULES.items()
    ]


def _share(row: Protocol, percent: int) -> Protocol:
    """A row on that share of COCO's training pictures (`detco data subset` writes it). The papers
    do not state its schedule."""
    images = round(COCO.images[0] * percent / 100), COCO.images[1]
    return replace(
        row,
        name=row.name.replace("coco-", f"coco-{percent}pct-").removesuffix("-12k"),
        source=f"{DETCO} (schedule assumed: 12k)",
        data=replace(COCO, train=(f"coco/train2017_{percent}pct",), images=images),
    )


VOC_FPN = Protocol(
    "voc-faster-rcnn-fpn-144k",
    1,
    SSL_TRANSFER,
    "faster-rcnn-fpn",
    Schedule(144_000, 2, 0.0025, steps=(96_000, 128_000), warmup=100, precise_bn=0),
    Resize(train=tuple(range(480, 801, 32))),
    Detector(norm="FrozenBN"),
    scorer="voc2007",
    data=VOC,
)
COCO_C4 = _coco("mask-rcnn-c4", "mask-rcnn-c4", C4_DETECTOR)
COCO_FPN = _coco("mask-rcnn-fpn", "mask-rcnn-fpn", Detector())
COCO_RETINA = _coco("retinanet", "retinanet", RETINA_DETECTOR, ("box",), lr=0.01)
# The paper's rows say "s1x" only. Its supervised row has 50.8 AP, the project's config of that name
# 63.7, and s1x_legacy (the s1x of MoCo's time) 52.1: so it is the latter. Norms and frozen layers
# are as in the other rows on COCO.
COCO_DENSEPOSE = Protocol(
    "coco-densepose",
    1,
    f"{DETCO}; DensePose R_50_FPN_s1x_legacy",
    "densepose-rcnn-fpn",
    Schedule(130_000, 16, 0.002, steps=(100_000, 120_000), warmup_from=0.1, devices=8),
    detector=Detector(sampling_ratio=2),
    metrics=("densepose", "box"),
    scorer="gps",
    data=DENSEPOSE,
    densepose=DensePose(dp_size=14, dp_parts=15, dp_decoder=0, dp_weights=(2.0, 0.3, 0.1)),
)
PAPER_ROWS = (
    *COCO_C4,
    *COCO_FPN,
    *COCO_RETINA,
    replace(
        COCO_FPN[2],
        name="coco-keypoint-rcnn-180k",
        architecture="keypoint-rcnn-fpn",
        metrics=("keypoint", "box"),
        detector=Detector(rpn_post_nms=(1_500, 1_000), box_beta=0.5),
        data=replace(COCO, classes=1),
    ),
    COCO_DENSEPOSE,
    replace(
        COCO_DENSEPOSE,
        name="coco-densepose-s1x",
        source="DensePose R_50_FPN_s1x; norms and frozen layers as in the other rows on COCO",
        schedule=replace(COCO_DENSEPOSE.schedule, lr=0.01),
        densepose=DensePose(),
    ),
    Protocol(
        "voc-faster-rcnn-c4-24k",
        1,
        MOCO,
        "faster-rcnn-c4",
        Schedule(24_000, 16, 0.02, steps=(18_000, 22_000), warmup=100, devices=8),
        Resize(train=tuple(range(480, 801, 32))),
        C4_DETECTOR,
        scorer="voc2007",
        data=VOC,
    ),
    Protocol(
        "cityscapes-instance",
        1,
        MOCO,
        "mask-rcnn-fpn",
        Schedule(24_000, 8, 0.01, steps=(18_000,), devices=8),
        Resize(tuple(range(800, 1025, 32)), 2048, 1024, 2048),
        metrics=("mask",),
        scorer="cityscapes",
        data=CITYSCAPES,
    ),
    Protocol(  # 200 epochs of 2,975 pictures, rate dropped at 70 % and 90 %
        "cityscapes-semantic",
        1,
        f"{MOCO} (appendix)",
        "fcn-16s",
        Schedule(37_188, 16, 0.01, steps=(26_031, 33_469), warmup=0, devices=8),
        Resize(test=1024, test_max=2048, scale=(0.5, 2.0), crop=769),
        metrics=("semantic",),
        scorer="cityscapes",
        data=replace(CITYSCAPES, classes=19),
    ),
    VOC_FPN,
    replace(VOC_FPN, name="voc-faster-rcnn-fpn-144k-frozen", freeze="res4"),
    *(_share(rows[0], percent) for rows in (COCO_FPN, COCO_RETINA) for percent in (1, 2, 5, 10)),
)

# --- classifiers on frozen features -------------------------------------------------------------

IMAGENET = Published("imagefolder", ("imagenet/train",), "imagenet/val", 1_000, (1_281_167, 50_000))
UNTRAINED = Schedule(0, 256, 0.0, warmup=0, weight_decay=0.0, precise_bn=0)
KNN = Protocol(
    "imagenet-knn",
    1,
    "Wu et al., arXiv 1805.01978, with k = 20 and 200",
    "knn",
    UNTRAINED,
    Resize((256,), test=256, crop=224),
    metrics=("class",),
    scorer="accuracy",
    freeze="backbone",
    data=IMAGENET,
    classifier=Classifier(neighbours=(20, 200)),
)
SMALL_KNN = replace(
    KNN,
    name="small-knn",
    source="this project: small settings for two CPU cores",
    resize=Resize((110,), test=110, crop=96),
    arch="resnet18",
    data=None,
    classifier=Classifier(neighbours=(20,)),
)
LINEAR = replace(
    KNN,
    name="imagenet-linear",
    source=MOCO,
    architecture="linear",
    schedule=Schedule(
        0,
        256,
        30.0,
        steps=(60, 80),
        weight_decay=0.0,
        warmup=0,
        precise_bn=0,
        devices=8,
        epochs=100,
    ),
    classifier=Classifier(augment=True),
)
SMALL_LINEAR = replace(
    SMALL_KNN,
    name="small-linear",
    architecture="linear",
    # AdamW: the rate that suits SGD depends on how large a backbone's features are
    schedule=Schedule(
        0,
        64,
        0.01,
        optimizer="adamw",
        decay="cosine",
        weight_decay=0.0,
        warmup=0,
        precise_bn=0,
        epochs=50,
    ),
    classifier=Classifier(),
)
SVM = replace(
    KNN,
    name="voc07-svm",
    source="Goyal et al., arXiv 1905.01235, and its code (fair_self_supervision_benchmark)",
    architecture="svm",
    scorer="class-ap",
    data=replace(VOC, train=("VOC2007/trainval",), images=(5_011, 4_952)),
    # as the benchmark: powers of ten, and of two
    classifier=Classifier(
        costs=(*(10.0**n for n in range(-7, 3)), *(0.5**n for n in range(4, 20)))
    ),
)
LOW_SHOT = replace(
    SVM,
    name="voc07-svm-low-shot",
    source=f"{SVM.source}; cost (the benchmark: the best on its test set), negatives assumed",
    classifier=Classifier(costs=(1.0,), shots=(1, 2, 4, 8, 16, 32, 64, 96)),
)
SMALL_SVM = replace(
    SMALL_KNN,
    name="small-svm",
    architecture="svm",
    scorer="class-ap",
    classifier=Classifier(costs=(0.01, 0.1, 1.0, 10.0)),
)
CLASSIFICATION_ROWS = (SMALL_KNN, SMALL_LINEAR, SMALL_SVM, KNN, LINEAR, SVM, LOW_SHOT)

ROWS = (*SMALL_ROWS, *LONG_ROWS, *PAPER_ROWS, *CLASSIFICATION_ROWS)
PROTOCOLS = {row.name: row for row in ROWS}


def protocol_hash(protocol: Protocol) -> str:
    """First 16 hex digits of the sha256 over every field of the row, version included."""
    return hashlib.sha256(json.dumps(as_record(protocol), sort_keys=True).encode()).hexdigest()[:16]


# settings of a schedule
NEWER = {"epochs": 0, "warmup_from": Schedule.warmup_from, "layer_decay": 1.0, "drop_path": 0.0}


def as_record(protocol: Protocol) -> dict:
    """Every field as records, detector files and hashes have it. Their form is older than the name
    `optimizer`: there it is `optimiser`, so that new and old records stay comparable."""
    row = asdict(protocol)
    row["schedule"]["optimiser"] = row["schedule"].pop("optimizer")
    # as in records that are older than these fields
    if protocol.freeze == "none":
        del row["freeze"]
    if protocol.classifier is None:
        del row["classifier"]
    if protocol.densepose is None:
        del row["densepose"]
    for key, default in NEWER.items():
        if row["schedule"][key] == default:
            del row["schedule"][key]
    return row


def from_record(row: dict) -> dict:
    """The fields of `Protocol` from the row of a record or detector file."""
    schedule = row.get("schedule")
    if not isinstance(schedule, dict) or "optimiser" not in schedule:
        return row
    renamed = {"optimizer" if key == "optimiser" else key: schedule[key] for key in schedule}
    return row | {"schedule": renamed}


def scaled(protocol: Protocol, images: int) -> tuple[Protocol, str]:
    """The protocol with `images` an iteration by the linear rule, and the factor as text: rate
    times k, iterations by k.

    Goyal et al., arXiv 1706.02677. Such rows are never averaged with unscaled ones. Raises
    InputError if no iteration is left.
    """
    s, k = protocol.schedule, Fraction(images, protocol.schedule.images)
    if not s.iterations and not s.epochs:  # nothing is trained: any batch gives the same
        return replace(protocol, schedule=replace(s, images=images)), "1"
    if s.epochs:
        return replace(protocol, schedule=replace(s, images=images, lr=float(s.lr * k))), str(k)
    if round(s.iterations / k) < 1:
        raise InputError(
            f"a batch of {images} leaves {protocol.name} no iteration: it has {s.iterations} of"
            f" {s.images} images"
        )
    longer = {"iterations": round(s.iterations / k), "warmup": round(s.warmup / k)}
    schedule = replace(
        s,
        images=images,
        lr=float(s.lr * k),
        steps=tuple(round(step / k) for step in s.steps),
        **longer,
    )
    return replace(protocol, schedule=schedule), str(k)


def departures(protocol: Protocol) -> tuple[str, ...]:
    """Where a protocol differs from the row of the same name, one text a field, e.g.
    `schedule.iterations 50 (protocol: 150)`."""
    row = PROTOCOLS.get(protocol.name)
    if row is None:
        return (f"protocol {protocol.name} is not in the table",)
    ours, theirs = flatten(asdict(protocol)), flatten(asdict(row))
    return tuple(
        f"{key} {_plain(ours[key])} (protocol: {_plain(theirs[key])})"
        for key in ours
        if ours[key] != theirs[key]
    )


def _plain(value: object) -> object:
    """Tuples as `--set` takes them: [64]."""
    return json.dumps(value) if isinstance(value, tuple) else value
