"""The commands table and compare: formats, exit statuses, invalid records."""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest

from detco.benchmarks.cli import main as cli
from detco.results.paper import numbers
from detco.transfer.protocols import PROTOCOLS, protocol_hash
from tests.factories.records import headline, put, transfer_record

FORMS = ("terminal", "md", "csv", "latex", "html")


def detco(capsys, *words):
    """Status, standard output, standard error."""
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as end:
        status = end.code
    streams = capsys.readouterr()
    return status, streams.out, streams.err


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for start, values in (
        ("random", (10.0, 12.0, 11.5)),
        ("supervised", (29.0, 30.5)),
        ("detco-small", (31.25, 33.5, 30.0)),
    ):
        for seed, value in enumerate(values):
            put(folder / f"{start}-{seed}", transfer_record(start, "c4", seed, value))
    return folder


@pytest.fixture
def as_published(tmp_path):
    """The headline's cells in three seeds each, of the engine and protocols of the paper."""
    for number, record in enumerate(headline(1.6, 1.2, 1.0)):
        record["protocol_hash"] = protocol_hash(PROTOCOLS[record["protocol"]])
        put(tmp_path / "paper" / str(number), record)
    return tmp_path / "paper"


@pytest.mark.parametrize("form", FORMS)
def test_every_table_of_the_paper_in_every_format(capsys, form):
    for number in numbers.PAPER:
        status, out, err = detco(capsys, "table", "--paper", number, "--format", form)
        assert (status, err) == (0, "") and len(out.splitlines()) > 6
        if form == "csv":
            assert len(list(csv.DictReader(io.StringIO(out)))) == len(numbers.of_table(number))
    status, out, _ = detco(capsys, "table", "--paper", 4, "--json")
    assert status == 0 and len(json.loads(out)) == len(numbers.of_table(4))


@pytest.mark.parametrize("form", FORMS)
def test_measured_beside_published(capsys, as_published, form):
    status, out, err = detco(
        capsys, "table", as_published, "--against", "detco-arxiv-v1", "--format", form
    )
    assert (status, err) == (0, "") and out.count("reproduced") >= 6
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert {row["verdict"] for row in rows} == {"reproduced"} and len(rows) == 6
    else:
        assert (
            "holds: DetCo+AA beats supervised by 1.6 / 1.2 / 1.0 box AP on C4 / FPN / RetinaNet"
            in out
        )


