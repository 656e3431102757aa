"""Imports point one way, and the light modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("pretrain", "transfer", "benchmarks", "results")
ALLOWED = {"benchmarks": {"benchmarks", "pretrain", "transfer", "results"}}  # the others: themselves only
HEAVY = ("torch", "torchvision", "pandas", "numpy", "pycocotools", "pydantic", "yaml", "rich", "PIL")
LIGHT = (
    "benchmarks.cli", "benchmarks.suites", "benchmarks.worker", "transfer.protocols", "pretrain.recipes",
    "results.store",
)  # fmt: skip


def imports_of(path: Path, text: str | None = None) -> set[str]:
    """Full names of the modules a file imports anywhere in it, relative ones resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(text if text is not None else path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def test_reader_sees_every_form_of_import():
    text = "import a.b\nfrom . import c\nfrom ..d import e\ndef f():\n    from results import store\n"
    path = ROOT / "transfer" / "engines" / "x.py"
    assert imports_of(path, text) >= {"a.b", "transfer.engines.c", "transfer.d.e", "results.store"}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_one_way(room):
    wrong = []
    for path in sources(room):
        rooms = {name.split(".")[0] for name in imports_of(path)} & set(ROOMS)
        wrong += [f"{path.relative_to(ROOT)} imports {other}" for other in rooms - ALLOWED.get(room, {room})]
    assert sources(room) and not wrong


def test_only_its_engine_imports_detectron2():
    importers = {
        path.relative_to(ROOT)
        for room in ROOMS
        for path in sources(room)
        if any(name.split(".")[0] == "detectron2" for name in imports_of(path))
    }
    assert importers
    assert all(path.parent == Path("transfer/engines") and path.name.startswith("detectron2_") for path in importers)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module):
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
