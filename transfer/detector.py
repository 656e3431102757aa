"""The trained detector as one file, `detector.safetensors` in the folder of its job; nothing
in it runs.

The tensors are the engine's own under its own names; the metadata say, as texts, how to build the
detector around them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detco.common import backbone_file, depth, resnet, settings
from detco.common.backbone_file import Backbone, write_tensors
from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.common.images import Range
from detco.common.networks import RESNET, key_of
from detco.common.values import shown

from .data.dataset import Dataset
from .engines import EngineJob
from .protocols import from_record, protocol_hash
from .settings import Protocol

NAME = "detector.safetensors"
FORMAT, VERSION = "detco-detector", "1"
REQUIRED = (
    "engine",
    "protocol",
    "arch",
    "method",
    "weights_sha256",
    "channel_order",
    "mean",
    "std",
    "stride_in",
    "categories",
    "seed",
    "iteration",
    "kept",
    "data",
    "shared",
)
OF_A_CATEGORY = ("id", "name", "keypoints", "keypoint_flip", "skeleton")


@dataclass(frozen=True)
class TrainedDetector:
    """What a detector file holds.

    backbone: of what was fine-tuned, without tensors: architecture, preprocessing, sha256 of its
        file.
    categories: by class number; "id", "name" and, of those with keypoints, "keypoints" (names),
        "keypoint_flip" (pairs).
    kept: `final` (after the last iteration) or `best` (of the evaluations on the way). data:
    training and test set."""

    engine: str
    protocol: Protocol
    backbone: Backbone
    categories: tuple[dict, ...]
    tensors: dict[str, Tensor]
    seed: int
    iteration: int
    kept: str
    data: dict
    sha256: str = ""

    @property
    def keypoints(self) -> list[str]:
        return next(
            (category["keypoints"] for category in self.categories if category.get("keypoints")), []
        )

    @property
    def value_range(self) -> Range | None:
        """Of the training images, where these have more than 8 bits (detco.common.depth)."""
        return tuple(found) if (found := self.data["train"].get("value_range")) else None


def save(job: EngineJob, engine: str, state: Mapping[str, Tensor], iteration: int) -> None:
    """Keep the detector of a job as it is after so many iterations, in place of one kept before.

    state: the `state_dict` of the model, on any device. To be called in one process only. Raises
    InputError where the file cannot be written.
    """
    data = {"train": _facts(job.train), "test": _facts(job.test)}
    own = (
        job.protocol,
        job.backbone,
        job.train.categories,
        dict(state),
        job.seed,
        iteration,
        job.keep_model,
        data,
    )
    write(job.out / NAME, TrainedDetector(engine, *own))


def write(path: Path, detector: TrainedDetector) -> None:
    """Write a detector file, whole or not at all. Raises InputError."""
    tensors, shared = _stored_once(detector.tensors)
    trunk = detector.backbone
    categories = [{key: c[key] for key in OF_A_CATEGORY if key in c} for c in detector.categories]
    metadata = {
        "format": FORMAT,
        "format_version": VERSION,
        "engine": detector.engine,
        "kept": detector.kept,
        "protocol": json.dumps(asdict(detector.protocol)),
        "protocol_hash": protocol_hash(detector.protocol),
        "arch": trunk.arch,
        "method": trunk.method,
        "weights_sha256": trunk.sha256,
        "channel_order": trunk.channel_order,
        "mean": json.dumps(trunk.mean),
        "std": json.dumps(trunk.std),
        "stride_in": trunk.stride_in,
        **({} if trunk.family == RESNET else {"model_args": key_of(trunk.model_args)}),
        "categories": json.dumps(categories),
        "seed": str(detector.seed),
        "iteration": str(detector.iteration),
        "data": json.dumps(detector.data),
        "shared": json.dumps(shared),
    }
    write_tensors(path, tensors, metadata)


def _facts(dataset: Dataset) -> dict:
    return {
        "name": dataset.name,
        "layout": dataset.layout,
        "split": dataset.split,
        "fingerprint": dataset.fingerprint,
        **({"value_range": dataset.value_range} if dataset.value_range else {}),
    }


def _stored_once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors on the CPU, other name -> name for those that are one and the same, like a layer
    used by two heads)."""
    first: dict[tuple, str] = {}
    tensors, shared = {}, {}
    for name, tensor in state.items():
        name_of_same = first.setdefault(
            (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype), name
        )
        if name_of_same == name:
            tensors[name] = tensor.detach().cpu().contiguous()
        else:
            shared[name] = name_of_same
    return tensors, shared


