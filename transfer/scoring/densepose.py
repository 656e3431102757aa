"""DensePose AP by the project DensePose's own evaluator: detections are matched by geodesic point
similarity (GPS): the distance on the body between where its points are and where they should be."""

import contextlib
import io
import types
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detco.common.errors import InputError

from ..data import densepose
from ..data.dataset import Dataset
from . import score

MOST = 20  # detections of an image that the evaluator counts, the best ones
STATS = ("ap", "ap50", "ap75", "apm", "apl")


def densepose_metrics(
    dataset: Dataset, predictions: list[dict], metrics: tuple[str, ...]
) -> dict[str, float]:
    """The scorer `gps`: densepose_ap, ap50, ap75, apm, apl by GPS, and COCO's AP of boxes, in
    percent. Raises InputError where project or surface are absent or damaged."""
    result: dict[str, float] = {}
    if "densepose" in metrics:
        result |= gps(dataset, predictions)
    if "box" in metrics:
        result |= score.coco_metrics(dataset, predictions, ("box",))
    return result


def gps(dataset: Dataset, predictions: list[dict]) -> dict[str, float]:
    """densepose_ap and the like. Objects without points are neither found nor missed."""
    densepose.need_project("DensePose AP")
    files = densepose.surface(dataset.root)
    from densepose.evaluation import densepose_coco_evaluation as project

    categories = list(dataset.categories)
    ids = {category["id"] for category in categories}
    distances = read_distances(files[densepose.DISTANCES])
    with contextlib.redirect_stdout(io.StringIO()), given(project, files, distances):
        truth = score.indexed(dataset, categories, score.ground_truth(dataset, ids, "densepose"))
        best = best_of_images(predictions)
        found = truth.loadRes(best) if best else score.indexed(dataset, categories, [])
        mode = project.DensePoseEvalMode.GPS
        evaluation = project.DensePoseCocoEval(truth, found, "densepose", dpEvalMode=mode)
        try:
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            where = files[densepose.SURFACE].parent
            raise InputError(
                f"{where}: DensePose's evaluator fails with these files ({what}); download them"
                " again, or take the DensePose that `detco doctor` names"
            ) from error
    stats = zip(STATS, evaluation.stats, strict=False)
    return {f"densepose_{name}": score.percent(value) for name, value in stats}


def best_of_images(predictions: list[dict]) -> list[dict]:
    """The detections that count, as the evaluator takes them. Raises InputError for one without
    `densepose`."""
    from densepose.structures.chart_result import DensePoseChartResultQuantized
    from torch import from_numpy

    of_image: dict[Any, list[dict]] = defaultdict(list)
    for entry in predictions:
        of_image[entry["image_id"]].append(entry)
    best = []
    for image, entries in of_image.items():
        for entry in sorted(entries, key=lambda entry: -entry["score"])[:MOST]:
            if "densepose" not in entry:
                text = f"one of the {MOST} best detections of image {image} has no 'densepose'"
                raise InputError(f"{text}: they were predicted by another protocol")
            labels = from_numpy(densepose.unpacked(entry["densepose"]).copy())
            kept = {key: entry[key] for key in ("image_id", "category_id", "bbox", "score")}
            best.append(kept | {"densepose": DensePoseChartResultQuantized(labels)})
    return best


@contextlib.contextmanager
def given(project: types.ModuleType, files: dict[str, Path], distances: np.ndarray) -> Iterator:
    """The evaluator's module with our files instead of downloads, and with distances that were read
    without running the pickle they lie in."""
    local = types.SimpleNamespace(
        get_local_path=lambda url, **_: str(files[url.rpartition("/")[2]]),
        load=lambda file, **_: {"Pdist_matrix": distances},
    )
    own = {"PathManager": local, "pickle": local, "np": old_numpy()}
    before = {name: getattr(project, name) for name in own}
    vars(project).update(own)
    try:
        yield
    finally:
        vars(project).update(before)


def old_numpy() -> types.SimpleNamespace:
    """numpy with `int` and `float`, which its 1.24 took away: the release of 2021 asks for them."""
    return types.SimpleNamespace(**(vars(np) | {"int": int, "float": float}))


def read_distances(path: Path) -> np.ndarray:
    """Distances in metres between n points of the body, (n (n - 1) / 2, 1), out of a pickle that is
    not run. Raises InputError."""
    from ..checkpoints.reader import stubs, unpickle

    try:
        with open(path, "rb") as file:
            content = unpickle.load(file)
        found = content.get("Pdist_matrix") if isinstance(content, dict) else None
        if not isinstance(found, stubs.Array):
            raise ValueError("no array Pdist_matrix in it")
        distances = found.read()
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{path}: {error}; download it from {densepose.URL}") from None
    if distances.ndim != 2 or distances.shape[1] != 1 or distances.dtype.kind != "f":
        raise InputError(f"{path}: Pdist_matrix must be a column of distances")
    return distances
