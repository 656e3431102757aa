"""The source distribution holds the repository, the wheel all that the packages need."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.factories import ROOT

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILD = """
import sys
from setuptools import build_meta
out = sys.argv[1]  # setuptools sets sys.argv
build_meta.build_sdist(out)
build_meta.build_wheel(out)
"""


def committed() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(names in the sdist, names in the wheel, the wheel's METADATA)"""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: there is nothing to compare with")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in committed():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", BUILD, out], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        inside = {member.name.partition("/")[2] for member in archive if member.isfile()}
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        return inside, names, wheel.read(metadata).decode()


def test_the_sdist_holds_what_is_committed(built):
    inside, _, _ = built
    made = {name for name in inside if "egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert inside - made == set(committed())


def test_the_wheel_holds_every_module_and_its_data_and_nothing_else(built):
    _, names, _ = built
    tops = SETTINGS["tool"]["setuptools"]["package-dir"]
    wanted = set()
    for name in committed():
        for package, folder in tops.items():
            inside = Path(name).is_relative_to(folder) and not name.startswith("results/demo/")
            if inside:
                below = Path(package.replace(".", "/")) / Path(name).relative_to(folder)
                wanted.add(str(below))
    assert {name for name in names if ".dist-info/" not in name} == wanted


def test_metadata_say_what_it_is(built):
    _, _, metadata = built
    lines = metadata.partition("\n\n")[0].splitlines()
    assert "Project-URL: Paper, https://arxiv.org/abs/2102.04803" in lines
    assert "License-Expression: Apache-2.0" in lines and "License-File: LICENSE" in lines
    assert "Classifier: Typing :: Typed" in lines
    # whoever installs this project keeps the setuptools that is there
    assert not [line for line in lines if line.startswith("Requires-Dist: setuptools")]
