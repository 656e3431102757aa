"""labelme's files become one COCO file with the same boxes and masks."""

import json

import pytest

from detco.benchmarks.cli import main as cli
from detco.common.errors import InputError
from detco.transfer.data import dataset
from detco.transfer.data.making import labelme
from tests.factories.datasets import H, W, picture


def shape(label, kind, *points, **more):
    return {"label": label, "shape_type": kind, "points": list(points), "group_id": None, **more}


def written(root, *shapes, name="a", **more):
    picture(root / f"{name}.jpg")
    document = {"version": "5.4", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg"}
    document |= {"imageData": None, "imageHeight": H, "imageWidth": W}
    (root / f"{name}.json").write_text(json.dumps(document | more))
    return root


def test_each_shape_and_group_is_an_object(tmp_path, capsys):
    root = tmp_path / "set"
    triangle = ([2, 3], [12, 3], [2, 23])
    written(
        root / "sub",
        shape("pen", "rectangle", [30, 20], [10, 5]),
        shape("cup", "polygon", *triangle),
        shape("cup", "circle", [20, 20], [23, 24]),
        shape("pen", "polygon", *triangle, group_id=4),
        shape("pen", "polygon", [40, 30], [50, 30], [40, 40], group_id=4),
    )
    written(root, name="b", imagePath="C:\\photos\\b.jpg")
    (root / "other.json").write_text("{}")
    assert cli.main(["data", "convert", "labelme", str(root), str(tmp_path / "out")]) == 0
    assert "instances_all.json: 2 images, 4 objects" in capsys.readouterr().out
    found = dataset.load("coco", tmp_path / "out", "all", strict=True)
    names = {c["id"]: c["name"] for c in found.categories}
    objects = [(names[a["category_id"]], a["bbox"], a["area"]) for a in found.annotations]
    assert objects[0] == ("pen", [10, 5, 20, 15], 300)
    assert objects[1][:2] == ("cup", [2, 3, 10, 20]) and abs(objects[1][2] - 100) < 15
    assert objects[2] == ("cup", [15, 15, 10, 10], 100)
    assert objects[3][:2] == ("pen", [2, 3, 48, 37]) and abs(objects[3][2] - 150) < 25
    masked = ["segmentation" in a for a in found.annotations]
    assert masked == [False, True, False, True]
    assert cli.main(["data", "split", str(tmp_path / "out")]) == 2  # of two images, one has none
    assert "detco data convert labelme" in refused_run(root, tmp_path, capsys)


def refused_run(root, tmp_path, capsys):
    words = ["transfer", "small-retinanet", "--weights", "random", "--data", str(root)]
    assert cli.main([*words, "--out", str(tmp_path / "run"), "--engine", "replay"]) == 2
    return capsys.readouterr().err


BAD = {
    "has no box": ([shape("cup", "line", [1, 2], [3, 4])], {}),
    "a polygon needs 3 points": ([shape("cup", "polygon", [1, 2], [3, 4])], {}),
    "a rectangle needs 2 points": ([shape("cup", "rectangle", [1, 2], [3, "x"])], {}),
    "'label' must be a name": ([shape(" ", "rectangle", [1, 2], [3, 4])], {}),
    "'shapes' must be a list": ([], {"shapes": {"a": 1}}),
    "'imagePath' must name the image": ([], {"imagePath": 3}),
    "no such picture": ([], {"imagePath": "gone.jpg"}),
    "says 9 x": ([], {"imageWidth": 9}),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_refused(message, tmp_path):
    shapes, more = BAD[message]
    root = written(tmp_path / "set", *shapes, **more)
    with pytest.raises(InputError, match=message) as caught:
        labelme.convert(root, tmp_path / "out")
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)
    with pytest.raises(InputError, match="no JSON file with 'shapes'"):
        labelme.convert(tmp_path / "out", tmp_path / "out")


def test_keys_in_any_order(tmp_path):
    """Tools that sort keys write the image, hundreds of kilobytes, before the shapes."""
    root = written(tmp_path / "set", shape("pen", "rectangle", [30, 20], [10, 5]))
    document = json.loads((root / "a.json").read_text()) | {"imageData": "A" * 200_000}
    (root / "a.json").write_text(json.dumps(document, sort_keys=True))
    assert labelme.files(root) == [root / "a.json"]
