"""The ratchet of mypy errors: which folder an error counts for, and when it fails."""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "typecheck.py"
_spec = importlib.util.spec_from_file_location("typecheck", SCRIPT)
typecheck = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(typecheck)
ALLOWED = {"results": 0, "transfer": 3, "transfer/data": 0}
LINES = [
    "transfer/finetune.py:3: error: Incompatible types  [arg-type]",
    "transfer/finetune.py:3: note: Did you mean ...",
    "transfer/data/voc.py:7: error: Need type annotation  [var-annotated]",
    "transfer/database.py:1: error: not in the folder transfer/data  [misc]",
    "results/store.py:2: error: one  [index]",
    "results/store.py:9: error: two  [index]",
    "extra/a.py:1: error: a folder without a number  [misc]",
]


def test_an_error_counts_for_the_longest_folder_that_holds_it():
    expected = {"transfer": 2, "transfer/data": 1, "results": 2, "extra": 1}
    assert typecheck.count_errors(LINES, ALLOWED) == expected


def test_more_errors_than_allowed_are_told_from_fewer():
    counts = Counter({"transfer": 2, "transfer/data": 1, "extra": 1})
    assert typecheck.compare(counts, ALLOWED) == (["extra", "transfer/data"], ["transfer"])
    assert typecheck.compare(Counter({"transfer": 3}), ALLOWED) == ([], [])


@pytest.mark.parametrize(("errors", "status"), [(0, 0), (2, 0), (3, 0), (4, 1)])
def test_status_and_words(monkeypatch, capsys, tmp_path, errors, status):
    (tmp_path / "face").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[tool.setuptools.package-dir]\ndetco = "face"\n"detco.transfer" = "transfer"\n'
        "[tool.detco.mypy]\ntransfer = 3\n"
    )
    monkeypatch.setattr(typecheck, "ROOT", tmp_path)
    lines = [f"transfer/a.py:{number}: error: bad  [misc]" for number in range(errors)]
    monkeypatch.setattr(typecheck, "run_mypy", lambda tree: (int(bool(lines)), lines))
    assert typecheck.main() == status
    said = capsys.readouterr().out
    assert said.count("error: bad") == (4 if status else 0)
    assert ("lower" in said) == (errors < 3)


def test_a_mypy_that_cannot_check_fails(monkeypatch, capsys):
    monkeypatch.setattr(typecheck, "lay_links", lambda *args: None)
    monkeypatch.setattr(typecheck, "run_mypy", lambda tree: (2, ["mypy: can't read file"]))
    assert typecheck.main() == 2
    assert "can't read file" in capsys.readouterr().err


def test_links_are_laid_anew(monkeypatch, tmp_path):
    for name in ("face", "rooms/results"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "face" / "__init__.py").write_text("x = 1")
    (tmp_path / "rooms" / "results" / "store.py").write_text("y = 2")
    monkeypatch.setattr(typecheck, "ROOT", tmp_path)
    tree = tmp_path / "tree" / "detco"
    typecheck.lay_links(tree, {"detco": "face", "detco.gone": "rooms/results"})
    typecheck.lay_links(tree, {"detco": "face", "detco.results": "rooms/results"})
    assert sorted(path.name for path in tree.iterdir()) == ["__init__.py", "results"]
    assert (tree / "results" / "store.py").read_text() == "y = 2"
    assert (tmp_path / "rooms" / "results" / "store.py").is_file()
