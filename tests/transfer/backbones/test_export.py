"""Imported backbones compute the same features as the originals; exports are
read by other programs."""

import pickle
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from detco.common import backbone_file, resnet
from detco.common.errors import InputError
from detco.transfer.backbones import export
from detco.transfer.checkpoints import importer
from detco.transfer.engines.torchvision.trunks import load_resnet
from tests import checkpoints
from tests.checkpoints import res5, saved, trained


@pytest.fixture
def moco() -> dict:
    """Tensors of a MoCo v2 file, to be damaged."""
    return checkpoints.moco(*checkpoints.MLP)


# --- features and other programs -----------------------------------------------------------------


def test_features_are_those_of_the_original(tmp_path):
    net, x = trained("resnet50"), torch.randn(1, 3, 65, 97)
    state = {
        f"module.base_encoder.{k}": v
        for k, v in net.state_dict().items()
        if not k.startswith("fc.")
    }
    backbone, _ = importer.load(saved(state, tmp_path / "a.pth.tar"))
    backbone_file.write(tmp_path / "b.safetensors", backbone)
    assert torch.equal(
        res5(load_resnet(backbone_file.read(tmp_path / "b.safetensors")).eval(), x), res5(net, x)
    )


def test_half_precision_becomes_single(tmp_path):
    state = {k: v.half() if v.is_floating_point() else v for k, v in checkpoints.names().items()}
    torch.save(state, tmp_path / "a.pth")
    backbone, _ = importer.load(tmp_path / "a.pth")
    assert all(
        t.dtype == torch.float32 and torch.equal(t, state[k].float())
        for k, t in backbone.tensors.items()
    )


def test_written_files_are_read_back_and_always_the_same_bytes(tmp_path, moco):
    backbone, _ = importer.load(saved(moco, tmp_path / "a.pth"))
    first, second = (
        backbone_file.write(tmp_path / "1.safetensors", backbone),
        backbone_file.write(tmp_path / "2.safetensors", backbone),
    )
    again = backbone_file.read(tmp_path / "1.safetensors")
    assert first == second == again.sha256 and not list(tmp_path.glob("*.part"))
    assert (again.arch, again.method, again.mean, again.std) == (
        "resnet18",
        "moco-v2",
        backbone.mean,
        backbone.std,
    )
    assert all(torch.equal(again.tensors[k], v) for k, v in backbone.tensors.items())
    with pytest.raises(InputError, match="already"):
        importer.load(tmp_path / "1.safetensors")


