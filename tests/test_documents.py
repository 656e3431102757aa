"""Paths that README, CONTRIBUTING and docs/ name exist."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
PACKAGES = "common|pretrain|transfer|benchmarks|results|tests|detco|docs"
OUR_PATH = re.compile(rf"`((?:{PACKAGES})/[\w./]*)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_and_links_exist(document):
    text = document.read_text(encoding="utf-8")
    paths = [ROOT / path for path in OUR_PATH.findall(text) if "NAME" not in path]
    paths += [document.parent / link for link in LINK.findall(text)]
    assert [str(path.relative_to(ROOT)) for path in paths if not path.exists()] == []


def test_a_wrong_path_would_be_seen():
    assert OUR_PATH.findall("in `transfer/gone.py` and `common/`, `runs/x`") == [
        "transfer/gone.py",
        "common/",
    ]
    assert LINK.findall("[a](docs/gone.md), [b](https://x.org/y)") == ["docs/gone.md"]


def test_doors_are_where_contributing_says():
    """What is named as "`NAME` in `path`" is defined at the top level of that file."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`\s+(?:in|of)\s+`([\w/]+\.py)`", text)
    assert {"PROTOCOLS", "LAYOUTS", "COMMANDS", "Pretrainer", "frame"} <= {
        name for name, _ in named
    }
    for name, path in named:
        code = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in [made for node in code.body for made in names_of(node)], f"{path}: {name}"


def names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [ast.unparse(target) for target in targets if target is not None]


def test_every_decision_is_in_the_index():
    index = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs" / "adr").glob("0*.md")}
    assert len(pages) >= 5 and set(re.findall(r"\((0\w*[\w-]*\.md)\)", index)) == pages


def test_make_help_names_every_target_with_a_line_of_text():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True)
    listed = re.findall(r"^make (\w+) +\S", done.stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())
