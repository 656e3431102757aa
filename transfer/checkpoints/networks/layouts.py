"""How other projects name the tensors of vision transformers, ConvNeXt and Swin: one row a layout,
with where it was learnt. See the rows of ResNets for what they say."""

from dataclasses import replace

from ..rows import CheckpointLayout, EncoderPlace, Preprocessing
from . import names

HALF = Preprocessing(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
CLIP = Preprocessing(
    mean=(122.770938, 116.746007, 104.093736), std=(68.500533, 66.632192, 70.323163)
)
BICUBIC, OFFSET, ANTIALIAS = ((("positions", how),) for how in ("bicubic", "offset", "antialias"))
EPS_5, EPS_6, EPS_12 = ((("norm_eps", eps),) for eps in (1e-5, 1e-6, 1e-12))
GELU, QUICK, TANH = ((("act_layer", act),) for act in ("gelu", "quick_gelu", "gelu_tanh"))
_SIZES = ("base", "tiny", "small", "large")
VIT = (
    *((size, f"vit_{size}_patch16_224") for size in _SIZES),
    *((size, f"vit_{size}_patch14_224") for size in ("huge", "giant", "gigantic")),
)
VIT_CLIP = (
    ("base", "vit_base_patch16_clip_224"),
    ("large", "vit_large_patch14_clip_224"),
    ("huge", "vit_huge_patch14_clip_224"),
    ("giant", "vit_giant_patch14_clip_224"),
    ("gigantic", "vit_gigantic_patch14_clip_224"),
)
SIGLIP = (
    ("base", "vit_base_patch16_siglip_224"),
    ("large", "vit_large_patch16_siglip_256"),
    ("so400m", "vit_so400m_patch14_siglip_224"),
)
DINOV2 = tuple((size, f"vit_{size}_patch14_dinov2") for size in ("base", "small", "large", "giant"))
REGISTERS = tuple((size, name.replace("14_", "14_reg4_")) for size, name in DINOV2)
DINOV3 = (
    *((size, f"vit_{size}_patch16_dinov3_qkvb") for size in _SIZES),
    ("7b", "vit_7b_patch16_dinov3"),
)
DINOV3_GATED = (
    ("small", "vit_small_plus_patch16_dinov3_qkvb"),
    ("huge", "vit_huge_plus_patch16_dinov3_qkvb"),
    ("7b", "vit_7b_patch16_dinov3"),
)
EVA02 = tuple((size, f"eva02_{size}_patch14_224") for size in ("base", "large"))
EVA02_SMALL = tuple((size, f"eva02_{size}_patch14_224") for size in ("small", "tiny"))
BEIT = tuple((size, f"beit_{size}_patch16_224") for size in ("base", "large"))
_CONVNEXTS = (
    "tiny",
    "atto",
    "femto",
    "pico",
    "nano",
    "small",
    "base",
    "large",
    "xlarge",
    "xxlarge",
)
_V2 = ("tiny", "atto", "femto", "pico", "nano", "base", "large", "huge")
CONVNEXT = (
    *((size, f"convnext_{size}") for size in _CONVNEXTS),
    *((f"v2-{size}", f"convnextv2_{size}") for size in _V2),
)
SWIN = tuple((s, f"swin_{s}_patch4_window7_224") for s in ("tiny", "small", "base", "large"))

# beside a trunk: classifiers, the last normalisation behind pooling, tokens of masked patches
HEADS = r"(head|heads|head_dist|fc_norm|classifier|pre_logits|lm_head|attn_pool)\..*"
MASK = r"mask_token|masked_embed"
POOLED = r"(norm|norm_pre|norms\.\d)\..*"  # of ConvNeXt and Swin, whose maps are not normalised
TABLES = r".*(relative_position_index|attn_mask|rope.*|relative_coords_table)"
QKV, PATCHES = r"blocks\.0\.attn\.qkv\.weight", r"patch_embed\.proj\.weight"
SCALE = r"blocks\.(0\.)?0\.ls1\.gamma"


def _bare(*prefixes: str) -> tuple[EncoderPlace, ...]:
    return tuple(EncoderPlace("backbone", prefix) for prefix in prefixes)


def _trained(*roles: str) -> tuple[EncoderPlace, ...]:
    """The networks of a checkpoint of DINO's family: each role in a dictionary of its own."""
    return tuple(EncoderPlace(role, "backbone.", (role,)) for role in roles)


PLAIN = CheckpointLayout(
    "plain-vit",
    "unknown",
    "names of timm: models/vision_transformer.py, which MAE, DINO, iBOT, DeiT and others share",
    _bare("", "backbone."),
    (rf"(backbone\.)?({PATCHES})", rf"(backbone\.)?({QKV})"),
    (
        rf"(backbone\.)?({MASK})",
        r"decoder.*",
        rf"(backbone\.)?({SCALE}|blocks\.0\.gamma_1|register_tokens|storage_tokens)",
        r"(backbone\.)?(layers\..*|rope.*)",
        r"head\.last_layer.*",
    ),
    drop=(HEADS, r"dist_token"),
    family="vit",
    archs=VIT,
    model_args=BICUBIC,
    vague=True,
)
DINO = replace(
    PLAIN,
    name="dino-vit",
    method="dino",
    learnt="facebookresearch/dino: vision_transformer.py, main_dino.py",
    encoders=_trained("teacher", "student"),
    requires=(rf"backbone\.({PATCHES})", r"head\.last_layer\..*"),
    forbids=(rf"backbone\.({SCALE}|mask_token|masked_embed)",),
    drop=(r"head\..*",),
    model_args=OFFSET,
    vague=False,
)
DINOV2_ROW = CheckpointLayout(
    "dinov2",
    "dinov2",
    "facebookresearch/dinov2: dinov2/models/vision_transformer.py, hub/backbones.py",
    (*_bare("", "backbone."), *_trained("teacher", "student")),
    (rf"(backbone\.)?({SCALE})", r"(backbone\.)?mask_token"),
    (r"(backbone\.)?(register_tokens|storage_tokens)",),
    drop=(rf"(backbone\.)?({MASK})", r"(dino_head|ibot_head|head|linear_head)\..*"),
    rename=names.DINOV2,
    family="vit",
    archs=DINOV2,
    model_args=OFFSET,
)
DINOV3_ROW = replace(
    DINOV2_ROW,
    name="dinov3",
    method="dinov3",
    learnt="facebookresearch/dinov3: dinov3/models/vision_transformer.py, hub/backbones.py",
    requires=(rf"(backbone\.)?({SCALE})", r"(backbone\.)?storage_tokens"),
    forbids=(r"(backbone\.)?blocks\.0\.mlp\.w1\.weight",),
    drop=(*DINOV2_ROW.drop, r"(backbone\.)?(rope_embed\.periods|local_cls_norm\..*)"),
    rename=names.DINOV3,
    archs=DINOV3,
    model_args=EPS_5,
    step="no key bias",
)
EVA = CheckpointLayout(
    "eva02",
    "eva02",
    "baaivision/EVA: EVA-02/asuka/modeling_pretrain.py, modeling_finetune.py",
    _bare("", "visual."),
    (
        rf"(visual\.)?({PATCHES})",
        r"(visual\.)?blocks\.0\.(mlp\.(w1|fc1_g)\.weight|attn\.q_proj\.weight)",
    ),
    (r"storage_tokens",),
    drop=(
        HEADS,
        rf"(visual\.)?({MASK}|{TABLES})",
        r"text\..*",
        r"logit_scale",
        r"visual\.head\..*",
    ),
    rename=names.EVA_APART,
    preprocessing=CLIP,
    family="vit",
    archs=EVA02,
    model_args=BICUBIC,
)
BEIT_ROW = CheckpointLayout(
    "beit",
    "beit",
    "microsoft/unilm: beit/modeling_pretrain.py, modeling_finetune.py; timm: models/beit.py",
    _bare(""),
    (PATCHES, r"blocks\.0\.gamma_1", r"blocks\.0\.attn\.q_bias"),
    (r"storage_tokens", r"reg_token", r"blocks\.0\.(mlp\.w12|attn\.norm|mlp\.norm).*"),
    drop=(HEADS, MASK, TABLES),
    preprocessing=HALF,
    family="vit",
    archs=BEIT,
)
HF = "huggingface/transformers: models"
HF_VIT = CheckpointLayout(
    "hugging-face-vit",
    "supervised",
    f"{HF}/vit/modeling_vit.py",
    _bare("", "vit."),
    (
        r"(vit\.)?embeddings\.position_embeddings",
        r"(vit\.)?((encoder\.)?layers?)\.0\.(layernorm_before|attention\.attention\.query)\.weight",
    ),
    (r"decoder\..*", r".*(lambda_1|layer_scale1\.lambda1|relative_position_bias_table)"),
    drop=(r"(vit\.)?pooler\..*", r"classifier\..*", r"(vit\.)?embeddings\.mask_token"),
    rename=names.HF_VIT,
    preprocessing=HALF,
    family="vit",
    archs=VIT,
    model_args=EPS_12 + BICUBIC,
)
HF_DINOV2 = replace(
    HF_VIT,
    name="hugging-face-dinov2",
    method="dinov2",
    learnt=f"{HF}/dinov2/modeling_dinov2.py",
    encoders=_bare("", "dinov2."),
    requires=(r"(dinov2\.)?embeddings\.position_embeddings", r".*layer\.0\.layer_scale1\.lambda1"),
    forbids=(r".*register_tokens",),
    drop=(r"classifier\..*", r"(.*\.)?embeddings\.mask_token"),
    preprocessing=Preprocessing(),
    archs=DINOV2,
    model_args=EPS_6 + BICUBIC,
)
HF_DINOV3 = replace(
    HF_DINOV2,
    name="hugging-face-dinov3",
    method="dinov3",
    learnt=f"{HF}/dinov3_vit/modeling_dinov3_vit.py",
    encoders=_bare("", "model."),
    requires=(r"embeddings\.register_tokens", r"(model\.)?layer\.0\.mlp\.up_proj\.weight"),
    forbids=(r"embeddings\.position_embeddings", r".*gate_proj.*"),
    rename=names.HF_DINOV3,
    archs=DINOV3,
    model_args=EPS_5,
)
HF_CLIP = replace(
    HF_VIT,
    name="hugging-face-clip",
    method="clip",
    learnt=f"{HF}/clip/modeling_clip.py",
    encoders=_bare("vision_model.", ""),
    requires=(
        r"(vision_model\.)?embeddings\.class_embedding",
        r"(vision_model\.)?pre_layrnorm\.weight",
    ),
    forbids=(),
    drop=(
        r"text_model\..*",
        r"(visual|text)_projection\..*",
        r"logit_(scale|bias)",
        r".*position_ids",
        r"(vision_model\.)?head\..*",
    ),
    preprocessing=CLIP,
    archs=VIT_CLIP,
    model_args=EPS_5 + QUICK + BICUBIC,
)
OPEN_CLIP = CheckpointLayout(
    "open-clip",
    "clip",
    "mlfoundations/open_clip: src/open_clip/transformer.py; openai/CLIP: clip/model.py",
    _bare("visual."),
    (r"visual\.class_embedding", r"visual\.transformer\.resblocks\.0\.ln_1\.weight"),
    drop=(
        r"visual\.proj",
        r"(transformer|token_embedding|ln_final|text|text_decoder)\..*",
        r"(positional_embedding|text_projection|logit_scale|logit_bias|input_resolution)",
        r"(context_length|vocab_size|attn_mask)",
        r"visual\.(attn_pool|ln_attn_pool)\..*",
    ),
    rename=names.OPEN_CLIP,
    preprocessing=CLIP,
    family="vit",
    archs=VIT_CLIP,
    model_args=EPS_5 + GELU + BICUBIC,
)
CONVNEXT_ROW = CheckpointLayout(
    "original-convnext",
    "unknown",
    "facebookresearch/ConvNeXt and ConvNeXt-V2: models/convnext.py; dinov3/models/convnext.py",
    _bare("", "encoder."),
    (r"(encoder\.)?downsample_layers\.0\.0\.weight", r"(encoder\.)?stages\.0\.0\.dwconv\.weight"),
    drop=(HEADS, POOLED),
    rename=names.CONVNEXT,
    family="convnext",
    archs=CONVNEXT,
)
SWIN_ROW = CheckpointLayout(
    "original-swin",
    "unknown",
    "microsoft/Swin-Transformer: models/swin_transformer.py",
    _bare("", "backbone."),
    (
        r"(backbone\.)?layers\.0\.downsample\.reduction\.weight",
        r"(backbone\.)?patch_embed\.norm\.weight",
    ),
    drop=(HEADS, rf"(backbone\.)?({POOLED}|{TABLES}|norm\d\..*)"),
    rename=names.AT_THE_END,
    family="swin",
    archs=SWIN,
)

OTHERS = (
    PLAIN,
    replace(
        PLAIN,
        name="timm-vit",
        method="supervised",
        learnt="huggingface/pytorch-image-models: weights of Google (augreg), pixels from -1 to 1",
        preprocessing=HALF,
        model_args=ANTIALIAS,
        only_forced=True,
        vague=False,
    ),
    replace(
        PLAIN,
        name="bare-dino-vit",
        method="dino",
        learnt="facebookresearch/dino and bytedance/ibot: the teacher's backbone alone",
        model_args=OFFSET,
        only_forced=True,
        vague=False,
    ),
    replace(
        PLAIN,
        name="mae",
        method="mae",
        learnt="facebookresearch/mae: models_mae.py (with its decoder), mae_pretrain_vit_*.pth",
        encoders=_bare(""),
        requires=(PATCHES, QKV, r"decoder_embed\.weight"),
        forbids=(),
        drop=(r"decoder_.*", r"mask_token"),
        vague=False,
    ),
    replace(
        PLAIN,
        name="moco-v3-vit",
        method="moco-v3",
        learnt="facebookresearch/moco-v3: vits.py, moco/builder.py",
        encoders=(
            EncoderPlace("base", "base_encoder."),
            EncoderPlace("momentum", "momentum_encoder."),
        ),
        requires=(rf"base_encoder\.({PATCHES})",),
        forbids=(),
        drop=(r"(base|momentum)_encoder\.head\..*", r"predictor\..*"),
        heads=((384, 12),),
        vague=False,
    ),
    DINO,
    replace(
        DINO,
        name="ibot",
        method="ibot",
        learnt="bytedance/ibot: models/vision_transformer.py, main_ibot.py",
        requires=(rf"backbone\.({PATCHES})", r"backbone\.masked_embed"),
        forbids=(),
        drop=(r"head\..*", r"backbone\.masked_embed"),
        rename=names.IBOT,
    ),
    DINOV2_ROW,
    replace(
        DINOV2_ROW,
        name="dinov2-registers",
        requires=(rf"(backbone\.)?({SCALE})", r"(backbone\.)?register_tokens"),
        forbids=(),
        archs=REGISTERS,
        model_args=ANTIALIAS,
        step="registers",
    ),
    DINOV3_ROW,
    replace(
        DINOV3_ROW,
        name="dinov3-gated",
        requires=(r"(backbone\.)?storage_tokens", r"(backbone\.)?blocks\.0\.mlp\.w1\.weight"),
        forbids=(),
        archs=DINOV3_GATED,
    ),
    EVA,
    replace(
        EVA,
        name="eva02-small",
        requires=(PATCHES, r"blocks\.0\.attn\.q_bias", r"blocks\.0\.mlp\.w12\.weight"),
        rename=names.EVA,
        archs=EVA02_SMALL,
    ),
    BEIT_ROW,
    replace(
        PLAIN,
        name="timm-dinov2",
        method="dinov2",
        learnt="huggingface/pytorch-image-models: vit_*_dinov2",
        encoders=_bare("", "visual.trunk."),
        requires=(SCALE, QKV),
        forbids=(MASK, r"storage_tokens", r"register_tokens", r"blocks\.0\.0\..*", r"reg_token"),
        archs=DINOV2,
        model_args=ANTIALIAS,
        vague=False,
    ),
    replace(
        PLAIN,
        name="timm-dinov2-registers",
        method="dinov2",
        learnt="huggingface/pytorch-image-models: vit_*_reg4_dinov2",
        encoders=_bare(""),
        requires=(SCALE, QKV, r"reg_token"),
        forbids=(),
        archs=REGISTERS,
        model_args=ANTIALIAS,
        vague=False,
    ),
    replace(
        PLAIN,
        name="timm-dinov3",
        method="dinov3",
        learnt="huggingface/pytorch-image-models: models/eva.py",
        encoders=_bare(""),
        requires=(r"reg_token", r"blocks\.0\.gamma_1"),
        forbids=(r"pos_embed",),
        archs=DINOV3,
        model_args=(),
        vague=False,
    ),
    HF_VIT,
    replace(
        HF_VIT,
        name="hugging-face-mae",
        method="mae",
        learnt=f"{HF}/vit_mae/modeling_vit_mae.py",
        encoders=_bare("vit."),
        requires=(r"vit\.embeddings\.position_embeddings", r"decoder\.decoder_pos_embed"),
        forbids=(),
        drop=(r"decoder\..*",),
        preprocessing=Preprocessing(),
    ),
    HF_DINOV2,
    replace(
        HF_DINOV2,
        name="hugging-face-dinov2-registers",
        learnt=f"{HF}/dinov2_with_registers/modeling_dinov2_with_registers.py",
        encoders=_bare("", "dinov2_with_registers."),
        requires=(r"(.*\.)?embeddings\.position_embeddings", r"(.*\.)?embeddings\.register_tokens"),
        forbids=(),
        archs=REGISTERS,
        model_args=EPS_6 + ANTIALIAS,
        step="registers",
    ),
    HF_DINOV3,
    replace(
        HF_DINOV3,
        name="hugging-face-dinov3-gated",
        requires=(r"embeddings\.register_tokens", r"(model\.)?layer\.0\.mlp\.gate_proj\.weight"),
        forbids=(),
        rename=names.HF_DINOV3_GATED,
        archs=DINOV3_GATED,
    ),
    replace(
        HF_VIT,
        name="hugging-face-beit",
        method="beit",
        learnt=f"{HF}/beit/modeling_beit.py",
        encoders=_bare("", "beit."),
        requires=(r".*embeddings\.patch_embeddings\.projection\.weight", r".*\.0\.lambda_1"),
        forbids=(),
        drop=(
            r"(beit\.)?pooler\..*",
            r"(classifier|lm_head|layernorm)\..*",
            r"(beit\.)?embeddings\.mask_token",
            TABLES,
        ),
        rename=names.HF_BEIT,
        archs=BEIT,
        model_args=EPS_12,
    ),
    HF_CLIP,
    replace(
        HF_CLIP,
        name="hugging-face-siglip",
        method="siglip",
        learnt=f"{HF}/siglip/modeling_siglip.py",
        requires=(
            r"(vision_model\.)?embeddings\.patch_embedding\.bias",
            r"(vision_model\.)?post_layernorm\.weight",
        ),
        forbids=(r"(vision_model\.)?embeddings\.class_embedding",),
        preprocessing=HALF,
        archs=SIGLIP,
        model_args=EPS_6 + TANH + BICUBIC,
    ),
    OPEN_CLIP,
    replace(
        OPEN_CLIP,
        name="open-clip-quickgelu",
        learnt=f"{OPEN_CLIP.learnt}; weights of OpenAI, DFN and MetaCLIP",
        model_args=EPS_5 + QUICK + BICUBIC,
        only_forced=True,
    ),
    replace(
        OPEN_CLIP,
        name="open-clip-siglip",
        method="siglip",
        learnt="mlfoundations/open_clip: src/open_clip/timm_model.py",
        encoders=_bare("visual.trunk."),
        requires=(rf"visual\.trunk\.({PATCHES})", rf"visual\.trunk\.({QKV})"),
        drop=(*OPEN_CLIP.drop, r"visual\.trunk\.(attn_pool|fc_norm|head)\..*", r"visual\.head\..*"),
        rename=(),
        preprocessing=HALF,
        archs=SIGLIP,
        model_args=BICUBIC,
    ),
    replace(
        HF_VIT,
        name="torchvision-vit",
        learnt="pytorch/vision: models/vision_transformer.py",
        encoders=_bare(""),
        requires=(r"conv_proj\.weight", r"encoder\.pos_embedding"),
        forbids=(),
        drop=(HEADS,),
        rename=names.TORCHVISION_VIT,
        preprocessing=Preprocessing(),
        model_args=BICUBIC,
    ),
    CONVNEXT_ROW,
    replace(
        CONVNEXT_ROW,
        name="timm-convnext",
        learnt="huggingface/pytorch-image-models: models/convnext.py",
        encoders=_bare("", "visual.trunk."),
        requires=(r"(.*\.)?stem\.0\.weight", r"(.*\.)?stages\.0\.blocks\.0\.conv_dw\.weight"),
        drop=(*CONVNEXT_ROW.drop, *OPEN_CLIP.drop, r"visual\.(head|trunk\.(head|norm_pre))\..*"),
        rename=(),
    ),
    replace(
        CONVNEXT_ROW,
        name="torchvision-convnext",
        method="supervised",
        learnt="pytorch/vision: models/convnext.py",
        encoders=_bare(""),
        requires=(r"features\.0\.0\.weight", r"features\.1\.0\.layer_scale"),
        rename=names.TORCHVISION_CONVNEXT,
    ),
    replace(
        CONVNEXT_ROW,
        name="hugging-face-convnext",
        learnt=f"{HF}/convnext, convnextv2 and dinov3_convnext",
        encoders=_bare("", "convnext.", "convnextv2."),
        requires=(r"(.*\.)?stages\.0\.layers\.0\.(dwconv|depthwise_conv)\.weight",),
        drop=(r"classifier\..*", r"((convnext|convnextv2)\.)?(layernorm|layer_norm)\..*"),
        rename=names.HF_CONVNEXT,
    ),
    SWIN_ROW,
    replace(
        SWIN_ROW,
        name="timm-swin",
        learnt="huggingface/pytorch-image-models: models/swin_transformer.py",
        encoders=_bare(""),
        requires=(r"layers\.3\.downsample\.reduction\.weight", r"patch_embed\.norm\.weight"),
        forbids=(r"layers\.0\.downsample\..*",),
        rename=(),
    ),
    replace(
        SWIN_ROW,
        name="torchvision-swin",
        method="supervised",
        learnt="pytorch/vision: models/swin_transformer.py",
        encoders=_bare(""),
        requires=(r"features\.0\.0\.weight", r"features\.1\.0\.attn\.relative_position_bias_table"),
        forbids=(r".*logit_scale",),
        rename=names.TORCHVISION_SWIN,
    ),
    replace(
        SWIN_ROW,
        name="hugging-face-swin",
        learnt=f"{HF}/swin/modeling_swin.py",
        encoders=_bare("", "swin."),
        requires=(r"(swin\.)?encoder\.layers\.0\.blocks\.0\.layernorm_before\.weight",),
        drop=(
            r"classifier\..*",
            r"(swin\.)?(layernorm|pooler)\..*",
            TABLES,
            r"(swin\.)?embeddings\.mask_token",
        ),
        rename=names.HF_SWIN,
    ),
)
