"""A checkpoint of each layout of vision transformers, ConvNeXt and Swin."""

from .foreign import (
    DECODER,
    HF,
    HF_STAGES,
    OPEN_CLIP,
    STAGES,
    TEXT,
    TINY,
    TOKENS,
    WINDOWS,
    Case,
    before_norm,
    beit,
    clip_of_transformers,
    convnext,
    dino,
    dinov2,
    dinov2_hub,
    dinov2_registers,
    dinov2_trained,
    dinov3,
    eva02,
    eva02_small,
    hidden,
    ibot,
    last,
    mae,
    mae_of_transformers,
    moco_v3,
    of_open_clip,
    of_project,
    of_timm,
    of_transformers,
    swin,
    swin_of_transformers,
    timm_folder,
    tokens_of_open_clip,
    torchvision_convnext,
    torchvision_swin,
    torchvision_vit,
    trunk_of_open_clip,
)

D3 = {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 64}
P14 = {"img_size": 56}
CASES = {
    "timm, a ViT": Case("plain-vit", of_timm("vit_tiny_patch16_224", **TINY)),
    "timm, Google's": Case("timm-vit", of_timm("vit_tiny_patch16_224", **TINY), "timm-vit"),
    "timm, a hub's folder": Case("plain-vit", timm_folder),
    "timm, DINOv2": Case("timm-dinov2", of_timm("vit_small_patch14_dinov2", 56, 56, **TINY | P14)),
    "timm, registers": Case(
        "timm-dinov2-registers", of_timm("vit_small_patch14_reg4_dinov2", 56, 56, **TINY | P14)
    ),
    "timm, DINOv3": Case("timm-dinov3", of_timm("vit_small_patch16_dinov3_qkvb", **TOKENS)),
    "timm, EVA-02": Case("eva02", of_timm("eva02_base_patch14_224", 56, 56, **TOKENS | P14)),
    "timm, BEiT": Case("beit", of_timm("beit_base_patch16_224", **TOKENS)),
    "timm, ConvNeXt": Case("timm-convnext", of_timm("convnext_tiny", **STAGES)),
    "timm, Swin": Case(
        "timm-swin",
        of_timm("swin_tiny_patch4_window7_224", **WINDOWS, strict_img_size=False),
        far=1e-5,
    ),
    "torchvision, ViT": Case("torchvision-vit", torchvision_vit, far=1e-6),
    "torchvision, ConvNeXt": Case("torchvision-convnext", torchvision_convnext),
    "torchvision, Swin": Case("torchvision-swin", torchvision_swin),
    "transformers, ViT": Case(
        "hugging-face-vit", of_transformers("ViTForImageClassification", last(part="vit"), **HF)
    ),
    "transformers, ViT in memory": Case(
        "hugging-face-vit", of_transformers("ViTModel", last(), False, **HF, layer_norm_eps=1e-12)
    ),
    "transformers, MAE": Case(
        "hugging-face-mae",
        of_transformers("ViTMAEForPreTraining", mae_of_transformers, **HF, **DECODER),
    ),
    "transformers, DINOv2": Case(
        "hugging-face-dinov2", of_transformers("Dinov2Model", last(), **HF)
    ),
    "transformers, DINOv2 gated": Case(
        "hugging-face-dinov2", of_transformers("Dinov2Model", last(), **HF, use_swiglu_ffn=True)
    ),
    "transformers, registers": Case(
        "hugging-face-dinov2-registers", of_transformers("Dinov2WithRegistersModel", last(5), **HF)
    ),
    "transformers, DINOv3": Case(
        "hugging-face-dinov3",
        of_transformers("DINOv3ViTModel", last(5), **HF, num_register_tokens=4),
        far=1e-6,
    ),
    "transformers, DINOv3 gated": Case(
        "hugging-face-dinov3-gated",
        of_transformers(
            "DINOv3ViTModel",
            last(5),
            **HF | {"intermediate_size": 512},
            num_register_tokens=4,
            use_gated_mlp=True,
            hidden_act="silu",
        ),
        far=1e-6,
    ),
    "transformers, BEiT": Case(
        "hugging-face-beit",
        of_transformers("BeitModel", before_norm(), **HF, use_relative_position_bias=True),
    ),
    "transformers, BEiT pretraining": Case(
        "hugging-face-beit",
        of_transformers(
            "BeitForMaskedImageModeling",
            before_norm("beit"),
            **HF,
            use_shared_relative_position_bias=True,
            use_mask_token=True,
        ),
        far=2e-6,
    ),
    "transformers, CLIP": Case(
        "hugging-face-clip",
        of_transformers("CLIPModel", clip_of_transformers, vision_config=HF, text_config=TEXT),
    ),
    "transformers, CLIP's tower": Case(
        "hugging-face-clip",
        of_transformers("CLIPVisionModel", clip_of_transformers, **HF, hidden_act="gelu"),
    ),
    "transformers, SigLIP": Case(
        "hugging-face-siglip",
        of_transformers("SiglipModel", last(0, "vision_model"), vision_config=HF, text_config=TEXT),
    ),
    "transformers, ConvNeXt": Case(
        "hugging-face-convnext", of_transformers("ConvNextModel", hidden, **HF_STAGES)
    ),
    "transformers, ConvNeXt V2": Case(
        "hugging-face-convnext", of_transformers("ConvNextV2Model", hidden, **HF_STAGES), far=1e-6
    ),
    "transformers, DINOv3 ConvNeXt": Case(
        "hugging-face-convnext", of_transformers("DINOv3ConvNextModel", hidden, **HF_STAGES)
    ),
    "transformers, Swin": Case(
        "hugging-face-swin",
        of_transformers(
            "SwinForImageClassification",
            swin_of_transformers,
            image_size=64,
            window_size=2,
            depths=[2, 1, 2, 1],
            embed_dim=32,
            num_heads=[1, 2, 4, 8],
        ),
        far=1e-5,
    ),
    "open_clip": Case("open-clip", of_open_clip(OPEN_CLIP, tokens_of_open_clip), far=1e-6),
    "open_clip, QuickGELU": Case(
        "open-clip-quickgelu",
        of_open_clip(OPEN_CLIP, tokens_of_open_clip, True),
        "open-clip-quickgelu",
        far=1e-6,
    ),
    "open_clip, SigLIP": Case(
        "open-clip-siglip",
        of_open_clip(
            {
                "timm_model_name": "vit_tiny_patch16_224",
                "timm_pool": "map",
                "timm_proj": "none",
                "image_size": 64,
            },
            trunk_of_open_clip(True),
            side=224,
        ),
    ),
    "open_clip, ConvNeXt": Case(
        "timm-convnext",
        of_open_clip(
            {
                "timm_model_name": "convnext_atto",
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": 64,
            },
            trunk_of_open_clip(False),
        ),
    ),
    "MAE": Case("mae", of_project("vit_tiny_patch16_224", mae, **TINY)),
    "MAE, the encoder": Case(
        "plain-vit", of_project("vit_tiny_patch16_224", lambda s: {"model": s}, **TINY)
    ),
    "MoCo v3": Case("moco-v3-vit", of_project("vit_small_patch16_224", moco_v3, **TINY)),
    "DINO": Case("dino-vit", of_project("vit_small_patch16_224", dino, **TINY)),
    "DINO, the backbone": Case(
        "bare-dino-vit", of_project("vit_small_patch16_224", dict, **TINY), "bare-dino-vit"
    ),
    "iBOT": Case("ibot", of_project("vit_small_patch16_224", ibot, **TINY)),
    "DINOv2": Case("dinov2", of_project("vit_small_patch14_dinov2", dinov2_hub, **TINY | P14)),
    "DINOv2 in training": Case(
        "dinov2", of_project("vit_small_patch14_dinov2", dinov2_trained, **TINY | P14)
    ),
    "DINOv2 gated": Case("dinov2", of_project("vit_giant_patch14_dinov2", dinov2, **TINY | P14)),
    "DINOv2 with registers": Case(
        "dinov2-registers",
        of_project("vit_small_patch14_reg4_dinov2", dinov2_registers, **TINY | P14),
    ),
    "DINOv3": Case("dinov3", of_project("vit_small_patch16_dinov3_qkvb", dinov3, "eva", **D3)),
    "DINOv3 gated": Case(
        "dinov3-gated", of_project("vit_small_plus_patch16_dinov3_qkvb", dinov3, "eva", **D3)
    ),
    "EVA-02": Case("eva02", of_project("eva02_base_patch14_224", eva02, "eva", **TOKENS | P14)),
    "EVA-02 small": Case(
        "eva02-small", of_project("eva02_small_patch14_224", eva02_small, "eva", **TOKENS | P14)
    ),
    "BEiT": Case("beit", of_project("beit_base_patch16_224", beit, "beit", **TOKENS)),
    "ConvNeXt": Case(
        "original-convnext", of_project("convnext_tiny", convnext, "convnext", **STAGES)
    ),
    "ConvNeXt V2": Case(
        "original-convnext", of_project("convnextv2_tiny", convnext, "convnext", **STAGES), far=1e-6
    ),
    "Swin": Case(
        "original-swin",
        of_project(
            "swin_tiny_patch4_window7_224",
            swin,
            "swin_transformer",
            **WINDOWS,
            strict_img_size=False,
        ),
        far=1e-5,
    ),
}
