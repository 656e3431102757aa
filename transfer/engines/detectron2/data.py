"""Our data sets for Detectron2: its records, its mapper, and batches that depend on (seed,
iteration) alone.

The training loader is our own: the release of 2021 starts its iterator too early for a restart, and
its batches depend on the number of loading processes.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from detectron2.utils.file_io import PathHandler, PathManager
from torch.utils.data import DataLoader, Sampler

from detco.common import loading
from detco.common.images import Range, open_image, orientation, upright_size

from ...data import cityscapes
from ...data.dataset import Dataset
from ...data.inspection import Unreadable, fault_now
from ...data.reading import short
from ..replacing import Broken, items_of, readable, untestable
from ..torchvision.pictures import read_rgb
from .records import Records, picture, scaled

IGNORED = 255  # class number of pixels that are neither trained on nor scored


def describe(dataset: Dataset) -> str:
    """Enter a data set's classes and keypoints into Detectron2's catalog; returns
    its name there."""
    name = f"{dataset.name}_{dataset.fingerprint[:8]}"
    if name in MetadataCatalog:  # perhaps with other categories of the same pictures
        MetadataCatalog.remove(name)
    meta = MetadataCatalog.get(name)
    meta.set(thing_classes=[category["name"] for category in dataset.categories])
    points = next((c for c in dataset.categories if c.get("keypoints")), None)
    if points:
        meta.set(
            keypoint_names=points["keypoints"],
            keypoint_flip_map=[tuple(pair) for pair in points["keypoint_flip"]],
        )
    return name


class OurImages(PathHandler):
    """Opens `detco:LOW,HIGH:PATH` and `detco::PATH`: the image as detco.common.images reads it, by
    a range of values or without, as a file that Detectron2 reads like any other. Detectron2 itself
    clips more than 8 bits to white."""

    PREFIX = "detco:"

    @classmethod
    def prefix(cls, value_range: Range | None) -> str:
        return f"{cls.PREFIX}{','.join(map(repr, value_range or ()))}:"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_) -> io.BytesIO:
        numbers, path = path.removeprefix(self.PREFIX).split(":", 1)
        low, high = map(float, numbers.split(",")) if numbers else (0.0, 0.0)
        file = io.BytesIO()
        read_rgb(path, value_range=(low, high) if numbers else None).save(file, "PPM")
        file.seek(0)
        return file


PathManager.register_handler(OurImages(), allow_override=True)


class Mapper:
    """A mapper of Detectron2, given images as this project opens them; Cityscapes' label ids become
    class numbers. With INPUT.OPENED_AS, a prefix of OurImages, that opens the images. An image so
    large that its decoder reduces it is trained on with its labels reduced alike.

    Raises Unreadable for a picture to train on, InputError for one to test on.
    """

    def __init__(self, theirs: Callable[[dict], dict], cfg, is_train: bool = True):
        self.theirs, self.is_train = theirs, is_train
        self.opened_as = cfg.INPUT.get("OPENED_AS", "")

    def __call__(self, record: dict) -> dict:
        try:
            mapped = self.theirs(self._opened(record))
            mapped |= {key: record[key] for key in ("file_name", "height", "width")}
        except MemoryError:
            raise
        except (
            Exception
        ) as error:  # Pillow raises many kinds, also those that mistakes elsewhere raise
            reason = _fault(record)
            if not reason and not isinstance(error, OSError):  # a disk may fail once
                raise
            told = Unreadable(
                reason or f"cannot read the picture {record['file_name']}: {short(error)}",
                record["file_name"],
            )
            raise (told if self.is_train else untestable(told)) from None
        if "sem_seg" in mapped:
            mapped["sem_seg"] = CLASS_OF_LABEL[mapped["sem_seg"]]
        return mapped

    def _opened(self, record: dict) -> dict:
        """The record as Detectron2's mapper is to read it. Raises what `open_image` does, as
        Detectron2 would open whatever Pillow can."""
        path = record["file_name"]
        for other in _images(record)[1:]:
            open_image(other).close()
        with open_image(path) as image:
            width, height = image.size[::-1] if orientation(image) >= 5 else image.size
            full = upright_size(image)
        if full == (width, height):
            return record | {"file_name": self.opened_as + path}
        opened_as = self.opened_as or OurImages.prefix(None)
        if full != (record["width"], record["height"]):
            return record | {"file_name": opened_as + path}
        return scaled(record, width, height) | {"file_name": opened_as + path}


def _images(record: dict) -> list[str]:
    """A record's image and, of classes of pixels, its image of labels."""
    return [record[key] for key in ("file_name", "sem_seg_file_name") if key in record]


def _fault(record: dict) -> str:
    """What is wrong with a record's picture or its picture of labels; "" if nothing."""
    faults = (fault_now(record | {"file_name": path}) for path in _images(record))
    return next(filter(None, faults), "")


