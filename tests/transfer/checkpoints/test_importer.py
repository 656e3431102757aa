"""Importing is strict, says what it did, and is quick with large files."""

import math
import subprocess
import sys

import pytest
import torch
import torchvision

from detco.common import backbone_file, resnet
from detco.common.errors import InputError
from detco.transfer.checkpoints import importer
from detco.transfer.engines.torchvision.trunks import channels
from tests import checkpoints
from tests.checkpoints import saved
from tests.factories import ROOT


@pytest.fixture
def moco() -> dict:
    """Tensors of a MoCo v2 file, to be damaged."""
    return checkpoints.moco(*checkpoints.MLP)


# --- strict --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda s: s.pop("module.encoder_q.layer3.1.bn2.running_var"),
            r"layer3\.1\.bn2\.running_var is missing",
        ),
        (
            lambda s: s.update({"module.encoder_q.bn1.weight": torch.ones(7)}),
            r"bn1\.weight has shape \(7,\), not \(64,\)",
        ),
        (
            lambda s: s.update({"module.encoder_q.bn1.bias": torch.full((64,), math.inf)}),
            r"bn1\.bias is not finite",
        ),
        (
            lambda s: s.update({"module.encoder_q.norm.weight": torch.ones(1)}),
            r"moco-v2 does not explain: encoder_q\.norm",
        ),
        (
            lambda s: s.update({"decoder.weight": torch.ones(1)}),
            r"does not explain: decoder\.weight",
        ),
        (
            lambda s: s.update({"encoder_q.bn1.bias": torch.ones(64)}),
            r"encoder_q\.bn1\.bias twice, with and without",
        ),
        (
            lambda s: s.update({"module.encoder_q.conv1.bias": torch.ones(64)}),
            r"conv1\.bias does not belong to resnet18",
        ),
        (
            lambda s: s.update({"module.encoder_q.bn1.bias": torch.ones(1).expand(1 << 39)}),
            "far more than there are numbers",
        ),
    ],
)
def test_what_is_wrong_is_said_by_name(tmp_path, moco, damage, says):
    damage(moco)
    with pytest.raises(InputError, match=says) as error:
        importer.load(saved(moco, tmp_path / "moco.pth.tar"))
    assert str(tmp_path / "moco.pth.tar") in str(error.value) and "\n" not in str(error.value)


def test_everything_unexplained_is_counted(tmp_path, moco):
    moco |= {f"module.extra.{n:02d}": torch.ones(1) for n in range(11)}
    with pytest.raises(
        InputError, match=r"extra\.00, .*extra\.07 and 3 more; --prefix encoder_q\. takes"
    ):
        importer.load(saved(moco, tmp_path / "a.pth"))


def test_file_of_two_layouts_names_the_candidates(tmp_path, moco):
    both = saved(
        moco | checkpoints.names("backbone.") | checkpoints.linears("neck.", 0), tmp_path / "a.pth"
    )
    with pytest.raises(InputError, match="--as moco-v2 or --as openselfsup"):
        importer.load(both)
    with pytest.raises(InputError, match=r"moco-v2 does not explain: backbone\."):
        importer.load(both, "moco-v2")


def test_said_layouts_and_encoders_are_checked(tmp_path, moco):
    path = saved(moco, tmp_path / "a.pth")
    with pytest.raises(InputError, match="no known layout; known: moco-v2, "):
        importer.load(path, "mocov2")
    with pytest.raises(InputError, match=r"simsiam: .*no ResNet under encoder"):
        importer.load(path, "simsiam")
    with pytest.raises(InputError, match=r"'teacher'; .*query, key"):
        importer.load(path, encoder="teacher")
    assert importer.load(path, method="my-moco")[0].method == "my-moco"


def test_bare_names_are_said_to_prove_little(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": checkpoints.names()}, path)
    backbone, report = importer.load(path)
    assert backbone.method == "unknown" and "detco, caffe look the same" in report.notes[0]
    backbone, report = importer.load(path, "bare", method="mine")
    assert (backbone.method, report.notes) == ("mine", ())


def test_tensors_stored_twice_must_be_the_same(tmp_path):
    state = checkpoints.detco_pytorch()
    _, report = importer.load(saved(state, tmp_path / "a.pth"))
    assert report.dropped["stored twice"] == sum(1 for part in checkpoints.parts() if part.stage)
    state["module.encoder_q.layers.2.0.conv1.weight"] = (
        state["module.encoder_q.layers.2.0.conv1.weight"] + 1
    )
    with pytest.raises(
        InputError,
        match=r"layers\.2\.0\.conv1\.weight \(differs",
    ):
        importer.load(saved(state, tmp_path / "a.pth"))


def test_names_from_a_file_cannot_disturb_the_terminal(tmp_path, moco):
    for name in ("\x1b[31mred\nline" + "x" * 500, "layer" + "1." * 100_000):
        with pytest.raises(InputError) as error:
            importer.load(saved(moco | {f"module.{name}": torch.ones(1)}, tmp_path / "a.pth"))
        assert str(error.value).isprintable() and len(str(error.value)) < 300


def test_checkpoints_of_this_project(tmp_path):
    """Written by its own pretraining, as it does while it runs."""
    from detco.pretrain import checkpoints as own
    from detco.pretrain.methods.moco import MoCo
    from detco.pretrain.recipes import RECIPES

    model = MoCo(RECIPES["moco-v2-small"], 1)
    state = {
        "identity": {"seed": "0"},
        "iteration": 5,
        "model": model.state_dict(),
        "optimizer": {},
        "scaler": {},
    }
    own.save(tmp_path, 5, state, 2)
    for role, network in (("query", model.query), ("key", model.key)):
        backbone, report = importer.load(tmp_path / "checkpoint-000000005.pt", encoder=role)
        state = network.trunk.state_dict()
        assert report.layout.name == "detco-checkpoint"
        assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.tensors.items())


