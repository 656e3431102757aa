"""Measured beside published: the tolerance by hand, every obstacle to a comparison, the paper's
claims on made-up records."""

import numpy as np
import pandas as pd
import pytest

from detco.common.errors import InputError
from detco.results.paper import claims, numbers, verdicts
from detco.results.render import render
from tests.factories.records import AT_90K, NUMBERS, headline, paper_record, three_seeds


@pytest.mark.parametrize(
    "protocol, published_value, values, tolerance, verdict",
    [
        ("coco-mask-rcnn-c4-90k", 39.4, [39.79], 0.4, "reproduced"),
        ("coco-mask-rcnn-c4-90k", 39.4, [39.81], 0.4, "above"),
        ("coco-mask-rcnn-c4-90k", 39.4, [38.99], 0.4, "below"),
        # just on the edge, in spite of binary fractions
        (
            "coco-mask-rcnn-c4-90k",
            39.4,
            [39.0],
            0.4,
            "reproduced",
        ),
        ("coco-mask-rcnn-c4-90k", 39.4, [39.5, 40.1, 39.8], (0.4**2 + 0.3**2) ** 0.5, "reproduced"),
        ("coco-mask-rcnn-c4-90k", 39.4, [39.9, 40.5, 40.2], (0.4**2 + 0.3**2) ** 0.5, "above"),
        ("voc-faster-rcnn-c4-24k", 57.8, [57.3, 57.5], (0.4**2 + 0.02) ** 0.5, "reproduced"),
    ],
)
def test_verdict_and_tolerance_by_hand(protocol, published_value, values, tolerance, verdict):
    cells = verdicts.compare(
        [paper_record("detco@200", protocol, seed, value) for seed, value in enumerate(values)]
    )
    (cell,) = cells.itertuples()
    assert (cell.published, cell.verdict, cell.n, cell.reason) == (
        published_value,
        verdict,
        len(values),
        "",
    )
    assert cell.tolerance == pytest.approx(tolerance, abs=1e-9)
    assert cell.difference == pytest.approx(np.mean(values) - published_value, abs=1e-9)


def test_classifiers_have_an_engine_of_their_own():
    """Table 8's numbers are no detector's: those of the engine frozen stand beside them."""
    record = paper_record("detco@200", "imagenet-linear", 0, 68.3, "top1")
    assert record["engine"] == "frozen"
    (cell,) = verdicts.compare([record]).itertuples()
    assert (cell.published, cell.verdict, cell.reason) == (68.6, "reproduced", "")
    record["data"]["test"]["images"] = 15
    (cell,) = verdicts.compare([record]).itertuples()
    assert (cell.verdict, cell.reason) == (
        "not comparable",
        "other data: 15 test pictures, published on 50000",
    )


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"engine": "torchvision"}, "other engine: torchvision"),
        ({"protocol_version": 2}, "other version of the protocol: 2"),
        ({"scaling": "1/2"}, "scaled: 1/2"),
        ({"scorer": "voc2007"}, "another definition of the metric: VOC07 AP"),
        (
            {"deviations": ["schedule.iterations 50 (protocol: 90000)"]},
            "other schedule: schedule.iterations 50",
        ),
        ({"deviations": ["frozen BN"]}, "departs from the protocol: frozen BN"),
        (
            {"data": {"test": {"images": 30, "fingerprint": "x"}}},
            "other data: 30 test pictures, published on 5000",
        ),
        (
            {"weights": {"method": "detco", "arch": "resnet18", "epochs": "200"}},
            "other backbone: resnet18",
        ),
        (
            {"weights": {"method": "detco", "arch": "resnet50", "epochs": "20"}},
            "pretrained for 20 epochs, published for 200",
        ),
        (
            {
                "weights": {
                    "method": "detco",
                    "epochs": "200",
                    "source": "recipe detco-global-only on 9 pictures",
                }
            },
            "global-only",
        ),
        (
            {"weights": {"method": "detco", "epochs": "200", "images_seen": "48000"}},
            "other pretraining data: 240 pictures",
        ),
    ],
)
def test_not_comparable_and_why(changes, reason):
    records = [
        paper_record("detco@200", AT_90K[0], 0, 39.4),
        paper_record("moco-v2@200", AT_90K[0], 0, 38.9, **changes),
    ]
    if "weights" in changes:
        records[1]["weights"] = changes["weights"] | {"sha256": "x" * 64}
        records[1]["starting_point"] = "mine"
    cells = verdicts.compare(records).set_index("row")
    (other,) = set(cells.index) - {"detco-200"}
    assert cells.loc["detco-200", "verdict"] == "reproduced"
    assert cells.loc[other, "verdict"] == "not comparable" and reason in cells.loc[other, "reason"]
    assert np.isnan(cells.loc[other, "difference"]) and np.isnan(cells.loc[other, "tolerance"])
    text = render(verdicts.grid(verdicts.compare(records), numbers.DETCO, records))
    assert (
        reason in " ".join(text.split()) and "not comparable [a]" in text and "√(p² + s²)" in text
    )


