"""Cityscapes: classes of pixels read, instance AP and mean IoU against counts made
pixel by pixel."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from detco.common.errors import InputError
from detco.transfer.data import dataset as datasets
from detco.transfer.data.cityscapes import SEMANTIC, truth
from detco.transfer.scoring import score as scoring

pytest.importorskip("cityscapesscripts")


def coded(mask: np.ndarray) -> dict:
    code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def found(image: int, label: int, mask: np.ndarray, score: float = 1.0) -> dict:
    return {"image_id": image, "category_id": label, "segmentation": coded(mask), "score": score}


@pytest.fixture(scope="module")
def pixels(scenes):
    return datasets.load("cityscapes", scenes / "cityscapes", "val", semantic=True)


def city(root, name: str, instances: np.ndarray, labels: np.ndarray):
    """One picture of split `val` with these instance ids and label ids."""
    depth = np.uint16 if labels.max() > 255 else np.uint8
    for kind, ids, suffix in (
        ("leftImg8bit", None, "leftImg8bit"),
        ("gtFine", instances.astype(np.uint16), "gtFine_instanceIds"),
        ("gtFine", labels.astype(depth), "gtFine_labelIds"),
    ):
        folder = root / kind / "val" / "town"
        folder.mkdir(parents=True, exist_ok=True)
        picture = np.zeros((*labels.shape, 3), np.uint8) if ids is None else ids
        Image.fromarray(picture).save(folder / f"{name}_{suffix}.png")


def test_classes_of_pixels_have_the_boxes_and_areas_of_their_pixels(pixels):
    assert [category["name"] for category in pixels.categories] == list(SEMANTIC.values())
    images = {image["id"]: image for image in pixels.images}
    for a in pixels.annotations:
        rows, columns = np.where(
            np.asarray(Image.open(truth(images[a["image_id"]]["file_name"], "labelIds")))
            == a["category_id"]
        )
        x, y, w, h = a["bbox"]
        assert a["area"] == len(rows) and (x, y) == (columns.min(), rows.min())
        assert (x + w - 1, y + h - 1) == (columns.max(), rows.max())


def test_only_cityscapes_has_classes_of_pixels(scenes):
    with pytest.raises(InputError, match=r"Cityscapes layout, .*coco"):
        datasets.load("coco", scenes / "coco", "val", semantic=True)


def test_mean_iou_counts_pixels(pixels):
    """Against a loop over classes; predictions are the truth moved by three pixels, void pixels are
    not scored."""
    predictions, shared, either = [], dict.fromkeys(SEMANTIC, 0), dict.fromkeys(SEMANTIC, 0)
    for image in pixels.images:
        ids = np.asarray(Image.open(truth(image["file_name"], "labelIds")))
        said, scored = np.roll(ids, 3, axis=1), np.isin(ids, list(SEMANTIC))
        for label in SEMANTIC:
            if (said == label).any():
                predictions.append(found(image["id"], label, said == label))
            shared[label] += ((ids == label) & (said == label)).sum()
            either[label] += (((ids == label) | (said == label)) & scored).sum()
    metrics = scoring.score(pixels, predictions, "cityscapes", ("semantic",))
    expected = {
        name: 100 * shared[label] / either[label]
        for label, name in SEMANTIC.items()
        if either[label]
    }
    assert 20 < metrics["miou"] < 99 and metrics["miou"] == pytest.approx(
        np.mean(list(expected.values()))
    )
    assert {name: metrics[f"miou/{name}"] for name in expected} == pytest.approx(expected)


def test_a_pixel_nobody_spoke_of_is_missed(pixels):
    metrics = scoring.score(pixels, [], "cityscapes", ("semantic",))
    assert metrics["miou"] == 0


def test_instance_ap_by_hand(tmp_path):
    """Two cars; a false alarm at 0.95, one car found with IoU 960 / 1320 at 0.9, a prediction on
    void that does not count.

    The official curve goes through (recall 0, precision 0) and (1/2, 1/2); each point weighs half
    of what recall rises around it: 1/2 * 1/4.
    """
    ids = np.full((60, 60), 26000)
    ids[:, 20:], ids[:, 40:], ids[30:, 40:] = 4, 26001, 0
    city(tmp_path, "a_000000_000000", ids, np.where(ids >= 1000, ids // 1000, ids))
    dataset = datasets.load("cityscapes", tmp_path, "val")
    car, alarm, void = np.zeros((3, 60, 60), bool)
    car[12:, :20], car[:12, 20:30], alarm[:20, :20], void[31:, 41:] = True, True, True, True
    predictions = [found(1, 26, car, 0.9), found(1, 26, alarm, 0.95), found(1, 26, void, 0.99)]
    metrics = scoring.score(dataset, predictions, "cityscapes", ("mask",))
    assert metrics["mask_ap50"] == pytest.approx(12.5)
    # IoU thresholds 0.5 to 0.7
    assert metrics["mask_ap"] == metrics["mask_ap/car"] == pytest.approx(12.5 * 5 / 10)
    assert scoring.score(dataset, predictions[:1], "cityscapes", ("mask",))[
        "mask_ap50"
    ] == pytest.approx(50)


def test_truth_itself_scores_100_and_nothing_0(scenes):
    dataset = datasets.load("cityscapes", scenes / "cityscapes", "train")
    objects = [a for a in dataset.annotations if not a["iscrowd"]]
    predictions = [
        {key: a[key] for key in ("image_id", "category_id", "segmentation")} | {"score": 0.5}
        for a in objects
    ]
    metrics = scoring.score(dataset, predictions, "cityscapes", ("mask",))
    assert (
        metrics["mask_ap"] == 100
        and scoring.score(dataset, [], "cityscapes", ("mask",))["mask_ap"] == 0
    )


def test_predictions_on_void_alone_score_0(tmp_path):
    """cityscapesScripts itself fails here: no prediction is left to sort."""
    ids = np.full((40, 40), 26000)
    ids[20:] = 4
    city(tmp_path, "a_000000_000000", ids, np.where(ids >= 1000, ids // 1000, ids))
    dataset = datasets.load("cityscapes", tmp_path, "val")
    assert scoring.score(dataset, [found(1, 26, ids == 4)], "cityscapes", ("mask",))["mask_ap"] == 0


def test_scorer_refuses_other_layouts(scenes):
    other = datasets.load("coco", scenes / "coco", "val")
    with pytest.raises(InputError, match=r"'cityscapes' needs .*in coco"):
        scoring.score(other, [], "cityscapes", ("mask",))


@pytest.mark.parametrize(
    ("instance", "found", "label"), [(40, 40, 40), (255, 255, 255), (34001, 34, 26001)]
)
def test_unknown_labels_are_refused_before_training(instance, found, label, tmp_path):
    """cityscapesScripts stumbles over them when all is done. 26001: of instances, in the
    picture of labels."""
    city(tmp_path, "a_000000_000000", np.array([[7, instance]]), np.array([[7, label]]))
    with pytest.raises(
        InputError, match=rf"_instanceIds.png: label ids must be 0..33, found {found}$"
    ):
        datasets.load("cityscapes", tmp_path, "val")
    with pytest.raises(
        InputError, match=rf"_labelIds.png: label ids must be 0..33, found {label}$"
    ):
        datasets.load("cityscapes", tmp_path, "val", semantic=True)


def test_check_looks_at_both_kinds_of_labels(tmp_path):
    car = np.full((40, 40), 26000)
    for number in range(2):
        city(tmp_path, f"a_00000{number}_000000", car, car // 1000)
    assert not datasets.check("cityscapes", tmp_path).problems
    labels = tmp_path / "gtFine" / "val" / "town" / "a_000001_000000_gtFine_labelIds.png"
    labels.unlink()
    (problem,) = datasets.check("cityscapes", tmp_path).problems
    assert problem.startswith(f"{labels}: no such file")
