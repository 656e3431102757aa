"""One transfer from start to metrics: data and weights are read and checked, the engine runs, the
predictions are scored."""

import importlib.util
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from detco.common import backbone_file
from detco.common.errors import InputError
from detco.common.networks import expected_levels, row_of
from detco.common.progress import Report, silent
from detco.common.resnet import ARCHS
from detco.common.values import canonical_hash

from . import engines
from .data import dataset as datasets
from .data import densepose, labels, official
from .data.checks import counting, examine
from .protocols import departures, protocol_hash
from .scoring import SCORERS, ceiling, refuse_layout, score
from .settings import Protocol

log = logging.getLogger("detco.transfer")
_SPLIT = "its head is the last stage of a ResNet"
OF_RESNETS = {"faster-rcnn-c4": _SPLIT, "mask-rcnn-c4": _SPLIT, "fcn-16s": "it dilates res5"}


def finetune(
    protocol: Protocol,
    backbone: Path | str,
    data: Mapping[str, str],
    out: Path,
    engine: str = "auto",
    seed: int = 0,
    device: str = "auto",
    report: Report | None = None,
    launch: engines.Launch = engines.ALONE,
    keep_model: str = "",
) -> dict:
    """Run one protocol and return everything a result record says about it.

    backbone: a backbone file, "random" or, of another architecture than the row's, "random:ARCH";
        data: `layout`, `root` and, unless they can be guessed,
        `train` and `test` (splits); `strict` and `merge_classes` as in `dataset.load`.
    keep_model: "final" or "best" leaves that detector in `out` (detco.transfer.detector).
    Returns protocol, engine, scorer, weights, data, metrics (percent), deviations, facts;
    predictions stay in `out`. Raises InputError for anything wrong with what was given,
    TrainingError if training cannot go on.
    """
    report = report or silent
    engine = engines.serving(engines.resolve(engine), protocol.architecture)
    refuse(protocol, engine, launch, keep_model)
    trunk = _trunk(protocol, backbone, seed, engine)
    train, test = prepare(protocol, data, report=report)
    refuse_changed(train, test, data.get("identity", ""))
    score.rehearse(test, protocol.scorer, protocol.metrics)
    out.mkdir(parents=True, exist_ok=True)
    job = engines.EngineJob(
        protocol, trunk, train, test, seed, out, pick_device(device), launch, keep_model
    )
    data_facts = {"layout": train.layout, "train": _facts(train), "test": _facts(test)}
    departed = [
        *_other_backbone(protocol, trunk),
        *departures(protocol),
        *official.deviations(protocol, train, test),
        *labels.deviations(train, test),
        *examine.deviations(test),
    ]
    del train  # the engine may let go of it
    outcome = engines.get(engine).run(job, report)
    if launch.machine_rank or outcome is None:
        return {}  # the first machine has the result
    report("score", 0, 1)
    metrics = score.score_file(test, outcome.predictions, protocol.scorer, protocol.metrics)
    report("score", 1, 1)
    for path in outcome.leftovers:
        path.unlink(missing_ok=True)
    return {
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "protocol_hash": protocol_hash(protocol),
        "scorer": protocol.scorer,
        "engine": engine,
        "seed": seed,
        "weights": {
            "method": trunk.method,
            "arch": trunk.arch,
            "sha256": trunk.sha256,
            **_origin(trunk),
        },
        "data": data_facts,
        "metrics": metrics,
        "deviations": [*departed, *outcome.deviations],
        "facts": outcome.facts,
    }


def _other_backbone(protocol: Protocol, trunk: backbone_file.Backbone) -> tuple[str, ...]:
    return (
        ()
        if trunk.arch == protocol.arch
        else (f"backbone {trunk.arch} (protocol: {protocol.arch})",)
    )


LAUNCHES = {  # where the fields of a launch come from
    "num_gpus": "several GPUs for a job (--num-gpus, --slurm gpus)",
    "num_machines": "several machines for a job (--num-machines, --slurm nodes)",
    "machine_rank": "--machine-rank",
    "dist_url": "--dist-url",
    "amp": "--amp",
    "eval_period": "--eval-period",
}


def _trunk(
    protocol: Protocol, backbone: Path | str, seed: int, engine: str
) -> backbone_file.Backbone:
    """The backbone that is meant. Raises InputError where the protocol cannot be built on it."""
    random, _, arch = str(backbone).partition(":")
    if random == "random":
        arch = arch or protocol.arch
        refuse_backbone(protocol, arch, engine)
        return backbone_file.random_backbone(arch, seed)
    trunk = backbone_file.read(Path(backbone))
    refuse_backbone(protocol, trunk.arch, engine)
    return trunk


