"""Which Detectron2 is installed. The release of 2021 and every main since call themselves 0.6:
their files tell them apart.

Nothing of Detectron2 is imported here.
"""

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Newest first: (month of the change in main, file, a text that came into it).
CHANGES = (
    ("2025-11", "config/lazy.py", "_to_str = None"),
    ("2025-05", "structures/image_list.py", "min_torch_version"),
    ("2024-06", "layers/mask_ops.py", "np.asarray(mask)"),
    ("2023-04", "engine/train_loop.py", "async_write_metrics"),
    ("2023-03", "engine/train_loop.py", "after_backward"),
    ("2022-02", "engine/hooks.py", "eval_after_train"),
)
# Of these files the exact state is known: commit 02b5c4e295 of main, whose last change below
# detectron2/ is of 2026-03.
EXACT = {"acd65d6c626b": "main, 2026-06"}
RELEASE = "release of 2021"
BESIDE = ("projects/", "model_zoo/configs/")


@dataclass(frozen=True)
class Identity:
    """`version`: what it calls itself; `which`: told by its files; `hash`: 12 digits of the sha256
    of its Python files."""

    version: str
    which: str
    hash: str

    def __str__(self) -> str:
        return f"Detectron2 {self.version}, {self.which} (files {self.hash})"


def identify() -> Identity | None:
    """The Detectron2 that would be imported here; None where there is none."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.origin:
        return None
    return of_folder(Path(spec.origin).parent)


@cache
def of_folder(folder: Path) -> Identity:
    """Of a package folder `detectron2`, as this process found it first."""
    own = hash_of(folder)
    return Identity(_version(folder), EXACT.get(own) or which(folder), own)


def which(folder: Path) -> str:
    """`main, YYYY-MM or later` by the newest change that is there, or the release."""
    for month, name, text in CHANGES:
        path = folder / name
        if path.is_file() and text in path.read_text(encoding="utf-8", errors="replace"):
            return f"main, {month} or later"
    return RELEASE


def hash_of(folder: Path) -> str:
    """Over names and contents of the Python files, wherever they lie and however their lines end;
    without what only an installation puts there (projects, the model zoo's configs)."""
    digest = hashlib.sha256()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    for name in sorted(name for name in files if not name.startswith(BESIDE)):
        content = files[name].read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _version(folder: Path) -> str:
    """Of its own files: a folder on PYTHONPATH comes before the installed one, whose metadata say
    nothing about it."""
    path = folder / "__init__.py"
    found = (
        re.search(r'^__version__ = "(.+)"', path.read_text(encoding="utf-8"), re.M)
        if path.is_file()
        else None
    )
    return found[1] if found else "without a version"
