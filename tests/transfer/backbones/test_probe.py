"""The dense probe against naive labels, a planted signal, and the closed form of ridge."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detco.benchmarks.cli.main import main
from detco.common import backbone_file
from detco.common.errors import InputError
from detco.transfer.backbones import probe
from detco.transfer.data import dataset
from detco.transfer.engines.torchvision.trunks import load_resnet


def test_labels_are_those_of_the_smallest_box_around_each_position(scenes):
    data = dataset.load("coco", scenes / "coco", "val")
    found = probe.grid_labels(data, data.images)
    ids = [category["id"] for category in data.categories]
    for image, row in zip(data.images, found, strict=True):
        own = [one for one in data.annotations if one["image_id"] == image["id"]]
        expected = []
        for y in range(8, 128, 16):
            for x in range(8, 128, 16):
                px, py = x * image["width"] / 128, y * image["height"] / 128
                around = []
                for one in own:
                    left, top, width, height = one["bbox"]
                    if left <= px < left + width and top <= py < top + height:
                        around.append((width * height, 1 + ids.index(one["category_id"])))
                expected.append(min(around)[1] if around else 0)
        assert row.tolist() == expected
    assert len(np.unique(found)) > 3


def test_features_are_the_networks_own_at_each_position():
    backbone = replace(backbone_file.random_backbone("resnet18", 0), channel_order="BGR")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    found = probe.grid_features(backbone, pixels)
    net = load_resnet(backbone).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    x = (torch.from_numpy(pixels[..., ::-1].copy()).permute(0, 3, 1, 2).float() - mean) / std
    with torch.no_grad():
        y = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))
    # position 11 lies in the second row of the grid, fourth column: at (24, 56), cell (3, 7)
    assert np.allclose(found["res3"][1, 11], y[1, :, 3, 7].numpy(), atol=1e-4)
    assert [found[level].shape for level in found] == [(2, 64, c) for c in (64, 128, 256, 512)]


def test_a_planted_signal_is_found_and_noise_is_chance():
    draw = np.random.default_rng(0)
    labels = draw.choice(4, (40, 64), p=[0.7, 0.1, 0.1, 0.1])
    noise = draw.normal(size=(40, 64, 8))
    signal = noise + 6 * np.eye(4, 8)[labels]

    def accuracy(x):
        return probe.balanced_accuracy(x[::2], labels[::2], x[1::2], labels[1::2])

    assert accuracy(signal) > 97
    assert accuracy(noise) == pytest.approx(25, abs=5)


def test_ridge_is_least_squares_with_rows_for_the_penalty():
    """Against numpy's lstsq: weighted rows, and one row of sqrt(penalty) a channel."""
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(50, 3)) * [1, 2, 3] + 5, np.arange(50) % 5 // 2
    weights, mean, std = probe.ridge(x, y)
    z = np.concatenate([(x - mean) / std, np.ones((50, 1))], 1)
    root = np.sqrt(50 / (3 * np.bincount(y)[y]))[:, None]
    rows = np.concatenate([root * z, np.sqrt(probe.RIDGE) * np.eye(4)[:3]])
    target = np.concatenate([root * np.eye(3)[y], np.zeros((3, 3))])
    assert np.allclose(weights, np.linalg.lstsq(rows, target, rcond=None)[0])


def test_the_command_compares_with_random_weights(scenes, tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    backbone_file.write(path, backbone_file.random_backbone("resnet18", 0))
    words = ["weights", "probe", str(path), "--data", str(scenes / "voc")]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    own, random = lines[1].split(), lines[2].split()
    assert own[1:] == random[2:] and len(own) == 6  # the same weights
    assert "split 'trainval'; chance: " in lines[-1]


def test_too_few_images_are_refused(scenes):
    data = dataset.load("coco", scenes / "coco", "val")
    few = replace(data, images=data.images[:3])
    with pytest.raises(InputError, match="at least 4 images"):
        probe.dense_probe([], few)
