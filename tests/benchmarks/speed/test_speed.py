"""The speed benchmarks: they time what they name, and the usual implementation
computes the same as ours."""

import numpy as np
import pytest
import torch
from PIL import Image

from detco.benchmarks import speed
from detco.benchmarks.cli import main as cli
from detco.benchmarks.speed import step, views
from detco.benchmarks.speed.baseline_step import UsualDetCo
from detco.benchmarks.speed.baseline_views import UsualViews
from detco.common.errors import InputError
from detco.pretrain.methods.detco import DetCo
from detco.pretrain.recipes import RECIPES, replace

TINY = replace(
    RECIPES["detco-small"],
    batch=4,
    dim=8,
    queue=12,
    groups=1,
    view_size=40,
    jigsaw_size=66,
    patch_size=20,
)


def test_ways_take_turns_and_ratios_are_of_neighbours():
    now, order = [0.0], []

    def way(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds.pop(0)

        return run

    ways = {"slow": way("slow", [9.0, 4.0, 6.0, 20.0]), "fast": way("fast", [9.0, 2.0, 2.0, 5.0])}
    seconds = speed.alternate(ways, 3, lambda: now[0])
    assert order == ["slow", "fast"] * 4 and seconds == {
        "slow": [4.0, 6.0, 20.0],
        "fast": [2.0, 2.0, 5.0],
    }
    assert speed.ratio(seconds, "slow", "fast") == speed.Spread(3.0, 2.0, 4.0)
    assert str(speed.ratio(seconds, "slow", "fast")) == "3.00 (2.00 to 4.00)"


def usual_from(ours):
    """UsualDetCo with the weights and queues of ours."""
    usual = UsualDetCo(TINY)
    renamed = {}
    for name, value in ours.state_dict().items():
        side, _, rest = name.partition(".")
        if side == "queues":
            kind, what = rest.split(".")
            if what == "keys":
                renamed |= {f"{kind}_queue_{level}": value[level] for level in range(4)}
            continue
        part, _, tail = rest.partition(".")
        if part == "trunk":
            layer, _, inner = tail.partition(".")
            place = {"conv1": "stem.0", "bn1": "stem.1"}.get(
                layer
            ) or f"stages.{int(layer[-1]) - 1}"
            renamed[f"{side}.{place}.{inner}"] = value
        else:
            renamed[f"{side}.heads.{part.removesuffix('_heads')}.{tail}"] = value
    usual.load_state_dict(renamed)
    return usual


def test_the_usual_step_computes_what_ours_does():
    torch.manual_seed(0)
    ours = DetCo(TINY, groups=1)
    usual = usual_from(ours)
    batch = step._views(TINY, torch.device("cpu"), torch.contiguous_format)
    for model in (ours, usual):
        model.optimizer = torch.optim.SGD(model.query.parameters(), 0.05)
    for _ in range(2):
        output = ours(batch, torch.randperm(4))
        loss, keys = usual(batch)
        assert loss.item() == pytest.approx(output["loss"].item(), rel=1e-4)
        for model, value in ((ours, output["loss"]), (usual, loss)):
            model.optimizer.zero_grad()
            value.backward()
            model.optimizer.step()
        ours.enqueue(output["keys"]), usual.enqueue(keys)
    for level in range(4):
        torch.testing.assert_close(
            usual.get_buffer(f"local_queue_{level}"),
            ours.queues["local"].keys[level],
            rtol=1e-3,
            atol=1e-3,
        )


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        small.resize((160, 120), Image.BICUBIC).save(tmp_path / f"{i}.jpg")
    return tmp_path


def test_the_usual_views_have_the_shapes_and_statistics_of_ours(photographs):
    from detco.pretrain.data.listing import find
    from detco.pretrain.data.loader import Views
    from detco.pretrain.data.views import finish

    torch.manual_seed(0)
    recipe = RECIPES["detco-200ep"]
    usual = UsualViews(recipe)
    rows = [usual(photographs / "1.jpg") for _ in range(12)]
    data = Views(find(photographs), recipe, seed=0)
    batches = [finish(data[(epoch, [1])], recipe, torch.device("cpu")) for epoch in range(12)]
    for name, expected in (("global_query", (3, 224, 224)), ("local_key", (9, 3, 64, 64))):
        theirs, ours = (
            torch.stack([row[name] for row in rows]),
            torch.cat([batch[name] for batch in batches]),
        )
        assert theirs.shape == ours.shape == (12, *expected)
        assert theirs.mean().item() == pytest.approx(ours.mean().item(), abs=0.25)
        assert theirs.std().item() == pytest.approx(ours.std().item(), rel=0.25)


def test_views_are_measured(photographs, monkeypatch, capsys):
    """Every way really runs; what it took is made up, and the figures follow by hand."""
    took = {
        views.DECODE: [0.002, 0.004],
        views.USUAL: [0.016, 0.020],
        views.CUT: [0.006, 0.008],
        views.OURS: [0.008, 0.005],
    }

    def alternate(ways, repeats, clock, report=None):
        assert list(ways) == list(took) and repeats == 2
        for run in ways.values():
            run()
        return took

    monkeypatch.setattr(speed, "alternate", alternate)
    words = ["--images", str(photographs), "--count", "2", "--repeats", "2", "--device", "cpu"]
    assert cli.main(["speed", "views", *words]) == 0
    out = capsys.readouterr().out
    assert f"from 2 pictures of {photographs}, one core" in out.splitlines()[0]
    assert "usual / ours: 3.00 (2.00 to 4.00) times" in out
    result = views.measure(photographs, "cpu", count=2, repeats=2)
    found = result.milliseconds[views.DECODE]
    assert (found.median, found.low, found.high) == pytest.approx((1.5, 1.0, 2.0))
    assert result.milliseconds[views.OURS].median == pytest.approx(3.25)
    assert (result.cutting.median, result.whole.median) == pytest.approx((2.5, 2.625))


def test_steps_are_measured(monkeypatch):
    monkeypatch.setitem(RECIPES, "detco-small", TINY)
    took = {step.USUAL: [0.4], step.SAME: [0.2], step.OURS: [0.1], step.BARE: [0.08]}

    def alternate(ways, repeats, clock, report=None):
        for run in ways.values():
            run()
        return {name: took[name] for name in ways}

    monkeypatch.setattr(speed, "alternate", alternate)
    result = step.measure("cpu", repeats=1)
    assert (
        list(result.milliseconds) == ["usual, float32", "ours, float32", "ours", "bare passes"]
        and not result.gib
    )
    ratios = (result.faster, result.faster_same_precision, result.of_bare)
    assert [ratio.median for ratio in ratios] == pytest.approx([4.0, 2.0, 0.8])
    assert "batch 4, views of 40 and 9 x 20, 12 keys" in result.title


@pytest.mark.parametrize(
    "more, message",
    [
        ({"recipe": "moco-v2-200ep"}, "compared for DetCo"),
        ({"recipe": "detco-no-hierarchy"}, "four levels"),
        ({"repeats": 0}, "at least 1"),
        ({"recipe": "detco-smal"}, "detco-small"),
    ],
)
def test_what_cannot_be_measured_is_refused(more, message):
    with pytest.raises(InputError, match=message):
        step.measure("cpu", **more)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="no GPU"):
        views.measure(None, "cuda")
