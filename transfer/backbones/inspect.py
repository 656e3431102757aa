"""What a backbone holds, and how two of them differ."""

import hashlib

from torch import Tensor

from detco.common.backbone_file import Backbone
from detco.common.networks import RESNET, part_of
from detco.common.values import shown


def describe(backbone: Backbone) -> dict:
    """What `detco weights show` prints: architecture, origin, preprocessing, counts and the norm of
    each stage's weights."""
    square: dict[str, float] = {}
    for name, tensor in backbone.tensors.items():
        if "running_" not in name:
            part = part_of(backbone.family, name)
            square[part] = square.get(part, 0.0) + float(tensor.double().square().sum())
    meta = {key: shown(value, 20_000) for key, value in backbone.metadata}
    return {
        "architecture": backbone.arch,
        "method": shown(backbone.method),
        "epochs": meta.get("epochs", ""),
        "images seen": meta.get("images_seen", ""),
        "channel order": backbone.channel_order,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        **network(backbone),
        "tensors": len(backbone.tensors),
        "parameters": sum(t.numel() for k, t in backbone.tensors.items() if "running_" not in k),
        "stage norms": {part: round(value**0.5, 4) for part, value in square.items()},
        "source": meta.get("source", ""),
        "source sha256": meta.get("source_sha256", ""),
        "layout": meta.get("adapter", ""),
        "encoder": meta.get("encoder", ""),
        "sha256": backbone.sha256,
        "recipe": meta.get("recipe", ""),
        "assumed": meta.get("assumed", "[]"),
    }


def network(backbone: Backbone) -> dict:
    """What a backbone file says of the network beside its name."""
    if backbone.family == RESNET:
        return {"stride in": backbone.stride_in}
    return {"family": backbone.family, "arguments": dict(backbone.model_args)}


def compare(one: Backbone, other: Backbone) -> dict:
    """What `detco weights show --compare` prints: which tensors are equal, equal under another
    name, or differ, and how far.

    `distance`: Frobenius norm of the difference over that of the first, by stage, over the tensors
    of the same name and shape."""
    digests = {name: _bytes_of(tensor) for name, tensor in other.tensors.items()}
    own = {name: _bytes_of(tensor) for name, tensor in one.tensors.items()}
    elsewhere = {digest: name for name, digest in digests.items() if own.get(name) != digest}
    identical, renamed, different = 0, {}, []
    change: dict[str, float] = {}
    size: dict[str, float] = {}
    for name, tensor in one.tensors.items():
        digest, twin = own[name], other.tensors.get(name)
        if digests.get(name) == digest:
            identical += 1
        elif digest in elsewhere:
            renamed[name] = elsewhere[digest]
        else:
            different.append(name)
        if twin is not None and twin.shape == tensor.shape:
            part = part_of(one.family, name)
            moved = float((tensor - twin).double().square().sum())
            change[part] = change.get(part, 0.0) + moved
            size[part] = size.get(part, 0.0) + float(tensor.double().square().sum())
    same_way = ("arch", "channel_order", "mean", "std", "stride_in", "family", "model_args")
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
            part: round((change[part] / size[part]) ** 0.5, 6) for part in change if size[part]
        },
    }


def _bytes_of(tensor: Tensor) -> bytes:
    return hashlib.sha256(
        repr(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes()
    ).digest()
