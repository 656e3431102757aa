"""The papers' numbers as data: complete, unique, consistent with their printed differences; tables
as they were printed."""

import csv
import io
import re
from pathlib import Path

import pytest

from detco.common.errors import InputError
from detco.results.paper import numbers as published
from detco.results.render import render

FOLDER = Path(published.__file__).parent / "data"
KEY = ["source", "table", "protocol", "method", "epochs", "metric"]

# Some rows of each table as the paper lays them out, typed and not generated.
AS_PRINTED = {
    3: [
        "SwAV 16.5 (−10.6) 35.2 (−11.6) 13.5 (−14.1) 16.1 (−8.6) 32.0 (−11.6) 14.6 (−10.7) "
        "25.5 (−2.9) 46.2 (−2.1) 25.4 (−4.1) 24.8 (−1.6) 43.5 (−1.7) 25.3 (−0.4)"
    ],
    4: [
        "Supervised 38.2 58.2 41.2 33.3 54.7 35.2 38.9 59.6 42.7 35.4 56.5 38.1",
        (
            "DetCo+AA 39.8 (+1.6) 59.7 (+1.5) 43.0 (+1.8) 34.7 (+1.4) 56.3 (+1.6) 36.7 (+1.5) "
            "40.1 (+1.2) 61.0 (+1.4) 43.9 (+1.2) 36.4 (+1.0) 58.0 (+1.5) 38.9 (+0.8)"
        ),
    ],
    5: [
        "Supervised 24.3 40.7 25.1 37.4 56.5 39.7 38.9 58.5 41.5 65.8 86.9 71.9",
        (
            "DetCo+AA 25.3 (+1.0) 41.6 (+0.9) 26.5 (+1.4) 38.4 (+1.0) 57.8 (+1.3) 41.2 (+1.5) "
            "39.7 (+0.8) 59.3 (+0.8) 42.6 (+1.1) – – –"
        ),
    ],
    6: ["Supervised 90 53.5 81.3 58.8", "DetCo 100 57.4 (+3.9) 82.5 (+1.2) 63.9 (+5.1)"],
    7: ["DetCo 34.7 (+1.8) 63.2 (+3.6) 76.5 (+1.9)"],
    8: ["SimCLR 1000 69.3 89.0 –", "DetCo 200 68.6 88.5 85.1"],
    9: ["MoCo v1 200 49.6 (−1.2) 85.9 (−0.4) 50.5 (−2.1)"],
    10: [
        "MoCo v1 9.1 (−0.9) 17.3 (−2.6) 8.6 (−0.6) 8.6 (−1.1) 16.1 (−2.2) 8.3 (−0.9) "
        "13.0 (−0.7) 24.1 (−2.5) 12.6 (−0.2) 12.3 (−0.7) 22.4 (−1.8) 12.2 (−0.4)"
    ],
    11: [
        "DetCo 21.4 (+1.5) 38.1 (+1.1) 21.6 (+2.3) 19.9 (+1.3) 35.1 (+1.4) 19.8 (+1.4) "
        "25.3 (+1.5) 43.9 (+1.1) 26.0 (+2.1) 23.6 (+1.4) 40.8 (+1.2) 24.0 (+1.7)"
    ],
    12: [
        "DetCo+AA 9.9 (+1.7) 19.3 (+3.1) 9.1 (+1.9) 13.5 (+2.3) 25.1 (+3.4) 12.7 (+2.4) "
        "18.7 (+2.2) 32.9 (+2.6) 18.7 (+2.8) 21.9 (+2.3) 37.6 (+3.1) 22.3 (+2.6)"
    ],
    13: ["Rand Init 35.6 54.6 38.2 31.4 51.5 33.5 36.7 56.7 40.0 33.7 53.8 35.9"],
}


def lines_of(number):
    """Rows of the terminal form with single spaces, the blocks of a wide table side by side."""
    text = render(published.paper_grid(number), width=500)
    return [re.sub(" +", " ", line) for line in text.splitlines()]


