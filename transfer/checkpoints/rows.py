"""What a row of LAYOUTS is: how one project names the tensors of a network."""

from dataclasses import dataclass
from typing import Any

from detco.common import resnet
from detco.common.networks import RESNET
from detco.common.resnet import IMAGENET_MEAN, IMAGENET_STD

# family -> names that are part of a trunk, in words of torchvision (ResNets) or timm, and how those
# of its first block begin
TRUNKS = {
    RESNET: (resnet.TRUNK.pattern, "layer1."),
    "vit": (
        r"((cls|reg)_token|pos_embed|(patch_embed|norm_pre|blocks|norm|rel_pos_bias)\..*)",
        "blocks.0.",
    ),
    "convnext": (r"(stem|stages)\..*", "stages.0."),
    "swin": (r"(patch_embed|layers)\..*", "layers.0."),
}
# of batch normalisation and of averages; no network uses them for its features
COUNTERS = r".*num_batches_tracked|(.*\.)?n_averaged"
ANYWHERE = ("state_dict", "model", "model_state_dict", "")


@dataclass(frozen=True)
class Preprocessing:
    """What the network was trained on: mean and std in the order of the channels, 0..255."""

    channel_order: str = "RGB"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stride_in: str = "3x3"


IMAGENET = Preprocessing()
UNIT = Preprocessing(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))  # 0..1, not normalised
MSRA = Preprocessing("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "1x1")


@dataclass(frozen=True)
class EncoderPlace:
    """One network of a file: `role` as its project calls it, the names' prefix, and in which
    dictionary (a/b: nested)."""

    role: str
    prefix: str
    at: tuple[str, ...] = ANYWHERE


@dataclass(frozen=True)
class CheckpointLayout:
    """A row of LAYOUTS. The first encoder present is taken unless told otherwise; `twins` are
    prefixes of tensors stored twice."""

    name: str
    method: str
    learnt: str
    encoders: tuple[EncoderPlace, ...]
    requires: tuple[str, ...]  # each matches at least one name or fact
    forbids: tuple[str, ...] = ()  # none matches any
    drop: tuple[str, ...] = ()  # further names that may be there: heads, queues
    # regular expression -> torchvision's name, behind the prefix
    rename: tuple[tuple[str, str], ...] = ()
    twins: tuple[tuple[str, str], ...] = ()
    preprocessing: Preprocessing = IMAGENET
    only_forced: bool = False  # looks like another layout: taken only where the user says so
    affine_norm: bool = False  # normalisation without statistics: mean 0, variance 1
    # said by the user, or behind a prefix: what lies beside the trunk is left out
    trunk_only: bool = False
    vague: bool = False  # names that prove no style: statistics and what else is said decide
    # of families beside ResNets, for which `rename` gives timm's names (see networks/placing.py)
    family: str = RESNET
    # size (see networks/sizes.py) -> timm's model; the first where no size fits
    archs: tuple[tuple[str, str], ...] = ()
    model_args: tuple[tuple[str, Any], ...] = ()  # that hold for all of them
    heads: tuple[tuple[int, int], ...] = ()  # width -> attention heads, where not the usual number
    step: str = ""  # what is done to the tensors, see networks/placing.py
