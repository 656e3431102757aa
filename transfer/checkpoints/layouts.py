"""How other projects name the tensors of a ResNet: one row a layout, with where it was learnt.

Names are matched after the wrappers `module.` (DataParallel, moving averages) and `_orig_mod.`
(torch.compile) are taken off. Beside the names of tensors a row can ask for facts: what else the
file says, written `/key` or `/key=value`, e.g. `/epoch=200`. All patterns are regular expressions
that match a whole name.

To add one: a row of LAYOUTS. `requires` and `forbids` must tell it from every other row: a file
that two rows fit is refused. What a file has beside its encoders goes into `drop`, else the import
refuses the file too: nothing is left out in silence. A renaming that no row has yet is a constant
of renames.py. Import, `--as` and `detco weights list --layouts` take it from there.
"""

from dataclasses import replace

from .networks.layouts import OTHERS
from .renames import CAFFE2, DETECTRON2, HUGGING_FACE, SEQUENTIAL
from .rows import ANYWHERE, MSRA, UNIT, CheckpointLayout, EncoderPlace


def _bare(*prefixes: str) -> tuple[EncoderPlace, ...]:
    return tuple(EncoderPlace("backbone", prefix) for prefix in prefixes)


MOCO = CheckpointLayout(
    "moco-v2",
    "moco-v2",
    "facebookresearch/moco: main_moco.py, moco/builder.py",
    (EncoderPlace("query", "encoder_q."), EncoderPlace("key", "encoder_k.")),
    (r"encoder_q\.conv1\.weight", r"encoder_q\.fc\.2\.weight"),
    drop=(r"encoder_[qk]\.fc\..*", r"queue(_ptr)?"),
)
BYOL = CheckpointLayout(
    "byol-pytorch",
    "byol",
    "lucidrains/byol-pytorch: byol_pytorch.py (BYOL.state_dict, also within a Lightning learner)",
    (
        EncoderPlace("online", "online_encoder.net."),
        EncoderPlace("target", "target_encoder.net."),
        EncoderPlace("online", "learner.online_encoder.net."),
        EncoderPlace("target", "learner.target_encoder.net."),
    ),
    (r"(learner\.)?online_encoder\.net\.conv1\.weight",),
    drop=(
        r"(learner\.)?net\..*",
        r"(learner\.)?(online|target)_encoder\.(net\.fc|projector)\..*",
        r"(learner\.)?online_predictor\..*",
    ),
)
# of the detectors and segmenters of OpenMMLab
MM_HEADS = (
    r"((rpn|roi|bbox|mask|keypoint|panoptic\w*|decode|auxiliary|semantic)_head"
    r"|bbox_roi_extractor|query_embedding)\..*"
)
OPENSELFSUP = CheckpointLayout(
    "openselfsup",
    "unknown",
    "open-mmlab/OpenSelfSup, mmselfsup and mmpretrain: models/*.py,"
    " tools/extract_backbone_weights.py",
    (
        EncoderPlace("query", "backbone."),
        EncoderPlace("key", "encoder_k.0."),
        EncoderPlace("target", "target_net.0."),
        EncoderPlace("momentum", "momentum_encoder.0."),
    ),
    (
        r"backbone\.conv1\.weight",
        r"(neck|head|encoder_[qk]\.0|online_net\.0|target_net\.0|momentum_encoder\.0)\..*",
    ),
    (r"queue2", r"head\.last_layer.*", r"/(student|teacher)", MM_HEADS),
    drop=(
        r"(encoder_[qk]|online_net|target_net|momentum_encoder)\.([01]\..*|steps)",
        r"(neck|head|memory_bank|target_generator)\..*",
        r"(queue|queue_ptr|loss_weight)",
        r"data_preprocessor\..*",
    ),
)
SOLO_LEARN = CheckpointLayout(
    "solo-learn",
    "unknown",
    "vturrisi/solo-learn: solo/methods/base.py and every method's __init__",
    (EncoderPlace("base", "backbone."), EncoderPlace("momentum", "momentum_backbone.")),
    (r"backbone\.conv1\.weight", r"classifier\.weight", r"/pytorch-lightning_version.*"),
    (r"(student_|query_)?projection_head\..*",),
    drop=(
        r"(momentum_)?(classifier|projector|predictor2?|head|backbone\.fc)\..*",
        r"prototypes\..*",
        r"transformer_encoder\..*",
        r"(queue|queue_y|queue_ptr|queue_index|local_memory_\w+)",
        r"(dino_loss_func|pos_enc|knn)\..*",
    ),
)
TORCHVISION = CheckpointLayout(
    "torchvision",
    "unknown",  # a classifier may have been put on top of frozen features
    "pytorch/vision: models/resnet.py; pytorch/examples: imagenet/main.py",
    _bare(""),
    (r"conv1\.weight", r"fc\.weight"),
    (r"prototypes\..*", r"projection_head\..*"),
    drop=(r"fc\.(weight|bias)",),
    vague=True,
)
D2_HEADS = (
    r"stem\.fc\..*",
    r"linear\..*",
    r"backbone\.(fpn|top_block).*",
    r"(proposal_generator|roi_heads|head|sem_seg_head)\..*",
    r"pixel_(mean|std)",
)
D2_STEM = r"(backbone\.(bottom_up\.)?)?stem\.conv1\.weight"
# a detector has its trunk behind `backbone.`, a C4 its last stage among the heads
D2_TRUNK = (
    (r"(?:backbone\.(?:bottom_up\.)?|roi_heads\.)((?:stem|res[2-5])\..*)", r"\1"),
    *DETECTRON2,
)

