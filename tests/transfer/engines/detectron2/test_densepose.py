"""coco-densepose with the project DensePose: its config, its training, its evaluator."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from detco.common import backbone_file
from detco.common.values import flatten
from detco.transfer import finetune
from detco.transfer.data import dataset as datasets
from detco.transfer.engines import EngineJob
from detco.transfer.protocols import PROTOCOLS, DensePose, Resize, Schedule
from detco.transfer.scoring import score as scoring
from tests.factories import densepose as made

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
project = pytest.importorskip("densepose", reason="the project DensePose is not installed")
from densepose.evaluation.evaluator import DensePoseCOCOEvaluator
from densepose.structures.chart_result import (
    DensePoseChartResultCompressed,
    decompress_compressed_densepose_chart_result,
)
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathHandler, PathManager

from detco.transfer.engines.detectron2 import config, engine, memory, models, predict

ROW = PROTOCOLS["coco-densepose"]
TINY = replace(
    ROW,
    schedule=replace(
        ROW.schedule, iterations=3, images=2, steps=(2,), warmup=1, lr=1e-3, precise_bn=2
    ),
    resize=Resize((96,), 128, 96, 128),
    detector=replace(
        ROW.detector, fpn_channels=16, fc_width=32, rpn_post_nms=(50, 20), roi_batch=16,
        detections=24,
    ),
    densepose=DensePose(dp_size=7, dp_convs=1, dp_width=8, dp_decoder=8),
    arch="resnet18",
)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return made.people(tmp_path_factory.mktemp("densepose"))


def data_of(coco) -> dict:
    return {
        "layout": "coco",
        "root": str(coco),
        "train": "densepose_train2014+densepose_valminusminival2014",
        "test": "densepose_minival2014",
    }


def job_of(coco, out, **more) -> EngineJob:
    out.mkdir(parents=True, exist_ok=True)
    train, test = finetune.load_data(ROW, data_of(coco))
    backbone = backbone_file.random_backbone("resnet18", 0)
    return EngineJob(TINY, backbone, train, test, 3, out, **more)


def silent(*_, **__):
    pass


def test_a_run(coco, tmp_path):
    record = finetune.finetune(TINY, "random", data_of(coco), tmp_path, "detectron2", device="cpu")
    print(record["metrics"], record["deviations"])
