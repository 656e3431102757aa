"""`detco data check --protocol`: how one protocol reads a data set and what it refuses."""

import json
import shutil

import pytest

from detco.benchmarks.cli import main as cli


@pytest.fixture
def coco(scenes, tmp_path):
    shutil.copytree(scenes / "coco", tmp_path / "set")
    return tmp_path / "set"


def check(coco, capsys, *more) -> tuple[int, str, str]:
    status = cli.main(["data", "check", "coco", str(coco), "--protocol", "small-retinanet", *more])
    said = capsys.readouterr()
    return status, said.out, said.err


def edit(coco, split, change) -> None:
    path = coco / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_all_can_be_found(coco, capsys):
    status, out, _ = check(coco, capsys)
    assert status == 0 and "tests on 'val'" in out and "would reach AP 100.0" in out


def test_more_objects_than_are_kept(coco, capsys):
    """One class, 100 objects on one image and 50 kept: recall 1/2, so 51 of 101 points."""

    def crowded(content):
        image, category = content["images"][0], content["categories"][0]
        content["annotations"] = [
            {
                "id": number + 1,
                "image_id": image["id"],
                "category_id": category["id"],
                "bbox": [number % 10 * 6, number // 10 * 6, 5, 5],
                "area": 25,
                "iscrowd": 0,
            }
            for number in range(100)
        ]

    edit(coco, "val", crowded)
    status, out, _ = check(coco, capsys)
    assert status == 0 and f"AP {100 * 51 / 101:.1f}" in out
    _, out, _ = check(coco, capsys, "--json")
    assert json.loads(out)["protocol"]["ceiling"] == {"ap": 50.5, "images": 1, "kept": 50}


def test_objects_that_do_not_count(coco, capsys):
    def crowds(content, share):
        objects = content["annotations"]
        for entry in objects[: round(share * len(objects))]:
            entry["iscrowd"] = 1

    edit(coco, "val", lambda content: crowds(content, 0.1))
    status, out, _ = check(coco, capsys)
    assert status == 0 and "test objects do not count" in out and "iscrowd" in out
    edit(coco, "val", lambda content: crowds(content, 1.0))
    status, _, err = check(coco, capsys)
    assert status == 2 and "none of the" in err and len(err.strip().splitlines()) == 1
