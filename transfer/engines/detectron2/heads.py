"""What Detectron2 lacks for the DetCo paper's protocols, in its registries; needs nothing but
torch, Detectron2 and fvcore.

Res5ROIHeadsExtraNorm: the C4 head with one more norm. FCN16sHead: FCN-16s. RetinaNetGroupNorm:
RetinaNet with group norms in its heads, which the release of 2021 cannot build. Import this file
before a config that names one of them is built.
"""

from itertools import pairwise

from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, ResNet
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

# of FCN-16s, where the config does not say MODEL.SEM_SEG_HEAD.DILATION: plain Detectron2 has no
# such key
DILATION = 6
RES5_BLOCKS = {18: 2, 34: 3, 50: 3, 101: 3, 152: 3}


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """The C4 box head of MoCo and DetCo: res5, then one more normalisation; the mask
    head shares both.

    Unlike Detectron2's own it follows the backbone's depth: basic blocks for ResNet-18 and 34.
    """

    @classmethod
    def _build_res5_block(cls, cfg):
        net = cfg.MODEL.RESNETS
        width = 8 * net.RES2_OUT_CHANNELS
        more = {"block_class": BasicBlock}
        if net.DEPTH >= 50:
            more = {"block_class": BottleneckBlock, "stride_in_1x1": net.STRIDE_IN_1X1}
            more["bottleneck_channels"] = 8 * net.NUM_GROUPS * net.WIDTH_PER_GROUP
        count = RES5_BLOCKS[net.DEPTH]
        blocks = ResNet.make_stage(
            num_blocks=count,
            stride_per_block=[2] + [1] * (count - 1),
            in_channels=width // 2,
            out_channels=width,
            norm=net.NORM,
            **more,
        )
        res5 = nn.Sequential(*blocks)
        res5.add_module("norm", get_norm(net.NORM, width))
        return res5, width


@SEM_SEG_HEADS_REGISTRY.register()
class FCN16sHead(nn.Module):
    """FCN-16s (MoCo, appendix): two dilated 3 x 3 convolutions with norm and ReLU on the dilated
    res5, a 1 x 1 classifier.

    Features (N, C, H / 16, W / 16) -> logits (N, classes, H, W), upsampled bilinearly; in training
    the cross entropy with targets (N, H, W) of class numbers, without those that are `ignore`.
    """

    def __init__(self, cfg, input_shape: dict[str, ShapeSpec]):
        super().__init__()
        head = cfg.MODEL.SEM_SEG_HEAD
        (self.in_feature,) = head.IN_FEATURES
        dilation = head.get("DILATION", DILATION)
        self.stride, self.ignore_value = head.COMMON_STRIDE, head.IGNORE_VALUE
        widths = [input_shape[self.in_feature].channels, head.CONVS_DIM, head.CONVS_DIM]
        convs = [
            Conv2d(
                before,
                after,
                3,
                padding=dilation,
                dilation=dilation,
                bias=False,
                norm=get_norm(head.NORM, after),
                activation=F.relu,
            )
            for before, after in pairwise(widths)
        ]
        self.convs, self.predictor = (
            nn.Sequential(*convs),
            Conv2d(head.CONVS_DIM, head.NUM_CLASSES, 1),
        )
        for layer in (*convs, self.predictor):
            weight_init.c2_msra_fill(layer)

    def forward(self, features: dict[str, Tensor], targets: Tensor | None = None):
        logits = self.predictor(self.convs(features[self.in_feature])).float()
        logits = F.interpolate(
            logits, scale_factor=self.stride, mode="bilinear", align_corners=False
        )
        if not self.training:
            return logits, {}
        logits = logits[..., : targets.shape[-2], : targets.shape[-1]]  # strides round up
        return None, {
            "loss_sem_seg": F.cross_entropy(logits, targets, ignore_index=self.ignore_value)
        }


@META_ARCH_REGISTRY.register()
class RetinaNetGroupNorm(RetinaNet):
    """Detectron2's RetinaNet with MODEL.RETINANET.NORM "GN"; the layers and their names are those
    of its later versions."""

    @classmethod
    def from_config(cls, cfg):
        plain = cfg.clone()
        plain.defrost()
        plain.MODEL.RETINANET.NORM = ""
        parts = super().from_config(plain)
        put_group_norms(parts["head"])
        return parts


def put_group_norms(head: nn.Module) -> None:
    """A group norm after each convolution of the two subnets of a RetinaNet's head."""
    for name in ("cls_subnet", "bbox_subnet"):
        layers = []
        for layer in getattr(head, name):
            layers.append(layer)
            if isinstance(layer, nn.Conv2d):
                layers.append(get_norm("GN", layer.out_channels).to(layer.weight.device))
        setattr(head, name, nn.Sequential(*layers))
