"""Public checkpoints by name, and the `detco weights` commands."""

import json
from pathlib import Path

import pytest
import torch

from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import suite_plan
from detco.benchmarks.suites import files as suite_files
from detco.common import backbone_file, resnet
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
            and row.arch in resnet.ARCHS
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
    with pytest.raises(
        InputError, match=r"not the published moco-v2-200ep: its md5 begins with .*; remove it"
    ):
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
    import urllib.request

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
    with pytest.raises(InputError, match=r"not the published other: .*the download was removed"):
        zoo.get(wrong, tmp_path / "others", download=True)
    assert not list((tmp_path / "others").iterdir())


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
    with pytest.raises(InputError, match=r"no copy of mine in .*save https://x/mine\.pth as"):
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
    torch.save(
        checkpoints.names(seed=1) | checkpoints.some("fc.weight"), tmp_path / "weights" / "mine.pth"
    )  # another copy
    assert suite_plan.weights_of(suite.start[0], None).identity != first.identity
    moco = (
        {"name": "m", "weights": "moco-v2-200ep"},
        "moco-v2-200ep",
    )  # a name alone that is a recipe's too means the recipe
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
