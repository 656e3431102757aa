"""Attention maps: the mean over channels computed once more by hand; upright, stretched, refused
where it makes no sense."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from detco.benchmarks.cli import main as cli
from detco.common import backbone_file
from detco.common.errors import InputError
from detco.results.report import attention as drawing
from detco.results.report.examples import Box, iou, matched
from detco.transfer.backbones import attention


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture(scope="module")
def backbone():
    return backbone_file.random_backbone("resnet18", 3)


def test_map_is_the_mean_of_the_channels(picture, backbone):
    """The same in torchvision's own words, without the project's trunk: (90, 150) -> 64 x 107 ->
    res4 -> (90, 150)."""
    (found,) = attention.maps(backbone, [picture], "res4", 64)
    net = torchvision.models.resnet18()
    net.load_state_dict(net.state_dict() | backbone.tensors)
    net.eval()
    small = Image.open(picture).resize((107, 64), Image.Resampling.BILINEAR)
    batch = torchvision.transforms.functional.to_tensor(small)
    batch = torchvision.transforms.functional.normalize(
        batch, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )[None]
    with torch.inference_mode():
        features = net.layer3(
            net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(batch))))))
        )
        full = torch.nn.functional.interpolate(
            features.mean(1, keepdim=True), (90, 150), mode="bilinear"
        )[0, 0].numpy()
    expected = (full - full.min()) / (full.max() - full.min())
    assert found.shape == (90, 150) and found.dtype == np.float32
    assert (found.min(), found.max()) == (0, 1) and np.abs(found - expected).max() < 1e-3


def test_channel_order_and_statistics_come_with_the_weights(picture, backbone):
    from dataclasses import replace

    swapped = backbone.tensors | {"conv1.weight": backbone.tensors["conv1.weight"].flip(1)}
    bgr = replace(
        backbone,
        tensors=swapped,
        channel_order="BGR",
        mean=backbone.mean[::-1],
        std=backbone.std[::-1],
    )
    (plain,), (other,) = (
        attention.maps(backbone, [picture], "res3", 64),
        attention.maps(bgr, [picture], "res3", 64),
    )
    assert np.abs(plain - other).max() < 1e-4


def test_refusals(picture, backbone, tmp_path):
    with pytest.raises(InputError, match="unknown level 'res6'"):
        attention.maps(backbone, [picture], "res6")
    with pytest.raises(InputError, match="16 pixels leave nothing at res5"):
        attention.maps(backbone, [picture], "res5", 16)
    (tmp_path / "b.png").write_bytes(picture.read_bytes()[:100])
    with pytest.raises(InputError, match=r"b\.png"):
        attention.maps(backbone, [tmp_path / "b.png"])


def test_overlay_goes_from_dark_to_bright():
    heat = np.linspace(0, 1, 11)[None].repeat(4, 0)
    made = np.asarray(drawing.overlay(Image.new("RGB", (11, 4), (100, 100, 100)), heat)).astype(
        float
    )
    brightness = made.mean(2)[0]
    assert (np.diff(brightness) > 0).all()
    assert made[0, 0] == pytest.approx(0.6 * np.array([68, 1, 84]) + 0.4 * 100, abs=0.51)
    assert made[0, -1] == pytest.approx(0.6 * np.array([253, 231, 37]) + 0.4 * 100, abs=0.51)


def test_command_draws_every_picture_for_every_backbone(tmp_path, picture, backbone, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        backbone_file.write(tmp_path / name / "backbone.safetensors", backbone)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").write_bytes(picture.read_bytes())
    out = tmp_path / "maps.png"
    words = [
        "attention",
        "--weights",
        *(str(tmp_path / name / "backbone.safetensors") for name in ("one", "two")),
        "random",
    ]
    assert (
        cli.main(
            [
                *words,
                "--images",
                str(tmp_path / "photos"),
                str(picture),
                "--most",
                "2",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    sheet = np.asarray(Image.open(out).convert("RGB")).astype(int)
    rows, columns = 3, 4
    assert sheet.shape[0] == 2 * drawing.TITLE + rows * (drawing.HEIGHT + drawing.GAP)
    wide = (sheet.shape[1] - drawing.GAP) // columns
    top = sheet[drawing.TITLE : drawing.TITLE + drawing.HEIGHT]
    panels = [top[:, drawing.GAP + n * wide : drawing.GAP + (n + 1) * wide] for n in range(columns)]
    # two copies of one file
    assert (panels[1] == panels[2]).all() and np.abs(panels[1] - panels[0]).mean() > 5
    assert [path.name for path in tmp_path.glob(".maps*")] == []
    for more, text in (
        (["--out", "maps.xyz"], "name a picture file"),
        (["--most", "0", "--out", str(out)], "--most"),
    ):
        assert cli.main([*words, "--images", str(picture), *more]) == 2
        assert text in capsys.readouterr().err


def test_detections_are_right_once_on_an_object_of_their_class():
    truth = [Box(0, 0, 10, 10, "dog"), Box(20, 0, 10, 10, "cat")]
    found = [
        Box(0, 0, 10, 8, "dog", 0.9),
        Box(1, 0, 10, 10, "dog", 0.8),
        Box(20, 0, 10, 10, "dog", 0.7),
        Box(22, 5, 10, 10, "cat", 0.6),
        Box(20, 0, 10, 10, "cat", 0.4),
    ]
    assert [(box.score, box.right) for box in matched(truth, found)] == [
        (0.9, True),
        (0.8, False),
        (0.7, False),
        (0.6, False),
    ]
    assert iou(truth[0], found[0]) == pytest.approx(0.8) and iou(truth[0], truth[1]) == 0
    assert iou(Box(0, 0, 4, 4, ""), Box(2, 2, 4, 4, "")) == pytest.approx(4 / 28)


def test_large_pictures_are_reduced_and_their_maps_fit(tmp_path, monkeypatch):
    """Their map is that of the picture at the smaller size; a small one stays as it is."""
    monkeypatch.setattr(attention, "MOST", 40 * 30)
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[:, 60:] = 255
    Image.fromarray(pixels).save(tmp_path / "large.png")
    Image.fromarray(pixels[:30, :40]).save(tmp_path / "small.png")
    large, small = (attention.read(tmp_path / f"{name}.png") for name in ("large", "small"))
    assert large.size == small.size == (40, 30)
    assert np.array_equal(np.asarray(large), pixels[::3, ::3])  # blocks of 3 x 3 alike
    backbone = backbone_file.random_backbone("resnet18", 0)
    (heat,) = attention.maps(backbone, [tmp_path / "large.png"], "res3", 64)
    assert heat.shape == (30, 40)
    assert drawing.overlay(Image.fromarray(pixels), heat).size == (40, 30)


def test_a_small_file_of_very_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """JPEGs are reduced by their decoder instead."""
    monkeypatch.setattr(attention, "DECODED", 40 * 30)
    for suffix in ("png", "jpg"):
        Image.new("RGB", (120, 60), "red").save(tmp_path / f"large.{suffix}")
    broken = (tmp_path / "large.png").read_bytes()[:-60]  # decoding it would fail otherwise
    (tmp_path / "large.png").write_bytes(broken)
    with pytest.raises(InputError, match=r"large\.png: .*megapixels.*reduce it"):
        attention.read(tmp_path / "large.png")
    picture = attention.read(tmp_path / "large.jpg")
    assert picture.size == (30, 15)  # a quarter: half would have 1800 pixels
    assert np.abs(np.asarray(picture).astype(int) - (255, 0, 0)).max() < 4


def test_a_strip_of_a_picture_makes_no_endless_figure():
    strip, heat = Image.new("RGB", (40_000, 1)), np.zeros((1, 40_000), np.float32)
    sheet = drawing.figure([strip], {"one": [heat]}, "res5")
    assert sheet.width == drawing.GAP + 2 * (drawing.WIDEST + drawing.GAP)
