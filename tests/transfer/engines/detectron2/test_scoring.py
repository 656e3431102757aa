"""Our metrics against Detectron2's own evaluators, on the same outputs of a detector:
equal to 1e-6."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from detco.transfer.data import dataset as datasets
from detco.transfer.data import masks as coco_masks
from detco.transfer.data.cityscapes import SEMANTIC
from detco.transfer.scoring import score as scoring

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    PascalVOCDetectionEvaluator,
)
from detectron2.structures import Boxes, Instances

from detco.transfer.engines.detectron2.predict import classes_to_coco, objects_to_coco


def outputs_for(dataset, seed: int, fields=("boxes",)) -> list[tuple[dict, dict]]:
    """(input, output) of a detector that finds most objects, moves them, doubles some, errs in
    class and place."""
    draw = np.random.default_rng(seed)
    number = {category["id"]: i for i, category in enumerate(dataset.categories)}
    pairs = []
    for image in dataset.images:
        height, width = image["height"], image["width"]
        found = []
        for a in (a for a in dataset.annotations if a["image_id"] == image["id"]):
            for _ in range(draw.choice([0, 1, 1, 1, 2])):
                x, y, w, h = np.array(a["bbox"]) + draw.normal(0, 2, 4)
                box = [x, y, x + max(w, 1), y + max(h, 1)]
                label = (
                    number[a["category_id"]] if draw.random() < 0.8 else draw.integers(len(number))
                )
                found.append(
                    (
                        np.clip(box, 0, [width, height] * 2),
                        label,
                        draw.uniform(0.05, 1),
                        a,
                        draw.integers(-3, 4, 2),
                    )
                )
        output = Instances((height, width))
        output.pred_boxes = Boxes(
            torch.tensor(np.array([f[0] for f in found]).reshape(-1, 4), dtype=torch.float32)
        )
        output.pred_classes = torch.tensor([int(f[1]) for f in found], dtype=torch.int64)
        output.scores = torch.tensor([f[2] for f in found], dtype=torch.float32)
        if "masks" in fields:
            masks = [
                np.roll(coco_masks.decode(f[3]["segmentation"], height, width), f[4], (0, 1))
                for f in found
            ]
            output.pred_masks = torch.tensor(np.array(masks, bool).reshape(-1, height, width))
        if "keypoints" in fields:
            count = len(dataset.categories[0]["keypoints"])
            points = np.array([f[3]["keypoints"] for f in found], np.float32).reshape(-1, count, 3)
            points[..., :2] += draw.normal(0, 1.5, points[..., :2].shape)
            output.pred_keypoints = torch.tensor(points)
        pairs.append(
            ({"image_id": image["id"], "file_name": image["file_name"]}, {"instances": output})
        )
    return pairs


def entered(name: str, dataset, **more):
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    ids = {category["id"]: i for i, category in enumerate(dataset.categories)}
    classes = [category["name"] for category in dataset.categories]
    return MetadataCatalog.get(name).set(
        thing_classes=classes, thing_dataset_id_to_contiguous_id=ids, **more
    )


def both(evaluator, dataset, pairs, scorer: str, metrics: tuple[str, ...], convert=objects_to_coco):
    """(Detectron2's results, ours)."""
    ids = [category["id"] for category in dataset.categories]
    predictions = [
        result
        for given, output in pairs
        for result in convert(copied(output), given["image_id"], ids)
    ]
    evaluator.reset()
    evaluator.process(*map(list, zip(*pairs)))
    return evaluator.evaluate(), scoring.score(dataset, predictions, scorer, metrics)


def copied(output: dict) -> dict:
    """Detectron2's conversion moves keypoints in place."""
    if "sem_seg" in output:
        return output
    fields = {key: value.clone() for key, value in output["instances"].get_fields().items()}
    return {"instances": Instances(output["instances"].image_size, **fields)}


@pytest.mark.parametrize(("kind", "keypoints"), [("instances", False), ("person_keypoints", True)])
def test_coco_metrics(kind, keypoints, scenes, tmp_path):
    dataset = datasets.load("coco", scenes / "coco", "train", keypoints=keypoints)
    entered(
        "own_coco", dataset, json_file=str(scenes / "coco" / "annotations" / f"{kind}_train.json")
    )
    tasks = {"bbox": "box"} | ({"keypoints": "keypoint"} if keypoints else {"segm": "mask"})
    sigmas = [scoring.KEYPOINT_SIGMA] * 12 if keypoints else []
    evaluator = COCOEvaluator(
        "own_coco", tuple(tasks), False, str(tmp_path), use_fast_impl=False, kpt_oks_sigmas=sigmas
    )
    pairs = outputs_for(dataset, 0, ("keypoints",) if keypoints else ("masks",))
    theirs, ours = both(evaluator, dataset, pairs, "coco", tuple(tasks.values()))
    compared = 0
    for task, metric in tasks.items():
        for name, value in theirs[task].items():
            key = (
                f"{metric}_ap/{name[3:]}" if name.startswith("AP-") else f"{metric}_{name.lower()}"
            )
            assert ours[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
            compared += np.isfinite(value)
    assert compared >= 5 and 5 < ours["box_ap"] < 95


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_metrics(year, scenes):
    dataset = datasets.load("voc", scenes / "voc", "trainval")
    entered("own_voc", dataset, dirname=str(scenes / "voc"), split="trainval", year=year)
    pairs = outputs_for(dataset, 1)
    names = {image["id"]: image["name"] for image in dataset.images}
    theirs = PascalVOCDetectionEvaluator("own_voc")
    theirs.reset()
    theirs.process(
        [{"image_id": names[given["image_id"]]} for given, _ in pairs],
        [output for _, output in pairs],
    )
    theirs = theirs.evaluate()["bbox"]
    ids = [category["id"] for category in dataset.categories]
    predictions = [
        result
        for given, output in pairs
        for result in objects_to_coco(output, given["image_id"], ids)
    ]
    ours = scoring.score(dataset, predictions, f"voc{year}")
    for name in ("AP", "AP50", "AP75"):
        assert ours[f"box_{name.lower()}"] == pytest.approx(theirs[name], abs=1e-6)
    assert 5 < ours["box_ap"] < 95


@pytest.fixture
def importable(monkeypatch, tmp_path):
    """Detectron2's Cityscapes evaluators as they would be if they found cityscapesScripts, and that
    with current numpy."""
    import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as instance
    import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as pixel
    import cityscapesscripts.helpers.labels as labels

    private, parent = "deeplearning.projects.cityscapesApi.cityscapesscripts", None
    for name in ("deeplearning", "deeplearning.projects", "deeplearning.projects.cityscapesApi"):
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        if parent:
            setattr(parent, name.rpartition(".")[2], module)
        parent = module
    parent.cityscapesscripts = sys.modules["cityscapesscripts"]
    parts = {"": "", ".helpers": "", ".evaluation": "", ".helpers.labels": labels}
    parts |= {
        ".evaluation.evalInstanceLevelSemanticLabeling": instance,
        ".evaluation.evalPixelLevelSemanticLabeling": pixel,
    }
    for part, module in parts.items():
        monkeypatch.setitem(
            sys.modules, private + part, module or sys.modules["cityscapesscripts" + part]
        )
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    for module in (instance, pixel):
        monkeypatch.setattr(module, "writeDict2JSON", lambda *_: None)
        monkeypatch.setattr(module.args, "quiet", True)
    monkeypatch.chdir(tmp_path)


def test_cityscapes_instances(scenes, importable):
    dataset = datasets.load("cityscapes", scenes / "cityscapes", "train")
    entered("own_cityscapes", dataset, gt_dir=str(scenes / "cityscapes" / "gtFine" / "train"))
    pairs = outputs_for(dataset, 2, ("masks",))
    theirs, ours = both(
        CityscapesInstanceEvaluator("own_cityscapes"), dataset, pairs, "cityscapes", ("mask",)
    )
    assert [ours["mask_ap"], ours["mask_ap50"]] == pytest.approx(
        [theirs["segm"]["AP"], theirs["segm"]["AP50"]], abs=1e-6
    )
    assert 5 < ours["mask_ap"] < 95


def test_cityscapes_classes_of_pixels(scenes, importable):
    dataset = datasets.load("cityscapes", scenes / "cityscapes", "val", semantic=True)
    entered("own_pixels", dataset, gt_dir=str(scenes / "cityscapes" / "gtFine" / "val"))
    draw = torch.Generator().manual_seed(0)
    pairs = []
    for image in dataset.images:
        coarse = torch.randn(1, len(SEMANTIC), 4, 4, generator=draw)
        logits = torch.nn.functional.interpolate(
            coarse, (image["height"], image["width"]), mode="bilinear"
        )[0]
        for a in (a for a in dataset.annotations if a["image_id"] == image["id"]):
            x, y, w, h = map(int, a["bbox"])
            logits[list(SEMANTIC).index(a["category_id"]), y : y + h, x : x + w] += (
                2  # roughly right
            )
        pairs.append(
            ({"image_id": image["id"], "file_name": image["file_name"]}, {"sem_seg": logits})
        )
    evaluator = CityscapesSemSegEvaluator("own_pixels")
    theirs, ours = both(evaluator, dataset, pairs, "cityscapes", ("semantic",), classes_to_coco)
    assert (
        ours["miou"] == pytest.approx(theirs["sem_seg"]["IoU"], abs=1e-6) and 1 < ours["miou"] < 95
    )


def test_masks_of_a_picture_are_disjoint_and_cover_it():
    logits = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(3))
    results = classes_to_coco({"sem_seg": logits}, 4, [10, 20, 30, 40, 50])
    total = sum(rle.decode(result["segmentation"]).astype(int) for result in results)
    assert (total == 1).all()
    said = sum(
        result["category_id"] * rle.decode(result["segmentation"]).astype(int) for result in results
    )
    assert (said == 10 * (1 + logits.argmax(0).numpy())).all()
