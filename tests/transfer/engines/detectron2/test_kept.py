"""The engine `detectron2`: a kept detector finds what its run found, and Detectron2 alone loads
what is exported of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from detco.common.errors import InputError
from detco.transfer import detections, detector, engines
from detco.transfer.scoring import score
from tests.factories.detectors import check_same_predictions, fine_tune, shortened, trained

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2")
import detectron2

from detco.transfer.engines.detectron2 import config as detectron2_config
from detco.transfer.engines.detectron2 import detector as detectron2_detector
from detco.transfer.engines.detectron2 import export as detectron2_export

run = partial(fine_tune, "detectron2")

ALONE = """
import json, logging, sys
import numpy as np
said = []
class Keep(logging.Handler):
    def emit(self, record): said.append(record.getMessage())
checkpoint = "detectron2.checkpoint.detection_checkpoint"
for name in ("fvcore.common.checkpoint", checkpoint, "detectron2", "fvcore"):
    logging.getLogger(name).addHandler(Keep(logging.WARNING))
import try_it
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
found = DefaultPredictor(try_it.cfg)(read_image(sys.argv[1], "BGR"))
meta = MetadataCatalog.get(try_it.cfg.DATASETS.TEST[0])
out = {"said": said, "ours": [m for m in sys.modules if m.split(".")[0] == "detco"]}
out["names"] = list(meta.get("thing_classes", meta.get("stuff_classes", ())))
out["keypoints"] = list(meta.get("keypoint_names", ()))
if "sem_seg" in found:
    out["best"] = found["sem_seg"].argmax(0).tolist()
else:
    objects = found["instances"]
    out |= {"boxes": objects.pred_boxes.tensor.tolist(), "scores": objects.scores.tolist()}
    out["classes"] = objects.pred_classes.tolist()
    if objects.has("pred_keypoints"): out["points"] = objects.pred_keypoints.tolist()
    if objects.has("pred_masks"): out["masks"] = objects.pred_masks.flatten(1).sum(1).tolist()
