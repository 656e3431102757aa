"""Plans of suites: what is found, and what is refused before any job starts."""

import shutil
from pathlib import Path

import pytest

from detco.benchmarks.plan import datasets as plan_datasets
from detco.benchmarks.plan import suite_plan
from detco.benchmarks.suites import files
from detco.benchmarks.suites.builtin import Data, Scenes, StartingPoint, Suite, Task
from detco.common.errors import InputError
from detco.common.files import sha256_of
from tests.factories.suites import suite_of


@pytest.mark.parametrize(
    "layout, train, test",
    [("voc", "trainval", "test"), ("coco", "train", "val"), ("cityscapes", "train", "val")],
)
def test_layout_and_splits_are_found(drawn, layout, train, test):
    assert plan_datasets.find_splits(Data(drawn / layout)) == Data(
        drawn / layout, layout, train, test
    )


def test_masks_bring_mask_rcnn(drawn, photos):
    chosen = suite_plan.plan(
        suite_of(drawn, photos, protocols=(), data=Data(drawn / "coco")), Path("out")
    )
    names = {job.spec["protocol"] for job in chosen if job.kind == "transfer"}
    assert names == {"small-faster-rcnn-c4", "small-mask-rcnn-fpn", "small-retinanet"}


def test_an_interrupted_suite_has_compared_all_rows(drawn, photos):
    """Every cell has its first seed before any has its second."""
    suite = suite_of(drawn, photos, seeds=3)
    jobs = [job for job in suite_plan.plan(suite, Path("out")) if job.kind == "transfer"]
    seeds = [job.spec["seed"] for job in jobs]
    assert seeds == sorted(seeds) and len(set(seeds)) == 3
    cells = len(suite.start) * len(suite.protocols)
    assert [seeds.count(seed) for seed in range(3)] == [cells] * 3


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"images": Path("/nowhere")}, "/nowhere"),
        ({"images": None}, "name a folder of images under 'images'"),
        ({"data": Data(Path("/nowhere"))}, "no data set folder at /nowhere"),
        ({"data": None}, "name one under 'data'"),
        ({"protocols": (Task("small-retina"),)}, "did you mean 'small-retinanet'"),
        ({"protocols": (Task("small-mask-rcnn-fpn"),)}, "mask"),
        (
            {"protocols": (Task("small-retinanet", settings={"schedule.iters": 1}),)},
            "unknown setting 'schedule.iters'",
        ),
        ({"start": (StartingPoint("a", recipe="detco-smal"),)}, "did you mean 'detco-small'"),
        (
            {"start": (StartingPoint("a", weights=Path("/nowhere.safetensors")),)},
            "/nowhere.safetensors",
        ),
        (
            {"start": (StartingPoint("a", weights=Path("moco-v2-800e")),)},
            "did you mean 'moco-v2-800ep'",
        ),
        (
            {"start": (StartingPoint("a", random=True), StartingPoint("b", random=True))},
            "is the same run as",
        ),
        ({"pretrain": {"batch": 128}}, "66 pictures are fewer than one batch of 128"),
        ({"pretrain": {"epohcs": 1}}, "did you mean 'epochs'"),
        ({"engine": "torchvisoin"}, "unknown engine 'torchvisoin'"),
        (
            {"amp": "bf16", "eval_period": 9},
            "--amp, --eval-period: only the engine detectron2 has this, not torchvision",
        ),
        (
            {"engine": "replay", "amp": "fp16"},
            "--amp: only the engine detectron2 has this, not replay; leave it out",
        ),
    ],
)
def test_bad_suites_are_refused_before_any_work(drawn, photos, changes, words, tmp_path):
    with pytest.raises(InputError) as caught:
        suite_plan.plan(suite_of(drawn, photos, **changes), tmp_path / "out")
    assert words in str(caught.value) and not (tmp_path / "out").exists()


def test_bad_annotations_are_said_before_any_work(drawn, photos, tmp_path):
    broken = tmp_path / "voc"
    shutil.copytree(drawn / "voc", broken)
    victim = sorted((broken / "Annotations").glob("*.xml"))[0]
    victim.write_text("<annotation>")
    with pytest.raises(InputError, match=victim.name):
        suite_plan.plan(suite_of(drawn, photos, data=Data(broken)), tmp_path / "out")


def test_a_checkpoint_of_another_project_is_imported(drawn, photos, tmp_path):
    import torch

    from detco.common import backbone_file

    trunk = backbone_file.random_backbone("resnet18", 1)
    torch.save(
        {**trunk.tensors, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
        tmp_path / "r18.pth.tar",
    )
    content = {
        "start": [str(tmp_path / "r18.pth.tar")],
        "data": {"root": str(drawn / "voc")},
        "protocols": "small-retinanet",
    }
    suite = files.parse(content, tmp_path / "own.yaml")
    assert suite.start[0].name == "r18"
    (dry,) = suite_plan.plan(suite, tmp_path / "out", missing=[])
    assert not (tmp_path / "out").exists()
    (job,) = suite_plan.plan(suite, tmp_path / "out")
    assert dry.id == job.id and job.spec["weights_identity"] == sha256_of(tmp_path / "r18.pth.tar")
    made = backbone_file.read(Path(job.spec["weights"]))
    assert (
        Path(job.spec["weights"]).parent == tmp_path / "out" / "imported"
        and made.arch == "resnet18"
    )
    assert all(
        torch.equal(made.tensors[key], value)
        for key, value in trunk.tensors.items()
        if key in made.tensors
    )


def test_random_of_another_depth_is_refused(drawn, photos):
    start = (
        StartingPoint("random", random=True),
        StartingPoint("deep", recipe="moco-v2-small", settings={"arch": "resnet50"}),
    )
    with pytest.raises(InputError, match=r"resnet18, .* resnet50"):
        suite_plan.plan(suite_of(drawn, photos, start=start), Path("out"))


def test_drawn_data_need_no_layout_and_other_names_are_refused():
    def suite(root):
        start = (StartingPoint("random", random=True),)
        return Suite(
            "x", start, (Task("small-retinanet", Data(Path(root))),), scenes=Scenes(images=8)
        )

    job = suite_plan.plan(suite("coco"), Path("out"))[-1]
    assert [job.spec["data"][key] for key in ("layout", "train", "test")] == [
        "coco",
        "train",
        "val",
    ]
    with pytest.raises(InputError, match="there is no 'coca'"):
        suite_plan.plan(suite("coca"), Path("out"))
