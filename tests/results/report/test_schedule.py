"""AP over the length of the schedule: means by hand, and nothing averaged that the
table keeps apart."""

import pytest

from detco.results import tables
from detco.results.report import schedule
from tests.factories.records import paper_record, printed, three_seeds


def curves(records, **more):
    return schedule.curves(tables.frame(records), **{"methods": {}} | more)


def test_points_are_means_at_their_iterations_beside_the_published():
    records = [
        r
        for k, ap in ((12, 29.4), (90, 39.3))
        for r in three_seeds("detco@200", f"coco-mask-rcnn-c4-{k}k", ap, spread=0.2)
    ]
    (lines,) = curves(records, methods={"detco-200": ("detco", 200)}).values()
    assert [line.name for line in lines] == ["detco-200", "detco-200, published"]
    assert lines[0].points == [(12000, pytest.approx(29.4)), (90000, pytest.approx(39.3))]
    assert lines[0].errors == pytest.approx([0.2, 0.2])
    lengths = ((12000, "12k"), (90000, "90k"), (180000, "180k"))
    assert lines[1].points == [
        (x, printed(f"coco-mask-rcnn-c4-{k}", "detco", epochs=200)) for x, k in lengths
    ]


@pytest.mark.parametrize(
    "key, other, said",
    [
        ("protocol_version", 2, "v2"),
        ("engine", "torchvision", "torchvision"),
        ("scaling", "1/2", "scaled 1/2"),
        ("scorer", "voc2007", "VOC07 AP"),
        (
            "facts",
            {"detectron2": {"which": "release of 2021", "hash": "a8676b80f7de"}},
            "Detectron2 a8676b",
        ),
        (
            "data",
            {"train": {"fingerprint": "c"}, "test": {"fingerprint": "d", "images": 9}},
            "data ",
        ),
    ],
)
def test_what_differs_is_a_chart_of_its_own(key, other, said):
    lengths = ("coco-mask-rcnn-c4-12k", "coco-mask-rcnn-c4-90k")
    records = [paper_record("random", name, seed, 20.0) for name in lengths for seed in (0, 1)]
    records += [
        paper_record("random", name, seed, 60.0, **{key: other})
        for name in lengths
        for seed in (0, 1)
    ]
    charts = curves(records)
    assert [[y for _, y in line.points] for lines in charts.values() for line in lines] == [
        [20.0, 20.0],
        [60.0, 60.0],
    ]
    assert said in list(charts)[1]


def test_other_settings_of_one_name_are_not_averaged_in():
    lengths = ("coco-mask-rcnn-c4-12k", "coco-mask-rcnn-c4-90k")
    records = [paper_record("random", name, 0, 20.0) for name in lengths]
    records.append(
        paper_record(
            "random",
            lengths[0],
            0,
            60.0,
            protocol_hash="other",
            deviations=["schedule.lr 1 (protocol: 2)"],
        )
    )
    (lines,) = curves(records).values()
    assert lines[0].points == [(12000, 20.0), (90000, 20.0)]
