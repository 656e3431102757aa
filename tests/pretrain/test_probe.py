import numpy as np
import pytest
import torch
from PIL import Image

from detco.common.errors import InputError
from detco.pretrain.methods.encoder import Trunk
from detco.pretrain.probe import Probe, vote


def test_vote_against_naive_numpy():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 5
    features = rng.normal(size=(60, 8)) + 1.5 * rng.normal(size=(5, 8))[labels]
    right = 0
    for i in range(60):
        similarity = [
            a @ features[i] / np.linalg.norm(a) / np.linalg.norm(features[i]) for a in features
        ]
        others = sorted((j for j in range(60) if j != i), key=lambda j, s=similarity: -s[j])[:7]
        votes = [
            sum(np.exp(similarity[j] / 0.07) for j in others if labels[j] == c) for c in range(5)
        ]
        right += int(np.argmax(votes) == labels[i])
    assert 20 < right < 60
    assert vote(torch.from_numpy(features).float(), torch.from_numpy(labels), k=7) == pytest.approx(
        100 * right / 60
    )


def test_a_picture_does_not_vote_for_itself():
    features, labels = torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 1, 0, 1])
    assert vote(features, labels, k=1) == 0.0


def folder(root, classes=2, each=6, size=40):
    """Classes told apart by colour."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        (root / f"class{c}").mkdir()
        for i in range(each):
            pixels = rng.integers(0, 60, (size, size + 10, 3)).astype(np.uint8)
            pixels[..., c] += 150
            Image.fromarray(pixels).save(root / f"class{c}" / f"{i}.png")
    return root


def test_probe_reads_labelled_pictures_and_leaves_the_trunk_as_it_was(tmp_path, caplog):
    (folder(tmp_path) / "class0" / "bad.png").write_text("no picture")
    torch.manual_seed(0)
    trunk = Trunk("resnet18").train()
    before = {name: v.clone() for name, v in trunk.state_dict().items()}
    probe = Probe(tmp_path, 32)
    assert probe.images.shape == (12, 3, 32, 32) and probe.labels.tolist() == [0] * 6 + [1] * 6
    assert probe(trunk, torch.device("cpu"), batch=5) == 100.0
    assert trunk.training and all(
        torch.equal(v, before[name]) for name, v in trunk.state_dict().items()
    )


@pytest.mark.parametrize("classes, each", [(1, 6), (2, 1)])
def test_probe_needs_classes_with_several_pictures(tmp_path, classes, each):
    with pytest.raises(InputError, match="at least two subfolders"):
        Probe(folder(tmp_path, classes, each), 32)
