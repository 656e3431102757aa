"""Checkpoints of vision transformers, ConvNeXt and Swin as other projects write them, beside the
maps of the network that wrote them.

Packages' networks are their own. For projects that no package holds, a network of timm is saved
under the project's names, which come from tables of their own here, not from the rows of LAYOUTS.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Maps = list[Tensor]


@dataclass(frozen=True)
class Case:
    """`make`: writes a checkpoint into a folder; returns it, images and the maps of the network.
    far: how far ours may be from them, where they sum in another order."""

    layout: str
    make: Callable[[Path], tuple[Path, Tensor, Maps]]
    said: str | None = None
    far: float = 0.0


def drawn(net: nn.Module) -> nn.Module:
    """A network in which every parameter matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.1, generator=generator)
    return net.eval()


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def grid(tokens: Tensor, extra: int = 1, shape: tuple[int, int] = (4, 4)) -> Tensor:
    """(1, tokens, channels) -> (1, channels, H, W), those before the patches left out."""
    return tokens[:, extra:].transpose(1, 2).unflatten(2, shape)


def renamed(state: Mapping[str, Tensor], *rules: tuple[str, str], prefix: str = "") -> dict:
    found = {}
    for name, tensor in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[prefix + name] = tensor
    return found


def some(*names: str) -> dict[str, Tensor]:
    """Tensors of heads and decoders; their numbers do not matter."""
    return {name: torch.ones(2, 3) for name in names}


