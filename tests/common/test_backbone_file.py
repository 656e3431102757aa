"""The backbone file is read whole or not at all."""

import hashlib
import math

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from detco.common import backbone_file, resnet
from detco.common.errors import InputError

META = {
    "format": "detco-backbone",
    "format_version": "1",
    "method": "detco",
    "arch": "resnet18",
    "epochs": "5",
    "images_seen": "100",
    "channel_order": "BGR",
    "mean": "[1.0, 2.0, 3.0]",
    "std": "[4.0, 5.0, 6.0]",
    "stride_in": "3x3",
}


@pytest.fixture
def tensors():
    state = torchvision.models.resnet18().state_dict()
    return {
        k: v.clone()
        for k, v in state.items()
        if not k.startswith("fc.") and "num_batches_tracked" not in k
    }


@pytest.mark.parametrize(("arch", "count"), [("resnet18", 100), ("resnet50", 265)])
def test_number_of_tensors_a_backbone_has(arch, count):
    assert len(resnet.expected_shapes(arch)) == count


def test_round_trip(tmp_path, tensors):
    save_file(tensors, tmp_path / "b.safetensors", META)
    backbone = backbone_file.read(tmp_path / "b.safetensors")
    assert (backbone.arch, backbone.method, backbone.channel_order) == ("resnet18", "detco", "BGR")
    assert backbone.mean == (1.0, 2.0, 3.0) and backbone.std == (4.0, 5.0, 6.0)
    assert backbone.sha256 == hashlib.sha256((tmp_path / "b.safetensors").read_bytes()).hexdigest()
    assert backbone.tensors.keys() == tensors.keys()
    assert all(torch.equal(backbone.tensors[k], tensors[k]) for k in tensors)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda t: t.pop("layer4.1.bn2.running_var"), "layer4.1.bn2.running_var is missing"),
        (lambda t: t.update({"fc.weight": torch.ones(3)}), "fc.weight does not belong to resnet18"),
        (
            lambda t: t.update({"conv1.weight": torch.ones(64, 1, 7, 7)}),
            r"conv1.weight has shape \(64, 1, 7, 7\)",
        ),
        (lambda t: t["bn1.bias"].fill_(math.nan), "bn1.bias is not finite"),
        (
            lambda t: t.update({"bn1.bias": torch.ones(64, dtype=torch.int32)}),
            r"bn1.bias has whole numbers \(int32\)",
        ),
        (lambda t: t["bn1.running_var"].neg_(), "bn1.running_var is a variance below 0"),
    ],
)
def test_damaged_tensors_are_refused_by_name(tmp_path, tensors, damage, says):
    damage(tensors)
    save_file(tensors, tmp_path / "b.safetensors", META)
    with pytest.raises(InputError, match=says) as error:
        backbone_file.read(tmp_path / "b.safetensors")
    assert str(tmp_path / "b.safetensors") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "something"}, "not a backbone file"),
        ({"format_version": "3"}, "format version 3, this program reads 1 and 2"),
        ({"arch": "vgg16"}, "vgg16"),
        ({"mean": "[1, 2]"}, "metadata mean"),
        ({"std": "rubbish"}, "metadata std"),
        ({"std": "[1.0, 0.0, 1.0]"}, "three numbers above 0"),
        ({"mean": "[NaN, 1, 1]"}, "metadata mean"),
        ({"arch": "\x1b[31m\n" + "x" * 500}, r"architecture .{80}.{0,4}; known"),
        ({"stride_in": "5x5"}, "stride_in"),
    ],
)
def test_wrong_metadata_are_refused(tmp_path, tensors, change, says):
    save_file(tensors, tmp_path / "b.safetensors", META | change)
    with pytest.raises(InputError, match=says):
        backbone_file.read(tmp_path / "b.safetensors")


def test_files_of_another_kind_are_refused(tmp_path, tensors):
    (tmp_path / "page.safetensors").write_text("<html>404</html>")
    save_file(tensors, tmp_path / "bare.safetensors")
    (tmp_path / "empty.safetensors").touch()
    for name in ("page", "bare", "empty", "none"):
        with pytest.raises(InputError, match=name):
            backbone_file.read(tmp_path / f"{name}.safetensors")


def test_random_backbone_is_torchvisions_initialisation():
    torch.manual_seed(5)
    expected = torchvision.models.resnet18().state_dict()
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    drawn = backbone_file.random_backbone("resnet18", 5)
    assert torch.equal(torch.rand(1), before)  # nobody else's random numbers are used up
    assert all(torch.equal(v, expected[k]) for k, v in drawn.tensors.items())
    assert not torch.equal(
        backbone_file.random_backbone("resnet18", 6).tensors["conv1.weight"],
        expected["conv1.weight"],
    )
