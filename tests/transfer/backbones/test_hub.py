"""Backbones in repositories: what is pushed is what is pulled, and the card says what the file
says. The Hugging Face hub is a folder here."""

import json
import re
import sys
import types
from dataclasses import replace

import pytest
import torch
import yaml

from detco.benchmarks.cli import main as cli
from detco.common import backbone_file
from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.transfer.backbones import card, hub
from detco.transfer.checkpoints import zoo

META = {"epochs": "7", "source": "recipe mine on 5 pictures", "recipe": '{"name": "mine"}'}


@pytest.fixture
def backbone():
    made = backbone_file.random_backbone("resnet18", 0)
    return replace(made, method="moco-v2", metadata=tuple(META.items()))


@pytest.fixture
def file(tmp_path, backbone):
    backbone_file.write(tmp_path / "b.safetensors", backbone)
    return tmp_path / "b.safetensors"


def front_of(text: str) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])


def row_of(text: str, key: str) -> str:
    return re.search(rf"^\| {key} \| (.*) \|$", text, re.MULTILINE)[1]


def test_pushed_and_pulled_through_a_folder(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--licence", "mit", "--trained-on", "my photos"]
    assert cli.main(["weights", "push", str(file), "./shared/moco", *words]) == 0
    text = (tmp_path / "shared/moco/README.md").read_text()
    front = front_of(text)
    assert (front["license"], front["library_name"]) == ("mit", "detco")
    assert front["tags"] == ["detco-backbone", "resnet18", "moco-v2"]
    assert front["detco"] == {"sha256": sha256_of(file)}
    rows = {"epochs": "7", "recipe": "mine", "data": "my photos", "stride in": "3x3"}
    assert {key: row_of(text, key) for key in rows} == rows
    capsys.readouterr()
    assert cli.main(["weights", "pull", "shared/moco", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["file"], said["verified"]) == ("moco.safetensors", "the card's hash")
    assert (tmp_path / "moco.safetensors").read_bytes() == file.read_bytes()
    assert cli.main(["weights", "pull", "shared/moco"]) == 0  # the same once more
    other = backbone_file.random_backbone("resnet18", 1)
    backbone_file.write(file, other)
    assert cli.main(["weights", "push", str(file), "shared/moco"]) == 0  # takes the former's place
    assert cli.main(["weights", "pull", "shared/moco"]) == 2
    assert "moco.safetensors is there and holds something else" in capsys.readouterr().err
    assert cli.main(["weights", "pull", "shared/moco", "new/x.safetensors"]) == 0
    assert backbone_file.read(tmp_path / "new/x.safetensors").sha256 == sha256_of(file)


def test_the_code_of_the_card_works(file, tmp_path, monkeypatch):
    hub.push(file, hub.repository(str(tmp_path / "moco")))
    text = (tmp_path / "moco/README.md").read_text()
    assert str(tmp_path) not in text  # nothing of this machine
    monkeypatch.chdir(tmp_path / "moco")
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
    tensors = backbone_file.read(file).tensors
    assert all(torch.equal(names["net"].state_dict()[k], v) for k, v in tensors.items())


@pytest.mark.parametrize("row", [zoo.BY_NAME["moco-v2-800ep"], zoo.BY_NAME["swav-800ep"]])
def test_the_card_of_a_public_checkpoint_has_its_licence_and_address(backbone, row):
    meta = {"source": row.name, "source_sha256": "ab" * 32, "encoder": "query"}
    text = card.write(replace(backbone, metadata=tuple(meta.items())), "me/x")
    assert row_of(text, "its address") == row.url
    assert row.licence in row_of(text, "its licence").replace("\\", "")
    assert front_of(text)["license"] == {"moco-v2": "other", "swav": "cc-by-nc-4.0"}[row.method]
    assert front_of(card.write(backbone, "me/x"))["license"] == "unknown"


def test_texts_of_the_file_are_no_markup(backbone):
    evil = 'x"\n---\n# big | <b>`'
    text = card.write(replace(backbone, method=evil, sha256="cd" * 32), "me/x")
    assert front_of(text)["tags"][0] == "detco-backbone" and card.hash_in(text) == "cd" * 32
    assert "<b>" not in text.replace("\\<b\\>", "").partition("## Use")[0].partition("# x")[2]
    assert not re.search(r"^# big", text, re.MULTILINE)
    assert card.hash_in("no card\n  sha256: " + "ab" * 32 + "\n") == ""


def damage(path):
    state = backbone_file.random_backbone("resnet18", 5)
    backbone_file.write(path / hub.FILE, state)


def foreign_card(path):
    (path / hub.CARD).write_text("# My project\n")


WRONG = {
    "changed after the push": (damage, "pull", "its card says .*push again"),
    "no backbone": (lambda p: (p / hub.FILE).unlink(), "pull", "has no backbone.safetensors"),
    "no backbone file": (
        lambda p: (p / hub.FILE).write_bytes(b"x" * 99),
        "pull",
        "not a readable safetensors",
    ),
    "another's card": (foreign_card, "push", "did not write: move it away"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case, file, tmp_path):
    change, command, says = WRONG[case]
    repo = hub.repository(str(tmp_path / "moco"))
    hub.push(file, repo)
    change(tmp_path / "moco")
    before = {path.name: path.read_bytes() for path in (tmp_path / "moco").iterdir()}
    with pytest.raises(InputError, match=says):
        hub.push(file, repo) if command == "push" else hub.pull(repo, tmp_path / "new")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "moco").iterdir()}
    assert not (tmp_path / "new").exists()


def test_other_input_that_is_refused(file, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"--licence MIT License: a short name"):
        hub.push(file, hub.repository(str(tmp_path)), "MIT License")
    with pytest.raises(InputError, match="is a file, not a repository"):
        hub.repository(str(file))
    with pytest.raises(InputError, match="is a folder, which has none"):
        hub.repository(str(tmp_path), "main")
    torch.save({}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="weights import"):
        hub.push(tmp_path / "a.pth", hub.repository(str(tmp_path / "moco")))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"me/moco .*pip install huggingface_hub"):
        hub.repository("me/moco")


