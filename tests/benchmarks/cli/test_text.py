"""Lists and facts on terminals of any width."""

import pytest
import torch

from detco.benchmarks.cli import main as cli
from detco.benchmarks.cli import text
from detco.transfer.checkpoints import layouts, zoo
from tests import checkpoints


def lines(capsys, *words) -> list[str]:
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [80, 100, 250])
def test_lists_of_checkpoints_fit(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = lines(capsys, "weights", "list")
    assert max(map(len, shown)) <= width and ("licence" in shown[0]) == (width == 250)
    assert [line.split()[0] for line in shown[1 : len(zoo.KNOWN) + 1]] == [
        row.name for row in zoo.KNOWN
    ]
    shown = lines(capsys, "weights", "list", "--layouts")
    assert max(map(len, shown)) <= width
    names = [line.split()[0] for line in shown[1:] if not line.startswith(" ")]
    assert names == [layout.name for layout in layouts.LAYOUTS]
    words = " ".join(" ".join(shown).split())  # wrapped texts are whole
    assert "byol_pytorch.py (BYOL.state_dict, also within a Lightning learner)" in words


def test_without_a_terminal_nothing_is_wrapped_or_left_out(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(text, "terminal_width", lambda: 0)
    assert len(lines(capsys, "weights", "list")) == len(zoo.KNOWN) + 1
    assert len(lines(capsys, "weights", "list", "--layouts")) == len(layouts.LAYOUTS) + 1


def test_doubts_of_an_import_are_a_line_each(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    torch.save(checkpoints.names(), tmp_path / "a.pth")
    monkeypatch.chdir(tmp_path)
    shown = lines(capsys, "weights", "import", "a.pth", "--out", "b.safetensors")
    notes = shown[shown.index("notes:") + 1 :]
    assert max(map(len, shown)) <= 80 and sum(line.startswith("  - ") for line in notes) == 3


def test_columns(monkeypatch, capsys):
    rows = [("name", "more", "text"), ("a", "1", "one two three four five six seven eight nine")]
    monkeypatch.setattr(text, "terminal_width", lambda: 36)
    assert text.columns(rows, less=("more",)) == ["more"]
    out = capsys.readouterr().out
    assert out == ("name  text\na     one two three four five six\n      seven eight nine\n")
    monkeypatch.setattr(text, "terminal_width", lambda: 80)
    assert text.columns(rows, right=(1,), less=("more",)) == []
    assert capsys.readouterr().out.splitlines()[1].startswith("a        1  one two")
    text.columns([("a", "n"), ("b", "10")], right=(1,))
    assert capsys.readouterr().out == "a   n\nb  10\n"


def test_what_is_right_aligned_stays_so_where_a_column_before_it_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(text, "terminal_width", lambda: 12)
    rows = [("n", "much more", "x", "t"), ("a", "1", "10", "b"), ("c", "2", "5", "d")]
    assert text.columns(rows, right=(2,), less=("much more",)) == ["much more"]
    assert capsys.readouterr().out == "n   x  t\na  10  b\nc   5  d\n"
