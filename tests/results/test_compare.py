"""Starting points side by side: wins, ranks and class differences against counts made by
hand with scipy."""

import numpy as np
import pytest
import scipy.stats

from detco.common.errors import InputError
from detco.results import compare, tables
from detco.results.render import render
from tests.factories.records import transfer_record

CLASSES = ("ant", "bee", "cat")
# (starting point, protocol) -> AP of each seed; the third protocol has single runs, the fourth only
# one of the rows
VALUES = {
    ("a", "c4"): [40.0, 40.2, 40.4],
    ("b", "c4"): [30.0, 30.3, 30.1],
    ("c", "c4"): [20.0, 20.5, 20.1],
    ("a", "fpn"): [30.0, 36.0, 33.0],
    ("b", "fpn"): [31.0, 37.0, 35.0],
    ("c", "fpn"): [50.0, 50.2, 50.1],
    ("a", "retina"): [10.0],
    ("b", "retina"): [12.0],
    ("c", "retina"): [11.0, 11.5],
    ("a", "alone"): [1.0, 2.0],
}


@pytest.fixture
def frame():
    records = []
    for (start, protocol), values in VALUES.items():
        for seed, value in enumerate(values):
            record = transfer_record("random", "c4", seed, value)
            record |= {
                "id": f"{start}{protocol}{seed}",
                "starting_point": start,
                "protocol": protocol,
                "protocol_hash": protocol,
            }
            record["metrics"] = {"box_ap": value, "box_aps": value / 2, "box_apl": value + 5}
            record["metrics"] |= {
                f"box_ap/{name}": value + 3 * n * (start == "a") for n, name in enumerate(CLASSES)
            }
            record["spec"] = record["spec"] | {"order": ["abc".index(start), 0]}
            records.append(record)
    return tables.frame(records)


def test_wins_ties_losses_and_mean_difference(frame):
    found = compare.pairs(compare.select(frame, ["a", "b", "c"])).set_index(["first", "second"])
    assert list(found.index) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (first, second), row in found.iterrows():
        expected, differences = {"wins": 0, "ties": 0, "losses": 0, "single": 0}, []
        for protocol in ("c4", "fpn", "retina"):
            x, y = VALUES[first, protocol], VALUES[second, protocol]
            differences.append(np.mean(x) - np.mean(y))
            if min(len(x), len(y)) < 2:
                expected["single"] += 1
            elif scipy.stats.ttest_ind(x, y, equal_var=False).pvalue < 0.05:
                expected["wins" if differences[-1] > 0 else "losses"] += 1
            else:
                expected["ties"] += 1
        assert row[list(expected)].to_dict() == expected and row["cells"] == 3
        assert row["difference"] == pytest.approx(np.mean(differences), abs=1e-12)
    assert found.loc[("a", "b"), ["wins", "ties", "losses", "single"]].tolist() == [1, 1, 0, 1]


def test_pairing_by_seed_changes_the_verdict(frame):
    """On fpn, b is better than a by 0.9, 1 and 1.1: noise to Welch, as seeds differ by 6, and clear
    to a paired t."""
    close = frame.copy()
    for seed, value in enumerate((30.9, 37.0, 34.1)):
        close.loc[(close["id"] == f"bfpn{seed}") & (close["metric"] == "box_ap"), "value"] = value
    losses = {
        how: compare.pairs(compare.select(close, ["a", "b"], how))["losses"].item()
        for how in ("welch", "paired")
    }
    assert losses == {"welch": 0, "paired": 1}


def test_ranks_over_the_cells_all_have(frame):
    table = compare.select(frame, ["a", "b", "c"])
    by_hand = {"a": np.mean([1, 3, 3]), "b": np.mean([2, 2, 1]), "c": np.mean([3, 1, 2])}
    assert compare.ranks(table).to_dict() == pytest.approx(by_hand)


def test_rows_in_the_order_asked_and_groups_of_one_left_out(frame):
    table = compare.select(frame, ["c", "a"])
    assert list(table.index) == ["c", "a"] and not any(
        "alone" in group for group in table.columns.unique("group")
    )
    grid = compare.by_protocol(table)
    assert [section.title for section in grid.sections] == ["", "difference to a"]
    assert [name for name, _ in grid.sections[1].rows] == ["c"]


def test_one_name_over_two_backbones_in_different_protocols(frame):
    """Alone in the groups that count, the row keeps the digits that tell it from the other."""
    other = frame.copy()
    other.loc[(other["starting_point"] == "a") & (other["protocol"] == "c4"), "weights"] = "f" * 64
    other.loc[other["starting_point"] == "b", "weights"] = "e" * 64
    only_fpn = other[(other["starting_point"] != "b") | (other["protocol"] == "fpn")]
    table = compare.select(only_fpn, ["a", "b"])
    first, second = table.index
    assert first.startswith("a (") and "ffffff" not in first and second == "b"
    pair = compare.pairs(table).iloc[0]
    assert pair["cells"] == 1 and pair["difference"] == pytest.approx(33 - (31 + 37 + 35) / 3)
    assert list(compare.select(other, ["a", first, "b"]).index)[-1] == "b"


def test_by_class_sorted_by_the_difference_and_cut(frame):
    table = compare.select(frame, ["a", "b"])
    grid = compare.by_class(table)
    section = next(section for section in grid.sections if section.title.startswith("c4"))
    assert [name for name, _ in section.rows] == ["cat", "bee", "ant"]
    texts = {name: cells[-1].text for name, cells in section.rows}
    interval = scipy.stats.ttest_ind(
        [46.0, 46.2, 46.4], VALUES["b", "c4"], equal_var=False
    ).confidence_interval()
    assert texts["cat"] == f"+{np.mean(interval):.1f} ± {(interval.high - interval.low) / 2:.1f}"
    short = compare.by_class(table, most=2).sections[0].rows
    assert [name for name, _ in short] == ["cat", "… 1 more", "ant"]
    assert (
        "By class" in render(grid)
        and compare.by_class(compare.select(frame[frame["metric"] == "box_ap"], ["a", "b"])) is None
    )


def test_by_size(frame):
    grid = compare.by_size(compare.select(frame, ["a", "b"]))
    assert {name for group in grid.groups for name in group.columns} == {"box APs", "box APl"}
    assert compare.by_size(compare.select(frame[frame["metric"] == "box_ap"], ["a", "b"])) is None


def test_every_format_of_every_part(frame):
    table = compare.select(frame, ["a", "b", "c"])
    for grid in (
        *compare.summary(table),
        compare.by_protocol(table),
        compare.by_size(table),
        compare.by_class(table),
    ):
        for form in ("terminal", "md", "latex", "html"):
            assert render(grid, form)


@pytest.mark.parametrize(
    "names, words",
    [
        (["a"], "at least two"),
        (["a", "a"], "each once"),
        (["a", "z"], "no protocol has results of two of a, z"),
    ],
)
def test_refusals(frame, names, words):
    with pytest.raises(InputError, match=words):
        compare.select(frame, names)