def file_of(path: Path) -> Path:
    """A detector file as it is, or the only one in or below a folder. Raises InputError if there is
    none, or there are several."""
    path = Path(path)
    if path.is_dir() and not (path / NAME).is_file():
        below = sorted(path.rglob(NAME))
        if not below:
            raise InputError(
                f"{path} holds no trained detector ({NAME}): --keep-model keeps it while a job runs"
            )
        if len(below) > 1:
            raise InputError(
                f"{path} holds {len(below)} trained detectors; name one, e.g. {below[0]}"
            )
        path = below[0]
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"no trained detector at {path}; --keep-model keeps it while a job runs")
    return path


def is_detector(path: Path) -> bool:
    """Whether this is a file that says that it is one of this project's detectors, or a folder with
    one in or below it."""
    path = Path(path)
    if path.is_dir():
        return next(path.rglob(NAME), None) is not None
    try:
        return path.is_file() and backbone_file.read_metadata(path).get("format") == FORMAT
    except InputError:
        return False


def read(path: Path) -> TrainedDetector:
    """Read a detector file, or that of a job's folder. Raises InputError: one line with what is
    wrong in it."""
    path = file_of(path)
    metadata, tensors = backbone_file.read_tensors(path)
    if metadata.get("format") != FORMAT:
        hint = ""
        if metadata.get("format") == backbone_file.FORMAT["format"]:
            hint = ": it is a backbone file; a detector is kept with --keep-model while a job runs"
        raise InputError(f"{path} is not a trained detector of this project{hint}")
    if metadata.get("format_version") != VERSION:
        version = shown(metadata.get("format_version", "?"))
        raise InputError(
            f"{path} has format version {version}, this program reads {VERSION}: update it"
        )
    missing = [key for key in REQUIRED if key not in metadata]
    if missing:
        raise InputError(f"{path}: metadata lack {', '.join(missing)}")
    family, model_args = RESNET, dict[str, Any]()
    if metadata["arch"] not in resnet.ARCHS:
        family, model_args = backbone_file.network(path, metadata)
    trunk = Backbone(
        metadata["arch"],
        {},
        metadata["method"],
        metadata["weights_sha256"],
        *backbone_file.preprocessing(path, metadata),
        family=family,
        model_args=model_args,
    )
    protocol, categories = (
        _protocol(path, metadata["protocol"]),
        _categories(path, metadata["categories"]),
    )
    seed, iteration = (_json(path, metadata, key, int) for key in ("seed", "iteration"))
    kept, data = metadata["kept"], _data(path, metadata)
    tensors = _whole(path, tensors, _json(path, metadata, "shared", dict))
    digest = sha256_of(path)
    return TrainedDetector(
        metadata["engine"],
        protocol,
        trunk,
        categories,
        tensors,
        seed,
        iteration,
        kept,
        data,
        digest,
    )


def _json(path: Path, metadata: dict[str, str], key: str, kind: type):
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError):
        value = None
    if type(value) is not kind:
        raise InputError(f"{path}: metadata {key} is damaged: {shown(metadata[key])!r}")
    return value


def _data(path: Path, metadata: dict[str, str]) -> dict:
    data = _json(path, metadata, "data", dict)
    train = data.setdefault("train", {})
    match train.get("value_range") if isinstance(train, dict) else ():
        case None:
            return data
        case [int() | float() as low, int() | float() as high] if -math.inf < low < high < math.inf:
            return data
    raise InputError(f"{path}: metadata data is damaged: {shown(metadata['data'])!r}")


