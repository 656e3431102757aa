"""Our data sets as Detectron2 sees them: records, batches that a restart repeats, pictures that
cannot be read."""

import json
import pickle
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from detco.common import backbone_file
from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.data import dataset as datasets
from detco.transfer.data import masks
from detco.transfer.data.cityscapes import SEMANTIC, truth
from detco.transfer.engines import EngineJob
from detco.transfer.engines.torchvision.pictures import DetectionPictures, Wanted, resized_shape
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.settings import Resize
from tests.factories.deep import deepened

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
from detectron2.data import DatasetCatalog, get_detection_dataset_dicts
from detectron2.utils import comm

from detco.transfer.engines.detectron2 import config as detectron2_config
from detco.transfer.engines.detectron2 import data as detectron2_data
from detco.transfer.engines.detectron2 import engine
from detco.transfer.engines.detectron2 import records as detectron2_records


def config(name: str, dataset, mask_format: str = "bitmask", **more):
    row = PROTOCOLS[name]
    row = replace(
        row, resize=replace(row.resize, train=(64,), test=64, crop=100 if row.resize.crop else 0)
    )
    points = next((len(c["keypoints"]) for c in dataset.categories if c.get("keypoints")), 17)
    own = detectron2_data.describe(dataset)
    circumstances = detectron2_config.RunConfig(
        classes=len(dataset.categories),
        keypoints=points,
        mask_format=mask_format,
        datasets=((own,), (own,)),
        device="cpu",
        seed=5,
        processes=1,
        workers=0,
        **more,
    )
    cfg = detectron2_config.resolve(row, backbone_file.Backbone("resnet18", {}), circumstances)
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


@pytest.fixture
def write(tmp_path):
    """The training records of a data set, in a file."""
    return lambda dataset, **more: detectron2_records.write(
        dataset, tmp_path / "records.json", **more
    )


@pytest.mark.parametrize("keypoints", [False, True])
def test_pictures_and_targets_are_those_of_the_torchvision_engine(keypoints, scenes, write):
    """Two independent ways from a record to tensors; resized without a flip, to half a pixel and
    grey level."""
    dataset = datasets.load("coco", scenes / "coco", "val", keypoints=keypoints)
    cfg = config("small-keypoint-rcnn" if keypoints else "small-mask-rcnn-fpn", dataset)
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN = "none", (48,)
    mapper = detectron2_data.mapper(cfg, True)
    pictures = DetectionPictures(dataset, Wanted("RGB", not keypoints, keypoints, 0), 192)
    records = {
        record["image_id"]: record for record in write(dataset, least_keypoints=int(keypoints))
    }
    assert set(records) == {dataset.images[number]["id"] for number in pictures.trainable()}
    for number in pictures.trainable()[:4]:
        pixels, target = pictures[number, 48, False]
        found = mapper(records[dataset.images[number]["id"]])
        objects = found["instances"]
        assert torch.equal(found["image"], pixels)
        assert torch.allclose(objects.gt_boxes.tensor, target["boxes"], atol=0.02)
        assert torch.equal(objects.gt_classes, target["labels"])
        if keypoints:
            ours, theirs = objects.gt_keypoints.tensor, target["keypoints"]
            seen = theirs[..., 2] > 0
            assert torch.allclose(ours[seen], theirs[seen], atol=1e-3)
        else:
            assert (objects.gt_masks.tensor.byte() != target["masks"]).float().mean() < 0.01


