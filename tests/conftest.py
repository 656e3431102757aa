"""Shared by all tests: a small drawn data set, the folder of real photographs, and the
last line about Detectron2."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from tests.factories import ROOT

HAVE_DETECTRON2 = importlib.util.find_spec("detectron2") is not None


def pytest_collection_modifyitems(items):
    if not HAVE_DETECTRON2:
        for item in items:
            if item.get_closest_marker("detectron2"):
                item.add_marker(pytest.mark.skip(reason="Detectron2 is not installed"))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(tried_detectron2())


def tried_detectron2() -> str:
    """Which Detectron2 the marked tests ran with, in one line."""
    from detco.transfer.engines.detectron2 import version

    if not HAVE_DETECTRON2:
        return "Detectron2 is not installed: the tests marked `detectron2` were skipped."
    other = os.environ.get("DETCO_OTHER_DETECTRON2")
    also = "no other one: DETCO_OTHER_DETECTRON2 names none"
    if other:
        also = f"the other one: {version.of_folder(Path(other) / 'detectron2')}"
    return f"Tests marked `detectron2` ran with {version.identify()}; {also}."


@pytest.fixture(autouse=True, scope="session")
def _threads():
    beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    torch.set_num_threads(max(1, min(2, (os.cpu_count() or 1) // beside)))


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    """Output is not wrapped: pytest-xdist gives its processes a terminal's width."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    """What is remembered between runs stays out of the user's cache folder, here and in processes
    started by tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of the user's, and what is remembered in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "detco"


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """40 labelled scenes at 64 px (30 to train on, 10 to test on) in all layouts. Read only."""
    from detco.benchmarks.scenes.draw import draw

    return draw(
        tmp_path_factory.mktemp("scenes") / "drawn",
        images=40,
        seed=3,
        size=64,
        unlabelled=16,
        classification=16,
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures (`photos`, `raccoon`) for those who have them."""
    folder = Path(os.environ.get("DETCO_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("the real pictures are not on this machine")
    return folder
