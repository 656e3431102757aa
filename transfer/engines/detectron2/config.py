"""A protocol's row as a plain Detectron2 config: get_cfg() and what differs from it.

Five keys are not Detectron2's own and there only where a run needs them: SOLVER.OPTIMIZER
("ADAMW"), INPUT.SCALE_TRAIN (a random factor instead of a short side),
MODEL.SEM_SEG_HEAD.DILATION, MODEL.NETWORK (see `models`) and INPUT.OPENED_AS (see
`data.OurImages`).
SOLVER.CLIP_GRADIENTS.CLIP_TYPE may be "full_model": one norm over all gradients.
"""

from dataclasses import dataclass

from detectron2.config import CfgNode, get_cfg

from detco.common.backbone_file import Backbone
from detco.common.networks import RESNET, key_of
from detco.common.values import flatten

from ...backbones.export import detectron2_config
from ...data.densepose import need_project
from ...settings import Detector, Protocol, Resize, Schedule

LEVELS = ("res2", "res3", "res4", "res5")
DATASETS = {  # our names of the published splits -> Detectron2's
    "coco/train2017": "coco_2017_train",
    "coco/val2017": "coco_2017_val",
    "VOC2007/trainval": "voc_2007_trainval",
    "VOC2012/trainval": "voc_2012_trainval",
    "VOC2007/test": "voc_2007_test",
    "coco/densepose_train2014": "densepose_coco_2014_train",
    "coco/densepose_valminusminival2014": "densepose_coco_2014_valminusminival",
    "coco/densepose_minival2014": "densepose_coco_2014_minival",
}
CITYSCAPES = {  # and where these depend on the task
    "mask-rcnn-fpn": "cityscapes_fine_instance_seg_",
    "fcn-16s": "cityscapes_fine_sem_seg_",
}
# MODEL.BACKBONE.FREEZE_AT; C4's res5 belongs to the head, `models.build` freezes that one
FROZEN_STAGES = {"none": 0, "res4": 4, "backbone": 5}


@dataclass(frozen=True)
class RunConfig:
    """What a run adds to protocol and weights. None: as in the published run."""

    classes: int | None = None
    keypoints: int = 17
    mask_format: str = "polygon"
    # (train, test) in Detectron2's catalog
    datasets: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    processes: int | None = None
    device: str = "cuda"
    workers: int = 4
    out: str = "./output"
    seed: int = -1
    amp: bool = False
    eval_period: int = 0
    opened_as: str = ""


def resolve(protocol: Protocol, backbone: Backbone, run: RunConfig = RunConfig()) -> CfgNode:
    """The config that is run: the protocol's detector and schedule, the backbone's
    preprocessing, how it is run."""
    cfg = empty("densepose" in protocol.metrics)
    d, norm = protocol.detector, norm_of(protocol, run)
    classes = run.classes or (
        protocol.data.classes if protocol.data else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    )
    keys = (
        _weights(protocol, backbone, norm)
        | _solver(protocol.schedule)
        | _input(protocol.resize)
        | _run(protocol, run)
    )
    if protocol.schedule.optimizer == "adamw":
        cfg.SOLVER.OPTIMIZER = "ADAMW"
    if backbone.family != RESNET:
        cfg.MODEL.NETWORK = network_keys(protocol, backbone)
    if run.opened_as:
        cfg.INPUT.OPENED_AS = run.opened_as
    if protocol.architecture == "fcn-16s":
        cfg.INPUT.SCALE_TRAIN, cfg.MODEL.SEM_SEG_HEAD.DILATION = (
            protocol.resize.scale,
            d.fcn_dilation,
        )
        keys |= _fcn(d, classes, norm)
    elif protocol.architecture == "retinanet":
        keys |= _fpn(d, LEVELS[1:], norm) | _retinanet(d, classes)
    else:
        heads = (
            _c4(d)
            if protocol.architecture.endswith("-c4")
            else _fpn(d, LEVELS, norm) | _standard_heads(d)
        )
        keys |= heads | _rcnn(protocol, classes, run.keypoints)
        if "densepose" in protocol.metrics:
            from . import densepose

            keys |= densepose.keys(protocol)
    if backbone.family != RESNET:
        keys["MODEL.BACKBONE.NAME"] = "build_network_pyramid"
    cfg.merge_from_list([item for pair in keys.items() for item in pair])
    return cfg