@pytest.mark.parametrize("top, kind", [(4095, np.uint16), (65535, np.uint16), (9, np.float32)])
def test_more_than_8_bits_are_what_the_torchvision_engine_sees(top, kind, scenes, tmp_path, write):
    """12 and 16 bits and floating-point numbers, trained and tested on."""
    root = deepened(scenes / "coco", tmp_path / "set", top, kind)
    asked = {"layout": "coco", "root": str(root)}
    train, test = finetune.prepare(PROTOCOLS["small-faster-rcnn-fpn"], asked)
    assert (train.value_range is None) == (top == 65535)
    job = EngineJob(
        PROTOCOLS["small-faster-rcnn-fpn"],
        backbone_file.Backbone("resnet18", {}),
        train,
        test,
        5,
        tmp_path,
    )
    cfg = engine.config(job, "polygon")
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN, cfg.DATALOADER.NUM_WORKERS = "none", (48,), 0
    pictures = DetectionPictures(train, Wanted(first_label=0), cfg.INPUT.MAX_SIZE_TRAIN)
    records = {record["image_id"]: record for record in write(train)}
    for number in pictures.trainable()[:2]:
        found = detectron2_data.mapper(cfg, True)(records[train.images[number]["id"]])
        assert torch.equal(found["image"], pictures[number, 48, False][0])
        assert found["file_name"] == train.images[number]["file_name"]
        assert len(found["image"].unique()) > 16
    pictures = DetectionPictures(test, Wanted(), cfg.INPUT.MAX_SIZE_TEST)
    ((found,),) = islice(detectron2_data.test_loader(cfg, test), 1)
    assert torch.equal(found["image"], pictures[0, cfg.INPUT.MIN_SIZE_TEST, False][0])


def test_crowd_and_empty_pictures_are_tested_on_but_not_trained_on(scenes, tmp_path, write):
    shutil.copytree(scenes / "coco", tmp_path / "coco")
    path = tmp_path / "coco" / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    first, second, *rest = [image["id"] for image in content["images"]]
    kept = (a for a in content["annotations"] if a["image_id"] != first)
    content["annotations"] = [a | {"iscrowd": int(a["image_id"] == second)} for a in kept]
    path.write_text(json.dumps(content))
    dataset = datasets.load("coco", tmp_path / "coco", "val")
    cfg = config("small-faster-rcnn-fpn", dataset)
    labelled = {a["image_id"] for a in content["annotations"]} - {second}
    assert {record["image_id"] for record in write(dataset)} == labelled <= set(rest)
    assert [batch[0]["image_id"] for batch in detectron2_data.test_loader(cfg, dataset)] == [
        first,
        second,
        *rest,
    ]
    crowd = replace(dataset, annotations=tuple(a | {"iscrowd": 1} for a in dataset.annotations))
    with pytest.raises(InputError, match="no picture of split val has objects"):
        write(crowd)


@pytest.mark.parametrize("keypoints", [False, True])
def test_records_are_those_that_detectron2_would_train_on(keypoints, scenes, write):
    """By its own filter: without pictures of only a crowd, of no object, of no visible keypoint."""
    dataset = datasets.load("coco", scenes / "coco", "train", keypoints=keypoints)
    useful = {a["image_id"] for a in dataset.annotations if not keypoints or a["num_keypoints"]}
    crowd, empty, blind = sorted(useful)[:3]
    kept = [
        a | {"iscrowd": int(a["image_id"] == crowd)}
        for a in dataset.annotations
        if a["image_id"] != empty
    ]
    if keypoints:
        kept = [
            a | {"keypoints": [0] * len(a["keypoints"])} if a["image_id"] == blind else a
            for a in kept
        ]
    dataset = replace(dataset, annotations=tuple(kept))
    DatasetCatalog.register("of a test", lambda: list(detectron2_records.records(dataset)))
    try:
        expected = get_detection_dataset_dicts("of a test", min_keypoints=int(keypoints))
    finally:
        DatasetCatalog.remove("of a test")
    found = write(dataset, least_keypoints=int(keypoints))
    assert list(found) == expected and len(found) == len(useful) - (3 if keypoints else 2)
    assert found[-1] == expected[-1] and found.tall.tolist() == [
        r["height"] > r["width"] for r in expected
    ]
    with pytest.raises(IndexError):
        found[len(found)]
    # as a process that is not forked gets it
    assert list(pickle.loads(pickle.dumps(found))) == expected


def test_batches_hold_one_orientation_and_a_restart_repeats_them():
    tall = np.arange(20) % 3 == 0
    whole = list(islice(detectron2_data.GroupedBatches(tall, 4, seed=1), 20))
    for i, batch in enumerate(whole):
        assert len({tall[record] for record, _, _ in batch}) == 1
        assert [key[1:] for key in batch] == [(i, place) for place in range(4)]
    assert list(islice(detectron2_data.GroupedBatches(tall, 4, seed=1, start=7), 13)) == whole[7:]
    assert {record for batch in whole for record, _, _ in batch} == set(range(20))
    assert list(islice(detectron2_data.GroupedBatches(tall, 4, seed=2), 20)) != whole


