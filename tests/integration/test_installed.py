"""The installed project (not editable) beside a user's own files with the packages' names."""

import os
import subprocess
import sys

import pytest

from tests.factories import ROOT

SUITE = """
scenes: {images: 16, size: 64, unlabelled: 12, classification: 12}
images: unlabelled
start: [random, moco-v2-small]
protocols: [{protocol: small-retinanet, data: {root: voc}}]
pretrain: {epochs: 1, batch: 4, queue: 8, fill_queue: false, view_size: 32}
engine: replay
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """(environment, working directory): the wheel's files in a folder of their own on the path; the
    libraries are those of this interpreter. The checkout is nowhere on the path."""
    place = tmp_path_factory.mktemp("installed")
    copy = place / "source"
    copied = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, copied)):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", place / "site", copy], check=True)
    own = place / "work"
    for name in ("pretrain.py", "transfer.py", "results/__init__.py", "benchmarks/__init__.py"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text("raise SystemExit('the user\\'s own file was imported')\n")
    environment = os.environ | {"PYTHONPATH": str(place / "site"), "OMP_NUM_THREADS": "1"}
    return environment, own


def call(installed, *words):
    environment, own = installed
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, words)],
        env=environment,
        cwd=own,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_installed_package_is_what_is_imported(installed):
    where = call(installed, "-c", "import detco.results.store as s; print(s.__file__)")
    assert "/site/detco/results/store.py" in where
    assert call(installed, "-m", "detco", "--version").startswith("detco 0.")


def test_a_suite_runs_from_a_folder_with_packages_of_the_same_names(installed, tmp_path):
    """Its workers, which pretrain and fine-tune, import the installed files as well."""
    (tmp_path / "suite.yaml").write_text(SUITE)
    words = ["run", tmp_path / "suite.yaml", "--out", tmp_path / "out", "--device", "cpu"]
    text = call(installed, "-m", "detco", *words)
    assert "small-retinanet" in text and len(list(tmp_path.rglob("record.json"))) == 4


def test_torchrun_pretrains_with_the_module(installed, scenes, tmp_path):
    words = ["pretrain", "moco-v2-small", "--images", scenes / "unlabelled", "--device", "cpu"]
    for change in ("epochs=1", "batch=8", "queue=16", "view_size=32", "fill_queue=false"):
        words += ["--set", change]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "detco"]
    call(installed, *launcher, *words, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "backbone.safetensors").is_file()
