"""`import detco`: the same runs as the commands make, from files and from memory."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

import detco
from detco.benchmarks import python
from detco.benchmarks.cli import main as cli
from detco.benchmarks.scenes import draw
from detco.common import backbone_file
from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.results import store

QUICK = {"iterations": 2, "images": 2, "warmup": 1, "precise_bn": 0, "resize.test": 64}
QUICK |= {"resize.train": [64]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return draw.draw(folder, images=8, size=64, unlabelled=8, classification=8)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    net = torchvision.models.resnet18().train()
    net(torch.randn(4, 3, 64, 64))  # statistics of its own
    return net


def test_packages_do_not_hide_the_functions():
    code = (
        "import detco; before = detco.pretrain, detco.results\n"
        "import detco.pretrain.recipes, detco.results.store\n"
        "assert detco.pretrain is not before[0] and detco.pretrain.recipes.RECIPES\n"
        "for call in (*before, detco.pretrain, detco.results):\n"
        "    try: call(1, 2, 3, 4, 5, 6, 7, 8)\n"
        "    except TypeError as error: print(str(error).split('(')[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pretrain", "results"] * 2


def test_importing_is_light():
    code = "import sys, detco; print({'torch', 'pandas', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_module_in_memory_is_what_its_file_is(data, network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    words = dict(data=data / "coco", settings=QUICK, engine="torchvision")
    one = detco.evaluate(
        network, "small-retinanet", seeds=(0, 1), out=tmp_path / "a", name="mine", **words
    )
    two = detco.evaluate(tmp_path / "mine.pth", "small-retinanet", out=tmp_path / "b", **words)
    assert network.training  # its state is left as it was
    assert list(one["starting_point"].unique()) == ["mine"] and set(one["seed"]) == {0, 1}
    columns = ["starting_point", "protocol", "seed", "metric", "value"]
    first = one[one["seed"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(first[columns], two[columns])
    (file,) = (tmp_path / "a" / "imported").iterdir()
    assert set(one["weights"]) == {backbone_file.read(file).sha256}
    (record,) = (store.read_json(path) for path in (tmp_path / "b").rglob("record.json"))
    facts = {"source": "mine.pth", "adapter": "torchvision", "encoder": "backbone"}
    facts["source_sha256"] = sha256_of(tmp_path / "mine.pth")
    assert facts.items() <= record["weights"].items()
    stored = backbone_file.read(file).tensors
    assert all(torch.equal(network.state_dict()[name], value) for name, value in stored.items())
    means = detco.table(tmp_path / "a").loc["mine"].xs("mean", level="statistic")
    values = one[one["metric"] == "box_ap"]["value"]
    assert means.xs("box_ap", level="metric").tolist() == [pytest.approx(values.mean())]


def test_records_are_those_of_the_command(data, tmp_path, capsys):
    words = ["transfer", "small-retinanet", "--weights", "random", "--data", str(data / "coco")]
    words += ["--out", str(tmp_path), "--engine", "replay"]
    assert cli.main(words) == 0
    capsys.readouterr()
    found = detco.evaluate(
        "random", "small-retinanet", data / "coco", out=tmp_path, engine="replay"
    )
    assert len(list(tmp_path.rglob("record.json"))) == 1
    pd.testing.assert_frame_equal(found, detco.results(tmp_path))


def test_pretrain_and_load(data, tmp_path):
    settings = {"epochs": 1, "batch": 4, "queue": 4}
    path = detco.pretrain(
        "moco-v2-small", data / "unlabelled", tmp_path, settings=settings, device="cpu"
    )
    net = detco.load_backbone(path)
    assert isinstance(net, torchvision.models.ResNet) and not net.training
    tensors = backbone_file.read(path).tensors
    assert all(torch.equal(net.state_dict()[name], value) for name, value in tensors.items())
    images = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    wanted = torchvision.transforms.functional.normalize(
        images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    assert (net.preprocessing(images) - wanted).abs().max() < 1e-5
    res5 = wanted
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        res5 = net.get_submodule(name)(res5)
    assert (net(net.preprocessing(images)) - res5.mean((2, 3))).abs().max() < 1e-3
    assert store.read_json(tmp_path / "record.json")["status"] == "done"


def test_two_processes_do_not_take_each_others_backbones(network, tmp_path, monkeypatch):
    """Another process does all of its work in the same folder between writing and reading."""
    torch.manual_seed(4)
    other = torchvision.models.resnet18().eval()
    for function in ("load", "write"):
        module = python.importer if function == "load" else python.backbone_file
        own, waiting = getattr(module, function), [other]

        def between(path, *more, own=own, waiting=waiting):
            made = own(path, *more) if waiting and own.__name__ == "write" else None
            if waiting:
                python.weights_of(waiting.pop(), None, tmp_path)
            return made or own(path, *more)

        monkeypatch.setattr(module, function, between)
        path, _ = python.weights_of(network, None, tmp_path)
        monkeypatch.undo()
        read = backbone_file.read(Path(path))
        assert torch.equal(read.tensors["conv1.weight"], network.conv1.weight)
        assert read.sha256.startswith(Path(path).stem.rpartition("-")[2])


class Blur(nn.Module):
    def forward(self, x):
        return nn.functional.avg_pool2d(x, 3, 1, 1)


def other_pooling() -> nn.Module:
    net = torchvision.models.resnet18()
    net.maxpool = nn.Sequential(nn.MaxPool2d(3, 2, 1), Blur())
    return net


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda out: detco.evaluate(other_pooling(), "small-retinanet", "x", out=out), "features"),
        (lambda out: detco.evaluate({"a": torch.ones(1)}, "small-retinanet", "x", out=out), "a"),
        (lambda out: detco.evaluate("random", "small-retinane", "x", out=out), "did you mean"),
        (lambda out: detco.evaluate("random", "small-retinanet", "/no", out=out), "/no"),
        (lambda out: detco.evaluate("random", "small-retinanet", engin="x", out=out), "engin"),
        (lambda out: detco.pretrain("detco-smal", "x", out), "did you mean 'detco-small'"),
        (lambda out: detco.load_backbone(out / "none.pth"), "none.pth"),
        (lambda out: detco.results(out / "nowhere"), "no folder"),
    ],
)
def test_wrong_input_is_an_input_error(call, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("in-memory*")) and not list(tmp_path.rglob("record.json"))
