"""Drawn scenes: equal for equal seeds, with the same objects in all three layouts."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from defusedxml import ElementTree
from PIL import Image, ImageDraw
from pycocotools import mask as rle
from pycocotools.coco import COCO

from detco.benchmarks.scenes.draw import draw
from detco.benchmarks.scenes.layouts import png
from detco.benchmarks.scenes.shapes import CATEGORIES, KEYPOINTS
from detco.common.errors import InputError

IMAGES = 24
CITYSCAPES_IDS = {24, 25, 26, 27, 28, 31, 32, 33}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return draw(
        tmp_path_factory.mktemp("scenes") / "set",
        images=IMAGES,
        seed=3,
        unlabelled=5,
        classification=17,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def coco_json(root: Path, kind: str, split: str) -> dict:
    return json.loads((root / f"coco/annotations/{kind}_{split}.json").read_text())


def by_picture(root: Path):
    """(split, picture row, its annotations) of every labelled picture."""
    for split in ("train", "val"):
        content = coco_json(root, "instances", split)
        for image in content["images"]:
            yield split, image, [a for a in content["annotations"] if a["image_id"] == image["id"]]


def cityscapes(root: Path, split: str, name: str, what: str) -> np.ndarray:
    folder = "leftImg8bit" if what == "leftImg8bit" else "gtFine"
    suffix = what if what == "leftImg8bit" else f"gtFine_{what}"
    return np.array(
        Image.open(root / f"cityscapes/{folder}/{split}/scenes/scenes_{name}_000000_{suffix}.png")
    )


def test_same_seed_same_files(root, tmp_path):
    again = draw(tmp_path / "again", images=IMAGES, seed=3, unlabelled=5, classification=17)
    assert contents(again) == contents(root)


def test_another_seed_draws_other_pictures(root, tmp_path):
    other = draw(tmp_path / "other", images=4, seed=4, unlabelled=1, classification=1)
    ours, theirs = contents(root), contents(other)
    pictures = [name for name in theirs if name.endswith((".jpg", "leftImg8bit.png"))]
    assert len(pictures) == 4 * 3 + 1 + 1
    assert all(theirs[name] != ours[name] for name in pictures)


def test_pictures_differ_from_one_another(root):
    files = contents(root)
    pictures = [
        data
        for name, data in files.items()
        if name.endswith(".jpg") and not name.startswith("coco")
    ]
    assert len(set(pictures)) == len(pictures) == IMAGES + 5 + 17


def test_fewer_pictures_are_a_prefix(root, tmp_path):
    fewer = draw(tmp_path / "fewer", images=9, seed=3, unlabelled=2, classification=5)
    ours, theirs = contents(root), contents(fewer)
    for name, data in theirs.items():
        if name.endswith((".jpg", ".png", ".xml", "polygons.json")):
            assert ours[name] == data
        elif name.startswith("voc/ImageSets"):
            assert ours[name].startswith(data)
    for kind in ("instances", "person_keypoints"):
        for split in ("train", "val"):
            few, many = coco_json(fewer, kind, split), coco_json(root, kind, split)
            assert many["images"][: len(few["images"])] == few["images"]
            assert many["annotations"][: len(few["annotations"])] == few["annotations"]
            assert many["categories"] == few["categories"]


def test_splits_and_picture_sizes(root):
    lists = [
        (root / f"voc/ImageSets/Main/{name}.txt").read_text().split()
        for name in ("trainval", "test")
    ]
    assert [len(names) for names in lists] == [18, 6]
    shapes = set()
    for names, split in zip(lists, ("train", "val"), strict=True):
        rows = coco_json(root, "instances", split)["images"]
        assert [row["file_name"] for row in rows] == [f"{name}.jpg" for name in names]
        for row in rows:
            jpeg = (root / "coco" / split / row["file_name"]).read_bytes()
            assert jpeg == (root / "voc/JPEGImages" / row["file_name"]).read_bytes()
            with Image.open(root / "coco" / split / row["file_name"]) as picture:
                assert (picture.size, picture.mode) == ((row["width"], row["height"]), "RGB")
                shapes.add(picture.size)
    assert len(shapes) > 5
    assert all(min(shape) == 128 and 128 <= max(shape) <= 180 for shape in shapes)


def test_boxes_are_tight_and_the_same_in_voc_and_coco(root):
    names = {k: shape.name for k, shape in enumerate(CATEGORIES, 1)}
    for _, image, annotations in by_picture(root):
        tree = ElementTree.parse(
            root / "voc/Annotations" / image["file_name"].replace(".jpg", ".xml")
        ).getroot()
        assert [int(tree.findtext(f"size/{k}")) for k in ("width", "height")] == [
            image["width"],
            image["height"],
        ]
        corners = [
            (
                item.findtext("name"),
                *(int(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")),
            )
            for item in tree.iter("object")
        ]
        expected = []
        for a in annotations:
            rows, columns = np.nonzero(rle.decode(a["segmentation"]))
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (a["bbox"], a["area"]) == (box, len(rows))
            # VOC counts pixels from 1 and its last one belongs to the box
            expected.append(
                (
                    names[a["category_id"]],
                    *(v + 1 for v in (box[0], box[1], columns.max(), rows.max())),
                )
            )
        assert corners == expected


def test_cityscapes_instances_are_the_coco_masks(root):
    label_ids = {k: shape.cityscapes[1] for k, shape in enumerate(CATEGORIES, 1)}
    assert set(label_ids.values()) == CITYSCAPES_IDS
    for split, image, annotations in by_picture(root):
        name = image["file_name"][:-4]
        instances, labels = (
            cityscapes(root, split, name, what) for what in ("instanceIds", "labelIds")
        )
        assert (instances.dtype, labels.dtype) == (np.uint16, np.uint8)
        ids = [int(i) for i in np.unique(instances) if i >= 1000]
        counts = Counter(i // 1000 for i in ids)
        assert ids == sorted(1000 * label + k for label, n in counts.items() for k in range(n))
        ours = sorted((i // 1000, (instances == i).tobytes()) for i in ids)
        masks = [rle.decode(a["segmentation"]).astype(bool).tobytes() for a in annotations]
        assert ours == sorted(
            (label_ids[a["category_id"]], m) for a, m in zip(annotations, masks, strict=True)
        )
        np.testing.assert_array_equal(
            labels, np.where(instances >= 1000, instances // 1000, instances)
        )
        assert set(np.unique(labels)) <= CITYSCAPES_IDS | {4, 7, 11, 23}


def test_cityscapes_polygons_paint_the_label_map(root):
    ids = {shape.cityscapes[0]: shape.cityscapes[1] for shape in CATEGORIES}
    ids |= {"static": 4, "road": 7, "building": 11, "sky": 23}
    agreement = []
    for split, image, _ in by_picture(root):
        name = image["file_name"][:-4]
        path = root / f"cityscapes/gtFine/{split}/scenes/scenes_{name}_000000_gtFine_polygons.json"
        content = json.loads(path.read_text())
        painted = Image.new("L", (content["imgWidth"], content["imgHeight"]))
        for item in content["objects"]:
            ImageDraw.Draw(painted).polygon(
                [tuple(p) for p in item["polygon"]], fill=ids[item["label"]]
            )
        agreement.append(np.mean(np.array(painted) == cityscapes(root, split, name, "labelIds")))
    assert min(agreement) > 0.9  # outlines are rounded to whole pixels
    assert np.mean(agreement) > 0.95


def test_cityscapes_pictures_are_the_same_pictures(root):
    for split, image, _ in by_picture(root):
        exact = cityscapes(root, split, image["file_name"][:-4], "leftImg8bit").astype(float)
        with Image.open(root / "coco" / split / image["file_name"]) as jpeg:
            # JPEG's loss on grain and saturated colours
            assert np.abs(exact - np.asarray(jpeg)).mean() < 12


def test_keypoints(root):
    visibility = Counter()
    for split in ("train", "val"):
        content = coco_json(root, "person_keypoints", split)
        instances = {a["id"]: a for a in coco_json(root, "instances", split)["annotations"]}
        (person,) = content["categories"]
        assert person["name"] == "figure" and person["keypoints"] == list(KEYPOINTS)
        assert {k for bone in person["skeleton"] for k in bone} == set(range(1, len(KEYPOINTS) + 1))
        assert [a["id"] for a in content["annotations"]] == [
            k for k, a in instances.items() if a["category_id"] == person["id"]
        ]
        sizes = {row["id"]: (row["width"], row["height"]) for row in content["images"]}
        for a in content["annotations"]:
            w, h = sizes[a["image_id"]]
            mask = rle.decode(a["segmentation"])
            points = np.reshape(a["keypoints"], (len(KEYPOINTS), 3))
            assert a["num_keypoints"] == np.count_nonzero(points[:, 2])
            for x, y, v in points:
                assert 0 <= x < w and 0 <= y < h and (v > 0 or x == y == 0)
                if v == 1:
                    assert not mask[int(y), int(x)]
            seen = points[points[:, 2] == 2]
            # thin limbs may miss a pixel's middle
            assert np.mean([mask[int(y), int(x)] for x, y, _ in seen]) > 0.9
            visibility.update(points[:, 2].astype(int).tolist())
    assert visibility[2] > 50


def test_left_is_the_figures_own_left(root):
    """An upright figure facing the viewer has its left hand at the viewer's right."""
    left, right = (KEYPOINTS.index(f"{side}_hand") for side in ("left", "right"))
    found = 0
    for a in coco_json(root, "person_keypoints", "train")["annotations"]:
        points = np.reshape(a["keypoints"], (-1, 3))
        if points[left, 2] and points[right, 2]:
            assert points[left, 0] > points[right, 0]
            found += 1
    assert found


