"""A reproducible share of a COCO annotation file; smaller shares lie within larger ones."""

import hashlib
import json
from pathlib import Path

from detco.common.errors import InputError
from detco.common.files import write_atomic

from .. import coco, fields


def write(
    source: Path, percent: float, seed: int, out: Path | None = None
) -> tuple[Path, dict[str, int]]:
    """Writes the annotations of `percent` % of the pictures of `source`; returns the new file,
    counts of what is in it.

    Pictures are taken in the order of sha256("SEED ID"), so that a share depends on the picture ids
    and the seed alone, and with one seed 1 % lies within 2 %. `out` is by default NAME_Ppct.json
    beside the source, where the COCO reader finds it as split `train2017_1pct` with the pictures of
    train2017. Raises InputError.
    """
    if not 0 < percent <= 100:
        raise InputError(f"--percent must be above 0 and at most 100, it is {percent:g}")
    if not source.exists():
        raise InputError(f"no annotation file at {source}")
    document = coco.parse(source)
    out = out or source.with_name(f"{source.stem}_{percent:g}pct.json")
    if out.exists() and out.samefile(source):
        raise InputError(f"{out} is the source itself; choose another --out")
    fields.mend(document)
    problems: list[str] = []
    images = list(coco.images_of(document["images"], source, problems).values())
    if problems:
        raise InputError(problems[0])
    order = sorted(
        images, key=lambda image: hashlib.sha256(f"{seed} {image.get('id')}".encode()).digest()
    )
    kept = {image.get("id") for image in order[: max(1, round(len(images) * percent / 100))]}
    share = {
        "images": [image for image in images if image.get("id") in kept],
        "annotations": [
            a
            for a in document["annotations"]
            if fields.is_id(a.get("image_id")) and a["image_id"] in kept
        ],
    }
    write_atomic(out, json.dumps(document | share))
    return out, {"of": len(images)} | {key: len(rows) for key, rows in share.items()}
