"""`--columns`: the cells that were asked for, in that order, as they are in the whole table."""

import pytest

from detco.common.errors import InputError
from detco.results import columns, tables
from tests.factories.records import transfer_record

VALUES = {"random": 10.0, "detco-small": 30.0}


@pytest.fixture
def runs():
    records = [
        transfer_record(start, protocol, 0, value, deviations=[f"departs in {protocol}"])
        for start, value in VALUES.items()
        for protocol in ("c4", "retinanet")
    ]
    for record in records:
        record["metrics"] |= {"box_aps": record["metrics"]["box_ap"] / 2}
    records[3]["metrics"]["mask_ap"] = 7.0  # retinanet from detco-small
    return tables.frame(records)


@pytest.mark.parametrize(
    "wishes, wanted",
    [
        (["retinanet"], ["retinanet box_ap", "retinanet box_ap50", "retinanet mask_ap"]),
        (["retinanet:box_aps", "c4:box_ap"], ["retinanet box_aps", "c4 box_ap"]),
        (["box_ap"], ["c4 box_ap", "retinanet box_ap"]),
        (["mask_ap"], ["retinanet mask_ap"]),
        # the columns of a protocol stand together, none twice
        (
            ["c4:box_ap", "retinanet:box_ap", "c4:box_ap50", "box_ap"],
            ["c4 box_ap", "c4 box_ap50", "retinanet box_ap"],
        ),
    ],
)
def test_columns_in_the_order_asked_for(runs, wishes, wanted):
    made = columns.chosen(runs, wishes, ["random"])
    cells = made.columns.droplevel("statistic").unique()
    assert [f"{group.split()[0]} {metric}" for group, metric in cells] == wanted
    whole = tables.ap_table(runs, ["random"], ["box_ap", "box_ap50", "box_aps", "mask_ap"])
    for column in made.columns:
        assert made[column].equals(whole[column]), column


def test_footnotes_are_those_of_the_columns(runs):
    made = columns.chosen(runs, ["retinanet:box_ap"], [])
    assert made.attrs["footnotes"].lines() == ["[a] departs in retinanet"]


def test_metrics_say_what_a_protocol_shows(runs):
    made = columns.chosen(runs, ["c4"], [], ["box_aps"])
    assert {metric for _, metric, _ in made.columns} == {"box_aps"}


@pytest.mark.parametrize(
    "wish, text",
    [
        ("retinnet", "did you mean 'retinanet'"),
        ("box_app", "did you mean 'box_ap'"),
        ("c4:mask_ap", "--columns c4:mask_ap: no run has mask_ap"),
        ("xyz", "there are c4, retinanet, box_ap, box_ap50, box_aps, mask_ap"),
        ("mine:box_ap", "no run has mine; there are c4, retinanet"),
    ],
)
def test_unknown_columns_are_refused(runs, wish, text):
    with pytest.raises(InputError) as refused:
        columns.chosen(runs, ["c4:box_ap", wish], [])
    assert text in str(refused.value)
