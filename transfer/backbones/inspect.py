"""What a backbone holds, and how two of them differ."""

import hashlib

from torch import Tensor

from detco.common.backbone_file import Backbone
from detco.common.resnet import STAGES, stage_of
from detco.common.values import shown


def describe(backbone: Backbone) -> dict:
    """What `detco weights show` prints: architecture, origin, preprocessing, counts and the norm of
    each stage's weights."""
    square: dict[str, float] = {}
    for name, tensor in backbone.tensors.items():
        if "running_" not in name:
            square[stage_of(name)] = square.get(stage_of(name), 0.0) + float(
                tensor.double().square().sum()
            )
    meta = {key: shown(value, 20_000) for key, value in backbone.metadata}
    return {
        "architecture": backbone.arch,
        "method": shown(backbone.method),
        "epochs": meta.get("epochs", ""),
        "images seen": meta.get("images_seen", ""),
        "channel order": backbone.channel_order,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "stride in": backbone.stride_in,
        "tensors": len(backbone.tensors),
        "parameters": sum(t.numel() for k, t in backbone.tensors.items() if "running_" not in k),
        "stage norms": {stage: round(square[stage] ** 0.5, 4) for stage in STAGES},
        "source": meta.get("source", ""),
        "source sha256": meta.get("source_sha256", ""),
        "layout": meta.get("adapter", ""),
        "encoder": meta.get("encoder", ""),
        "sha256": backbone.sha256,
        "recipe": meta.get("recipe", ""),
        "assumed": meta.get("assumed", "[]"),
    }


def compare(one: Backbone, other: Backbone) -> dict:
    """What `detco weights show --compare` prints: which tensors are equal, equal under another
    name, or differ, and how far.

    `distance`: Frobenius norm of the difference over that of the first, by stage, over the tensors
    of the same name and shape."""
    digests = {name: _bytes_of(tensor) for name, tensor in other.tensors.items()}
    own = {name: _bytes_of(tensor) for name, tensor in one.tensors.items()}
    elsewhere = {digest: name for name, digest in digests.items() if own.get(name) != digest}
    identical, renamed, different = 0, {}, []
    change, size = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)
    for name, tensor in one.tensors.items():
        digest, twin = own[name], other.tensors.get(name)
        if digests.get(name) == digest:
            identical += 1
        elif digest in elsewhere:
            renamed[name] = elsewhere[digest]
        else:
            different.append(name)
        if twin is not None and twin.shape == tensor.shape:
            change[stage_of(name)] += float((tensor - twin).double().square().sum())
            size[stage_of(name)] += float(tensor.double().square().sum())
    same_way = ("arch", "channel_order", "mean", "std", "stride_in")
    return {
        "same architecture and preprocessing": all(
            getattr(one, key) == getattr(other, key) for key in same_way
        ),
        "identical": identical,
        "renamed": renamed,
        "different": len(different),
        "only in the second": len(
            other.tensors.keys() - one.tensors.keys() - set(renamed.values())
        ),
        "distance": {
            stage: round((change[stage] / size[stage]) ** 0.5, 6) for stage in STAGES if size[stage]
        },
    }


def _bytes_of(tensor: Tensor) -> bytes:
    return hashlib.sha256(
        repr(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes()
    ).digest()
