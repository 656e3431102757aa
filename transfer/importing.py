"""Any supported checkpoint -> Backbone: recognised by its names, taken apart strictly, and what was done reported.

Every tensor of the trunk must be there in its shape and finite; every other name must be explained by the adapter's row.
What is not used is never read from the disk.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import InputError, formats, known, weights
from .adapters import ADAPTERS, COUNTERS, Adapter, Encoder
from .unpickle import Inert

WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")
Places = Mapping[str, Mapping[str, torch.Tensor]]
METHOD_PATHS = ("hyper_parameters/method", "hyper_parameters/_content/method/_val", "meta/method")  # solo-learn, also OmegaConf's
LISTED = 8  # names in an error


@dataclass(frozen=True)
class Report:
    """How a file was read. `dropped`: pattern -> how many names it explained; `others`: encoders that were left."""

    adapter: Adapter
    encoder: Encoder
    format: str
    others: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load(
    path: Path, said: str | None = None, encoder: str | None = None, method: str | None = None
) -> tuple[weights.Backbone, Report]:
    """The backbone in a checkpoint, and how it was found.

    said: the adapter's name, else it is recognised; encoder: e.g. "key" or "teacher", else the first of the adapter's row that
    the file has; method: what to call it, else what file or row say. Raises InputError: one line with all that is wrong.
    """
    path = Path(path)
    content = formats.read(path)
    if content.metadata.get("format") == "detco-backbone":
        raise InputError(f"{path} is a backbone file of this project already: use it as it is")
    try:
        places = _places(content.data)
        adapter = _find(said) if said else _recognise(content, places)
        present = _encoders(adapter, places)
        chosen = _choose(adapter, present, encoder)
        tensors, dropped = _take(adapter, chosen, present, _state(places, chosen))
        arch = weights.arch_of(tensors)
        tensors, notes = _complete(adapter, arch, tensors)
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    weights.check_tensors(path, arch, tensors)
    others = tuple(dict.fromkeys(e.role for e in present if e.role != chosen.role))
    report = Report(adapter, chosen, content.format, others, dropped, notes)
    return _backbone(path, arch, tensors, content, report, method), report


# --- recognising -----------------------------------------------------------------------------------------------------


def _find(name: str) -> Adapter:
    found = next((adapter for adapter in ADAPTERS if adapter.name == name), None)
    if found is None:
        raise InputError(f"cannot be read as {name!r}, which is no known layout; known: {', '.join(a.name for a in ADAPTERS)}")
    return found


def _recognise(content: formats.Content, places: Places) -> Adapter:
    """The only row that fits. Raises InputError naming the candidates, or what the names look like where there is none."""
    facts = list(_facts(content))
    fitting = [adapter for adapter in ADAPTERS if not adapter.only_said and _fits(adapter, places, facts)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InputError(f"could be of several projects; say which: {' or '.join(f'--as {a.name}' for a in fitting)}")
    raise InputError(_unknown(content, places, facts))


def _fits(adapter: Adapter, places: Places, facts: list[str]) -> bool:
    names = facts + [name for encoder in adapter.encoders for name in _state(places, encoder)]
    return all(_matches(mark, names) for mark in adapter.marks) and not any(_matches(lack, names) for lack in adapter.lacks)


def _matches(pattern: str, names: list[str]) -> bool:
    whole = re.compile(pattern)
    return any(whole.fullmatch(name) for name in names)


def _facts(content: formats.Content) -> Iterator[str]:
    """`/key` of everything beside tensors at the top of a file, with `=value` where that is a short plain one."""
    top = content.data.items() if isinstance(content.data, dict) else ()
    for key, value in (*top, *content.metadata.items()):
        if isinstance(key, str) and not isinstance(value, torch.Tensor):
            short = isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 100)
            yield f"/{key}={value}" if short else f"/{key}"


def _unknown(content: formats.Content, places: Places, facts: list[str]) -> str:
    """Why nothing fits, as far as it can be told."""
    names = [name for tensors in places.values() for name in tensors]
    if not names and isinstance(content.data, Inert):
        what = "holds a whole object, not its weights"
        return f"{what} ({content.data.name[:60]}): load it in its own project and save its state_dict()"
    if not names:
        return f"holds no dictionary of tensors under a known name; it has {', '.join(facts[:LISTED]) or 'nothing at all'}"
    if any(re.search(r"patch_embed|blocks\.\d+\.attn", name) for name in names):
        return "holds a vision transformer; the detectors here take ResNets"
    begins = Counter(".".join(name.split(".")[:2]) for name in names)
    listed = ", ".join(f"{begin}..." for begin, _ in begins.most_common(LISTED))
    return f"names its tensors like no known project: {listed}; if it is a ResNet, --as NAME says whose"


# --- taking apart ----------------------------------------------------------------------------------------------------


def _places(data: Any) -> Places:
    """Every dictionary in which some row looks for an encoder: place -> its tensors."""
    places = dict.fromkeys(at for adapter in ADAPTERS for encoder in adapter.encoders for at in encoder.at)
    return {at: tensors for at in places if (tensors := _tensors(_inside(data, at)))}


def _inside(data: Any, path: str) -> Any:
    for key in filter(None, path.split("/")):
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _tensors(found: Any) -> dict[str, torch.Tensor]:
    """The tensors of a dictionary by name, without wrappers. Raises InputError where two names become one."""
    tensors: dict[str, torch.Tensor] = {}
    for key, value in found.items() if isinstance(found, dict) else ():
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            name = WRAPPERS.sub("", key)
            if name in tensors:
                raise InputError(f"has {name} twice, with and without the wrapper `module.`")
            tensors[name] = value
    return tensors


def _state(places: Places, encoder: Encoder) -> dict[str, torch.Tensor]:
    return next((places[at] for at in encoder.at if at in places), {})


def _encoders(adapter: Adapter, places: Places) -> list[Encoder]:
    """The encoders that a file has."""
    present = [
        encoder
        for encoder in adapter.encoders
        if any((_renamed(adapter, encoder, name) or "").startswith("layer1.") for name in _state(places, encoder))
    ]
    if not present:
        where = " or ".join(dict.fromkeys(encoder.prefix or "conv1" for encoder in adapter.encoders))
        raise InputError(f"cannot be read as {adapter.name}: it has no ResNet under {where}")
    return present


def _choose(adapter: Adapter, present: list[Encoder], role: str | None) -> Encoder:
    if role is None:
        return present[0]
    found = next((encoder for encoder in present if encoder.role == role), None)
    if found is None:
        roles = ", ".join(dict.fromkeys(encoder.role for encoder in present))
        raise InputError(f"has no encoder {role!r}; as {adapter.name} it has {roles}")
    return found


def _renamed(adapter: Adapter, encoder: Encoder, name: str) -> str | None:
    """torchvision's name of a tensor of this encoder, None for anything else."""
    if not name.startswith(encoder.prefix):
        return None
    name = name.removeprefix(encoder.prefix)
    for pattern, new in adapter.rename:
        if found := re.fullmatch(pattern, name):
            name = found.expand(new)
    return name if weights.TRUNK.fullmatch(name) else None


