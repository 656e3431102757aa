"""The engine `torchvision`: the same architectures from torchvision's parts, for where Detectron2
is not installed."""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.nn.precise_bn import update_bn_stats
from pycocotools import mask as rle
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detco.common import backbone_file, loading
from detco.common.device import fast_bf16
from detco.common.errors import InputError, TrainingError
from detco.common.files import write_atomic
from detco.common.progress import Report

from ... import detector
from ...detections import Picture
from ...detector import TrainedDetector
from ...settings import Protocol, Schedule
from .. import EngineJob, Outcome, replacing
from ..networks import regroup
from ..replacing import Replaced
from .models import build
from .pictures import (
    CACHE_BYTES,
    DetectionPictures,
    Drawn,
    Tested,
    Wanted,
    batches,
    placed,
    resized,
)

# Where torchvision's parts differ from Detectron2's, whatever the protocol.
DEVIATIONS = (
    "torchvision parts: smooth L1 beta 1/9 for boxes in the R-CNNs (Detectron2: 0)",
    (
        "torchvision parts: RetinaNet's losses are averaged over pictures, each by its own"
        " positives (Detectron2: running mean)"
    ),
    (
        "torchvision parts: in C4 the mask head runs res5 once more, on the positive boxes"
        " (Detectron2: shares the pass)"
    ),
)
OF_ARCHITECTURE = {"faster-rcnn-c4": (0,), "retinanet": (1,), "mask-rcnn-c4": (0, 2)}
CHECKPOINT_SECONDS = 60
log = logging.getLogger("detco.transfer")


def run(job: EngineJob, report: Report) -> Outcome:
    """Fine-tune, predict the test pictures, write `predictions.json`. Raises TrainingError,
    InputError."""
    precision = precision_for(job.device)
    protocol = job.protocol
    wanted = Wanted(
        job.backbone.channel_order,
        "mask" in protocol.metrics,
        "keypoint" in protocol.metrics,
        first_label(protocol),
    )
    names = next((c["keypoints"] for c in job.train.categories if c.get("keypoints")), [])
    torch.manual_seed(job.seed)
    model = build(protocol, job.backbone, len(job.train.categories), len(names), precision).to(
        job.device
    )
    train = DetectionPictures(job.train, wanted, protocol.resize.train_max)
    replaced = Replaced(job.train, len(train.trainable()))
    seconds = fit(model, train, job, report, replaced)
    if protocol.schedule.precise_bn:
        _precise_bn(model, train, job, report, replaced)
    predictions = predict(
        model, DetectionPictures(job.test, wanted, protocol.resize.test_max), job, report
    )
    path = job.out / "predictions.json"
    write_atomic(path, json.dumps(predictions))
    if job.keep_model:
        detector.save(job, "torchvision", model.state_dict(), protocol.schedule.iterations)
    facts = {
        "precision": str(precision or torch.float32).removeprefix("torch."),
        "train_seconds": round(seconds, 1),
    }
    facts |= replaced.facts()
    always = tuple(DEVIATIONS[i] for i in OF_ARCHITECTURE.get(protocol.architecture, (0,)))
    return Outcome(path, always + replacing.deviations(facts), facts, (job.out / "checkpoint.pt",))


def first_label(protocol: Protocol) -> int:
    """The number of the first class: the R-CNNs call the background 0."""
    return 0 if protocol.architecture == "retinanet" else 1


def precision_for(device: str) -> torch.dtype | None:
    """bf16 where the device multiplies it natively; None means float32."""
    return torch.bfloat16 if fast_bf16(device) else None


def fit(
    model: nn.Module,
    pictures: DetectionPictures,
    job: EngineJob,
    report: Report,
    replaced: Replaced,
) -> float:
    """Train to the end of the schedule, from the job's checkpoint if there is one; returns the
    seconds spent training."""
    schedule, checkpoint = job.protocol.schedule, job.out / "checkpoint.pt"
    optimizer = make_optimizer(model, schedule)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: lr_factor(schedule, i))
    start, seconds = _restore(checkpoint, model, optimizer, rate, replaced)
    model.train()
    clock = saved = time.monotonic()
    for iteration, batch in zip(
        range(start, schedule.iterations), _train_batches(pictures, job, start, replaced)
    ):
        # the samplers of anchors and RoIs: the same after a restart
        torch.manual_seed(job.seed * 1_000_003 + iteration)
        losses = model(*_to_model(batch, job.device))
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            bad = ", ".join(
                f"{k} = {float(v.detach())}" for k, v in losses.items() if not torch.isfinite(v)
            )
            raise TrainingError(
                f"loss not finite at iteration {iteration}: {bad}; lower schedule.lr"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if schedule.clip:
            nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        rate.step()
        report(
            "train",
            iteration + 1,
            schedule.iterations,
            loss=float(loss.detach()),
            lr=float(max(rate.get_last_lr())),
        )
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            saved = time.monotonic()
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "rate": rate.state_dict(),
            }
            state |= {
                "iteration": iteration + 1,
                "seconds": seconds + saved - clock,
                "replaced": replaced.state_dict(),
            }
            write_atomic(checkpoint, partial(torch.save, state))
    return seconds + time.monotonic() - clock


NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Norm layers are not decayed (Detectron2's WEIGHT_DECAY_NORM 0)."""
    plain = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if id(p) not in plain],
            "weight_decay": schedule.weight_decay,
        },
        {"params": [p for p in trained if id(p) in plain], "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, schedule.lr, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, schedule.lr, momentum=schedule.momentum, fused=True)
    regroup(optimizer, model, schedule.layer_decay)
    return optimizer


def lr_factor(schedule: Schedule, iteration: int) -> float:
    """Factor on the learning rate at an iteration: linear warm-up, as Detectron2, then
    steps or half a cosine."""
    if iteration < schedule.warmup:
        alpha = iteration / schedule.warmup
        warm = schedule.warmup_from * (1 - alpha) + alpha
    else:
        warm = 1.0
    return warm * schedule.decayed(iteration)


def _loader(items: Drawn | Tested, keys, protocol: Protocol) -> Iterator[list]:
    """Worker processes only for sets that do not fit into the cache; what fits is decoded
    once and kept."""
    pixels = sum(image["width"] * image["height"] * 3 for image in items.dataset.images)
    workers = 0 if pixels <= CACHE_BYTES else min(8, os.cpu_count() or 1)
    resize = protocol.resize
    largest = 3 * max(*resize.train, resize.test) * max(resize.train_max, resize.test_max)
    workers = loading.fitting(workers, protocol.schedule.images * largest)
    timeout = loading.TIMEOUT if workers else 0
    return loading.batches(
        DataLoader(items, batch_sampler=keys, num_workers=workers, collate_fn=list, timeout=timeout)
    )


def _train_batches(
    pictures: DetectionPictures, job: EngineJob, start: int, replaced: Replaced
) -> Iterator[list[tuple[torch.Tensor, dict]]]:
    """The batches from iteration `start` on; pictures that cannot be read are
    replaced and counted."""
    keys = batches(pictures, job.protocol.resize, job.protocol.schedule.images, job.seed, start)
    for found in _loader(Drawn(pictures, job.seed), placed(keys, start), job.protocol):
        items, broken = replacing.items_of(found)
        replaced.add(broken)
        yield items


def _to_model(
    batch: list[tuple[torch.Tensor, dict]], device: str
) -> tuple[list[torch.Tensor], list[dict]]:
    pictures = [picture.to(device).float() for picture, _ in batch]
    return pictures, [{k: v.to(device) for k, v in target.items()} for _, target in batch]


class _OneArgument(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model(*inputs)


def _precise_bn(
    model: nn.Module,
    pictures: DetectionPictures,
    job: EngineJob,
    report: Report,
    replaced: Replaced,
) -> None:
    schedule = job.protocol.schedule
    heads: Any = getattr(model, "roi_heads", None)
    # C4's mask head runs the norms of the box head once more, which fvcore refuses
    masks = heads and heads.mask_head
    if masks:
        heads.mask_head = None

    def data():
        for i, batch in enumerate(_train_batches(pictures, job, schedule.iterations, replaced)):
            report("precise BN", i, schedule.precise_bn)
            yield _to_model(batch, job.device)

    torch.manual_seed(job.seed)
    with torch.no_grad():
        update_bn_stats(_OneArgument(model), data(), schedule.precise_bn)
    if masks:
        heads.mask_head = masks


@torch.inference_mode()
def predict(
    model: nn.Module, pictures: DetectionPictures, job: EngineJob, report: Report
) -> list[dict]:
    """Detections of every test picture as COCO results, in the pixels of the original picture."""
    model.eval()
    numbers, step, found = list(range(len(pictures.dataset.images))), at_once(job.protocol), []
    short = job.protocol.resize.test
    keys = [
        [(n, short, False) for n in numbers[i : i + step]] for i in range(0, len(numbers), step)
    ]
    for batch_keys, batch in zip(keys, _loader(Tested(pictures), keys, job.protocol)):
        replacing.refuse(batch)
        inputs = [picture.to(job.device).float() for picture, _ in batch]
        for (number, _, _), picture, detections in zip(batch_keys, inputs, model(inputs)):
            image = pictures.dataset.images[number]
            found += to_coco(
                detections, image, picture.shape[-2:], pictures.dataset.categories, job.protocol
            )
        report("predict", batch_keys[-1][0] + 1, len(numbers))
    return found


def at_once(protocol: Protocol) -> int:
    """Pictures predicted together. They are padded to one size, which shows in the last digits:
    always as many."""
    return max(1, min(8, protocol.schedule.images))


def to_coco(
    detections: dict,
    image: dict,
    shape: tuple[int, int],
    categories: Sequence[dict],
    protocol: Protocol,
) -> list[dict]:
    """One picture's detections at the network's size `shape` (H, W) -> COCO results at the
    picture's own size."""
    sy, sx = image["height"] / shape[0], image["width"] / shape[1]
    # 64 bit, so that VOC's rounding to 0.1 pixel sees x + w give back the right edge exactly
    boxes = detections["boxes"].cpu().double() * torch.tensor([sx, sy, sx, sy], dtype=torch.float64)
    boxes[:, 0::2].clamp_(0, image["width"])
    boxes[:, 1::2].clamp_(0, image["height"])
    ids, first = [category["id"] for category in categories], first_label(protocol)
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
    labels, scores = detections["labels"].tolist(), detections["scores"].tolist()
    results = [
        {"image_id": image["id"], "category_id": ids[label - first], "bbox": box, "score": score}
        for box, label, score in zip(xywh, labels, scores)
    ]
    if "mask" in protocol.metrics and results:
        masks = (
            paste_masks_in_image(
                detections["masks"].cpu(), boxes.float(), (image["height"], image["width"])
            )[:, 0]
            >= 0.5
        )
        for result, mask in zip(results, masks.numpy()):
            coded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            result["segmentation"] = {
                "size": list(coded["size"]),
                "counts": coded["counts"].decode(),
            }
    if "keypoint" in protocol.metrics and results:
        points = detections["keypoints"].cpu()
        points[..., 0], points[..., 1] = points[..., 0] * sx - 0.5, points[..., 1] * sy - 0.5
        for result, own, scores in zip(results, points, detections["keypoints_scores"].cpu()):
            own[:, 2] = scores
            result["keypoints"] = own.flatten().tolist()
    return results


@torch.inference_mode()
def detect(
    trained: TrainedDetector, pictures: Iterable[Picture], device: str
) -> Iterator[tuple[Picture, list[dict]]]:
    """COCO results of each picture, as `predict` gives them for the same pictures in the same
    order. Raises InputError."""
    protocol, trunk = trained.protocol, trained.backbone
    start = backbone_file.random_twin(trunk, 0)
    model = build(
        protocol, start, len(trained.categories), len(trained.keypoints), precision_for(device)
    ).to(device)
    detector.fill(model, trained)
    model.eval()
    waiting = iter(pictures)
    while batch := list(islice(waiting, at_once(protocol))):
        arrays = [
            resized(p.pixels, protocol.resize.test, protocol.resize.test_max, trunk.channel_order)
            for p in batch
        ]
        inputs = [
            torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1))).to(device).float()
            for a in arrays
        ]
        for picture, given, found in zip(batch, inputs, model(inputs)):
            yield (
                picture,
                to_coco(found, picture.image, given.shape[-2:], trained.categories, protocol),
            )


def export(trained: TrainedDetector, folder: Path) -> dict:
    """Its layers are torchvision's: no Detectron2 config describes them."""
    raise InputError(
        "a detector of the engine torchvision cannot be loaded by Detectron2 (other layers): train"
        f" {trained.protocol.name} with --engine detectron2 --keep-model"
    )


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _restore(
    checkpoint: Path, model: nn.Module, optimizer, rate, replaced: Replaced
) -> tuple[int, float]:
    if not checkpoint.exists():
        return 0, 0.0
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        parts = [state[key] for key in ("model", "optimizer", "rate", "iteration", "seconds")]
        if _shapes(parts[0]) != _shapes(model.state_dict()):
            raise ValueError("another version of this project wrote it, for another network")
    except Exception as error:  # a damaged disk, or a file of something else
        log.warning("%s cannot be read (%s); training begins anew", checkpoint, error)
        return 0, 0.0
    model.load_state_dict(parts[0])
    optimizer.load_state_dict(parts[1])
    rate.load_state_dict(parts[2])
    replaced.load_state_dict(state.get("replaced", {}))
    return parts[3], parts[4]