def refuse_backbone(protocol: Protocol, arch: str, engine: str) -> None:
    """InputError for a backbone that the protocol's detector cannot be built on by that engine, or
    an unknown one."""
    settings, schedule = [], protocol.schedule
    settings += ["schedule.layer_decay"] if schedule.layer_decay < 1 else []
    settings += ["schedule.drop_path"] if schedule.drop_path else []
    if settings and (arch in ARCHS or protocol.freeze == "backbone"):
        why = f"with a ResNet ({arch})" if arch in ARCHS else "where the backbone is frozen"
        raise InputError(
            f"{' and '.join(settings)} of {protocol.name}: not {why}; they are for ViT, ConvNeXt"
            " and Swin that are trained"
        )
    if arch in ARCHS:
        return
    if "." in arch:
        raise InputError(f"{arch}: leave out what stands behind the dot, which names weights")
    row = row_of(arch)
    expected_levels(arch, {})  # InputError for what cannot be built
    if not row.varies and not protocol.classifier:
        raise InputError(
            f"the positions of {arch} are for images of one size only; the detector of"
            f" {protocol.name} needs images of any size"
        )
    if not row.stages and not protocol.classifier and not engines.has_simple_pyramid(engine):
        raise InputError(
            f"{arch} needs the pyramid of ViTDet, which the installed Detectron2 (the release of"
            " 2021) lacks: take --engine torchvision, or build Detectron2's main"
        )
    if protocol.architecture in OF_RESNETS:
        raise InputError(
            f"{protocol.name} takes ResNets only, not {arch}: {OF_RESNETS[protocol.architecture]};"
            " take an FPN or RetinaNet protocol"
        )
    if protocol.freeze == "res4":
        raise InputError(
            f"freeze res4 of {protocol.name}: ResNets only, not {arch}; known: none, backbone"
        )