def _protocol(path: Path, text: str) -> Protocol:
    given = from_record(_json(path, {"protocol": text}, "protocol", dict))
    try:
        row = settings.build(Protocol, given)
    except InputError as error:
        raise InputError(f"{path}: metadata protocol is damaged: {shown(str(error))}") from None
    if unknown := _unknown(given, asdict(row)):
        raise InputError(
            f"{path}: its protocol has a setting {shown(unknown)!r} that this program does not"
            " know: update it"
        )
    return row


def _unknown(given: dict, known: dict) -> str:
    """The first key of nested dictionaries that the other lacks; "" if there is none."""
    for key, value in given.items():
        if key not in known:
            return key
        if isinstance(value, dict) and (inner := _unknown(value, known[key])):
            return f"{key}.{inner}"
    return ""


def _categories(path: Path, text: str) -> tuple[dict, ...]:
    found = _json(path, {"categories": text}, "categories", list)
    good = all(
        isinstance(c, dict) and isinstance(c.get("id"), int) and isinstance(c.get("name"), str)
        for c in found
    )
    if not found or not good or len({c["id"] for c in found}) < len(found):
        raise InputError(
            f"{path}: metadata categories must be a list of different ids with names, not"
            f" {shown(text)!r}"
        )
    for category in found:
        points, pairs = category.get("keypoints", []), category.get("keypoint_flip", [])
        listed = (
            isinstance(points, list)
            and isinstance(pairs, list)
            and all(isinstance(point, str) for point in points)
        )
        if not listed or not all(
            isinstance(p, list) and len(p) == 2 and all(point in points for point in p)
            for p in pairs
        ):
            raise InputError(
                f"{path}: metadata categories: keypoints of {shown(category['name'])!r} are damaged"
            )
    return tuple(found)


def _whole(path: Path, tensors: dict[str, Tensor], shared: dict) -> dict[str, Tensor]:
    """The tensors with those under a second name, all of them checked to be finite."""
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        raise InputError(
            f"{path}: {shown(bad[0])} is not finite"
            + (f", nor are {len(bad) - 1} more" if len(bad) > 1 else "")
        )
    lost = [name for name in shared.values() if not isinstance(name, str) or name not in tensors]
    if lost:
        raise InputError(
            f"{path}: metadata shared name {shown(str(lost[0]))}, which is not in the file"
        )
    return tensors | {name: tensors[same] for name, same in shared.items()}


def fill(model: nn.Module, detector: TrainedDetector) -> None:
    """Copy every tensor to its place in a model just built. Raises InputError where names or shapes
    are not the model's."""
    places = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in detector.tensors.items()}
    problems = [f"{name} is missing" for name in places.keys() - given.keys()]
    problems += [f"{shown(name)} has no place" for name in given.keys() - places.keys()]
    both = places.keys() & given.keys()
    problems += [
        f"{name} is {given[name]}, not {places[name]}"
        for name in both
        if given[name] != places[name]
    ]
    if problems:
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        listed = "; ".join(sorted(problems)[:4]) + more
        raise InputError(
            f"the tensors are not those of a {detector.protocol.architecture} of {detector.engine}:"
            f" {listed}"
        )
    model.load_state_dict(detector.tensors)


def describe(detector: TrainedDetector) -> dict:
    """What `detco weights show` prints."""
    return {
        "trained detector": f"{detector.protocol.architecture} of the engine {detector.engine}",
        "protocol": detector.protocol.name,
        "protocol hash": protocol_hash(detector.protocol),
        "kept": f"{detector.kept}, after {detector.iteration} iterations",
        "seed": detector.seed,
        "classes": [shown(category["name"]) for category in detector.categories],
        "keypoints": [shown(point) for point in detector.keypoints],
        "backbone": f"{detector.backbone.arch}, {shown(detector.backbone.method)}",
        "backbone sha256": shown(detector.backbone.sha256),
        "channel order": detector.backbone.channel_order,
        "mean": list(detector.backbone.mean),
        "std": list(detector.backbone.std),
        "stride in": detector.backbone.stride_in,
        "trained on": shown(str(detector.data.get("train"))),
        **({"values shown": depth.said(detector.value_range)} if detector.value_range else {}),
        "parameters": sum(
            t.numel()
            for k, t in detector.tensors.items()
            if "running_" not in k and t.is_floating_point()
        ),
        "sha256": detector.sha256,
    }
