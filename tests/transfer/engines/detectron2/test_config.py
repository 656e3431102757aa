"""Rows as Detectron2 configs: what differs from Detectron2's defaults is what MoCo and DetCo
published, and nothing else."""

import hashlib
import json
from dataclasses import replace

import pytest

from detco.common import backbone_file
from detco.transfer import engines
from detco.transfer.protocols import PROTOCOLS

pytestmark = pytest.mark.detectron2
get_cfg = pytest.importorskip("detectron2.config").get_cfg
config = pytest.importorskip("detco.transfer.engines.detectron2.config")

FROZEN = {
    "small-faster-rcnn-c4": "8cee085ed6b5fef3",
    "small-faster-rcnn-fpn": "d09db070f3044984",
    "small-mask-rcnn-c4": "c066260583a212a4",
    "small-mask-rcnn-fpn": "8eb6938cfa8209bd",
    "small-retinanet": "8bec194ecfc7d399",
    "small-keypoint-rcnn": "5885e2bcd319ac3a",
    "small-faster-rcnn-fpn-long": "0bcebe00917e333b",
    "small-retinanet-long": "ec82b60e9bea859e",
    "small-keypoint-rcnn-long": "f9668045e1a51b5a",
    "small-faster-rcnn-c4-long": "35988e3d5e157799",
    "small-faster-rcnn-fpn-long-frozen": "dd4b1f716a30f02b",
    "coco-mask-rcnn-c4-12k": "1cb4c85a436e551c",
    "coco-mask-rcnn-c4-90k": "961ba7f8b9e8e1ab",
    "coco-mask-rcnn-c4-180k": "d4ea27d557ab2214",
    "coco-mask-rcnn-fpn-12k": "9a67f5e722fdfdbf",
    "coco-mask-rcnn-fpn-90k": "0055f42ca666680c",
    "coco-mask-rcnn-fpn-180k": "f4fcaa38b698dbaf",
    "coco-retinanet-12k": "1125b8294ec3bea8",
    "coco-retinanet-90k": "08f5196af81f43dc",
    "coco-retinanet-180k": "acb82e297671b719",
    "coco-keypoint-rcnn-180k": "9b7408169a947ba2",
    "voc-faster-rcnn-c4-24k": "90235ccb377b4738",
    "cityscapes-instance": "6d5df8261a8b63fe",
    "cityscapes-semantic": "a86f74b48f283e0e",
    "voc-faster-rcnn-fpn-144k": "c2c4f9e9b373b0ca",
    "voc-faster-rcnn-fpn-144k-frozen": "959d603efab0908f",
    "coco-1pct-mask-rcnn-fpn": "fc025746cde5c6ea",
    "coco-2pct-mask-rcnn-fpn": "70de55f4efd44fde",
    "coco-5pct-mask-rcnn-fpn": "ab662b2bd481e19a",
    "coco-10pct-mask-rcnn-fpn": "f7b4bb9eef585574",
    "coco-1pct-retinanet": "4b127428b30535ac",
    "coco-2pct-retinanet": "4b361b5a18ebfb59",
    "coco-5pct-retinanet": "e2e118e104420566",
    "coco-10pct-retinanet": "2a34677463edbcc7",
}

