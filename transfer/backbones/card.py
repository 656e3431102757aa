"""The model card of a backbone: a README.md as model hubs show it, made from its metadata."""

import json
import re
from collections.abc import Mapping

from detco.common.backbone_file import Backbone
from detco.common.networks import OWN, RESNET
from detco.common.values import shown

from ..checkpoints import zoo
from .inspect import network

TAG = "detco-backbone"
IDS = {  # licences of public checkpoints as hubs name them
    zoo.MIT: "mit",
    zoo.APACHE: "apache-2.0",
    zoo.BSD: "bsd-3-clause",
    zoo.BSD2: "bsd-2-clause",
    zoo.NC: "cc-by-nc-4.0",
    "GPL-3.0": "gpl-3.0",
}
FRONT = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)
HASH = re.compile(r"^  sha256: ([0-9a-f]{64})$", re.MULTILINE)
USE = """
## Use

```sh
detco weights pull {where}
detco transfer small-retinanet --weights {name}.safetensors --data MY_DATA --out runs
```
"""
RESNET_USE = """
The file is [safetensors](https://huggingface.co/docs/safetensors), with the names of torchvision's
ResNets and without a classifier. Its metadata hold the preprocessing above. Without detco:

```python
from safetensors import safe_open
from torchvision.models import {arch}

with safe_open("backbone.safetensors", framework="pt") as file:
    tensors = {{name: file.get_tensor(name) for name in file.keys()}}
net = {arch}()
net.load_state_dict(tensors, strict=False)  # `fc` and counters of batches are not in it
```
"""
TIMM_USE = """
The file is [safetensors](https://huggingface.co/docs/safetensors), with the names of timm's models
and without a classifier. Its metadata hold the preprocessing above. Without detco:

```python
from safetensors.torch import load_file
from timm import create_model

net = create_model("{arch}", num_classes=0, **{args})
net.load_state_dict(load_file("backbone.safetensors"), strict=False)  # no classifier in it
```
"""
STRIDE = (
    "\nIts stride is in the 1 x 1 convolutions, unlike torchvision's: move it there before use.\n"
)


def write(backbone: Backbone, where: str, licence: str = "", data: str = "") -> str:
    """The card of a backbone that was read from its file.

    where: its repository. licence: a hub's name of one, default that of the public checkpoint it
    was made from, where that is known. data: what it was pretrained on, for which the file of a
    pretraining has the number of images only.
    """
    meta = dict(backbone.metadata)
    row = zoo.BY_NAME.get(meta.get("source", ""))
    known = IDS.get(row.licence, "other") if row else "unknown"
    name = where.rstrip("/").rpartition("/")[2]
    lines = [
        "---",
        "library_name: detco",
        f"license: {_text(licence or known)}",
        "pipeline_tag: image-feature-extraction",
        "tags:",
        *(f"- {_text(tag)}" for tag in (TAG, backbone.arch, backbone.method)),
        "detco:",
        f"  sha256: {backbone.sha256}",
        "---",
        "",
        f"# {_cell(name)}",
        "",
        f"A {backbone.arch} backbone for detectors; pretraining: {_cell(backbone.method)}.",
        "",
        "| | |",
        "| --- | --- |",
    ]
    facts = {"data": data} | _facts(backbone, meta, row)
    lines += [f"| {key} | {_cell(value)} |" for key, value in facts.items() if value]
    args = {key: value for key, value in backbone.model_args.items() if key not in OWN}
    code = RESNET_USE if backbone.family == RESNET else TIMM_USE
    use = (USE + code).format(where=_cell(where), name=_cell(name), arch=backbone.arch, args=args)
    return "\n".join(lines) + "\n" + (STRIDE if backbone.stride_in == "1x1" else "") + use


def hash_in(card: str) -> str:
    """The sha256 that a card states of its backbone; "" where it states none."""
    front = FRONT.match(card)
    found = HASH.search(front[1]) if front else None
    return found[1] if found else ""


def is_ours(card: str) -> bool:
    front = FRONT.match(card)
    return bool(front and f'"{TAG}"' in front[1])


def _facts(backbone: Backbone, meta: Mapping[str, str], row: zoo.Known | None) -> dict[str, str]:
    """The rows of the table; what is not known is empty."""
    try:
        recipe = str(json.loads(meta.get("recipe") or "{}").get("name", ""))
    except (ValueError, AttributeError, RecursionError):
        recipe = ""
    return {
        "method": backbone.method,
        "architecture": backbone.arch,
        "epochs": meta.get("epochs", ""),
        "images seen": meta.get("images_seen", ""),
        "recipe": recipe,
        "made from": meta.get("source", ""),
        "its address": row.url if row else "",
        "its sha256": meta.get("source_sha256", ""),
        "its licence": row.licence if row else "",
        "encoder": meta.get("encoder", ""),
        "channel order": backbone.channel_order,
        "mean": ", ".join(map(str, backbone.mean)),
        "std": ", ".join(map(str, backbone.std)),
        **{key: str(value) for key, value in network(backbone).items()},
        "sha256 of the file": backbone.sha256,
    }


def _text(value: str) -> str:
    """As YAML: a JSON string is one."""
    return json.dumps(shown(value))


def _cell(value: str) -> str:
    """Text out of a file on one line of Markdown, without markup of its own."""
    return re.sub(r"([|<>\[\]`*\\])", r"\\\1", shown(value, 200))
