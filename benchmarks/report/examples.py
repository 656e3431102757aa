"""Attention maps and detections on pictures: computed with transfer, drawn by results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detco.common import contents, depth
from detco.common.errors import InputError
from detco.common.images import Range
from detco.common.progress import Report, silent
from detco.common.values import canonical_hash
from detco.results.report.examples import THRESHOLD, Box, Example

from .. import config
from ..suites.builtin import name_of

if TYPE_CHECKING:
    from detco.common.backbone_file import Backbone
    from detco.transfer.data.dataset import Dataset
    from detco.transfer.settings import Protocol

EXAMPLES = 3  # pictures of each protocol in a report


def attention(args) -> int:
    """`detco attention`: draw attention maps of several backbones over images into one figure."""
    from PIL import Image

    from detco.pretrain.data import listing
    from detco.results.report import attention as drawing
    from detco.transfer.backbones.attention import read

    from ..plan import backbones

    if args.out.suffix.lower() not in Image.registered_extensions():
        raise InputError(f"--out {args.out}: name a picture file, e.g. maps.png")
    if not args.out.absolute().parent.is_dir():
        raise InputError(f"--out {args.out}: no folder {args.out.parent}")
    if args.most < 1:
        raise InputError(f"--most must be at least 1, it is {args.most}")
    paths: list[Path] = []
    for path in args.images:
        paths += (
            [path / name for name in listing.find(path).names[: args.most]]
            if path.is_dir()
            else [path]
        )
    files_of = depth.candidates(map(str, paths), contents.of(list(map(str, paths)), str(paths[0])))
    value_range = depth.check(paths[0], files_of, measure=True).value_range
    ranges = dict.fromkeys(paths, value_range)
    pictures = [read(path, value_range) for path in paths]
    names = _names(args.weights)
    files = {name: Path(path) for name, path in names.items() if not _is_random(path)}
    how = backbones.how(args)
    if not files:
        backbones.refuse(how, "random")
    read_files = dict(zip(files, backbones.read(list(files.values()), how)))
    maps = _maps(names, read_files, paths, args.level, args.size, ranges=ranges)
    drawing.save(drawing.figure(pictures, maps, args.level), args.out)
    print(f"attention maps: {args.out}")
    return 0


def attention_maps(
    weights: dict[str, str],
    pictures: Sequence[Path],
    level: str = "res5",
    size: int = 224,
    ranges: Mapping[Path, Range | None] = {},
    report: Report = silent,
) -> dict:
    """Name -> one map a picture (detco.transfer.backbones.attention). weights: name -> backbone
    file, "random:ARCH", or "random": of the first file's network, without any a ResNet-50.

    ranges: of the values of pictures of more than 8 bits.
    """
    from detco.common import backbone_file

    read = {
        name: backbone_file.read(Path(path))
        for name, path in weights.items()
        if not _is_random(path)
    }
    return _maps(weights, read, pictures, level, size, ranges, report)


def _maps(
    weights: Mapping[str, str],
    read: Mapping[str, Backbone],
    pictures: Sequence[Path],
    level: str,
    size: int,
    ranges: Mapping[Path, Range | None] = {},
    report: Report = silent,
) -> dict:
    """`attention_maps` of backbones that are read; those that are not are random."""
    from detco.common import backbone_file
    from detco.transfer.backbones import attention

    found, first = {}, next(iter(read.values()), None)
    for number, (name, path) in enumerate(weights.items()):
        report("attention maps", number, len(weights))
        arch = path.partition(":")[2]
        if name in read:
            backbone = read[name]
        elif first and not arch:
            backbone = backbone_file.random_twin(first, 0)
        else:
            backbone = backbone_file.random_backbone(arch or "resnet50", 0)
        found[name] = attention.maps(backbone, list(pictures), level, size, ranges)
    return found


def _is_random(path: str) -> bool:
    return path == "random" or path.startswith("random:")


def _names(weights: Sequence[str]) -> dict[str, str]:
    """A name for each backbone file: its own, and where two share one, its path."""
    short = [path if _is_random(path) else name_of(Path(path)) for path in weights]
    return {name if short.count(name) == 1 else path: path for name, path in zip(short, weights)}


def examples(
    records: Sequence[dict], folders: Mapping[str, Path], read: dict[str, Dataset]
) -> list[Example]:
    """Test images of one protocol with the detections of its records, a record for each starting
    point.

    Pictures spread evenly over those with objects, EXAMPLES of them; the predictions are read
    from the runs' folders. read: the test sets that were read before, by what they were asked with.
    Raises InputError where the data set is gone or not the one that was tested on.
    """
    from detco.transfer.protocols import from_record
    from detco.transfer.settings import Protocol

    first = records[0]
    protocol = config.build(Protocol, from_record(first["spec"]["protocol_row"]), "protocol")
    test = _test_set(protocol, first, read)
    with_objects = {annotation["image_id"] for annotation in test.annotations}
    shown = _spread([image for image in test.images if image["id"] in with_objects])
    made = _Boxes(test, protocol.metrics, {image["id"]: image for image in shown})
    truth = made.of(test.annotations)
    found = {}
    for record in records:
        path = folders[record["id"]] / "predictions.json"
        found[record["starting_point"]] = made.of(json.loads(path.read_bytes()))
    skeletons = {one["name"]: one.get("skeleton") or () for one in test.categories}
    told = first["data"]["test"].get("value_range")
    return [
        Example(
            Path(image["file_name"]),
            image["width"],
            image["height"],
            truth.get(image["id"], []),
            {name: boxes.get(image["id"], []) for name, boxes in found.items()},
            tuple(told) if told else None,
            skeletons,
        )
        for image in shown
    ]


def _test_set(protocol: Protocol, record: dict, read: dict[str, Dataset]) -> Dataset:
    """What a record was tested on; read once for all protocols that ask alike."""
    from detco.transfer import finetune
    from detco.transfer.data.checks import content

    told = record["data"]["test"]
    asked = [
        record["spec"]["data"],
        *(kind in protocol.metrics for kind in ("keypoint", "semantic")),
    ]
    key = canonical_hash([asked, told["fingerprint"], told.get("content")])
    if key not in read:
        _, test = finetune.load_data(protocol, record["spec"]["data"])
        same = test.fingerprint == told["fingerprint"]
        if same and told.get("content"):  # older records hold no hash of the images
            same = content.hash_of(test, *content.read((test,))) == told["content"]
        if not same:
            raise InputError(f"{test.root} is not any more what was tested on")
        read[key] = test
    return read[key]


class _Boxes:
    """Makes boxes of the entries (annotations or predictions) on some images, with their masks or
    keypoints where those are what is measured."""

    def __init__(self, test: Dataset, metrics: Sequence[str], images: Mapping[int, dict]):
        self.names = {category["id"]: category["name"] for category in test.categories}
        self.masks = not {"mask", "semantic"}.isdisjoint(metrics)
        self.keypoints = "keypoint" in metrics
        self.images = images

    def of(self, entries: Iterable[Mapping]) -> dict[int, list[Box]]:
        """Image id -> boxes, without those that no page shows. Raises ValueError for a mask that
        does not fit its image."""
        found: dict[int, list[Box]] = {}
        for entry in entries:
            if entry["image_id"] in self.images and entry.get("score", 1.0) >= THRESHOLD:
                found.setdefault(entry["image_id"], []).append(self._box(entry))
        return found

    def _box(self, entry: Mapping) -> Box:
        from pycocotools import mask as rle

        mask = self._mask(entry) if self.masks else None
        # classes of pixels have no box of their own
        corners = rle.toBbox(mask).tolist() if mask and "bbox" not in entry else entry["bbox"]
        return Box(
            *corners,
            self.names.get(entry["category_id"], "?"),
            entry.get("score", math.nan),
            mask=mask,
            keypoints=entry.get("keypoints", ()) if self.keypoints else (),
        )

    def _mask(self, entry: Mapping) -> dict | None:
        from detco.transfer.data import masks

        image = self.images[entry["image_id"]]
        size = image["height"], image["width"]
        if entry.get("segmentation"):
            found = masks.as_rle(masks.checked(entry["segmentation"], *size), *size)
        elif "labels" in image:  # classes of pixels stay in their file
            found = masks.of_label(image["labels"], entry["category_id"])
        else:
            return None
        return found | {"counts": found["counts"].encode()}


def _spread(images: Sequence[dict]) -> list[dict]:
    """EXAMPLES of them, evenly."""
    step = max(1, len(images) // EXAMPLES)
    return list(images[step // 2 :: step][:EXAMPLES])