def test_processes_share_the_pictures(monkeypatch):
    """Without groups to wait for, two processes together see each picture once before any twice."""
    found = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        batches = islice(detectron2_data.GroupedBatches(np.zeros(12, bool), 3, seed=3), 2)
        found.append([record for batch in batches for record, _, _ in batch])
    assert sorted(found[0] + found[1]) == list(range(12))


def test_draws_do_not_depend_on_the_loading_processes(scenes, write):
    dataset = datasets.load("voc", scenes / "voc", "trainval")

    def first(workers: int, start: int) -> list[dict]:
        cfg = config("small-faster-rcnn-fpn", dataset)
        cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.MIN_SIZE_TRAIN = workers, (48, 56, 64)
        loader = detectron2_data.TrainLoader(cfg, write(dataset), start)
        return [item for batch in islice(loader, 3) for item in batch]

    alone, two, later = first(0, 0), first(2, 0), first(0, 1)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(alone, two, strict=True))
    assert all(
        torch.equal(a["image"], b["image"]) for a, b in zip(alone[2:], later[:4], strict=True)
    )


def test_semantic_pictures_are_scaled_cropped_and_carry_class_numbers(scenes, write):
    dataset = datasets.load("cityscapes", scenes / "cityscapes", "train", semantic=True)
    cfg, order = config("cityscapes-semantic", dataset), list(SEMANTIC)
    mapper, records = detectron2_data.mapper(cfg, True), write(dataset, semantic=True)
    assert len(records) == 30
    shapes = set()
    for seed in range(8):
        np.random.seed(seed)
        found = mapper(records[0])
        shapes.add(tuple(found["image"].shape[1:]))
        assert (
            found["sem_seg"].shape == found["image"].shape[1:]
            and max(found["sem_seg"].shape) <= 100
        )
    # from half size up to the crop
    assert len(shapes) > 2 and max(max(shape) for shape in shapes) == 100
    ids = np.unique(np.asarray(Image.open(truth(records[0]["file_name"], "labelIds"))))
    assert set(found["sem_seg"].unique().tolist()) <= {
        order.index(i) if i in SEMANTIC else 255 for i in ids.tolist()
    }


@pytest.fixture
def own(scenes, tmp_path):
    """Scenes that may be broken, as a data set of some layout."""

    def load(layout: str, split: str, **more):
        shutil.copytree(scenes / layout, tmp_path / layout)
        return datasets.load(layout, tmp_path / layout, split, **more)

    return load


def truncate(path: str | Path) -> str:
    """Break a picture behind its header."""
    Path(path).write_bytes(Path(path).read_bytes()[:-200])
    return str(path)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_picture_drawn_takes_the_place_of_one_that_breaks(workers, own, write):
    """Of its own orientation, under the draws of that place; the names of the broken come
    with the batches."""
    dataset = own("voc", "trainval")
    cfg = config("small-faster-rcnn-fpn", dataset)
    cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.MIN_SIZE_TRAIN = workers, (48, 56, 64)
    records = write(dataset)
    whole = list(islice(detectron2_data.TrainLoader(cfg, records), 12))
    keys = list(islice(detectron2_data.GroupedBatches(records.tall, 2, cfg.SEED), 12))
    victim = keys[3][1][0]
    broken = truncate(records[victim]["file_name"])
    loader = detectron2_data.TrainLoader(cfg, records)
    found = list(islice(loader, 12))
    others = [
        n for n in range(len(records)) if n != victim and records.tall[n] == records.tall[victim]
    ]
    choice = others[int(np.random.default_rng((cfg.SEED, 0, 3, 1, 0)).integers(len(others)))]
    np.random.seed(np.random.SeedSequence((cfg.SEED, 0, 3, 1)).generate_state(4))
    assert torch.equal(
        found[3][1]["image"], detectron2_data.mapper(cfg, True)(records[choice])["image"]
    )
    for batch, (before, after) in enumerate(zip(whole, found, strict=True)):
        for place in (0, 1):
            same = before[place]["file_name"] == after[place]["file_name"]
            assert same == (keys[batch][place][0] != victim)
            assert torch.equal(before[place]["image"], after[place]["image"]) == same
    assert (
        len(loader.broken) == sum(record == victim for batch in keys for record, _, _ in batch) >= 1
    )
    assert all(
        path == broken and text.startswith(f"cannot read the picture {broken}: ")
        for path, text in loader.broken
    )


