"""The claims of the DetCo paper, judged on measured numbers: holds, fails or undecided."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .. import stats
from ..cells import Cell, Grid, Group, Section
from ..grids import metric_name, signed, value_text
from . import numbers as published
from .verdicts import spread_of

BASELINE = "supervised"  # goes by this word in sentences


@dataclass(frozen=True)
class Claim:
    """`winner` beats `loser` (method, epochs of pretraining; None: the paper prints none) in
    `cells` (protocol, metric, name).

    Without a loser: the winner reaches the published values. The gains are those of
    the published numbers.
    """

    winner: tuple[str, int | None]
    loser: tuple[str, int | None] | None
    cells: tuple[tuple[str, str, str], ...]
    where: str


SUPERVISED, MOCO, DETCO, DETCO_AA = (
    ("supervised", None),
    ("moco-v2", 200),
    ("detco", 200),
    ("detco-aa", 200),
)
AT_90K = (
    ("coco-mask-rcnn-c4-90k", "box_ap", "C4"),
    ("coco-mask-rcnn-fpn-90k", "box_ap", "FPN"),
    ("coco-retinanet-90k", "box_ap", "RetinaNet"),
)
SHARES = tuple((f"coco-{share}pct-mask-rcnn-fpn", "box_ap", f"{share}%") for share in (1, 2, 5, 10))
CLAIMS = (
    Claim(DETCO_AA, SUPERVISED, AT_90K, "at 90k, abstract"),
    Claim(DETCO, MOCO, AT_90K, "at 90k, tables 4 and 5"),
    Claim(
        ("detco", 100),
        None,
        (("voc-faster-rcnn-c4-24k", "box_ap", "VOC with Faster R-CNN C4"),),
        "abstract",
    ),
    Claim(DETCO, ("supervised", 90), (("voc-faster-rcnn-c4-24k", "box_ap", "VOC"),), "table 6"),
    Claim(
        DETCO,
        SUPERVISED,
        (("coco-keypoint-rcnn-180k", "keypoint_ap", "Keypoint R-CNN"),),
        "table 5",
    ),
    Claim(DETCO, SUPERVISED, (("cityscapes-instance", "mask_ap", "Cityscapes"),), "table 7"),
    Claim(DETCO, SUPERVISED, (("cityscapes-semantic", "miou", "Cityscapes"),), "table 7"),
    Claim(DETCO_AA, SUPERVISED, SHARES, "of COCO, tables 10 and 11"),
    Claim(DETCO, MOCO, (("imagenet-linear", "top1", "ImageNet"),), "table 8"),
)
RULE = (
    "a gain fails if the measured difference stays below it by more than its 95 % interval (Welch's"
    " t) and both published spreads together; else it holds if that interval lies above 0, and is"
    " undecided if not. A value is reached unless its verdict is below. A claim holds if all its"
    " parts do and fails if one does."
)
NOTHING = "not measured"
TONES = {"holds": "best", "fails": "down", "undecided": "noise"}


def judge(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's claims judged on comparable cells (`verdicts.compare`), a row a part of a claim.

    Columns: claim (text), verdict (of the whole: holds, fails, undecided), part (name), claimed
    (published gain or value), measured (text), part_verdict.
    """
    rows = []
    for claim in CLAIMS:
        parts = [
            (name, gain(claim, protocol, metric), *_part(claim, protocol, metric, cells))
            for protocol, metric, name in claim.cells
        ]
        verdicts = [verdict for *_, verdict in parts]
        verdict = (
            "fails"
            if "fails" in verdicts
            else "holds"
            if set(verdicts) == {"holds"}
            else "undecided"
        )
        rows += [[_text(claim), verdict, *part] for part in parts]
    return pd.DataFrame(
        rows, columns=["claim", "verdict", "part", "claimed", "measured", "part_verdict"]
    )


def gain(claim: Claim, protocol: str, metric: str) -> float:
    """The published difference, or the published value where the claim has no loser."""
    winner = _published(claim.winner, protocol, metric)
    return winner - _published(claim.loser, protocol, metric) if claim.loser else winner


def _published(who: tuple[str, int | None], protocol: str, metric: str) -> float:
    numbers = published.of_source(published.DETCO)
    found = numbers[
        (numbers["protocol"] == protocol)
        & (numbers["metric"] == metric)
        & (numbers["method"] == who[0])
    ]
    return float(found[found["epochs"].isna() | (found["epochs"] == who[1])]["value"].iloc[0])


def _text(claim: Claim) -> str:
    gains = " / ".join(
        f"{gain(claim, protocol, metric):.1f}" for protocol, metric, _ in claim.cells
    )
    what, on = metric_name(claim.cells[0][1]), " / ".join(name for *_, name in claim.cells)
    if claim.loser is None:
        return f"{_name(claim.winner)} reaches {gains} {what} on {on} ({claim.where})"
    return (
        f"{_name(claim.winner)} beats {_name(claim.loser)} by {gains} {what} on {on}"
        f" ({claim.where})"
    )


def _name(who: tuple[str, int | None]) -> str:
    name = BASELINE if who[0] == BASELINE else published.METHODS[who[0]]
    return name if who[1] in (None, 90, 200) else f"{name} at {who[1]} epochs"


def _part(claim: Claim, protocol: str, metric: str, cells: pd.DataFrame) -> tuple[str, str]:
    """What was measured, as text, and the verdict."""
    sides = []
    for who in filter(None, (claim.winner, claim.loser)):
        found = cells[
            (cells["protocol"] == protocol)
            & (cells["metric"] == metric)
            & (cells["method"] == who[0])
        ]
        found = found[found["epochs"].isna() if who[1] is None else found["epochs"] == who[1]]
        usable = found[found["verdict"] != "not comparable"]
        if len(usable) != 1:
            why = (
                f"{len(usable)} rows are {_name(who)}"
                if len(usable)
                else f"{_name(who)} not comparable"
            )
            return why if len(found) else NOTHING, "undecided"
        sides.append(usable.iloc[0])
    if claim.loser is None:
        side = sides[0]
        return value_text(side["mean"], side["std"], side["n"]), (
            "fails" if side["verdict"] == "below" else "holds"
        )
    found = stats.welch(*(side[key] for side in sides for key in ("mean", "std", "n")))
    difference, half = (float(value) for value in found)
    other = ", different Detectron2" if sides[0]["detectron2"] != sides[1]["detectron2"] else ""
    if np.isnan(half):
        return f"{signed(difference)} (single run){other}", "undecided"
    slack = np.hypot(half, np.sqrt(2) * spread_of(protocol))
    fails = difference + slack < gain(claim, protocol, metric)
    return (
        f"{signed(difference)} ± {half:.1f}{other}",
        "fails" if fails else "holds" if difference > half else "undecided",
    )


def grid(cells: pd.DataFrame) -> Grid:
    """The claims with their verdicts; those of which nothing was measured are only named."""
    sections, missing = [], []
    for (claim, verdict), parts in judge(cells).groupby(["claim", "verdict"], sort=False):
        if (parts["measured"] == NOTHING).all():
            missing.append(f"{NOTHING}: {claim}")
            continue
        rows = [
            (
                part.part,
                [
                    Cell(f"{part.claimed:.1f}"),
                    Cell(part.measured),
                    Cell(part.part_verdict, TONES[part.part_verdict]),
                ],
            )
            for part in parts.itertuples()
        ]
        sections.append(Section(f"{verdict}: {claim}", rows))
    groups = [Group("", "", ("claimed", "measured")), Group("", "", ("verdict",), "l")]
    return Grid(groups, sections, [RULE, *missing], "What the paper claims, on these measurements")
