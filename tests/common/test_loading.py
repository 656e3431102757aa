"""Loading processes: their shared memory, and the error when one dies or hangs."""

import logging
import os
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from detco.common import loading
from detco.common.errors import TrainingError


def with_free(monkeypatch, free: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1))


@pytest.mark.parametrize(
    "free, wanted, batch, fit",
    [
        (64_000_000, 8, 1_000_000, 8),  # 57 batches have room, 18 are needed
        (64_000_000, 8, 5_000_000, 4),  # 11 batches: 2 in use, 9 // 2
        (64_000_000, 8, 20_000_000, 0),
        (64_000_000, 0, 20_000_000, 0),
        (0, 3, 1, 0),
    ],
)
def test_as_many_processes_as_there_is_room_for(free, wanted, batch, fit, monkeypatch, caplog):
    with_free(monkeypatch, free)
    with caplog.at_level(logging.WARNING, "detco"):
        assert loading.fitting(wanted, batch) == fit
    assert len(caplog.messages) == (fit < wanted)
    assert all("--shm-size" in text for text in caplog.messages)


def test_where_there_is_no_shared_memory_nothing_is_limited(monkeypatch):
    monkeypatch.setattr(loading, "SHARED", "/nowhere")
    assert loading.shared_memory() is None and loading.fitting(8, 10**12) == 8


@pytest.mark.parametrize(("files", "fit"), [(24, 0), (128, 8), (1024, 8), (-1, 8)])
def test_few_open_files_leave_no_room_for_processes(files, fit, monkeypatch, caplog):
    with_free(monkeypatch, 10**9)
    monkeypatch.setattr(loading.resource, "getrlimit", lambda _: (files, files))
    with caplog.at_level(logging.WARNING, "detco"):
        assert loading.fitting(8, 1000) == fit
    assert ["ulimit -n" in text for text in caplog.messages] == [True] * (fit == 0)


class Item(torch.utils.data.Dataset):
    def __init__(self, act):
        self.act = act

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.act(index)
        return index


def dies(index: int) -> None:
    os._exit(3)


def hangs(index: int) -> None:
    time.sleep(60)


def errs(index: int) -> None:
    raise RuntimeError("an own mistake")


@pytest.mark.parametrize("act, timeout", [(dies, 0), (hangs, 1)])
def test_a_process_that_dies_or_hangs_ends_the_run_with_the_remedy(act, timeout):
    loader = DataLoader(Item(act), batch_size=None, num_workers=1, timeout=timeout)
    with pytest.raises(TrainingError, match="--shm-size"):
        list(loading.batches(loader))


def test_a_mistake_in_a_process_keeps_its_own_words():
    loader = DataLoader(Item(errs), batch_size=None, num_workers=1)
    with pytest.raises(RuntimeError, match="an own mistake"):
        list(loading.batches(loader))
    assert list(loading.batches([1, 2])) == [1, 2]
