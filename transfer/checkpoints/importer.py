"""Any supported checkpoint -> Backbone: recognised by its names, taken apart strictly, and what was
done reported.

Every tensor of the trunk must be there in its shape and finite; every other name must be explained
by the layout's row. What is not used is never read from the disk.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from detco.common import backbone_file, resnet
from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.common.networks import RESNET
from detco.common.values import shown

from . import detect, graph, zoo
from .detect import LISTED, Places, inside, tensors_at
from .networks import placing
from .reader import folders, formats
from .rows import COUNTERS, TRUNKS, CheckpointLayout, EncoderPlace

# solo-learn, also OmegaConf's
METHOD_PATHS = (
    "hyper_parameters/method",
    "hyper_parameters/_content/method/_val",
    "meta/method",
)
METHOD = re.compile(r"[\w.+-]{1,40}")
BESIDE = r"(?!layer|conv|bn|stem|norm|downsample).*"  # names that are no part of a trunk
UNTRAINED = ""  # method of a file of initial weights
EPOCH_PATHS, EPOCHS = ("epoch", "meta/epoch"), range(1, 1_000_000)


@dataclass(frozen=True)
class ImportReport:
    """How a file was read. `others`: encoders that were left; `dropped`: pattern -> how many names
    it explained."""

    layout: CheckpointLayout
    encoder: EncoderPlace
    others: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load(
    path: Path,
    forced: str | None = None,
    encoder: str | None = None,
    method: str | None = None,
    prefix: str = "",
) -> tuple[backbone_file.Backbone, ImportReport]:
    """The backbone in a checkpoint (a file, an index of shards, a folder), and how it was found.

    forced: the layout's name, else it is recognised; encoder: e.g. "key" or "teacher", else the
    first of the layout's row that the file has; method: what to call it, else what file or row
    say; prefix: only what lies behind it in the tensors' names. Raises InputError: one line with
    all that is wrong.
    """
    path = folders.file_of(Path(path))
    if formats.is_backbone_file(path):
        raise InputError(f"{path} is a backbone file of this project already: use it as it is")
    content = formats.read(path)
    if content.metadata.get("format") == "detco-detector":
        raise InputError(
            f"{path} is a whole trained detector of this project, no backbone: it is for `detco"
            " predict`"
        )
    try:
        places = detect.places(content.data, prefix)
        detect.refuse_relatives(content, places)
        layout = detect.find(forced) if forced else detect.recognise(content, places, prefix)
        present = _encoders(layout, places)
        chosen = _choose(layout, present, encoder)
        alone = layout.trunk_only and bool(forced or prefix)
        found, dropped = _take(layout, chosen, present, tensors_at(places, chosen), alone)
        read = _resnet if layout.family == RESNET else _network
        backbone, notes = read(_Source(path, content, bool(forced)), layout, places, chosen, found)
        if not forced and (twins := detect.lookalikes(content, places)):
            twin = f"{', '.join(twins)} look the same; if it is one of those, say it with --as"
            notes = (twin, *notes)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path} {text}") from None
    origin, row = _origin(path, content.data, layout)
    if row and not row.digest:
        notes += (f"taken for {row.name} by its name: its source publishes no hash",)
    stated_method = origin.pop("method")
    own_method = stated_method if backbone.method != UNTRAINED else "unknown"
    metadata = dict(backbone.metadata) | origin
    metadata |= {"adapter": layout.name, "encoder": chosen.role, "images_seen": ""}
    backbone = replace(
        backbone, method=method or own_method, metadata=tuple(sorted(metadata.items()))
    )
    others = tuple(dict.fromkeys(e.role for e in present if e.role != chosen.role))
    return backbone, ImportReport(layout, chosen, others, dropped, notes)


@dataclass(frozen=True)
class _Source:
    path: Path
    content: formats.Content
    forced: bool


Read = tuple[backbone_file.Backbone, tuple[str, ...]]


def _resnet(
    source: _Source, layout: CheckpointLayout, places: Places, chosen: EncoderPlace, found: dict
) -> Read:
    """(backbone, notes) of tensors under torchvision's names. Raises InputError."""
    arch = resnet.arch_of(found)
    tensors, notes = _complete(layout, arch, found)
    backbone_file.check_tensors(source.path, arch, tensors)
    network = graph.Network(layout, arch, tensors, tensors_at(places, chosen))
    style = graph.style_of(network, source.path, source.content, source.forced)
    pre = style.preprocessing
    backbone = backbone_file.Backbone(
        arch,
        tensors,
        UNTRAINED if style.untrained else layout.method,
        channel_order=pre.channel_order,
        mean=pre.mean,
        std=pre.std,
        stride_in=pre.stride_in,
        metadata=(("assumed", json.dumps(style.assumed)),),
    )
    return backbone, (*notes, *style.notes)


