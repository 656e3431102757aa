"""Attention maps and detections on pictures: computed with transfer, drawn by results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detco.common import contents, depth
from detco.common.errors import InputError
from detco.common.images import Range

from .. import config
from ..suites.builtin import name_of

if TYPE_CHECKING:
    from detco.common.backbone_file import Backbone

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
    files = {name: Path(path) for name, path in names.items() if path != "random"}
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
    arch: str | None = None,
    ranges: Mapping[Path, Range | None] = {},
) -> dict:
    """Name -> one map a picture (detco.transfer.backbones.attention). weights: name -> backbone
    file, or "random".

    arch: of random weights; default that of the first file, without any resnet50. ranges: of the
    values of pictures of more than 8 bits.
    """
    from detco.common import backbone_file

    read = {
        name: backbone_file.read(Path(path)) for name, path in weights.items() if path != "random"
    }
    return _maps(weights, read, pictures, level, size, arch, ranges)


def _maps(
    names: Iterable[str],
    read: Mapping[str, Backbone],
    pictures: Sequence[Path],
    level: str,
    size: int,
    arch: str | None = None,
    ranges: Mapping[Path, Range | None] = {},
) -> dict:
    """`attention_maps` of backbones that are read; those that are not are random."""
    from detco.common import backbone_file
    from detco.transfer.backbones import attention

    arch = arch or next((backbone.arch for backbone in read.values()), "resnet50")
    random = backbone_file.random_backbone(arch, 0)
    return {
        name: attention.maps(read.get(name, random), list(pictures), level, size, ranges)
        for name in names
    }


def _names(weights: Sequence[str]) -> dict[str, str]:
    """A name for each backbone file: its own, and where two share one, its path."""
    short = [path if path == "random" else name_of(Path(path)) for path in weights]
    return {name if short.count(name) == 1 else path: path for name, path in zip(short, weights)}


def examples(records: Sequence[dict], folders: dict[str, Path]) -> dict[str, list]:
    """Starting point -> a record each of one protocol, as test images with their detections.

    Pictures spread evenly over those with objects, EXAMPLES of them; the predictions are read
    from the runs' folders. Raises InputError where the data set is gone or not the one that
    was tested on.
    """
    import json

    from detco.results.report.examples import Box, Example
    from detco.transfer import finetune
    from detco.transfer.data.checks import content
    from detco.transfer.protocols import Protocol, from_record

    first = records[0]
    protocol = config.build(Protocol, from_record(first["spec"]["protocol_row"]), "protocol")
    _, test = finetune.load_data(protocol, first["spec"]["data"])
    told = first["data"]["test"]
    same = test.fingerprint == told["fingerprint"]
    if same and told.get("content"):  # older records hold no hash of the images
        same = content.hash_of(test, *content.read((test,))) == told["content"]
    if not same:
        raise InputError(f"{test.root} is not any more what was tested on")
    names = {category["id"]: category["name"] for category in test.categories}
    with_objects = {annotation["image_id"] for annotation in test.annotations}
    shown = _spread([image for image in test.images if image["id"] in with_objects])
    wanted = {image["id"] for image in shown}
    boxes: dict[tuple[str, int], list[Box]] = {}
    for record in records:
        for entry in json.loads((folders[record["id"]] / "predictions.json").read_bytes()):
            if entry["image_id"] in wanted:
                box = Box(*entry["bbox"], names.get(entry["category_id"], "?"), entry["score"])
                boxes.setdefault((record["starting_point"], entry["image_id"]), []).append(box)
    found = []
    values = tuple(told["value_range"]) if told.get("value_range") else None
    for image in shown:
        truth = [
            Box(*a["bbox"], names[a["category_id"]])
            for a in test.annotations
            if a["image_id"] == image["id"]
        ]
        by_name = {
            record["starting_point"]: boxes.get((record["starting_point"], image["id"]), [])
            for record in records
        }
        found.append(
            Example(
                Path(image["file_name"]), image["width"], image["height"], truth, by_name, values
            )
        )
    return found


def _spread(images: Sequence[dict]) -> list[dict]:
    """EXAMPLES of them, evenly."""
    step = max(1, len(images) // EXAMPLES)
    return list(images[step // 2 :: step][:EXAMPLES])
