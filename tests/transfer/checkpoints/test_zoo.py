"""Public checkpoints by name, and the `detco weights` commands."""

import io
import json
import os
import random
import urllib.request
from pathlib import Path

import pytest
import torch

from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import suite_plan
from detco.benchmarks.suites import files as suite_files
from detco.common import backbone_file, networks, resnet
from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.transfer.checkpoints import importer, zoo
from tests import checkpoints
from tests.checkpoints import saved


@pytest.fixture
def moco() -> dict:
    """Tensors of a MoCo v2 file, to be damaged."""
    return checkpoints.moco(*checkpoints.MLP)


# --- public checkpoints --------------------------------------------------------------------------


def test_table_of_public_checkpoints():
    from detco.transfer.checkpoints.layouts import LAYOUTS

    layouts, nowhere = {layout.name for layout in LAYOUTS}, Path("nowhere")
    assert len(zoo.BY_NAME) == len(zoo.KNOWN) and len({row.files[0] for row in zoo.KNOWN}) == len(
        zoo.KNOWN
    )
    for row in zoo.KNOWN:
        assert (
            row.layout in layouts
            and (row.arch in resnet.ARCHS or networks.row_of(row.arch))
            and row.url.startswith("https://")
            and row.licence
        )
        assert all(c in "0123456789abcdef" for c in row.digest.removeprefix("md5:"))
        assert zoo.find(row, nowhere) is None and str(nowhere / row.files[0]) in zoo.how_to_get(
            row, nowhere
        )


def test_copies_are_verified(tmp_path, monkeypatch, moco):
    path = saved(moco, tmp_path / "moco_v2_200ep_pretrain.pth.tar")
    row = zoo.BY_NAME["moco-v2-200ep"]
    with pytest.raises(InputError, match=r"not the published moco-v2-200ep.*md5"):
        zoo.find(row, tmp_path)
    digest = sha256_of(path)[:8]
    right = zoo.Known(row.name, row.method, row.epochs, row.layout, row.url, row.licence, digest)
    assert zoo.find(right, tmp_path) == path and zoo.verified(right, path)
    monkeypatch.setattr(zoo, "KNOWN", (right,))
    path = path.rename(tmp_path / "renamed.pth")  # known by its hash
    meta = dict(importer.load(path)[0].metadata)
    assert (meta["source"], meta["epochs"]) == ("moco-v2-200ep", "200")


def test_a_name_alone_is_no_proof(tmp_path, moco):
    """A file that only has the name of a published one is not said to be it; without a published
    hash the name must do."""
    origin = {}
    for name in (
        "moco_v2_200ep_pretrain.pth.tar",
        "infomin-200ep.safetensors.pth",
        "mmselfsup-moco-v2-200ep.pth",
    ):
        origin[name] = dict(importer.load(saved(moco, tmp_path / name, epoch=7))[0].metadata)
        assert (origin[name]["source"], origin[name]["epochs"]) == (name, "7")
    path = tmp_path / "swav_800ep_pretrain.pth.tar"
    torch.save(checkpoints.swav("prototypes.weight"), path)
    assert dict(importer.load(path)[0].metadata)["source"] == "swav-800ep"


def test_an_imported_backbone_beside_the_copies_is_none_of_them(tmp_path):
    (tmp_path / "moco-v2-200ep.safetensors").write_bytes(b"our own")
    assert zoo.find(zoo.BY_NAME["moco-v2-200ep"], tmp_path) is None


def test_missing_copies_are_not_downloaded_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **more: pytest.fail("a download"))
    out = ["--dir", str(tmp_path), "--out", str(tmp_path / "b.safetensors")]
    assert cli.main(["weights", "import", "swav-800ep", *out]) == 2
    assert "swav_800ep_pretrain.pth.tar" in capsys.readouterr().err
    assert cli.main(["weights", "import", "detco-200ep", "--download", *out]) == 2
    assert "by hand" in capsys.readouterr().err


def test_download(tmp_path, moco):
    source = saved(moco, tmp_path / "there.pth.tar")
    digest = sha256_of(source)[:12]
    row = zoo.Known("mine", "moco-v2", 200, "moco-v2", source.as_uri(), "MIT", digest)
    assert zoo.get(row, tmp_path / "copies", download=True).read_bytes() == source.read_bytes()
    wrong = zoo.Known("other", "moco-v2", 200, "moco-v2", source.as_uri(), "MIT", "0" * 12)
    with pytest.raises(InputError, match=r"published other: .*nothing was kept"):
        zoo.get(wrong, tmp_path / "others", download=True)
    assert not list((tmp_path / "others").iterdir())


