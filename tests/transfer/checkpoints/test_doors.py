"""A checkpoint layout that comes in by its door only: a row of LAYOUTS."""

import pytest
import torch

from detco.benchmarks.cli import main as cli
from detco.common.errors import InputError
from detco.transfer.checkpoints import importer, layouts
from tests import checkpoints


@pytest.fixture
def dummy(monkeypatch) -> layouts.CheckpointLayout:
    """Tensors as torchvision names them, behind `student/`, and a head of its own."""
    row = layouts.CheckpointLayout(
        "dummy",
        "dummy-method",
        "nobody's project",
        (layouts.EncoderPlace("student", "student/"),),
        (r"student/conv1\.weight", r"eyes\.weight"),
        drop=(r"eyes\..*",),
        preprocessing=layouts.UNIT,
    )
    monkeypatch.setattr(layouts, "LAYOUTS", (*layouts.LAYOUTS, row))
    return row


@pytest.fixture
def file(tmp_path):
    content = {f"student/{part.name}": part.tensor for part in checkpoints.parts(3)}
    torch.save({"state_dict": content | {"eyes.weight": torch.zeros(2)}}, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_a_dummy_layout_is_recognised_and_imported(dummy, file, tmp_path, capsys):
    backbone, report = importer.load(file)
    assert (report.layout.name, backbone.method) == ("dummy", "dummy-method")
    assert (backbone.mean, report.dropped[r"eyes\..*"]) == ((0.0, 0.0, 0.0), 1)
    wanted = {
        part.name: part.tensor
        for part in checkpoints.parts(3)
        if part.leaf != "num_batches_tracked"
    }
    assert backbone.tensors.keys() == wanted.keys()
    assert all(torch.equal(backbone.tensors[name], wanted[name]) for name in wanted)
    out = str(tmp_path / "a.safetensors")
    assert cli.main(["weights", "import", str(file), "--as", "dummy", "--out", out]) == 0
    assert cli.main(["weights", "list", "--layouts"]) == 0
    assert "nobody's project" in capsys.readouterr().out


def test_without_its_row_the_file_is_refused(file):
    with pytest.raises(InputError, match=r"holds no dictionary|like no known project"):
        importer.load(file)
