"""Public checkpoints of vision transformers, ConvNeXt and Swin, from the projects' own pages."""

from ..known import APACHE, BSD, META, MIT, NC, TORCH, Known

HF = "https://huggingface.co"
IBOT = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot"
SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
DINOV3 = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
DINOV3_LICENCE = "DINOv3 License, on request"
SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}


def _mae(size: str, patch: int, epochs: int = 1600) -> Known:
    url = f"{META}/mae/pretrain/mae_pretrain_vit_{SIZES[size]}.pth"
    arch = f"vit_{SIZES[size]}_patch{patch}_224"
    return Known(f"mae-vit{size}{patch}", "mae", epochs, "plain-vit", url, NC, arch=arch)


def _moco(size: str) -> Known:
    url = f"{META}/moco-v3/vit-{size}-300ep/vit-{size}-300ep.pth.tar"
    arch = f"vit_{SIZES[size]}_patch16_224"
    return Known(f"moco-v3-vit{size}16", "moco-v3", 300, "moco-v3-vit", url, NC, arch=arch)


def _dino(size: str, patch: int, file: str, epochs: int) -> Known:
    url = f"{META}/dino/{file}_pretrain/{file}_pretrain.pth"
    arch = f"vit_{SIZES[size]}_patch16_224"
    name = f"dino-vit{size}{patch}"
    return Known(name, "dino", epochs, "bare-dino-vit", url, APACHE, arch=arch)


def _ibot(size: str, epochs: int) -> Known:
    name, url = f"ibot-vit{size}16", f"{IBOT}/vit{size}_16/checkpoint_teacher.pth"
    arch = f"vit_{SIZES[size]}_patch16_224"
    # many files have that name: a copy is known by the row's
    return Known(name, "ibot", epochs, "bare-dino-vit", url, APACHE, arch=arch)


def _dinov2(size: str, registers: bool) -> Known:
    file = f"dinov2_vit{size}14" + ("_reg4" if registers else "")
    url = f"{META}/dinov2/dinov2_vit{size}14/{file}_pretrain.pth"
    arch = f"vit_{SIZES[size]}_patch14{'_reg4' if registers else ''}_dinov2"
    name = f"dinov2-vit{size}14" + ("-reg" if registers else "")
    layout = "dinov2-registers" if registers else "dinov2"
    return Known(name, "dinov2", 0, layout, url, APACHE, arch=arch)


def _dinov3(
    name: str, digest: str, arch: str, layout: str = "dinov3", data: str = "lvd1689m"
) -> Known:
    file = f"dinov3_{name}_pretrain_{data}-{digest}.pth"
    own = f"dinov3-{name.replace('_', '-')}" + ("" if data == "lvd1689m" else "-sat")
    return Known(own, "dinov3", 0, layout, DINOV3, DINOV3_LICENCE, digest, arch, by_hand=file)


def _torchvision(arch: str, digest: str, layout: str, name: str, epochs: int) -> Known:
    url = f"{TORCH}/{arch}-{digest}.pth"
    own = f"torchvision-{arch.replace('_', '-')}"
    return Known(own, "supervised", epochs, f"torchvision-{layout}", url, BSD, digest, name)


def _hub(name: str, method: str, layout: str, repository: str, licence: str, arch: str) -> Known:
    url = f"{HF}/{repository}/resolve/main/model.safetensors"
    return Known(name, method, 0, layout, url, licence, arch=arch)


def _convnext(size: str) -> Known:
    name, url = f"convnext-{size}", f"{META}/convnext/convnext_{size}_1k_224_ema.pth"
    return Known(name, "supervised", 300, "original-convnext", url, MIT, arch=f"convnext_{size}")


def _swin(size: str) -> Known:
    arch = f"swin_{size}_patch4_window7_224"
    url = f"{SWIN}/{arch}.pth"
    return Known(f"swin-{size}", "supervised", 300, "original-swin", url, MIT, arch=arch)


