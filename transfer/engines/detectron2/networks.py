"""timm's networks as backbones of Detectron2's models: under its FPN, or its pyramid of ViTDet
where there is one map only."""

import json

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor

from detco.common.backbone_file import random_backbone
from detco.common.networks import levels_of

from ..networks import STRIDE, DetectorNetwork

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class NetworkBackbone(Backbone):
    """The network that MODEL.NETWORK names, with initial weights: `models.load_backbone` puts the
    file's in."""

    def __init__(self, cfg):
        super().__init__()
        keys = cfg.MODEL.NETWORK
        made = random_backbone(keys.ARCH, 0, json.loads(keys.ARGS))
        self.network = DetectorNetwork(made, keys.DROP_PATH)
        self.shapes = {
            name: ShapeSpec(channels=level.channels, stride=STRIDES.get(name, STRIDE))
            for name, level in levels_of(made).items()
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.network(images)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.shapes


@BACKBONE_REGISTRY.register()
def build_network_pyramid(cfg, input_shape: ShapeSpec) -> Backbone:
    """Levels p2 to p6, for RetinaNet p3 to p7, as Detectron2 makes them of a ResNet."""
    bottom, width, levels = NetworkBackbone(cfg), cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN
    shapes, retina = bottom.output_shape(), len(levels.IN_FEATURES) == 3
    if "last" not in shapes:
        top = LastLevelP6P7(shapes["res5"].channels, width) if retina else LastLevelMaxPool()
        return FPN(bottom, levels.IN_FEATURES, width, levels.NORM, top)
    from detectron2.modeling.backbone.vit import SimpleFeaturePyramid  # not in the release of 2021

    top = LastLevelP6P7(width, width, "p5") if retina else LastLevelMaxPool()
    scales = [STRIDE / STRIDES[name] for name in levels.IN_FEATURES]
    return SimpleFeaturePyramid(bottom, "last", width, scales, top)