def empty(densepose: bool) -> CfgNode:
    """Detectron2's defaults, with those of its project DensePose where that is used."""
    if not densepose:
        return get_cfg()
    need_project("DensePose")
    from .densepose import add_keys

    return add_keys(get_cfg())


def network_keys(protocol: Protocol, backbone: Backbone) -> CfgNode:
    """MODEL.NETWORK: how timm builds a network that is no ResNet."""
    made = {"ARCH": backbone.arch, "ARGS": key_of(backbone.model_args)}
    return CfgNode(made | {"DROP_PATH": protocol.schedule.drop_path})


def norm_of(protocol: Protocol, run: RunConfig) -> str:
    """One process has nobody to synchronise with: BN. Torch's SyncBN runs on GPUs only; without
    them it is naiveSyncBN."""
    if protocol.detector.norm == "FrozenBN":
        return protocol.detector.norm
    if (run.processes or protocol.schedule.devices) == 1:
        return "BN"
    return protocol.detector.norm if run.device == "cuda" else "naiveSyncBN"


def differences(cfg: CfgNode) -> dict:
    """The keys in which a config differs from Detectron2's defaults, dotted, with their values."""
    default = flatten(empty("DENSEPOSE_ON" in cfg.MODEL))
    return {
        key: _plain(value)
        for key, value in flatten(cfg).items()
        if key not in default or _plain(default[key]) != _plain(value)
    }


def _plain(value):
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _weights(protocol: Protocol, backbone: Backbone, norm: str) -> dict:
    """What belongs to the backbone file; MODEL.WEIGHTS stays empty, the file is loaded strictly by
    the engine."""
    return {
        "MODEL.WEIGHTS": "",
        "MODEL.RESNETS.NORM": norm,
        "MODEL.BACKBONE.FREEZE_AT": FROZEN_STAGES[protocol.freeze],
        **detectron2_config(backbone),
    }


def _solver(schedule: Schedule) -> dict:
    keys = {
        "SOLVER.IMS_PER_BATCH": schedule.images,
        "SOLVER.BASE_LR": schedule.lr,
        "SOLVER.MAX_ITER": schedule.iterations,
        "SOLVER.STEPS": schedule.steps,
        "SOLVER.MOMENTUM": schedule.momentum,
        "SOLVER.WEIGHT_DECAY": schedule.weight_decay,
        "SOLVER.WARMUP_ITERS": schedule.warmup,
        "SOLVER.WARMUP_FACTOR": schedule.warmup_from,
        "SOLVER.LR_SCHEDULER_NAME": (
            "WarmupCosineLR" if schedule.decay == "cosine" else "WarmupMultiStepLR"
        ),
        "TEST.PRECISE_BN.ENABLED": schedule.precise_bn > 0,
    }
    if schedule.precise_bn:
        keys["TEST.PRECISE_BN.NUM_ITER"] = schedule.precise_bn
    if schedule.clip:
        clip = "SOLVER.CLIP_GRADIENTS."
        keys |= {
            clip + "ENABLED": True,
            clip + "CLIP_TYPE": "full_model",
            clip + "CLIP_VALUE": schedule.clip,
        }
    return keys


def _input(resize: Resize) -> dict:
    keys = {
        "INPUT.MIN_SIZE_TRAIN": resize.train,
        "INPUT.MAX_SIZE_TRAIN": resize.train_max,
        "INPUT.MIN_SIZE_TEST": resize.test,
        "INPUT.MAX_SIZE_TEST": resize.test_max,
    }
    if resize.crop:
        crop = "INPUT.CROP."
        keys |= {
            crop + "ENABLED": True,
            crop + "TYPE": "absolute",
            crop + "SIZE": [resize.crop, resize.crop],
        }
    return keys


