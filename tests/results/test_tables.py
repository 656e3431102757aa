"""The AP table: means and spreads against NumPy, nothing mixed that must not be, gaps and doubts
visible, every format."""

import csv
import io
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.stats

from detco.common.errors import InputError
from detco.results import grids, store, tables
from detco.results.render import render
from tests.factories.records import failed_record, planned_spec, transfer_record

VALUES = {  # (starting point, protocol) -> box AP of each seed
    ("detco-small", "c4"): [31.25, 33.5, 30.0],
    ("detco-small", "retinanet"): [21.04],
    ("supervised", "c4"): [29.0, 30.5],
    ("supervised", "retinanet"): [20.5, 22.25, 21.0],
    ("random", "c4"): [10.0, 12.0, 11.5],
}


@pytest.fixture
def records():
    return [
        transfer_record(*cell, seed, value)
        for cell, values in VALUES.items()
        for seed, value in enumerate(values)
    ]


def table_of(records, **more):
    return tables.ap_table(tables.frame(records), **more)


def text_of(table, form="terminal", **more):
    return render(grids.grid(table), form, **more)


def group(table, protocol):
    found = [name for name in table.columns.unique("group") if name.startswith(protocol)]
    assert len(found) == 1, found
    return found[0]


def cells(text, row):
    """The cells of a terminal table's line, by two spaces or more."""
    line = next(line for line in text.splitlines() if line.startswith(row))
    return re.split(r"\s{2,}", line.strip())[1:]


def test_frame_is_tidy(records):
    frame = tables.frame(records)
    assert len(frame) == 3 * len(records)
    picked = frame[(frame["id"] == records[1]["id"]) & (frame["metric"] == "box_ap50")]
    assert picked[["starting_point", "protocol", "seed", "engine"]].values.tolist() == [
        ["detco-small", "c4", 1, "torchvision"]
    ]
    assert picked["value"].tolist() == [53.5]
    assert set(frame["weights"]) == {
        "random",
        *(r["weights"]["sha256"] for r in records if r["weights"]["sha256"]),
    }


