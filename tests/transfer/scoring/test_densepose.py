"""DensePose AP: by the project's own evaluator, with hand-made distances on the body."""

import math
import pickle
import urllib.parse
from dataclasses import replace

import numpy as np
import pytest

from detco.common.errors import InputError
from detco.transfer import finetune
from detco.transfer.data import densepose
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.scoring import densepose as scoring
from detco.transfer.scoring.score import rehearse, score
from tests.factories import densepose as made

pytestmark = pytest.mark.detectron2
pytest.importorskip("densepose", reason="the project DensePose is not installed")
ROW = PROTOCOLS["coco-densepose"]
# metres by which a distance on the body is judged, of part 1, half of the torso
TORSO = 0.351


@pytest.fixture
def people(tmp_path):
    coco = made.people(tmp_path)
    names = {"train": "densepose_train2014", "test": "densepose_minival2014"}
    data = {"layout": "coco", "root": str(coco)} | names
    return finetune.load_data(ROW, data)[1]


def found_of(dataset, draw) -> list[dict]:
    """Detections of the true boxes, whose labels are right at some points, with others beside."""
    found = []
    for annotation in dataset.annotations:
        labels = densepose.unpacked(densepose.as_found(annotation)).copy()
        wrong = draw.random(labels.shape[1:]) < draw.random()
        labels[0][wrong] = draw.integers(0, 25, wrong.sum())
        entry = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
        found.append(entry | {"score": draw.random(), "densepose": densepose.packed(labels)})
        moved = [annotation["bbox"][0] + 3, *annotation["bbox"][1:]]
        found.append(found[-1] | {"bbox": moved, "score": draw.random()})
    return found


def test_ap_of_one_point_by_hand(people):
    """GPS of a point d metres off is exp(-d² / 2 k²), k that of the part; AP is the share of the
    ten thresholds that it reaches."""
    one = next(a for a in people.annotations if "dp_x" in a)
    surface = scoring.read_distances(densepose.surface(people.root)[densepose.DISTANCES])
    at = _place(people, part=1)
    point = {"dp_I": [1.0], "dp_U": [at["u"][0]], "dp_V": [at["v"][0]]}
    truth = one | point | {"dp_x": [128.0], "dp_y": [128.0]}
    dataset = replace(people, annotations=(truth,))
    shares = set()
    for index in range(made.EACH):  # the points of this part, the right one first
        labels = np.zeros((3, *densepose.sides(one["bbox"])), np.uint8)
        labels[0] = 1
        labels[1], labels[2] = (round(255 * at[name][index]) for name in "uv")
        entry = {key: one[key] for key in ("image_id", "category_id", "bbox")}
        entry |= {"score": 1.0, "densepose": densepose.packed(labels)}
        metres = _distance(surface, at["row"][0], at["row"][index])
        gps = math.exp(-(metres**2) / (2 * TORSO**2))
        reached = np.mean([gps >= t for t in np.linspace(0.5, 0.95, 10)])
        result = score(dataset, [entry], "gps", ("densepose",))
        assert result["densepose_ap"] == pytest.approx(100 * reached), (index, gps)
        assert result["densepose_ap50"] == pytest.approx(100 if gps >= 0.5 else 0)
        shares.add(reached)
    assert len(shares) > 1


def _place(people, part: int) -> dict:
    """u, v of the body's points of a part, and their rows in the table of distances."""
    from scipy.io import loadmat

    files = densepose.surface(people.root)
    body, order = loadmat(files[densepose.SURFACE]), loadmat(files[densepose.COARSE])
    chosen = np.flatnonzero(body["Part_ID_subdiv"].squeeze() == part)
    rows = order["index"].squeeze()[chosen] - 1
    u, v = (body[f"{name}_subdiv"].squeeze()[chosen] for name in "UV")
    return {"u": u.tolist(), "v": v.tolist(), "row": rows.tolist()}


def _distance(pairs: np.ndarray, a: int, b: int) -> float:
    """Of points a and b in the table: the lower triangle, row by row."""
    if a == b:
        return 0.0
    a, b = max(a, b), min(a, b)
    return float(pairs[a * (a - 1) // 2 + b, 0])


@pytest.mark.parametrize("seed", range(3))
def test_the_projects_whole_evaluator_says_the_same(people, seed, monkeypatch):
    """It finds the files at its own addresses."""
    from densepose.evaluation import densepose_coco_evaluation, evaluator
    from pycocotools.coco import COCO

    from detco.transfer.data.dataset import coco_dict

    files = densepose.surface(people.root)

    class Local:
        def get_local_path(self, url, **_):
            return str(files[urllib.parse.urlparse(url).path.rpartition("/")[2]])

    found = found_of(people, np.random.default_rng(seed))
    ours = score(people, found, "gps", ("densepose", "box"))
    truth = COCO()
    truth.dataset = coco_dict(people)
    truth.createIndex()
    monkeypatch.setattr(densepose_coco_evaluation, "PathManager", Local())
    monkeypatch.setattr(densepose_coco_evaluation, "np", scoring.old_numpy())
    gps, *_ = evaluator._evaluate_predictions_on_coco(truth, scoring.best_of_images(found))
    names = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "apm": "APm", "apl": "APl"}
    for name, theirs in names.items():
        value = ours[f"densepose_{name}"]
        assert gps[theirs] == (-100 if math.isnan(value) else pytest.approx(value))
    assert 0 < ours["densepose_ap"] < 100
    assert ours["box_ap"] == score(people, found, "coco", ("box",))["box_ap"]


def test_perfect_detections_and_none(people):
    rehearse(people, "gps", ("densepose", "box"))
    nothing = score(people, [], "gps", ("densepose", "box"))
    assert nothing["densepose_ap"] == nothing["box_ap"] == 0


def test_detections_of_another_protocol_are_refused(people):
    found = found_of(people, np.random.default_rng(0))
    del found[0]["densepose"]
    with pytest.raises(InputError, match="predicted by another protocol"):
        score(people, found, "gps", ("densepose",))


def test_distances_are_read_without_running_the_pickle(tmp_path):
    path = made.body(tmp_path) / densepose.DISTANCES
    with open(path, "rb") as file:
        expected = pickle.load(file)["Pdist_matrix"]
    assert (scoring.read_distances(path) == expected).all()
    path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(InputError, match=densepose.DISTANCES):
        scoring.read_distances(path)
    for content in ({"Pdist_matrix": np.zeros(4)}, {"other": np.zeros((4, 1))}, []):
        path.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(InputError, match=r"download it|column of distances"):
            scoring.read_distances(path)


def test_damaged_files_of_the_body_are_one_line(people):
    from scipy.io import savemat

    savemat(densepose.surface(people.root)[densepose.SURFACE], {"other": np.zeros(3)})
    with pytest.raises(InputError, match="evaluator fails with these files"):
        score(people, found_of(people, np.random.default_rng(0)), "gps", ("densepose",))
