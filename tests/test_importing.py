"""Importing is strict, says what it did, and is quick with large files; exports are read by the other programs."""

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from benchmarks import cli, plan, suites
from tests import checkpoints
from transfer import InputError, export, importing, known, weights
from transfer.engines.torchvision_models import channels, load_resnet

ROOT = Path(__file__).parents[1]


@pytest.fixture
def moco() -> dict:
    """Tensors of a MoCo v2 file, to be damaged."""
    return checkpoints.moco(*checkpoints.MLP)


def saved(state: dict, path: Path, **more) -> Path:
    torch.save({"state_dict": state, "epoch": 200, **more}, path)
    return path


def real(arch: str, seed: int = 0) -> nn.Module:
    """A network with normalisation as after training."""
    torch.manual_seed(seed)
    net = getattr(torchvision.models, arch)().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def res5(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
    return x


# --- strict ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda s: s.pop("module.encoder_q.layer3.1.bn2.running_var"), r"layer3\.1\.bn2\.running_var is missing"),
        (lambda s: s.update({"module.encoder_q.bn1.weight": torch.ones(7)}), r"bn1\.weight has shape \(7,\), not \(64,\)"),
        (lambda s: s.update({"module.encoder_q.bn1.bias": torch.full((64,), math.inf)}), r"bn1\.bias is not finite"),
        (lambda s: s.update({"module.encoder_q.norm.weight": torch.ones(1)}), r"moco-v2 does not explain: encoder_q\.norm"),
        (lambda s: s.update({"decoder.weight": torch.ones(1)}), r"does not explain: decoder\.weight"),
        (lambda s: s.update({"encoder_q.bn1.bias": torch.ones(64)}), r"encoder_q\.bn1\.bias twice, with and without"),
        (lambda s: s.update({"module.encoder_q.conv1.bias": torch.ones(64)}), r"conv1\.bias does not belong to resnet18"),
        (lambda s: s.update({"module.encoder_q.bn1.bias": torch.ones(1).expand(1 << 40)}), "far more than there are numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_by_name(tmp_path, moco, damage, says):
    damage(moco)
    with pytest.raises(InputError, match=says) as error:
        importing.load(saved(moco, tmp_path / "moco.pth.tar"))
    assert str(tmp_path / "moco.pth.tar") in str(error.value) and "\n" not in str(error.value)


def test_everything_unexplained_is_counted(tmp_path, moco):
    moco |= {f"module.extra.{n:02d}": torch.ones(1) for n in range(11)}
    with pytest.raises(InputError, match=r"extra\.00, .*extra\.07 and 3 more$"):
        importing.load(saved(moco, tmp_path / "a.pth"))


def test_file_of_two_layouts_names_the_candidates(tmp_path, moco):
    both = saved(moco | checkpoints.names("backbone.") | checkpoints.linears("neck.", 0), tmp_path / "a.pth")
    with pytest.raises(InputError, match="--as moco-v2 or --as openselfsup"):
        importing.load(both)
    with pytest.raises(InputError, match=r"moco-v2 does not explain: backbone\."):
        importing.load(both, "moco-v2")


def test_said_layouts_and_encoders_are_checked(tmp_path, moco):
    path = saved(moco, tmp_path / "a.pth")
    with pytest.raises(InputError, match="no known layout; known: moco-v2, "):
        importing.load(path, "mocov2")
    with pytest.raises(InputError, match=r"cannot be read as simsiam: it has no ResNet under encoder\."):
        importing.load(path, "simsiam")
    with pytest.raises(InputError, match="no encoder 'teacher'; as moco-v2 it has query, key"):
        importing.load(path, encoder="teacher")
    assert importing.load(path, method="my-moco")[0].method == "my-moco"


def test_tensors_stored_twice_must_be_the_same(tmp_path):
    state = checkpoints.detco_pytorch()
    _, report = importing.load(saved(state, tmp_path / "a.pth"))
    assert report.dropped["stored twice"] == sum(1 for part in checkpoints.parts() if part.stage)
    state["module.encoder_q.layers.2.0.conv1.weight"] = state["module.encoder_q.layers.2.0.conv1.weight"] + 1
    with pytest.raises(InputError, match=r"layers\.2\.0\.conv1\.weight \(differs from encoder_q\.layer3\.0\.conv1\.weight\)"):
        importing.load(saved(state, tmp_path / "a.pth"))


def test_names_from_a_file_cannot_disturb_the_terminal(tmp_path, moco):
    moco["module.\x1b[31mred\nline" + "x" * 500] = torch.ones(1)
    with pytest.raises(InputError) as error:
        importing.load(saved(moco, tmp_path / "a.pth"))
    assert str(error.value).isprintable() and len(str(error.value)) < 300


def test_checkpoints_of_this_project(tmp_path):
    """Written by its own pretraining, as it does while it runs."""
    from pretrain import checkpoints as own
    from pretrain.moco import MoCo
    from pretrain.recipes import RECIPES

    model = MoCo(RECIPES["moco-v2-small"], 1)
    state = {"identity": {"seed": "0"}, "iteration": 5, "model": model.state_dict(), "optimizer": {}, "scaler": {}}
    own.save(tmp_path, 5, state, 2)
    for role, network in (("query", model.query), ("key", model.key)):
        backbone, report = importing.load(tmp_path / "checkpoint-000000005.pt", encoder=role)
        state = network.trunk.state_dict()
        assert report.adapter.name == "detco-checkpoint"
        assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.tensors.items())


def test_report_accounts_for_every_tensor(tmp_path, moco):
    backbone, report = importing.load(saved(moco, tmp_path / "a.pth"))
    assert len(backbone.tensors) + sum(report.dropped.values()) == len(moco)


# --- architectures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["resnet34", "resnet50", "resnet152", "wide_resnet50_2"])
def test_architecture_is_read_off_the_shapes(arch):
    wanted = {name: torch.empty(shape, device="meta") for name, shape in weights.expected_shapes(arch).items()}
    assert weights.arch_of(wanted) == arch
    del wanted["layer2.0.conv1.weight"]
    assert weights.arch_of(wanted) == arch  # the nearest, so that what is missing can be said


@pytest.mark.parametrize("arch", weights.ARCHS)
def test_detectors_know_the_channels_of_every_architecture(arch):
    with torch.device("meta"):
        wanted = getattr(torchvision.models, arch)().fc.in_features
    assert channels(weights.Backbone(arch, {}))["res5"] == wanted


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]), "does not hold a whole resnet18"),
        (torchvision.models.resnext50_32x4d(), "ResNeXt"),
        (torchvision.models.vit_b_16(), "no known project"),
    ],
)
def test_other_networks_are_refused(tmp_path, net, says):
    torch.save(net.state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match=says):
        importing.load(tmp_path / "a.pth")