def _c4(d: Detector) -> dict:
    return {
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": d.roi_size,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    }


def _fpn(d: Detector, levels: tuple[str, ...], norm: str) -> dict:
    name = (
        "build_resnet_fpn_backbone" if len(levels) == 4 else "build_retinanet_resnet_fpn_backbone"
    )
    return {
        "MODEL.BACKBONE.NAME": name,
        "MODEL.RESNETS.OUT_FEATURES": list(levels),
        "MODEL.FPN.IN_FEATURES": list(levels),
        "MODEL.FPN.OUT_CHANNELS": d.fpn_channels,
        "MODEL.FPN.NORM": "" if norm == "FrozenBN" else norm,
    }


def _standard_heads(d: Detector) -> dict:
    return {
        "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
        "MODEL.ROI_BOX_HEAD.FC_DIM": d.fc_width,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": d.roi_size,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": d.mask_convs,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": d.fpn_channels,
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": d.mask_size,
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": d.mask_size,
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": d.keypoint_convs,
    }


def _anchors(d: Detector) -> dict:
    return {
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(sizes) for sizes in d.anchors],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(d.aspect_ratios)],
        "TEST.DETECTIONS_PER_IMAGE": d.detections,
    }


def _rcnn(protocol: Protocol, classes: int, keypoints: int) -> dict:
    d, rpn = protocol.detector, "MODEL.RPN."
    sampling = {
        f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO": d.sampling_ratio
        for head in ("BOX", "MASK", "KEYPOINT")
    }
    return (
        _anchors(d)
        | sampling
        | {
            "MODEL.MASK_ON": "mask" in protocol.metrics,
            "MODEL.KEYPOINT_ON": "keypoint" in protocol.metrics,
            rpn + "PRE_NMS_TOPK_TRAIN": d.rpn_pre_nms[0],
            rpn + "PRE_NMS_TOPK_TEST": d.rpn_pre_nms[1],
            rpn + "POST_NMS_TOPK_TRAIN": d.rpn_post_nms[0],
            rpn + "POST_NMS_TOPK_TEST": d.rpn_post_nms[1],
            rpn + "BATCH_SIZE_PER_IMAGE": d.rpn_batch,
            "MODEL.ROI_HEADS.NUM_CLASSES": classes,
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": d.roi_batch,
            "MODEL.ROI_HEADS.POSITIVE_FRACTION": d.roi_positive,
            "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": d.box_beta,
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": keypoints,
        }
    )


def _retinanet(d: Detector, classes: int) -> dict:
    return _anchors(d) | {
        "MODEL.META_ARCHITECTURE": "RetinaNet",
        "MODEL.RETINANET.NUM_CLASSES": classes,
        "MODEL.RETINANET.NUM_CONVS": d.retina_convs,
        "MODEL.RETINANET.NORM": d.retina_norm,
        "MODEL.RETINANET.PRIOR_PROB": d.retina_prior,
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
    }


def _fcn(d: Detector, classes: int, norm: str) -> dict:
    head = "MODEL.SEM_SEG_HEAD."
    return {
        "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL.RESNETS.OUT_FEATURES": ["res5"],
        "MODEL.RESNETS.RES5_DILATION": 2,
        head + "NAME": "FCN16sHead",
        head + "IN_FEATURES": ["res5"],
        head + "NUM_CLASSES": classes,
        head + "CONVS_DIM": d.fcn_channels,
        head + "COMMON_STRIDE": 16,
        head + "NORM": norm,
    }


def _run(protocol: Protocol, run: RunConfig) -> dict:
    train, test = run.datasets or published_names(protocol)
    return {
        "DATASETS.TRAIN": train,
        "DATASETS.TEST": test,
        "INPUT.MASK_FORMAT": run.mask_format,
        "MODEL.DEVICE": run.device,
        "DATALOADER.NUM_WORKERS": run.workers,
        "SOLVER.AMP.ENABLED": run.amp,
        "TEST.EVAL_PERIOD": run.eval_period,
        "OUTPUT_DIR": run.out,
        "SEED": run.seed,
    }


def published_names(protocol: Protocol) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The published data sets under the names of Detectron2's own catalog; a share of COCO has none
    and keeps ours."""
    if protocol.data is None:
        return (), ()
    return tuple(_catalog_name(protocol, split) for split in protocol.data.train), (
        _catalog_name(protocol, protocol.data.test),
    )


def _catalog_name(protocol: Protocol, split: str) -> str:
    if split.startswith("cityscapes/"):
        return CITYSCAPES[protocol.architecture] + split.rpartition("/")[2]
    name = DATASETS.get(split, split.replace("/", "_"))
    return name.replace("coco_", "keypoints_coco_") if "keypoint" in protocol.metrics else name