def _take(adapter: Adapter, chosen: Encoder, present: list[Encoder], state: dict) -> tuple[dict, dict[str, int]]:
    """(the trunk's tensors under torchvision's names, dropped names counted by pattern)"""
    same_place = [e for e in present if e.role != chosen.role and e.at == chosen.at]
    patterns = [COUNTERS, *adapter.drop, *(re.escape(e.prefix) + ".*" for e in same_place)]
    tensors: dict[str, torch.Tensor] = {}
    dropped: Counter = Counter()
    unexplained = []
    for name, value in state.items():
        new, twin = _renamed(adapter, chosen, name), _twin(adapter, chosen, name)
        if new in tensors:
            raise InputError(f"has two tensors for {new}")
        pattern = next((p for p in patterns if re.fullmatch(p, name)), None)
        if new:
            tensors[new] = value
        elif twin and twin in state and torch.equal(state[twin], value):
            dropped["stored twice"] += 1
        elif twin and not re.fullmatch(COUNTERS, name):
            unexplained.append(f"{name} (differs from {twin})")
        elif pattern:
            dropped[pattern] += 1
        else:
            unexplained.append(name)
    if unexplained:
        more = f" and {len(unexplained) - LISTED} more" if len(unexplained) > LISTED else ""
        raise InputError(f"has what {adapter.name} does not explain: {', '.join(sorted(unexplained)[:LISTED])}{more}")
    return tensors, dict(dropped)


def _twin(adapter: Adapter, encoder: Encoder, name: str) -> str | None:
    for copy, original in adapter.twins:
        if name.startswith(encoder.prefix + copy):
            return encoder.prefix + original + name.removeprefix(encoder.prefix + copy)
    return None


def _complete(adapter: Adapter, arch: str, tensors: dict) -> tuple[dict, tuple[str, ...]]:
    """Contiguous float32 copies of what has the right shape; statistics of affine normalisations added."""
    shapes, notes = weights.expected_shapes(arch), ()
    done = {
        name: value.to(torch.float32, copy=True).contiguous() if tuple(value.shape) == shapes.get(name) else value
        for name, value in tensors.items()
    }
    if adapter.affine_norm:
        missing = [name for name in shapes if "running_" in name and name not in done]
        done |= {n: (torch.ones if n.endswith("var") else torch.zeros)(shapes[n]) for n in missing}
        notes = (f"{len(missing)} statistics of affine normalisations set to mean 0, variance 1",) if missing else ()
    return done, notes


# --- the result ------------------------------------------------------------------------------------------------------


def _backbone(path, arch, tensors, content, report: Report, method: str | None) -> weights.Backbone:
    adapter, pre = report.adapter, report.adapter.preprocessing
    digest = weights.sha256_of(path)
    named = next((value for at in METHOD_PATHS if isinstance(value := _inside(content.data, at), str)), None)
    listed = known.same_file(path.name, digest)
    epochs = _inside(content.data, "epoch")
    metadata = {
        "epochs": str(listed.epochs) if listed else str(epochs) if type(epochs) is int else "",
        "images_seen": "", "source": listed.name if listed else path.name, "source_sha256": digest, "adapter": adapter.name,
        "encoder": report.encoder.role, "assumed": json.dumps(["preprocessing: that of the project, the file does not say"]),
    }  # fmt: skip
    method = method or (listed.method if listed else None) or named or adapter.method
    order = (pre.channel_order, pre.mean, pre.std, pre.stride_in)
    return weights.Backbone(arch, tensors, method, "", *order, tuple(sorted(metadata.items())))
