"""Folders of torch.distributed.checkpoint: read as torch reads them, and nothing in them is run."""

import io
import os
import pickle
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from detco.common.errors import InputError
from detco.transfer.checkpoints import importer
from detco.transfer.checkpoints.reader import formats
from tests import checkpoints


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch: there is only one process
        yield


def test_a_network_with_its_optimizer(tmp_path):
    folder, state = tmp_path / "run7", checkpoints.names()
    state = {name: tensor.clone() for name, tensor in state.items()}
    adam = {0: {"exp_avg": torch.ones(5), "step": torch.tensor(3.0)}}
    content = {"model": state, "optimizer": {"state": adam, "groups": [{"lr": 0.1}]}}
    dcp.save(content | {"epoch": 7, "arch": "resnet18"}, checkpoint_id=folder)
    for path in (folder, folder / ".metadata", folder / "__0_0.distcp"):
        backbone, report = importer.load(path)
        assert all(torch.equal(t, state[name]) for name, t in backbone.tensors.items())
    meta = dict(backbone.metadata)
    assert (meta["source"], meta["epochs"], report.layout.name) == ("run7", "7", "bare")
    other = tmp_path / "run8"
    state["bn1.bias"] += 1
    dcp.save(content, checkpoint_id=other)
    changed = importer.load(other)[0]
    assert torch.equal(changed.tensors["bn1.bias"], state["bn1.bias"])
    assert dict(changed.metadata)["source_sha256"] != meta["source_sha256"]


NUMBERS = torch.arange(24.0).view(6, 4)
ROWS = {"__0_0.distcp": (0, 4), "__1_0.distcp": (4, 6)}  # file -> rows of the tensor in it


def divided(folder: Path, change: Callable[[Metadata], None] = lambda about: None) -> Path:
    """A tensor in two files, as two processes save it."""
    folder.mkdir(exist_ok=True)
    chunks, places = [], {}
    for number, (file, (start, end)) in enumerate(ROWS.items()):
        data = io.BytesIO()
        torch.save(NUMBERS[start:end].clone(), data)
        (folder / file).write_bytes(b"1234567" + data.getvalue())
        offset, size = torch.Size((start, 0)), torch.Size((end - start, 4))
        chunks.append(ChunkStorageMetadata(offset, size))
        place = dcp.filesystem._StorageInfo(file, 7, len(data.getvalue()))
        places[MetadataIndex("net.w", offset, number)] = place
    tensor = TensorStorageMetadata(TensorProperties(), NUMBERS.shape, chunks)
    about = Metadata({"net.w": tensor}, {"net.w": ("net", "w")}, places)
    change(about)
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    return folder


def test_pieces_are_put_together_as_torch_does(tmp_path):
    folder = divided(tmp_path / "in")
    found = formats.read(folder).data
    assert torch.equal(found["net"]["w"], NUMBERS)
    dcp_to_torch_save(folder, tmp_path / "whole.pth")
    assert torch.equal(torch.load(tmp_path / "whole.pth")["net"]["w"], NUMBERS)


def each_place(**to) -> Callable[[Metadata], None]:
    def change(about):
        for key, place in about.storage_data.items():
            about.storage_data[key] = replace(place, **to)

    return change


def larger(about):
    about.state_dict_metadata["net.w"].size = torch.Size((2**20, 2**18))


def at_one_place(about):
    places = list(about.storage_data.values())
    keys = [MetadataIndex("net.w", torch.Size((n, 0)), n) for n in (0, 2)]
    about.storage_data = dict(zip(keys, places))


def missing(about):
    about.storage_data = {}


def no_description(about):
    about.state_dict_metadata = None


def no_sizes(about):
    about.state_dict_metadata["net.w"].size = [6, 4]


def no_places(about):
    about.storage_data = {"net.w": "__0_0.distcp"}


def within_a_tensor(about):
    """One name leads into what another is."""
    about.state_dict_metadata = {"a": BytesStorageMetadata(), "b": BytesStorageMetadata()}
    about.planner_data = {"a": ("a",), "b": ("a", "b")}
    keys = (MetadataIndex("a", None, None), MetadataIndex("b", None, None))
    about.storage_data = dict(zip(keys, about.storage_data.values()))


class Command:
    def __reduce__(self):
        return os.system, ("touch ran",)


def command(about):
    about.planner_data = Command()


WRONG = {
    "elsewhere": (each_place(relative_path="../__0_0.distcp"), "beside it"),
    "absolute": (each_place(relative_path="/etc/passwd"), "beside it"),
    "no such file": (each_place(relative_path="__2_0.distcp"), "there is no __2_0.distcp"),
    "behind the end": (each_place(offset=10**6), "shorter than it says"),
    "all of a file twice": (each_place(relative_path="__0_0.distcp", length=1400), "damaged"),
    "compressed": (each_place(transform_descriptors=["zstd"]), "transformed"),
    "negative": (each_place(offset=-1), "not the metadata"),
    "of terabytes": (larger, "do not make up its shape"),
    "overlapping": (at_one_place, "do not fit together"),
    "another pickle": (no_description, "not the metadata"),
    "no places": (no_places, "not the metadata"),
    "no shape": (no_sizes, "not the metadata"),
    "nested in a tensor": (within_a_tensor, "within something that is no dictionary"),
    "no piece": (missing, r"no piece of net\.w"),
}


@pytest.mark.parametrize("case", WRONG)
def test_folders_that_are_wrong(tmp_path, case):
    change, says = WRONG[case]
    with pytest.raises(InputError, match=says) as error:
        formats.read(divided(tmp_path / "in", change))
    assert str(tmp_path / "in") in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_folder_of_torchs(tmp_path):
    folder = divided(tmp_path / "in")
    (folder / ".metadata").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match=r"in/\.metadata: not the metadata"):
        formats.read(folder)


def test_a_piece_that_claims_more_numbers_than_it_has(tmp_path):
    data = io.BytesIO()
    torch.save(torch.ones(1).expand(4096, 4), data)

    def change(about):
        about.state_dict_metadata["net.w"].size = torch.Size((4096, 4))
        key = next(iter(about.storage_data))
        place = dcp.filesystem._StorageInfo("__2_0.distcp", 0, len(data.getvalue()))
        about.storage_data = {key: place}

    folder = divided(tmp_path / "in", change)
    (folder / "__2_0.distcp").write_bytes(data.getvalue())
    with pytest.raises(InputError, match=r"a piece of net\.w is no tensor of its own"):
        formats.read(folder)


def test_nothing_in_the_metadata_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = formats.read(divided(tmp_path / "in", command)).data
    assert torch.equal(found["net.w"], NUMBERS) and not (tmp_path / "ran").exists()


def test_damaged_folders_give_one_line(tmp_path):
    folder, draw = divided(tmp_path / "in"), random.Random(0)
    for name in (".metadata", *ROWS):
        sound = (folder / name).read_bytes()
        for _ in range(60):
            data = bytearray(sound[: draw.choice((len(sound), draw.randrange(len(sound))))] or b"x")
            for _ in range(3):
                data[draw.randrange(len(data))] = draw.randrange(256)
            (folder / name).write_bytes(data)
            try:
                formats.read(folder)
            except InputError as error:
                assert str(folder) in str(error) and "\n" not in str(error)
        (folder / name).write_bytes(sound)
    assert torch.equal(formats.read(folder).data["net"]["w"], NUMBERS)
