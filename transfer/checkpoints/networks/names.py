"""Other words for the tensors of vision transformers, ConvNeXt and Swin: regular expressions and
timm's names in their place, obeyed in this order.

`NAME@0`, `NAME@1` ... are parts that `placing` joins to one tensor in the order of their numbers.
"""

Rules = tuple[tuple[str, str], ...]

CHUNKED: Rules = ((r"blocks\.\d+\.(\d+\..*)", r"blocks.\1"),)  # blocks in groups, for FSDP
SWIGLU: Rules = (
    (r"(.*)\.mlp\.w12\.(.*)", r"\1.mlp.fc1.\2"),
    (r"(.*)\.mlp\.w3\.(.*)", r"\1.mlp.fc2.\2"),
)
GATED: Rules = (
    (r"(.*)\.mlp\.w1\.(.*)", r"\1.mlp.fc1_g.\2"),
    (r"(.*)\.mlp\.w2\.(.*)", r"\1.mlp.fc1_x.\2"),
    *SWIGLU,
)
DINOV2: Rules = (*CHUNKED, *SWIGLU, (r"register_tokens", r"reg_token"))
DINOV3: Rules = (
    (r"storage_tokens", r"reg_token"),
    (r"(blocks\.\d+)\.ls(\d)\.gamma", r"\1.gamma_\2"),
    *GATED,
)
IBOT: Rules = ((r"(blocks\.\d+)\.gamma_(\d)", r"\1.ls\2.gamma"),)
EVA: Rules = (
    (r"(.*)\.mlp\.ffn_ln\.(.*)", r"\1.mlp.norm.\2"),
    (r"(.*)\.attn\.inner_attn_ln\.(.*)", r"\1.attn.norm.\2"),
    *GATED,
)
EVA_APART: Rules = ((r"(.*)\.attn\.([qv])_bias", r"\1.attn.\2_proj.bias"), *EVA)
TORCHVISION_VIT: Rules = (
    (r"class_token", r"cls_token"),
    (r"conv_proj\.(.*)", r"patch_embed.proj.\1"),
    (r"encoder\.pos_embedding", r"pos_embed"),
    (r"encoder\.ln\.(.*)", r"norm.\1"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.(.*)", r"blocks.\1.\2"),
    (r"(blocks\.\d+)\.ln_(\d)\.(.*)", r"\1.norm\2.\3"),
    (r"(blocks\.\d+)\.self_attention\.in_proj_(.*)", r"\1.attn.qkv.\2"),
    (r"(blocks\.\d+)\.self_attention\.out_proj\.(.*)", r"\1.attn.proj.\2"),
    (r"(blocks\.\d+)\.mlp\.(?:0|linear_1)\.(.*)", r"\1.mlp.fc1.\2"),
    (r"(blocks\.\d+)\.mlp\.(?:3|linear_2)\.(.*)", r"\1.mlp.fc2.\2"),
)
OPEN_CLIP: Rules = (
    (r"class_embedding", r"cls_token"),
    (r"positional_embedding", r"pos_embed"),
    (r"conv1\.(.*)", r"patch_embed.proj.\1"),
    (r"ln_pre\.(.*)", r"norm_pre.\1"),
    (r"ln_post\.(.*)", r"norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.(.*)", r"blocks.\1.\2"),
    (r"(blocks\.\d+)\.ln_(\d)\.(.*)", r"\1.norm\2.\3"),
    (r"(blocks\.\d+)\.ls_(\d)\.gamma", r"\1.ls\2.gamma"),
    (r"(blocks\.\d+)\.attn\.in_proj_(.*)", r"\1.attn.qkv.\2"),
    (r"(blocks\.\d+)\.attn\.out_proj\.(.*)", r"\1.attn.proj.\2"),
    (r"(blocks\.\d+)\.mlp\.c_fc\.(.*)", r"\1.mlp.fc1.\2"),
    (r"(blocks\.\d+)\.mlp\.c_proj\.(.*)", r"\1.mlp.fc2.\2"),
)
# Hugging Face's transformers: files of version 4 and 5, and in memory of version 5
HF_ATTENTION: Rules = (
    (
        r"(blocks\..*)\.(?:attention|self_attn)\.(?:attention\.query|self\.query|q_proj)\.(.*)",
        r"\1.attn.qkv.\2@0",
    ),
    (
        r"(blocks\..*)\.(?:attention|self_attn)\.(?:attention\.key|self\.key|k_proj)\.(.*)",
        r"\1.attn.qkv.\2@1",
    ),
    (
        r"(blocks\..*)\.(?:attention|self_attn)\.(?:attention\.value|self\.value|v_proj)\.(.*)",
        r"\1.attn.qkv.\2@2",
    ),
    (
        r"(blocks\..*)\.(?:attention|self_attn)\.(?:output\.dense|o_proj|out_proj)\.(.*)",
        r"\1.attn.proj.\2",
    ),
)
HF_MLP: Rules = (
    (
        r"(blocks\.\S*?\d)\.(?:intermediate\.dense|mlp\.up_proj|mlp\.weights_in)\.(.*)",
        r"\1.mlp.fc1.\2",
    ),
    (
        r"(blocks\.\S*?\d)\.(?:output\.dense|mlp\.down_proj|mlp\.weights_out)\.(.*)",
        r"\1.mlp.fc2.\2",
    ),
    (r"(blocks\..*)\.layer_?norm_before\.(.*)", r"\1.norm1.\2"),
    (r"(blocks\..*)\.layer_?norm_after\.(.*)", r"\1.norm2.\2"),
)
HF_VIT: Rules = (
    (r"embeddings\.(?:cls_token|class_embedding)", r"cls_token"),
    (r"embeddings\.position_embeddings?(?:\.weight)?", r"pos_embed"),
    (r"embeddings\.register_tokens", r"reg_token"),
    (r"embeddings\.patch_embeddings?\.(?:projection\.)?(weight|bias)", r"patch_embed.proj.\1"),
    (r"pre_layrnorm\.(.*)", r"norm_pre.\1"),
    (r"(?:layernorm|post_layernorm)\.(.*)", r"norm.\1"),
    (r"(?:model\.)?(?:encoder\.)?layers?\.(\d+)\.(.*)", r"blocks.\1.\2"),
    (r"(blocks\.\d+)\.layer_norm(\d)\.(.*)", r"\1.norm\2.\3"),
    (r"(blocks\.\d+)\.layer_scale(\d)\.lambda1", r"\1.ls\2.gamma"),
    *HF_ATTENTION,
    *HF_MLP,
)
# a query and a value have a bias, a key has none
HF_NO_KEY_BIAS: Rules = (
    *HF_VIT,
    (r"(.*)\.attn\.qkv\.bias@0", r"\1.attn.q_bias"),
    (r"(.*)\.attn\.qkv\.bias@2", r"\1.attn.v_bias"),
)
HF_BEIT: Rules = (
    *HF_NO_KEY_BIAS,
    (r"(blocks\.\d+)\.lambda_(\d)", r"\1.gamma_\2"),
    (r"(blocks\.\d+)\..*relative_position_bias_table", r"\1.attn.relative_position_bias_table"),
    (r"(?:encoder\.relative|shared)_position_bias\.(.*)", r"rel_pos_bias.\1"),
)
HF_DINOV3: Rules = (*HF_NO_KEY_BIAS, (r"(blocks\.\d+)\.ls(\d)\.gamma", r"\1.gamma_\2"))
HF_DINOV3_GATED: Rules = (
    (r"(.*)\.mlp\.gate_proj\.(.*)", r"\1.mlp.fc1_g.\2"),
    (r"(.*)\.mlp\.up_proj\.(.*)", r"\1.mlp.fc1_x.\2"),
    *HF_DINOV3,
    (r"layers?\.(.*)", r"blocks.\1"),
)

CONVNEXT: Rules = (
    (r"downsample_layers\.0\.(.*)", r"stem.\1"),
    (r"downsample_layers\.(\d)\.(.*)", r"stages.\1.downsample.\2"),
    (r"stages\.(\d)\.(\d+\..*)", r"stages.\1.blocks.\2"),
    (r"(.*)\.dwconv\.(.*)", r"\1.conv_dw.\2"),
    (r"(.*)\.pwconv(\d)\.(.*)", r"\1.mlp.fc\2.\3"),
    (r"(.*)\.grn\.gamma", r"\1.mlp.grn.weight"),
    (r"(.*)\.grn\.beta", r"\1.mlp.grn.bias"),
)
TORCHVISION_CONVNEXT: Rules = (
    (r"features\.0\.(.*)", r"stem.\1"),
    *((rf"features\.{2 * n}\.(.*)", rf"stages.{n}.downsample.\1") for n in (1, 2, 3)),
    *((rf"features\.{2 * n + 1}\.(.*)", rf"stages.{n}.blocks.\1") for n in (0, 1, 2, 3)),
    (r"(.*)\.layer_scale", r"\1.gamma"),
    (r"(.*)\.block\.0\.(.*)", r"\1.conv_dw.\2"),
    (r"(.*)\.block\.2\.(.*)", r"\1.norm.\2"),
    (r"(.*)\.block\.3\.(.*)", r"\1.mlp.fc1.\2"),
    (r"(.*)\.block\.5\.(.*)", r"\1.mlp.fc2.\2"),
)
HF_CONVNEXT: Rules = (
    (r"embeddings\.patch_embeddings\.(.*)", r"stem.0.\1"),
    (r"embeddings\.layernorm\.(.*)", r"stem.1.\1"),
    (r"(?:model\.|encoder\.)?stages\.0\.downsample_layers\.(.*)", r"stem.\1"),
    (
        r"(?:model\.|encoder\.)?stages\.(\d)\.(?:downsampling_layer|downsample_layers)\.(.*)",
        r"stages.\1.downsample.\2",
    ),
    (r"(?:model\.|encoder\.)?stages\.(\d)\.layers\.(.*)", r"stages.\1.blocks.\2"),
    (r"(.*)\.layer_scale_parameter", r"\1.gamma"),
    (r"(.*)\.(?:dwconv|depthwise_conv)\.(.*)", r"\1.conv_dw.\2"),
    (r"(stages\..*)\.layer_?norm\.(.*)", r"\1.norm.\2"),
    (r"(.*)\.(?:pwconv|pointwise_conv)(\d)\.(.*)", r"\1.mlp.fc\2.\3"),
    (r"(.*)\.grn\.(weight|bias)", r"\1.mlp.grn.\2"),
)

# its stages end with a downsampling, timm's begin with one
AT_THE_END: Rules = tuple(
    (rf"layers\.{n}\.downsample\.(.*)", rf"layers.{n + 1}.downsample.\1") for n in (2, 1, 0)
)
TORCHVISION_SWIN: Rules = (
    (r"features\.0\.0\.(.*)", r"patch_embed.proj.\1"),
    (r"features\.0\.2\.(.*)", r"patch_embed.norm.\1"),
    *((rf"features\.{2 * n}\.(.*)", rf"layers.{n}.downsample.\1") for n in (1, 2, 3)),
    *((rf"features\.{2 * n + 1}\.(.*)", rf"layers.{n}.blocks.\1") for n in (0, 1, 2, 3)),
    (r"(.*)\.mlp\.0\.(.*)", r"\1.mlp.fc1.\2"),
    (r"(.*)\.mlp\.3\.(.*)", r"\1.mlp.fc2.\2"),
)
HF_SWIN: Rules = (
    (r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
    (r"embeddings\.norm\.(.*)", r"patch_embed.norm.\1"),
    (r"encoder\.(layers\..*)", r"\1"),
    *AT_THE_END,
    (r"(.*)\.attention\..*relative_position_bias_table", r"\1.attn.relative_position_bias_table"),
    *((old.replace(r"(blocks\.", r"(layers\."), new) for old, new in (*HF_ATTENTION, *HF_MLP)),
)
