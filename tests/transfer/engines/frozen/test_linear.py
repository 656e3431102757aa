"""The linear classifier against a plain training loop, in two processes as in one, and after an
interruption."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from detco.benchmarks.cli import commands
from detco.benchmarks.plan import single
from detco.benchmarks.run import worker
from detco.common.errors import TrainingError
from detco.results import store
from detco.transfer import finetune
from detco.transfer.engines.frozen import linear, processes
from detco.transfer.engines.replacing import Replaced
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.settings import Classifier, Resize, Schedule
from tests.factories import datasets

SCHEDULE = Schedule(0, 6, 0.5, epochs=4, steps=(2, 3), weight_decay=0.01, warmup=0)


def silent(*_, **__):
    pass


def drawn(images=20, channels=5):
    draw = np.random.default_rng(0)
    features = torch.from_numpy(draw.normal(size=(images, channels))).float()
    return features, torch.from_numpy(draw.integers(0, 3, images))


def training(out, share=processes.Share("cpu"), schedule=SCHEDULE):  # noqa: B008
    train = type("Split", (), {"layout": "imagefolder", "root": out, "split": "train"})
    return linear.Training(schedule, 3, 20, out, share, Replaced(train, 20))


def fitted(out, share=processes.Share("cpu"), report=silent, schedule=SCHEDULE):  # noqa: B008
    features, labels = drawn()
    source = linear.centres(features, labels, share)
    layer = linear.fit(source, 5, 3, training(out, share, schedule), report)
    return torch.cat([layer.weight.detach().flatten(), layer.bias.detach()])


def test_training_is_that_of_a_plain_loop(tmp_path):
    features, labels = drawn()
    torch.manual_seed(3)
    layer = nn.Linear(5, 3)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    velocity = [torch.zeros_like(p) for p in layer.parameters()]
    for epoch, lr in enumerate((0.5, 0.5, 0.05, 0.005)):
        for batch in linear.batches(20, 6, 3, epoch):
            loss = nn.functional.cross_entropy(layer(features[batch]), labels[batch])
            gradients = torch.autograd.grad(loss, list(layer.parameters()))
            with torch.no_grad():
                for p, g, v in zip(layer.parameters(), gradients, velocity, strict=True):
                    v.mul_(0.9).add_(g + 0.01 * p)
                    p.sub_(lr * v)
    expected = torch.cat([layer.weight.detach().flatten(), layer.bias.detach()])
    torch.testing.assert_close(fitted(tmp_path), expected, rtol=1e-4, atol=1e-5)


def test_long_training_ends_at_scikit_learns_logistic_regression(tmp_path):
    """All images in each update. The bias is decayed too, so there it is the weight of a constant
    feature; C counts the images' losses where decay counts their mean."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    features, labels = drawn()
    schedule = Schedule(0, 20, 0.5, epochs=120, weight_decay=0.1, warmup=0)
    found = fitted(tmp_path, schedule=schedule)
    constant = torch.cat([features, torch.ones(20, 1)], 1).numpy()
    reference = sklearn.LogisticRegression(C=1 / (0.1 * 20), fit_intercept=False, tol=1e-8)
    expected = reference.fit(constant, labels.numpy()).coef_
    weights = torch.cat([found[:15].view(3, 5), found[15:, None]], 1)
    np.testing.assert_allclose(weights.numpy(), expected, atol=2e-3)  # of 0.8


def test_every_image_once_an_epoch_in_another_order():
    first, second = (linear.batches(20, 6, 0, epoch) for epoch in (0, 1))
    assert [len(batch) for batch in first] == [6, 6, 6, 2]
    assert sorted(n for batch in first for n in batch) == list(range(20)) and first != second


def _in_a_process(rank, out):
    meeting = f"file://{out}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    try:
        return fitted(out, processes.Share("cpu", rank, 2))
    finally:
        dist.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    other = multiprocessing.spawn(_in_a_process, (tmp_path,), 1, join=False)
    # spawn numbers from 0, so the second of the two is this one
    found = _in_a_process(1, tmp_path)
    while not other.join():
        pass
    torch.testing.assert_close(found, fitted(tmp_path / "alone"))


def test_it_goes_on_from_a_checkpoint_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def kill(stage, done, total, **figures):
        if done == 7:
            raise Killed

    monkeypatch.setattr(linear, "CHECKPOINT_SECONDS", -1)
    with pytest.raises(Killed):
        fitted(tmp_path, report=kill)
    steps = []
    resumed = fitted(tmp_path, report=lambda stage, done, total, **_: steps.append(done))
    assert steps == list(range(7, 17))  # six had been saved
    assert torch.equal(resumed, fitted(tmp_path / "anew"))


def test_a_loss_that_is_not_finite_ends_it(tmp_path):
    with pytest.raises(TrainingError, match=r"loss not finite .*lower schedule\.lr"):
        fitted(tmp_path, schedule=replace(SCHEDULE, lr=1e30, weight_decay=1.0))


@pytest.mark.parametrize("augment", [False, True])
def test_a_run_tells_colours_apart(tmp_path, augment):
    row = PROTOCOLS["small-linear"]
    schedule = replace(row.schedule, epochs=6 if augment else 40, images=8)
    settings = {"resize": Resize((40,), test=40, crop=32), "schedule": schedule}
    row = replace(row, **settings, classifier=Classifier(augment=augment))
    data = {"layout": "imagefolder", "root": str(datasets.classes(tmp_path / "mine", 6, 3))}
    record = finetune.finetune(row, "random", data, tmp_path / "out", device="cpu")
    assert record["metrics"]["top1"] >= (0 if augment else 90) and record["engine"] == "frozen"
    assert ("classifier.augment True (protocol: False)" in record["deviations"]) == augment
    assert not list((tmp_path / "out").glob("*.npy"))


def test_random_parts_depend_on_seed_and_epoch_alone(tmp_path):
    from detco.transfer.data import dataset

    train = dataset.load("imagefolder", datasets.classes(tmp_path, 2, 2), "train")
    items = linear.Crops(train, 16, 5)
    ((first, number), _), ((again, _), _) = items[0, 4], linear.Crops(train, 16, 5)[0, 4]
    assert number == 4 and first.shape == (3, 16, 16) and torch.equal(first, again)
    assert not torch.equal(first, items[1, 4][0][0])
    open(train.images[4]["file_name"], "wb").close()
    (_, other), broken = items[0, 4]
    assert other != 4 and broken[0][0] == train.images[4]["file_name"]


def test_the_command_starts_two_processes(tmp_path):
    """The number of the second one's process stands in no record: that both took part is seen by
    the result, which is that of one."""
    root = datasets.classes(tmp_path / "mine", 4, 2)
    values = []
    for more in ([], ["--num-gpus", "2"]):
        words = ["transfer", "small-linear", "--weights", "random", "--data", str(root), *more]
        words += ["--out", str(tmp_path / "out"), "--device", "cpu"]
        words += ["--set", "epochs=2", "--set", "images=5", "--set", "crop=32"]
        job = single.job_of(commands.parser("").parse_args(words))
        job.folder.mkdir(parents=True)
        store.write_json(job.folder / "spec.json", job.spec)
        record = worker.run_job(job.spec, job.folder, silent)
        assert record["status"] == "done", record["error"]
        predictions = json.loads((job.folder / "predictions.json").read_text())
        values.append([score for entry in predictions for score in entry["scores"]])
    np.testing.assert_allclose(values[1], values[0], rtol=1e-4)
