"""What a protocol is: schedule, sizes of images, detector or classifier, data; each setting with
its range and its key in Detectron2's configs."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from detco.common.errors import InputError
from detco.common.resnet import ARCHS
from detco.common.settings import check

from . import data as layouts
from .scoring import SCORERS

# Ranges: every way to make a row checks them.
Count = Annotated[int, Ge(1)]
Amount = Annotated[int, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
Factor = Annotated[float, Gt(0), Le(1)]
NotNegative = Annotated[float, Ge(0)]
Sizes = Annotated[tuple[Annotated[int | float, Gt(0)], ...], MinLen(1)]

Architecture = Literal[
    "faster-rcnn-c4",
    "faster-rcnn-fpn",
    "mask-rcnn-c4",
    "mask-rcnn-fpn",
    "retinanet",
    "keypoint-rcnn-fpn",
    "densepose-rcnn-fpn",
    "fcn-16s",
    "knn",
    "linear",
    "svm",
]

# What the heads of each architecture find, and the levels of its features that have anchors (0:
# none have).
HEADS: dict[str, tuple[frozenset[str], int]] = {
    "faster-rcnn-c4": (frozenset({"box"}), 1),
    "faster-rcnn-fpn": (frozenset({"box"}), 5),
    "mask-rcnn-c4": (frozenset({"box", "mask"}), 1),
    "mask-rcnn-fpn": (frozenset({"box", "mask"}), 5),
    "retinanet": (frozenset({"box"}), 5),
    "keypoint-rcnn-fpn": (frozenset({"box", "keypoint"}), 5),
    "densepose-rcnn-fpn": (frozenset({"box", "densepose"}), 5),
    "fcn-16s": (frozenset({"semantic"}), 0),
    "knn": (frozenset({"class"}), 0),
    "linear": (frozenset({"class"}), 0),
    "svm": (frozenset({"class"}), 0),
}
# What the loss of each architecture adds up, for the axis of a chart.
LOSSES: dict[str, str] = {
    "faster-rcnn-c4": "total loss: RPN, boxes",
    "faster-rcnn-fpn": "total loss: RPN, boxes",
    "mask-rcnn-c4": "total loss: RPN, boxes, masks",
    "mask-rcnn-fpn": "total loss: RPN, boxes, masks",
    "retinanet": "total loss: focal, boxes",
    "keypoint-rcnn-fpn": "total loss: RPN, boxes, keypoints",
    "densepose-rcnn-fpn": "total loss: RPN, boxes, body parts, U and V",
    "fcn-16s": "cross-entropy of pixels",
    "linear": "cross-entropy of classes",
}
TIMM_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)+")  # is there one? `finetune.refuse_backbone`
CLASSIFIERS = ("knn", "linear", "svm")  # of pooled features; the backbone stays as it is


@dataclass(frozen=True)
class Schedule:
    """Optimisation. The keys of Detectron2's configs that are meant stand in brackets."""

    iterations: Annotated[
        Amount, "updates (SOLVER.MAX_ITER); 0: as many as `epochs` say, or nothing is trained"
    ]
    images: Annotated[Count, "images an iteration, over all devices (SOLVER.IMS_PER_BATCH)"]
    lr: Annotated[NotNegative, "learning rate for `images` an iteration (SOLVER.BASE_LR)"]
    optimizer: Annotated[Literal["sgd", "adamw"], "the published rows: SGD with momentum"] = "sgd"
    decay: Annotated[
        Literal["step", "cosine"],
        "step: x 0.1 at each of `steps`; cosine: to 0 over all iterations",
    ] = "step"
    steps: Annotated[tuple[Amount, ...], "iterations at which the rate drops (SOLVER.STEPS)"] = ()
    momentum: Annotated[Share, "of SGD; AdamW has none (SOLVER.MOMENTUM)"] = 0.9
    weight_decay: Annotated[
        NotNegative, "of all weights but those of norm layers (SOLVER.WEIGHT_DECAY)"
    ] = 1e-4
    warmup: Annotated[
        Amount, "iterations over which the rate rises linearly (SOLVER.WARMUP_ITERS)"
    ] = 1000
    warmup_from: Annotated[Share, "share of the rate at which it begins (SOLVER.WARMUP_FACTOR)"] = (
        0.001
    )
    clip: Annotated[NotNegative, "largest norm of all gradients together; 0: no clipping"] = 0.0
    precise_bn: Annotated[
        Amount,
        "iterations over which BN statistics are estimated anew before the test; 0: off"
        " (TEST.PRECISE_BN)",
    ] = 200
    devices: Annotated[Count, "GPUs over which the published run spread its images"] = 1
    epochs: Annotated[
        Amount, "passes over the training images in place of iterations; `steps` are then epochs"
    ] = 0
    layer_decay: Annotated[
        Factor,
        "each layer's rate over that of the layer above it; 1: all alike. ViT, ConvNeXt and Swin"
        " only (ViTDet: 0.7 to 0.9)",
    ] = 1.0
    drop_path: Annotated[
        Share,
        "share of residual branches that an image skips in training, rising from 0 to this in the"
        " last block. ViT, ConvNeXt and Swin only (stochastic depth)",
    ] = 0.0

    def __post_init__(self) -> None:
        check(self)
        if self.epochs and (self.iterations or self.warmup):
            raise InputError("Schedule: with schedule.epochs iterations and warmup must be 0")

    def decayed(self, done: int) -> float:
        """Factor on the rate after so many iterations (or epochs, where those are counted): steps
        or half a cosine, without the warm-up."""
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done / (self.epochs or self.iterations)))
        return 0.1 ** sum(done >= step for step in self.steps)

    @property
    def length(self) -> str:
        """How long is trained, for tables: `24,000`, `100 epochs`, `none`."""
        if self.epochs:
            return f"{self.epochs} epochs"
        return f"{self.iterations:,}" if self.iterations else "none"