def refuse(protocol: Protocol, engine: str, launch: engines.Launch, keep_model: str = "") -> None:
    """InputError for what only other engines can do, or only with what is not installed."""
    row = engines.ENGINES.get(engine)
    if row is None:  # said already
        return
    if not row.builds(protocol.architecture):
        other = next(
            name
            for name, one in engines.ENGINES.items()
            if one.builds(protocol.architecture) and one.trains
        )
        raise InputError(
            f"{protocol.name} needs the engine {other}; `detco doctor` says whether it is here"
        )
    module, package = row.wants.get(protocol.architecture, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise InputError(f"{protocol.name} needs {package}: pip install {package}")
    if "densepose" in protocol.metrics:
        densepose.need_project(protocol.name)
    if not row.launches and launch != engines.ALONE:
        able = " or ".join(
            name for name, one in engines.ENGINES.items() if one.launches and not one.only
        )
        changed = [
            LAUNCHES[key]
            for key, value in asdict(launch).items()
            if value != getattr(engines.ALONE, key)
        ]
        raise InputError(
            f"{', '.join(changed)}: only the engine {able} has this, not {engine}; leave it out"
        )
    refuse_to_keep(engine, launch, keep_model)


def identity_of(train: datasets.Dataset, test: datasets.Dataset) -> str:
    """The hash (sha256, hex) of labels and images of both splits, once they are examined."""
    parts = [train.fingerprint, test.fingerprint, train.content, test.content]
    if train.value_range:
        parts.append(str(train.value_range))
    return canonical_hash(parts)


def identity_of_labels(train: datasets.Dataset, test: datasets.Dataset) -> str:
    """What earlier versions took for `identity_of`: they did not read the images."""
    return canonical_hash([train.fingerprint, test.fingerprint])


def refuse_changed(train: datasets.Dataset, test: datasets.Dataset, planned: str) -> None:
    """InputError where labels or images are not those that a plan read. planned: `identity_of`
    then; anything that is no hash names data that another job makes."""
    known = (identity_of(train, test), identity_of_labels(train, test))
    if re.fullmatch("[0-9a-f]{64}", planned) and planned not in known:
        raise InputError(
            f"{test.root}: labels or images have changed since the run was planned; give the"
            " command again"
        )


def refuse_to_keep(engine: str, launch: engines.Launch, keep_model: str) -> None:
    """InputError where the engine cannot keep that detector."""
    kept = engines.ENGINES[engine].keeps
    if keep_model and not kept:
        raise InputError(f"--keep-model: the engine {engine} trains nothing that could be kept")
    if keep_model and keep_model not in kept:
        raise InputError(
            f"--keep-model {keep_model}: the engine {engine} keeps {' or '.join(kept)} only"
        )
    if keep_model == "best" and not launch.eval_period:
        raise InputError(
            "--keep-model best needs --eval-period N: the best is that of the evaluations on"
            " the way"
        )


def prepare(
    protocol: Protocol,
    data: Mapping[str, str],
    verify: bool = False,
    report: Report | None = None,
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training and test set, loaded and examined
    (detco.transfer.data.checks.examine). Raises InputError."""
    train, test = load_data(protocol, data)
    leaves_out = SCORERS[protocol.scorer].leaves_out if "semantic" not in protocol.metrics else ()
    train, test = examine.examined(train, test, leaves_out, verify, report)
    if best := ceiling.ceiling(test, protocol):
        test = replace(test, facts={**test.facts, "ceiling": best})
    for text in examine.deviations(test):
        log.warning("%s: %s", test.root, text)
    return train, test


def load_data(
    protocol: Protocol, data: Mapping[str, str]
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training and test set, checked to hold what the protocol needs (masks, keypoints)."""
    layout, root = data["layout"], Path(data["root"])
    if "densepose" in protocol.metrics:
        densepose.surface(root)
    refuse_layout(protocol.scorer, protocol.metrics, layout, root)
    if not (data.get("train") and data.get("test")):
        data = dict(zip(("train", "test"), datasets.default_splits(layout, root))) | {
            k: v for k, v in data.items() if v
        }
    keypoints, semantic = "keypoint" in protocol.metrics, "semantic" in protocol.metrics
    asked = (keypoints, semantic, bool(data.get("strict")), bool(data.get("merge_classes")))
    train = datasets.load(layout, root, data["train"], None, *asked)
    test = datasets.load(layout, root, data["test"], train.categories, *asked)
    if keypoints:
        train, test = _only_keypoints(protocol, train), _only_keypoints(protocol, test)
    if protocol.classifier:
        train, test = _only_classes_there(train, test)
        counting.refuse_few_images(train, protocol.least_images, protocol.name)
    if "densepose" in protocol.metrics:
        train, test = _only_people(protocol, train), _only_people(protocol, test)
    if "mask" in protocol.metrics:
        for dataset in (train, test):
            bare = [a for a in dataset.annotations if not a.get("segmentation")]
            if bare:
                raise InputError(
                    f"{dataset.root} ({dataset.split}): {len(bare)} of {len(dataset.annotations)}"
                    f" objects have no mask, which {protocol.name} needs; use a Faster R-CNN or"
                    " RetinaNet protocol"
                )
    return train, test


def _only_classes_there(
    train: datasets.Dataset, test: datasets.Dataset
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Without categories that neither has an object of: some of VOC's twenty, in data of one's own,
    are only names."""
    there = {a["category_id"] for one in (train, test) for a in one.annotations}
    kept = tuple(c for c in train.categories if c["id"] in there)
    return replace(train, categories=kept), replace(test, categories=kept)


def _only_keypoints(protocol: Protocol, dataset: datasets.Dataset) -> datasets.Dataset:
    """Keypoint R-CNN knows one category: the one with keypoints."""
    categories = tuple(c for c in dataset.categories if c.get("keypoints"))
    if len(categories) != 1:
        raise InputError(
            f"{dataset.root} ({dataset.split}): {protocol.name} needs exactly one category with"
            f" keypoints, found {len(categories)}"
        )
    kept = tuple(a for a in dataset.annotations if a["category_id"] == categories[0]["id"])
    if not any(a["num_keypoints"] and not a["iscrowd"] for a in kept):
        raise InputError(
            f"{dataset.root} ({dataset.split}): none of the {len(kept):,} objects has a visible"
            f" keypoint, which {protocol.name} needs; the third number of a visible one is 1 or 2"
        )
    return replace(dataset, categories=categories, annotations=kept)


def _only_people(protocol: Protocol, dataset: datasets.Dataset) -> datasets.Dataset:
    """DensePose R-CNN knows one category: the one whose objects have points on the body."""
    found = {a["category_id"] for a in dataset.annotations if "dp_x" in a}
    if len(found) != 1:
        raise InputError(
            f"{dataset.root} ({dataset.split}): {protocol.name} needs points of DensePose (dp_x and"
            f" the like) in objects of one category, found them in {len(found)}"
        )
    categories = tuple(c for c in dataset.categories if c["id"] in found)
    kept = tuple(a for a in dataset.annotations if a["category_id"] in found)
    return replace(dataset, categories=categories, annotations=kept)


def pick_device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


OF_THE_FILE = ("epochs", "images_seen", "recipe_hash", "source")
OF_AN_IMPORT = ("source_sha256", "adapter", "encoder")  # of another project's checkpoint


def _origin(trunk: backbone_file.Backbone) -> dict:
    meta = dict(trunk.metadata)
    return {key: meta[key] for key in (*OF_THE_FILE, *OF_AN_IMPORT) if meta.get(key)}


def _facts(dataset: datasets.Dataset) -> dict:
    return {
        "split": dataset.split,
        "images": len(dataset.images),
        "fingerprint": dataset.fingerprint,
        "content": dataset.content,
        **dataset.facts,
    }
