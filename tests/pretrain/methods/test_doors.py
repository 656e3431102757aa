"""A method that comes in by its door only: a row of METHODS and a class. It reports no accuracy,
has no keys and no queue."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detco.common import backbone_file
from detco.pretrain import methods, train
from detco.pretrain.methods.encoder import Trunk
from detco.pretrain.recipes import RECIPES


class Brightness(nn.Module):
    """Learns the mean of each picture's pixels from its features."""

    def __init__(self, recipe, groups):
        super().__init__()
        self.trunk = Trunk(recipe.arch, groups)
        self.head = nn.Linear(self.trunk.channels["res5"], 1)

    def forward(self, batch, order=None):
        found = self.head(self.trunk(batch["image"])[-1].mean((2, 3))).float()[:, 0]
        loss = (found - batch["image"].float().mean((1, 2, 3))).square().mean()
        return {"loss": loss, "keys": {}, "figures": {"loss/brightness": loss.detach()}}

    def enqueue(self, keys):
        assert keys == {}


@pytest.fixture
def recipe(monkeypatch):
    module = ModuleType("detco.pretrain.methods.brightness")
    module.Brightness = Brightness
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = methods.Method("brightness:Brightness", has_keys=False)
    monkeypatch.setitem(methods.METHODS, "brightness", row)
    small = RECIPES["moco-v2-small"]
    return replace(
        small,
        name="brightness-tiny",
        method="brightness",
        epochs=2,
        batch=4,
        groups=1,
        view_size=32,
        precision="float32",
        checkpoint_minutes=0.0,
        workers=0,
    )


def test_a_dummy_method_pretrains_journals_resumes_and_exports(recipe, tmp_path):
    (tmp_path / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for number in range(8):
        pixels = draw.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    whole, seen = tmp_path / "whole", []

    def report(stage, done, total, **figures):
        seen.append((stage, done, total, set(figures)))

    train.pretrain(recipe, tmp_path / "pictures", whole, device="cpu", report=report)
    steps = [one for one in seen if one[0] == "pretrain"]
    assert [done for _, done, _, _ in steps] == [1, 2, 3, 4]
    assert all(figures == {"loss", "pictures/s"} for *_, figures in steps)

    class Killed(Exception):
        pass

    def until_second(stage, done, total, **figures):
        if (stage, done) == ("pretrain", 3):
            raise Killed

    part = tmp_path / "part"
    with pytest.raises(Killed):
        train.pretrain(recipe, tmp_path / "pictures", part, device="cpu", report=until_second)
    assert list(part.glob("checkpoint-*.pt"))
    train.pretrain(recipe, tmp_path / "pictures", part, device="cpu")
    one, other = (backbone_file.read(run / "backbone.safetensors") for run in (whole, part))
    assert one.method == "brightness" and one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    assert one.sha256 == other.sha256
