"""SVMs against scikit-learn used plainly, their low-shot draws, and whole runs on VOC's layout."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.data import dataset
from detco.transfer.engines.frozen import svm
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.scoring import classes
from detco.transfer.settings import Classifier, Resize
from tests.factories.datasets import picture, xml

sklearn = pytest.importorskip("sklearn")
SMALL = replace(PROTOCOLS["small-svm"], resize=Resize((40,), test=40, crop=32))


def silent(*_, **__):
    pass


def drawn(images, seed):
    """Features, and targets of two classes; an image in ten has difficult objects alone."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(images, 6)).astype(np.float32)
    targets = (features[:, :2] + draw.normal(0, 0.8, (images, 2)) > 0.5).astype(np.int8)
    targets[draw.random((images, 2)) < 0.1] = -1
    return features, targets


def test_values_and_costs_are_those_of_grid_search():
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import LinearSVC

    (train, targets), (test, _) = drawn(90, 1), drawn(40, 2)
    settings = Classifier(costs=(1e-4, 0.05, 1.0))
    found, costs = svm.classify(train, targets, test, settings, 0, silent)
    train, test = train.astype(float), test.astype(float)
    length = [np.linalg.norm(f, axis=1, keepdims=True) + 1e-5 for f in (train, test)]
    for i in range(2):
        machine = LinearSVC(class_weight={1: 2, -1: 1}, max_iter=2000, random_state=0)
        search = GridSearchCV(machine, {"C": settings.costs}, scoring="average_precision", cv=3)
        search.fit(train / length[0], np.where(targets[:, i] > 0, 1, -1))
        assert costs[i] == search.best_params_["C"]
        theirs = search.decision_function(test / length[1])
        np.testing.assert_allclose(found[""][:, i], theirs, rtol=1e-3, atol=1e-4)


def test_few_shots_are_drawn_by_seed_and_grow():
    target = np.array([1] * 10 + [0] * 100 + [-1] * 5)
    one, four = svm.few(target, (1, 4), (7, 0))
    assert [(target[r] == 1).sum() for r in (one, four)] == [1, 4]
    assert [(target[r] == 0).sum() for r in (one, four)] == [19, 76]
    assert set(one) < set(four) and len(set(four)) == 80 and target[four].min() == 0
    assert set(svm.few(target, (4,), (8, 0))[0]) != set(four)


def voc(root, images=12, **without):
    """Each third image shows a cat, a difficult cat (without a good one), or a dog."""
    for split in ("trainval", "test"):
        names = []
        for n in range(images):
            name = names.append(f"{split}{n}") or names[-1]
            picture(root / "JPEGImages" / f"{name}.jpg", (40, 32))
            box, hard = (2, 2, 30, 30), "<difficult>1</difficult>"
            what = [("cat", box), ("cat", box, hard), ("dog", box)][n % 3]
            (root / "Annotations").mkdir(exist_ok=True)
            objects = [what, ("dog", box)] if n % 3 == 1 else [what]
            (root / "Annotations" / f"{name}.xml").write_text(xml(*objects, size=(40, 32)))
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names))
    return {"layout": "voc", "root": str(root)}


def test_difficult_objects_alone_are_neither_there_nor_absent(tmp_path):
    data = dataset.load("voc", voc(tmp_path)["root"], "trainval")
    assert [c["name"] for c in data.categories][7] == "cat"
    found = classes.targets(data, data.images)
    assert found[:, 7].tolist() == [1, -1, 0] * 4 and found[:, 11].tolist() == [0, 1, 1] * 4


def test_a_run_gives_the_mean_over_classes(tmp_path):
    data = voc(tmp_path)
    record = finetune.finetune(SMALL, "random", data, tmp_path / "out", device="cpu")
    each = [record["metrics"][f"svm_map/{name}"] for name in ("cat", "dog")]
    assert record["metrics"]["svm_map"] == pytest.approx(np.mean(each)) and min(each) > 0
    # of VOC's twenty classes those that occur
    assert set(record["facts"]["costs"]) == {"cat", "dog"}
    low = replace(SMALL, classifier=Classifier(costs=(1.0,), shots=(1, 3)))
    record = finetune.finetune(low, "random", data, tmp_path / "low", device="cpu")
    assert set(record["metrics"]) == {"svm_map_1", "svm_map_3"}


def test_a_fold_without_a_positive_is_refused_before_anything_starts(tmp_path):
    data = voc(tmp_path, 6)
    with pytest.raises(InputError, match=r"class 'cat' .* has 2 images; small-svm needs 3"):
        finetune.prepare(SMALL, data)
    shots = replace(SMALL, classifier=Classifier(costs=(1.0,), shots=(1, 5)))
    with pytest.raises(InputError, match=r"has 2 images \(and 1 more like it\); small-svm needs 5"):
        finetune.prepare(shots, data)


def test_without_scikit_learn_it_is_refused_in_one_line(tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sklearn" else there(name)
    )
    with pytest.raises(InputError, match="small-svm needs scikit-learn: pip install scikit-learn"):
        finetune.finetune(SMALL, "random", {"layout": "voc", "root": str(tmp_path)}, tmp_path)


def test_a_class_that_only_the_test_split_shows_is_refused(tmp_path):
    data = voc(tmp_path)
    path = tmp_path / "Annotations/test0.xml"
    path.write_text(path.read_text().replace("cat", "horse"))
    with pytest.raises(InputError, match=r"class 'horse' of split 'trainval' has no images"):
        finetune.prepare(SMALL, data)
