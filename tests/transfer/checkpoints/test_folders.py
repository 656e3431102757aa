"""Checkpoints of several files, packed ones, and the advice that every refusal gives."""

import gzip
import json
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detco.benchmarks.cli import main as cli
from detco.common import backbone_file
from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.transfer.checkpoints import importer
from detco.transfer.checkpoints.reader import formats
from tests import checkpoints


def clones(state: dict) -> dict:
    return {name: tensor.clone() for name, tensor in state.items()}


def is_the_network(backbone: backbone_file.Backbone) -> bool:
    wanted = checkpoints.names()
    return all(torch.equal(tensor, wanted[name]) for name, tensor in backbone.tensors.items())


# --- several files -------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path) -> Path:
    """A folder as a hub gives it."""
    folder = tmp_path / "resnet-18"
    folder.mkdir()
    save_file(clones(checkpoints.hugging_face("resnet.")), folder / "model.safetensors")
    (folder / "config.json").write_text(
        '{"architectures": ["ResNetForImageClassification"], "downsample_in_bottleneck": false}'
    )
    return folder


def test_a_folder_of_a_hub(hub, tmp_path, capsys):
    backbone, report = importer.load(hub)
    assert report.layout.name == "hugging-face" and is_the_network(backbone)
    meta = dict(backbone.metadata)
    assert meta["source"] == "model.safetensors"
    assert meta["source_sha256"] == sha256_of(hub / "model.safetensors")
    out = tmp_path / "b.safetensors"
    assert cli.main(["weights", "import", str(hub), "--out", str(out)]) == 0
    assert is_the_network(backbone_file.read(out)) and "hugging-face" in capsys.readouterr().out


@pytest.fixture
def shards(tmp_path) -> Path:
    """A network in three files and the index of them."""
    folder, state = tmp_path / "shards", clones(checkpoints.names())
    folder.mkdir()
    files = {name: f"model-{n % 3:05d}-of-00003.safetensors" for n, name in enumerate(state)}
    for file in set(files.values()):
        save_file({k: v for k, v in state.items() if files[k] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    return index


def test_shards(shards):
    for path in (shards, shards.parent):
        backbone, _ = importer.load(path)
        assert is_the_network(backbone)
    digest = dict(backbone.metadata)["source_sha256"]
    part = next(shards.parent.glob("*.safetensors"))
    state = backbone_file.read_tensors(part)[1]
    save_file({name: tensor + 1 for name, tensor in state.items()}, part)
    changed, _ = importer.load(shards)
    assert dict(changed.metadata)["source_sha256"] != digest and not is_the_network(changed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda files: files.update({"bn1.bias": "../a.safetensors"}), "no index of shards"),
        (lambda files: files.update({"bn1.bias": "/etc/passwd"}), "no index of shards"),
        (lambda files: files.update({"bn1.bias": 3}), "no index of shards"),
        (lambda files: files.clear(), "no index of shards"),
        (lambda files: files.update({"bn9.bias": files["bn1.bias"]}), "bn9.bias is not in"),
        (lambda files: files.update({"bn1.bias": "b.safetensors"}), "there is no b.safetensors"),
    ],
)
def test_an_index_that_is_wrong(shards, change, says):
    index = json.loads(shards.read_text())
    change(index["weight_map"])
    shards.write_text(json.dumps(index))
    with pytest.raises(InputError, match=says) as error:
        importer.load(shards.parent)
    assert str(shards.parent) in str(error.value) and "\n" not in str(error.value)
    shards.write_text("{")
    with pytest.raises(InputError, match="no index of shards"):
        importer.load(shards)


