"""A data layout that comes in by its door only: a row of LAYOUTS and a module as `Reader` says."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from detco.benchmarks.cli import commands
from detco.benchmarks.cli import main as cli
from detco.benchmarks.plan import datasets as plan_datasets
from detco.benchmarks.plan import single
from detco.benchmarks.run import worker
from detco.benchmarks.suites import files
from detco.benchmarks.suites.builtin import Data
from detco.common.errors import InputError
from detco.transfer import data
from detco.transfer.data import dataset
from detco.transfer.data.reading import Reading


@pytest.fixture
def lines(monkeypatch):
    """Layout `lines`: boxes/SPLIT.txt has `FILE NAME X Y WIDTH HEIGHT` a line."""
    module = ModuleType("detco.transfer.data.lines")

    def read(root, split, keypoints=False):
        reading = Reading(categories=[{"id": 1, "name": "disc"}])
        for number, line in enumerate((root / "boxes" / f"{split}.txt").read_text().splitlines()):
            name, *box = line.split()
            x, y, width, height = map(int, box)
            file = {"file_name": str(root / name), "name": name, "width": 32, "height": 24}
            reading.images.append({"id": number, **file})
            found = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            reading.annotations.append(
                {"id": number + 1, "image_id": number, "category_id": 1, **found}
            )
        return reading

    module.read = read
    module.splits = lambda root: sorted(path.stem for path in (root / "boxes").glob("*.txt"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = data.Layout("lines", "Lines", "boxes", "a Lines layout has boxes", (("some", "others"),))
    monkeypatch.setitem(data.LAYOUTS, "lines", row)
    return "lines"


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "mine"
    (root / "boxes").mkdir(parents=True)
    for split, box in (("some", "1 2 10 12"), ("others", "0 0 32 24")):
        Image.new("RGB", (32, 24), "red" if split == "some" else "blue").save(root / f"{split}.png")
        (root / "boxes" / f"{split}.txt").write_text(f"{split}.png {box}\n")
    return root


def test_a_dummy_layout_is_found_by_its_marker_and_its_splits_by_their_names(lines, folder):
    assert data.layout_of(folder) == "lines"
    found = plan_datasets.find_splits(Data(folder))
    assert found == Data(folder, "lines", "some", "others")
    assert [a["bbox"] for a in dataset.load("lines", folder, "some").annotations] == [
        [1, 2, 10, 12]
    ]


def test_a_dummy_layout_is_checked_by_the_command(lines, folder, capsys):
    assert cli.main(["data", "check", "lines", str(folder), "--json"]) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert [(row["split"], row["objects"], row["small"]) for row in splits] == [
        ("some", 1, 1),
        ("others", 1, 1),
    ]
    Image.new("RGB", (30, 24)).save(folder / "some.png")
    assert cli.main(["data", "check", "lines", str(folder)]) == 2
    assert "some.png: is 30 x 24" in capsys.readouterr().out


def test_suite_files_and_options_take_a_dummy_layout(lines, folder, tmp_path, capsys):
    path = tmp_path / "own.yaml"
    path.write_text(f"start: [random]\ndata: {{root: {folder}, layout: lines}}\n")
    assert files.load(str(path)).data == Data(folder, "lines")
    words = ["--weights", "random", "--data", str(folder), "--out", str(tmp_path / "out")]
    words += ["--engine", "replay", "--layout", "lines", "--device", "cpu"]
    job = single.job_of(commands.parser("").parse_args(["transfer", "small-retinanet", *words]))
    # in this process, as a worker's would not know the dummy
    job.folder.mkdir(parents=True)
    record = worker.run_job(job.spec, job.folder, lambda *_, **__: None)
    assert (record["status"], record["data"]["layout"]) == ("done", "lines")


def test_a_dummy_layout_without_classes_of_pixels_is_refused_for_them(lines, folder):
    with pytest.raises(InputError, match=r"needs .*Cityscapes layout"):
        dataset.load("lines", folder, "some", semantic=True)