# What the published configs set, as differences from Detectron2's get_cfg(). MODEL.WEIGHTS apart,
# PROTOCOLS names two departures: MAX_SIZE_TRAIN 1333 where DetCo's C4 configs for self-supervised
# weights say 1200, and SyncBN.
COMMON = {
    "INPUT.FORMAT": "RGB",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "TEST.PRECISE_BN.ENABLED": True,
    "SOLVER.BASE_LR": 0.02,
}
COCO = {
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
    "INPUT.MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800],
}
SCHEDULES = {
    "12k": {"SOLVER.MAX_ITER": 12000, "SOLVER.STEPS": [9000, 11000]},
    "90k": {"SOLVER.MAX_ITER": 90000, "SOLVER.STEPS": [60000, 80000]},
    "180k": {"SOLVER.MAX_ITER": 180000, "SOLVER.STEPS": [120000, 160000]},
}
C4 = {"MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm"}
FPN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
}
RETINA = {
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
    "SOLVER.BASE_LR": 0.01,
    "MODEL.ANCHOR_GENERATOR.SIZES": [
        [x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)
    ],
}
MASK = {"MODEL.MASK_ON": True}
PUBLISHED = {
    **{
        f"coco-mask-rcnn-c4-{k}": COMMON | COCO | C4 | MASK | schedule
        for k, schedule in SCHEDULES.items()
    },
    **{
        f"coco-mask-rcnn-fpn-{k}": COMMON | COCO | FPN | MASK | schedule
        for k, schedule in SCHEDULES.items()
    },
    **{
        f"coco-retinanet-{k}": COMMON | COCO | RETINA | schedule
        for k, schedule in SCHEDULES.items()
    },
    "coco-keypoint-rcnn-180k": (
        COMMON
        | COCO
        | FPN
        | SCHEDULES["180k"]
        | {
            "MODEL.KEYPOINT_ON": True,
            "MODEL.ROI_HEADS.NUM_CLASSES": 1,
            "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
            "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
            "DATASETS.TRAIN": ["keypoints_coco_2017_train"],
            "DATASETS.TEST": ["keypoints_coco_2017_val"],
        }
    ),
    "voc-faster-rcnn-c4-24k": (
        COMMON
        | C4
        | {
            "MODEL.ROI_HEADS.NUM_CLASSES": 20,
            "INPUT.MIN_SIZE_TRAIN": [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
            "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"],
            "DATASETS.TEST": ["voc_2007_test"],
            "SOLVER.STEPS": [18000, 22000],
            "SOLVER.MAX_ITER": 24000,
            "SOLVER.WARMUP_ITERS": 100,
        }
    ),
    "cityscapes-instance": (
        COMMON
        | FPN
        | MASK
        | {
            "MODEL.ROI_HEADS.NUM_CLASSES": 8,
            "INPUT.MIN_SIZE_TRAIN": [800, 832, 864, 896, 928, 960, 992, 1024],
            "INPUT.MIN_SIZE_TEST": 1024,
            "INPUT.MAX_SIZE_TRAIN": 2048,
            "INPUT.MAX_SIZE_TEST": 2048,
            "DATASETS.TRAIN": ["cityscapes_fine_instance_seg_train"],
            "DATASETS.TEST": ["cityscapes_fine_instance_seg_val"],
            "SOLVER.BASE_LR": 0.01,
            "SOLVER.STEPS": [18000],
            "SOLVER.MAX_ITER": 24000,
            "SOLVER.IMS_PER_BATCH": 8,
        }
    ),
}


@pytest.fixture(scope="module")
def backbone():
    return backbone_file.Backbone("resnet50", {})


