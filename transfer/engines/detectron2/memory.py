"""How much GPU memory training takes, before it starts."""

import logging

import torch

from detco.common.errors import InputError

from .launch import LESS_MEMORY
from .models import assemble

log = logging.getLogger("detco.transfer")
GIB = 2**30


def check(cfg, images: int) -> None:
    """For `images` pictures on this GPU: InputError if they cannot fit, a warning if pictures of
    the largest size may not."""
    if cfg.MODEL.DEVICE != "cuda":
        return
    needed, there = estimate(cfg, images), torch.cuda.mem_get_info()[1]
    text = (
        f"{images} pictures of the largest size need about {needed / GIB:.1f} GiB on a GPU, it has"
        f" {there / GIB:.1f} GiB"
    )
    if needed > 1.5 * there:  # most pictures are smaller
        raise InputError(f"{text}: {LESS_MEMORY}")
    if needed > 0.8 * there:
        log.warning("%s: should memory run out, %s", text, LESS_MEMORY)


def estimate(cfg, images: int) -> int:
    """Bytes of parameters, gradients, optimizer state and of what trunk and dense heads keep for
    the backward pass.

    Nothing is allocated: the model is built on torch's meta device and run on pictures of the
    largest size.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = assemble(cfg).train()
        pictures = torch.empty(images, 3, *largest(cfg))
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    kept = {}  # by storage; holding the tensors keeps their storages apart

    def pack(tensor):
        if tensor.untyped_storage()._cdata not in parameters:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        heads(cfg, model, images, model.backbone(pictures))
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    states = 4 if cfg.SOLVER.get("OPTIMIZER") == "ADAMW" else 3
    return states * 4 * sum(p.numel() for p in model.parameters()) + saved // (
        2 if cfg.SOLVER.AMP.ENABLED else 1
    )


def largest(cfg) -> tuple[int, int]:
    if cfg.INPUT.CROP.ENABLED:
        return tuple(cfg.INPUT.CROP.SIZE)
    short, long = max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN
    return -(-short // 32) * 32, -(-long // 32) * 32


def heads(cfg, model, images: int, features: dict) -> None:
    """Run what is applied to whole pictures, and C4's res5 on all RoIs."""
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        model.head([features[name] for name in cfg.MODEL.RETINANET.IN_FEATURES])
    elif cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        model.sem_seg_head.predictor(model.sem_seg_head.convs(features["res5"]))
    else:
        model.proposal_generator.rpn_head([features[name] for name in cfg.MODEL.RPN.IN_FEATURES])
        if hasattr(model.roi_heads, "res5"):
            width, side = features["res4"].shape[1], cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
            rois = images * cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
            model.roi_heads.res5(torch.empty(rois, width, side, side, device="meta"))
