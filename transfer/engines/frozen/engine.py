"""The engine `frozen`: features of all images, a classifier, its answers for the test images."""

import json
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from detco.common.errors import InputError
from detco.common.files import write_atomic
from detco.common.progress import Report

from ...data.dataset import Dataset
from .. import EngineJob, Outcome, replacing
from ..replacing import Replaced
from . import knn
from .features import PRECISIONS, Pooled, PooledTrunk, of_split


def run(job: EngineJob, report: Report) -> Outcome:
    """Learn from the images to train on, write the classes of those to test on to
    `predictions.json`. Raises InputError, TrainingError."""
    if job.launch.amp == "fp16" and job.device == "cpu":
        raise InputError("--amp fp16 needs a GPU; on a CPU --amp bf16 works")
    precision = PRECISIONS[job.launch.amp]
    trunk = PooledTrunk(job.backbone, job.protocol.classifier.level, precision).to(job.device)
    replaced = Replaced(job.train, len(job.train.images))
    entries, facts, deviations = METHODS[job.protocol.architecture](trunk, job, report, replaced)
    path = job.out / "predictions.json"
    write_atomic(path, json.dumps(entries))
    facts |= {"precision": str(precision or torch.float32).removeprefix("torch.")}
    facts |= replaced.facts()
    if precision:
        deviations += (f"features computed in {facts['precision']} (mixed precision)",)
    leftovers = (*job.out.glob("features-*.npy"), job.out / "checkpoint.pt")
    return Outcome(path, (*deviations, *replacing.deviations(facts)), facts, leftovers)


def by_neighbours(
    trunk: PooledTrunk, job: EngineJob, report: Report, replaced: Replaced
) -> tuple[list[dict], dict, tuple[str, ...]]:
    """Predictions, facts and deviations of `knn`."""
    settings, ids = job.protocol.classifier, [c["id"] for c in job.train.categories]
    train = of_split(trunk, job.train, job, report, replaced)
    test = of_split(trunk, job.test, job, report, None)
    where = torch.device(job.device)
    labels = labels_of(job.train, train.images).to(where)
    found = knn.classify(
        train.values.to(where), labels, test.values.to(where), len(ids), settings, report
    )
    entries: list[dict] = []
    for k, best in found.items():
        entries += answers(test, *best, ids, f"knn{k}")
    fewer = [k for k in settings.neighbours if k > len(train.images)]
    deviations = tuple(
        f"{k} neighbours: there are {len(train.images)} images, all of them vote" for k in fewer
    )
    return entries, {}, deviations


METHODS = {"knn": by_neighbours}


def labels_of(dataset: Dataset, images: Iterable[dict]) -> Tensor:
    """The place of each image's class among the categories, (images,) from 0."""
    place = {category["id"]: i for i, category in enumerate(dataset.categories)}
    of_image = {a["image_id"]: place[a["category_id"]] for a in dataset.annotations}
    return torch.tensor([of_image[image["id"]] for image in images])


def answers(
    test: Pooled, best: Tensor, scores: Tensor, ids: Sequence[int], answer: str
) -> list[dict]:
    """Predictions as detco.transfer.scoring.classes has them; best, scores: (images, classes)."""
    rows = zip(test.images, best.tolist(), scores.tolist(), strict=True)
    return [
        {
            "image_id": image["id"],
            "answer": answer,
            "classes": [ids[place] for place in places],
            "scores": values,
        }
        for image, places, values in rows
    ]