def resolved(name: str, backbone, **run) -> dict:
    return config.differences(config.resolve(PROTOCOLS[name], backbone, config.RunConfig(**run)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_differs_from_detectron2s_defaults_as_the_published_config_does(name, backbone):
    assert resolved(name, backbone) == PUBLISHED[name]


def test_resolved_configs_are_frozen(backbone):
    texts = {
        name: json.dumps(resolved(name, backbone), sort_keys=True)
        for name, row in PROTOCOLS.items()
        if engines.serving("detectron2", row.architecture) == "detectron2"
        and not row.densepose  # beside the project's own files: densepose/test_config.py
    }
    assert {
        name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()
    } == FROZEN


@pytest.mark.parametrize("percent", [1, 2, 5, 10])
def test_shares_of_coco_are_the_12k_rows_on_other_data(percent, backbone):
    for detector in ("mask-rcnn-fpn", "retinanet"):
        whole = resolved(f"coco-{detector}-12k", backbone)
        assert resolved(f"coco-{percent}pct-{detector}", backbone) == whole | {
            "DATASETS.TRAIN": [f"coco_train2017_{percent}pct"]
        }


def test_preprocessing_comes_from_the_weights(backbone):
    """The MSRA checkpoint's settings are Detectron2's own defaults: they vanish
    from the differences."""
    msra = replace(
        backbone,
        channel_order="BGR",
        mean=(103.53, 116.28, 123.675),
        std=(1.0, 1.0, 1.0),
        stride_in="1x1",
    )
    own = {"INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1"}
    for name, published in PUBLISHED.items():
        assert resolved(name, msra) == {
            key: value for key, value in published.items() if key not in own
        }


@pytest.mark.parametrize(
    ("processes", "device", "asked", "norm"),
    [
        (1, "cuda", "SyncBN", "BN"),
        (8, "cuda", "SyncBN", "SyncBN"),
        (8, "cuda", "naiveSyncBN", "naiveSyncBN"),
        (2, "cpu", "SyncBN", "naiveSyncBN"),
        (1, "cpu", "naiveSyncBN", "BN"),
    ],
)
def test_norm_by_processes(processes, device, asked, norm, backbone):
    row = PROTOCOLS["coco-mask-rcnn-fpn-12k"]
    row = replace(row, detector=replace(row.detector, norm=asked))
    cfg = config.resolve(row, backbone, config.RunConfig(processes=processes, device=device))
    assert cfg.MODEL.RESNETS.NORM == cfg.MODEL.FPN.NORM == norm


def test_semantic_row_is_the_appendix_of_moco(backbone):
    found = resolved("cityscapes-semantic", backbone)
    head = {
        key.rpartition(".")[2]: value
        for key, value in found.items()
        if key.startswith("MODEL.SEM_SEG_HEAD.")
    }
    assert head == {
        "NAME": "FCN16sHead",
        "IN_FEATURES": ["res5"],
        "NUM_CLASSES": 19,
        "CONVS_DIM": 256,
        "COMMON_STRIDE": 16,
        "NORM": "SyncBN",
        "DILATION": 6,
    }
    assert found["MODEL.RESNETS.RES5_DILATION"] == 2 and found["INPUT.CROP.SIZE"] == [769, 769]
    assert found["INPUT.SCALE_TRAIN"] == [0.5, 2.0] and found["SOLVER.MAX_ITER"] == -(
        -200 * 2975 // 16
    )


def test_detectron2_reads_what_is_printed(backbone, tmp_path):
    """Rows with keys of our own (AdamW, the semantic head) apart."""
    for name in PUBLISHED:
        cfg = config.resolve(PROTOCOLS[name], backbone)
        (tmp_path / "config.yaml").write_text(cfg.dump())
        again = get_cfg()
        again.merge_from_file(tmp_path / "config.yaml")
        assert config.differences(again) == config.differences(cfg)


@pytest.mark.parametrize("frozen", ["", "-frozen"])
def test_the_fpn_rows_of_voc_are_those_of_ssl_transfer(frozen, backbone):
    """Its two YAML files over Base-RCNN-FPN, key by key."""
    expected = {
        "INPUT.MIN_SIZE_TRAIN": list(range(480, 801, 32)),
        "MODEL.BACKBONE.FREEZE_AT": 4 if frozen else 0,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.FPN.NORM": "",
        "MODEL.ROI_HEADS.NUM_CLASSES": 20,
        "MODEL.MASK_ON": False,
        "SOLVER.BASE_LR": 0.0025,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.STEPS": [96_000, 128_000],
        "SOLVER.MAX_ITER": 144_000,
        "SOLVER.WARMUP_ITERS": 100,
    }
    row = PROTOCOLS[f"voc-faster-rcnn-fpn-144k{frozen}"]
    found = config.flatten(config.resolve(row, backbone))
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()}
    assert {key: plain[key] for key in expected} == expected
