"""Names from files in every format: no control character reaches a terminal, no
name is read as markup."""

import html
import re

import pytest

from detco.results.cells import Cell, Grid, Group, Section
from detco.results.render import render

ODD = "\x1b[2J\x1b]0;title\x07\r\b\x9b1m\u202e\n"
FORMS = ("terminal", "md", "latex", "html")


def grid_of(text: str) -> Grid:
    """With the text at every place that there is."""
    columns = [Group(text, text, (text,)), Group(text, "", (text,), "l")]
    section = Section(text, [(text, [Cell(text, "best", "a"), Cell(text)])])
    return Grid(columns, [section], [text], text, text)


@pytest.mark.parametrize("form", FORMS)
def test_no_control_character_reaches_a_page(form):
    made = render(grid_of(f"name{ODD}"), form)
    assert "name" in made and set(made) - {"\n"} == {sign for sign in made if sign.isprintable()}
    if form in ("md", "html"):  # the others break long lines
        assert made.count("\n") == render(grid_of("name"), form).count("\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a\\|b"),
        ("`rm`", "\\`rm\\`"),
        ("*x* __y__ ~~z~~", "\\*x\\* \\_\\_y\\_\\_ \\~\\~z\\~\\~"),
        ("<img src=x>", "\\<img src=x>"),
        ("&lt;", "\\&lt;"),
        ("[click](http://x)", "[click\\](http://x)"),
        ("\\|", "\\\\\\|"),
        ("detco_small +0.2 ± 0.9 ~ [a]", "detco_small +0.2 ± 0.9 ~ [a]"),
    ],
)
def test_markdown_shows_signs_as_themselves(text, expected):
    made = render(grid_of(text), "md")
    assert made.count(expected) == 12
    for line in made.splitlines()[2:5]:  # no cell more than there are columns
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 4


def test_html_is_still_escaped():
    text = "<script>alert(1)</script>"
    made = render(grid_of(text), "html")
    assert "<script" not in made and html.escape(text) in made
