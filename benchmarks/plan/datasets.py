"""Finds, describes and checks the labelled data set of a task before any job starts."""

import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from detco.common.errors import InputError
from detco.transfer.data import LAYOUTS, layout_of

from ..suites.builtin import Data, Suite, Task
from .jobs import Job, Source

# of detco.benchmarks.scenes.draw
DRAWN = {
    "voc": ("trainval", "test"),
    "coco": ("train", "val"),
    "cityscapes": ("train", "val"),
}
SMALL_FOR_BOXES = ("small-faster-rcnn-c4", "small-faster-rcnn-fpn", "small-retinanet")
SMALL_FOR_MASKS = ("small-faster-rcnn-c4", "small-mask-rcnn-fpn", "small-retinanet")


@dataclass(frozen=True)
class Look:
    """How images are looked at while a plan is made. verify: those to train on are decoded too, not
    only those to test on; report(stage, done, total) is called meanwhile."""

    verify: bool = False
    report: Callable | None = None


SILENT = Look()


def load(data: Data, protocol, look: Look = SILENT) -> tuple[Data, Source]:
    """Load both splits as a protocol needs them and raise InputError for errors in them. Labels and
    images determine the identity."""
    from detco.transfer import finetune

    data = find_splits(data)
    named = {**asdict(data), "root": str(data.root)}
    train, test = finetune.prepare(protocol, named, look.verify, look.report)
    # earlier versions identified data by these alone
    return data, Source(
        data.root.absolute(),
        finetune.identity_of(train, test),
        (),
        len(train.images),
        len(test.images),
        earlier=finetune.identity_of_labels(train, test),
    )


def of_task(
    suite: Suite, task: Task, protocol, write: bool, loaded: dict, look: Look = SILENT
) -> tuple[Data, Source]:
    """The data set of a task: its own, the suite's, or the published one of its
    protocol. Raises InputError.

    write: shares of COCO that are not there; loaded: what was read before, as the same data serve
    many tasks; look: see `load`."""
    data = task.data or suite.data
    if data is None and protocol.data is None:
        raise InputError(
            f"suite {suite.name}: no data set for {task.protocol}; name one under 'data', or with"
            " --data"
        )
    data = data or published(protocol, suite.datasets)
    if not _share_is_there(data, write):
        return data, Source(data.root, f"unwritten {data.train}", (), *protocol.data.images)
    key = (data, protocol.metrics, protocol.scorer)
    if key not in loaded:
        loaded[key] = load(data, protocol, look)
    return loaded[key]


def drawn(suite: Suite, data: Data, protocol, scenes: Job) -> tuple[Data, Source]:
    """A data set that the job `scenes` will draw; its folder's name says the layout, and with it
    the splits. Raises InputError."""
    from detco.transfer.scoring import refuse_layout

    name = str(data.root)
    if name not in DRAWN:
        raise InputError(
            f"suite {suite.name}: the drawn data sets are {', '.join(DRAWN)}; there is no {name!r}"
        )
    refuse_layout(protocol.scorer, protocol.metrics, data.layout or name, f"suite {suite.name}")
    train, test = DRAWN[name]
    tested = suite.scenes.images // 4
    source = Source(
        scenes.folder / name,
        f"{scenes.id}/{name}",
        (scenes.id,),
        suite.scenes.images - tested,
        tested,
    )
    return Data(data.root, data.layout or name, data.train or train, data.test or test), source


def published(protocol, folder: Path | None) -> Data:
    """Where a protocol's published data lie."""
    from detco.transfer.data import official

    found = official.locate(protocol, folder, unwritten=True)
    return Data(Path(found["root"]), found["layout"], found["train"], found["test"])


def _share_is_there(data: Data, write: bool) -> bool:
    """Whether a share of COCO's pictures, e.g. train2017_1pct, can be read; it is written beside
    the whole if `write`."""
    share = re.fullmatch(r"(\w+)_(\d+)pct", data.train or "")
    whole = data.root / "annotations" / f"instances_{share[1]}.json" if share else None
    if (
        not share
        or whole.with_name(f"instances_{data.train}.json").is_file()
        or not whole.is_file()
    ):
        return True  # if not, the reader reports the error
    if write:
        from detco.transfer.data.making import subsets

        subsets.write(whole, int(share[2]), 0)
    return write


def fitting(suite: Suite) -> tuple[Task, ...]:
    """The protocols of a suite that names none: small ones for what its data set has."""
    from detco.transfer.data import dataset

    if suite.data is None or suite.scenes:
        raise InputError(
            f"suite {suite.name}: name the data set under 'data', or the protocols and their data"
        )
    data = find_splits(suite.data)
    annotations = dataset.load(data.layout, data.root, data.train).annotations
    masks = annotations and all(item.get("segmentation") for item in annotations)
    return tuple(Task(name) for name in (SMALL_FOR_MASKS if masks else SMALL_FOR_BOXES))


def find_splits(data: Data) -> Data:
    """Fill in layout and splits from what lies in the folder. Raises InputError where they cannot
    be told."""
    from detco.transfer.data import dataset

    layout = layout_in(data.root, data.layout)
    train, test = data.train, data.test
    if train is None or test is None:
        usual = dataset.default_splits(layout, data.root)
        train, test = train or usual[0], test or usual[1]
    return replace(data, layout=layout, train=train, test=test)


def layout_in(root: Path, told: str | None = None) -> str:
    """The layout of the data set in a folder, unless it is told. Raises InputError where there is
    none."""
    from detco.transfer.data.making import labelme, yolo

    if not root.is_dir():
        raise InputError(f"no data set folder at {root}")
    if layout := told or layout_of(root):
        return layout
    listed = ", ".join(f"{row.marker}/ ({name})" for name, row in LAYOUTS.items())
    hint = ""
    if yolo.description(root):
        hint = f"; for YOLO's: `detco data convert yolo {shlex.quote(str(root))} OUT`"
    elif labelme.files(root):
        hint = f"; for labelme's: `detco data convert labelme {shlex.quote(str(root))} OUT`"
    raise InputError(f"{root}: no known layout; expected one of {listed}{hint}")
