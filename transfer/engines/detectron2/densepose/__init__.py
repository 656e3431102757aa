"""Detectron2's project DensePose for one architecture: its config, its outputs as COCO
results. Import this only where the project is installed."""

from pathlib import Path

from densepose import add_densepose_config
from densepose.converters import ToChartResultConverter
from densepose.structures import quantize_densepose_chart_result
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from ....data import densepose
from ....scoring.densepose import MOST
from ....settings import Protocol

HEAD = "MODEL.ROI_DENSEPOSE_HEAD."
CELLS = 4  # of the outputs along a side, for each one of RoIAlign: a deconvolution, then resized


def add_keys(cfg: CfgNode) -> CfgNode:
    """The config with the project's own keys."""
    add_densepose_config(cfg)
    return cfg


def keys(protocol: Protocol) -> dict:
    """What the project's configs `s1x` set beside a Faster R-CNN's keys."""
    d = protocol.densepose
    assert d is not None
    coarse, part, uv = d.dp_weights
    decoder = {
        "DECODER_CONV_DIMS": d.dp_decoder,
        "DECODER_NUM_CLASSES": protocol.detector.fpn_channels,
    }
    head = {
        "NAME": "DensePoseV1ConvXHead",
        "POOLER_TYPE": "ROIAlign",
        "POOLER_RESOLUTION": d.dp_size,
        "HEATMAP_SIZE": CELLS * d.dp_size,
        "NUM_STACKED_CONVS": d.dp_convs,
        "CONV_HEAD_DIM": d.dp_width,
        "NUM_COARSE_SEGM_CHANNELS": d.dp_parts,
        "DECODER_ON": d.dp_decoder > 0,
        "INDEX_WEIGHTS": coarse,
        "PART_WEIGHTS": part,
        "POINT_REGRESSION_WEIGHTS": uv,
    } | (decoder if d.dp_decoder else {})
    return {HEAD + key: value for key, value in head.items()} | {
        "MODEL.DENSEPOSE_ON": True,
        "MODEL.ROI_HEADS.NAME": "DensePoseROIHeads",
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    }


def describe(name: str, root: Path) -> str:
    """Enter where a data set's table of the body's mirror symmetry lies into Detectron2's
    catalog; returns the data set's name there."""
    path = densepose.surface(root)[densepose.MIRROR]
    MetadataCatalog.get(name).densepose_transform_src = str(path)
    return name


def people_to_coco(output: dict, image_id: int, categories: list[int]) -> list[dict]:
    """Instances -> COCO results; the best `MOST`, which alone are scored, with `densepose`."""
    instances = output["instances"].to("cpu")
    results = instances_to_coco_json(instances, image_id)
    for number, result in enumerate(results):
        result["category_id"] = categories[result["category_id"]]
        if number < MOST:  # they come in the order of their scores
            found = ToChartResultConverter.convert(
                instances.pred_densepose[number], instances.pred_boxes[number]
            )
            labels = quantize_densepose_chart_result(found).labels_uv_uint8
            result["densepose"] = densepose.packed(labels.numpy())
    return results