def test_a_card_without_a_hash_is_said_to_verify_nothing(file, tmp_path):
    hub.push(file, hub.repository(str(tmp_path / "moco")))
    foreign_card(tmp_path / "moco")
    said = hub.pull(hub.repository(str(tmp_path / "moco")), tmp_path / "x.safetensors")
    assert said["verified"].startswith("the format only")


# --- the hub, in a folder ------------------------------------------------------------------------


class Missing(Exception):
    pass


class Offline(Missing):
    pass


class NoRepository(Exception):
    """As in huggingface_hub no kind of the others."""


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    """A module with the few functions of huggingface_hub that are used."""
    root, said = tmp_path / "hub", []

    def download(name, file, revision=None):
        said.append((name, revision))
        if name == "me/offline":
            raise Offline("no connection\nand more")
        if not (root / name).is_dir():
            raise NoRepository(f"{name} not found")
        if not (root / name / file).is_file():
            raise Missing
        return str(root / name / file)

    class Api:
        def repo_exists(self, name):
            return (root / name).is_dir()

        def create_repo(self, name, *, private, exist_ok):
            said.append(("private", private))
            return f"https://hub/{name}"

        def upload_folder(self, *, repo_id, folder_path, revision, commit_message):
            if repo_id == "me/forbidden":
                raise OSError("403 Forbidden")
            (root / repo_id).mkdir(parents=True, exist_ok=True)
            for path in hub.Path(folder_path).iterdir():
                (root / repo_id / path.name).write_bytes(path.read_bytes())

    utils = types.SimpleNamespace(EntryNotFoundError=Missing, LocalEntryNotFoundError=Offline)
    module = types.SimpleNamespace(HfApi=Api, hf_hub_download=download, utils=utils)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", utils)
    return said


def test_pushed_and_pulled_through_the_hub(file, tmp_path, monkeypatch, hugging_face, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["weights", "push", str(file), "me/moco"]) == 0
    assert "https://hub/me/moco" in capsys.readouterr().out and ("private", True) in hugging_face
    assert cli.main(["weights", "pull", "me/moco", "--revision", "v1"]) == 0
    assert ("me/moco", "v1") in hugging_face
    assert (tmp_path / "moco.safetensors").read_bytes() == file.read_bytes()
    assert cli.main(["weights", "push", str(file), "me/moco", "--public"]) == 0
    assert ("private", False) in hugging_face
    for words, says in (
        (["push", str(file), "me/forbidden"], "403 Forbidden"),
        (["pull", "me/offline"], "no connection"),
        (["pull", "me/nothing"], "me/nothing not found"),
    ):
        assert cli.main(["weights", *words]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
