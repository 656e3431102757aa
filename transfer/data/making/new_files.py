"""New files of a data set: nothing is written over."""

import json
from collections.abc import Mapping
from pathlib import Path

from detco.common.errors import InputError
from detco.common.files import write_atomic


def write_coco(
    out: Path, documents: Mapping[str, Mapping[str, list]]
) -> dict[Path, tuple[int, int]]:
    """Write OUT/annotations/NAME.json for each name (`images`, `annotations`, `categories`); gives
    their (images, objects). Raises InputError, see `written`."""
    files = {out / "annotations" / f"{name}.json": own for name, own in documents.items()}
    written({path: json.dumps(document) for path, document in files.items()})
    return {path: (len(own["images"]), len(own["annotations"])) for path, own in files.items()}


def written(texts: Mapping[Path, str]) -> None:
    """Writes new files. Raises InputError, before any is written, where one is there."""
    for path in texts:
        if path.exists():
            raise InputError(f"{path} exists already and is not overwritten; move it away")
    for path, text in texts.items():
        write_atomic(path, text)
