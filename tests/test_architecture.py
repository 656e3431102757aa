"""Who may import whom, how full a folder may be, and that members of a door are known by their
properties, not their names."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from detco.benchmarks.cli.commands import COMMANDS
from detco.benchmarks.run import EXECUTORS
from detco.benchmarks.run.worker import KINDS
from detco.pretrain.methods import METHODS
from detco.transfer.checkpoints.layouts import LAYOUTS as CHECKPOINT_LAYOUTS
from detco.transfer.data import LAYOUTS
from detco.transfer.engines import ENGINES
from detco.transfer.protocols import PROTOCOLS
from detco.transfer.scoring import SCORERS
from tests.factories import ROOT

PACKAGES = ("common", "pretrain", "transfer", "benchmarks", "results")
ALLOWED = {  # beside themselves
    "common": set(),
    "pretrain": {"common"},
    "transfer": {"common"},
    "results": {"common"},
    "benchmarks": {"common", "pretrain", "transfer", "results"},
}
FULL = 14  # files in a folder
NAMES = {  # of the members of all doors
    *(METHODS | ENGINES | LAYOUTS | SCORERS | EXECUTORS | PROTOCOLS),
    *(layout.name for layout in CHECKPOINT_LAYOUTS),
    # jobs are of the kinds `pretrain` and `transfer`, which are words of commands too
    *({command.name for command in COMMANDS} - KINDS.keys()),
}
BEGINNING = re.compile(r".*\b(method|engine|layout|scorer|executor|protocol)\.startswith")
HEAVY = (
    "torch",
    "torchvision",
    "pandas",
    "numpy",
    "pycocotools",
    "yaml",
    "rich",
    "PIL",
)
LIGHT = (
    "detco",
    "detco.benchmarks.cli.main",
    "detco.benchmarks.suites.builtin",
    "detco.benchmarks.run.worker",
    "detco.transfer.protocols",
    "detco.pretrain.recipes",
    "detco.results.store",
)


def sources(folder: str = "") -> list[Path]:
    tops = [folder] if folder else [*PACKAGES, "detco"]
    return sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] in ("detco", "tests") else ("detco", *parts))


def imports_of(path: Path, text: str | None = None, whole: bool = True) -> set[str]:
    """Full names of the modules a file imports, relative ones resolved; whole:
    also inside functions."""
    name = module_name(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text() if text is None else text)
    found = set()
    for node in ast.walk(tree) if whole else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def test_reader_sees_every_form_of_import():
    text = (
        "import a.b\nfrom . import c\nfrom ..d import e\ndef f():\n    from detco.results import"
        " store\n"
    )
    path = ROOT / "transfer" / "engines" / "x.py"
    assert imports_of(path, text) >= {
        "a.b",
        "detco.transfer.engines.c",
        "detco.transfer.d.e",
        "detco.results.store",
    }
    assert "detco.results.store" not in imports_of(path, text, whole=False)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(package):
    wrong = []
    for path in sources(package):
        others = {
            name.split(".")[1]
            for name in imports_of(path)
            if name.startswith("detco.") and name.count(".")
        }
        wrong += [
            f"{path.relative_to(ROOT)} imports {other}"
            for other in (others & set(PACKAGES)) - ALLOWED[package] - {package}
        ]
    assert sources(package) and not wrong


def test_no_circle_of_imports():
    """Among imports at the top of files: walk off modules that import nothing left; what stays goes
    round in a circle."""
    files = {module_name(path): path for path in sources()}
    left = {
        name: {other for other in imports_of(path, whole=False) & files.keys() if other != name}
        for name, path in files.items()
    }
    while ready := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in ready}
    assert sorted(left) == []


def test_one_function_opens_images():
    """Pillow alone would start Ghostscript for a file that holds PostScript."""
    openers = [path for path in sources() if "Image.open(" in path.read_text()]
    assert openers == [ROOT / "common" / "images.py"]


def test_only_its_engine_imports_detectron2():
    importers = [
        path
        for path in sources()
        if any(name.split(".")[0] == "detectron2" for name in imports_of(path))
    ]
    home = ROOT / "transfer" / "engines" / "detectron2"
    assert importers and [path for path in importers if not path.is_relative_to(home)] == []


def test_no_test_module_imports_another():
    """What several need is made in tests/factories, once."""
    modules = sorted((ROOT / "tests").rglob("test_*.py")) + sorted(
        (ROOT / "tests").rglob("conftest.py")
    )
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules
        for name in re.findall(r"^ *(?:from|import) tests\b.*\btest_\w+", path.read_text(), re.M)
    ]
    assert len(modules) > 50 and wrong == []


def test_no_folder_is_crowded():
    tops = [*PACKAGES, "detco", "tests"]
    files = [
        path
        for top in tops
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    crowded = {
        str(folder.relative_to(ROOT)): n
        for folder, n in Counter(path.parent for path in files).items()
        if n > FULL
    }
    assert crowded == {}


def test_no_two_public_classes_share_a_name():
    places: dict[str, list[str]] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def compared_names(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, name) wherever a string that names a member of a door is compared with, or looked for
    in, something, or is one of the choices of a `Literal`."""
    found = []
    for node in ast.walk(tree):
        parts = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            parts = [node.slice]
        elif isinstance(node, ast.Call) and BEGINNING.fullmatch(ast.unparse(node.func)):
            parts = node.args
        for part in parts:
            items = part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part]
            found += [
                (node.lineno, item.value)
                for item in items
                if isinstance(item, ast.Constant) and item.value in NAMES
            ]
    return found


def test_members_of_doors_are_not_told_by_their_names():
    wrong = []
    for path in sources():
        own = (path.stem, path.parent.name)  # moco.py is that of moco-v1 too
        for line, name in compared_names(ast.parse(path.read_text())):
            if not name.startswith(own):
                wrong.append(f"{path.relative_to(ROOT)}:{line} compares with {name!r}")
    assert wrong == []


def test_a_comparison_with_a_name_is_seen():
    tree = ast.parse(
        "if a == 'voc': ...\nif b in ('x', 'slurm'): ...\nmatch c:\n    case 'replay': ...\nd ="
        " {'coco': 1}\ne: Literal['x', 'moco-v3']\nif f.method.startswith('moco'): ...\n"
    )
    found = [(1, "voc"), (2, "slurm"), (4, "replay"), (6, "moco-v3"), (7, "moco")]
    assert sorted(compared_names(tree)) == found


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module):
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


def test_help_needs_no_pydantic():
    """Settings, plans and records do: they take as long to import as all the rest."""
    code = "import sys, detco.benchmarks.cli.main; print('pydantic' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
