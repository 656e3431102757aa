"""Letters of footnotes: one for each note, in order of first use."""

from detco.results.footnotes import Footnotes


def test_a_note_keeps_its_letter_and_a_place_its_mark():
    notes = Footnotes()
    assert notes.add("group", ["slow", "odd"]) == "a,b"
    assert notes.add(("row", "group"), ["odd", "failed"]) == "b,c"
    assert notes.add("bare", []) == "" == notes.at("nowhere")
    assert (notes.at("group"), notes.at(("row", "group"))) == ("a,b", "b,c")
    assert notes.lines() == ["[a] slow", "[b] odd", "[c] failed"]


def test_after_z_comes_aa():
    notes = Footnotes()
    marks = [notes.add(n, [f"note {n}"]) for n in range(26 + 26 * 26 + 1)]
    assert marks[:2] + marks[25:28] == ["a", "b", "z", "aa", "ab"]
    assert marks[26 * 27 - 1 :] == ["zz", "aaa"]
    assert len(set(marks)) == len(marks)
