"""A few labelled people with points of DensePose, and a body of 96 points in place of the 27,554 of
SMPL: the same files with the same names, made by hand."""

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

PARTS, EACH = 24, 4  # parts of the body, points on each
SIZE = 96  # pixels, of images
SPLITS = {"train2014": "train2014", "valminusminival2014": "val2014", "minival2014": "val2014"}


def body(folder: Path) -> Path:
    """The four files that DensePose needs."""
    from scipy.io import savemat

    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    count = PARTS * EACH
    surface = {key: draw.random((count, 1)) for key in ("U_subdiv", "V_subdiv")}
    surface["Part_ID_subdiv"] = np.repeat(np.arange(1, PARTS + 1), EACH)[:, None]
    savemat(folder / "SMPL_subdiv.mat", surface)
    index = draw.permutation(count)[:, None] + 1
    savemat(folder / "SMPL_SUBDIV_TRANSFORM.mat", {"index": index})
    mirror = {}
    for name in ("U_transforms", "V_transforms"):
        mirror[name] = np.empty((1, PARTS), object)
        for part in range(PARTS):
            mirror[name][0, part] = draw.random((256, 256))
    savemat(folder / "UV_symmetry_transforms.mat", mirror)
    distances = draw.uniform(0.05, 0.6, (count * (count - 1) // 2, 1)).astype(np.float32)
    content = pickle.dumps({"Pdist_matrix": distances}, protocol=2)
    (folder / "Pdist_matrix.pkl").write_bytes(content)
    return folder


def person(draw: np.random.Generator, points: int = 30) -> dict:
    """The fields of DensePose of an object."""
    half = np.zeros((256, 256), np.uint8, order="F")
    half[:, 64:192] = 1
    mask = rle.encode(half)
    mask = {"size": [256, 256], "counts": mask["counts"].decode()}
    return {
        "dp_I": draw.integers(1, PARTS + 1, points).astype(float).tolist(),
        "dp_U": draw.random(points).tolist(),
        "dp_V": draw.random(points).tolist(),
        "dp_x": draw.uniform(5, 250, points).tolist(),
        "dp_y": draw.uniform(5, 250, points).tolist(),
        "dp_masks": [mask, *[[]] * 13],
    }


def people(root: Path, images: int = 4, seed: int = 0) -> Path:
    """DensePose-COCO in small below `root`: coco/ with the three splits, densepose/ with the body.
    Returns coco/."""
    draw, coco, number = np.random.default_rng(seed), root / "coco", 0
    body(root / "densepose")
    (coco / "annotations").mkdir(parents=True)
    for split, folder in SPLITS.items():
        (coco / folder).mkdir(exist_ok=True)
        document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
        for _ in range(images):
            number += 1
            name = f"COCO_{folder}_{number:012}.png"
            pixels = draw.integers(0, 80, (SIZE, SIZE, 3), dtype=np.uint8)
            record = {"id": number, "file_name": name, "width": SIZE, "height": SIZE}
            document["images"].append(record)
            for place in (0, 1):
                x, y = (int(v) for v in draw.integers((48 * place, 2), (48 * place + 12, 30)))
                w, h = (int(v) for v in draw.integers((24, 40), (34, 60)))
                pixels[y : y + h, x : x + w] = draw.integers(120, 255, 3)
                entry = {
                    "id": 10 * number + place,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
                # of two people one has no points in every third image
                points = person(draw) if place == 0 or number % 3 else {}
                document["annotations"].append(entry | points)
            Image.fromarray(pixels).save(coco / folder / name)
        path = coco / "annotations" / f"densepose_{split}.json"
        path.write_text(json.dumps(document))
    return coco
