"""Vision transformers, ConvNeXt and Swin of every layout are recognised and give the maps of the
network that wrote them."""

import pytest
import torch

from detco.common import backbone_file
from detco.common.networks import RESNET
from detco.common.networks.levels import Levels
from detco.transfer.checkpoints import importer
from detco.transfer.checkpoints.layouts import LAYOUTS
from tests.factories.foreign_cases import CASES

pytest.importorskip("timm")


@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_the_network_that_wrote_it(name, tmp_path):
    case = CASES[name]
    path, images, maps = case.make(tmp_path)
    backbone, report = importer.load(path, case.said)
    assert report.layout.name == case.layout
    backbone_file.write(tmp_path / "b.safetensors", backbone)
    read = backbone_file.read(tmp_path / "b.safetensors")
    with torch.no_grad():
        found = Levels(read).eval()(images)
    assert len(found) == len(maps)
    for own, theirs in zip(found.values(), maps):
        assert own.shape == theirs.shape
        assert (own - theirs).abs().max() <= case.far


def test_every_row_has_a_case():
    rows = {layout.name for layout in LAYOUTS if layout.family != RESNET}
    assert {case.layout for case in CASES.values()} == rows