def resized(path: str) -> str:
    Image.new("RGB", (9, 7)).save(path)
    return path


def of_labels(path: str) -> str:
    return truncate(truth(path, "labelIds"))


@pytest.mark.parametrize(
    ("spoil", "layout", "words"),
    [
        (truncate, "coco", "cannot read the picture {}: image file is truncated"),
        # Detectron2's SizeMismatchError
        (
            resized,
            "coco",
            "{}: is 9 x 7 (after EXIF rotation), but the annotations say ",
        ),
        (lambda path: Path(path).unlink() or path, "coco", "cannot read the picture {}: "),
        (of_labels, "cityscapes", "cannot read the picture {}: "),
    ],
)
def test_what_counts_as_broken(spoil, layout, words, own, write):
    semantic = layout == "cityscapes"
    dataset = own(layout, "train", semantic=semantic)
    cfg = config("cityscapes-semantic" if semantic else "small-mask-rcnn-fpn", dataset)
    records = write(dataset, semantic=semantic)
    path = records[2]["file_name"]
    named = spoil(path)
    item, ((counted, reason),) = detectron2_data.MappedRecords(
        records, detectron2_data.mapper(cfg, True), 5
    )[2, 0, 0]
    assert item["file_name"] != path and counted == path and reason.startswith(words.format(named))


def test_a_mistake_elsewhere_is_not_taken_for_a_broken_picture(own, write):
    dataset = own("coco", "train")
    records = write(dataset)
    mapping = detectron2_data.mapper(config("small-mask-rcnn-fpn", dataset), True)
    with pytest.raises(ValueError, match="segmentation of type"):
        mapping(records[0] | {"annotations": [{**records[0]["annotations"][0], "segmentation": 3}]})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_test_picture_that_cannot_be_read_is_named(workers, own):
    from detco.transfer.engines.detectron2.launch import explained

    dataset = own("voc", "test")
    cfg = config("small-faster-rcnn-fpn", dataset)
    cfg.DATALOADER.NUM_WORKERS = workers
    path = truncate(dataset.images[3]["file_name"])
    with pytest.raises(InputError) as error:
        list(detectron2_data.test_loader(cfg, dataset))
    text = str(explained(error.value, ""))
    assert (
        text.startswith(f"cannot read the picture {path}: image file is truncated")
        and "\n" not in text
    )
    assert text.endswith("; a test picture cannot be replaced: bring it back and start again")


def test_mask_format_is_polygon_unless_a_mask_is_not(scenes, write):
    dataset = datasets.load("coco", scenes / "coco", "val")
    square = [[1, 1, 9, 1, 9, 9]]
    drawn = replace(
        dataset, annotations=tuple(a | {"segmentation": square} for a in dataset.annotations)
    )
    crowd = replace(
        drawn, annotations=(*drawn.annotations, dataset.annotations[0] | {"iscrowd": 1})
    )
    assert [write(d).mask_format for d in (dataset, drawn, crowd)] == [
        "bitmask",
        "polygon",
        "polygon",
    ]
    cfg = config("small-mask-rcnn-fpn", drawn, "polygon")
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN = "none", (40,)
    (record, *_), image = write(drawn), drawn.images[0]
    found, *_ = detectron2_data.mapper(cfg, True)(record)["instances"].gt_masks.polygons[0]
    height, width = resized_shape(image["height"], image["width"], 40, 192)
    scale = [width / image["width"], height / image["height"]] * 3
    assert found == pytest.approx(np.array(square[0]) * scale)  # whole numbers are not cut off


def test_resize_is_the_rows(scenes):
    dataset = datasets.load("voc", scenes / "voc", "test")
    cfg = config("small-faster-rcnn-fpn", dataset)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 40, 50
    shapes = [
        tuple(batch[0]["image"].shape[1:]) for batch in detectron2_data.test_loader(cfg, dataset)
    ]
    resize = Resize(test=40, test_max=50)
    assert shapes == [
        resized_shape(i["height"], i["width"], resize.test, resize.test_max) for i in dataset.images
    ]


