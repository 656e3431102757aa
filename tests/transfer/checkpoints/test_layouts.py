"""Each project's layout, written from its own words, is recognised and gives the same numbers under
torchvision's names."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detco.common.networks import RESNET
from detco.transfer.checkpoints import importer
from detco.transfer.checkpoints.layouts import LAYOUTS
from tests import checkpoints

MADE = checkpoints.made()
SCALES = {
    "imagenet": ("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "3x3"),
    "unit": ("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "3x3"),
    "msra": ("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "1x1"),
}


def save(content, path):
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content, 2))
    elif path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".safetensors":
        save_file({k: v.clone() for k, v in content.items()}, path, {"format": "pt"})
    else:
        torch.save(content, path)
    return path


def expected(seed: int) -> dict[str, torch.Tensor]:
    return {
        part.name: part.tensor
        for part in checkpoints.parts(seed)
        if part.leaf != "num_batches_tracked"
    }


@pytest.mark.parametrize("name", MADE)
def test_layout_is_recognised_and_read(name, tmp_path):
    made = MADE[name]
    path = save(made.content, tmp_path / f"file{made.suffix}")
    roles = [role for role, _ in made.seeds]
    for role, seed in made.seeds:
        backbone, report = importer.load(path, made.said, None if role == roles[0] else role)
        assert (report.layout.name, report.encoder.role) == (made.layout, role)
        assert set(report.others) == set(roles) - {role}
        assert (backbone.arch, backbone.method) == ("resnet18", made.method)
        assert (backbone.channel_order, backbone.mean, backbone.std, backbone.stride_in) == SCALES[
            made.scale
        ]
        wanted = expected(seed)
        if name == "msra of detectron 1":
            wanted |= {
                k: torch.full_like(v, float("var" in k))
                for k, v in wanted.items()
                if "running" in k
            }
        assert backbone.tensors.keys() == wanted.keys()
        assert all(torch.equal(backbone.tensors[k], v) for k, v in wanted.items())
    meta = dict(backbone.metadata)
    assert meta["epochs"] == made.epochs and json.loads(meta["assumed"])


def test_every_row_has_a_file_and_says_where_it_was_learnt():
    resnets = {layout.name for layout in LAYOUTS if layout.family == RESNET}
    assert {made.layout for made in MADE.values()} == resnets  # others: networks/test_networks.py
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
    assert all(
        len(layout.learnt) > 15 and layout.requires and layout.encoders for layout in LAYOUTS
    )