def test_some_keypoints_and_objects_are_covered(tmp_path):
    root = draw(tmp_path / "set", images=120, size=64, unlabelled=0, classification=0)
    figures = coco_json(root, "person_keypoints", "train")["annotations"]
    flags = Counter(v for a in figures for v in a["keypoints"][2::3])
    assert flags[0] and flags[1] and flags[2] > flags[0] + flags[1]
    marks = Counter()
    for path in (root / "voc/Annotations").iterdir():
        for item in ElementTree.parse(path).getroot().iter("object"):
            marks.update(f"{kind} {item.findtext(kind)}" for kind in ("truncated", "difficult"))
    assert (
        0 < marks["truncated 1"] < marks["truncated 0"]
        and 0 < marks["difficult 1"] < marks["difficult 0"]
    )


def test_every_category_occurs(root):
    for split in ("train", "val"):
        coco = coco_json(root, "instances", split)
        assert [c["name"] for c in coco["categories"]] == sorted(shape.name for shape in CATEGORIES)
    counts = Counter(
        a["category_id"] for _, _, annotations in by_picture(root) for a in annotations
    )
    assert set(counts) == set(range(1, 9))


def test_classification_takes_turns(root):
    counts = {
        folder.name: len(list(folder.iterdir())) for folder in (root / "classification").iterdir()
    }
    names = [shape.name for shape in CATEGORIES]
    assert counts == {name: 3 if name == names[0] else 2 for name in names}
    assert len(list((root / "unlabelled").iterdir())) == 5


