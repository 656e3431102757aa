"""The documentation site, `make docs`. Pages are Markdown; a line `<!-- generated: NAME -->`
becomes what the function of that name in generated.py gives."""

import sys
from pathlib import Path

from pygments.lexer import RegexLexer
from pygments.token import Comment, String, Text

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generated  # noqa: E402

import detco  # noqa: E402

# Packages of the same names were imported over these functions; autodoc shows the functions.
vars(detco).update({"pretrain": detco._FUNCTIONS["detco.pretrain"]})
vars(detco).update({"results": detco._FUNCTIONS["detco.results"]})

project = "detco"
author = "The detco maintainers"
copyright = f"2026, {author}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
root_doc = "index"
nitpicky = True  # an unknown reference is a warning, and `make docs` fails on warnings
default_role = "code"
smartquotes = False  # `--` is two hyphens
maximum_signature_line_length = 60
nitpick_ignore_regex = [("py:.*", ".*")]  # libraries' types: their pages are not asked for

html_theme = "furo"
html_title = "detco"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_show_sphinx = False


class Shell(RegexLexer):
    """Commands, of which only comments and quoted words are coloured."""

    tokens = {"root": [(r"#.*$", Comment), (r"'[^']*'", String), (r".|\n", Text)]}  # noqa: RUF012


def setup(app) -> None:
    app.add_lexer("sh", Shell)
    app.connect("source-read", lambda app, page, source: generated.fill(source))
