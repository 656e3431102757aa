"""Which Detectron2 is installed: identified by a hash of its files, independent of their folder."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detco.transfer.engines.detectron2 import version as version
from tests.factories import ROOT


def put(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return folder


@pytest.mark.parametrize(
    ("files", "which"),
    [
        ({"engine/hooks.py": "class EvalHook: pass"}, "release of 2021"),
        ({"engine/hooks.py": "def f(eval_after_train=True): ..."}, "main, 2022-02 or later"),
        (
            {
                "engine/hooks.py": "eval_after_train",
                "engine/train_loop.py": "def after_backward(): ...",
            },
            "main, 2023-03 or later",
        ),
        (
            {"engine/train_loop.py": "after_backward", "config/lazy.py": "_to_str = None"},
            "main, 2025-11 or later",
        ),
    ],
)
def test_the_newest_change_tells_the_month(files, which, tmp_path):
    assert version.which(put(tmp_path, files)) == which


def test_the_hash_is_that_of_the_python_files(tmp_path):
    """Not of where they lie, line ends, compiled parts, or what only an installation adds."""
    files = {"__init__.py": "a = 1\n", "engine/hooks.py": "b\n"}
    plain = b"__init__.py\x006\x00a = 1\nengine/hooks.py\x002\x00b\n"
    expected = hashlib.sha256(plain).hexdigest()[:12]
    windows = {name: text.replace("\n", "\r\n") for name, text in files.items()}
    more = {
        "_C.so": "x",
        "projects/deeplab/config.py": "x",
        "model_zoo/configs/a.py": "x",
        "__pycache__/a.pyc": "x",
    }
    assert version.hash_of(put(tmp_path / "one", files)) == expected
    assert version.hash_of(put(tmp_path / "two", windows | more)) == expected
    assert version.hash_of(put(tmp_path / "three", files | {"engine/hooks.py": "c\n"})) != expected


def test_files_known_exactly_have_the_month_of_their_commit(tmp_path, monkeypatch):
    """Also the version is that of the folder, whatever else is installed."""
    folder = put(
        tmp_path,
        {"__init__.py": 'a = 1\n__version__ = "7.1"\n', "engine/hooks.py": "eval_after_train"},
    )
    assert str(version.of_folder(folder)).startswith(
        "Detectron2 7.1, main, 2022-02 or later (files "
    )
    version.of_folder.cache_clear()
    monkeypatch.setitem(version.EXACT, version.hash_of(folder), "main, 2023-01")
    assert version.of_folder(folder).which == "main, 2023-01"


@pytest.mark.detectron2
def test_the_installed_one_is_identified():
    found = version.identify()
    folder = Path(importlib.util.find_spec("detectron2").origin).parent
    assert found.hash == version.hash_of(folder) and found.version == "0.6"
    has = "eval_after_train" in (folder / "engine" / "hooks.py").read_text()
    assert (found.which == "main, 2026-06") == (found.hash == "acd65d6c626b")
    assert found.which.startswith("main, 20") == has and (found.which == "release of 2021") != has


def test_the_other_one_is_told_apart():
    named = os.environ.get("DETCO_OTHER_DETECTRON2")
    if not named or version.identify() is None:
        pytest.skip(
            "there are no two of them: DETCO_OTHER_DETECTRON2 is not set, or none is installed"
        )
    assert version.of_folder(Path(named) / "detectron2").hash != version.identify().hash


@pytest.mark.parametrize(
    ("files", "fact", "alarm"),
    [
        (
            {"__init__.py": '__version__ = "0.6"\n'},
            "0.6, release of 2021 (files ",
            "compiled part cannot be imported (Mod",
        ),
        (
            {"_C.py": "", "__init__.py": '__version__ = "0.6"\n'},
            "0.6, release of 2021 (files ",
            None,
        ),
        # as in a checkout's parent folder
        (
            {"setup.py": ""},
            None,
            "is no package: run from another folder",
        ),
    ],
)
def test_doctor_says_which_and_what_does_not_work(files, fact, alarm, tmp_path):
    """In a process of its own, whose Python path holds that Detectron2 alone before
    the installed one."""
    put(tmp_path / "detectron2", files)
    code = (
        "import json, sys, importlib.machinery as m; sys.meta_path.insert(0, type('F', (),"
        " {'find_spec': staticmethod(lambda name, path=None, target=None:"
        " m.PathFinder.find_spec(name, path or [sys.argv[1]]) if name.split('.')[0] == 'detectron2'"
        " else None)})); from detco.benchmarks.cli import doctor; facts, alarms = [], [];"
        " doctor._detectron2(facts, alarms); print(json.dumps([facts, alarms]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    facts, alarms = json.loads(done.stdout)
    assert [found["says"].startswith(fact) for found in facts] == ([True] if fact else [])
    assert (len(alarms) == 1 and alarm in alarms[0]) if alarm else alarms == []
