"""Networks beside the ResNets as detectors of every engine take them: the strides of their maps,
and the depth of each of their tensors."""

import re
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from detco.common.backbone_file import Backbone
from detco.common.errors import InputError
from detco.common.networks.levels import Levels, padded

STRIDE = 16  # of the one map of a vision transformer, on which its pyramid stands
MULTIPLE = 32  # pixels that the sides of images are padded to; Detectron2 leaves that to a ViT
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
NORM = re.compile(r"Norm(2d)?(Act)?$")  # names of classes: Detectron2 and timm have their own
POSITIONS = ("pos_embed", "rel_pos", "relative_position")  # in names of tensors without decay


class DetectorNetwork(nn.Module):
    """Normalised images (N, 3, H, W) -> {level: map}: `res2` to `res5` of stride 4 to 32, or `last`
    of a vision transformer, of stride 16.

    With patches of p pixels a transformer is given its images at p / 16 of their size: a patch then
    stands for 16 pixels, and no weight is changed. Raises InputError for a network whose positions
    are for images of one size.
    """

    def __init__(self, backbone: Backbone, drop_path: float = 0.0):
        super().__init__()
        self.maps = Levels(backbone, drop_path=drop_path)
        self.patch = 0 if self.maps.stages else self.maps.multiple
        if self.maps.fixed:
            size = " x ".join(map(str, self.maps.fixed))
            raise InputError(
                f"the positions of {backbone.arch} are for images of {size} pixels only; a detector"
                " needs images of any size"
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        images = padded(images, MULTIPLE)
        if self.patch not in (0, STRIDE):
            size = [side // STRIDE * self.patch for side in images.shape[-2:]]
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        return self.maps(images)

    def depths(self) -> dict[str, int]:
        """Names of parameters -> number of their layer, 0 for the first, as timm groups them (in
        ViTDet: positions and patches 0, the blocks from 1)."""
        from timm.models import group_parameters

        net = self.maps.net
        groups = group_parameters(net, net.group_matcher(coarse=False), reverse=True)
        return {f"maps.net.{name}": depth for name, depth in groups.items()}


def networks_in(model: nn.Module) -> Iterator[DetectorNetwork]:
    return (part for part in model.modules() if isinstance(part, DetectorNetwork))


def regroup(optimizer: Optimizer, model: nn.Module, layer_decay: float) -> None:
    """Give the networks of a model what their recipes ask for, before the first step: no decay of
    positions and norms, whatever their class, and for each layer `layer_decay` times the rate of
    the one above it, the detector's own layers at the full rate (BEiT, arXiv 2106.08254; ViTDet,
    arXiv 2203.16527)."""
    changes: dict[int, tuple[bool, float]] = {}
    networks = list(networks_in(model))
    norms = [part for part in model.modules() if NORM.search(type(part).__name__)]
    plain = {id(p) for norm in norms for p in norm.parameters(recurse=False)} if networks else ()
    changes |= {number: (True, 1.0) for number in plain}
    for network in networks:
        depths = network.depths()
        top = 1 + max(depths.values())
        for name, parameter in network.named_parameters():
            undecayed = id(parameter) in plain or any(part in name for part in POSITIONS)
            changes[id(parameter)] = undecayed, layer_decay ** (top - depths[name])
    split = []
    for group in optimizer.param_groups if changes else ():
        parts: dict[tuple[bool, float], list] = {}
        for parameter in group["params"]:
            parts.setdefault(changes.get(id(parameter), (False, 1.0)), []).append(parameter)
        for (undecayed, factor), parameters in sorted(parts.items(), key=lambda part: part[0]):
            own = {"params": parameters, "lr": group["lr"] * factor}
            split.append(group | own | ({"weight_decay": 0.0} if undecayed else {}))
    optimizer.param_groups = split or optimizer.param_groups
