"""The Detectron2 installed, and another one that $DETCO_OTHER_DETECTRON2 names: a folder with
`detectron2` in it, e.g. the Python files of the release of 2021. Where its compiled part is
missing, that of the installed one is lent to it.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.detectron2
from tests.factories import ROOT

ROWS = (
    ("small-faster-rcnn-c4", "voc"),
    ("small-mask-rcnn-c4", "coco"),
    ("small-mask-rcnn-fpn", "coco"),
    ("small-retinanet", "coco"),
    ("small-keypoint-rcnn", "coco"),
    ("voc-faster-rcnn-c4-24k", "voc"),
    ("cityscapes-instance", "cityscapes"),
    ("cityscapes-semantic", "cityscapes"),
)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> dict[str, str]:
    """The environment in which processes import the other Detectron2."""
    named = os.environ.get("DETCO_OTHER_DETECTRON2")
    if not named:
        pytest.skip("no other Detectron2: DETCO_OTHER_DETECTRON2 is not set")
    package = tmp_path_factory.mktemp("other") / "detectron2"
    package.mkdir()
    if (Path(named) / "densepose").is_dir():
        (package.parent / "densepose").symlink_to((Path(named) / "densepose").absolute())
    for path in (Path(named) / "detectron2").absolute().iterdir():
        (package / path.name).symlink_to(path)
    installed = Path(importlib.util.find_spec("detectron2").origin).parent
    for path in installed.glob("_C*.so"):
        if not list(package.glob("_C*")):
            (package / path.name).symlink_to(path)
    return os.environ | {"PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT}"}


def test_both_train_alike(other, scenes, tmp_path):
    """The same batches, pixel by pixel, and the same losses in the first iterations,
    for every architecture."""
    found = {}
    for which, environment in (
        ("installed", os.environ | {"PYTHONPATH": str(ROOT)}),
        ("other", other),
    ):
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.transfer.engines.detectron2.test_versions",
            scenes,
            tmp_path / which,
        ]
        lines = subprocess.run(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        found[which] = json.loads(lines.splitlines()[-1])
    assert found["installed"].pop("file") != found["other"].pop("file")
    assert found["installed"].keys() == found["other"].keys() == {name for name, _ in ROWS}
    for name, mine in found["installed"].items():
        theirs = found["other"][name]
        assert len(mine["losses"]) == 3 and all(mine["batches"])
        assert mine["batches"] == theirs["batches"], name
        assert mine["losses"] == theirs["losses"], name


def test_the_marked_tests_pass_on_the_other(other):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "detectron2",
        f"--ignore={__file__}",
        "-p",
        "no:cacheprovider",
    ]
    ended = subprocess.run(
        [*command, ROOT / "tests"], env=other, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert ended.returncode == 0, ended.stdout[-4000:]


def main(scenes: Path, out: Path) -> None:
    """Print batches and losses of the Detectron2 that is imported here."""
    import detectron2
    import torch

    from detco.common import backbone_file
    from detco.transfer.data import dataset
    from detco.transfer.engines import EngineJob
    from detco.transfer.engines.detectron2 import data, engine
    from detco.transfer.engines.detectron2 import records as detectron2_records
    from tests.factories.detectors import shortened

    torch.set_num_threads(1)
    said = {"file": detectron2.__file__}
    for name, layout in ROWS:
        row, losses = shortened(name), []
        needs = {"keypoints": "keypoint" in row.metrics, "semantic": "semantic" in row.metrics}
        splits = ("trainval", "test") if layout == "voc" else ("train", "val")
        train, test = (dataset.load(layout, scenes / layout, split, **needs) for split in splits)
        if needs["keypoints"]:
            from detco.transfer.finetune import _only_keypoints as only

            train, test = only(row, train), only(row, test)
        job = EngineJob(row, backbone_file.random_backbone(row.arch, 0), train, test, 4, out / name)
        records = detectron2_records.write(
            train, out / f"{name}.json", needs["semantic"], int(needs["keypoints"])
        )
        cfg = engine.config(job, records.mask_format)
        batches = zip(range(3), data.TrainLoader(cfg, records))
        pixels = [
            [[item["image_id"], float(item["image"].double().sum())] for item in batch]
            for _, batch in batches
        ]

        def report(stage, *_, losses=losses, **figures):
            losses.extend([figures["loss"]] if stage == "train" else [])

        engine.run(job, report)
        said[name] = {"batches": pixels, "losses": losses}
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