@pytest.mark.parametrize(
    ("said", "epochs"), [(200, "200"), (0, ""), (-3, ""), (True, ""), (10**9, ""), ("200", "")]
)
def test_epochs_are_those_a_training_can_have(tmp_path, moco, said, epochs):
    assert (
        dict(importer.load(saved(moco, tmp_path / "a.pth", epoch=said))[0].metadata)["epochs"]
        == epochs
    )


def test_report_accounts_for_every_tensor(tmp_path, moco):
    backbone, report = importer.load(saved(moco, tmp_path / "a.pth"))
    assert len(backbone.tensors) + sum(report.dropped.values()) == len(moco)


# --- architectures -------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["resnet34", "resnet50", "resnet152", "wide_resnet50_2"])
def test_architecture_is_read_off_the_shapes(arch):
    wanted = {
        name: torch.empty(shape, device="meta")
        for name, shape in resnet.expected_shapes(arch).items()
    }
    assert resnet.arch_of(wanted) == arch
    del wanted["layer2.0.conv1.weight"]
    assert resnet.arch_of(wanted) == arch  # the nearest, so that what is missing can be said


@pytest.mark.parametrize("arch", resnet.ARCHS)
def test_detectors_know_the_channels_of_every_architecture(arch):
    with torch.device("meta"):
        wanted = getattr(torchvision.models, arch)().fc.in_features
    assert channels(backbone_file.Backbone(arch, {}))["res5"] == wanted


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (
            torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]),
            "does not hold a whole resnet18",
        ),
        (torchvision.models.resnext50_32x4d(), "ResNeXt"),
        (torchvision.models.mobilenet_v3_small(), "no known project"),
    ],
)
def test_other_networks_are_refused(tmp_path, net, says):
    torch.save(net.state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match=says):
        importer.load(tmp_path / "a.pth")


def test_relatives_of_a_resnet_are_named(tmp_path):
    state = checkpoints.names()
    state["conv1.weight"] = torch.ones(64, 3, 3, 3)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(InputError, match="tiny pictures"):
        importer.load(tmp_path / "a.pth")
    torch.save(state | {"conv1.weight": torch.ones(128, 3, 7, 7)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="2 times as wide"):
        importer.load(tmp_path / "a.pth")


def test_whole_models_are_refused(tmp_path):
    for content in (torchvision.models.resnet18(), {"model": torchvision.models.resnet18()}):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(
            InputError,
            match=r"whole object.*resnet\.ResNet",
        ):
            importer.load(tmp_path / "a.pth")


def test_what_a_file_without_tensors_has_is_said(tmp_path):
    for content, says in (
        ({"epoch": 3, (1, 2): 1}, "it has epoch, tuple$"),
        ([1, 2], "nothing to look into$"),
    ):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(InputError, match=says):
            importer.load(tmp_path / "a.pth")


# --- large files ---------------------------------------------------------------------------------


def test_400_megabytes_take_less_than_two_gigabytes(tmp_path):
    state = {
        k: v
        for k, v in torchvision.models.resnet50().state_dict().items()
        if not k.startswith("fc.")
    }
    both = {f"module.encoder_{e}.{k}": v.clone() for e in "qk" for k, v in state.items()}
    more = {
        "module.queue": torch.zeros(128, 65536),
        "module.encoder_q.fc.2.weight": torch.zeros(128, 2048),
    }
    torch.save(
        {"state_dict": both | more, "optimizer": {"state": {0: torch.zeros(47_000_000)}}},
        tmp_path / "a.pth",
    )
    assert (tmp_path / "a.pth").stat().st_size > 400e6
    code = (
        "import sys\n"
        "from detco.common import backbone_file\n"
        "from detco.transfer.checkpoints import importer\n"
        "backbone_file.write(sys.argv[2], importer.load(sys.argv[1])[0])\n"
        "status = open('/proc/self/status')\n"
        "print(*(line.split()[1] for line in status if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert 4e5 < float(done.stdout) < 2e6  # kilobytes
