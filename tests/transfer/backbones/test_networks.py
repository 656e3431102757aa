"""`detco weights` on backbones that are no ResNets: shown, compared, exported, probed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import detco
from detco.benchmarks.cli import main as cli
from detco.common import backbone_file
from detco.common.networks.levels import Levels
from detco.transfer.backbones import card, inspect, probe

timm = pytest.importorskip("timm")
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64, "positions": "bicubic"}
VIT = "vit_base_patch14_dinov2"


@pytest.fixture(scope="module")
def vit() -> backbone_file.Backbone:
    return backbone_file.random_backbone(VIT, 0, TINY | {"img_size": 56})


@pytest.fixture
def file(vit, tmp_path) -> str:
    backbone_file.write(tmp_path / "b.safetensors", vit)
    return str(tmp_path / "b.safetensors")


def printed(capsys, *words: str) -> dict:
    assert cli.main(["weights", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_show(file, vit, capsys):
    shown = printed(capsys, "show", file)
    assert (shown["architecture"], shown["family"]) == (VIT, "vit")
    assert shown["arguments"] == dict(vit.model_args) and "stride in" not in shown
    norms = {"stem", "blocks.0", "blocks.1", "norm"}
    assert set(shown["stage norms"]) == norms
    last = sum(float(v.double().square().sum()) for k, v in vit.tensors.items() if "norm." in k[:5])
    assert shown["stage norms"]["norm"] == pytest.approx(last**0.5, abs=1e-4)
    assert shown["parameters"] == sum(tensor.numel() for tensor in vit.tensors.values())


def test_compare(vit):
    name = "blocks.1.mlp.fc1.weight"
    other = replace(vit, tensors=vit.tensors | {name: vit.tensors[name] * 2})
    found = inspect.compare(vit, other)
    assert found["same architecture and preprocessing"] and found["different"] == 1
    assert [part for part, moved in found["distance"].items() if moved] == ["blocks.1"]
    elsewhere = replace(vit, model_args=dict(vit.model_args) | {"positions": "offset"})
    assert not inspect.compare(vit, elsewhere)["same architecture and preprocessing"]


def test_export_to_timm(file, vit, tmp_path, capsys):
    out = tmp_path / "net.pth"
    needs = printed(capsys, "export", file, "--to", "timm", str(out))["goes with it"]
    assert needs["set by hand"] == {"positions": "bicubic"}
    net = timm.create_model(needs["timm.create_model"], **needs["arguments"])
    net.load_state_dict(torch.load(out, weights_only=True), strict=True)
    x = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        tokens = net.eval().forward_features(x)[:, 1:]
        ours = Levels(vit).eval()(x)["last"]
    assert torch.equal(ours.flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize("to", ["torchvision", "detectron2"])
def test_export_elsewhere_is_refused(to, file, tmp_path, capsys):
    assert cli.main(["weights", "export", file, "--to", to, str(tmp_path / "x.pkl")]) == 2
    said = capsys.readouterr().err
    assert f"--to {to} takes ResNets, this is a vit ({VIT}): --to timm" in said


def test_a_resnet_does_not_go_to_timm(tmp_path, capsys):
    path = tmp_path / "r.safetensors"
    backbone_file.write(path, backbone_file.random_backbone("resnet18", 0))
    assert cli.main(["weights", "export", str(path), "--to", "timm", str(tmp_path / "x.pth")]) == 2
    assert "resnet18 is torchvision's: --to torchvision" in capsys.readouterr().err


def test_the_card_builds_the_network(vit):
    text = card.write(replace(vit, sha256="0" * 64), "./shared/mine")
    code = text.partition("```python\n")[2].partition("```")[0].replace("load_file", "dict")
    names = {"dict": lambda path: vit.tensors}
    exec(code.replace("from safetensors.torch import dict\n", ""), names)
    assert names["net"].state_dict().keys() == vit.tensors.keys()
    assert "family | vit" in text and "stride in" not in text


def test_probe_takes_each_family(scenes, file, tmp_path, capsys):
    args = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
    other = tmp_path / "c.safetensors"
    backbone_file.write(other, backbone_file.random_backbone("convnext_atto", 0, args))
    found = printed(capsys, "probe", file, str(other), "--data", str(scenes / "coco"))
    assert set(found[file]) == {"last", probe.ALL} and len(found[str(other)]) == 5
    assert set(found) == {file, str(other), f"random {VIT}", "random convnext_atto"}


def test_load_backbone_averages_the_last_map(file, vit):
    images = torch.randint(0, 256, (2, 3, 56, 70))
    net = detco.load_backbone(file)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (vit.mean, vit.std))
    with torch.no_grad():
        found = net(net.preprocessing(images))
        maps = Levels(vit).eval()((images - mean) / std)["last"]
    assert torch.allclose(found, maps.mean((2, 3)), atol=1e-6) and found.shape == (2, 32)


def test_features_of_the_probe_are_the_maps_at_each_position(vit):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    found = probe.grid_features(vit, pixels)["last"]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (vit.mean, vit.std))
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - mean) / std
    with torch.no_grad():
        maps = Levels(vit).eval()(x)["last"]
    # position 11: second row of the grid, fourth column, at (24, 56): patch (1, 4) of 14 pixels
    assert np.allclose(found[0, 11], maps[0, :, 1, 4].numpy(), atol=1e-6)