def test_relatives_of_a_resnet_are_named(tmp_path):
    state = checkpoints.names()
    state["conv1.weight"] = torch.ones(64, 3, 3, 3)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(InputError, match="tiny pictures"):
        importing.load(tmp_path / "a.pth")
    torch.save(state | {"conv1.weight": torch.ones(128, 3, 7, 7)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="2 times as wide"):
        importing.load(tmp_path / "a.pth")


def test_whole_models_are_refused(tmp_path):
    torch.save(torchvision.models.resnet18(), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"whole object, not its weights \(torchvision\.models\.resnet\.ResNet\)"):
        importing.load(tmp_path / "a.pth")


# --- features and other programs -------------------------------------------------------------------------------------


def test_features_are_those_of_the_original(tmp_path):
    net, x = real("resnet50"), torch.randn(1, 3, 65, 97)
    state = {f"module.base_encoder.{k}": v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    backbone, _ = importing.load(saved(state, tmp_path / "a.pth.tar"))
    weights.write(tmp_path / "b.safetensors", backbone)
    assert torch.equal(res5(load_resnet(weights.read(tmp_path / "b.safetensors")).eval(), x), res5(net, x))


def test_half_precision_becomes_single(tmp_path):
    state = {k: v.half() if v.is_floating_point() else v for k, v in checkpoints.names().items()}
    torch.save(state, tmp_path / "a.pth")
    backbone, _ = importing.load(tmp_path / "a.pth")
    assert all(t.dtype == torch.float32 and torch.equal(t, state[k].float()) for k, t in backbone.tensors.items())


def test_written_files_are_read_back_and_always_the_same_bytes(tmp_path, moco):
    backbone, _ = importing.load(saved(moco, tmp_path / "a.pth"))
    first, second = weights.write(tmp_path / "1.safetensors", backbone), weights.write(tmp_path / "2.safetensors", backbone)
    again = weights.read(tmp_path / "1.safetensors")
    assert first == second == again.sha256 and not list(tmp_path.glob("*.part"))
    assert (again.arch, again.method, again.mean, again.std) == ("resnet18", "moco-v2", backbone.mean, backbone.std)
    assert all(torch.equal(again.tensors[k], v) for k, v in backbone.tensors.items())
    with pytest.raises(InputError, match="already"):
        importing.load(tmp_path / "1.safetensors")


def test_export_to_torchvision_is_loaded_strictly(tmp_path):
    net, x = real("resnet18"), torch.randn(1, 3, 64, 64)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    needs = export.to_torchvision(importing.open_any(tmp_path / "a.pth"), tmp_path / "b.pth")
    other = torchvision.models.resnet18()
    other.fc = nn.Identity()
    other.load_state_dict(torch.load(tmp_path / "b.pth", weights_only=True), strict=True)
    assert torch.equal(res5(other.eval(), x), res5(net, x))
    assert needs == {"channel order": "RGB", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def test_export_to_detectron2_has_the_names_of_its_own_conversion_script(tmp_path, moco):
    backbone, _ = importing.load(saved(moco, tmp_path / "a.pth"))
    export.to_detectron2(backbone, tmp_path / "b.pkl")
    written = pickle.loads((tmp_path / "b.pkl").read_bytes())
    own = {k: v for k, v in checkpoints.detectron2().items() if "num_batches" not in k}
    assert written["model"].keys() == own.keys() and written["matching_heuristics"]
    assert all((written["model"][k] == v).all() for k, v in own.items())


def test_exports_keep_their_preprocessing(tmp_path):
    path = tmp_path / "msra.pkl"
    path.write_bytes(pickle.dumps(checkpoints.caffe2(), 2))
    msra = importing.open_any(path)
    needs = export.to_detectron2(msra, tmp_path / "b.pkl")
    assert (needs["INPUT.FORMAT"], needs["MODEL.RESNETS.STRIDE_IN_1X1"], needs["MODEL.PIXEL_STD"]) == ("BGR", True, [1.0, 1.0, 1.0])
    back = importing.open_any(tmp_path / "b.pkl")
    assert (back.channel_order, back.mean, back.std, back.stride_in) == (msra.channel_order, msra.mean, msra.std, "1x1")
    with pytest.raises(InputError, match="1 x 1"):
        export.to_torchvision(msra, tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"something\.pkl"):
        export.to_detectron2(msra, tmp_path / "b.pth")


@pytest.mark.detectron2
@pytest.mark.parametrize(("arch", "stride"), [("resnet18", "3x3"), ("resnet50", "3x3"), ("resnet50", "1x1")])
def test_detectron2_finds_every_tensor_and_computes_the_same(tmp_path, arch, stride):
    """Its own loader takes our file, and its network gives the same res5."""
    code = (
        "import pickle, sys, torch; from detectron2.checkpoint import DetectionCheckpointer; "
        "from detectron2.config import get_cfg; from detectron2.modeling import build_backbone\n"
        "cfg = get_cfg(); cfg.merge_from_list(eval(sys.argv[2])); cfg.MODEL.RESNETS.NORM = 'BN'\n"
        "cfg.MODEL.RESNETS.OUT_FEATURES = ['res2', 'res5']; cfg.MODEL.DEVICE = 'cpu'; net = build_backbone(cfg).eval()\n"
        "DetectionCheckpointer(net).load(sys.argv[1]); torch.manual_seed(3); x = torch.randn(1, 3, 65, 97)\n"
        "state, file = net.state_dict(), pickle.load(open(sys.argv[1], 'rb'))['model']\n"
        "assert {k for k in state if 'num_batches' not in k} == file.keys()\n"
        "assert all(torch.equal(state[k], torch.tensor(v)) for k, v in file.items())\n"
        "torch.save(net(x)['res5'].detach(), sys.argv[3])"
    )
    state = {k: v for k, v in real(arch, 1).state_dict().items() if k in weights.expected_shapes(arch)}
    backbone = weights.Backbone(arch, state, "x", stride_in=stride)
    pairs = [item for pair in export.to_detectron2(backbone, tmp_path / "b.pkl").items() for item in pair]
    command = [sys.executable, "-c", code, str(tmp_path / "b.pkl"), repr(pairs), str(tmp_path / "res5.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "not used by the model" not in done.stderr + done.stdout
    torch.manual_seed(3)
    x = torch.randn(1, 3, 65, 97)
    ours = res5(load_resnet(backbone).eval(), x)
    theirs = torch.load(tmp_path / "res5.pt", weights_only=True)
    assert float((theirs - ours).abs().max() / ours.abs().max()) < 1e-5
    again = importing.open_any(tmp_path / "b.pkl")
    assert again.stride_in == stride and all(torch.equal(again.tensors[k], v) for k, v in state.items())


# --- comparing -------------------------------------------------------------------------------------------------------


def test_compare():
    one = weights.random_backbone("resnet18", 0)
    changed = dict(one.tensors)
    changed["layer4.0.conv1.weight"] = one.tensors["layer4.0.conv1.weight"] * 1.1
    a, b = "layer1.0.conv1.weight", "layer1.0.conv2.weight"
    changed[a], changed[b] = changed[b], changed[a]
    facts = weights.compare(one, weights.Backbone("resnet18", changed, "x"))
    names = [k for k in one.tensors if weights.stage_of(k) == "res5"]
    norm = math.sqrt(sum(float(one.tensors[k].square().sum()) for k in names))
    assert facts["renamed"] == {a: b, b: a} and facts["different"] == 1 and facts["identical"] == 97
    assert facts["distance"]["res5"] == pytest.approx(0.1 * float(one.tensors["layer4.0.conv1.weight"].norm()) / norm, abs=1e-5)
    assert facts["distance"]["res4"] == 0 and facts["same architecture and preprocessing"]


# --- large files -----------------------------------------------------------------------------------------------------


def test_400_megabytes_in_ten_seconds_and_two_gigabytes(tmp_path):
    state = {k: v for k, v in torchvision.models.resnet50().state_dict().items() if not k.startswith("fc.")}
    both = {f"module.encoder_{e}.{k}": v.clone() for e in "qk" for k, v in state.items()}
    more = {"module.queue": torch.zeros(128, 65536), "module.encoder_q.fc.2.weight": torch.zeros(128, 2048)}
    torch.save({"state_dict": both | more, "optimizer": {"state": {0: torch.zeros(47_000_000)}}}, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size > 400e6
    code = (
        "import sys, time; from transfer import importing, weights; start = time.process_time()\n"
        "weights.write(sys.argv[2], importing.load(sys.argv[1])[0]); took = time.process_time() - start\n"
        "print(took, *(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )  # time of the processor: others may be at work on the machine
    command = [sys.executable, "-c", code, str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")]
    seconds, kilobytes = map(float, subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())
    assert seconds < 10 and kilobytes < 2e6


# --- public checkpoints ----------------------------------------------------------------------------------------------


def test_table_of_public_checkpoints():
    from transfer.adapters import ADAPTERS

    layouts = {adapter.name for adapter in ADAPTERS}
    assert len(known.BY_NAME) == len(known.KNOWN) and len({row.file for row in known.KNOWN}) == len(known.KNOWN)
    for row in known.KNOWN:
        assert row.adapter in layouts and row.arch in weights.ARCHS and row.url.startswith("https://") and row.licence
        assert all(c in "0123456789abcdef" for c in row.digest.removeprefix("md5:"))
        assert known.find(row, Path("nowhere")) is None and str(Path("nowhere", row.file)) in known.how_to_get(row, Path("nowhere"))


def test_copies_are_verified(tmp_path, monkeypatch, moco):
    path = saved(moco, tmp_path / "moco_v2_200ep_pretrain.pth.tar")
    row = known.BY_NAME["moco-v2-200ep"]
    with pytest.raises(InputError, match="not the published moco-v2-200ep: its md5 begins with"):
        known.find(row, tmp_path)
    digest = weights.sha256_of(path)[:8]
    right = known.Known(row.name, row.method, row.epochs, row.adapter, row.url, row.licence, digest)
    assert known.find(right, tmp_path) == path and known.verified(right, path)
    monkeypatch.setattr(known, "KNOWN", (right,))
    path = path.rename(tmp_path / "renamed.pth")  # known by its hash
    meta = dict(importing.load(path)[0].metadata)
    assert (meta["source"], meta["epochs"]) == ("moco-v2-200ep", "200")


def test_missing_copies_are_not_downloaded_unasked(tmp_path, monkeypatch, capsys):
    import urllib.request

    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **more: pytest.fail("a download"))
    out = ["--dir", str(tmp_path), "--out", str(tmp_path / "b.safetensors")]
    assert cli.main(["weights", "import", "swav-800ep", *out]) == 2
    assert "swav_800ep_pretrain.pth.tar" in capsys.readouterr().err
    assert cli.main(["weights", "import", "detco-200ep", "--download", *out]) == 2
    assert "by hand" in capsys.readouterr().err


def test_download(tmp_path, moco):
    source = saved(moco, tmp_path / "there.pth.tar")
    digest = weights.sha256_of(source)[:12]
    row = known.Known("mine", "moco-v2", 200, "moco-v2", source.as_uri(), "MIT", digest)
    assert known.get(row, tmp_path / "copies", download=True).read_bytes() == source.read_bytes()
    wrong = known.Known("other", "moco-v2", 200, "moco-v2", source.as_uri(), "MIT", "0" * 12)
    with pytest.raises(InputError, match="not the published other"):
        known.get(wrong, tmp_path / "others", download=True)
    assert not (tmp_path / "others" / wrong.file).exists()


def test_suites_name_public_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(known, "KNOWN", (row := known.Known("mine", "moco-v2", 200, "torchvision", "https://x/mine.pth", "MIT"),))
    monkeypatch.setattr(known, "BY_NAME", {"mine": row})
    suite = suites.parse({"start": ["mine", "random"], "data": {"root": "d"}}, tmp_path / "s.yaml")
    assert suite.start[0].weights == tmp_path / "mine" and suite.start[0].name == "mine"
    with pytest.raises(InputError, match=r"no copy of mine in .*save https://x/mine\.pth as"):
        plan.weights_of(suite.start[0], None)
    (tmp_path / "weights").mkdir()
    torch.save(checkpoints.names() | checkpoints.some("fc.weight"), tmp_path / "weights" / "mine.pth")
    first, again = plan.weights_of(suite.start[0], None), plan.weights_of(suite.start[0], None)
    made = weights.read(first.path)
    assert first == again and first.identity == made.sha256 and (made.arch, made.method) == ("resnet18", "moco-v2")
    moco = {"name": "m", "weights": "moco-v2-200ep"}, "moco-v2-200ep"  # a name alone that is a recipe's too means the recipe
    start = suites.parse({"start": list(moco), "data": {"root": "d"}}, tmp_path / "s.yaml").start
    assert (start[0].weights, start[1].recipe) == (tmp_path / "moco-v2-200ep", "moco-v2-200ep")


# --- the command -----------------------------------------------------------------------------------------------------


def test_commands(tmp_path, moco, capsys):
    source, out = str(saved(moco, tmp_path / "moco.pth.tar")), str(tmp_path / "b.safetensors")
    assert cli.main(["weights", "import", source, "--out", out, "--encoder", "key", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["encoder"].startswith("key") and "query" in facts["encoder"]
    assert facts["architecture"].startswith("resnet18, all 100")
    assert cli.main(["weights", "show", out, "--compare", source, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] < 100  # the other encoder
    for to, name in (("detectron2", "c.pkl"), ("torchvision", "c.pth")):
        assert cli.main(["weights", "export", out, "--to", to, str(tmp_path / name)]) == 0
        assert cli.main(["weights", "show", out, "--compare", str(tmp_path / name), "--json"]) == 0
        shown = capsys.readouterr().out
        assert json.loads(shown[shown.rindex("\n{") :])["identical"] == 100
    assert cli.main(["weights", "list", "--dir", str(tmp_path)]) == 0
    assert cli.main(["weights", "list", "--layouts"]) == 0
    assert cli.main(["weights", "list", "moco-v2-200ep", "--json"]) == 0
    assert "59fd9945" in capsys.readouterr().out
    assert cli.main(["weights", "import", source, "--out", str(tmp_path)]) == 2  # a folder
    assert "cannot write" in capsys.readouterr().err and not list(tmp_path.parent.glob("*.part"))
    (tmp_path / "page.pth").write_text("<html>")
    assert cli.main(["weights", "import", str(tmp_path / "page.pth"), "--out", out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "web page" in error and "Traceback" not in error
