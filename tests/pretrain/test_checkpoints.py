"""Checkpoints where the disk is full."""

import resource
import signal

import pytest
import torch

from detco.pretrain import checkpoints


@pytest.fixture
def small_files():
    """No file may grow beyond 200 kB, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_a_checkpoint_that_does_not_fit_is_removed_and_named(small_files, tmp_path):
    checkpoints.save(tmp_path, 1, {"a": torch.ones(10)}, 2)
    with pytest.raises(OSError, match="cannot write") as caught:
        checkpoints.save(tmp_path, 2, {"a": torch.zeros(200_000)}, 2)
    assert caught.value.filename == str(tmp_path / "checkpoint-000000002.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000001.pt"]
    assert torch.equal(checkpoints.load(tmp_path)["a"], torch.ones(10))