CLASS_OF_LABEL = torch.full((256,), IGNORED)
CLASS_OF_LABEL[list(cityscapes.SEMANTIC)] = torch.arange(len(cityscapes.SEMANTIC))


class RandomScale(T.Augmentation):
    """Resize by a factor drawn uniformly from [low, high]."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self._init({"low": low, "high": high})

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        factor = self._rand_range(self.low, self.high)
        return T.ResizeTransform(
            height, width, int(height * factor + 0.5), int(width * factor + 0.5)
        )


def mapper(cfg, train: bool) -> Mapper:
    """The config's mapper; with INPUT.SCALE_TRAIN pictures are scaled, cropped and flipped."""
    if cfg.MODEL.get("DENSEPOSE_ON"):
        from densepose.data import DatasetMapper as PeopleMapper  # mirrors points and masks too

        return Mapper(PeopleMapper(cfg, train), cfg, train)
    scale, more = cfg.INPUT.get("SCALE_TRAIN"), {}
    if train and scale:
        crop = T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
        more = {"augmentations": [RandomScale(*scale), crop, T.RandomFlip()]}
    return Mapper(DatasetMapper(cfg, train, **more), cfg, train)


class GroupedBatches(Sampler):
    """This process's share of endless shuffled passes, in batches of wide or of tall pictures, from
    batch `start` on.

    Yields lists of (record, batch, place in the batch). Detectron2 shuffles (TrainingSampler); the
    grouping is done here so that training can go on at any batch, and batches are the same with any
    number of loading processes.
    """

    def __init__(self, tall: np.ndarray, size: int, seed: int, start: int = 0):
        self.tall, self.size, self.seed, self.start = tall, size, seed, start

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        waiting: dict[bool, list[int]] = {False: [], True: []}
        batch = 0
        for record in TrainingSampler(len(self.tall), seed=self.seed):
            group = waiting[bool(self.tall[record])]
            group.append(record)
            if len(group) == self.size:
                if batch >= self.start:
                    yield [(record, batch, place) for place, record in enumerate(group)]
                batch += 1
                group.clear()


class MappedRecords(torch.utils.data.Dataset):
    """Mapped records by the keys of `GroupedBatches`, each with what could not be read
    in its place.

    What is random about one is drawn from (seed, process, batch, place).
    """

    def __init__(self, records: Records, mapping: Mapper, seed: int):
        self.records, self.mapping, self.seed = (
            records,
            mapping,
            (seed & 0xFFFFFFFF, comm.get_rank()),
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[dict | None, list[Broken]]:
        record, batch, place = key
        draw = (*self.seed, batch, place)
        return readable(partial(self._mapped, draw), record, self.others, draw)

    def _mapped(self, draw: tuple[int, ...], record: int) -> dict:
        # Detectron2 draws from numpy
        np.random.seed(np.random.SeedSequence(draw).generate_state(4))
        return self.mapping(self.records[record])

    def others(self, record: int) -> np.ndarray:
        """What may take a record's place: as wide or as tall as the rest of its batch."""
        tall, numbers = self.records.tall, np.arange(len(self.records))
        alike = numbers[(tall == tall[record]) & (numbers != record)]
        return alike if len(alike) else numbers[numbers != record]


class TrainLoader:
    """Batches of mapped records from batch `start` on; nothing is started before the first batch is
    asked for.

    Detectron2's trainers ask for an iterator at different moments: the release of 2021 when it is
    made, before a checkpoint has said where to go on. broken: list that collects what could not be
    read and was replaced.
    """

    def __init__(self, cfg, records: Records, start: int = 0, broken: list[Broken] | None = None):
        self.cfg, self.records, self.start = cfg, records, start
        self.broken = [] if broken is None else broken

    def __iter__(self) -> Iterator[list[dict]]:
        cfg = self.cfg
        batches = GroupedBatches(
            self.records.tall,
            cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
            cfg.SEED,
            self.start,
        )
        # All processes of a machine share its memory; masks take about as much as the picture.
        largest = 2 * 3 * max(cfg.INPUT.MIN_SIZE_TRAIN) * cfg.INPUT.MAX_SIZE_TRAIN
        workers = loading.fitting(cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH * largest)
        loader = DataLoader(
            MappedRecords(self.records, mapper(cfg, True), cfg.SEED),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=list,
            timeout=loading.TIMEOUT if workers else 0,
            generator=torch.Generator(),  # of its own: no draw is taken from the training's
        )
        for found in loading.batches(loader):
            items, broken = items_of(found)
            self.broken += broken
            yield items


def test_loader(cfg, dataset: Dataset):
    """Detectron2's loader over this process's share of the test pictures, one at a time."""
    bare = [picture(image) for image in dataset.images]
    return build_detection_test_loader(
        dataset=bare, mapper=mapper(cfg, False), num_workers=cfg.DATALOADER.NUM_WORKERS
    )
