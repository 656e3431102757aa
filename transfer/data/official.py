"""Where the data sets of the published numbers lie, as Detectron2's users have them, and whether
these are they."""

import os
from pathlib import Path

from detco.common.errors import InputError

from ..settings import Protocol
from .dataset import Dataset


def locate(
    protocol: Protocol, folder: Path | None = None, unwritten: bool = False
) -> dict[str, str]:
    """`layout`, `root`, `train`, `test` of a protocol's published data below `folder`.

    `folder` is by default what DETECTRON2_DATASETS says, else ./datasets; it holds VOC2007,
    VOC2012, coco, cityscapes.
    unwritten: a share of COCO's pictures may be missing, it will be written. Raises InputError if
    the protocol has no published data, or they are not there.
    """
    data = protocol.data
    if data is None:
        raise InputError(f"{protocol.name} is for any data set: name one with --data")
    folder = Path(folder or os.environ.get("DETECTRON2_DATASETS", "datasets")).absolute()
    splits = (*data.train, data.test)
    for name in dict.fromkeys(split.partition("/")[0] for split in splits):
        if not (folder / name).is_dir():
            what = f"{protocol.name} looks for {', '.join(splits)}"
            raise InputError(
                f"{folder / name}: no such folder ({what}; --data or DETECTRON2_DATASETS says"
                " where)"
            )
    names = {split.partition("/")[0] for split in splits}
    if len(names) > 1:  # VOC's reader joins splits of several folders
        return {
            "layout": data.layout,
            "root": str(folder),
            "train": "+".join(data.train),
            "test": data.test,
        }
    root, test = folder / names.pop(), data.test.partition("/")[2]
    train = "+".join(split.partition("/")[2] for split in data.train)
    whole, _, percent = train.removesuffix("pct").rpartition("_")
    if (
        train.endswith("pct")
        and not unwritten
        and not (root / "annotations" / f"instances_{train}.json").is_file()
    ):
        write = f"detco data subset {root}/annotations/instances_{whole}.json --percent {percent}"
        raise InputError(f"{root / 'annotations'}: no instances_{train}.json; `{write}` writes it")
    return {"layout": data.layout, "root": str(root), "train": train, "test": test}


def holds(protocol: Protocol, folder: Path) -> bool:
    """Whether `folder` is one in which `locate` finds the protocol's data."""
    splits = (*protocol.data.train, protocol.data.test) if protocol.data else ()
    return bool(splits) and all((folder / split.partition("/")[0]).is_dir() for split in splits)


def deviations(protocol: Protocol, train: Dataset, test: Dataset) -> tuple[str, ...]:
    """Says so where the data cannot be those of the published numbers, judged by their layout,
    classes and sizes."""
    data = protocol.data
    if data is None:
        return ()
    here = (train.layout, len(train.categories), (len(train.images), len(test.images)))
    if here == (data.layout, data.classes, data.images):
        return ()
    size = (
        f"{len(train.images):,} and {len(test.images):,} pictures, {len(train.categories)} classes"
    )
    should = f"{data.images[0]:,} and {data.images[1]:,}, {data.classes}"
    return (f"not the published data ({' + '.join(data.train)}, {data.test}): {size} ({should})",)