def test_colour_does_not_tell_the_category(root):
    """Mean colours of a category's objects are spread as widely as those of all objects."""
    colours = {}
    for split, image, annotations in by_picture(root):
        pixels = cityscapes(root, split, image["file_name"][:-4], "leftImg8bit")
        for a in annotations:
            colours.setdefault(a["category_id"], []).append(
                pixels[rle.decode(a["segmentation"]) > 0].mean(0)
            )
    whole = np.concatenate([np.array(v) for v in colours.values()])
    within = np.mean([np.var(v, axis=0).sum() for v in colours.values() if len(v) > 3])
    assert within > 0.6 * np.var(whole, axis=0).sum()


def test_pycocotools_reads_it(root):
    coco = COCO(str(root / "coco/annotations/instances_val.json"))
    first = coco.loadAnns(coco.getAnnIds())[0]
    assert coco.annToMask(first).sum() == first["area"]


def test_other_parameters_in_the_same_folder_are_refused(root):
    before = contents(root)
    with pytest.raises(InputError, match="seed 3 instead of 4"):
        draw(root, images=IMAGES, seed=4, unlabelled=5, classification=17)
    assert contents(root) == before


def test_a_finished_set_is_returned_untouched(root):
    times = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert len(times) > IMAGES
    assert draw(root, images=IMAGES, seed=3, unlabelled=5, classification=17) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == times


class Stop(Exception):
    pass


def test_interrupted_goes_on(root, tmp_path):
    arguments = {"images": IMAGES, "seed": 3, "unlabelled": 5, "classification": 17}

    def stop_at(last):
        def report(stage, done, total):
            assert (stage, total) == ("scenes", IMAGES + 5 + 17)
            if done == last:
                raise Stop

        return report

    for last in (7, IMAGES + 3, IMAGES + 5 + 9):
        with pytest.raises(Stop):
            draw(tmp_path / "set", **arguments, report=stop_at(last))
        assert not (tmp_path / "set/scenes.json").exists()
    with pytest.raises(InputError, match="instead of"):
        draw(tmp_path / "set", images=IMAGES, seed=5)
    unlabelled = tmp_path / "set/unlabelled/000000.jpg"
    drawn_at = unlabelled.stat().st_mtime_ns
    assert contents(draw(tmp_path / "set", **arguments)) == contents(root)
    assert unlabelled.stat().st_mtime_ns == drawn_at


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 3}, "images is 3"),
        ({"size": 9}, "size is 9"),
        ({"seed": -1}, "-1"),
        ({"unlabelled": 0.5}, "0.5"),
    ],
)
def test_senseless_parameters_are_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        draw(tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "a/voc").mkdir(parents=True)
    with pytest.raises(InputError, match="not drawn here"):
        draw(tmp_path / "a", images=4)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        draw(tmp_path / "file", images=4)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/scenes.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        draw(tmp_path / "b", images=4)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((5, 7), np.uint8), ((5, 7), np.uint16), ((5, 7, 3), np.uint8)]
)
def test_png_read_by_pillow(tmp_path, shape, dtype):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    for compression in (0, 1):
        (tmp_path / "a.png").write_bytes(png(pixels, compression))
        read = np.array(Image.open(tmp_path / "a.png"))
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, pixels)