def test_mean_std_n_and_differences_against_numpy(records):
    table = table_of(records)
    for (start, protocol), values in VALUES.items():
        for metric, shift in (("box_ap", 0), ("box_ap50", 20)):
            column = table.loc[start, group(table, protocol)][metric]
            assert column["mean"] == pytest.approx(np.mean(values) + shift, abs=1e-12)
            assert column["n"] == len(values)
            if len(values) > 1:
                assert column["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
            else:
                assert np.isnan(column["std"])
            for other in ("supervised", "random"):
                theirs = VALUES.get((other, protocol))
                if theirs is None or start == other:  # nothing is compared with itself
                    assert np.isnan(column[f"minus {other}"]) and column[f"n {other}"] == 0
                else:
                    assert column[f"minus {other}"] == pytest.approx(
                        np.mean(values) - np.mean(theirs), abs=1e-12
                    )
                    assert column[f"n {other}"] == min(len(values), len(theirs))


@pytest.mark.parametrize("pairing", ["welch", "paired"])
def test_intervals_against_scipy(pairing):
    """Random values, unequal numbers of seeds; seeds of one row missing in the other."""
    draw = np.random.default_rng(5)
    seeds = {
        "random": [0, 1, 2, 3, 7],
        "supervised": [0, 1, 2, 3, 4, 5],
        "detco-small": [1, 2, 3, 9],
        "moco": [4],
    }
    values = {
        start: {seed: draw.normal(30, 2) for seed in of_start} for start, of_start in seeds.items()
    }
    records = [
        transfer_record(start, "c4", seed, value)
        for start, found in values.items()
        for seed, value in found.items()
    ]
    table = table_of(records, pairing=pairing)
    base = values["supervised"]
    for start in ("random", "detco-small", "moco"):
        row = table.loc[start, (group(table, "c4"), "box_ap")]
        common = sorted(values[start].keys() & base.keys())
        if start == "moco":
            assert np.isnan(row["ci supervised"]) and row["n supervised"] == 1
            continue
        if pairing == "welch":
            expected = np.mean(list(values[start].values())) - np.mean(list(base.values()))
            test = scipy.stats.ttest_ind(
                list(values[start].values()), list(base.values()), equal_var=False
            )
        else:
            expected = np.mean([values[start][seed] - base[seed] for seed in common])
            test = scipy.stats.ttest_rel(
                [values[start][seed] for seed in common], [base[seed] for seed in common]
            )
            assert row["n supervised"] == len(common)
        assert row["minus supervised"] == pytest.approx(expected, abs=1e-12)
        low, high = test.confidence_interval(0.95)
        assert row["ci supervised"] == pytest.approx((high - low) / 2, abs=1e-9)
        assert (row["minus supervised"] - row["ci supervised"]) == pytest.approx(low, abs=1e-9)
        assert (abs(row["minus supervised"]) > row["ci supervised"]) == (test.pvalue < 0.05)


def test_runs_without_any_spread_have_an_interval_of_zero():
    records = [
        transfer_record(start, "c4", seed, value)
        for start, value in (("random", 20.0), ("supervised", 21.0))
        for seed in (0, 1)
    ]
    row = table_of(records, baselines=("random",)).loc["supervised"].droplevel(0)["box_ap"]
    assert (row["minus random"], row["ci random"]) == (1.0, 0.0)


def test_a_seed_counts_once(records):
    """The same cell and seed run twice is not a second trial: n and the spread stay, and the
    footnote says so."""
    table = table_of([*records, transfer_record("detco-small", "c4", 1, 99.0, wall_seconds=7)])
    column = table.loc["detco-small", group(table, "c4")]["box_ap"]
    assert column["n"] == 3 and column["mean"] == pytest.approx(
        np.mean(VALUES["detco-small", "c4"])
    )
    assert "without 1 run of a seed that counts already" in text_of(table)


def test_rows_random_supervised_then_suite_and_columns_in_suite_order(records):
    table = table_of(records[::-1])
    assert list(table.index) == ["random", "supervised", "detco-small"]
    assert list(table.columns.unique("group")) == [
        "c4 v1: pets, torchvision, VOC07 AP",
        "retinanet v1: pets, torchvision, COCO AP",
    ]
    assert list(table.columns.unique("metric")) == ["box_ap", "box_ap50"]


def test_terminal_text(records):
    text = text_of(table_of(records))
    assert cells(text, "detco-small") == [
        "31.6 ± 1.8 (3)",
        "51.6 ± 1.8 (3)",
        "21.0 (1)",
        "41.0 (1)",
    ]
    assert cells(text, "random") == ["11.2 ± 1.0 (3)", "31.2 ± 1.0 (3)", "–", "–"]
    assert "single run" in text and max(map(len, text.splitlines())) <= 120
    _, *sections = text.split("difference to ")
    assert [section.splitlines()[0].strip() for section in sections] == ["supervised", "random"]
    assert cells(sections[0], "detco-small") == [
        "+1.8 ± 4.0 ~",
        "+1.8 ± 4.0 ~",
        "−0.2 (1)",
        "−0.2 (1)",
    ]
    assert cells(sections[1], "supervised") == ["+18.6 ± 3.7", "+18.6 ± 3.7", "–", "–"]
    assert "95 % confidence interval (Welch's t)" in text and "only 2 seeds" in text
    bold = text_of(table_of(records), colour=True)
    assert re.findall(r"\x1b\[1m(.*?)\x1b\[0m", bold) == [
        "21.2 ± 0.9 (3)",
        "41.2 ± 0.9 (3)",
        "31.6 ± 1.8 (3)",
        "51.6 ± 1.8 (3)",
    ]


def test_a_narrow_terminal_gets_blocks(records):
    text = text_of(table_of(records), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert (
        text.count("detco-small  31.6 ± 1.8 (3)") == 1
        and len(re.findall(r"^detco-small +21.0 \(1\)", text, re.M)) == 1
    )


@pytest.mark.parametrize(
    "key, other",
    [
        ("engine", "detectron2"),
        ("protocol_version", 2),
        ("protocol_hash", "other"),
        ("scaling", "1/2"),
        ("scorer", "coco"),
        ("data", {"layout": "voc", "train": {"fingerprint": "f1"}, "test": {"fingerprint": "f9"}}),
    ],
)
def test_nothing_is_averaged_across(records, key, other):
    table = table_of([*records, transfer_record("detco-small", "c4", 7, 90.0, **{key: other})])
    c4 = [name for name in table.columns.unique("group") if name.startswith("c4")]
    means = [table.loc["detco-small", (name, "box_ap", "mean")] for name in c4]
    assert len(set(c4)) == 2 and sorted(means) == pytest.approx(
        [np.mean(VALUES["detco-small", "c4"]), 90.0]
    )
    assert text_of(table).count("90.0 (1)") == 1


def test_two_weights_of_one_name_are_two_rows(records):
    table = table_of(
        [
            *records,
            transfer_record("detco-small", "c4", 7, 90.0, weights={"sha256": "abcdef" + 58 * "0"}),
        ]
    )
    named = [name for name in table.index if name.startswith("detco-small")]
    assert len(named) == 2 and "detco-small (abcdef)" in named
    assert table.loc["detco-small (abcdef)", (group(table, "c4"), "box_ap", "n")] == 1


def test_failed_and_missing_cells_are_visible(records):
    more = [
        failed_record("random", "retinanet", 0),
        failed_record("supervised", "c4", 2),
        planned_spec("moco", "c4", 0),
    ]
    table = table_of([*records, *more])
    text = text_of(table)
    assert cells(text, "random")[2:] == ["failed", "failed"]
    assert cells(text, "moco") == ["–", "–", "–", "–"]
    letter = re.search(r"\[(.)\] without 1 run that failed", text)[1]
    assert cells(text, "supervised")[0] == f"29.8 ± 1.1 (2) [{letter}]"
    assert table.loc["random", (group(table, "retinanet"), "box_ap", "failed")] == 1
    assert table.loc["moco", (group(table, "c4"), "box_ap", "planned")] == 1


def test_planned_and_failed_runs_join_the_group_of_the_finished_ones(records):
    table = table_of(
        [*records, planned_spec("detco-small", "c4", 5), failed_record("detco-small", "c4", 6)]
    )
    column = table.loc["detco-small", group(table, "c4")]["box_ap"]
    assert (column["n"], column["planned"], column["failed"]) == (3, 1, 1) and len(table) == 3


def test_deviations_become_footnotes_at_group_or_cell(records):
    for record in records:
        if record["protocol"] == "c4":
            record["deviations"] = ["smaller batch"] + (
                ["other norm"] if record["starting_point"] == "random" else []
            )
    text = text_of(table_of(records))
    assert "c4 v1 [a]" in text and "[a] smaller batch" in text and "[b] other norm" in text
    assert (
        cells(text, "random")[0] == "11.2 ± 1.0 (3) [b]" and "[" not in cells(text, "supervised")[0]
    )


def test_baseline_and_metrics_can_be_chosen(records):
    table = table_of(records, baselines=("detco-small",), metrics=("box_ap/dog",))
    assert list(table.columns.unique("metric")) == ["box_ap/dog"]
    text = text_of(table)
    assert (
        "box AP dog" in text
        and text.count("difference to") == 1
        and "difference to detco-small" in text
    )
    with pytest.raises(InputError, match="'mask_ap'; there are box_ap"):
        table_of(records, metrics=("mask_ap",))


def test_intervals_are_explained_only_where_there_are_some(records):
    alone = [record for record in records if record["starting_point"] == "random"]
    assert not any(
        "differen" in note for note in grids.grid(tables.ap_table(tables.frame(alone))).notes
    )
    others = [
        record | {"seed": 0}
        for record in records
        if record["starting_point"] != "random" and record["seed"] == 0
    ]
    notes = grids.grid(tables.ap_table(tables.frame(alone + others), ("random",))).notes
    assert any("single runs have no interval" in note for note in notes) and not any(
        "Welch" in note for note in notes
    )


def test_nothing_yet():
    with pytest.raises(InputError, match="no fine-tuning results yet"):
        table_of([{"kind": "pretrain", "status": "done"}])
    assert "–" in text_of(table_of([planned_spec("random", "c4", 0)]))


def test_csv_has_full_precision(records):
    text = grids.rows_as(grids.long_form(table_of(records)), "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    found = {(r["starting point"], r["protocol"], r["metric"]): r for r in rows}
    for (start, protocol), values in VALUES.items():
        row = found[start, protocol, "box_ap"]
        assert float(row["mean"]) == pytest.approx(np.mean(values), abs=1e-12) and int(
            row["n"]
        ) == len(values)
        assert row["seeds"] == " ".join(map(str, range(len(values))))
        scorer = "voc2007" if protocol == "c4" else "coco"
        assert (row["version"], row["engine"], row["scorer"]) == ("1", "torchvision", scorer)
    random = [row for row in rows if row["starting point"] == "random"]
    assert random and {row["minus random"] + row["n random"] for row in random} == {""}
    same = json.loads(grids.rows_as(grids.long_form(table_of(records)), "json"))
    assert [row["starting point"] for row in same] == [row["starting point"] for row in rows]
    assert [row["std"] is None for row in same] == [row["std"] == "" for row in rows]


def test_markdown_is_a_table(records):
    lines = [line for line in text_of(table_of(records), "md").splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {6}
    assert set(lines[1]) <= set("|-: ")
    assert (
        "| detco-small | **31.6 ± 1.8 (3)** | **51.6 ± 1.8 (3)** | 21.0 (1) | 41.0 (1) |" in lines
    )


def test_latex_rows_and_escapes(records):
    for record in records:
        record["deviations"] = ["50 % of_it & more"]
    text = text_of(table_of(records), "latex")
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines() if " & " in line} == {4}
    assert r"\textbf{31.6 $\pm$ 1.8 (3)}" in body and r"50 \% of\_it \& more" in text
    assert text.count(r"\multicolumn{2}{c}") == 4 and text.isascii()


def test_html_is_balanced_and_escaped(records):
    class Cells(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.rows = [], []

        def handle_starttag(self, tag, attributes):
            if tag != "br":
                self.open.append(tag)
            if tag == "tr":
                self.rows.append([])

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            if self.open and self.open[-1] in ("td", "th", "b"):
                self.rows[-1].append(data)

    records[0]["deviations"] = ["<script>"]
    text = text_of(table_of(records), "html")
    parser = Cells()
    parser.feed(text)
    assert parser.open == [] and "<script>" not in text
    assert ["random", "11.2 ± 1.0 (3)", "31.2 ± 1.0 (3)", "–", "–"] in parser.rows


def test_many_records_load_and_pivot(tmp_path):
    """5 protocols x 40 starting points x 3 seeds from files."""
    for number, (protocol, start, seed) in enumerate(
        itertools.product(range(5), range(40), range(3))
    ):
        record = transfer_record("random", "c4", seed, 20 + number % 7)
        record |= {"id": f"{number}", "starting_point": f"s{start}", "protocol": f"p{protocol}"}
        folder = tmp_path / record["protocol"] / f"{start}-{seed}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(record))
    records, problems = store.read(tmp_path)
    table = table_of(records)
    assert len(records) == 600 and problems == [] and table.shape[0] == 40
    assert (table.xs("n", level="statistic", axis=1) == 3).all(axis=None)


def detectron2(value, seed, own=None, **changes):
    facts = {"detectron2": {"which": own[0], "hash": own[1]}} if own else {}
    return transfer_record("random", "c4", seed, value, engine="detectron2", facts=facts, **changes)


OLD, NEW = ("release of 2021", "a8676b80f7de"), ("main, 2025-11 or later", "acd65d6c626b")


def test_runs_of_different_detectron2_are_never_averaged():
    """Seeds of each are a group with its own mean; a footnote says which made it, also where an
    older record is silent."""
    found = [
        detectron2(10.0, 0, OLD),
        detectron2(12.0, 1, OLD),
        detectron2(20.0, 2, NEW),
        detectron2(30.0, 3),
    ]
    table = table_of(found)
    names = table.columns.unique("group")
    means = {
        name.rpartition(", ")[2]: tables.cell(table, name, "box_ap")["mean"].tolist()
        for name in names
    }
    assert means == {
        "Detectron2 a8676b": [11.0],
        "Detectron2 acd65d": [20.0],
        "Detectron2 unknown": [30.0],
    }
    text = text_of(table)
    for note in (
        "release of 2021 (files a8676b)",
        "main, 2025-11 or later (files acd65d)",
        "unknown (an older record)",
    ):
        assert text.count(f"] Detectron2: {note}") == 1


def test_one_detectron2_needs_no_word():
    planned_too = planned_spec("random", "c4", 7) | {"engine": "detectron2"}
    table = table_of([detectron2(10.0, 0, OLD), detectron2(12.0, 1, OLD), planned_too])
    (name,) = table.columns.unique("group")
    cell = tables.cell(table, name, "box_ap")
    assert (cell["mean"].item(), cell["n"].item(), cell["planned"].item()) == (11.0, 2, 1)
    assert "Detectron2:" not in text_of(table) and "Detectron2 " not in name


def test_a_record_whose_detectron2_is_no_text_is_named():
    damaged = detectron2(10.0, 0, OLD)
    damaged["facts"]["detectron2"]["hash"] = 7
    assert store.problem_of(damaged) == "facts.detectron2.hash is 7, not a str"