def test_export_to_torchvision_is_loaded_strictly(tmp_path):
    net, x = trained("resnet18"), torch.randn(1, 3, 64, 64)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    needs = export.to_torchvision(
        importer.open_checkpoint(tmp_path / "a.pth")[0], tmp_path / "b.pth"
    )
    other = torchvision.models.resnet18()
    other.fc = nn.Identity()
    other.load_state_dict(torch.load(tmp_path / "b.pth", weights_only=True), strict=True)
    assert torch.equal(res5(other.eval(), x), res5(net, x))
    assert needs == {
        "channel order": "RGB",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_export_to_detectron2_has_the_names_of_its_own_conversion_script(tmp_path, moco):
    backbone, _ = importer.load(saved(moco, tmp_path / "a.pth"))
    export.to_detectron2(backbone, tmp_path / "b.pkl")
    written = pickle.loads((tmp_path / "b.pkl").read_bytes())
    own = {k: v for k, v in checkpoints.detectron2().items() if "num_batches" not in k}
    assert written["model"].keys() == own.keys() and written["matching_heuristics"]
    assert all((written["model"][k] == v).all() for k, v in own.items())


def test_exports_keep_their_preprocessing(tmp_path):
    path = tmp_path / "msra.pkl"
    path.write_bytes(pickle.dumps(checkpoints.caffe2(), 2))
    msra = importer.open_checkpoint(path)[0]
    needs = export.to_detectron2(msra, tmp_path / "b.pkl")
    assert (
        needs["INPUT.FORMAT"],
        needs["MODEL.RESNETS.STRIDE_IN_1X1"],
        needs["MODEL.PIXEL_STD"],
    ) == ("BGR", True, [1.0, 1.0, 1.0])
    back = importer.open_checkpoint(tmp_path / "b.pkl")[0]
    assert (back.channel_order, back.mean, back.std, back.stride_in) == (
        msra.channel_order,
        msra.mean,
        msra.std,
        "1x1",
    )
    with pytest.raises(InputError, match="1 x 1"):
        export.to_torchvision(msra, tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"something\.pkl"):
        export.to_detectron2(msra, tmp_path / "b.pth")


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("arch", "stride"), [("resnet18", "3x3"), ("resnet50", "3x3"), ("resnet50", "1x1")]
)
def test_detectron2_finds_every_tensor_and_computes_the_same(tmp_path, arch, stride):
    """Its own loader takes our file, and its network gives the same res5."""
    code = (
        "import pickle, sys, torch; from detectron2.checkpoint import DetectionCheckpointer; from"
        " detectron2.config import get_cfg; from detectron2.modeling import build_backbone\ncfg ="
        " get_cfg(); cfg.merge_from_list(eval(sys.argv[2])); cfg.MODEL.RESNETS.NORM ="
        " 'BN'\ncfg.MODEL.RESNETS.OUT_FEATURES = ['res2', 'res5']; cfg.MODEL.DEVICE = 'cpu'; net ="
        " build_backbone(cfg).eval()\nDetectionCheckpointer(net).load(sys.argv[1]);"
        " torch.manual_seed(3); x = torch.randn(1, 3, 65, 97)\nstate, file = net.state_dict(),"
        " pickle.load(open(sys.argv[1], 'rb'))['model']\nassert {k for k in state if 'num_batches'"
        " not in k} == file.keys()\nassert all(torch.equal(state[k], torch.tensor(v)) for k, v in"
        " file.items())\ntorch.save(net(x)['res5'].detach(), sys.argv[3])"
    )
    state = {
        k: v for k, v in trained(arch, 1).state_dict().items() if k in resnet.expected_shapes(arch)
    }
    backbone = backbone_file.Backbone(arch, state, "x", stride_in=stride)
    pairs = [
        item for pair in export.to_detectron2(backbone, tmp_path / "b.pkl").items() for item in pair
    ]
    command = [
        sys.executable,
        "-c",
        code,
        str(tmp_path / "b.pkl"),
        repr(pairs),
        str(tmp_path / "res5.pt"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "not used by the model" not in done.stderr + done.stdout
    torch.manual_seed(3)
    x = torch.randn(1, 3, 65, 97)
    ours = res5(load_resnet(backbone).eval(), x)
    theirs = torch.load(tmp_path / "res5.pt", weights_only=True)
    assert float((theirs - ours).abs().max() / ours.abs().max()) < 1e-5
    again = importer.open_checkpoint(tmp_path / "b.pkl")[0]
    assert again.stride_in == stride and all(
        torch.equal(again.tensors[k], v) for k, v in state.items()
    )


@pytest.mark.detectron2
@pytest.mark.parametrize("affine", [False, True])
def test_msra_weights_are_read_as_detectron2_reads_them(tmp_path, affine):
    """Caffe2's names through Detectron2's own loader and through ours."""
    path = tmp_path / "R-18.pkl"
    path.write_bytes(
        pickle.dumps(checkpoints.caffe2(affine) | {"conv1_b": torch.ones(64).numpy()}, 2)
    )
    code = (
        "import sys, torch; from detectron2.checkpoint import DetectionCheckpointer; from"
        " detectron2.config import get_cfg; from detectron2.modeling import build_backbone\ncfg ="
        " get_cfg(); cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64;"
        " cfg.MODEL.DEVICE = 'cpu'\ncfg.MODEL.RESNETS.OUT_FEATURES = ['res2', 'res5']; net ="
        " build_backbone(cfg)\nDetectionCheckpointer(net).load(sys.argv[1]);"
        " torch.save(net.state_dict(), sys.argv[2])"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "state.pt")],
        capture_output=True,
        check=True,
    )
    theirs = torch.load(tmp_path / "state.pt", weights_only=True)
    ours = {
        export.detectron2_name(name): tensor
        for name, tensor in importer.load(path)[0].tensors.items()
    }
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], value) for name, value in theirs.items()
    )