def test_random_supervised_and_twins_by_epochs():
    protocol = "voc-faster-rcnn-c4-24k"
    starts = ("random", "supervised@90", "moco-v2@200", "moco-v2@800", "moco-v2@")
    cells = verdicts.compare(
        [paper_record(start, protocol, 0, 50.0) for start in starts]
    ).set_index("row")
    found = cells["published"].dropna().to_dict()
    assert found == {
        "random": 33.8,
        "supervised-90": 53.5,
        "moco-v2-200": 57.0,
        "moco-v2-800": 57.4,
    }
    assert "an unknown number of epochs, published for 200, 800" in cells.loc["moco-v2-", "reason"]


@pytest.mark.parametrize(
    "start, weights, found",
    [
        ("mine", {"method": "detco"}, "detco"),
        ("detco-aa-best", {"method": "detco"}, "detco-aa"),
        ("mine", {"method": "detco", "source": "recipe detco-aa-200ep on 5 pictures"}, "detco-aa"),
        ("detco-aa", {"method": "moco-v2"}, "moco-v2"),
        ("moco-v1-old", {"method": ""}, "moco-v1"),
        ("mine", {"method": "dino"}, "dino"),
        ("detco-200ep", {"method": "unknown"}, "unknown"),  # no paper's row
    ],
)
def test_method_is_that_of_the_weights_not_of_a_name(start, weights, found):
    record = {"starting_point": start, "weights": weights, "spec": {"weights": "file"}}
    assert verdicts.method_of(record) == (found, None)
    assert verdicts.method_of({"starting_point": "detco", "spec": {"weights": "random"}}) == (
        "random",
        None,
    )


def test_other_sources_and_what_has_no_twin():
    records = [
        paper_record("moco-v2@800", "voc-faster-rcnn-c4-24k", 0, 57.5),
        paper_record("mine@5", "my-protocol", 0, 10.0),
    ]
    cells = verdicts.compare(records, "moco-detection-readme")
    assert cells[["published", "verdict"]].values.tolist() == [[57.4, "reproduced"]]
    text = " ".join(render(verdicts.grid(cells, "moco-detection-readme", records)).split())
    assert (
        "without published numbers in moco-detection-readme: my-protocol" in text
        and ": mine" in text
    )
    with pytest.raises(InputError, match="no published numbers 'moco'"):
        verdicts.compare(records, "moco")


OLD = {"detectron2": {"which": "release of 2021", "hash": "a8676b80f7de"}}
NEW = {"detectron2": {"which": "main, 2026-06", "hash": "acd65d6c626b"}}


def test_two_detectron2_have_a_verdict_each_and_a_note():
    records = [
        paper_record("detco@200", AT_90K[0], seed, 39.4 + 2 * (facts is NEW), facts=facts)
        for seed in (0, 1)
        for facts in (OLD, NEW)
    ]
    for number, record in enumerate(records):
        record["id"] += str(number)
    cells = verdicts.compare(records)
    assert cells[["mean", "n", "verdict", "detectron2"]].values.tolist() == [
        [39.4, 2, "reproduced", "a8676b80f7de"],
        [41.4, 2, "above", "acd65d6c626b"],
    ]
    text = render(verdicts.grid(cells, numbers.DETCO, records))
    assert (
        "Detectron2 a8676b [a]" in text and "[a] Detectron2: release of 2021 (files a8676b)" in text
    )
    assert (
        "Detectron2 acd65d [b]" in text and "[b] Detectron2: main, 2026-06 (files acd65d)" in text
    )
    alone = [record for record in records if record["facts"] is OLD]
    assert "Detectron2" not in render(verdicts.grid(verdicts.compare(alone), numbers.DETCO, alone))