@pytest.mark.parametrize("nested", [True, False], ids=["with latest", "the step's folder"])
def test_a_folder_of_deepspeed(tmp_path, nested):
    step = tmp_path / "run" / "global_step7"
    step.mkdir(parents=True)
    states = step / "mp_rank_00_model_states.pt"
    torch.save({"module": checkpoints.names(), "ds_version": "0.14", "optimizer": None}, states)
    (step.parent / "latest").write_text("global_step7\n")
    assert is_the_network(importer.load(step.parent if nested else step)[0])
    shutil.copy(states, step / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises(InputError, match=r"zero_to_fp32\.py"):
        importer.load(step)


def test_where_a_folder_names_its_step_does_not_lead_elsewhere(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "mp_rank_00_model_states.pt").touch()
    (tmp_path / "run" / "latest").write_text("..")
    with pytest.raises(InputError, match="no checkpoint at"):
        importer.load(tmp_path / "run")


def test_other_folders(tmp_path):
    with pytest.raises(InputError, match="it is a folder"):
        importer.load(tmp_path)
    torch.save(checkpoints.names(), tmp_path / "a.pth")
    assert is_the_network(importer.load(tmp_path)[0])
    (tmp_path / "b.ckpt").touch()
    with pytest.raises(InputError, match=r"2 checkpoints \(a\.pth, b\.ckpt\): name one"):
        importer.load(tmp_path)


# --- packed files --------------------------------------------------------------------------------


def test_packed_files_are_named_and_read_once_unpacked(tmp_path):
    plain = tmp_path / "in" / "weights.pth"
    plain.parent.mkdir()
    torch.save({"state_dict": checkpoints.names()}, plain)
    packed = {
        "gzip": (tmp_path / "a.pth.gz", lambda p: p.write_bytes(gzip.compress(b"x"))),
        "tar archive": (tmp_path / "a.tar", lambda p: _tar(p, plain, "w:")),
        "tar xzf": (tmp_path / "a.tar.gz", lambda p: _tar(p, plain, "w:gz")),
        "zip archive.*weights.pth": (tmp_path / "a.zip", lambda p: _zip(p, plain)),
    }
    for says, (path, make) in packed.items():
        make(path)
        with pytest.raises(InputError, match=f"{re.escape(str(path))}.*{says}") as error:
            importer.load(path)
        assert "import the checkpoint in it" in str(error.value)
    assert is_the_network(importer.load(plain)[0])


def _tar(path: Path, file: Path, mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        archive.add(file, file.name)


def _zip(path: Path, file: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, file.name)


# --- advice --------------------------------------------------------------------------------------


def test_advice_about_a_damaged_backbone_file_does_not_send_to_the_import(tmp_path):
    backbone = backbone_file.random_backbone("resnet18", 0)
    path = tmp_path / "b.safetensors"
    backbone_file.write(path, backbone)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="copy or make it again") as error:
        backbone_file.read(path)
    assert "weights import" not in str(error.value)
    torch.save(checkpoints.names(), path)  # another project's: that can be imported
    with pytest.raises(InputError, match="`detco weights import`"):
        backbone_file.read(path)
    assert is_the_network(importer.load(path)[0])


def test_names_offered_for_an_unknown_layout_or_encoder_are_accepted(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(checkpoints.moco(*checkpoints.MLP), path)
    with pytest.raises(InputError) as error:
        importer.load(path, "moco-v")
    for name in str(error.value).rpartition("known: ")[2].split(", ")[:3]:
        try:
            importer.load(path, name)
        except InputError as other:
            assert "no known layout" not in str(other)
    with pytest.raises(InputError) as error:
        importer.load(path, encoder="teacher")
    for role in str(error.value).rpartition("it has ")[2].split(", "):
        assert importer.load(path, encoder=role)[1].encoder.role == role


def test_candidates_of_a_file_of_two_layouts_can_be_said(tmp_path):
    path = tmp_path / "a.pth"
    state = checkpoints.moco(*checkpoints.MLP) | checkpoints.names("backbone.")
    torch.save(state | checkpoints.linears("neck.", 0), path)
    with pytest.raises(InputError, match="say which") as error:
        importer.load(path)
    for name in re.findall(r"--as ([\w-]+)", str(error.value)):
        with pytest.raises(InputError, match="--prefix") as other:  # the one way that is left
            importer.load(path, name)
        prefix = re.findall(r"--prefix (\S+)", str(other.value))[0]
        assert importer.load(path, prefix=prefix)[0].arch == "resnet18"


def test_the_way_to_a_trunk_with_an_unknown_head(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(checkpoints.names() | checkpoints.some("fc.0.weight", "eyes.weight"), path)
    with pytest.raises(InputError, match="takes it alone") as error:
        importer.load(path)
    name = re.findall(r"--as (\S+)", str(error.value))[0]
    backbone, report = importer.load(path, name)
    assert is_the_network(backbone) and sum(report.dropped.values()) == 2 + 20
    torch.save(checkpoints.names() | checkpoints.some("layer1.0.se.weight"), path)
    with pytest.raises(InputError, match="SE-ResNet"):
        importer.load(path, name)
    torch.save(checkpoints.names() | checkpoints.some("layer1.0.gate.weight"), path)
    with pytest.raises(InputError, match="does not explain: layer1"):
        importer.load(path, name)


def test_a_compressed_torch_file_is_told_from_a_packed_folder(tmp_path):
    torch.save(checkpoints.names(), tmp_path / "a.pth")
    packed = zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "a.pth") as source, packed as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(InputError, match="compressed zip archive"):
        formats.read(tmp_path / "b.pth")
