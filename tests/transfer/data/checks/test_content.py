"""The bytes of images belong to a data set's identity; test images that are training images are
counted, and all of them refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import datasets, jobs
from detco.benchmarks.run import worker
from detco.benchmarks.suites.builtin import Data
from detco.common.errors import InputError
from detco.common.values import canonical_hash
from detco.transfer.data import dataset
from detco.transfer.data.checks import content
from detco.transfer.protocols import PROTOCOLS


@pytest.fixture(params=["voc", "coco", "cityscapes"])
def copied(request, tmp_path, scenes):
    """A copy of the scenes in each layout, with its splits."""
    shutil.copytree(scenes / request.param, tmp_path / "set")
    splits = ("trainval", "test") if request.param == "voc" else ("train", "val")
    return request.param, tmp_path / "set", splits


@pytest.fixture
def coco(tmp_path, scenes):
    shutil.copytree(scenes / "coco", tmp_path / "coco")
    return tmp_path / "coco"


def loaded(layout, root, splits, **more):
    train = dataset.load(layout, root, splits[0], **more)
    return train, dataset.load(layout, root, splits[1], train.categories, **more)


def negative(path: str) -> None:
    """The picture in other colours, of the same size."""
    with Image.open(path) as picture:
        Image.fromarray(255 - np.asarray(picture.convert("RGB"))).save(path)


def detco(capsys, *words) -> tuple[int, str, list[str]]:
    status = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err.splitlines()


def transfer(root, out, *more) -> list:
    words = ["transfer", "small-retinanet", "--weights", "random", "--data", root, "--out", out]
    return [*words, "--engine", "replay", "--device", "cpu", *more]


def box_ap(out: Path) -> set[float]:
    return {json.loads(path.read_text())["metrics"]["box_ap"] for path in out.rglob("record.json")}


# --- identity ------------------------------------------------------------------------------------


def test_the_content_is_that_of_the_images_wherever_they_lie(copied, tmp_path):
    layout, root, splits = copied
    before = [one.content for one in content.identified(*loaded(layout, root, splits))]
    assert len({*before}) == 2 and all(len(text) == 64 for text in before)
    shutil.copytree(root, tmp_path / "elsewhere" / "there")
    again = content.identified(*loaded(layout, tmp_path / "elsewhere" / "there", splits))
    assert [one.content for one in again] == before
    negative(again[1].images[0]["file_name"])
    after = content.identified(*loaded(layout, tmp_path / "elsewhere" / "there", splits))
    assert after[0].content == before[0] and after[1].content != before[1]
    assert [one.fingerprint for one in after] == [one.fingerprint for one in again]


def test_names_that_are_no_text_have_content(coco):
    """Names of files are bytes; what is no UTF-8 in them stands in JSON as a surrogate."""
    path = coco / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    first = document["images"][0]
    before = content.identified(*loaded("coco", coco, ("train", "val")))[1].content
    other = os.fsdecode(b"a\xff.jpg")
    os.rename(coco / "val" / first["file_name"], coco / "val" / other)
    first["file_name"] = other
    path.write_text(json.dumps(document))
    assert content.identified(*loaded("coco", coco, ("train", "val")))[1].content != before


def test_classes_of_pixels_are_content_too(scenes, tmp_path):
    """Their labels lie in pictures of their own, of which the records know boxes and areas only."""
    shutil.copytree(scenes / "cityscapes", tmp_path / "set")
    splits = ("train", "val")
    before = content.identified(*loaded("cityscapes", tmp_path / "set", splits, semantic=True))
    labels = before[1].images[0]["labels"]
    with Image.open(labels) as picture:
        ids = np.array(picture)
    Image.fromarray(ids[:, ::-1]).save(labels)
    after = content.identified(*loaded("cityscapes", tmp_path / "set", splits, semantic=True))
    assert after[0].content == before[0].content and after[1].content != before[1].content


def test_a_finished_run_is_not_served_for_other_pictures(coco, tmp_path, capsys):
    """LLVIP 35: the same names and boxes over infrared pictures. And what is served says so."""
    words = transfer(coco, tmp_path / "out")
    assert detco(capsys, *words)[0] == 0
    status, out, _ = detco(capsys, *words)
    assert status == 0 and "done before, nothing trained" in out
    assert len(list((tmp_path / "out").rglob("record.json"))) == 1
    for path in (coco / "train").glob("*.jpg"):
        negative(str(path))
    status, out, _ = detco(capsys, *words)
    assert status == 0 and "done before" not in out
    assert len(list((tmp_path / "out").rglob("record.json"))) == 2
    status, out, _ = detco(capsys, "table", tmp_path / "out")
    assert status == 0 and out.count("data ") == 2  # two columns, told apart by their hashes


@pytest.mark.parametrize("what", ["image", "labels", "nothing"])
def test_what_changes_between_plan_and_job_ends_the_job(what, coco, tmp_path):
    """A result is never recorded under the identity of other data."""
    row = PROTOCOLS["small-retinanet"]
    found, source = datasets.load(Data(coco), row)
    run = jobs.FineTuning("a", jobs.random_source(), row, found, source, 0)
    job = jobs.transfer_job(run, jobs.Place(tmp_path / "out", engine="replay"))
    if what == "image":
        negative(str(next((coco / "train").glob("*.jpg"))))
    if what == "labels":
        path = coco / "annotations" / "instances_val.json"
        content = json.loads(path.read_text())
        content["annotations"][0]["bbox"][2] -= 1
        path.write_text(json.dumps(content))
    job.folder.mkdir(parents=True)
    record = worker.run_job(job.spec, job.folder, lambda *_, **__: None)
    if what == "nothing":
        assert record["status"] == "done"
    else:
        assert (
            record["status"] == "failed" and "changed since the run was planned" in record["error"]
        )


def test_a_new_name_takes_an_old_number_with_the_same_content_only(coco, tmp_path, capsys):
    words = transfer(coco, tmp_path / "out", "--name", "first")
    assert detco(capsys, *words)[0] == 0
    words[-1] = "second"
    status, out, _ = detco(capsys, *words)
    assert status == 0 and "done before, nothing trained" in out
    negative(str(next((coco / "val").glob("*.jpg"))))
    words[-1] = "third"
    status, out, _ = detco(capsys, *words)
    assert status == 0 and "done before" not in out


def test_a_record_without_content_is_not_served_and_that_is_said(coco, tmp_path, capsys):
    """It keeps its place in the table, in a column of its own."""
    out, words = tmp_path / "out", transfer(coco, tmp_path / "out")
    assert detco(capsys, *words)[0] == 0
    (record,) = out.rglob("record.json")
    found = json.loads(record.read_text())
    data = found["data"]
    old = {"kind": "transfer", "weights": "random", "layout": "coco", "train": "train"}
    old |= {"test": "val", "protocol": found["spec"]["protocol_row"], "engine": "replay", "seed": 0}
    identity = canonical_hash([data["train"]["fingerprint"], data["test"]["fingerprint"]])
    found["id"] = found["spec"]["id"] = canonical_hash(old | {"data": identity})
    found["spec"]["data"]["identity"] = identity
    for split in ("train", "test"):
        del data[split]["content"]
    record.write_text(json.dumps(found))
    record.with_name("spec.json").write_text(json.dumps(found["spec"]))
    record.parent.rename(record.parent.with_name(f"random-seed0-{found['id'][:8]}"))
    status, text, _ = detco(capsys, *words)
    assert status == 0 and "1 job run anew" in text and "done before" not in text
    assert len(list(out.rglob("record.json"))) == 2
    status, text, _ = detco(capsys, "table", out)
    assert status == 0 and text.count("data ") == 2
    status, text, _ = detco(capsys, *words)
    assert "anew" not in text and "done before, nothing trained" in text


# --- test images that are training images --------------------------------------------------------


def listed(root: Path, split: str, names: list[str], source: str) -> None:
    """A COCO file of some pictures of another split."""
    document = json.loads((root / "annotations" / f"instances_{source}.json").read_text())
    images = [image for image in document["images"] if image["file_name"] in names]
    ids = {image["id"] for image in images}
    objects = [a for a in document["annotations"] if a["image_id"] in ids]
    text = json.dumps(document | {"images": images, "annotations": objects})
    (root / "annotations" / f"instances_{split}.json").write_text(text)


@pytest.mark.parametrize("case", ["the same list", "copies under other names"])
def test_tested_on_what_was_trained_on(coco, tmp_path, capsys, case):
    """coco-annotator 400, cvat 4993."""
    test = "train"
    if case == "copies under other names":
        test = "copied"
        names = sorted(path.name for path in (coco / "train").glob("*.jpg"))[:6]
        listed(coco, "copied", names, "train")
        (coco / "copied").mkdir()
        path = coco / "annotations" / "instances_copied.json"
        document = json.loads(path.read_text())
        for image in document["images"]:
            old, image["file_name"] = image["file_name"], f"x{image['file_name']}"
            shutil.copy(coco / "train" / old, coco / "copied" / image["file_name"])
        path.write_text(json.dumps(document))
    words = transfer(coco, tmp_path / "out", "--train", "train", "--test", test)
    status, _, (line,) = detco(capsys, *words)
    assert status == 2 and not (tmp_path / "out").exists()
    assert "test images" in line and "are training images" in line and str(coco) in line
    assert ("x" in line) == ("copies" in case or "x" in str(coco))


def test_some_of_them_are_counted(coco):
    train, test = loaded("coco", coco, ("train", "val"))
    for n in range(3):
        shutil.copy(train.images[n]["file_name"], test.images[n + 2]["file_name"])
    train, test = content.identified(train, test)
    assert test.facts == {"in_training": 3} and train.facts == {}


def test_unreadable_images_are_not_each_others_copies(coco):
    train, test = loaded("coco", coco, ("train", "val"))
    for image in (*train.images, *test.images):
        Path(image["file_name"]).unlink()
    assert content.identified(train, test)[1].facts == {}


def test_all_are_refused_by_the_loader_too(coco):
    train, _ = loaded("coco", coco, ("train", "val"))
    with pytest.raises(InputError, match="all 30 test images"):
        content.identified(train, train)


def test_check_counts_them(coco):
    train, test = loaded("coco", coco, ("train", "val"))
    assert not dataset.check("coco", coco).problems
    for number, image in enumerate(test.images):
        shutil.copy(train.images[number]["file_name"], image["file_name"])
        if number == 1:
            assert any(
                "2 of 10 images of 'val'" in text for text in dataset.check("coco", coco).notes
            )
    assert any("all 10 test images" in text for text in dataset.check("coco", coco).problems)
