"""Checkpoints of other projects where a command takes a backbone: read as the import reads them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from detco.benchmarks.cli import commands
from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import single, suite_plan
from detco.benchmarks.suites import files
from detco.common import backbone_file
from detco.common.errors import InputError
from detco.transfer.checkpoints import zoo
from tests import checkpoints


@pytest.fixture
def moco(tmp_path):
    """A MoCo v2 file: the key encoder's numbers are those of seed 1."""
    return checkpoints.saved(checkpoints.moco(*checkpoints.MLP), tmp_path / "moco.pth.tar")


def job(scenes, out, *words):
    words = ["transfer", "small-retinanet", "--data", scenes / "voc", "--out", out, *words]
    words += ["--engine", "replay"]
    return single.job_of(commands.parser("x").parse_args([str(word) for word in words]))


def is_network(path, seed: int) -> bool:
    tensors = backbone_file.read(path).tensors
    wanted = checkpoints.names(seed=seed)
    return all(torch.equal(tensor, wanted[name]) for name, tensor in tensors.items())


def test_transfer_imports_a_checkpoint_once(scenes, moco, tmp_path, caplog):
    out = tmp_path / "runs"
    plain = job(scenes, out, "--weights", moco)
    key = job(scenes, out, "--weights", moco, "--encoder", "key")
    assert is_network(plain.spec["weights"], 0) and is_network(key.spec["weights"], 1)
    assert plain.id != key.id and plain.spec["starting_point"] == "moco"
    before = sorted((out / "imported").iterdir())
    assert job(scenes, out, "--weights", moco).id == plain.id
    assert sorted((out / "imported").iterdir()) == before and len(before) == 2
    assert "do not tell on which pixels" not in caplog.text  # moco's own layout: no doubt
    made = tmp_path / "made.safetensors"
    assert cli.main(["weights", "import", str(moco), "--out", str(made)]) == 0
    assert job(scenes, out, "--weights", made, "--name", "moco").id == plain.id