@pytest.mark.parametrize("words", [["table"], ["compare", "detco-small", "random"]])
def test_json_holds_the_numbers_of_the_csv(capsys, runs, words):
    _, text, _ = detco(capsys, *words, runs, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    status, out, err = detco(capsys, *words, runs, "--json")
    assert (status, err) == (0, "")
    cells = json.loads(out)
    assert [{k: "" if v is None else str(v) for k, v in cell.items()} for cell in cells] == rows


def test_paired_and_baseline(capsys, runs):
    status, out, _ = detco(capsys, "table", runs, "--baseline", "detco-small", "--paired")
    assert status == 0 and "paired by seed" in out and out.count("difference to") == 1
    assert re.search(r"^random +−20\.4 ± 4\.1", out, re.M), out
    status, out, _ = detco(capsys, "table", runs, "--baseline", "none")
    assert status == 0 and "difference to" not in out
    assert detco(capsys, "report", runs, "--baseline", "none")[0] == 0
    assert "difference to" not in (runs / "report.html").read_text()


def test_protocols_that_were_asked_for(capsys, runs):
    put(runs / "other", transfer_record("random", "retinanet", 0, 5.0))
    for words, found in (([], ["c4", "retinanet"]), (["--protocols", "retinanet"], ["retinanet"])):
        _, out, _ = detco(capsys, "table", runs, "--format", "csv", *words)
        assert sorted({row["protocol"] for row in csv.DictReader(io.StringIO(out))}) == found


def test_columns_transposed_with_a_caption(capsys, runs):
    words = ["--columns", "c4:box_ap50", "--transpose", "--caption", "AP of mine"]
    status, out, err = detco(capsys, "table", runs, *words, "--baseline", "none")
    assert (status, err) == (0, "") and out.startswith("AP of mine\n")
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert ["random", "supervised", "detco-small"] in lines
    assert ["box AP50", "31.2 ± 1.0 (3)", "49.8 ± 1.1 (2)", "51.6 ± 1.8 (3)"] in lines
    _, out, _ = detco(capsys, "table", runs, "--columns", "box_ap50", "--format", "csv")
    assert {row["metric"] for row in csv.DictReader(io.StringIO(out))} == {"box_ap50"}


@pytest.mark.parametrize(
    "words, text",
    [
        (["table"], "name a folder of runs, or a table of the paper with --paper N"),
        (["table", "RUNS", "--paper", "4"], "not both"),
        (["table", "--paper", "14"], "3 to 13"),
        (["table", "--paper", "four"], "invalid int value"),
        (["table", "RUNS", "--against", "detco"], "no published numbers 'detco'"),
        (["table", "RUNS", "--baseline", "detco-smal"], "did you mean 'detco-small'"),
        (["table", "RUNS", "--metrics", "mask_ap"], "no result has the metric 'mask_ap'"),
        (["table", "RUNS", "--columns", "c4:box_app"], "did you mean 'box_ap'"),
        (["table", "--paper", "4", "--columns", "box_ap"], "--columns is for the table of a"),
        (["table", "--paper", "4", "--protocols", "c4"], "--protocols is for the table of a"),
        (["table", "RUNS", "--protocols", "c5"], "unknown protocol of these runs 'c5'; known: c4"),
        (["table", "RUNS", "--transpose", "--json"], "--transpose: json has a line for each"),
        (["table", "RUNS", "--caption", "x", "--format", "csv"], "--caption: csv has a line"),
        (["table", "RUNS", "--label", "tab:x"], "--label is for LaTeX"),
        (["table", "RUNS", "--format", "latex", "--label", "a}b"], "only letters, digits"),
        (["compare", "random", "RUNS"], "at least two"),
        (["compare", "random", "detcosmall", "RUNS"], "did you mean 'detco-small'"),
        (["compare", "random", "supervised", "/nowhere"], "no folder /nowhere"),
        (["report", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_refusals(capsys, runs, words, text):
    status, out, err = detco(capsys, *(runs if word == "RUNS" else word for word in words))
    assert status == 2 and out == "" and text in err and err.count("\n") == 1


@pytest.mark.parametrize("form", FORMS)
def test_compare(capsys, runs, form):
    status, out, err = detco(
        capsys, "compare", "detco-small", "supervised", "random", runs, "--format", form
    )
    assert (status, err) == (0, "")
    if form == "csv":
        rows = {
            (row["starting point"], row["metric"]): row for row in csv.DictReader(io.StringIO(out))
        }
        assert list(dict.fromkeys(start for start, _ in rows)) == [
            "detco-small",
            "supervised",
            "random",
        ]
        assert float(rows["detco-small", "box_ap/dog"]["minus random"]) == pytest.approx(
            31.5833 - 11.1667, abs=1e-3
        )
    else:
        assert "detco-small over random" in out and "mean rank" in out and "dog" in out


# --- records that are not to be trusted ----------------------------------------------------------

ROW = {"name": "c4", "version": 1, "schedule": {"iterations": 250}}


def sound(**changes):
    record = transfer_record("detco-small", "c4", 5, 70.0)
    return record | {"id": "trap"} | changes


def with_row(row, claimed):
    record = sound(protocol_hash=claimed)
    record["spec"] = record["spec"] | {"protocol_row": row}
    return record


def silently_changed():
    """Settings of its own under the name of a row of the table, with a hash that fits them."""
    import hashlib

    row = ROW | {"name": "small-retinanet"}
    fits = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]
    return with_row(row, fits) | {"protocol": "small-retinanet"}


def in_spec(**changes):
    record = sound()
    return record | {"spec": record["spec"] | changes}


TRAPS = {
    "truncated": (json.dumps(sound())[:300], "not a whole JSON object"),
    "nested": ("[" * 100000, "not a whole JSON object"),
    "newer": (sound(format=7), "record format 7, this program reads 1: update it"),
    "boolean format": (sound(format=True), "record format True"),
    "NaN": (sound(metrics={"box_ap": float("nan")}), "box_ap is nan"),
    "infinite": (sound(metrics={"box_ap": float("inf")}), "box_ap is inf"),
    "above": (sound(metrics={"box_ap": 100.1}), "outside 0..100"),
    "negative": (sound(metrics={"box_ap": -3}), "outside 0..100"),
    "huge": (
        json.dumps(sound(metrics={"box_ap": 1.5})).replace("1.5", "1" + "0" * 400),
        "metrics.box_ap is 1000",
    ),
    "text": (sound(metrics={"box_ap": "90"}), "box_ap is '90'"),
    "no metrics": (sound(metrics={}), "is done, but has no metrics"),
    "list of metrics": (sound(metrics=[90.0]), "metrics is [90.0], not a dict"),
    "state": (sound(status="fine"), "neither done nor failed"),
    "seed": (sound(seed=True), "seed is True"),
    "deviations": (sound(deviations=[["x"]]), "deviations[0] is ['x']"),
    "weights": (sound(weights="b.safetensors"), "weights is 'b.safetensors', not a dict"),
    "hash of its row": (with_row(ROW, "0123456789abcdef"), "claims protocol hash 0123456789abcdef"),
    "other row": (with_row(ROW | {"name": "fpn"}, "x"), "claims protocol c4 v1, but fpn v1 ran"),
    "silent": (
        silently_changed(),
        "ran with other settings than small-retinanet v1, and says so nowhere",
    ),
    "hash of weights": (sound(weights={"sha256": ["x"]}), "weights.sha256 is ['x'], not a str"),
    "identity of data": (in_spec(data={"identity": [1]}), "spec.data.identity is [1], not a str"),
    "folder of data": (in_spec(data={"root": 3}), "spec.data.root is 3, not a str"),
    "order": (in_spec(order=[1]), "spec.order[1] is missing"),
    "order of words": (in_spec(order=["a", "b"]), "spec.order[0] is"),
    "hash of the table": (
        sound(protocol="small-retinanet", protocol_hash="0123456789abcdef"),
        "that of small-retinanet v1 is",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_are_named_left_out_and_refused_with_strict(capsys, runs, trap):
    before = detco(capsys, "table", runs)
    content, reason = TRAPS[trap]
    put(runs / "trap", content)
    status, out, err = detco(capsys, "table", runs)
    assert (status, out) == (before[0], before[1]) == (0, before[1])
    assert (
        err.startswith(f"left out: {runs / 'trap' / 'record.json'}: ")
        and reason in err
        and err.count("\n") == 1
    )
    assert detco(capsys, "table", runs, "--strict")[:2] == (1, before[1])
    assert detco(capsys, "compare", "random", "detco-small", runs, "--strict")[0] == 1


def test_parts_may_be_unknown_and_plans_broken(capsys, runs):
    """A record that says nothing about its data stands in the table; a plan without its fields is
    no planned cell."""
    put(
        runs / "unsaid",
        in_spec(data=None, order=None) | {"protocol": "other", "metrics": {"box_ap": 71.0}},
    )
    (runs / "plan").mkdir()
    (runs / "plan" / "spec.json").write_text(json.dumps({"kind": "transfer", "id": "x"}))
    status, out, err = detco(capsys, "table", runs, "--strict")
    assert (status, err) == (0, "") and "71.0 (1)" in out and "None" not in out


def test_strict_without_traps_and_traps_alone(capsys, runs, tmp_path):
    assert detco(capsys, "table", runs, "--strict")[0] == 0
    put(tmp_path / "bad" / "one", TRAPS["NaN"][0])
    status, out, err = detco(capsys, "table", tmp_path / "bad")
    assert (status, out) == (2, "") and "no result can be used" in err and "box_ap is nan" in err


def test_a_departure_that_is_said_may_have_another_hash(capsys, runs):
    """A protocol with `--set` has its own hash: it fits its own settings and stands in a group of
    its own."""
    import hashlib

    row = ROW | {"schedule": {"iterations": 50}}
    fits = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]
    put(
        runs / "set",
        with_row(row, fits) | {"deviations": ["schedule.iterations 50 (protocol: 250)"]},
    )
    status, out, err = detco(capsys, "table", runs, "--strict")
    assert (
        (status, err) == (0, "")
        and "70.0 (1)" in out
        and "schedule.iterations 50 (protocol: 250)" in out
    )


# --- LaTeX ---------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(capsys, runs, as_published, tmp_path):
    """Tables of the paper, of runs with hostile footnotes, verdicts and comparisons in one
    document; none is wider than its page."""
    put(
        runs / "hostile",
        transfer_record(
            "random", "c4", 7, 11.0, deviations=[r"50 % of_it & \more {#1} ~ ^ $x$ < > | ≤"]
        ),
    )
    calls = [["table", "--paper", number] for number in numbers.PAPER]
    calls += [
        ["table", runs],
        ["table", runs, "--transpose", "--caption", r"50 % of_it \more", "--label", "tab:mine"],
        ["table", as_published, "--against", numbers.DETCO],
        ["table", as_published, "--against", numbers.DETCO, "--transpose"],
        ["compare", "random", "detco-small", runs],
    ]
    parts = [detco(capsys, *words, "--format", "latex")[1] for words in calls]
    page = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}See table~\ref{tab:mine}."
        + "\n\n\\newpage ".join(parts)
        + r"\end{document}"
    )
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").exists() and "Missing character" not in done.stdout
    assert "Overfull" not in done.stdout
    assert r"\newlabel{tab:mine}" in (tmp_path / "page.aux").read_text()
