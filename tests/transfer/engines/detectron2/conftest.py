"""One thread for all tests of this engine."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """At 64 px a second thread mostly waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
