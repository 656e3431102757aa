"""A Detectron2 model's outputs on the test pictures as COCO results, gathered
from all processes."""

import json
from dataclasses import replace

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator, inference_context, inference_on_dataset
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from pycocotools import mask as rle
from torch import nn

from detco.common.progress import Report, silent

from ...data.dataset import Dataset
from ...scoring import score as scoring
from ...settings import Protocol
from .data import test_loader

TRIED = 2  # test pictures that are predicted and scored before training


class Results(DatasetEvaluator):
    """Collects COCO results; `evaluate` gives them all in the first process (pictures in order),
    None in the others."""

    def __init__(self, dataset: Dataset, report: Report):
        self.categories = [category["id"] for category in dataset.categories]
        self.images, self.report = [image["id"] for image in dataset.images], report
        self.reset()

    def reset(self) -> None:
        self.found: dict[int, list[dict]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for given, output in zip(inputs, outputs):
            self.found[given["image_id"]] = to_coco(output, given["image_id"], self.categories)
        if comm.is_main_process():
            self.report(
                "predict",
                min(len(self.found) * comm.get_world_size(), len(self.images)),
                len(self.images),
            )

    def evaluate(self) -> list[dict] | None:
        shares = comm.gather(self.found)
        if not comm.is_main_process():
            return None
        found = {image: results for share in shares for image, results in share.items()}
        return [result for image in self.images for result in found[image]]


def to_coco(output: dict, image_id: int, categories: list[int]) -> list[dict]:
    """A model's output for an image as COCO results; `categories`: ids by class number."""
    if "sem_seg" in output:
        return classes_to_coco(output, image_id, categories)
    if output["instances"].has("pred_densepose"):
        from .densepose import people_to_coco

        return people_to_coco(output, image_id, categories)
    return objects_to_coco(output, image_id, categories)


def objects_to_coco(output: dict, image_id: int, categories: list[int]) -> list[dict]:
    """Instances in pixels of the original picture -> COCO results; `categories`: ids
    by class number."""
    instances = output["instances"].to("cpu")
    # in 64 bit x + w gives back the right edge exactly
    boxes = instances.pred_boxes.tensor.double()
    boxes[:, 2:] -= boxes[:, :2]
    results = instances_to_coco_json(instances, image_id)
    for result, box in zip(results, boxes.tolist()):
        result["bbox"], result["category_id"] = box, categories[result["category_id"]]
    return results


def classes_to_coco(output: dict, image_id: int, categories: list[int]) -> list[dict]:
    """Logits (classes, H, W) -> one COCO result for each class that is the best at some pixel."""
    best, results = output["sem_seg"].argmax(0).to(torch.uint8).cpu().numpy(), []
    for number in np.unique(best).tolist():
        coded = rle.encode(np.asfortranarray((best == number).astype(np.uint8)))
        coded = {"size": list(coded["size"]), "counts": coded["counts"].decode()}
        results.append(
            {
                "image_id": image_id,
                "category_id": categories[number],
                "score": 1.0,
                "segmentation": coded,
            }
        )
    return results


def predict(model: nn.Module, cfg, dataset: Dataset, report: Report) -> list[dict] | None:
    """COCO results of all test pictures in the first process, None in the others."""
    found = inference_on_dataset(model, test_loader(cfg, dataset), Results(dataset, report))
    return found if comm.is_main_process() else None


def try_out(model: nn.Module, cfg, protocol: Protocol, dataset: Dataset) -> None:
    """Predict and score the first test pictures before training: what cannot be tested is not worth
    training. This process only."""
    images = dataset.images[:TRIED]
    kept = {image["id"] for image in images}
    few = replace(
        dataset,
        images=images,
        annotations=tuple(a for a in dataset.annotations if a["image_id"] in kept),
    )
    results = Results(few, silent)
    with inference_context(model), torch.no_grad():
        for inputs in test_loader(cfg, few):
            results.process(inputs, model(inputs))
    found = json.loads(json.dumps([result for one in results.found.values() for result in one]))
    scoring.score(few, found, protocol.scorer, protocol.metrics)
