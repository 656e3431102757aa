"""The rows of DensePose as configs, beside the project's own YAML files, field by field."""

from pathlib import Path

import pytest

from detco.common.backbone_file import Backbone
from detco.common.values import flatten
from detco.transfer.protocols import PROTOCOLS

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
project = pytest.importorskip("densepose", reason="the project DensePose is not installed")
from detectron2.config import get_cfg

from detco.transfer.engines.detectron2 import config

FILES = Path(project.__file__).resolve().parents[1] / "configs"  # not packaged
# as in the other rows on COCO: norms and their statistics, all layers trained; of the weights:
# preprocessing and stride
COMMON = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.FPN.NORM": "SyncBN",
    "TEST.PRECISE_BN.ENABLED": True,
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.WEIGHTS": "",
}
# of heads that this detector does not have
UNUSED = ("MODEL.ROI_MASK_HEAD.", "MODEL.ROI_KEYPOINT_HEAD.")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("coco-densepose", "densepose_rcnn_R_50_FPN_s1x_legacy.yaml"),
        ("coco-densepose-s1x", "densepose_rcnn_R_50_FPN_s1x.yaml"),
    ],
)
def test_differs_from_the_projects_file_as_the_other_rows_do(name, file):
    if not FILES.is_dir():
        pytest.skip(f"no {FILES}: the project is installed without its configs")
    theirs = config.empty(densepose=True)
    theirs.merge_from_file(str(FILES / file))
    ours = config.resolve(PROTOCOLS[name], Backbone("resnet50", {}))
    mine, published = flatten(ours), flatten(theirs)
    assert mine.keys() == published.keys()
    changed = {
        key: mine[key] for key in mine if mine[key] != published[key] and not key.startswith(UNUSED)
    }
    assert changed == COMMON


@pytest.mark.parametrize("name", ["coco-densepose", "coco-densepose-s1x"])
def test_the_project_reads_what_is_printed(name, tmp_path):
    ours = config.resolve(PROTOCOLS[name], Backbone("resnet50", {}))
    (tmp_path / "config.yaml").write_text(ours.dump())
    again = config.empty(densepose=True)
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert config.differences(again) == config.differences(ours)
    assert "MODEL.ROI_DENSEPOSE_HEAD.NAME" not in flatten(get_cfg())
