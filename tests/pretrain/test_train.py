"""Pretraining from pictures to a backbone file."""

import json
from dataclasses import replace

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file

from detco.common.errors import InputError
from detco.pretrain import methods
from detco.pretrain.learner import Learner
from detco.pretrain.recipes import RECIPES, recipe_hash
from detco.pretrain.train import Process, TrainingError, pretrain
from tests.factories.pretraining import MOCO, TINY


@pytest.mark.parametrize("recipe", [MOCO, replace(RECIPES["supervised-small"], **TINY)])
def test_backbone_file(pictures, tmp_path, recipe):
    path = pretrain(recipe, pictures, tmp_path, device="cpu")
    assert path == tmp_path / "backbone.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    net = torchvision.models.resnet18(weights=None)
    report = net.load_state_dict(tensors, strict=False)
    assert not report.unexpected_keys and len(tensors) == 100
    assert all(
        k.startswith("fc.") or k.endswith("num_batches_tracked") for k in report.missing_keys
    )
    assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in tensors.values())
    assert metadata["format"] == "detco-backbone" and metadata["format_version"] == "1"
    assert metadata["method"] == recipe.method and metadata["arch"] == "resnet18"
    assert metadata["epochs"] == "2" and metadata["images_seen"] == "48"
    assert (
        metadata["channel_order"] == "RGB"
        and metadata["stride_in"] == "3x3"
        and metadata["source_sha256"] == ""
    )
    assert json.loads(metadata["mean"]) == [123.675, 116.28, 103.53]
    assert json.loads(metadata["std"]) == [58.395, 57.12, 57.375]
    assert (
        metadata["recipe_hash"] == recipe_hash(recipe)
        and json.loads(metadata["recipe"])["batch"] == 8
    )
    assert json.loads(metadata["assumed"]) == list(recipe.assumed)
    assert any((tmp_path / "tb").iterdir())


def test_the_same_run_writes_the_same_bytes(pictures, tmp_path):
    one, other = (
        pretrain(replace(MOCO, epochs=1), pictures, tmp_path / name, device="cpu") for name in "ab"
    )
    assert one.read_bytes() == other.read_bytes()


def test_stops_at_the_first_loss_that_is_not_finite(pictures, tmp_path):
    with pytest.raises(TrainingError, match=r"global-global/res5, .*not finite .*\d"):
        pretrain(replace(MOCO, lr=1e30), pictures, tmp_path, device="cpu")
    # no loss has seen the last step
    with pytest.raises(TrainingError, match="weights are not finite"):
        pretrain(
            replace(MOCO, lr=1e60, batch=26, groups=1, epochs=1),
            pictures,
            tmp_path / "last",
            device="cpu",
        )
    assert not (tmp_path / "last" / "backbone.safetensors").exists()


def test_bad_input_is_refused(pictures, tmp_path):
    with pytest.raises(InputError, match=r"26 pictures are fewer than a batch \(32\)"):
        pretrain(replace(MOCO, batch=32), pictures, tmp_path / "o", device="cpu")
    with pytest.raises(InputError, match="a folder of pictures for each class"):
        pretrain(
            replace(RECIPES["supervised-small"], **TINY),
            pictures / "a",
            tmp_path / "p",
            device="cpu",
        )
    with pytest.raises(InputError, match="must not be negative"):
        pretrain(MOCO, pictures, tmp_path / "q", seed=-1, device="cpu")
    with pytest.raises(InputError, match="no such folder"):
        pretrain(MOCO, pictures / "nowhere", tmp_path / "r", device="cpu")


def test_probe_changes_nothing_and_is_kept(pictures, tmp_path):
    seen = []
    plain = pretrain(MOCO, pictures, tmp_path / "plain", device="cpu")
    probed = pretrain(
        MOCO,
        pictures,
        tmp_path / "probed",
        device="cpu",
        probe=pictures,
        report=lambda stage, *_, **figures: seen.append(figures.get("knn")),
    )
    assert plain.read_bytes() == probed.read_bytes()
    kept = json.loads((tmp_path / "probed" / "knn.json").read_text())
    assert list(kept) == ["0", "1", "2"] and all(0 <= x <= 100 for x in kept.values())
    assert kept["0"] in seen and kept["1"] in seen


def test_supervised_runs_train_from_the_first_iteration(pictures, tmp_path):
    recipe = replace(
        RECIPES["supervised-small"], **{**TINY, "fill_queue": True, "queue": 16, "epochs": 1}
    )
    assert Learner(recipe, 0, 2, 3, Process(torch.device("cpu"))).filling == 0
    made = load_file(pretrain(recipe, pictures, tmp_path, device="cpu"))
    torch.manual_seed(0)
    start = methods.build(recipe, 1, 2).trunk.conv1.weight
    assert not torch.equal(made["conv1.weight"], start)


def test_one_picture_a_process_is_no_error(pictures, tmp_path):
    path = pretrain(
        replace(MOCO, batch=1, groups=1, epochs=1, queue=4, view_size=64),
        pictures / "a",
        tmp_path,
        device="cpu",
    )
    assert path.exists()
