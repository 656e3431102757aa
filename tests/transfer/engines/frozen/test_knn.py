"""k nearest neighbours against scikit-learn and by hand; a whole run on folders of classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detco.common.errors import InputError
from detco.transfer import engines, finetune
from detco.transfer.engines.frozen import knn
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.settings import Classifier, Resize
from tests.factories import datasets

sklearn = pytest.importorskip("sklearn.neighbors")


def drawn(n, seed, channels=6):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, channels))).float()


def silent(*_, **__):
    pass


@pytest.mark.parametrize("at_once", [1 << 28, 60 * 7])
def test_votes_are_scikit_learns(monkeypatch, at_once):
    monkeypatch.setattr(knn, "AT_ONCE", at_once)
    train, test, labels = drawn(60, 1), drawn(25, 2), torch.arange(60) % 7
    settings = Classifier(neighbours=(5, 20), temperature=0.1)
    found = knn.classify(train, labels, test, 7, settings, silent)
    for k, (best, share) in found.items():
        theirs = sklearn.KNeighborsClassifier(
            k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.1)
        ).fit(train.double().numpy(), labels.numpy())
        votes = theirs.predict_proba(test.double().numpy())
        order = np.argsort(-votes, 1)[:, :2]
        assert best[:, :2].tolist() == order.tolist()
        np.testing.assert_allclose(share[:, 0], votes.max(1), rtol=1e-4)


def test_more_neighbours_than_images_are_all_of_them():
    train, labels = drawn(4, 3), torch.tensor([0, 0, 1, 1])
    settings = Classifier(neighbours=(4, 50))
    found = knn.classify(train, labels, drawn(5, 4), 2, settings, silent)
    assert torch.equal(found[4][0], found[50][0])


@pytest.mark.parametrize("engine", ["auto", "torchvision"])
def test_a_run_tells_colours_apart_in_the_engine_frozen(tmp_path, engine):
    root = datasets.classes(tmp_path / "mine", 8, 3)
    data = {"layout": "imagefolder", "root": str(root)}
    out = tmp_path / "out"
    record = finetune.finetune(PROTOCOLS["small-knn"], "random", data, out, engine, device="cpu")
    assert (record["engine"], record["metrics"]) == ("frozen", {"knn20": 100.0})
    assert record["deviations"] == []
    assert not list(out.glob("features*"))


def test_bfloat16_is_a_footnote(tmp_path):
    root = datasets.classes(tmp_path / "mine", 8, 3)
    data = {"layout": "imagefolder", "root": str(root)}
    row = replace(PROTOCOLS["small-knn"], resize=Resize((40,), test=40, crop=32))
    launch = engines.Launch(amp="bf16")
    record = finetune.finetune(row, "random", data, tmp_path, device="cpu", launch=launch)
    assert record["metrics"] == {"knn20": 100.0}
    assert "features computed in bfloat16 (mixed precision)" in record["deviations"]
    with pytest.raises(InputError, match="--amp fp16 needs a GPU"):
        launch = engines.Launch(amp="fp16")
        finetune.finetune(row, "random", data, tmp_path, device="cpu", launch=launch)


def test_fewer_images_than_neighbours_are_a_footnote(tmp_path):
    root = datasets.classes(tmp_path / "mine", 3, 3)
    data = {"layout": "imagefolder", "root": str(root)}
    record = finetune.finetune(PROTOCOLS["small-knn"], "random", data, tmp_path, device="cpu")
    assert record["deviations"] == ["20 neighbours: there are 9 images, all of them vote"]
