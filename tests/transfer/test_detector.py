"""The trained detector as a file: what it holds, what is refused, and that it finds what the run
itself found."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from detco.common import backbone_file
from detco.common.errors import InputError
from detco.common.files import sha256_of
from detco.transfer import detections, detector, finetune
from detco.transfer.data import dataset
from detco.transfer.engines import EngineJob, Launch
from tests.factories.detectors import check_same_predictions, tiny, trained


def test_round_trip(tmp_path):
    given = trained()
    # a layer that two heads share is stored once
    given.tensors["b.weight"] = given.tensors["a.weight"]
    detector.write(tmp_path / detector.NAME, given)
    found = detector.read(tmp_path)
    assert found.sha256 == sha256_of(tmp_path / detector.NAME)
    same = replace(found, tensors={}, sha256="", backbone=replace(found.backbone, metadata=()))
    assert same == replace(given, tensors={})
    assert found.tensors.keys() == given.tensors.keys() and found.keypoints == [
        "left_eye",
        "right_eye",
    ]
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in given.tensors.items())
    assert found.tensors["b.weight"] is found.tensors["a.weight"]
    with safe_open(tmp_path / detector.NAME, framework="pt") as file:
        assert sorted(file.keys()) == ["a.weight", "count"]
    before = (tmp_path / detector.NAME).read_bytes()
    detector.write(tmp_path / detector.NAME, given)
    assert (tmp_path / detector.NAME).read_bytes() == before  # the same content, the same bytes


def damaged(path, **changes):
    """A file with other metadata (None: without that key)."""
    detector.write(path, trained())
    with safe_open(path, framework="pt") as file:
        metadata = {
            key: value for key, value in (file.metadata() | changes).items() if value is not None
        }
    save_file({"a.weight": torch.zeros(2)}, path, metadata)


def protocol(**changes) -> str:
    from dataclasses import asdict

    return json.dumps(asdict(tiny("small-retinanet")) | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "something"}, "is not a trained detector of this project$"),
        (
            {"format": "detco-backbone"},
            "is not a trained detector of this project: it is a backbone file",
        ),
        ({"format_version": "2"}, "has format version 2, this program reads 1: update it"),
        ({"seed": None, "arch": None}, "metadata lack arch, seed"),
        ({"arch": "resnet19"}, "unknown backbone architecture 'resnet19'"),
        ({"mean": "[1, 2]"}, "metadata mean must be a JSON list of three numbers"),
        ({"channel_order": "GBR"}, "channel_order must be RGB or BGR"),
        ({"seed": "x"}, "metadata seed is damaged: 'x'"),
        ({"iteration": "[1]"}, r"metadata iteration is damaged: '\[1\]'"),
        ({"protocol": "{"}, "metadata protocol is damaged: '{'"),
        (
            {"protocol": protocol(version="one")},
            "metadata protocol is damaged: version must be a whole number",
        ),
        (
            {"protocol": protocol(colour=1)},
            "has a setting 'colour' that this program does not know: update it",
        ),
        ({"categories": "[]"}, "metadata categories must be a list of different ids with names"),
        (
            {"categories": '[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]'},
            "must be a list of different ids",
        ),
        (
            {
                "categories": (
                    '[{"id": 1, "name": "a", "keypoints": ["x"], "keypoint_flip": [["x", "y"]]}]'
                )
            },
            "keypoints of 'a' are",
        ),
        ({"shared": '{"b": "c"}'}, "metadata shared name c, which is not in the file"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_path(changes, words, tmp_path):
    path = tmp_path / "d.safetensors"
    damaged(path, **changes)
    with pytest.raises(InputError, match=words) as error:
        detector.read(path)
    assert "\n" not in str(error.value) and (str(path) in str(error.value))


def test_files_that_are_no_detectors(tmp_path):
    path = tmp_path / detector.NAME
    with pytest.raises(InputError, match=r"holds no trained detector .*--keep-model"):
        detector.read(tmp_path)
    with pytest.raises(InputError, match="no trained detector at"):
        detector.read(path)
    detector.write(path, trained())
    (tmp_path / "other").mkdir()
    detector.write(tmp_path / "other" / detector.NAME, trained())
    assert detector.read(tmp_path).kept == "final"  # its own before those below
    with pytest.raises(InputError, match=r"holds 2 trained detectors; name one, e\.g\."):
        (tmp_path / "jobs").mkdir()
        for name in ("a", "b"):
            (tmp_path / "jobs" / name).mkdir()
            detector.write(tmp_path / "jobs" / name / detector.NAME, trained())
        detector.read(tmp_path / "jobs")
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        detector.read(path)
    path.write_bytes(whole)
    with pytest.raises(InputError, match="trained detector, not a backbone"):
        backbone_file.read(path)
    detector.write(path, trained(tensors={"a": torch.tensor([1.0, float("nan")])}))
    with pytest.raises(InputError, match="a is not finite"):
        detector.read(path)


def test_tensors_of_another_model_are_refused_by_name():
    model = torch.nn.Linear(3, 2)
    given = trained(tensors={"weight": torch.zeros(2, 2), "more": torch.zeros(1)})
    words = (
        r"not those of a retinanet of torchvision: bias is missing; more has no place; weight is"
        r" \(2, 2\), not \(2, 3\)"
    )
    with pytest.raises(InputError, match=words):
        detector.fill(model, given)


def test_best_or_final_is_what_the_job_says(tmp_path, scenes):
    """`save` in the middle of a training: the iteration is that of the call, a later one
    takes its place."""
    train, test = (dataset.load("coco", scenes / "coco", split) for split in ("train", "val"))
    job = EngineJob(
        tiny("small-retinanet"),
        backbone_file.random_backbone("resnet18", 0),
        train,
        test,
        4,
        tmp_path,
        keep_model="best",
    )
    for iteration in (2, 1):
        detector.save(job, "detectron2", torch.nn.Linear(3, 2).state_dict(), iteration)
        found = detector.read(tmp_path)
        assert (found.kept, found.iteration, found.engine, found.seed) == (
            "best",
            iteration,
            "detectron2",
            4,
        )
    assert (
        found.data["train"]["fingerprint"] == train.fingerprint
        and found.data["test"]["split"] == "val"
    )
    assert [c["name"] for c in found.categories] == [c["name"] for c in train.categories]


@pytest.mark.parametrize(
    "name",
    ["small-faster-rcnn-fpn", "small-retinanet", "small-mask-rcnn-c4", "small-keypoint-rcnn"],
)
def test_a_kept_detector_finds_what_the_run_found(name, scenes, tmp_path):
    check_same_predictions("torchvision", tiny(name), scenes, tmp_path)


def test_nothing_is_kept_unless_asked(scenes, tmp_path):
    row = tiny("small-retinanet")
    finetune.finetune(
        row,
        "random",
        {"layout": "coco", "root": scenes / "coco"},
        tmp_path,
        "torchvision",
        device="cpu",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.json"]


@pytest.mark.parametrize(
    ("engine", "keep", "launch", "words"),
    [
        ("replay", "final", Launch(), "the engine replay trains nothing that could be kept"),
        (
            "torchvision",
            "best",
            Launch(),
            "--keep-model best: the engine torchvision keeps final only",
        ),
        ("detectron2", "best", Launch(), "--keep-model best needs --eval-period N"),
        (
            "detectron2",
            "bset",
            Launch(eval_period=2),
            "the engine detectron2 keeps final or best only",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(engine, keep, launch, words):
    with pytest.raises(InputError, match=words):
        finetune.refuse(tiny("small-retinanet"), engine, launch, keep)
    finetune.refuse(tiny("small-retinanet"), "detectron2", Launch(eval_period=2), "best")


def test_pictures_that_cannot_be_read_are_named_and_left_out(scenes, tmp_path):
    row, data = tiny("small-retinanet", iterations=1), {"layout": "coco", "root": scenes / "coco"}
    finetune.finetune(
        row, "random", data, tmp_path, "torchvision", device="cpu", keep_model="final"
    )
    good = sorted((scenes / "coco" / "val").iterdir())[0]
    (tmp_path / "broken.jpg").write_bytes(good.read_bytes()[:100])
    problems: list[str] = []
    kept = detector.read(tmp_path)
    pairs = list(detections.detect(kept, [tmp_path / "broken.jpg", good], problems=problems))
    assert [picture.image["id"] for picture, _ in pairs] == [2] and pairs[0][0].image[
        "file_name"
    ] == str(good)
    assert (
        len(problems) == 1 and f"cannot read the picture {tmp_path / 'broken.jpg'}" in problems[0]
    )
    with pytest.raises(InputError, match="cannot read the picture"):
        list(detections.detect(kept, [tmp_path / "broken.jpg"]))


def test_predictions_as_a_coco_file(tmp_path):
    """pycocotools loads it; boxes and areas by hand."""
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    image = {"id": 1, "file_name": "a.jpg", "width": 8, "height": 4}
    counts = rle.frPyObjects({"size": [4, 8], "counts": [16, 4, 12]}, 4, 8)
    half = {"size": [4, 8], "counts": counts["counts"].decode()}
    found = [
        {"image_id": 1, "category_id": 7, "bbox": [1.0, 1.0, 2.0, 3.0], "score": 0.5},
        {"image_id": 1, "category_id": 3, "segmentation": half, "score": 1.0},
    ]
    made = detections.as_coco(trained(), [image], found)
    (tmp_path / "p.json").write_text(json.dumps(made))
    loaded = COCO(tmp_path / "p.json")
    assert [a["area"] for a in loaded.loadAnns([1, 2])] == [6.0, 4.0]
    assert loaded.loadAnns([2])[0]["bbox"] == [4.0, 0.0, 1.0, 4.0]  # column 4 of the mask
    assert (
        loaded.cats[3]["keypoints"] == ["left_eye", "right_eye"]
        and loaded.imgs[1]["file_name"] == "a.jpg"
    )
    assert made["info"]["description"] == "predictions of small-retinanet"


def test_reading_a_detector_needs_no_engine(tmp_path):
    detector.write(tmp_path / detector.NAME, trained(engine="detectron2"))
    code = (
        f"import sys; from detco.transfer import detector; detector.read({str(tmp_path)!r});"
        " print('detectron2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
