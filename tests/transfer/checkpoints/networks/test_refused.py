"""Files that hold something else than a network for images, or half of one: one clear line."""

import json

import pytest
import torch

from detco.common import backbone_file
from detco.common.errors import InputError
from detco.transfer.checkpoints import importer

pytest.importorskip("timm")
TINY = {"embed_dim": 64, "depth": 1, "num_heads": 1, "img_size": 32}


@pytest.fixture(scope="module")
def state() -> dict:
    return backbone_file.random_backbone("vit_tiny_patch16_224", 0, TINY).tensors


def ones(*names: str) -> dict:
    return {name: torch.ones(2, 3) for name in names}


DAMAGED = {
    "a text tower alone": (
        lambda s: ones("text_model.embeddings.token_embedding.weight"),
        "holds a text encoder, and no network for images",
    ),
    "a decoder alone": (
        lambda s: ones("decoder.layers.0.weight", "decoder_embed.weight"),
        "holds a decoder, and no encoder",
    ),
    "a head for segmentation alone": (
        lambda s: ones("decode_head.conv_seg.weight"),
        "holds a head for segmentation, and no network below it",
    ),
    "a head for segmentation beside it": (
        lambda s: {f"backbone.{k}": v for k, v in s.items()} | ones("decode_head.conv_seg.weight"),
        r"plain-vit does not explain: decode_head.conv_seg.weight; --prefix backbone",
    ),
    "unknown tensors": (
        lambda s: s | ones("blocks.0.adapter.weight"),
        r"vit_base_patch16_224 has no place for .*: blocks.0.adapter.weight",
    ),
    "one block without its norm": (
        lambda s: {k: v for k, v in s.items() if k != "blocks.0.norm2.bias"},
        "does not hold a whole vit_base_patch16_224: blocks.0.norm2.bias is missing",
    ),
    "8 bits": (
        lambda s: s | {"blocks.0.attn.qkv.weight": torch.ones(192, 64, dtype=torch.int8)},
        r"is quantised: blocks.0.attn.qkv.weight is int8; save the network in 16 or 32 bits",
    ),
    "packed 4 bits": (
        lambda s: s | {"blocks.0.attn.qkv.weight": torch.ones(6144, 1, dtype=torch.uint8)},
        "is quantised: blocks.0.attn.qkv.weight is uint8",
    ),
    "positions of no square": (
        lambda s: s | {"pos_embed": torch.ones(1, 7, 64)},
        "has 7 positions, which are no square grid",
    ),
    "an odd width": (
        lambda s: s | {"patch_embed.proj.weight": torch.ones(50, 3, 16, 16)},
        "has a width of 50: its number of attention heads cannot be told",
    ),
    "numbers that are none": (
        lambda s: s | {"norm.bias": torch.full((64,), torch.nan)},
        "norm.bias is not finite",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_one_line_says_what_is_wrong(name, state, tmp_path):
    damage, says = DAMAGED[name]
    torch.save(damage(dict(state)), tmp_path / "a.pth")
    with pytest.raises(InputError, match=says) as error:
        importer.load(tmp_path / "a.pth")
    assert str(error.value).count(str(tmp_path)) == 1 and "\n" not in str(error.value)


def test_half_precision_is_read(state, tmp_path):
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "a.pth")
    read, _ = importer.load(tmp_path / "a.pth")
    assert all(torch.equal(read.tensors[name], state[name].half().float()) for name in state)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "has a broken config.json beside it"),
        ({"hidden_act": "relu"}, "activation relu; known: gelu"),
        ({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.0] * 3}}, "mean and std of pixels"),
        ({"architecture": "vit_none"}, "unknown backbone architecture 'vit_none'"),
    ],
)
def test_configs_that_cannot_be_are_refused(config, says, state, tmp_path):
    torch.save(state, tmp_path / "a.pth")
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=says):
        importer.load(tmp_path / "a.pth")


def test_a_text_tower_beside_it_is_counted_as_dropped(state, tmp_path):
    towers = {f"visual.trunk.{name}": tensor for name, tensor in state.items()}
    torch.save(towers | ones("text.token_embedding.weight", "logit_scale"), tmp_path / "a.pth")
    read, report = importer.load(tmp_path / "a.pth")
    assert (report.layout.name, read.method) == ("open-clip-siglip", "siglip")
    assert sum(report.dropped.values()) == 2


def test_what_no_tensor_tells_is_said(state, tmp_path):
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    _, report = importer.load(tmp_path / "a.pth")
    notes = " ".join(report.notes)
    assert "ImageNet's mean and std are assumed" in notes and "1 attention heads" in notes
    assert "bare-dino-vit look the same" in notes