@pytest.mark.parametrize("as_rle", [False, True])
@pytest.mark.parametrize("name", ["small-mask-rcnn-fpn", "small-keypoint-rcnn"])
def test_labels_of_a_jpeg_that_its_decoder_reduces(
    name, as_rle, scenes, tmp_path, write, monkeypatch
):
    """What is trained on and tested is that of the whole picture, but for its finest details."""
    protocol = PROTOCOLS[name]
    root = as_large_jpegs(scenes / "coco", tmp_path / "set", as_rle)
    train, test = finetune.prepare(protocol, {"layout": "coco", "root": str(root)})
    cfg = config(name, train, "bitmask" if as_rle else "polygon")
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN, cfg.DATALOADER.NUM_WORKERS = "none", (48,), 0
    wanted = Wanted(masks="mask" in protocol.metrics, keypoints="keypoint" in protocol.metrics)
    record = write(train)[0]
    number = next(i for i, im in enumerate(train.images) if im["id"] == record["image_id"])

    def read():
        pictures = DetectionPictures(train, wanted, cfg.INPUT.MAX_SIZE_TRAIN)
        ((tested,),) = islice(detectron2_data.test_loader(cfg, test), 1)
        return (detectron2_data.mapper(cfg, True)(record), pictures[number, 48, False], tested)

    whole, whole_of_ours, _ = read()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", record["width"] * record["height"] // 4)
    reduced, reduced_of_ours, tested = read()
    assert (reduced["width"], reduced["height"]) == (record["width"], record["height"])
    assert (tested["width"], tested["height"]) == tuple(
        test.images[0][k] for k in ("width", "height")
    )
    assert torch.equal(reduced["image"], reduced_of_ours[0])
    assert not torch.equal(reduced["image"], whole["image"])
    difference = (reduced["image"].float() - whole["image"].float()).abs().mean()
    assert reduced["image"].shape == whole["image"].shape and difference < 4
    boxes, before = (r["instances"].gt_boxes.tensor for r in (reduced, whole))
    assert len(boxes) and torch.allclose(boxes, before, atol=1e-4)
    assert torch.equal(reduced_of_ours[1]["boxes"], whole_of_ours[1]["boxes"])
    if wanted.keypoints:
        points, before = (r["instances"].gt_keypoints.tensor for r in (reduced, whole))
        assert torch.allclose(points, before, atol=1e-4) and points[..., 2].any()
    elif as_rle:
        masks, before = (r["instances"].gt_masks.tensor for r in (reduced, whole))
        assert before.any() and (masks ^ before).sum() <= 0.1 * before.sum()
    else:
        for mask, of_whole in zip(reduced["instances"].gt_masks, whole["instances"].gt_masks):
            assert np.allclose(mask[0], of_whole[0], atol=1e-4)


def as_large_jpegs(source: Path, folder: Path, as_rle: bool) -> Path:
    """A copy with JPEGs of four times the width and height; as_rle: their masks are RLE,
    else triangles."""
    shutil.copytree(source, folder)
    for path in folder.rglob("*.jpg"):
        with Image.open(path) as image:
            large = image.resize((4 * image.width, 4 * image.height))
        large.save(path, quality=95)
    for path in (folder / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for image in content["images"]:
            image["width"], image["height"] = 4 * image["width"], 4 * image["height"]
        for one in content["annotations"]:
            one["bbox"] = [4 * value for value in one["bbox"]]
            one["area"] *= 16
            if as_rle:
                mask = masks.decode(one["segmentation"], *one["segmentation"]["size"])
                coded = rle.encode(np.asfortranarray(mask.repeat(4, 0).repeat(4, 1)))
                one["segmentation"] = coded | {"counts": coded["counts"].decode()}
            else:
                x, y, w, h = one["bbox"]
                one["segmentation"] = [[x, y + h / 2, x + w / 2, y, x + w, y + h / 2]]
            if "keypoints" in one:
                points = np.array(one["keypoints"]).reshape(-1, 3) * [4, 4, 1]
                one["keypoints"] = points.ravel().tolist()
        path.write_text(json.dumps(content))
    return folder
