"""`--keep-model` and `detco predict`: files written and messages."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detco.benchmarks.cli import main as cli
from detco.benchmarks.cli import predict
from detco.common.errors import InputError
from detco.common.images import FULL_SIZE
from detco.results import store
from detco.results.report import drawing
from detco.transfer import detector

TINY = ["--device", "cpu", "--set", "schedule.iterations=2", "--set", "schedule.warmup=1"]


def transfer(drawn, out, *more):
    words = [
        "transfer",
        "small-faster-rcnn-fpn",
        "--weights",
        "random",
        "--data",
        str(drawn / "coco"),
        "--out",
        str(out),
        *TINY,
    ]
    return cli.main([*words, "--engine", "torchvision", *more])


@pytest.fixture(scope="module")
def kept(scenes, tmp_path_factory):
    """The folder of a job that kept its detector."""
    out = tmp_path_factory.mktemp("kept")
    assert transfer(scenes, out, "--keep-model") == 0
    (path,) = out.rglob("detector.safetensors")
    return path.parent


def test_keep_model_keeps_one_file_and_says_where(kept, scenes, capsys):
    out, record = kept.parents[2], store.read_json(kept / "record.json")
    assert record["spec"]["keep_model"] == "final"
    trained = detector.read(kept)
    assert trained.iteration == 2 and trained.protocol.name == "small-faster-rcnn-fpn"
    # answered from the record: the file is still there
    assert transfer(scenes, out, "--keep-model") == 0
    assert f"trained detector: {kept / detector.NAME}" in capsys.readouterr().out
    assert cli.main(["clean", str(out), "--yes"]) == 0 and (kept / detector.NAME).is_file()
    capsys.readouterr()
    assert cli.main(["clean", str(out), "--models"]) == 0
    assert "trained detectors  1 file " in capsys.readouterr().out


def test_json_is_all_that_standard_output_holds(kept, scenes, capsys):
    assert transfer(scenes, kept.parents[2], "--keep-model", "--json") == 0
    streams = capsys.readouterr()
    cells = json.loads(streams.out)
    record = store.read_json(kept / "record.json")
    assert {cell["metric"]: cell["mean"] for cell in cells}["box_ap"] == record["metrics"]["box_ap"]
    assert "done before, nothing trained" in streams.err


def test_a_run_finished_without_it_says_so_and_is_the_same_run(scenes, tmp_path, capsys):
    assert transfer(scenes, tmp_path) == 0
    first = [path.read_text() for path in tmp_path.rglob("record.json")]
    assert len(first) == 1
    assert "trained detector" not in capsys.readouterr().out and not list(
        tmp_path.rglob(detector.NAME)
    )
    assert transfer(scenes, tmp_path, "--keep-model") == 0
    words = (
        "no final detector of 1 job, finished before without --keep-model final; a new --out"
        " keeps it"
    )
    assert words in capsys.readouterr().out
    assert [path.read_text() for path in tmp_path.rglob("record.json")] == first


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--engine", "replay", "--keep-model"],
            "the engine replay trains nothing that could be kept",
        ),
        (["--keep-model", "best"], "--keep-model best: the engine torchvision keeps final only"),
        (["--keep-model", "bset"], "unknown --keep-model 'bset'; did you mean 'best'"),
    ],
)
def test_what_cannot_be_kept_is_one_line(scenes, tmp_path, capsys, more, words):
    try:
        status = transfer(scenes, tmp_path / "out", *more)
    except SystemExit as end:
        status = end.code
    streams = capsys.readouterr()
    assert status == 2 and words in streams.err and streams.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def _threads_of_the_run(kept):
    """As many as the run had: another number of threads rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(store.read_json(kept / "record.json")["hardware"]["threads"])
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_of_the_run")
def test_predict_writes_a_coco_file_and_draws(kept, scenes, tmp_path, capsys):
    """The run's own predictions again, through the command; a broken picture is named, the others
    are done."""
    folder, out = tmp_path / "pictures", tmp_path / "out"
    for source in sorted((scenes / "coco" / "val").iterdir()):
        (folder / "deep").mkdir(parents=True, exist_ok=True)
        (folder / "deep" / source.name).write_bytes(source.read_bytes())
    broken = folder / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 nothing")
    assert (
        cli.main(
            [
                "predict",
                str(kept),
                str(folder),
                "--out",
                str(out),
                "--score",
                "0",
                "--device",
                "cpu",
            ]
        )
        == 1
    )
    streams = capsys.readouterr()
    # a slow machine says every ten seconds where it stands
    (said,) = (line for line in streams.err.splitlines() if not line.startswith("predict:"))
    assert said.startswith(f"detco: cannot read the picture {broken}")
    found = json.loads((out / "predictions.json").read_text())
    names = {image["id"]: image["file_name"].rsplit("/", 1)[1] for image in found["images"]}
    own = json.loads((kept / "predictions.json").read_text())
    data = json.loads((scenes / "coco" / "annotations" / "instances_val.json").read_text())
    theirs = {image["id"]: image["file_name"] for image in data["images"]}
    assert len(names) == 10 and len(found["annotations"]) == len(own) > 0
    assert f"{len(own)} objects on 10 pictures" in streams.out
    expected = sorted(
        (theirs[r["image_id"]], r["category_id"], r["score"], *r["bbox"]) for r in own
    )
    ours = sorted(
        (names[a["image_id"]], a["category_id"], a["score"], *a["bbox"])
        for a in found["annotations"]
    )
    assert [row[:2] for row in ours] == [row[:2] for row in expected]
    assert np.allclose([row[2:] for row in ours], [row[2:] for row in expected], atol=1e-4)
    drawn = sorted(
        path.relative_to(out / "drawn").as_posix() for path in (out / "drawn").rglob("*.jpg")
    )
    assert drawn == sorted(f"deep/{name}" for name in names.values())
    for image in found["images"]:
        with Image.open(out / "drawn" / "deep" / names[image["id"]]) as picture:
            assert picture.size == (image["width"], image["height"])