def _network(
    source: _Source, layout: CheckpointLayout, places: Places, chosen: EncoderPlace, found: dict
) -> Read:
    """(backbone, notes) of tensors under timm's names. Raises InputError."""
    placed = placing.place(layout, found, source.path)
    backbone_file.check_tensors(
        source.path, placed.arch, placed.tensors, layout.family, placed.model_args
    )
    backbone = backbone_file.Backbone(
        placed.arch,
        placed.tensors,
        layout.method,
        channel_order=placed.preprocessing.channel_order,
        mean=placed.preprocessing.mean,
        std=placed.preprocessing.std,
        metadata=(("assumed", json.dumps(placed.assumed)),),
        family=layout.family,
        model_args=placed.model_args,
    )
    return backbone, placed.notes


def file_of(path: Path) -> Path:
    """The backbone file meant by `path`: itself, or, where it names a public checkpoint instead,
    that one imported.

    The copy is looked for in `zoo.folder(path.parent)` and never downloaded; what is made of it
    lies below, in `imported`. Raises InputError that says how to get it.
    """
    if path.exists() or path.name not in zoo.BY_NAME:
        return path
    row, folder = zoo.BY_NAME[path.name], zoo.folder(path.parent)
    copy = zoo.get(row, folder)
    made = folder / "imported" / f"{row.name}-{sha256_of(copy)[:8]}.safetensors"
    if not made.exists():
        backbone_file.write(made, load(copy, row.layout)[0])
    return made


def open_checkpoint(path: Path, **how: str) -> tuple[backbone_file.Backbone, tuple[str, ...]]:
    """A checkpoint as a backbone that goes by the checkpoint's hash, and the doubts about it. how:
    see `load`. Raises InputError."""
    backbone, report = load(path, **how)
    return replace(backbone, sha256=dict(backbone.metadata)["source_sha256"]), report.notes


def _encoders(layout: CheckpointLayout, places: Places) -> list[EncoderPlace]:
    """The encoders that a file has."""
    present = [
        encoder
        for encoder in layout.encoders
        if any(
            (_renamed(layout, encoder, name) or "").startswith(TRUNKS[layout.family][1])
            for name in tensors_at(places, encoder)
        )
    ]
    present += _further(layout, present, places)
    if not present:
        what, top = ("ResNet", "conv1") if layout.family == RESNET else (layout.family, "no prefix")
        where = " or ".join(dict.fromkeys(encoder.prefix or top for encoder in layout.encoders))
        raise InputError(f"cannot be read as {layout.name}: it has no {what} under {where}")
    return present


def _further(
    layout: CheckpointLayout, present: list[EncoderPlace], places: Places
) -> list[EncoderPlace]:
    """The same encoders in dictionaries that the row does not name: averages beside the weights."""
    used = {next(at for at in encoder.at if at in places) for encoder in present}
    found = []
    for at in (at for at in places if at not in used):
        for encoder in present:
            names = (_renamed(layout, encoder, name) or "" for name in places[at])
            if any(name.startswith(TRUNKS[layout.family][1]) for name in names):
                role = re.split("[:/]", at)[-1] or "top"
                role += "" if len(used) == len(present) == 1 else f"-{encoder.role}"
                found.append(EncoderPlace(role, encoder.prefix, (at,)))
    return found


def _choose(
    layout: CheckpointLayout, present: list[EncoderPlace], role: str | None
) -> EncoderPlace:
    if role is None:
        return present[0]
    found = next((encoder for encoder in present if encoder.role == role), None)
    if found is None:
        roles = ", ".join(dict.fromkeys(encoder.role for encoder in present))
        raise InputError(f"has no encoder {role!r}; as {layout.name} it has {roles}")
    return found


def _renamed(layout: CheckpointLayout, encoder: EncoderPlace, name: str) -> str | None:
    """torchvision's or timm's name of a tensor of this encoder, None for anything else."""
    if not name.startswith(encoder.prefix):
        return None
    if layout.family != RESNET and any(re.fullmatch(pattern, name) for pattern in layout.drop):
        return None
    name = name.removeprefix(encoder.prefix)
    for pattern, new in layout.rename:
        if found := re.fullmatch(pattern, name):
            name = found.expand(new)
    return name if re.fullmatch(TRUNKS[layout.family][0], name) else None


