"""Published data sets found where Detectron2's users have them, the linear rule, and shares
of COCO files."""

import json
import shutil
from dataclasses import replace

import pytest

from detco.common.errors import InputError
from detco.transfer.data import dataset, official
from detco.transfer.data.making import subsets
from detco.transfer.protocols import PROTOCOLS, departures, scaled
from detco.transfer.settings import Published

VOC, SEMANTIC = PROTOCOLS["voc-faster-rcnn-c4-24k"], PROTOCOLS["cityscapes-semantic"]


@pytest.fixture(scope="module")
def catalog(scenes, tmp_path_factory):
    """A folder as DETECTRON2_DATASETS names it, holding drawn scenes."""
    root = tmp_path_factory.mktemp("datasets")
    for name, layout in (("VOC2007", "voc"), ("VOC2012", "voc"), ("cityscapes", "cityscapes")):
        shutil.copytree(scenes / layout, root / name)
    for path in (root / "VOC2012").rglob("0*"):  # names occur once over both years
        path.rename(path.with_name(f"2012_{path.name}"))
    for path in (root / "VOC2012" / "ImageSets" / "Main").glob("*.txt"):
        path.write_text("".join(f"2012_{name}\n" for name in path.read_text().split()))
    return root


def test_both_years_of_voc_are_one_training_set(catalog, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(catalog))
    where = official.locate(VOC)
    assert where == {
        "layout": "voc",
        "root": str(catalog),
        "train": "VOC2007/trainval+VOC2012/trainval",
        "test": "VOC2007/test",
    }
    both = dataset.load("voc", catalog, where["train"])
    parts = [dataset.load("voc", catalog / year, "trainval") for year in ("VOC2007", "VOC2012")]
    assert [image["name"] for image in both.images] == [
        image["name"] for part in parts for image in part.images
    ]
    assert len({image["id"] for image in both.images}) == len(both.images) == 60
    boxes = [a["bbox"] for part in parts for a in part.annotations]
    assert [a["bbox"] for a in both.annotations] == boxes and both.categories == parts[0].categories
    of_image = {a["image_id"] for a in both.annotations}
    assert of_image <= {image["id"] for image in both.images}


def test_a_single_folder_and_its_splits(catalog):
    where = official.locate(SEMANTIC, catalog)
    assert where == {
        "layout": "cityscapes",
        "root": str(catalog / "cityscapes"),
        "train": "train",
        "test": "val",
    }
    assert official.holds(SEMANTIC, catalog) and not official.holds(
        SEMANTIC, catalog / "cityscapes"
    )
    assert official.holds(VOC, catalog) and not official.holds(
        PROTOCOLS["small-retinanet"], catalog
    )


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"VOC2007: no .*DETECTRON2_DATASETS"):
        official.locate(VOC)
    with pytest.raises(InputError, match="small-retinanet is for any data set"):
        official.locate(PROTOCOLS["small-retinanet"], tmp_path)


def test_other_data_than_published_are_a_deviation(scenes):
    train, test = (dataset.load("voc", scenes / "voc", split) for split in ("trainval", "test"))
    (text,) = official.deviations(VOC, train, test)
    assert (
        "VOC2007/trainval + VOC2012/trainval" in text
        and "30 and 10 pictures, 8 classes (16,551 and 4,952, 20)" in text
    )
    own = replace(VOC, data=Published("voc", ("a/b",), "a/c", 8, (30, 10)))
    assert (
        official.deviations(own, train, test)
        == ()
        == official.deviations(PROTOCOLS["small-retinanet"], train, test)
    )


def test_linear_rule():
    """Batch 4 instead of 16: a quarter of the rate, four times as long (Goyal et al.)."""
    quarter, scaling = scaled(VOC, 4)
    s = quarter.schedule
    assert (s.images, s.lr, s.iterations, s.steps, s.warmup) == (
        4,
        0.005,
        96_000,
        (72_000, 88_000),
        400,
    ) and scaling == "1/4"
    # epochs are passes over the images, whatever the batch; what trains nothing is not scaled
    linear, scaling = scaled(PROTOCOLS["imagenet-linear"], 64)
    assert (linear.schedule.lr, linear.schedule.epochs, scaling) == (7.5, 100, "1/4")
    assert scaled(PROTOCOLS["imagenet-knn"], 64)[1] == "1"
    assert scaled(VOC, 32)[1] == "2" and scaled(VOC, 16) == (VOC, "1")
    with pytest.raises(InputError, match=r"batch of 1000000 leaves .*no iteration"):
        scaled(VOC, 1_000_000)
    assert departures(quarter)[:3] == (
        "schedule.iterations 96000 (protocol: 24000)",
        "schedule.images 4 (protocol: 16)",
        "schedule.lr 0.005 (protocol: 0.02)",
    )


def test_shares_of_coco_are_nested_reproducible_and_readable(scenes, tmp_path):
    shutil.copytree(scenes / "coco", tmp_path / "coco")
    source = tmp_path / "coco" / "annotations" / "instances_train.json"
    names = {}
    for percent in (10, 20, 50, 100):
        out, counts = subsets.write(source, percent, seed=0)
        assert out.name == f"instances_train_{percent}pct.json" and counts["images"] == round(
            30 * percent / 100
        )
        share = dataset.load("coco", tmp_path / "coco", f"train_{percent}pct")
        names[percent] = {image["name"] for image in share.images}
        assert len(share.annotations) == counts["annotations"]
    assert names[10] < names[20] < names[50] < names[100] and len(names[100]) == 30
    whole = json.loads(source.read_text())
    # the order in the file does not matter
    source.write_text(json.dumps(whole | {"images": whole["images"][::-1]}))
    again, _ = subsets.write(source, 20, seed=0, out=tmp_path / "again.json")
    assert {image["file_name"] for image in json.loads(again.read_text())["images"]} == names[20]
    other, _ = subsets.write(source, 20, seed=1, out=tmp_path / "other.json")
    assert {image["file_name"] for image in json.loads(other.read_text())["images"]} != names[20]


@pytest.mark.parametrize(
    ("percent", "out", "words"),
    [
        (0, None, "--percent must be above 0"),
        (101, None, "at most 100"),
        (50, "source.json", "is the source itself"),
    ],
)
def test_shares_refuse(percent, out, words, scenes, tmp_path):
    source = shutil.copy(
        scenes / "coco" / "annotations" / "instances_train.json", tmp_path / "source.json"
    )
    with pytest.raises(InputError, match=words):
        subsets.write(source, percent, 0, out and tmp_path / out)
    with pytest.raises(InputError, match="no annotation file at"):
        subsets.write(tmp_path / "no.json", 1, 0)


def test_a_share_of_coco_that_is_not_there_says_how_to_write_it(tmp_path):
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    row = PROTOCOLS["coco-5pct-retinanet"]
    with pytest.raises(
        InputError,
        match=(r"data subset .*_train2017.json --percent 5"),
    ):
        official.locate(row, tmp_path)
    (tmp_path / "coco" / "annotations" / "instances_train2017_5pct.json").touch()
    assert official.locate(row, tmp_path)["train"] == "train2017_5pct"
