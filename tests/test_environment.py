"""The ways to Detectron2 (conda, pip, Docker) agree with each other and with pyproject.toml.

Neither conda nor Docker is run: the files are read and compared.
"""

import json
import re
import shlex

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from detco.benchmarks.cli import doctor

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

from tests.factories import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"torch": "pytorch"}  # where conda-forge's name is another
COMMIT = re.compile(r"\b[0-9a-f]{40}\b")
INSTRUCTIONS = {"FROM", "RUN", "ENV", "ARG", "COPY", "WORKDIR", "ENTRYPOINT"}


def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def conda_section() -> dict[str, SpecifierSet]:
    """Name -> bounds; conda's `=3.12` is pip's `==3.12.*`."""
    found = {}
    for line in environment()["dependencies"]:
        if isinstance(line, str):
            name, bounds = re.fullmatch(r"([a-z0-9-]+)(.*)", line).groups()
            assert name not in found, f"{name} is listed twice"
            found[name] = SpecifierSet(re.sub(r"^=([0-9.]+)$", r"==\1.*", bounds))
    return found


def pip_section() -> list[str]:
    sections = [line["pip"] for line in environment()["dependencies"] if isinstance(line, dict)]
    assert len(sections) == 1
    return sections[0]


def lower_bounds(bounds: SpecifierSet) -> list[Version]:
    return [Version(bound.version) for bound in bounds if bound.operator == ">="]


def upper_bounds(bounds: SpecifierSet) -> list[Version]:
    return [Version(bound.version) for bound in bounds if bound.operator == "<"]


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, comments left out and continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace(
        "\\\n", " "
    )
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_conda_takes_one_python_that_the_project_supports():
    assert environment()["channels"] == ["conda-forge"]
    assert str(conda_section()["python"]) == "==3.12.*"
    assert Version("3.12") in SpecifierSet(PROJECT["requires-python"])
    assert "pip" in conda_section() and "detectron2" in conda_section()


@pytest.mark.parametrize("line", PROJECT["dependencies"], ids=lambda line: Requirement(line).name)
def test_pip_finds_each_dependency_there_already(line):
    """Conda's bounds are at least as tight as pyproject's, so that whatever conda chooses pip
    leaves alone."""
    wanted = Requirement(line)
    bounds = conda_section()[CONDA_NAMES.get(wanted.name, wanted.name)]
    for least in lower_bounds(wanted.specifier):
        assert max(lower_bounds(bounds), default=Version("0")) >= least
    for first_too_new in upper_bounds(wanted.specifier):
        assert min(upper_bounds(bounds), default=Version("99999")) <= first_too_new
    assert {bound.operator for bound in wanted.specifier} <= {
        ">=",
        "<",
    }, "the test knows only these"


def test_pip_brings_only_the_project_and_what_conda_lacks():
    assert pip_section() == [*PROJECT["optional-dependencies"]["cityscapes"], "-e ."]
    assert "CONDA_OVERRIDE_CUDA=" in (ROOT / "environment.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["README.md", "Dockerfile", "docs/use/engines.md"])
def test_one_commit_of_detectron2_everywhere(name):
    assert COMMIT.fullmatch(doctor.DETECTRON2_COMMIT)
    named = COMMIT.findall((ROOT / name).read_text(encoding="utf-8"))
    assert {*named} == {doctor.DETECTRON2_COMMIT}


def test_doctor_names_both_ways_as_the_readme_does(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    facts, alarms = [], []
    doctor._detectron2(facts, alarms)
    says = facts[0]["says"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for way in (
        "conda env create --file environment.yml",
        re.search(r"pip install --no-build-isolation '[^']+'", says)[0],
    ):
        assert way in says and way in readme
    assert alarms == []


def test_dockerfile_builds_on_a_cuda_image_with_a_compiler():
    found = instructions()
    assert {name for name, _ in found} == INSTRUCTIONS, "ADD and URLs outside pip are not wanted"
    assert [name for name, _ in found].count("FROM") == 1
    assert found[0][0] == "FROM" and re.fullmatch(
        r"nvidia/cuda:[0-9.]+-devel-ubuntu24\.04", found[0][1]
    )
    assert "--shm-size" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert json.loads(dict(found)["ENTRYPOINT"]) == list(PROJECT["scripts"])


def test_dockerfile_installs_torch_then_detectron2_then_the_project():
    installs = [
        shlex.split(text)
        for name, text in instructions()
        if name == "RUN" and "pip install" in text
    ]
    torch, detectron2, project = installs
    pins = {Requirement(word).name: Requirement(word).specifier for word in torch[2:]}
    for line in PROJECT["dependencies"]:
        wanted = Requirement(line)
        if wanted.name in ("torch", "torchvision"):
            assert next(iter(pins[wanted.name])).version in wanted.specifier
    assert {"setuptools", "wheel", "ninja"} < set(pins) and Version("81") not in pins["setuptools"]
    assert "FORCE_CUDA=1" in detectron2 and "--no-build-isolation" in detectron2
    assert detectron2[-1] == doctor.DETECTRON2_SOURCE.replace(
        doctor.DETECTRON2_COMMIT, "${DETECTRON2_COMMIT}"
    )
    assert ["COPY", ". /opt/detco"] in [list(pair) for pair in instructions()] and project[
        -1
    ].startswith("/opt/detco[")
