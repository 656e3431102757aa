"""The engine `frozen`: features of all images, a classifier, its answers for the test images."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from detco.common.errors import InputError
from detco.common.files import write_atomic
from detco.common.progress import Report

from ...data.dataset import Dataset
from ...scoring import classes
from ...settings import Classifier
from .. import EngineJob, Outcome, replacing
from ..replacing import Replaced
from . import knn, linear, processes, svm
from .features import PRECISIONS, Pooled, PooledTrunk, of_split


@dataclass(frozen=True)
class Classification:
    """What a classifier works with. replaced: counts training images that cannot be read."""

    job: EngineJob
    settings: Classifier
    trunk: PooledTrunk
    report: Report
    replaced: Replaced

    @property
    def ids(self) -> list[int]:
        return [category["id"] for category in self.job.train.categories]

    def train(self) -> Pooled:
        return of_split(self.trunk, self.job.train, self.job, self.report, self.replaced)

    def test(self) -> Pooled:
        return of_split(self.trunk, self.job.test, self.job, self.report, None)


@dataclass(frozen=True)
class Answered:
    """Predictions as detco.transfer.scoring.classes has them, and what the record says of them."""

    predictions: list[dict]
    deviations: tuple[str, ...] = ()
    facts: dict = field(default_factory=dict)


def run(job: EngineJob, report: Report) -> Outcome | None:
    """Learn from the images to train on, write the classes of those to test on to
    `predictions.json`. None in a process that only helps. Raises InputError, TrainingError."""
    if job.launch.amp == "fp16" and job.device == "cpu":
        raise InputError("--amp fp16 needs a GPU; on a CPU --amp bf16 works")
    precision, settings = PRECISIONS[job.launch.amp], job.protocol.classifier
    assert settings is not None  # the protocol has seen to it
    trunk = PooledTrunk(job.backbone, settings.level, precision).to(job.device)
    replaced = Replaced(job.train, len(job.train.images))
    work = Classification(job, settings, trunk, report, replaced)
    answered = METHODS[job.protocol.architecture](work)
    if answered is None:
        return None
    path = job.out / "predictions.json"
    write_atomic(path, json.dumps(answered.predictions))
    name = str(precision or torch.float32).removeprefix("torch.")
    facts = {"precision": name, **answered.facts, **replaced.facts()}
    low = (f"features computed in {name} (mixed precision)",) if precision else ()
    departed = (*answered.deviations, *low, *replacing.deviations(facts))
    leftovers = (*job.out.glob("features-*.npy"), job.out / "checkpoint.pt")
    return Outcome(path, departed, facts, leftovers)


def by_neighbours(work: Classification) -> Answered:
    """The architecture `knn`."""
    train, test, where = work.train(), work.test(), torch.device(work.job.device)
    labels = labels_of(work.job.train, train.images).to(where)
    features = (train.values.to(where), labels, test.values.to(where))
    found = knn.classify(*features, len(work.ids), work.settings, work.report)
    entries: list[dict] = []
    for answer, (best, scores) in zip(work.settings.by_neighbours, found.values(), strict=True):
        entries += answers(test.images, best, scores, work.ids, answer)
    count = len(train.images)
    fewer = [k for k in work.settings.neighbours if k > count]
    texts = [f"{k} neighbours: there are {count} images, all of them vote" for k in fewer]
    return Answered(entries, tuple(texts))


def by_layer(work: Classification) -> Answered | None:
    """The architecture `linear`; None in a process that only helps."""
    job = work.job
    with processes.joined(job.device) as share:
        trunk = work.trunk.to(share.device)
        train = None if work.settings.augment else _extracted(work, share)
        images = job.train.images if train is None else train.images
        labels = labels_of(job.train, images)
        training = linear.Training(
            job.protocol.schedule, job.seed, len(images), job.out, share, work.replaced
        )
        if train is None:
            items = linear.Crops(job.train, job.protocol.resize.crop, job.seed)
            source = linear.crops(items, labels, trunk, training)
        else:
            source = linear.centres(train.values, labels, share)
        layer = linear.fit(source, trunk.channels, len(work.ids), training, work.report)
        if share.rank:
            return None
    test = work.test()
    return Answered(answers(test.images, *linear.best(layer, test.values), work.ids, ""))


def _extracted(work: Classification, share: processes.Share) -> Pooled:
    """The training features, which the first process computes and the others then read."""
    if share.rank == 0:
        work.train()
    share.wait()
    return work.train()


def by_machines(work: Classification) -> Answered:
    """The architecture `svm`."""
    train, test = work.train(), work.test()
    targets = classes.targets(work.job.train, train.images)
    features = (train.values.numpy(), targets, test.values.numpy())
    found, costs = svm.classify(*features, work.settings, work.job.seed, work.report)
    entries: list[dict] = []
    for answer, values in found.items():
        scores, best = torch.from_numpy(values.round(6)).sort(1, descending=True)
        entries += answers(test.images, best, scores, work.ids, answer)
    names = (category["name"] for category in work.job.train.categories)
    return Answered(entries, facts={"costs": dict(zip(names, costs, strict=True))})


METHODS: dict[str, Callable[[Classification], Answered | None]] = {
    "knn": by_neighbours,
    "linear": by_layer,
    "svm": by_machines,
}


def labels_of(dataset: Dataset, images: Iterable[dict]) -> Tensor:
    """The place of each image's class among the categories, (images,) from 0."""
    place = {category["id"]: i for i, category in enumerate(dataset.categories)}
    of_image = {a["image_id"]: place[a["category_id"]] for a in dataset.annotations}
    return torch.tensor([of_image[image["id"]] for image in images])


def answers(
    images: Sequence[dict], best: Tensor, scores: Tensor, ids: Sequence[int], answer: str
) -> list[dict]:
    """Predictions as detco.transfer.scoring.classes has them; best, scores: (images, classes)."""
    rows = zip(images, best.tolist(), scores.tolist(), strict=True)
    return [
        {
            "image_id": image["id"],
            "answer": answer,
            "classes": [ids[place] for place in places],
            "scores": values,
        }
        for image, places, values in rows
    ]
