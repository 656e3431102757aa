"""Pretraining by several processes."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from detco.common.errors import InputError
from detco.pretrain import methods
from detco.pretrain.data.listing import find
from detco.pretrain.data.training import TrainingImages
from detco.pretrain.distributed import distributed, join
from detco.pretrain.train import Process, run
from tests.factories.pretraining import DETCO, MOCO, child, losses


def test_one_process_of_two_groups_is_two_processes_of_one_group(pictures, tmp_path):
    # A low lr: units that rounding switches on or off change the gradient by the square root of the
    # rounding error.
    settings = dict(
        epochs=6, batch=16, view_size=64, jigsaw_size=96, patch_size=32, lr=0.0005, fill_queue=False
    )
    one = losses(child("detco-small", pictures, tmp_path / "one", **settings))
    launcher = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    )
    two = losses(child("detco-small", pictures, tmp_path / "two", launcher, **settings))
    assert len(one) == len(two) == 6
    np.testing.assert_allclose(two[:5], one[:5], rtol=1e-4)
    a, b = (load_file(tmp_path / name / "backbone.safetensors") for name in ("one", "two"))
    torch.manual_seed(0)
    start = dict(methods.build(replace(DETCO, **settings), 1, 0).trunk.named_parameters())
    moved = sum((a[name] - p).norm() ** 2 for name, p in start.items()) ** 0.5
    apart = sum((a[name] - b[name]).norm() ** 2 for name in start) ** 0.5
    assert apart < 0.1 * moved
    for name in a:
        if "running" in name:
            torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=1e-2)


def test_the_others_wait_until_the_first_has_read_imagenet(monkeypatch):
    """150 GB over a network of 20 MB/s; torch's own limit is 10 minutes on GPUs."""
    asked = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *_, timeout: asked.update(timeout=timeout)
    )
    with join("cpu"):
        pass
    assert asked["timeout"].total_seconds() > 150e9 / 20e6


def test_processes_that_see_different_folders_are_refused(pictures, tmp_path, monkeypatch):
    second = Process(torch.device("cpu"), 1, 2)

    def gather(into, mine):
        into[:] = [12, mine]

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda found, device: None)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(InputError, match=r"not the same folder .*\[12, 0\]"):
        run(MOCO, pictures, tmp_path / "out", 0, second)


def test_bad_pictures_of_other_processes_count(pictures, tmp_path, monkeypatch):
    """Each meets its own; all stop together, or the ones that know of nothing would
    wait for ever."""
    first = Process(torch.device("cpu"), 0, 2)
    data = TrainingImages(find(pictures), MOCO, 0, 0, first, tmp_path / "bad.txt")
    seen = {}
    data.bad = seen.update

    def gather(into, mine):
        into[:] = [mine, {7: "truncated"}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    data.note({3: "empty"})
    assert seen == {3: "empty", 7: "truncated"}


@pytest.mark.parametrize(
    "change",
    [
        dict(levels=("res2", "res4"), level_weights=(1.0, 1.0)),
        dict(terms=("local-local",)),
        dict(terms=("global-local",)),
    ],
)
def test_processes_train_together_where_weights_have_no_part_in_the_loss(change, tmp_path):
    recipe = replace(DETCO, queue=4, **change)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        torch.manual_seed(0)
        plain = methods.build(recipe, 1, 0)
        model = distributed(
            methods.build(recipe, 1, 0),
            Process(torch.device("cpu"), 0, 2),
            recipe.has_unused_parameters,
        )
        model.module.load_state_dict(plain.state_dict())
        batch = {
            f"{kind}_{role}": torch.randn(4, *shape)
            for role in ("query", "key")
            for kind, shape in (("global", (3, 32, 32)), ("local", (9, 3, 20, 20)))
        }
        for step in range(2):
            for m in (model, plain):
                m.zero_grad()
                m(batch, torch.arange(4))["loss"].backward()
            for (name, p), q in zip(
                model.module.named_parameters(), plain.parameters(), strict=True
            ):
                assert q.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-6), (
                    step,
                    name,
                )
        assert any(q.grad is None for q in plain.query.parameters())
    finally:
        torch.distributed.destroy_process_group()