def test_a_claim_says_where_its_sides_ran_with_different_detectron2():
    same = verdict_of(headline(1.6, 1.2, 1.0), HEADLINE)[1]["measured"].tolist()
    found = verdict_of(headline(1.6, 1.2, 1.0, facts=NEW), HEADLINE)[1]["measured"].tolist()
    assert found == [f"{text}, different Detectron2" for text in same] and len(found) == 3


def verdict_of(records, words):
    judged = claims.judge(verdicts.compare(records))
    (found,) = {row.verdict for row in judged.itertuples() if row.claim.startswith(words)}
    return found, judged[judged["claim"].str.startswith(words)]


HEADLINE = "DetCo+AA beats supervised by 1.6 / 1.2 / 1.0 box AP on C4 / FPN / RetinaNet (at 90k"


@pytest.mark.parametrize(
    "gains, spread, verdict",
    [
        ((1.6, 1.2, 1.0), 0.1, "holds"),
        ((2.5, 1.5, 0.9), 0.1, "holds"),  # more than claimed, and a little less
        ((1.6, 1.2, 0.0), 0.1, "fails"),  # one part is not there
        ((-1.0, -1.0, -1.0), 0.1, "fails"),
        ((1.6, 1.2, 1.0), 2.0, "undecided"),  # noise
        ((1.6, 1.2, 0.6), 0.3, "undecided"),
    ],
)
def test_headline_claim(gains, spread, verdict):
    found, parts = verdict_of(headline(*gains, spread=spread), HEADLINE)
    assert found == verdict, parts
    assert parts["claimed"].round(1).tolist() == [1.6, 1.2, 1.0]


def test_claim_needs_comparable_cells_of_every_part():
    assert verdict_of(headline(1.6, 1.2, 1.0, engine="torchvision"), HEADLINE)[0] == "undecided"
    assert verdict_of(headline(1.6, 1.2, 1.0)[:12], HEADLINE)[0] == "undecided"  # no RetinaNet
    single = [record for record in headline(1.6, 1.2, 1.0) if record["seed"] == 0]
    found, parts = verdict_of(single, HEADLINE)
    assert found == "undecided" and parts["measured"].str.contains("single run").all()
    twice = headline(1.6, 1.2, 1.0) + three_seeds(
        "detco-aa@200", AT_90K[0], 39.8, starting_point="again-detco-aa"
    )
    for record in twice[-3:]:
        record["weights"] = record["weights"] | {
            "sha256": "f" * 64,
            "source": "recipe detco-aa-200ep on ImageNet",
        }
    found, parts = verdict_of(twice, HEADLINE)
    assert found == "undecided" and "2 rows are DetCo+AA" in set(parts["measured"])


def test_published_numbers_measured_again_make_every_claim_hold():
    """The paper's own values, three seeds of little spread each: every cell is reproduced, every
    claim holds."""
    records = []
    for row in NUMBERS.itertuples():
        epochs = 90 if pd.isna(row.epochs) else row.epochs
        start = "random" if row.method == "random" else f"{row.method}@{epochs}"
        records += three_seeds(start, row.protocol, row.value, 0.05, metric=row.metric)
    merged = {}
    for record in records:  # one record a run, as an engine writes it
        key = (record["starting_point"], record["protocol"], record["seed"])
        merged.setdefault(key, record)["metrics"] |= record["metrics"]
    cells = verdicts.compare(merged.values())
    assert len(cells) == len(NUMBERS) and set(cells["verdict"]) == {"reproduced"}
    assert cells["difference"].abs().max() < 1e-9
    judged = claims.judge(cells)
    assert set(judged["verdict"]) == {"holds"} and judged["claim"].nunique() == len(claims.CLAIMS)
    text = render(claims.grid(cells))
    assert (
        "holds: DetCo at 100 epochs reaches 57.4 box AP on VOC" in text
        and max(map(len, text.splitlines())) <= 120
    )