LAYOUTS = (
    MOCO,
    replace(
        MOCO,
        name="moco-v1",
        method="moco-v1",
        requires=(r"encoder_q\.conv1\.weight", r"encoder_q\.fc\.weight"),
    ),
    replace(
        MOCO,
        name="moco",
        method="moco",
        requires=(r"encoder_q\.conv1\.weight",),  # its head was taken off
        forbids=(r"encoder_q\.fc\..*", r"encoder_q\.layers\..*"),
    ),
    CheckpointLayout(
        "moco-v3",
        "moco-v3",
        "facebookresearch/moco-v3: main_moco.py, moco/builder.py",
        (EncoderPlace("base", "base_encoder."), EncoderPlace("momentum", "momentum_encoder.")),
        (r"base_encoder\.conv1\.weight",),
        drop=(r"(base|momentum)_encoder\.fc\..*", r"predictor\..*"),
    ),
    CheckpointLayout(
        "simsiam",
        "simsiam",
        "facebookresearch/simsiam: main_simsiam.py, simsiam/builder.py",
        (EncoderPlace("base", "encoder."),),
        (r"encoder\.conv1\.weight", r"encoder\.fc\.6\.weight"),
        drop=(r"encoder\.fc\..*", r"predictor\..*"),
    ),
    CheckpointLayout(
        "swav",
        "swav",
        "facebookresearch/swav: main_swav.py, src/resnet50.py",
        _bare(""),
        (r"conv1\.weight", r"prototypes\.weight"),
        drop=(r"prototypes\.weight", r"projection_head\..*"),
    ),
    CheckpointLayout(
        "deepcluster-v2",
        "deepcluster-v2",
        "facebookresearch/swav: main_deepclusterv2.py, src/resnet50.py",
        _bare(""),
        (r"conv1\.weight", r"prototypes\.prototypes0\.weight"),
        drop=(r"prototypes\.prototypes\d\.weight", r"projection_head\..*"),
    ),
    CheckpointLayout(
        "barlow-twins",
        "barlow-twins",
        "facebookresearch/barlowtwins: main.py (checkpoint.pth)",
        _bare("backbone."),
        (r"backbone\.conv1\.weight", r"projector\.0\.weight", r"bn\.running_mean"),
        drop=(r"projector\..*", r"bn\..*"),
    ),
    CheckpointLayout(
        "vicreg",
        "vicreg",
        "facebookresearch/vicreg: main_vicreg.py (model.pth)",
        _bare("backbone."),
        (r"backbone\.conv1\.weight", r"projector\.0\.bias"),
        (r"bn\..*", r"classifier\..*"),
        drop=(r"projector\..*",),
    ),
    CheckpointLayout(
        "dino",
        "dino",
        "facebookresearch/dino: main_dino.py (student, teacher)",
        (
            EncoderPlace("student", "backbone.", ("student",)),
            EncoderPlace("teacher", "backbone.", ("teacher",)),
        ),
        (r"backbone\.conv1\.weight", r"head\.last_layer\..*"),
        drop=(r"head\..*",),
    ),
    BYOL,
    CheckpointLayout(
        "byol-sthalles",
        "byol",
        "sthalles/PyTorch-BYOL: trainer.py, models/resnet_base_network.py; pictures 0..1",
        (
            EncoderPlace("online", "encoder.", ("online_network_state_dict",)),
            EncoderPlace("target", "encoder.", ("target_network_state_dict",)),
        ),
        (r"encoder\.0\.weight", r"projetion\..*"),
        drop=(r"projetion\..*",),
        rename=SEQUENTIAL,
        preprocessing=UNIT,
    ),
    CheckpointLayout(
        "byol-yaox12",
        "byol",
        "yaox12/BYOL-PyTorch: trainer/byol_trainer.py, model/basic_modules.py",
        (
            EncoderPlace("online", "online_network.encoder."),
            EncoderPlace("target", "target_network.encoder."),
        ),
        (r"online_network\.encoder\.0\.weight",),
        drop=(r"(online|target)_network\.projetion\..*", r"predictor\..*"),
        rename=SEQUENTIAL,
    ),
    CheckpointLayout(
        "simclr-sthalles",
        "simclr",
        "sthalles/SimCLR: simclr.py, models/resnet_simclr.py; pictures 0..1",
        _bare("backbone."),
        (r"backbone\.conv1\.weight", r"backbone\.fc\.2\.weight"),
        (r"projector\..*", r"neck\..*"),
        drop=(r"backbone\.fc\..*",),
        preprocessing=UNIT,
    ),
    CheckpointLayout(
        "simclr-spijkervet",
        "simclr",
        "Spijkervet/SimCLR: simclr/simclr.py, model.py; pictures 0..1",
        _bare("encoder."),
        (r"encoder\.conv1\.weight", r"projector\.2\.weight"),
        (r"encoder_k\..*", r"/pytorch-lightning_version.*"),
        drop=(r"projector\..*", r"encoder\.fc\..*"),
        preprocessing=UNIT,
    ),
    CheckpointLayout(
        "simclr-converted",
        "simclr",
        "tonylins/simclr-converter: convert.py (from google-research/simclr); pictures 0..1",
        _bare(""),
        (r"conv1\.weight", r"fc\.weight"),
        drop=(r"fc\.(weight|bias)",),
        preprocessing=UNIT,
        only_forced=True,
    ),
    CheckpointLayout(
        "pixpro",
        "pixpro",
        "zdaxie/PixPro: main_pretrain.py, contrast/models/PixPro.py",
        (EncoderPlace("base", "encoder."), EncoderPlace("momentum", "encoder_k.")),
        (r"encoder\.conv1\.weight", r"encoder_k\.conv1\.weight", r"projector\..*"),
        drop=(
            r"projector(_instance)?(_k)?\..*",
            r"value_transform\..*",
            r"predictor\..*",
            r"encoder(_k)?\.fc\d?\..*",
        ),
    ),
    CheckpointLayout(
        "pycontrast",
        "unknown",
        "HobbitLong/PyContrast: learning/contrast_trainer.py, networks/build_backbone.py",
        (EncoderPlace("base", "encoder."), EncoderPlace("momentum", "encoder.", ("model_ema",))),
        (r"encoder\.conv1\.weight", r"head\.[02]\.weight"),
        drop=(r"head(_jig)?\..*",),
    ),
    replace(
        OPENSELFSUP,
        name="densecl",
        method="densecl",
        learnt="WXinlong/DenseCL: openselfsup/models/densecl.py",
        requires=(r"backbone\.conv1\.weight", r"queue2"),
        forbids=(),
        drop=(*OPENSELFSUP.drop, r"queue2(_ptr)?"),
    ),
    OPENSELFSUP,
    CheckpointLayout(
        "densecl-released",
        "densecl",
        "WXinlong/DenseCL: tools/extract_backbone_weights.py",
        _bare("", "backbone."),
        (r"(backbone\.)?conv1\.weight", r"/author=DenseCL"),
    ),
    CheckpointLayout(
        "detco",
        "detco",
        "xieenze/DetCo: README, benchmarks/detection/convert-pretrain-to-detectron2.py (bare"
        " names)",
        _bare(""),
        (r"conv1\.weight", r"/only=state_dict"),
        (r"fc\..*", r"prototypes\..*", r"projection_head\..*"),
        only_forced=True,
    ),
    CheckpointLayout(
        "detco-pytorch",
        "detco",
        "shuuchen/DetCo.pytorch: main_detco.py, detco/models.py (stages also under `layers.`)",
        MOCO.encoders,
        (r"encoder_q\.conv1\.weight", r"encoder_q\.layers\.0\..*"),
        drop=(r"encoder_[qk]\.(global|local)_mlps\..*", r"queue(_ptr)?"),
        twins=(
            ("layers.0.", "layer1."),
            ("layers.1.", "layer2."),
            ("layers.2.", "layer3."),
            ("layers.3.", "layer4."),
        ),
    ),
    CheckpointLayout(
        "vissl",
        "unknown",
        "facebookresearch/vissl: models/trunks/resnext.py, extra_scripts/convert_vissl_to_*.py",
        tuple(
            EncoderPlace("trunk", prefix, ("classy_state_dict/base_model/model/trunk", *ANYWHERE))
            for prefix in (
                "_feature_blocks.",
                "base_model._feature_blocks.",
                "trunk._feature_blocks.",
                "trunk.base_model._feature_blocks.",
            )
        ),
        (r"(trunk\.)?(base_model\.)?_feature_blocks\.conv1\.weight",),
        drop=(r".*_feature_blocks\.fc\d?\..*", r"heads\..*"),
    ),
    SOLO_LEARN,
    replace(
        SOLO_LEARN,
        name="solo-learn-old",
        learnt="vturrisi/solo-learn before 1.0.6: `encoder` for `backbone`",
        encoders=(EncoderPlace("base", "encoder."), EncoderPlace("momentum", "momentum_encoder.")),
        requires=(
            r"encoder\.conv1\.weight",
            r"classifier\.weight",
            r"/pytorch-lightning_version.*",
        ),
        drop=(*SOLO_LEARN.drop, r"(momentum_)?encoder\.fc\..*"),
    ),
    # a DINO of lightly has its teacher under `backbone.` and its student beside it
    CheckpointLayout(
        "lightly",
        "unknown",
        "lightly-ai/lightly: benchmarks/imagenet/resnet50/*.py, docs (Sequential backbones)",
        (
            EncoderPlace("student", "student_backbone."),
            EncoderPlace("query", "query_backbone."),
            EncoderPlace("base", "backbone."),
            EncoderPlace("teacher", "teacher_backbone."),
            EncoderPlace("key", "key_backbone."),
            EncoderPlace("momentum", "backbone_momentum."),
        ),
        (
            r"(student_|query_)?backbone\.(conv1|0)\.weight",
            r"(\w*projection_head\w*|student_head)\..*",
        ),
        drop=(
            r"\w*(projection|prediction)_head\w*\..*",
            r"(student|teacher)_head\..*",
            r"\w*backbone\w*\.fc\..*",
            r"(online|knn)_classifier\..*",
            r"(criterion|prototypes|queues|memory_bank)\..*",
            r"(queue|queue_ptr|center)",
        ),
        rename=SEQUENTIAL,
    ),
    TORCHVISION,
    replace(
        TORCHVISION,
        name="timm",
        learnt="huggingface/pytorch-image-models: timm/models/resnet.py",
        only_forced=True,
        vague=False,
    ),
    replace(
        TORCHVISION,
        name="byol-converted",
        method="byol",
        only_forced=True,
        vague=False,
        learnt="ajtejankar/byol-convert: convert.py (from google-deepmind's BYOL)",
    ),
    CheckpointLayout(
        "bare",
        "unknown",
        "the final files of facebookresearch/barlowtwins, vicreg and dino: torchvision's names, no"
        " classifier",
        _bare("", "backbone."),
        (r"(backbone\.)?conv1\.weight", r"(backbone\.)?layer4\..*"),
        (
            r"(backbone\.)?fc\..*",
            r"(neck|head|projector|classifier|prototypes|bn)\..*",
            r"\w*projection_head\w*\..*",
            r"(encoder_[qk]|online_net|target_net|momentum_encoder)\..*",
            r"queue\w*",
            r"student_head\..*",
            r"/author=DenseCL",
            MM_HEADS,
        ),
        drop=(r"(backbone\.)?fc\..*",),
        trunk_only=True,
        vague=True,
    ),
    CheckpointLayout(
        "caffe",
        "unknown",
        "open-mmlab/mmdetection: configs/*caffe*; jwyang/faster-rcnn.pytorch: README (Caffe's"
        " weights under torchvision's names)",
        _bare("", "backbone."),
        (r"(backbone\.)?conv1\.weight", r"(backbone\.)?layer4\..*"),
        drop=(r"(backbone\.)?fc\..*",),
        preprocessing=MSRA,
        only_forced=True,
    ),
    CheckpointLayout(
        "torchvision-detector",
        "unknown",
        "pytorch/vision: models/detection; facebookresearch/detr: models/backbone.py",
        _bare("backbone.body.", "backbone.0.body."),
        (r"backbone\.(0\.)?body\.conv1\.weight",),
        drop=(
            r"backbone\.fpn\..*",
            r"(rpn|roi_heads|head|transformer|class_embed|bbox_embed|query_embed|input_proj)\..*",
            r"(detr|bbox_attention|mask_head)\..*",
        ),
        vague=True,
    ),
    CheckpointLayout(
        "mmdetection",
        "unknown",
        "open-mmlab/mmdetection and mmsegmentation: models/detectors/*.py, segmentors/*.py",
        _bare("backbone."),
        (r"backbone\.conv1\.weight", MM_HEADS),
        drop=(
            MM_HEADS,
            r"(neck|transformer|encoder|decoder|positional_encoding|input_proj|level_embed)\b.*",
            r"(data_preprocessor|memory_trans\w*|\w+_fusion_head|loss\w*)\..*",
        ),
        vague=True,
    ),
    CheckpointLayout(
        "hugging-face",
        "unknown",
        "huggingface/transformers: models/resnet/modeling_resnet.py",
        _bare("resnet.", ""),
        (r"(resnet\.)?embedder\.embedder\.convolution\.weight",),
        drop=(r"classifier\..*",),
        rename=HUGGING_FACE,
    ),
    CheckpointLayout(
        "detectron2",
        "unknown",
        "facebookresearch/detectron2: tools/convert-torchvision-to-d2.py; that of MoCo, DetCo,"
        " VISSL; engine/defaults.py (model_final.pth)",
        _bare(""),
        (D2_STEM,),
        (r"/__author__=(Caffe2|Detectron2.*)", r"backbone\.stages\..*"),
        drop=D2_HEADS,
        rename=D2_TRUNK,
        vague=True,
    ),
    CheckpointLayout(
        "detectron2-msra",
        "supervised",
        "facebookresearch/detectron2: modeling/backbone/resnet.py, MODEL_ZOO.md (MSRA weights)",
        _bare(""),
        (D2_STEM, r"/__author__=(Caffe2|Detectron2.*)"),
        drop=D2_HEADS,
        rename=D2_TRUNK,
        preprocessing=MSRA,
        vague=True,
    ),
    CheckpointLayout(
        "msra",
        "supervised",
        "facebookresearch/detectron2: checkpoint/c2_model_loading.py"
        " (ImageNetPretrained/MSRA/R-50.pkl)",
        tuple(EncoderPlace("backbone", "", (at,)) for at in ("model", "blobs", "")),
        (r"conv1_w", r"res2_0_branch2a_w"),
        # Detectron2 ignores these too
        drop=(
            r"(fc1000|pred)_[wb]",
            r".*_momentum",
            r"(conv1|res\d_\d+_branch\d[abc]?)_b",
        ),
        rename=CAFFE2,
        preprocessing=MSRA,
        affine_norm=True,
    ),
    CheckpointLayout(
        "detco-checkpoint",
        "unknown",
        "this project: pretrain/moco.py, pretrain/checkpoints.py",
        (EncoderPlace("query", "query.trunk."), EncoderPlace("key", "key.trunk.")),
        (r"query\.trunk\.conv1\.weight", r"/identity"),
        drop=(r"(query|key)\.(global|local)_heads\..*", r"queues\..*"),
    ),
    CheckpointLayout(
        "detector-checkpoint",
        "unknown",
        "this project: transfer/engines/torchvision (checkpoint.pt of a job)",
        _bare("backbone.trunk.", "backbone."),
        (r"backbone\.(trunk\.)?stem\.conv1\.weight", r"backbone\.(trunk\.)?stages\.res2\..*"),
        drop=(r"(backbone\.(?!trunk\.|stem\.|stages\.)|head\.|rpn\.|roi_heads\.).*",),
        rename=((r"stem\.(.*)", r"\1"), (r"stages\.(.*)", r"\1"), *DETECTRON2),
        vague=True,
    ),
    CheckpointLayout(
        "supervised-checkpoint",
        "supervised",
        "this project: pretrain/supervised.py, pretrain/checkpoints.py",
        _bare("trunk."),
        (r"trunk\.conv1\.weight", r"/identity"),
        drop=(r"fc\.(weight|bias)",),
    ),
    *OTHERS,
)