print(json.dumps(out))
"""


@pytest.mark.parametrize(
    "name",
    [
        "small-faster-rcnn-c4",
        "small-retinanet",
        "small-mask-rcnn-c4",
        "small-mask-rcnn-fpn",
        "small-keypoint-rcnn",
    ],
)
def test_a_kept_detector_finds_what_the_run_found(name, scenes, tmp_path):
    check_same_predictions("detectron2", shortened(name), scenes, tmp_path)
    assert not list(tmp_path.rglob("*.pth"))  # the checkpoints are gone


def environment(*folders: Path) -> dict[str, str]:
    """With this Detectron2 and these folders to import from, and nothing of this project."""
    parent = Path(detectron2.__file__).parents[1]
    places = folders if parent.name == "site-packages" else (parent, *folders)
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "OMP_NUM_THREADS": "1"}


def alone(folder: Path, picture: Path) -> dict:
    """What a process finds that knows Detectron2 and the exported folder only."""
    (folder / "try_it.py").write_text((folder / "try.py").read_text())  # `try` is a keyword
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(picture)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(folder), cwd=folder.parent
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("small-faster-rcnn-c4", ["Res5ROIHeadsExtraNorm"]),
        ("small-mask-rcnn-fpn", []),
        ("small-keypoint-rcnn", []),
        ("small-retinanet", ["RetinaNetGroupNorm"]),
        ("coco-retinanet-12k", []),
    ],
)
def test_detectron2_alone_finds_the_same(name, heads, scenes, tmp_path):
    row = shortened(name)
    # the row's 0.01 leaves nothing above 0.05 so early
    row = replace(row, detector=replace(row.detector, retina_prior=0.2))
    run(row, scenes, "coco", tmp_path / "job", keep_model="final")
    kept, picture = detector.read(tmp_path / "job"), sorted((scenes / "coco" / "val").iterdir())[0]
    told = engines.get("detectron2").export(kept, tmp_path / "out")
    assert told["registered by detco_heads"] == heads and (
        "detco_heads.py" in told["files"]
    ) == bool(heads)
    found = alone(tmp_path / "out", picture)
    assert found["said"] == [] and found["ours"] == []
    assert (
        found["names"] == [c["name"] for c in kept.categories]
        and found["keypoints"] == kept.keypoints
    )
    ((_, ours),) = detections.detect(kept, [picture])
    ids = [category["id"] for category in kept.categories]
    assert (
        [ids[number] for number in found["classes"]]
        == [result["category_id"] for result in ours]
        != []
    )
    boxes = np.array(found["boxes"])
    boxes[:, 2:] -= boxes[:, :2]
    assert np.allclose(boxes, [result["bbox"] for result in ours], atol=1e-4)
    assert found["scores"] == pytest.approx([result["score"] for result in ours], abs=1e-5)
    if "mask" in row.metrics:
        from pycocotools import mask as rle

        assert found["masks"] == [int(rle.area(result["segmentation"])) for result in ours]
    if "keypoint" in row.metrics:
        # COCO counts pixels
        points = np.array(found["points"]).reshape(len(ours), -1, 3) - np.array([0.5, 0.5, 0])
        assert np.allclose(
            points.reshape(len(ours), -1), [result["keypoints"] for result in ours], atol=1e-3
        )


def test_detectron2_alone_finds_the_same_classes_of_pixels(scenes, tmp_path):
    """FCN-16s; what was a scale and a dilation of ours is not in the config."""
    row = shortened("cityscapes-semantic", iterations=1)
    run(row, scenes, "cityscapes", tmp_path / "job", keep_model="final")
    kept = detector.read(tmp_path / "job")
    picture = sorted((scenes / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))[0]
    told = engines.get("detectron2").export(kept, tmp_path / "out")
    assert told["left out"] == ["training pictures scaled by a random factor (INPUT.SCALE_TRAIN)"]
    found = alone(tmp_path / "out", picture)
    assert (
        found["said"] == []
        and len(found["names"]) == 19
        and found["names"][0] == kept.categories[0]["name"]
    )
    ((_, ours),) = detections.detect(kept, [picture])
    best = np.array(found["best"])
    from pycocotools import mask as rle

    numbers = {category["id"]: number for number, category in enumerate(kept.categories)}
    assert {numbers[result["category_id"]] for result in ours} == set(np.unique(best).tolist())
    for result in ours:
        assert (
            rle.decode(result["segmentation"]).astype(bool)
            == (best == numbers[result["category_id"]])
        ).all()
    other = replace(kept, protocol=replace(row, detector=replace(row.detector, fcn_dilation=4)))
    with pytest.raises(InputError, match="fcn_dilation 4 has no key"):
        detectron2_export.plain_config(other)


@pytest.mark.parametrize(
    "name",
    ["small-faster-rcnn-c4", "voc-faster-rcnn-c4-24k", "coco-mask-rcnn-fpn-90k", "small-retinanet"],
)
def test_plain_detectron2_reads_the_config_as_ours(name):
    """get_cfg() takes the file, and differs from what was trained in what is said only."""
    from detectron2.config import get_cfg

    given = trained(engine="detectron2", protocol=shortened(name))
    keys, _, lost = detectron2_export.plain_config(given)
    cfg = get_cfg()
    cfg.merge_from_other_cfg(
        type(cfg)(yaml.safe_load(yaml.safe_dump(detectron2_export.nested(keys))))
    )
    ours = detectron2_config.differences(detectron2_detector.config(given, "cuda"))
    theirs = detectron2_config.differences(cfg)
    changed = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    expected = {"MODEL.WEIGHTS", "DATASETS.TRAIN", "DATASETS.TEST"}
    if name.startswith("small"):
        expected |= {
            f"SOLVER.CLIP_GRADIENTS.{key}" for key in ("ENABLED", "CLIP_TYPE", "CLIP_VALUE")
        } | {"SOLVER.OPTIMIZER"}
        assert lost[0] == "AdamW (SOLVER.OPTIMIZER)" and len(lost) == 2
    if name == "small-retinanet":
        expected.add("MODEL.META_ARCHITECTURE")
    assert changed == expected
    assert cfg.INPUT.FORMAT == "BGR" and list(cfg.MODEL.PIXEL_MEAN) == [1.0, 2.0, 3.0]


def test_the_command_exports_and_try_py_runs(scenes, tmp_path, capsys):
    from detco.benchmarks.cli import main as cli

    run(
        shortened("small-faster-rcnn-fpn"),
        scenes,
        "coco",
        tmp_path / "job",
        keep_model="final",
    )
    words = [
        "weights",
        "export",
        str(tmp_path / "job" / detector.NAME),
        "--to",
        "detectron2",
        str(tmp_path / "out"),
    ]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "config.yaml" in out and "left out" in out and "AdamW" in out
    assert "AdamW (SOLVER.OPTIMIZER)" in (tmp_path / "out" / "README.md").read_text()
    assert torch.load(tmp_path / "out" / "model_final.pth", weights_only=True).keys() == {"model"}
    picture = sorted((scenes / "coco" / "val").iterdir())[0]
    command = [sys.executable, "-W", "ignore", str(tmp_path / "out" / "try.py"), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 0 and "pred_boxes" in done.stdout, done.stderr
    assert cli.main(words) == 2 and "is there already and not empty" in capsys.readouterr().err
    assert cli.main([*words[:4], "torchvision", words[5]]) == 2
    assert "a trained detector goes to detectron2 only" in capsys.readouterr().err


def test_pictures_are_turned_as_in_training(scenes, tmp_path):
    """A picture stored on its side, with EXIF saying so, gives the objects of the upright one."""
    run(
        shortened("small-mask-rcnn-fpn"),
        scenes,
        "coco",
        tmp_path / "job",
        keep_model="final",
    )
    upright = Image.open(sorted((scenes / "coco" / "val").iterdir())[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "a.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    kept = detector.read(tmp_path / "job")
    (one, found), (two, again) = detections.detect(kept, [tmp_path / "a.png", tmp_path / "b.png"])
    assert two.pixels.size == one.pixels.size == upright.size and found
    assert [{**result, "image_id": 2} for result in found] == again


def test_killed_after_training_the_detector_is_not_lost(scenes, tmp_path, monkeypatch):
    """The checkpoint stays until the predictions are scored: a restart trains nothing again and
    keeps the same detector."""
    row, seen = shortened("small-faster-rcnn-fpn"), []
    with monkeypatch.context() as patch:
        patch.setattr(score, "score_file", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(row, scenes, "coco", tmp_path, keep_model="final")
    before = (tmp_path / detector.NAME).read_bytes()
    (tmp_path / detector.NAME).unlink()
    run(
        row,
        scenes,
        "coco",
        tmp_path,
        keep_model="final",
        report=lambda stage, *_, **__: seen.append(stage),
    )
    assert (
        "train" not in seen
        and "predict" in seen
        and (tmp_path / detector.NAME).read_bytes() == before
    )
    assert not list(tmp_path.rglob("*.pth")) and not list(tmp_path.rglob("last_checkpoint"))


def test_tensors_of_another_detector_are_refused(scenes, tmp_path):
    given = trained(engine="detectron2", protocol=shortened("small-faster-rcnn-fpn"))
    with pytest.raises(
        InputError,
        match=(r"faster-rcnn-fpn .*a.weight has no place"),
    ):
        list(detections.detect(given, []))
