"""Pretraining killed, interrupted or asked for again."""

import itertools
import json
import signal
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from detco.common.errors import InputError
from detco.pretrain import checkpoints
from detco.pretrain.train import pretrain
from tests.factories.pretraining import DETCO, MOCO, child
from tests.factories.processes import random_moments


def test_killed_at_random_moments_it_goes_on_to_bit_identical_weights(pictures, tmp_path):
    """Anywhere: while pictures are read, in a step, while a checkpoint or the backbone is written
    or old ones are removed."""
    settings = dict(epochs=3, checkpoint_minutes=0.0)  # 9 iterations, a checkpoint after each
    whole = child("detco-small", pictures, tmp_path / "whole", **settings)
    times = [time.monotonic() for line in whole.stdout if json.loads(line)["stage"] == "pretrain"]
    assert whole.wait() == 0 and len(times) == 9
    step = (times[-1] - times[0]) / 8  # seconds, with its checkpoint
    out, kills, draw = tmp_path / "killed", 0, random_moments()
    while True:
        process = child("detco-small", pictures, out, **settings)
        stages = (json.loads(line)["stage"] for line in process.stdout)
        steps = draw.randint(1, 3)  # of this attempt, and then up to a step more
        if (
            next(itertools.islice((s for s in stages if s == "pretrain"), steps - 1, None), None)
            and kills < 5
        ):
            time.sleep(draw.uniform(0, step))
            process.send_signal(signal.SIGKILL)
        list(stages)  # to its end, or a run that is left alone would break on the closed pipe
        process.stdout.close()
        if process.wait() == 0:
            break
        kills += 1
        assert kills <= 5
    assert kills >= 2
    one, other = (
        load_file(folder / "backbone.safetensors") for folder in (tmp_path / "whole", out)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list(out.glob("checkpoint*"))


def test_killed_between_the_backbone_and_the_removal_of_the_checkpoints(pictures, tmp_path):
    pretrain(MOCO, pictures, tmp_path, device="cpu")
    (tmp_path / "checkpoint-000000005.pt").write_bytes(b"left")
    (tmp_path / "checkpoint-000000006.tmp").write_bytes(b"half")
    before = (tmp_path / "backbone.safetensors").read_bytes()
    pretrain(MOCO, pictures, tmp_path, device="cpu")
    assert (tmp_path / "backbone.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("checkpoint*"))


def test_checkpoint_of_a_resumed_run_is_the_uninterrupted_ones(pictures, tmp_path):
    """Not only the backbone: heads, queues, pointers, momentum encoder and optimizer as well."""
    states = []
    for name, stops in (("once", (5,)), ("twice", (2, 5))):
        for stop in stops:

            def report(stage, done, total, stop=stop, **figures):
                if stage == "pretrain" and done == stop + 1:
                    raise KeyboardInterrupt  # after the checkpoint of iteration `stop`

            with pytest.raises(KeyboardInterrupt):
                pretrain(
                    replace(DETCO, checkpoint_minutes=0.0),
                    pictures,
                    tmp_path / name,
                    device="cpu",
                    report=report,
                )
        states.append(checkpoints.load(tmp_path / name))
    assert states[0]["iteration"] == states[1]["iteration"] == 5
    one, other = (state["model"] for state in states)
    # 5 x 8 keys in a queue of 20
    assert "queues.local.pointer" in one and one["queues.local.pointer"] == 0
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    for a, b in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])


def test_finished_run_returns_at_once_and_refuses_to_become_another(pictures, tmp_path):
    recipe = replace(MOCO, epochs=1)
    path = pretrain(recipe, pictures, tmp_path, device="cpu")
    before = path.stat().st_mtime_ns
    assert (
        pretrain(
            recipe, pictures, tmp_path, device="cpu", report=lambda *a, **k: pytest.fail("worked")
        )
        == path
    )
    assert path.stat().st_mtime_ns == before
    for other, seed, what in ((recipe, 1, "seed"), (replace(recipe, lr=0.5), 0, "recipe")):
        with pytest.raises(InputError, match=f"another {what}; use another --out"):
            pretrain(other, pictures, tmp_path, seed=seed, device="cpu")
    # these do not matter
    pretrain(replace(recipe, workers=3, keep=7), pictures, tmp_path, device="cpu")
    (pictures / "a" / "new.png").write_bytes((pictures / "a" / "00.png").read_bytes())
    try:
        with pytest.raises(InputError, match="another set of images"):
            pretrain(recipe, pictures, tmp_path, device="cpu")
    finally:
        (pictures / "a" / "new.png").unlink()


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    for i in (3, 6, 9):
        checkpoints.save(tmp_path, i, {"iteration": i}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-000000006.pt",
        "checkpoint-000000009.pt",
    ]
    path = tmp_path / "checkpoint-000000009.pt"
    path.write_bytes(path.read_bytes()[:100])
    assert checkpoints.load(tmp_path)["iteration"] == 6
    assert "cannot be read" in caplog.text
