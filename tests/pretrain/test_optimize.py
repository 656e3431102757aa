"""Learning rates and precision."""

import math
from dataclasses import replace

import pytest
import torch

from detco.pretrain.optimize import learning_rate, precision
from detco.pretrain.recipes import RECIPES
from tests.factories.pretraining import MOCO


def test_learning_rates_of_the_papers():
    moco = RECIPES["moco-v2-200ep"]
    assert [learning_rate(moco, e) for e in (0, 50, 100)] == pytest.approx(
        [0.03, 0.015 * (1 + math.cos(math.pi / 4)), 0.015]
    )
    assert learning_rate(replace(moco, batch=512), 0) == pytest.approx(0.06)
    v1 = RECIPES["moco-v1-200ep"]
    assert [learning_rate(v1, e) for e in (0, 119.9, 120, 160)] == pytest.approx(
        [0.03, 0.03, 0.003, 0.0003]
    )
    supervised = RECIPES["supervised-90ep"]
    assert [learning_rate(supervised, e) for e in (29, 30, 60, 80)] == pytest.approx(
        [0.1, 0.01, 0.001, 0.0001]
    )
    warm = replace(moco, warmup_epochs=10.0)
    assert learning_rate(warm, 5) == pytest.approx(0.015, rel=1e-3)
    assert learning_rate(warm, 10) == pytest.approx(0.03) and learning_rate(
        warm, 200
    ) == pytest.approx(0)


def test_precision_of_a_device():
    assert precision(replace(MOCO, precision="fp16"), torch.device("cpu")) == "fp16"
    assert precision(MOCO, torch.device("cpu")) == "float32"
    assert precision(replace(MOCO, precision="auto"), torch.device("cpu")) in ("float32", "bf16")
