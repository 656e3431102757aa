"""A pretraining step with tensors that only say they are on a GPU: no machine with one is needed,
and a tensor that was left on the CPU raises."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from detco.pretrain.data import views
from detco.pretrain.distributed import Process
from detco.pretrain.learner import Learner
from detco.pretrain.recipes import RECIPES

GPU = torch.device("cuda:0")
SMALL = dict(arch="resnet18", batch=4, groups=2, queue=8, fill_queue=False, load_size=0)


def learner(recipe):
    return Learner(recipe, 0, 3, 10, Process(torch.device("cpu")))


def move(made, mode):
    """Its model, which is built before: fake tensors cannot be copied."""
    for module in made.model.modules():
        for name, value in module.named_parameters(recurse=False):
            moved = mode.from_tensor(value.detach()).to(GPU)
            setattr(module, name, nn.Parameter(moved, value.requires_grad))
        for name, value in module.named_buffers(recurse=False):
            setattr(module, name, mode.from_tensor(value).to(GPU))
    made.process = Process(GPU)


def batch(recipe):
    rng = np.random.default_rng(0)
    picture = torch.from_numpy(rng.integers(0, 255, (3, 100, 120), dtype=np.uint8))
    cuts = [views.cut(picture, recipe, rng) for _ in range(recipe.batch)]
    draws = [views.draw(recipe, rng) for _ in range(recipe.batch)]
    made = {name: torch.stack([cut[name] for cut in cuts]) for name in cuts[0]}
    for name in draws[0]:  # their values are needed, which a fake tensor has not
        values = np.concatenate([draw[name] for draw in draws])
        made[f"{name}_draws"] = SimpleNamespace(numpy=lambda values=values: values)
    return made | {"label": torch.zeros(recipe.batch, dtype=torch.int64)}


@pytest.mark.parametrize("name", ["detco-200ep", "moco-v2-200ep", "supervised-90ep"])
def test_nothing_stays_on_the_cpu(name):
    recipe = replace(RECIPES[name], **SMALL)
    made, given = learner(recipe), batch(recipe)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        move(made, mode)
        out = made.forward(given, 5)
        made.model.enqueue(out["keys"])
        there = [out["loss"], *out["figures"].values(), *out["keys"].values(), *made.views.values()]
        assert {value.device for value in there} == {GPU}
        assert {value.device for value in made.model.state_dict().values()} == {GPU}


def test_what_is_left_on_the_cpu_is_found():
    recipe = replace(RECIPES["detco-200ep"], **SMALL)
    made, given = learner(recipe), batch(recipe)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        move(made, mode)
        made.model.level_weights = torch.ones(4)
        with pytest.raises(RuntimeError, match=r"device|cuda:0 and cpu"):
            made.forward(given, 5)