def test_all_numbers_are_there_once():
    numbers = published.frame()
    counts = numbers["source"].value_counts().to_dict()
    assert counts == {"detco-arxiv-v1": 703, "moco-detection-readme": 12, "densecl-readme": 18}
    assert list(numbers.columns) == [*KEY[:3], "version", *KEY[3:], "value", "printed"]
    assert not numbers.duplicated(KEY).any()
    assert numbers["value"].between(0, 100).all() and numbers[
        ["protocol", "method", "metric"]
    ].notna().all(axis=None)
    assert sorted(numbers.loc[numbers["source"] == published.DETCO, "table"].unique()) == list(
        range(3, 14)
    )


def test_frame_says_what_the_files_say():
    """Read again by the csv module; every number is printed with one decimal."""
    rows = [row for path in sorted(FOLDER.glob("*.csv")) for row in csv.DictReader(path.open())]
    numbers = published.frame()
    assert len(rows) == len(numbers)
    for row, number in zip(rows, numbers.itertuples(), strict=True):
        epochs = str(number.epochs) if row["pretrain_epochs"] else ""
        found = [
            number.source,
            str(number.table),
            number.protocol,
            number.method,
            epochs,
            number.metric,
        ]
        assert found == [
            row[key]
            for key in ("source", "table", "protocol", "method", "pretrain_epochs", "metric")
        ]
        assert f"{number.value:.1f}" == row["value"] and number.printed == row["delta_printed"]


def test_files_are_the_shared_ones(shared_data):
    ours = sorted(FOLDER.glob("*.csv"))
    assert len(ours) == 3
    for path in ours:
        assert (shared_data.parent / "published" / path.name).read_bytes() == path.read_bytes()


def test_printed_differences_follow_from_the_values_but_for_the_known_slip():
    numbers = published.frame()
    supervised = numbers[numbers["method"] == "supervised"].set_index(
        ["source", "table", "protocol", "metric"]
    )["value"]
    wrong, checked = [], 0
    for row in numbers[numbers["printed"] != ""].itertuples():
        base = supervised[row.source, row.table, row.protocol, row.metric]
        checked += 1
        if round(row.value - base, 1) != float(row.printed):
            wrong.append(
                ((row.table, row.protocol, row.method, row.metric), f"{row.value - base:+.1f}")
            )
    assert checked > 400 and dict(wrong) == published.SLIPS


@pytest.mark.parametrize("number", range(3, 14))
def test_table_as_printed(number):
    lines = lines_of(number)
    assert all(row in lines for row in AS_PRINTED[number])


@pytest.mark.parametrize("number", range(3, 14))
def test_every_number_of_a_table_is_printed_once(number):
    grid = published.paper_grid(number)
    rows = published.of_table(number)
    start = 1 if published.PAPER[number].epochs else 0
    cells = [
        cell.text for _, line in grid.sections[0].rows for cell in line[start:] if cell.text != "–"
    ]
    texts = [
        f"{r.value:.1f}" + (f" ({r.printed.replace('-', '−')})" if r.printed else "")
        for r in rows.itertuples()
    ]
    assert sorted(cells) == sorted(texts)
    assert (
        sum(len(group.columns) for group in grid.groups) - start
        == rows.groupby("protocol")["metric"].nunique().sum()
    )


def test_slip_is_marked():
    lines = lines_of(10)
    assert (
        any("27.4 (+2.2) [a]" in line for line in lines)
        and "[a] printed so; the values give +3.2" in lines
    )


def test_unknown_tables_and_sources():
    with pytest.raises(InputError, match="3 to 13; there is no table 2"):
        published.paper_grid(2)
    with pytest.raises(InputError, match=r"'detco'; there are .*detco-arxiv-v1"):
        published.of_source("detco")


def test_csv_of_a_table():
    text = published.of_table(6).to_csv(index=False)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 33 and rows[-1]["value"] == "65.0" and rows[-1]["epochs"] == "800"


@pytest.mark.parametrize("number", range(3, 14))
def test_tables_fit_80_columns_with_every_number_in_them(number):
    wide, narrow = (render(published.paper_grid(number), width=width) for width in (500, 80))
    assert max(map(len, narrow.splitlines())) <= 80
    assert numbers_of(narrow) == numbers_of(wide)


def numbers_of(text):
    return sorted(re.findall(r"\d+\.\d+", text))
