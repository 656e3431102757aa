"""Whose files lie in a run's folder."""

import logging

import pytest

from detco.common.errors import InputError
from detco.pretrain.files import RunFiles

OURS = {"recipe_hash": "r", "seed": "0", "content": "c"}
EARLIER = {"recipe_hash": "r", "seed": "0", "pictures": "names and sizes"}


def test_a_checkpoint_of_an_earlier_version_goes_on_and_that_is_said(tmp_path, caplog):
    files = RunFiles(tmp_path, OURS, 1)
    with caplog.at_level(logging.WARNING, "detco"):
        files.take(EARLIER, "names and sizes")
    (text,) = caplog.messages
    assert "name and size only" in text
    files.take(OURS, "names and sizes")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "identity, words",
    [
        (EARLIER | {"pictures": "others"}, "name and size only"),
        (EARLIER | {"seed": "1"}, "another seed"),
        (OURS | {"content": "d"}, "another set of images"),
        ({}, "another recipe and seed and set of images"),
    ],
)
def test_another_run_is_refused(identity, words, tmp_path):
    with pytest.raises(InputError, match=words):
        RunFiles(tmp_path, OURS, 1).take(identity, "names and sizes")


def test_a_finished_one_of_an_earlier_version_is_refused(tmp_path):
    with pytest.raises(InputError, match="name and size only"):
        RunFiles(tmp_path, OURS, 1).refuse_another(EARLIER)
