"""Pooled features: those of torchvision's own network, kept on disk, from a trunk that does not
change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from detco.common import backbone_file
from detco.common.errors import InputError
from detco.transfer import engines
from detco.transfer.data import dataset
from detco.transfer.engines.frozen import features
from detco.transfer.engines.replacing import Replaced
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.settings import Resize
from tests.factories import datasets


@pytest.fixture
def job(tmp_path):
    root = datasets.classes(tmp_path / "mine", 3, 2)
    train = dataset.load("imagefolder", root, "train")
    test = dataset.load("imagefolder", root, "val", train.categories)
    row = PROTOCOLS["small-knn"]
    row = replace(
        row,
        schedule=replace(row.schedule, images=4),
        resize=Resize((40,), test=40, crop=32),
    )
    backbone = backbone_file.random_backbone("resnet18", 0)
    return engines.EngineJob(row, backbone, train, test, 0, tmp_path)


def trunk_of(job, **more):
    return features.PooledTrunk(replace(job.backbone, **more), "res5")


def silent(*_, **__):
    pass


def pooled(job, trunk=None, report=silent):
    replaced = Replaced(job.train, len(job.train.images))
    return features.of_split(trunk or trunk_of(job), job.train, job, report, replaced)


def test_features_are_those_of_torchvisions_network(job):
    net = torchvision.models.resnet18()
    net.load_state_dict(job.backbone.tensors, strict=False)
    net.fc = torch.nn.Identity()
    mean, std = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
    with torch.no_grad():
        expected = []
        for image in job.train.images:  # 40 x 32: short side to 40, the centre of 32
            whole = Image.open(image["file_name"]).resize((50, 40), Image.Resampling.BILINEAR)
            part = (np.asarray(whole, np.float32)[4:36, 9:41] - mean) / std
            expected.append(net.eval()(torch.from_numpy(part).permute(2, 0, 1)[None])[0])
    torch.testing.assert_close(pooled(job).values, torch.stack(expected), rtol=1e-3, atol=1e-3)


def test_channels_come_in_the_backbones_order(job):
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    other = trunk_of(job, channel_order="BGR")
    torch.testing.assert_close(other(images), trunk_of(job)(images.flip(1)))


def test_the_trunk_is_bit_identical_after_use(job):
    trunk = trunk_of(job)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    trunk.train()
    pooled(job, trunk)
    after = trunk.state_dict()
    assert not trunk.training and not any(m.training for m in trunk.modules())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(name.endswith("running_mean") for name in before)
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


def test_features_that_are_kept_are_not_computed_again(job):
    counts = []
    first = pooled(job, report=lambda stage, done, total: counts.append(done))
    assert counts == [4, 8, 9]
    broken = trunk_of(job).requires_grad_(False)
    broken.trunk.stem.conv1.weight.zero_()
    again = pooled(job, broken)
    assert torch.equal(first.values, again.values) and first.images == again.images


def test_an_interrupted_extraction_goes_on_where_it_was(job):
    class Killed(Exception):
        pass

    def kill(stage, done, total):
        if done == 8:
            raise Killed

    whole = pooled(job).values.clone()
    for path in job.out.glob("features-*"):
        path.unlink()
    with pytest.raises(Killed):
        pooled(job, report=kill)
    counts = []
    resumed = pooled(job, report=lambda stage, done, total: counts.append(done))
    assert counts == [9] and torch.equal(resumed.values, whole)


def test_a_training_image_that_breaks_is_left_out_and_one_to_test_on_refused(job):
    broken = job.train.images[1]["file_name"]
    open(broken, "wb").close()
    replaced = Replaced(job.train, 9)
    found = features.of_split(trunk_of(job), job.train, job, silent, replaced)
    assert [i["id"] for i in found.images] == [1, *range(3, 10)] and len(found.values) == 8
    assert replaced.facts()["replaced"]["pictures"] == 1
    open(job.test.images[0]["file_name"], "wb").close()
    with pytest.raises(InputError, match="a test picture cannot be replaced"):
        features.of_split(trunk_of(job), job.test, job, silent, None)


def test_a_training_set_that_cannot_be_read_at_all_is_one_line(job):
    images = job.train.images[:4]
    for image in images:
        open(image["file_name"], "wb").close()
    train = replace(job.train, images=images)
    with pytest.raises(InputError, match="no image of 'train' can be read"):
        features.of_split(trunk_of(job), train, job, silent, Replaced(train, 4))