def test_predict_only_from_a_score_on_and_without_drawing(kept, scenes, tmp_path, capsys):
    picture = sorted((scenes / "coco" / "val").iterdir())[0]
    words = [
        "predict",
        str(kept / detector.NAME),
        str(picture),
        "--out",
        str(tmp_path / "out"),
        "--no-draw",
        "--score",
        "1",
    ]
    assert cli.main(words) == 0
    assert "0 objects on 1 pictures" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert found["annotations"] == [] and found["images"][0]["file_name"] == str(picture)
    assert not (tmp_path / "out" / "drawn").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["{out}", "{picture}"],
            "holds no trained detector (detector.safetensors): --keep-model keeps it",
        ),
        (["{kept}", "{out}/nothing.jpg"], "no picture or folder"),
        (["{kept}", "{out}"], "no pictures in this folder"),
        (["{kept}", "{picture}", "--score", "2"], "argument --score: must be from 0 to 1"),
        (["{picture}", "{picture}"], "is not a readable safetensors file"),
    ],
)
def test_bad_input_is_one_line(words, says, kept, scenes, tmp_path, capsys):
    picture = sorted((scenes / "coco" / "val").iterdir())[0]
    words = [word.format(kept=kept, out=tmp_path, picture=picture) for word in words]
    try:
        status = cli.main(["predict", *words, "--out", str(tmp_path / "new")])
    except SystemExit as end:
        status = end.code
    streams = capsys.readouterr()
    assert (
        status == 2
        and says in streams.err
        and streams.err.count("\n") == 1
        and not (tmp_path / "new").exists()
    )


def test_pictures_of_several_folders_do_not_overwrite_each_other(tmp_path):
    for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "b/drawn/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    found = predict.images_of(
        [tmp_path / "a", tmp_path / "b", tmp_path / "a" / "x.jpg"], tmp_path / "b" / "drawn"
    )
    places = {
        path.relative_to(tmp_path).as_posix(): where.as_posix() for path, where in found.items()
    }
    assert places == {"a/x.jpg": "x.jpg", "b/x.jpg": "x-2.jpg", "b/x.png": "x.png.jpg"}
    with pytest.raises(InputError, match="no pictures there but those drawn before"):
        predict.images_of([tmp_path / "b" / "drawn"], tmp_path / "b" / "drawn")


def test_what_is_drawn_where():
    """On grey: the box's border in the colour of its class, the mask mixed in, the keypoint where
    it is; nothing elsewhere."""
    from pycocotools import mask as rle

    grey = Image.new("RGB", (200, 100), (100, 100, 100))
    inside = np.zeros((100, 200), np.uint8)
    inside[50:60, 30:40] = 1
    coded = rle.encode(np.asfortranarray(inside))
    result = {
        "category_id": 5,
        "score": 0.9,
        "bbox": [20, 40, 60, 50],
        "segmentation": coded,
        "keypoints": [70.0, 80.0, 1.0],
    }
    categories = [
        {"id": 2, "name": "a"},
        {"id": 5, "name": "b", "keypoints": ["x"], "skeleton": [[1, 9]]},
    ]
    drawn = np.asarray(drawing.objects(grey, [result], categories)).astype(int)
    shade = np.array(drawing.colour(1))
    assert (
        (drawn[40, 30:80] == shade).all()
        and (drawn[90, 20:80] == shade).all()
        and (drawn[60:90, 20] == shade).all()
    )
    mixed = (1 - drawing.STRENGTH) * 100 + drawing.STRENGTH * shade
    assert np.abs(drawn[50:60, 30:40] - mixed).max() <= 1
    assert (drawn[80, 70] == shade).all()
    assert (
        (drawn[:, 100:] == 100).all()
        and (drawn[92:] == 100).all()
        and (drawn[62:75, 30:60] == 100).all()
    )
    # its label would reach beyond the picture
    edge = {"category_id": 2, "score": 0.9, "bbox": [180, 50, 19, 30]}
    at_edge = np.asarray(drawing.objects(grey, [edge], categories)).astype(int)[40:50, :178]
    assert (at_edge == drawing.colour(0)).all(-1).any()
    # results are in pixels of the file, of which the decoder gave half
    larger = result | {
        "bbox": [40, 80, 120, 100],
        "segmentation": rle.encode(np.asfortranarray(inside.repeat(2, 0).repeat(2, 1))),
        "keypoints": [140.5, 160.5, 1.0],
    }
    reduced = grey.copy()
    setattr(reduced, FULL_SIZE, (2 * grey.width, 2 * grey.height))
    assert (np.asarray(drawing.objects(reduced, [larger], categories)) == drawn).all()
    assert len({drawing.colour(n) for n in range(80)}) == 80 and np.asarray(grey).max() == 100
