"""The numbers of the papers: one tidy DataFrame, and DetCo's tables 3 to 13 as they were printed.

`published/*.csv` hold them in long form, copied digit by digit; what the paper prints wrongly is
kept and listed in SLIPS.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import pandas as pd

from detco.common.errors import InputError

from ..cells import Cell, Grid, Group, Section

DETCO = "detco-arxiv-v1"
# of this project's protocol rows, that follow these papers; other versions are not compared with
# them
VERSION = 1
METHODS = {
    "random": "Rand Init",
    "supervised": "Supervised",
    "jigsaw": "Jigsaw",
    "rotation": "Rotation",
    "insdis": "InsDis",
    "localagg": "LocalAgg",
    "pirl": "PIRL",
    "simclr": "SimCLR",
    "byol": "BYOL",
    "swav": "SwAV",
    "moco-v1": "MoCo v1",
    "moco-v2": "MoCo v2",
    "detco": "DetCo",
    "detco-aa": "DetCo+AA",
    "densecl": "DenseCL",
}


@dataclass(frozen=True)
class PaperTable:
    """How one table of the DetCo paper is laid out: column groups are (title, protocol); `epochs`:
    printed for each row."""

    title: str
    groups: tuple[tuple[str, str], ...]
    epochs: bool = False
    note: str = ""


def _two(schedule: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"Mask R-CNN R50-{net}, COCO {schedule}", f"coco-mask-rcnn-{net.lower()}-{schedule}")
        for net in ("C4", "FPN")
    )


def _shares(detector: str, protocol: str, *percents: int) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{detector}, {percent}% of COCO", f"coco-{percent}pct-{protocol}") for percent in percents
    )


RETINANETS = tuple(
    (f"RetinaNet R50, {schedule}", f"coco-retinanet-{schedule}")
    for schedule in ("12k", "90k", "180k")
)
MASK_FPN = ("Mask R-CNN R50-FPN", "mask-rcnn-fpn")
PAPER = {
    3: PaperTable("Detection and instance segmentation on COCO, 12k iterations", _two("12k")),
    4: PaperTable("Detection and instance segmentation on COCO, 90k iterations (1x)", _two("90k")),
    5: PaperTable(
        "RetinaNet and Keypoint R-CNN on COCO",
        (*RETINANETS, ("Keypoint R-CNN R50, 180k", "coco-keypoint-rcnn-180k")),
    ),
    6: PaperTable(
        "Detection on PASCAL VOC",
        (("Faster R-CNN R50-C4, VOC 24k", "voc-faster-rcnn-c4-24k"),),
        True,
    ),
    7: PaperTable(
        "Segmentation on Cityscapes",
        (
            ("Instance segmentation", "cityscapes-instance"),
            ("Semantic segmentation", "cityscapes-semantic"),
        ),
    ),
    8: PaperTable(
        "Classification on frozen features",
        (("ImageNet, linear", "imagenet-linear"), ("VOC07, SVM", "voc07-svm")),
        True,
        "The paper's caption claims +1.5 over MoCo v2; its values give +1.1 (ImageNet top-1) and"
        " +1.0 (VOC07).",
    ),
    9: PaperTable(
        "Dense pose estimation on COCO",
        (("DensePose R-CNN R50-FPN", "coco-densepose"),),
        True,
        "Its rows name the schedule s1x only; their values are those of the project DensePose's"
        " s1x_legacy (supervised 52.1), not of its later s1x (63.7).",
    ),
    10: PaperTable("Little labelled data, Mask R-CNN", _shares(*MASK_FPN, 1, 2)),
    11: PaperTable("Little labelled data, Mask R-CNN", _shares(*MASK_FPN, 5, 10)),
    12: PaperTable(
        "Little labelled data, RetinaNet", _shares("RetinaNet R50", "retinanet", 1, 2, 5, 10)
    ),
    13: PaperTable(
        "Detection and instance segmentation on COCO, 180k iterations (2x)", _two("180k")
    ),
}
SLIPS = {  # (table, protocol, method, metric) -> the difference that the printed values give
    (10, "coco-2pct-mask-rcnn-fpn", "detco-aa", "mask_ap50"): "+3.2",
}


@cache
def frame() -> pd.DataFrame:
    """All published numbers: source, table, protocol, version, method, epochs (of pretraining,
    where printed), metric, value (percent), printed (the difference to supervised as printed, ""
    for none). Do not change it: it is made once.
    """
    files = sorted((resources.files(__package__) / "data").iterdir(), key=lambda path: path.name)
    parts = [_read(path) for path in files if path.name.endswith(".csv")]
    return pd.concat(parts, ignore_index=True)


def _read(path) -> pd.DataFrame:
    with path.open(encoding="utf-8") as file:
        rows = pd.read_csv(file, dtype={"pretrain_epochs": "Int64", "delta_printed": str})
    rows = rows.rename(columns={"pretrain_epochs": "epochs", "delta_printed": "printed"})
    rows = rows.assign(version=VERSION, printed=rows["printed"].fillna(""))
    return rows[
        ["source", "table", "protocol", "version", "method", "epochs", "metric", "value", "printed"]
    ]


def of_source(name: str) -> pd.DataFrame:
    """The numbers of one source. Raises InputError for an unknown one."""
    numbers = frame()
    if name not in set(numbers["source"]):
        raise InputError(
            f"no published numbers {name!r}; there are {', '.join(numbers['source'].unique())}"
        )
    return numbers[numbers["source"] == name]


def of_table(number: int) -> pd.DataFrame:
    """The rows of one table of the DetCo paper, in the order of print. Raises InputError unless it
    is one of 3 to 13."""
    if number not in PAPER:
        raise InputError(f"the paper's tables of results are 3 to 13; there is no table {number}")
    numbers = of_source(DETCO)
    return numbers[numbers["table"] == number]


def paper_grid(number: int) -> Grid:
    """A table of the DetCo paper in its own layout: `value (difference to
    supervised)`, as printed."""
    rows, layout = of_table(number), PAPER[number]
    columns = [
        (protocol, list(rows.loc[rows["protocol"] == protocol, "metric"].unique()))
        for _, protocol in layout.groups
    ]
    groups = [
        Group(title, "", _names(metrics))
        for (title, _), (_, metrics) in zip(layout.groups, columns, strict=True)
    ]
    rows = rows.assign(epochs=rows["epochs"].map(str, na_action="ignore").fillna("–"))
    printed = {(row.method, row.epochs, row.protocol, row.metric): row for row in rows.itertuples()}
    lines = []
    for method, epochs in dict.fromkeys((key[0], key[1]) for key in printed):
        cells = [
            printed.get((method, epochs, protocol, metric))
            for protocol, metrics in columns
            for metric in metrics
        ]
        first = [Cell(epochs)] if layout.epochs else []
        lines.append((METHODS[method], first + [_cell(number, cell) for cell in cells]))
    notes = [_epochs_note(rows, layout), *([layout.note] if layout.note else [])]
    notes += [
        f"[a] printed so; the values give {right}"
        for (table, *_), right in SLIPS.items()
        if table == number
    ]
    if layout.epochs:
        groups.insert(0, Group("", "", ("epochs",)))
    title = f"DetCo (arXiv 2102.04803v1), table {number}: {layout.title}"
    return Grid(groups, [Section("", lines)], [note for note in notes if note], title, "method")


def _cell(table: int, row) -> Cell:
    """The cell for `row` of the frame; `row` is None where the paper has no number."""
    if row is None:
        return Cell("–")
    mark = "a" if (table, row.protocol, row.method, row.metric) in SLIPS else ""
    tone = {"+": "up", "-": "noise"}.get(row.printed[:1], "")
    return Cell(
        f"{row.value:.1f}" + (f" ({row.printed.replace('-', '−')})" if row.printed else ""),
        tone,
        mark,
    )


def _names(metrics: list[str]) -> tuple[str, ...]:
    """Headers as in the papers: `APbb`, `APmk50`; plain `AP` where boxes are all there is."""
    short = {
        "box": "bb" if any(m.startswith("mask") for m in metrics) else "",
        "mask": "mk",
        "keypoint": "kp",
        "densepose": "dp",
    }
    names = {"miou": "mIoU", "top1": "top-1", "top5": "top-5", "svm_map": "mAP"}
    for metric in metrics:
        task, _, rest = metric.partition("_ap")
        names.setdefault(metric, f"AP{short.get(task, task)}{rest}")
    return tuple(names[metric] for metric in metrics)


def _epochs_note(rows: pd.DataFrame, layout: PaperTable) -> str:
    given = sorted(set(rows["epochs"]) - {"–"})
    common = (
        f"; all but the first two pretrained for {given[0]} epochs"
        if len(given) == 1 and not layout.epochs
        else ""
    )
    differences = (
        "in brackets: difference to supervised, as printed" if (rows["printed"] != "").any() else ""
    )
    return (differences + common).lstrip("; ")