def _take(
    layout: CheckpointLayout,
    chosen: EncoderPlace,
    present: list[EncoderPlace],
    state: dict,
    alone: bool = False,
) -> tuple[dict, dict[str, int]]:
    """(the trunk's tensors under torchvision's names, dropped names counted by pattern); alone:
    whatever does not look like a part of the trunk may be dropped."""
    same_place = [e for e in present if e.role != chosen.role and e.at == chosen.at]
    patterns = [COUNTERS, *layout.drop, *(re.escape(e.prefix) + ".*" for e in same_place)]
    patterns += [re.escape(chosen.prefix) + BESIDE] if alone else []
    tensors: dict[str, torch.Tensor] = {}
    taken: dict[str, str] = {}
    dropped: Counter = Counter()
    unexplained = []
    for name, value in state.items():
        new, twin = _renamed(layout, chosen, name), _twin(layout, chosen, name)
        if new and (other := taken.setdefault(new, name)) != name:
            raise InputError(f"has two tensors for {new}: {shown(other)} and {shown(name)}")
        pattern = next((p for p in patterns if re.fullmatch(p, name)), None)
        if new:
            tensors[new] = value
        elif twin and twin in state and torch.equal(state[twin], value):
            dropped["stored twice"] += 1
        elif twin and not re.fullmatch(COUNTERS, name):
            unexplained.append(f"{shown(name)} (differs from {shown(twin)})")
        elif pattern:
            dropped[pattern] += 1
        else:
            unexplained.append(shown(name))
    if unexplained:
        more = f" and {len(unexplained) - LISTED} more" if len(unexplained) > LISTED else ""
        raise InputError(
            f"has what {layout.name} does not explain:"
            f" {', '.join(sorted(unexplained)[:LISTED])}{more}{_alone(chosen)}"
        )
    return tensors, dict(dropped)


def _alone(chosen: EncoderPlace) -> str:
    """How an encoder is taken whatever else there is."""
    if not chosen.prefix:
        return ""
    return f"; --prefix {chosen.prefix} takes that network alone"


def _twin(layout: CheckpointLayout, encoder: EncoderPlace, name: str) -> str | None:
    for copy, original in layout.twins:
        if name.startswith(encoder.prefix + copy):
            return encoder.prefix + original + name.removeprefix(encoder.prefix + copy)
    return None


def _complete(layout: CheckpointLayout, arch: str, tensors: dict) -> tuple[dict, tuple[str, ...]]:
    """Contiguous float32 copies of what has the right shape; statistics of
    affine normalisations added."""
    shapes = resnet.expected_shapes(arch)
    done = {
        name: (
            value.to(torch.float32, copy=True).contiguous()
            if tuple(value.shape) == shapes.get(name)
            else value
        )
        for name, value in tensors.items()
    }
    counted = any("running_" in name for name in done)
    if not counted and not layout.affine_norm:
        raise InputError(
            "has normalisation without running statistics (GroupNorm, LayerNorm, or another that"
            f" was multiplied into its scale); as {layout.name} it should have batch normalisation,"
            " and with it the features would be wrong"
        )
    if counted:
        return done, ()
    missing = [name for name in shapes if "running_" in name]
    done |= {n: (torch.ones if n.endswith("var") else torch.zeros)(shapes[n]) for n in missing}
    note = f"{len(missing)} statistics of affine normalisations set to mean 0, variance 1"
    return done, (note,)


def _origin(
    path: Path, data: Any, layout: CheckpointLayout
) -> tuple[dict[str, str], zoo.Known | None]:
    """Method, epochs and source: of the public checkpoint that the file is, which is returned too,
    else what it says itself."""
    digest = folders.digest_of(path)
    row = zoo.same_file(path, digest)
    if row and row.layout == layout.name:
        origin = {"method": row.method, "epochs": str(row.epochs or ""), "source": row.name}
        return origin | {"source_sha256": digest}, row
    stated = (
        value
        for at in METHOD_PATHS
        if isinstance(value := inside(data, at), str) and METHOD.fullmatch(value)
    )
    named = next(stated, layout.method)
    epochs = next(
        (value for at in EPOCH_PATHS if type(value := inside(data, at)) is int and value in EPOCHS),
        None,
    )
    # Lightning's may be one less
    counted = "" if epochs is None or inside(data, "pytorch-lightning_version") else str(epochs)
    origin = {
        "method": named,
        "epochs": counted,
        "source": folders.name_of(path),
        "source_sha256": digest,
    }
    return origin, None
