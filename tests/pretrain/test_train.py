import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from detco.common.errors import InputError
from detco.pretrain import checkpoints, methods
from detco.pretrain.data.listing import find
from detco.pretrain.data.loader import Batches, Views
from detco.pretrain.distributed import distributed
from detco.pretrain.optimize import learning_rate, precision
from detco.pretrain.recipes import RECIPES, recipe_hash
from detco.pretrain.train import Pretraining, Process, TrainingError, pretrain
from tests.factories import ROOT

TINY = dict(
    epochs=2,
    batch=8,
    groups=2,
    view_size=32,
    jigsaw_size=60,
    patch_size=20,
    dim=16,
    queue=20,
    precision="float32",
    warmup_epochs=0.0,
    optimizer="sgd",
    fill_queue=False,
    lr=0.12,
)
DETCO = replace(RECIPES["detco-small"], **TINY)
MOCO = replace(RECIPES["moco-v2-small"], **TINY)

CHILD = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from detco.pretrain.recipes import RECIPES
from detco.pretrain.train import pretrain

def report(stage, done, total, **figures):
    print(json.dumps(dict(stage=stage, done=done, **figures)), flush=True)

settings = json.loads(sys.argv[4])
settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
recipe = replace(RECIPES[sys.argv[1]], **settings)
pretrain(recipe, Path(sys.argv[2]), Path(sys.argv[3]), device="cpu", report=report)
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """26 pictures in two folders: 3 batches of 8 an epoch, two pictures left over."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(26):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        small.resize((80, 60), Image.BICUBIC).save(folder / "ab"[i % 2] / f"{i:02}.png")
    return folder


def child(recipe, pictures, out, launcher=(), **settings):
    command = (
        [*(launcher or (sys.executable,)), "-c", CHILD]
        if not launcher
        else [*launcher, out.parent / "child.py"]
    )
    if launcher:
        (out.parent / "child.py").write_text(CHILD)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*map(str, command), recipe, str(pictures), str(out), json.dumps({**TINY, **settings})],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def losses(process):
    """The loss of each iteration that the process reported; it must have ended well."""
    lines = [json.loads(line) for line in process.stdout if line.startswith("{")]
    assert process.wait() == 0
    return [line["loss"] for line in lines if line["stage"] == "pretrain"]


def test_killed_at_random_moments_it_goes_on_to_bit_identical_weights(pictures, tmp_path):
    """Anywhere: while pictures are read, in a step, while a checkpoint or the backbone is written
    or old ones are removed."""
    settings = dict(epochs=3, checkpoint_minutes=0.0)  # 9 iterations, a checkpoint after each
    whole = child("detco-small", pictures, tmp_path / "whole", **settings)
    times = [time.monotonic() for line in whole.stdout if json.loads(line)["stage"] == "pretrain"]
    assert whole.wait() == 0 and len(times) == 9
    step = (times[-1] - times[0]) / 8  # seconds, with its checkpoint
    out, kills, rng = tmp_path / "killed", 0, np.random.default_rng()
    while True:
        process = child("detco-small", pictures, out, **settings)
        stages = (json.loads(line)["stage"] for line in process.stdout)
        steps = int(rng.integers(1, 4))  # of this attempt, and then up to a step more
        if (
            next(itertools.islice((s for s in stages if s == "pretrain"), steps - 1, None), None)
            and kills < 5
        ):
            time.sleep(rng.uniform(0, step))
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
    assert (
        "queues.local.pointer" in one and one["queues.local.pointer"] == 0
    )  # 5 x 8 keys in a queue of 20
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    for a, b in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])


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
    pretrain(
        replace(recipe, workers=3, keep=7), pictures, tmp_path, device="cpu"
    )  # these do not matter
    (pictures / "a" / "new.png").write_bytes((pictures / "a" / "00.png").read_bytes())
    try:
        with pytest.raises(InputError, match="another pictures"):
            pretrain(recipe, pictures, tmp_path, device="cpu")
    finally:
        (pictures / "a" / "new.png").unlink()


def test_stops_at_the_first_loss_that_is_not_finite(pictures, tmp_path):
    with pytest.raises(
        TrainingError, match=r"loss, loss/global-global/res5, .*not finite at iteration \d"
    ):
        pretrain(replace(MOCO, lr=1e30), pictures, tmp_path, device="cpu")
    with pytest.raises(
        TrainingError, match="weights are not finite after the last iteration"
    ):  # no loss has seen the last step
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


@pytest.mark.parametrize("start", [0, 2, 3, 8])
def test_an_epoch_is_a_permutation_over_all_processes(start):
    recipe = replace(MOCO, epochs=3)
    parts = [list(Batches(26, recipe, 5, start, rank, world=2)) for rank in range(2)]
    whole = list(Batches(26, recipe, 5))
    assert len(whole) == 9 and len(parts[0]) == len(parts[1]) == 9 - start
    for (epoch, both), (e0, first), (e1, second) in zip(whole[start:], *parts, strict=True):
        assert epoch == e0 == e1 and both == first + second
    for epoch in range(3):
        seen = [index for e, indices in whole if e == epoch for index in indices]
        assert len(seen) == len(set(seen)) == 24 and set(seen) <= set(range(26))
    assert whole[0][1] != whole[3][1]


def test_views_depend_on_seed_epoch_and_picture_alone(pictures):
    one, other = (Views(find(pictures), DETCO, seed=3) for _ in range(2))
    a, b = one[(1, [4, 9])], other[(1, [9, 4])]
    assert a.pop("bad") == {} and b.pop("bad") == {}
    for name in a:
        flip = a[name].unflatten(0, (2, -1)).flip(0).flatten(0, 1)
        assert torch.equal(flip, b[name])
    assert not torch.equal(a["local_query"], a["local_key"])
    assert not torch.equal(a["global_query"], one[(2, [4, 9])]["global_query"])
    assert not torch.equal(
        a["global_query"], Views(find(pictures), DETCO, seed=4)[(1, [4, 9])]["global_query"]
    )


def test_labels_are_the_folders_in_order(pictures):
    data = Views(find(pictures), replace(RECIPES["supervised-small"], **TINY), seed=0)
    assert data[(0, [0, 12, 13, 25])]["label"].tolist() == [0, 0, 1, 1]


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


def test_precision_of_a_device():
    assert precision(replace(MOCO, precision="fp16"), torch.device("cpu")) == "fp16"
    assert precision(MOCO, torch.device("cpu")) == "float32"
    assert precision(replace(MOCO, precision="auto"), torch.device("cpu")) in ("float32", "bf16")


def test_labels_of_replaced_pictures_and_bad_ones_met_on_the_way(pictures, tmp_path):
    """Where the pictures do not fit into memory, a bad one's place is taken by another, which
    brings its own label."""
    for folder in ("a", "b"):
        shutil.copytree(pictures / folder, tmp_path / folder)
    bad = sorted((tmp_path / "a").iterdir())[2]
    bad.write_bytes(bad.read_bytes()[:200])
    data = Views(find(tmp_path), replace(RECIPES["supervised-small"], **TINY, cache_gb=0.0), seed=0)
    assert not data.fits
    batch, again = data[(0, [1, 2, 20])], data[(0, [2, 1, 20])]
    assert list(batch["bad"]) == [2] and "ncat" in batch["bad"][2]
    views, _, other = data._row(0, 2, {})
    assert torch.equal(views["image"], batch["image"][1])
    assert other != 2 and batch["label"].tolist() == [0, data.labels[other], 1]
    assert torch.equal(again["image"][0], batch["image"][1])  # the same one every time
    with pytest.raises(InputError, match=r"1 of 26 pictures .* cannot be read, more than 1 %"):
        pretrain(replace(MOCO, cache_gb=0.0), tmp_path, tmp_path / "out", device="cpu")


def test_pictures_that_do_not_fit_into_memory_give_the_same_weights(pictures, tmp_path):
    one = pretrain(replace(MOCO, epochs=1), pictures, tmp_path / "memory", device="cpu")
    other = pretrain(
        replace(MOCO, epochs=1, cache_gb=0.0, workers=1),
        pictures,
        tmp_path / "workers",
        device="cpu",
    )
    assert one.read_bytes() != other.read_bytes()  # the recipe within says how it was read
    one, other = load_file(one), load_file(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_text_file_of_pictures_is_the_folder_of_the_same(pictures, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in pictures.rglob("*.png")))
    one = pretrain(replace(MOCO, epochs=1), pictures, tmp_path / "folder", device="cpu")
    other = pretrain(
        replace(MOCO, epochs=1), tmp_path / "list.txt", tmp_path / "list", device="cpu"
    )
    assert one.read_bytes() == other.read_bytes()


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
    kept = json.loads((tmp_path / "probed" / "probe.json").read_text())
    assert list(kept) == ["0", "1", "2"] and all(0 <= x <= 1 for x in kept.values())
    assert kept["0"] in seen and kept["1"] in seen


def test_processes_that_see_different_folders_are_refused(pictures, tmp_path, monkeypatch):
    run = Pretraining(MOCO, pictures, tmp_path / "out", 0, Process(torch.device("cpu"), 1, 2), None)

    def gather(into, mine):
        into[:] = [12, mine]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(
        InputError, match=r"not the same folder for all processes \(runs there are at \[12, 0\]\)"
    ):
        run.go()


def test_bad_pictures_of_other_processes_count(pictures, tmp_path, monkeypatch):
    """Each meets its own; all stop together, or the ones that know of nothing would wait for
    ever."""
    run = Pretraining(MOCO, pictures, tmp_path, 0, Process(torch.device("cpu"), 0, 2), None)
    seen = {}
    run.bad = seen.update

    def gather(into, mine):
        into[:] = [mine, {7: "truncated"}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    run._take_note({3: "empty"})
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


def test_supervised_runs_train_from_the_first_iteration(pictures, tmp_path):
    recipe = replace(
        RECIPES["supervised-small"], **{**TINY, "fill_queue": True, "queue": 16, "epochs": 1}
    )
    run = Pretraining(recipe, pictures, tmp_path, 0, Process(torch.device("cpu")), None)
    run.go()
    torch.manual_seed(0)
    start = methods.build(recipe, 1, 2).trunk.conv1.weight
    assert run.filling == 0 and not torch.equal(run.model.trunk.conv1.weight, start)


def test_one_picture_a_process_is_no_error(pictures, tmp_path):
    path = pretrain(
        replace(MOCO, batch=1, groups=1, epochs=1, queue=4, view_size=64),
        pictures / "a",
        tmp_path,
        device="cpu",
    )
    assert path.exists()
