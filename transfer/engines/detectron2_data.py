"""Our data sets for Detectron2: its records, its mapper and loaders, and batches that depend on (seed, iteration) alone."""

from collections.abc import Iterator

import numpy as np
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import BoxMode
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import Sampler

from .. import InputError, layout_cityscapes
from ..datasets import Dataset
from ..layouts import short

IGNORED = 255  # class number of pixels that are neither trained on nor scored


def records(dataset: Dataset, semantic: bool = False) -> list[dict]:
    """The pictures in Detectron2's standard format: 0-based XYWH boxes, class numbers in the order of the categories."""
    number = {category["id"]: i for i, category in enumerate(dataset.categories)}
    found = {image["id"]: _picture(image, semantic) for image in dataset.images}
    if not semantic:
        for a in dataset.annotations:
            found[a["image_id"]]["annotations"].append(_object(a, number[a["category_id"]]))
    return list(found.values())


def _picture(image: dict, semantic: bool) -> dict:
    record = {key: image[key] for key in ("file_name", "height", "width")} | {"image_id": image["id"]}
    if semantic:
        return record | {"sem_seg_file_name": str(layout_cityscapes.truth(image["file_name"], "labelIds"))}
    return record | {"annotations": []}


def _object(annotation: dict, number: int) -> dict:
    """Coordinates as floats: Detectron2 resizes whole numbers in place, and so cuts off their fractions."""
    box = [float(value) for value in annotation["bbox"]]
    record = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": number, "iscrowd": annotation["iscrowd"]}
    mask = annotation.get("segmentation")
    if mask:
        record["segmentation"] = mask if isinstance(mask, dict) else [[float(value) for value in polygon] for polygon in mask]
    if "keypoints" in annotation:  # COCO's are numbers of pixels, Detectron2's continuous
        record["keypoints"] = [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(annotation["keypoints"])]
    return record


def mask_format(dataset: Dataset) -> str:
    """`polygon` as published, unless an object to train on has its mask as RLE."""
    masks = (a["segmentation"] for a in dataset.annotations if not a["iscrowd"] and a.get("segmentation"))
    return "polygon" if all(isinstance(mask, list) for mask in masks) else "bitmask"


def describe(dataset: Dataset) -> str:
    """Enter a data set's classes and keypoints into Detectron2's catalog; returns its name there."""
    name = f"{dataset.name}_{dataset.fingerprint[:8]}"
    if name in MetadataCatalog:  # perhaps with other categories of the same pictures
        MetadataCatalog.remove(name)
    meta = MetadataCatalog.get(name)
    meta.set(thing_classes=[category["name"] for category in dataset.categories])
    points = next((c for c in dataset.categories if c.get("keypoints")), None)
    if points:
        meta.set(keypoint_names=points["keypoints"], keypoint_flip_map=[tuple(pair) for pair in points["keypoint_flip"]])
    return name


def trainable(cfg, dataset: Dataset) -> list[dict]:
    """The training records with something to learn from, as Detectron2 filters them. Raises InputError if none is left."""
    (name,) = cfg.DATASETS.TRAIN
    semantic = cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor"
    least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    DatasetCatalog.register(name, lambda: records(dataset, semantic))
    try:
        return get_detection_dataset_dicts(name, min_keypoints=least)
    except AssertionError:
        what = "visible keypoints" if least else "objects"
        raise InputError(f"{dataset.root}: no picture of split {dataset.split} has {what}") from None
    finally:
        DatasetCatalog.remove(name)


class Mapper(DatasetMapper):
    """Detectron2's mapper; pictures that cannot be read become an InputError, Cityscapes' label ids class numbers."""

    def __call__(self, record: dict) -> dict:
        try:
            mapped = super().__call__(record)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"cannot read the picture {record['file_name']}: {short(error)}") from None
        if "sem_seg" in mapped:
            mapped["sem_seg"] = CLASS_OF_LABEL[mapped["sem_seg"]]
        return mapped


CLASS_OF_LABEL = torch.full((256,), IGNORED)
CLASS_OF_LABEL[list(layout_cityscapes.SEMANTIC)] = torch.arange(len(layout_cityscapes.SEMANTIC))


class RandomScale(T.Augmentation):
    """Resize by a factor drawn uniformly from [low, high]."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self._init({"low": low, "high": high})

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        factor = self._rand_range(self.low, self.high)
        return T.ResizeTransform(height, width, int(height * factor + 0.5), int(width * factor + 0.5))


def mapper(cfg, train: bool) -> Mapper:
    """The config's mapper; with INPUT.SCALE_TRAIN pictures are scaled, cropped and flipped."""
    scale = cfg.INPUT.get("SCALE_TRAIN")
    if not (train and scale):
        return Mapper(cfg, train)
    crop = T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
    return Mapper(cfg, train, augmentations=[RandomScale(*scale), crop, T.RandomFlip()])


class Batches(Sampler):
    """This process's share of endless shuffled passes, in batches of wide or of tall pictures, from batch `start` on.

    Yields (record, batch, place in the batch). Detectron2 shuffles (TrainingSampler); the grouping is done here and not in
    its loader so that training can go on at any batch, with any number of loading processes.
    """

    def __init__(self, tall: list[bool], size: int, seed: int, start: int = 0):
        self.tall, self.size, self.seed, self.start = tall, size, seed, start

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        waiting: dict[bool, list[int]] = {False: [], True: []}
        batch = 0
        for record in TrainingSampler(len(self.tall), seed=self.seed):
            group = waiting[self.tall[record]]
            group.append(record)
            if len(group) == self.size:
                if batch >= self.start:
                    yield from ((record, batch, place) for place, record in enumerate(group))
                batch += 1
                group.clear()


class Drawn(torch.utils.data.Dataset):
    """Mapped records by the keys of `Batches`; what is random about one is drawn from (seed, process, batch, place)."""

    def __init__(self, items: list[dict], mapping: Mapper, seed: int):
        self.items, self.mapping, self.seed = DatasetFromList(items, copy=False), mapping, (seed & 0xFFFFFFFF, comm.get_rank())

    def __getitem__(self, key: tuple[int, int, int]) -> dict:
        record, batch, place = key
        np.random.seed(np.random.SeedSequence((*self.seed, batch, place)).generate_state(4))  # Detectron2 draws from numpy
        return self.mapping(self.items[record])


def train_loader(cfg, batches: Batches, items: list[dict]):
    """Detectron2's loader over the batches of this process."""
    return build_detection_train_loader(
        Drawn(items, mapper(cfg, True), cfg.SEED), mapper=None, sampler=batches, total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False, num_workers=cfg.DATALOADER.NUM_WORKERS,
    )  # fmt: skip


def test_loader(cfg, dataset: Dataset):
    """Detectron2's loader over this process's share of the test pictures, one at a time."""
    bare = [{k: v for k, v in _picture(image, False).items() if k != "annotations"} for image in dataset.images]
    return build_detection_test_loader(dataset=bare, mapper=mapper(cfg, False), num_workers=cfg.DATALOADER.NUM_WORKERS)
