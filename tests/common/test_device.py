"""Where bfloat16 is used by default."""

import pytest
import torch

from detco.common import device


@pytest.mark.parametrize("avx, amx, fast", [(0, 0, False), (1, 0, True), (0, 1, True)])
def test_a_processor_with_either_feature_is_fast(avx, amx, fast, monkeypatch):
    for name, value in zip(device.CPU_FEATURES, (avx, amx)):
        monkeypatch.setattr(torch.cpu, name, lambda value=value: bool(value), raising=False)
    assert device.fast_bf16("cpu") is fast


def test_a_torch_that_cannot_be_asked_is_not_fast(monkeypatch):
    for name in device.CPU_FEATURES:
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert device.fast_bf16("cpu") is False


def test_emulation_on_a_gpu_does_not_count(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert device.fast_bf16("cuda") is False