def written(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


# --- packages -------------------------------------------------------------------------------------


def of_timm(arch: str, width: int = 64, height: int = 64, **more) -> Callable:
    def make(folder: Path):
        timm = pytest.importorskip("timm")
        net, x = drawn(timm.create_model(arch, **more)), images(height, width)
        stages = "img_size" not in more
        how = {"indices": None if stages else 1, "norm": not stages, "intermediates_only": True}
        with torch.no_grad():
            return written(net.state_dict(), folder), x, net.forward_intermediates(x, **how)

    return make


TINY = {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 64}
TOKENS = TINY | {"global_pool": "token"}
STAGES = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
WINDOWS = {"depths": (2, 1, 2, 1), "embed_dim": 32, "num_heads": (1, 2, 4, 8), "window_size": 2}


def timm_folder(folder: Path):
    """As timm's models lie on the Hugging Face hub."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    net = drawn(timm.create_model("test_vit", dynamic_img_size=False, img_size=64))
    save_file(net.state_dict(), folder / "model.safetensors")
    pixels = {"mean": [0.25, 0.5, 0.75], "std": [0.5, 0.5, 0.5]}
    config = {"architecture": "test_vit", "pretrained_cfg": pixels}
    (folder / "config.json").write_text(json.dumps(config))
    x, how = images(), {"indices": 1, "norm": True, "intermediates_only": True}
    with torch.no_grad():
        return folder, x, net.forward_intermediates(x, **how)


def torchvision_vit(folder: Path):
    from torchvision.models import VisionTransformer

    net, x = drawn(VisionTransformer(64, 16, 2, 2, 128, 256)), images()
    with torch.no_grad():
        tokens = torch.cat([net.class_token, net._process_input(x)], 1)
        return written(net.state_dict(), folder), x, [grid(net.encoder(tokens))]


def torchvision_convnext(folder: Path):
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [(8, 16, 1), (16, 24, 1), (24, 32, 2), (32, None, 1)]
    net = drawn(ConvNeXt([CNBlockConfig(*block) for block in blocks]))
    return written(net.state_dict(), folder), images(), list(_stages(net, images()))


def torchvision_swin(folder: Path):
    from torchvision.models import SwinTransformer

    net = drawn(SwinTransformer([4, 4], 32, [2, 1, 2, 1], [1, 2, 4, 8], [7, 7]))
    x = images(96, 160)  # no whole windows
    return written(net.state_dict(), folder), x, [m.permute(0, 3, 1, 2) for m in _stages(net, x)]


@torch.no_grad()
def _stages(net: nn.Module, x: Tensor):
    for number, part in enumerate(net.features):
        x = part(x)
        if number % 2:
            yield x


def of_transformers(kind: str, maps: Callable, saved: bool = True, **config) -> Callable:
    """kind: the model's class without `Model`, or with what it is for; maps: from a model and
    images; saved: as a folder in shards, else its state_dict in a file."""

    def make(folder: Path):
        transformers = pytest.importorskip("transformers")
        name = re.match(r".*?(?=For|VisionModel|Model)", kind)[0]
        build = getattr(transformers, f"{name}{'Vision' * ('VisionModel' in kind)}Config")
        net = drawn(getattr(transformers, kind)(build(**config)))
        x = images(*(config.get("image_size", 64),) * 2)
        with torch.no_grad():
            found = maps(net, x)
        if not saved:
            return written(net.state_dict(), folder), x, found
        net.save_pretrained(folder, max_shard_size="200KB")
        return folder, x, found

    return make


HF = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "image_size": 64,
    "patch_size": 16,
}
HF_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
TEXT = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 99}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DECODER = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}
DECODER |= {"decoder_num_attention_heads": 1, "decoder_intermediate_size": 64, "mask_ratio": 0.0}


def last(extra: int = 1, part: str = "") -> Callable:
    return lambda net, x: [grid(net.get_submodule(part)(x).last_hidden_state, extra)]


def before_norm(part: str = "") -> Callable:
    def maps(net, x):
        out = net.get_submodule(part)(x, output_hidden_states=True)
        return [grid(out.hidden_states[-1])]

    return maps


def hidden(net, x) -> Maps:
    return list(net(x, output_hidden_states=True).hidden_states[1:])


def mae_of_transformers(net, x) -> Maps:
    order = torch.arange(16.0)[None]
    return [grid(net.vit(x, noise=order).last_hidden_state)]


def clip_of_transformers(net, x) -> Maps:
    tower = getattr(net, "vision_model", net)
    return [grid(tower.post_layernorm(tower(x).last_hidden_state))]


def swin_of_transformers(net, x) -> Maps:
    """A stage's map is taken before it is halved."""
    found = []
    for stage in net.swin.encoder.layers:
        stage.blocks[-1].register_forward_hook(lambda _, __, out: found.append(out))
    net(x)
    tokens = [out[0] if isinstance(out, tuple) else out for out in found]
    side = [int(t.shape[1] ** 0.5) for t in tokens]
    return [grid(t, 0, (n, n)) for t, n in zip(tokens, side)]


def of_open_clip(
    towers: Mapping[str, Any], maps: Callable, quick: bool = False, side: int = 64
) -> Callable:
    def make(folder: Path):
        open_clip = pytest.importorskip("open_clip")
        text = open_clip.CLIPTextCfg(8, 99, width=64, heads=1, layers=1)
        vision = open_clip.CLIPVisionCfg(**towers)
        kind = open_clip.CustomTextCLIP if "timm_model_name" in towers else open_clip.CLIP
        net = drawn(kind(32, vision, text, quick_gelu=quick))
        with torch.no_grad():
            x = images(side, side)
            return written(net.state_dict(), folder), x, maps(net.visual, x)

    return make


OPEN_CLIP = {"layers": 2, "width": 128, "head_width": 64, "patch_size": 16, "image_size": 64}


def tokens_of_open_clip(visual, x) -> Maps:
    visual.output_tokens = True
    return [grid(visual(x)[1], 0)]


def trunk_of_open_clip(norm: bool) -> Callable:
    how = {"intermediates_only": True, "norm": norm, "indices": 1 if norm else None}
    return lambda visual, x: visual.trunk.forward_intermediates(x, **how)


# --- projects -------------------------------------------------------------------------------------


def of_project(
    arch: str, project: Callable[[dict], Any], module: str = "vision_transformer", **more
) -> Callable:
    """A checkpoint with `project(state)` of a network of timm, whose maps are those after timm
    itself has read what the project writes (`checkpoint_filter_fn`)."""

    def make(folder: Path):
        timm = pytest.importorskip("timm")
        from importlib import import_module

        stages = "img_size" not in more
        net = drawn(timm.create_model(arch, num_classes=0, **more))
        content = project(net.state_dict())
        path = written(content, folder)
        state = content
        for key in ("model", "state_dict", "teacher"):
            state = state.get(key, state)
        state = renamed(state, (r"^(module\.)?(backbone\.|base_encoder\.)?", ""))
        state = renamed(state, (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."))
        read = import_module(f"timm.models.{module}").checkpoint_filter_fn
        read = {name.replace("fc_norm", "norm"): value for name, value in read(state, net).items()}
        read = {name: value for name, value in read.items() if name in net.state_dict()}
        net.load_state_dict(read, strict=not stages)
        x = images(*(more.get("img_size", 64),) * 2)
        how = {"indices": None if stages else 1, "norm": not stages, "intermediates_only": True}
        with torch.no_grad():
            return path, x, net.forward_intermediates(x, **how)

    return make


def mae(state: dict) -> dict:
    decoder = ("decoder_embed.weight", "decoder_blocks.0.attn.qkv.weight", "decoder_pos_embed")
    return {"model": state | some("mask_token", *decoder, "decoder_pred.bias")}


def moco_v3(state: dict) -> dict:
    networks = renamed(state, prefix="module.base_encoder.")
    heads = ("base_encoder.head.0.weight", "predictor.0.weight", "momentum_encoder.head.0.weight")
    other = renamed(state, prefix="module.momentum_encoder.")
    return {"state_dict": networks | other | some(*(f"module.{name}" for name in heads))}


def dino(state: dict) -> dict:
    heads = some("head.mlp.0.weight", "head.last_layer.weight_g", "head.last_layer.weight_v")
    student = renamed(state | heads, (r"^(?!head)", "backbone."), prefix="module.")
    teacher = renamed(state | heads, (r"^(?!head)", "backbone."))
    return {"student": student, "teacher": teacher, "epoch": 100}


def ibot(state: dict) -> dict:
    found = dino(state)
    return found | {"student": found["student"] | some("module.backbone.masked_embed")}


def dinov2(state: dict) -> dict:
    return renamed(state, (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3")) | some("mask_token")


def dinov2_hub(state: dict) -> dict:
    return state | some("mask_token")


def dinov2_trained(state: dict) -> dict:
    """Blocks in groups of two, as FSDP wraps them."""
    inner = renamed(state, (r"blocks\.(\d+)", r"blocks.0.\1"), prefix="backbone.")
    return {"teacher": inner | some("backbone.mask_token", "dino_head.mlp.0.weight")}


def dinov2_registers(state: dict) -> dict:
    found = renamed(state, (r"^reg_token", "register_tokens"))
    first = torch.full_like(found["cls_token"], 0.25)
    found["pos_embed"] = torch.cat([first, found["pos_embed"]], 1)
    return found | some("mask_token")


def dinov3(state: dict) -> dict:
    rules = ((r"^reg_token", "storage_tokens"), (r"gamma_(\d)", r"ls\1.gamma"))
    gated = (
        (r"fc1_g", "w1"),
        (r"fc1_x", "w2"),
        *(((r"fc2", "w3"),) if any("fc1_g" in n for n in state) else ()),
    )
    found = renamed(state, *rules, *gated)
    for name in [name for name in found if name.endswith("attn.q_bias")]:
        before = name.removesuffix("q_bias")
        query, value = found.pop(name), found.pop(f"{before}v_bias")
        found[f"{before}qkv.bias"] = torch.cat([query, torch.full_like(query, 7.0), value])
        mask = [torch.full_like(query, on) for on in (1.0, 0.0, 1.0)]
        found[f"{before}qkv.bias_mask"] = torch.cat(mask)
    return found | some("mask_token", "rope_embed.periods", "local_cls_norm.weight")


def eva02(state: dict) -> dict:
    rules = (
        (r"mlp\.norm", "mlp.ffn_ln"),
        (r"attn\.norm", "attn.inner_attn_ln"),
        (r"([qv])_proj\.bias", r"\1_bias"),
        (r"mlp\.fc1_g", "mlp.w1"),
        (r"mlp\.fc1_x", "mlp.w2"),
        (r"mlp\.fc2", "mlp.w3"),
    )
    beside = some("mask_token", "lm_head.weight", "rope.freqs_cos", "blocks.0.attn.rope.freqs_sin")
    return {"model": renamed(state, *rules) | beside}


def eva02_small(state: dict) -> dict:
    return {
        "model": renamed(state, (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))
        | some("mask_token")
    }


def beit(state: dict) -> dict:
    index = {"blocks.0.attn.relative_position_index": torch.zeros(17, 17, dtype=torch.long)}
    return {"model": state | index | some("mask_token", "lm_head.weight")}


def convnext(state: dict) -> dict:
    rules = (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample", r"downsample_layers.\1"),
        (r"^(stages\.\d)\.blocks", r"\1"),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc(\d)", r"pwconv\1"),
        (r"mlp\.grn\.weight", "grn.gamma"),
        (r"mlp\.grn\.bias", "grn.beta"),
        (r"^head\.norm", "norm"),
    )
    found = renamed(state, *rules)
    linear = {k: v.flatten(1) for k, v in found.items() if "pwconv" in k and v.ndim == 4}
    scales = {k: v.view(1, 1, 1, -1) for k, v in found.items() if ".grn." in k}
    return {"model": found | linear | scales | {"head.weight": torch.ones(2, 32)}}


def swin(state: dict) -> dict:
    found = {}
    for name, tensor in state.items():
        if later := re.match(r"layers\.(\d)\.downsample", name):
            name = f"layers.{int(later[1]) - 1}{name[8:]}"
        found[name] = tensor
    index = {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long)
    }
    return {"model": found | index | some("head.weight", "layers.0.blocks.1.attn_mask")}
