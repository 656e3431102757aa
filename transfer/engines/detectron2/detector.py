"""A kept detector of the engine `detectron2`: built again, and run on any pictures."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from torch import nn

from ... import detector
from ...detections import Picture
from ...detector import TrainedDetector
from . import config as detectron2_config
from .models import assemble
from .predict import to_coco


def config(trained: TrainedDetector, device: str):
    """The config of the detector in one process: its norms are BN, which SyncBN is too where
    nothing is trained."""
    run = detectron2_config.RunConfig(
        classes=len(trained.categories),
        keypoints=len(trained.keypoints) or 17,
        datasets=((), ()),
        processes=1,
        device=device,
    )
    return detectron2_config.resolve(trained.protocol, trained.backbone, run)


def build(trained: TrainedDetector, cfg) -> nn.Module:
    """The detector, ready to predict. Raises InputError where its tensors are not those of the
    config's model."""
    model = assemble(cfg)
    detector.fill(model, trained)
    return model.eval()


@torch.no_grad()
def detect(
    trained: TrainedDetector, pictures: Iterable[Picture], device: str
) -> Iterator[tuple[Picture, list[dict]]]:
    """COCO results of each picture, as a run gives them for its test pictures. Raises
    InputError."""
    cfg = config(trained, device)
    model, resize = build(trained, cfg), T.AugmentationList(build_augmentation(cfg, is_train=False))
    categories = [category["id"] for category in trained.categories]
    for picture in pictures:
        pixels = np.asarray(picture.pixels)
        given = T.AugInput(pixels[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else pixels)
        resize(given)
        tensor = torch.from_numpy(np.ascontiguousarray(given.image.transpose(2, 0, 1)))
        (found,) = model(
            [{"image": tensor, **{key: picture.image[key] for key in ("height", "width")}}]
        )
        yield picture, to_coco(found, picture.image["id"], categories)
