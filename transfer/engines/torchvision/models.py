"""Detectors assembled from torchvision's parts around a given backbone: C4, FPN, RetinaNet,
Keypoint R-CNN.

Only convolutions run in the autocast precision (`Cast`); boxes, anchors and losses stay in float32,
where bf16's 8 bits would move a box by a pixel.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, faster_rcnn, keypoint_rcnn, mask_rcnn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import roi_align

from detco.common.backbone_file import Backbone

from ...settings import Detector, Protocol
from .. import narrow
from ..freezing import freeze
from ..networks import DetectorNetwork
from .trunks import STRIDES, DetectorTrunk, Pyramid, channels, load_resnet


class Cast(nn.Module):
    """Runs a module in the given autocast precision (None: as it is) and gives float32 back,
    whatever the nesting."""

    def __init__(self, module: nn.Module, precision: torch.dtype | None):
        super().__init__()
        self.module, self.precision = module, precision

    def forward(self, *inputs):
        device = next(self.module.parameters()).device.type
        with torch.autocast(device, self.precision, enabled=self.precision is not None):
            outputs = self.module(*inputs)
        return _float32(outputs)


def _float32(x):
    if isinstance(x, Tensor):
        return x.float()
    return (
        OrderedDict((k, _float32(v)) for k, v in x.items())
        if isinstance(x, dict)
        else [_float32(v) for v in x]
    )


class RoIAlign(nn.Module):
    """RoIAlign with Detectron2's half-pixel correction; over several levels, boxes go to floor(4 +
    log2(sqrt(area) / 224))."""

    def __init__(self, strides: dict[str, int], size: int, sampling_ratio: int):
        super().__init__()
        self.strides, self.output_size, self.sampling_ratio = strides, (size, size), sampling_ratio

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes) -> Tensor:
        """boxes: per picture (K_i, 4) xyxy in pixels -> (sum K_i, C, size, size)."""
        rois = torch.cat(boxes)
        index = torch.repeat_interleave(
            torch.arange(len(boxes), device=rois.device),
            torch.tensor([len(b) for b in boxes], device=rois.device),
        )
        rois = torch.cat([index[:, None].to(rois.dtype), rois], 1)
        first, last = (
            int(math.log2(min(self.strides.values()))),
            int(math.log2(max(self.strides.values()))),
        )
        side = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp(min=0).sqrt()
        level = torch.floor(4 + torch.log2(side / 224 + 1e-8)).clamp(first, last)
        pooled = rois.new_zeros(
            len(rois), next(iter(features.values())).shape[1], *self.output_size
        )
        for name, stride in self.strides.items():
            mine = torch.where(level == math.log2(stride))[0]
            part = roi_align(
                features[name],
                rois[mine],
                self.output_size,
                1 / stride,
                self.sampling_ratio,
                aligned=True,
            )
            pooled = pooled.index_copy(0, mine, part)
        return pooled


class Res5Head(nn.Module):
    """res5 followed by one more normalisation (the papers' Res5ROIHeadsExtraNorm); (K, C4, S, S) ->
    (K, C5, S/2, S/2)."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.res5 = load_resnet(backbone).layer4
        self.norm = nn.BatchNorm2d(channels(backbone)["res5"])

    def forward(self, x: Tensor) -> Tensor:
        # BatchNorm cannot train on nothing: a batch without positive boxes has no mask features
        return (
            self.norm(self.res5(x))
            if len(x)
            else x.new_zeros(0, self.norm.num_features, *((s + 1) // 2 for s in x.shape[2:]))
        )


class Res5BoxHead(nn.Module):
    def __init__(self, res5: Res5Head):
        super().__init__()
        self.res5 = res5

    def forward(self, x: Tensor) -> Tensor:
        return self.res5(x).mean((2, 3))


class KeypointPredictor(keypoint_rcnn.KeypointRCNNPredictor):
    def forward(self, x: Tensor) -> Tensor:
        # torchvision's loss takes a view that channels_last does not allow
        return super().forward(x).contiguous()


class Preprocess(GeneralizedRCNNTransform):
    """Normalises and batches pictures that were resized before; predictions are left in the
    coordinates of their input."""

    def __init__(self, backbone: Backbone):
        super().__init__(0, 0, list(backbone.mean), list(backbone.std))

    def resize(self, image, target=None):
        return image, target

    def postprocess(self, result, image_shapes, original_image_sizes):
        return result


class Anchors(AnchorGenerator):
    """Anchors at each level's own stride (torchvision divides the padded size, which is off where
    it is not a multiple)."""

    def __init__(self, d: Detector, strides: tuple[int, ...]):
        super().__init__(d.anchors, (d.aspect_ratios,) * len(d.anchors))
        self.strides = strides

    def forward(self, image_list, feature_maps: list[Tensor]) -> list[Tensor]:
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        strides = [[torch.tensor(s, device=feature_maps[0].device)] * 2 for s in self.strides]
        anchors = torch.cat(self.grid_anchors([f.shape[-2:] for f in feature_maps], strides))
        return [anchors] * len(image_list.image_sizes)


def build(
    protocol: Protocol,
    backbone: Backbone,
    classes: int,
    keypoints: int,
    precision: torch.dtype | None,
):
    """The protocol's detector for `classes` categories (background not counted).

    Input of the module: a list of float pictures (3, H, W) in the backbone's channel order, 0..255,
    and, in training, targets with `boxes` (K, 4) xyxy, `labels` (K,) from 1 (RetinaNet: from 0)
    and, where the protocol has them, `masks` (K, H, W) and `keypoints` (K, P, 3).
    """
    if protocol.architecture == "retinanet":
        model = _retinanet(protocol, backbone, classes, precision)
    elif protocol.architecture.endswith("-c4"):
        model = _c4(protocol, backbone, classes, precision)
    else:
        model = _fpn(protocol, backbone, classes, keypoints, precision)
    narrow.guard(model)
    freeze(_kept(model, protocol))
    return model.to(memory_format=torch.channels_last)


def _kept(model: nn.Module, protocol: Protocol) -> Iterator[nn.Module]:
    """The parts of the backbone file that do not train."""
    for part in model.modules():
        if isinstance(part, DetectorNetwork) and protocol.freeze == "backbone":
            yield part
        if not isinstance(part, DetectorTrunk | Res5Head):
            continue
        if protocol.detector.norm == "FrozenBN":
            yield from (m for m in part.modules() if isinstance(m, nn.BatchNorm2d))
        stages: dict[str, Any] = {"res5": part.res5} if isinstance(part, Res5Head) else {}
        if isinstance(part, DetectorTrunk):
            stages = {"stem": part.stem, **part.stages}
        if protocol.freeze == "res4":
            stages.pop("res5", None)
        if protocol.freeze != "none":
            yield from stages.values()


def _retinanet(protocol: Protocol, backbone: Backbone, classes: int, precision) -> nn.Module:
    """FPN on res3..res5 with p6, p7 from res5 (from p5 where one map makes all levels); heads
    without sharing between classification and boxes."""
    d, body = protocol.detector, Pyramid(protocol, backbone, ("res3", "res4", "res5"))
    anchors = Anchors(d, (8, 16, 32, 64, 128))
    norm = (lambda width: nn.GroupNorm(32, width)) if d.retina_norm == "GN" else None
    head = RetinaNetHead(d.fpn_channels, anchors.num_anchors_per_location()[0], classes, norm)
    for part in (head.classification_head, head.regression_head):
        part.conv = Cast(part.conv[: d.retina_convs], precision)
    nn.init.constant_(
        head.classification_head.cls_logits.bias, -math.log((1 - d.retina_prior) / d.retina_prior)
    )
    model = RetinaNet(
        body,
        classes,
        anchor_generator=anchors,
        head=head,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.4,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=d.detections,
        topk_candidates=1000,
    )
    model.backbone, model.transform = Cast(body, precision), Preprocess(backbone)
    return model


def _c4(protocol: Protocol, backbone: Backbone, classes: int, precision) -> nn.Module:
    """RPN and RoIAlign on res4; res5 plus the extra norm is the box head, and the mask
    head shares it."""
    d, width = protocol.detector, channels(backbone)["res5"]
    res5 = Cast(Res5Head(backbone), precision)
    heads: dict[str, nn.Module] = {}
    if "mask" in protocol.metrics:
        heads = {
            "mask_roi_pool": RoIAlign({"res4": 16}, d.mask_size, d.sampling_ratio),
            "mask_head": res5,
            "mask_predictor": Cast(mask_rcnn.MaskRCNNPredictor(width, 256, classes + 1), precision),
        }
    heads |= {
        "box_roi_pool": RoIAlign({"res4": 16}, d.roi_size, d.sampling_ratio),
        "box_head": Res5BoxHead(res5),
    }
    return _rcnn(
        d,
        backbone,
        classes,
        precision,
        body=DetectorTrunk(backbone, ("res4",)),
        body_width=channels(backbone)["res4"],
        strides=(16,),
        box_width=width,
        heads=heads,
    )


def _fpn(
    protocol: Protocol, backbone: Backbone, classes: int, keypoints: int, precision
) -> nn.Module:
    """RPN on p2..p6, RoIAlign on p2..p5, two fully connected layers; masks and keypoints from heads
    of their own."""
    d, width = protocol.detector, protocol.detector.fpn_channels
    body = Pyramid(protocol, backbone, tuple(STRIDES))
    levels = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    fine = RoIAlign(levels, d.mask_size, d.sampling_ratio)
    heads: dict[str, nn.Module] = {}
    if "mask" in protocol.metrics:
        head = mask_rcnn.MaskRCNNHeads(width, (width,) * d.mask_convs, 1)
        predictor = mask_rcnn.MaskRCNNPredictor(width, width, classes + 1)
        heads |= {
            "mask_roi_pool": fine,
            "mask_head": Cast(head, precision),
            "mask_predictor": Cast(predictor, precision),
        }
    if "keypoint" in protocol.metrics:
        head = keypoint_rcnn.KeypointRCNNHeads(width, d.keypoint_convs)
        heads |= {
            "keypoint_roi_pool": fine,
            "keypoint_head": Cast(head, precision),
            "keypoint_predictor": KeypointPredictor(d.keypoint_convs[-1], keypoints),
        }
    head = faster_rcnn.TwoMLPHead(width * d.roi_size**2, d.fc_width)
    heads |= {
        "box_roi_pool": RoIAlign(levels, d.roi_size, d.sampling_ratio),
        "box_head": Cast(head, precision),
    }
    return _rcnn(
        d,
        backbone,
        classes,
        precision,
        body=body,
        body_width=width,
        strides=(4, 8, 16, 32, 64),
        box_width=d.fc_width,
        heads=heads,
    )


def _rcnn(
    d: Detector,
    backbone: Backbone,
    classes: int,
    precision: torch.dtype | None,
    *,
    body: nn.Module,
    body_width: int,
    strides: tuple[int, ...],
    box_width: int,
    heads: dict[str, nn.Module],
) -> nn.Module:
    """Body, RPN and heads. `strides`: of the levels that `body` gives, all `body_width` wide;
    `heads`: arguments of RoIHeads, `box_head` gives `box_width` features."""
    anchors = Anchors(d, strides)
    rpn = RegionProposalNetwork(
        anchors,
        Cast(RPNHead(body_width, anchors.num_anchors_per_location()[0]), precision),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=d.rpn_batch,
        positive_fraction=0.5,
        pre_nms_top_n=dict(zip(("training", "testing"), d.rpn_pre_nms)),
        post_nms_top_n=dict(zip(("training", "testing"), d.rpn_post_nms)),
        nms_thresh=0.7,
    )
    roi_heads = RoIHeads(
        box_predictor=faster_rcnn.FastRCNNPredictor(box_width, classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=d.roi_batch,
        positive_fraction=d.roi_positive,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=d.detections,
        **heads,
    )
    return GeneralizedRCNN(Cast(body, precision), rpn, roi_heads, Preprocess(backbone))