class Answer(io.BytesIO):
    """What a server sends, a few bytes at a time; `length` is the size that it states."""

    def __init__(self, content: bytes, length: int | None, before_the_end=lambda: None):
        super().__init__(content)
        self.headers = {} if length is None else {"Content-Length": str(length)}
        self.before_the_end = before_the_end

    def read(self, count=-1):
        if self.tell() == len(self.getvalue()):
            self.before_the_end()
        return super().read(min(count, 1000))


def test_two_downloads_of_one_file_at_once(tmp_path, monkeypatch):
    """The second process begins and ends while the first is half way."""
    content = random.Random(0).randbytes(10_000)
    row = zoo.Known("mine", "moco-v2", 200, "moco-v2", "https://x/mine.pth", "MIT")

    def second():
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: 1)
            other.setattr(urllib.request, "urlopen", lambda *a, **m: Answer(content, 10_000))
            zoo.get(row, tmp_path / "copies", download=True)
            (tmp_path / "copies" / "mine.pth").unlink()

    first = Answer(content, 10_000, second)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **more: first)
    assert zoo.get(row, tmp_path / "copies", download=True).read_bytes() == content
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["mine.pth"]


@pytest.mark.parametrize(("sent", "stated"), [(999, 1000), (1001, 1000), (0, None), (0, 0)])
def test_a_download_of_another_size_is_not_kept(tmp_path, monkeypatch, sent, stated):
    answer = Answer(bytes(sent), stated)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **more: answer)
    row = zoo.Known("mine", "moco-v2", 200, "moco-v2", "https://x/mine.pth", "MIT")
    with pytest.raises(InputError, match=rf"https://x/mine\.pth gave {sent} bytes.*broke; try"):
        zoo.get(row, tmp_path / "copies", download=True)
    assert not list((tmp_path / "copies").iterdir())


def test_the_advice_for_a_missing_copy_is_a_command_that_works(tmp_path, monkeypatch, moco, capsys):
    source = saved(moco, tmp_path / "there.pth.tar")
    row = zoo.Known("mine", "moco-v2", 200, "moco-v2", source.as_uri(), "MIT")
    monkeypatch.setattr(zoo, "KNOWN", (row,))
    monkeypatch.setattr(zoo, "BY_NAME", {"mine": row})
    monkeypatch.chdir(tmp_path)
    advice = zoo.how_to_get(row, tmp_path / "copies")
    assert cli.main(advice.split("`")[1].split()[1:]) == 0
    assert backbone_file.read(tmp_path / "mine.safetensors").arch == "resnet18"
    assert "publishes no hash" in capsys.readouterr().out


def test_suites_name_public_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(
        zoo,
        "KNOWN",
        (row := zoo.Known("mine", "moco-v2", 200, "torchvision", "https://x/mine.pth", "MIT"),),
    )
    monkeypatch.setattr(zoo, "BY_NAME", {"mine": row})
    suite = suite_files.parse(
        {"start": ["mine", "random"], "data": {"root": "d"}}, tmp_path / "s.yaml"
    )
    assert suite.start[0].weights == tmp_path / "mine" and suite.start[0].name == "mine"
    with pytest.raises(InputError, match=r"no copy of mine .*https://x/mine\.pth"):
        suite_plan.weights_of(suite.start[0], None)
    (tmp_path / "weights").mkdir()
    torch.save(
        checkpoints.names() | checkpoints.some("fc.weight"), tmp_path / "weights" / "mine.pth"
    )
    first, again = (
        suite_plan.weights_of(suite.start[0], None),
        suite_plan.weights_of(suite.start[0], None),
    )
    made = backbone_file.read(first.path)
    assert (
        first == again
        and first.identity == made.sha256
        and (made.arch, made.method) == ("resnet18", "moco-v2")
    )
    # another copy
    torch.save(
        checkpoints.names(seed=1) | checkpoints.some("fc.weight"), tmp_path / "weights" / "mine.pth"
    )
    assert suite_plan.weights_of(suite.start[0], None).identity != first.identity
    # a name alone that is a recipe's too means the recipe
    moco = (
        {"name": "m", "weights": "moco-v2-200ep"},
        "moco-v2-200ep",
    )
    start = suite_files.parse(
        {"start": list(moco), "data": {"root": "d"}}, tmp_path / "s.yaml"
    ).start
    assert (start[0].weights, start[1].recipe) == (tmp_path / "moco-v2-200ep", "moco-v2-200ep")


# --- the command ---------------------------------------------------------------------------------


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
