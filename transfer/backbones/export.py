"""A backbone as files of other programs, with every name matched by their own loaders."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from detco.common.backbone_file import Backbone
from detco.common.errors import InputError
from detco.common.files import write_atomic
from detco.common.networks import OWN, RESNET

TO_DETECTRON2 = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def detectron2_name(name: str) -> str:
    """torchvision's name of a trunk's tensor -> Detectron2's, without the prefix that depends on
    the detector."""
    name = re.sub(r"^layer(\d)\.", lambda found: f"res{int(found[1]) + 1}.", name)
    for pattern, new in TO_DETECTRON2:
        name = re.sub(pattern, new, name)
    return name


def detectron2_config(backbone: Backbone) -> dict:
    """The keys of a Detectron2 config that belong to these weights; a detector with other values
    reads them wrongly."""
    keys: dict[str, Any] = {
        "INPUT.FORMAT": backbone.channel_order,
        "MODEL.PIXEL_MEAN": list(backbone.mean),
        "MODEL.PIXEL_STD": list(backbone.std),
    }
    if backbone.family != RESNET:
        return keys
    depth = int(re.search(r"resnet(\d+)", backbone.arch)[1])
    keys |= {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.STRIDE_IN_1X1": backbone.stride_in == "1x1",
    }
    if depth < 50:
        keys["MODEL.RESNETS.RES2_OUT_CHANNELS"] = 64
    if backbone.arch.startswith("wide_"):
        keys["MODEL.RESNETS.WIDTH_PER_GROUP"] = 128
    return keys


def to_detectron2(backbone: Backbone, path: Path) -> dict:
    """Write a .pkl for MODEL.WEIGHTS; returns the config keys that go with it.

    Detectron2 finds the place of each tensor by the end of its name; counters of batches have none
    and are left out.
    """
    _refuse_others(backbone, path, "detectron2")
    if path.suffix != ".pkl":
        raise InputError(
            f"{path}: Detectron2 tells what a file is by its name; call it something.pkl"
        )
    model = {detectron2_name(name): tensor.numpy() for name, tensor in backbone.tensors.items()}
    pre = {key: getattr(backbone, key) for key in ("channel_order", "mean", "std", "stride_in")}
    content = {
        "model": model,
        "__author__": f"detco {backbone.method}",
        "matching_heuristics": True,
        "preprocessing": pre,
    }
    write_atomic(path, lambda file: pickle.dump(content, file, protocol=4))
    return detectron2_config(backbone)


def to_torchvision(backbone: Backbone, path: Path) -> dict:
    """Write a .pth for `model.load_state_dict` of torchvision's ResNet, which misses `fc` alone;
    returns the preprocessing.

    Raises InputError for weights with the stride in the 1 x 1 convolution: torchvision would read
    them, and compute other features.
    """
    _refuse_others(backbone, path, "torchvision")
    if backbone.stride_in != "3x3":
        raise InputError(
            f"{path}: torchvision's ResNets have their stride in the 3 x 3 convolution, these"
            " weights in the 1 x 1 (MSRA), so they would give other features; --to detectron2 keeps"
            " it"
        )
    norms = [
        name.removesuffix("running_mean")
        for name in backbone.tensors
        if name.endswith("running_mean")
    ]
    counters = {f"{name}num_batches_tracked": torch.tensor(0) for name in norms}
    write_atomic(path, lambda file: torch.save(backbone.tensors | counters, file))
    return _scale(backbone)


def to_timm(backbone: Backbone, path: Path) -> dict:
    """Write a .pth for `load_state_dict` of timm's model, which misses its classifier alone;
    returns how timm builds the model, and the preprocessing. Raises InputError for a ResNet."""
    if backbone.family == RESNET:
        raise InputError(f"{path}: {backbone.arch} is torchvision's: --to torchvision")
    write_atomic(path, lambda file: torch.save(dict(backbone.tensors), file))
    args = {key: value for key, value in backbone.model_args.items() if key not in OWN}
    beside = {key: value for key, value in backbone.model_args.items() if key in OWN}
    needs = {"timm.create_model": backbone.arch, "arguments": args | {"num_classes": 0}}
    return needs | _scale(backbone) | ({"set by hand": beside} if beside else {})


def _scale(backbone: Backbone) -> dict:
    """The preprocessing for pixels from 0 to 1."""
    scale = {"mean": [m / 255 for m in backbone.mean], "std": [s / 255 for s in backbone.std]}
    return {"channel order": backbone.channel_order} | {
        key: [round(v, 6) for v in values] for key, values in scale.items()
    }


def _refuse_others(backbone: Backbone, path: Path, to: str) -> None:
    if backbone.family != RESNET:
        raise InputError(
            f"{path}: --to {to} takes ResNets, this is a {backbone.family} ({backbone.arch}):"
            " --to timm"
        )


FORMATS = {"detectron2": to_detectron2, "torchvision": to_torchvision, "timm": to_timm}