@dataclass(frozen=True)
class Resize:
    """Sizes of images in pixels. With `scale` images are trained on at a factor drawn from that
    range instead of a short side, and cropped to `crop` x `crop` pixels. Classifiers see the centre
    of `crop` x `crop` pixels of an image whose short side is `test`."""

    train: Annotated[
        tuple[Count, ...],
        MinLen(1),
        "pixels: short sides, one drawn for each image that is trained on (INPUT.MIN_SIZE_TRAIN)",
    ] = (640, 672, 704, 736, 768, 800)
    train_max: Annotated[Count, "pixels: longest side in training (INPUT.MAX_SIZE_TRAIN)"] = 1333
    test: Annotated[Count, "pixels: short side of test images (INPUT.MIN_SIZE_TEST)"] = 800
    test_max: Annotated[Count, "pixels: their longest side (INPUT.MAX_SIZE_TEST)"] = 1333
    scale: Annotated[tuple[Positive, ...], "least and largest factor in training; (): none"] = ()
    crop: Annotated[Amount, "pixels a side of random crops in training; 0: none"] = 0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Detector:
    """What the detector adds to the backbone. The defaults are Detectron2's for FPN; (train, test)
    where two are given."""

    anchors: Annotated[
        tuple[Sizes, ...],
        MinLen(1),
        "pixels: sides of the anchors of each level (ANCHOR_GENERATOR)",
    ] = ((32,), (64,), (128,), (256,), (512,))
    aspect_ratios: Annotated[
        tuple[Positive, ...], MinLen(1), "height over width of anchors (ANCHOR_GENERATOR)"
    ] = (0.5, 1.0, 2.0)
    rpn_pre_nms: Annotated[
        tuple[Count, Count], "proposals of each level before NMS (RPN.PRE_NMS_TOPK)"
    ] = (2000, 1000)
    rpn_post_nms: Annotated[
        tuple[Count, Count], "proposals of an image after NMS (RPN.POST_NMS_TOPK)"
    ] = (1000, 1000)
    rpn_batch: Annotated[Count, "anchors of an image in the loss (RPN.BATCH_SIZE_PER_IMAGE)"] = 256
    roi_batch: Annotated[Count, "boxes of an image in the loss (ROI_HEADS)"] = 512
    roi_positive: Annotated[Share, "largest share of positives among them (ROI_HEADS)"] = 0.25
    roi_size: Annotated[Count, "cells a side of RoIAlign for boxes (POOLER_RESOLUTION)"] = 7
    sampling_ratio: Annotated[Amount, "RoIAlign samples a cell and side; 0: as many as fit"] = 0
    fpn_channels: Annotated[Count, "width of the FPN and of mask heads (FPN.OUT_CHANNELS)"] = 256
    fc_width: Annotated[Count, "width of the box head's two layers (ROI_BOX_HEAD.FC_DIM)"] = 1024
    mask_size: Annotated[
        Count, "cells a side of RoIAlign for masks, which have twice as much, and keypoints"
    ] = 14
    mask_convs: Annotated[
        Amount, "convolutions of the mask head; C4's has none, and pools once for boxes and masks"
    ] = 4
    keypoint_convs: Annotated[
        tuple[Count, ...], MinLen(1), "widths of the keypoint head's convolutions (CONV_DIMS)"
    ] = (512,) * 8
    retina_convs: Annotated[Count, "convolutions of RetinaNet's heads (RETINANET.NUM_CONVS)"] = 4
    retina_norm: Annotated[
        Literal["", "GN"], "norm of RetinaNet's heads; GN: groups of 32 (RETINANET.NORM)"
    ] = ""
    retina_prior: Annotated[
        float, Gt(0), Lt(1), "probability of an object at the start (RETINANET.PRIOR_PROB)"
    ] = 0.01
    detections: Annotated[Count, "kept for each image (TEST.DETECTIONS_PER_IMAGE)"] = 100
    box_beta: Annotated[NotNegative, "smooth L1 of the box head; 0: plain L1"] = 0.0
    norm: Annotated[
        Literal["SyncBN", "naiveSyncBN", "FrozenBN"],
        "SyncBN, naiveSyncBN: over all processes (one has plain BN); FrozenBN: the backbone's norms"
        " stay as they are and the FPN has none, as in Detectron2's own configs",
    ] = "SyncBN"
    fcn_channels: Annotated[Count, "width of FCN-16s' two convolutions; MoCo, appendix"] = 256
    fcn_dilation: Annotated[Count, "their dilation; MoCo, appendix"] = 6

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class DensePose:
    """The head that finds the surface of the body in a box, and its losses. The defaults are those
    of the project DensePose's configs `s1x` (MODEL.ROI_DENSEPOSE_HEAD)."""

    dp_size: Annotated[
        Count, "cells a side of RoIAlign; the outputs have four times as many (POOLER_RESOLUTION)"
    ] = 28
    dp_convs: Annotated[Count, "convolutions of the head (NUM_STACKED_CONVS)"] = 8
    dp_width: Annotated[Count, "their width (CONV_HEAD_DIM)"] = 512
    dp_parts: Annotated[
        Literal[2, 15],
        "classes of the coarse mask: person and none, or 14 parts and none"
        " (NUM_COARSE_SEGM_CHANNELS)",
    ] = 2
    dp_decoder: Annotated[
        Amount, "width of the decoder that joins the FPN's levels; 0: none (DECODER_CONV_DIMS)"
    ] = 256
    dp_weights: Annotated[
        tuple[NotNegative, NotNegative, NotNegative],
        "weights of the losses of coarse mask, part and U, V (INDEX_WEIGHTS, PART_WEIGHTS,"
        " POINT_REGRESSION_WEIGHTS)",
    ] = (5.0, 1.0, 0.01)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Classifier:
    """What is learnt from the pooled features of a frozen backbone: of `knn`, `linear` and `svm`,
    each of which uses some of these."""

    level: Annotated[
        Literal["res2", "res3", "res4", "res5"], "whose features are averaged over the image"
    ] = "res5"
    augment: Annotated[
        bool, "linear: random crops and flips; false: the centre, features computed once"
    ] = False
    neighbours: Annotated[tuple[Count, ...], "knn: how many of the nearest images vote"] = ()
    temperature: Annotated[Positive, "knn: a vote counts exp(cosine similarity / temperature)"] = (
        0.07
    )
    costs: Annotated[tuple[Positive, ...], "svm: costs C that are tried for each class"] = ()
    folds: Annotated[int, Ge(2), "svm: parts of the cross-validation that picks a cost"] = 3
    shots: Annotated[
        tuple[Count, ...], "svm: positives of a class that it learns from, drawn by seed; (): all"
    ] = ()

    def __post_init__(self) -> None:
        check(self)
        for name in ("neighbours", "costs", "shots"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise InputError(f"Classifier: {name} names one twice: {list(values)}")

    @property
    def by_neighbours(self) -> tuple[str, ...]:
        """The metric of each of `neighbours`."""
        return tuple(f"knn{k}" for k in self.neighbours)

    @property
    def by_shots(self) -> tuple[str, ...]:
        """The metric of each of `shots`; a single "" where all images are learnt from."""
        return tuple(f"svm_map_{count}" for count in self.shots) or ("",)


@dataclass(frozen=True)
class Published:
    """The data set of the published numbers: "FOLDER/SPLIT" below the folder that
    DETECTRON2_DATASETS names."""

    layout: Annotated[str, "how labels are stored: voc, coco, cityscapes or imagefolder"]
    train: Annotated[tuple[str, ...], "splits that are trained on, joined"]
    test: Annotated[str, "split that is tested on"]
    classes: Annotated[Count, "number of classes"]
    images: Annotated[tuple[Count, Count], "number of images to train on and to test on"]

    def __post_init__(self) -> None:
        check(self)
        layouts.get(self.layout)


@dataclass(frozen=True)
class Protocol:
    """One transfer protocol. `scorer` is the definition of AP (COCO's, VOC's of that year,
    Cityscapes'): never one name."""

    name: Annotated[str, "of the row"]
    version: Annotated[Count, "rises with every change of the row"]
    source: Annotated[str, "paper or configs that the settings are from"]
    architecture: Annotated[Architecture, "the detector around the backbone"]
    schedule: Schedule
    resize: Resize = Resize()
    detector: Detector = Detector()
    metrics: Annotated[
        tuple[Literal["box", "mask", "keypoint", "densepose", "semantic", "class"], ...],
        "what is found and scored",
    ] = ("box",)
    scorer: Annotated[
        str,
        "definition of AP: coco, voc2007, voc2012, gps or cityscapes; of classes: accuracy,"
        " class-ap",
    ] = "coco"
    arch: Annotated[
        str, "of the backbone where the weights are random: a ResNet or timm's name of a model"
    ] = "resnet50"
    freeze: Annotated[
        Literal["none", "res4", "backbone"],
        "tensors of the backbone file that stay as they are; res4: up to that stage, backbone: all,"
        " C4's res5 included",
    ] = "none"
    # any other data set of that kind can be given
    data: Annotated[Published | None, "the published data set, if there is one"] = None
    classifier: Annotated[Classifier | None, "of knn, linear and svm, which have no detector"] = (
        None
    )
    densepose: Annotated[DensePose | None, "of densepose-rcnn-fpn"] = None

    def __post_init__(self) -> None:
        check(self)
        self._check_training()
        if self.scorer not in SCORERS:
            known = ", ".join(SCORERS)
            raise InputError(f"Protocol: scorer must be one of {known}, got {self.scorer!r}")
        if not set(self.metrics) <= set(SCORERS[self.scorer].metrics):
            able = ", ".join(SCORERS[self.scorer].metrics)
            text = f"the scorer {self.scorer!r} has the metrics {able}, got {list(self.metrics)}"
            raise InputError(f"Protocol: {text}")
        if self.arch not in ARCHS and not TIMM_NAME.fullmatch(self.arch):
            raise InputError(
                f"Protocol: arch must be one of {', '.join(ARCHS)} or a model of timm, got"
                f" {self.arch!r}"
            )
        heads, levels = HEADS[self.architecture]
        if not self.metrics or not heads.issuperset(self.metrics):
            found = list(self.metrics)
            text = f"metrics must be some of {', '.join(sorted(heads))}, got {found}"
            raise InputError(f"Protocol: {text} ({self.architecture})")
        if len(set(self.metrics)) < len(self.metrics):
            raise InputError(f"Protocol: metrics names one twice: {list(self.metrics)}")
        if levels and len(self.detector.anchors) != levels:
            text = f"anchors must have {levels} lists of sizes, one for each level"
            count = len(self.detector.anchors)
            raise InputError(f"Protocol: detector.{text} of {self.architecture}, got {count}")

    def _check_training(self) -> None:
        """InputError where schedule, classifier and what is frozen do not fit the architecture."""
        classifies, s = self.architecture in CLASSIFIERS, self.schedule
        if classifies != (self.classifier is not None):
            raise InputError(
                f"Protocol: a classifier belongs to {', '.join(CLASSIFIERS)}, and to nothing else;"
                f" the architecture is {self.architecture}"
            )
        if (self.architecture == "densepose-rcnn-fpn") != (self.densepose is not None):
            raise InputError(
                "Protocol: densepose belongs to densepose-rcnn-fpn, and to nothing else; the"
                f" architecture is {self.architecture}"
            )
        if classifies and self.freeze != "backbone":
            raise InputError(f"Protocol: {self.architecture} needs freeze backbone")
        if classifies and not 0 < self.resize.crop <= self.resize.test:
            raise InputError(
                f"Protocol: resize.crop must be from 1 to resize.test ({self.resize.test}), got"
                f" {self.resize.crop}"
            )
        trained = self.architecture not in ("knn", "svm")
        if not classifies and not s.iterations:
            raise InputError("Protocol: schedule.iterations must be at least 1, got 0")
        if trained and not s.iterations and not s.epochs:
            raise InputError("Protocol: schedule.epochs must be at least 1, got 0")
        if trained and not s.lr:
            raise InputError("Protocol: schedule.lr must be above 0, got 0")
        if classifies:
            self._check_classifier()

    def _check_classifier(self) -> None:
        assert self.classifier is not None
        wanted = {"knn": "neighbours", "svm": "costs"}.get(self.architecture)
        if wanted and not getattr(self.classifier, wanted):
            raise InputError(f"Protocol: classifier.{wanted} must have 1 or more values, got 0")
        if self.classifier.shots and len(self.classifier.costs) > 1:
            raise InputError(
                "Protocol: with classifier.shots there must be one of classifier.costs, as a few"
                " images are too few to pick it by"
            )

    @property
    def answers(self) -> tuple[str, ...]:
        """The metrics of a classifier that gives several answers for each image, one for each:
        `knn20`; "" where it gives one."""
        made = self.classifier
        if made is None:
            return ()
        return made.by_neighbours if self.architecture == "knn" else made.by_shots

    @property
    def least_images(self) -> int:
        """How many training images of each class a classifier needs: two to compare, one in each
        fold, or as many as its shots."""
        made = self.classifier
        if made is None:
            return 0
        return max(made.shots or (2 if self.architecture in ("knn", "linear") else made.folds,))