def _eva(letter: str, file: str, epochs: int) -> Known:
    size = SIZES.get(letter.lower(), "tiny")
    url = f"{HF}/Yuxin-CV/EVA-02/resolve/main/eva02/pt/{file}.pt"
    layout = "eva02" if size in ("base", "large") else "eva02-small"
    arch = f"eva02_{size}_patch14_224"
    return Known(f"eva02-{size}", "eva02", epochs, layout, url, MIT, arch=arch)


OTHERS = (
    _mae("b", 16),
    _mae("l", 16),
    _mae("h", 14),
    _moco("s"),
    _moco("b"),
    _dino("s", 16, "dino_deitsmall16", 800),
    _dino("s", 8, "dino_deitsmall8", 800),
    _dino("b", 16, "dino_vitbase16", 400),
    _dino("b", 8, "dino_vitbase8", 300),
    _ibot("s", 800),
    _ibot("b", 400),
    _ibot("l", 250),
    *(_dinov2(size, registers) for registers in (False, True) for size in "sblg"),
    _dinov3("vits16", "08c60483", "vit_small_patch16_dinov3_qkvb"),
    _dinov3("vits16plus", "4057cbaa", "vit_small_plus_patch16_dinov3_qkvb", "dinov3-gated"),
    _dinov3("vitb16", "73cec8be", "vit_base_patch16_dinov3_qkvb"),
    _dinov3("vitl16", "8aa4cbdd", "vit_large_patch16_dinov3_qkvb"),
    _dinov3("vitl16", "eadcf0ff", "vit_large_patch16_dinov3_qkvb", data="sat493m"),
    _dinov3("vith16plus", "7c1da9a5", "vit_huge_plus_patch16_dinov3_qkvb", "dinov3-gated"),
    _dinov3("convnext_tiny", "21b726bb", "convnext_tiny", "original-convnext"),
    _dinov3("convnext_small", "296db49d", "convnext_small", "original-convnext"),
    _dinov3("convnext_base", "801f2ba9", "convnext_base", "original-convnext"),
    _dinov3("convnext_large", "61fa432d", "convnext_large", "original-convnext"),
    _eva("B", "eva02_B_pt_in21k_p14", 150),
    _hub(
        "clip-vitb16",
        "clip",
        "hugging-face-clip",
        "openai/clip-vit-base-patch16",
        MIT,
        "vit_base_patch16_clip_224",
    ),
    _hub(
        "clip-vitl14",
        "clip",
        "hugging-face-clip",
        "openai/clip-vit-large-patch14",
        MIT,
        "vit_large_patch14_clip_224",
    ),
    _hub(
        "siglip-vitb16",
        "siglip",
        "hugging-face-siglip",
        "google/siglip-base-patch16-224",
        APACHE,
        "vit_base_patch16_siglip_224",
    ),
    _hub(
        "augreg-vitb16",
        "supervised",
        "timm-vit",
        "timm/vit_base_patch16_224.augreg_in21k",
        APACHE,
        "vit_base_patch16_224",
    ),
    _hub(
        "hugging-face-beit-base",
        "beit",
        "hugging-face-beit",
        "microsoft/beit-base-patch16-224-pt22k",
        APACHE,
        "beit_base_patch16_224",
    ),
    *(_convnext(size) for size in ("tiny", "small", "base", "large")),
    *(_swin(size) for size in ("tiny", "small")),
    _torchvision("vit_b_16", "c867db91", "vit", "vit_base_patch16_224", 300),
    _torchvision("vit_l_16", "852ce7e3", "vit", "vit_large_patch16_224", 0),
    _torchvision("convnext_tiny", "983f1562", "convnext", "convnext_tiny", 600),
    _torchvision("convnext_base", "6075fbad", "convnext", "convnext_base", 600),
    _torchvision("swin_t", "704ceda3", "swin", "swin_tiny_patch4_window7_224", 300),
    _torchvision("swin_s", "5e29d889", "swin", "swin_small_patch4_window7_224", 300),
    _torchvision("swin_b", "68c6b09e", "swin", "swin_base_patch4_window7_224", 300),
)