def test_transfer_takes_folders_and_public_names(scenes, tmp_path, monkeypatch, caplog):
    hub = tmp_path / "resnet-18"
    hub.mkdir()
    state = {name: value.clone() for name, value in checkpoints.hugging_face("resnet.").items()}
    save_file(state, hub / "model.safetensors")
    taken = job(scenes, tmp_path / "a", "--weights", hub)
    assert is_network(taken.spec["weights"], 0) and taken.spec["starting_point"] == "resnet-18"
    row = zoo.Known("mine", "moco-v2", 200, "moco-v2", "https://x/mine.pth", "MIT")
    monkeypatch.setattr(zoo, "BY_NAME", {"mine": row})
    monkeypatch.setenv("DETCO_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match="no copy of mine"):
        job(scenes, tmp_path / "a", "--weights", "mine")
    checkpoints.saved(checkpoints.moco(*checkpoints.MLP), tmp_path / "mine.pth")
    assert job(scenes, tmp_path / "a", "--weights", "mine").spec["starting_point"] == "mine"


def test_suites_say_how_a_checkpoint_is_read(scenes, moco, tmp_path):
    start = [{"name": name, "weights": "moco.pth.tar"} for name in ("query", "key")]
    start[1]["encoder"] = "key"
    made = {"name": "s", "start": start, "protocols": ["small-retinanet"], "engine": "replay"}
    made["data"] = {"root": str(scenes / "voc")}
    (tmp_path / "s.yaml").write_text(json.dumps(made))
    suite = files.load(str(tmp_path / "s.yaml"))
    jobs = suite_plan.plan(suite, tmp_path / "out")
    assert len({job.id for job in jobs}) == 2
    assert [is_network(job.spec["weights"], seed) for seed, job in enumerate(jobs)] == [True] * 2
    start[1]["encoder"] = "teacher"
    (tmp_path / "s.yaml").write_text(json.dumps(made))
    with pytest.raises(InputError, match="has no encoder 'teacher'"):
        suite_plan.plan(files.load(str(tmp_path / "s.yaml")), tmp_path / "out")
    start[1] = {"name": "random", "random": True, "prefix": "model."}
    (tmp_path / "s.yaml").write_text(json.dumps(made))
    with pytest.raises(InputError, match="and there is none"):
        files.load(str(tmp_path / "s.yaml"))


def test_doubts_are_said(scenes, tmp_path, caplog):
    torch.save(checkpoints.names(), tmp_path / "a.pth")
    job(scenes, tmp_path / "runs", "--weights", tmp_path / "a.pth")
    assert f"{tmp_path / 'a.pth'}: bn1's statistics do not tell" in caplog.text


def test_options_without_a_checkpoint_are_refused(scenes, moco, tmp_path):
    own = tmp_path / "own.safetensors"
    backbone_file.write(own, backbone_file.random_backbone("resnet18", 0))
    for weights in (own, "random"):
        with pytest.raises(InputError, match="is no checkpoint of another project"):
            job(scenes, tmp_path / "runs", "--weights", weights, "--encoder", "key")
    with pytest.raises(InputError, match="has no encoder 'teacher'"):
        job(scenes, tmp_path / "runs", "--weights", moco, "--encoder", "teacher")
    with pytest.raises(InputError, match=r"no backbone file at .*none\.pth"):
        job(scenes, tmp_path / "runs", "--weights", tmp_path / "none.pth")
    assert not (tmp_path / "runs").exists()


def test_show_export_and_attention_take_the_same(moco, tmp_path, capsys):
    def shown(*words) -> dict:
        assert cli.main(["weights", "show", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    own = tmp_path / "own.safetensors"
    words = ["weights", "import", str(moco), "--out", str(own), "--encoder", "key"]
    assert cli.main(words) == 0
    capsys.readouterr()
    assert shown(moco, "--encoder", "key")["encoder"] == "key"
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(moco, folder / "only.pth")
    assert shown(folder, "--as", "moco-v2")["layout"] == "moco-v2"
    assert shown(moco, "--encoder", "key", "--compare", own)["identical"] == 100
    assert shown(own, "--compare", moco)["identical"] == 0
    exported = tmp_path / "a.pth"
    words = ["weights", "export", str(moco), "--encoder", "key", "--to", "torchvision"]
    assert cli.main([*words, str(exported)]) == 0
    theirs = torch.load(exported, weights_only=True)
    assert torch.equal(theirs["bn1.bias"], checkpoints.names(seed=1)["bn1.bias"])
    assert cli.main(["weights", "show", str(own), "--encoder", "key"]) == 2
    assert "is no checkpoint of another project" in capsys.readouterr().err


def test_attention_maps_are_those_of_the_imported_file(tmp_path):
    state = checkpoints.some("module.encoder_q.fc.2.weight", "module.encoder_k.fc.2.weight")
    for seed, encoder in enumerate("qk"):
        net = checkpoints.trained("resnet18", seed).state_dict().items()
        state |= {f"module.encoder_{encoder}.{k}": v for k, v in net if not k.startswith("fc.")}
    moco = checkpoints.saved(state, tmp_path / "moco.pth")
    own, picture = tmp_path / "own.safetensors", tmp_path / "a.png"
    assert cli.main(["weights", "import", str(moco), "--out", str(own), "--encoder", "key"]) == 0
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(picture)
    words = ["attention", "--images", str(picture), "--size", "64", "--weights"]
    for number, more in enumerate(([str(own)], [str(moco), "--encoder", "key"], [str(moco)])):
        assert cli.main([*words, *more, "--out", str(tmp_path / f"{number}.png")]) == 0
    figures = [np.asarray(Image.open(tmp_path / f"{n}.png"))[40:].astype(int) for n in range(3)]
    assert (figures[0] == figures[1]).all() and np.abs(figures[0] - figures[2]).max() > 5


def test_a_detector_is_no_backbone(scenes, tmp_path):
    from detco.transfer import detector
    from tests.factories.detectors import trained

    detector.write(tmp_path / detector.NAME, trained())
    with pytest.raises(InputError, match=r"whole trained detector .*detco predict"):
        job(scenes, tmp_path / "runs", "--weights", tmp_path / detector.NAME)
