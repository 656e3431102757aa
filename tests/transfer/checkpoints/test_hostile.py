"""Checkpoints damaged at random: one clear line or a good load, quickly, and nothing is
written or run.

The mutations come from a fixed seed. `DETCO_HOSTILE=5000 pytest ...` tries more of them, further
seeds included.
"""

import argparse
import io
import json
import os
import pickle
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detco.common.errors import InputError
from detco.transfer.checkpoints import importer
from detco.transfer.checkpoints.reader import formats

ROUNDS = int(os.environ.get("DETCO_HOSTILE", "200"))
LIMIT = 10  # seconds of the processor for one file
NAMES = ("conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer4.1.bn2.bias")
STATE = {name: torch.arange(12.0).view(3, 4) + n for n, name in enumerate(NAMES)}
CONTENT = {
    "state_dict": STATE,
    "epoch": 3,
    "args": argparse.Namespace(arch="resnet18", lr=[0.1, (1, 2)]),
    "optimizer": {"state": {0: {"step": torch.tensor(4)}}, "groups": [{"lr": 0.1}]},
}


def torch_file(new: bool) -> bytes:
    file = io.BytesIO()
    torch.save(CONTENT, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def numpy_file() -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: tensor.numpy() for name, tensor in STATE.items()})
    return file.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, bytes]:
    """A sound file of each format."""
    path = tmp_path_factory.mktemp("made") / "a.safetensors"
    save_file(STATE, path, {"format": "pt"})
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    return {
        "zip": torch_file(True),
        "older": torch_file(False),
        "pickle": pickle.dumps({"model": arrays, "tensors": STATE, "args": CONTENT["args"]}, 2),
        "pickle 4": pickle.dumps({"model": arrays, "args": CONTENT["args"]}, 4),
        "numpy": numpy_file(),
        "safetensors": path.read_bytes(),
    }


# --- mutations -----------------------------------------------------------------------------------

WILD = (b"\x00", b"\xff" * 8, b"\x7f" * 4, b"R", b"b", b"\x81", b"0", b"2", b".", b"(", b"e", b"}")
SYSTEM = b"cposix\nsystem\nS'touch ran'\n\x85R"  # a call of the shell, as opcodes
NUMBERS = ("-1", "0", "1e400", "null", "[]", "99999999999999999999", '"x"', "true", "4611686018")


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def splice(data: bytes, draw: random.Random) -> bytes:
    """A piece taken out, doubled or moved."""
    start, end = sorted(draw.randrange(len(data)) for _ in range(2))
    end = min(end, start + 400)
    to = draw.randrange(len(data))
    return draw.choice(
        (
            data[:start] + data[end:],
            data[:end] + data[start:],
            data[:to] + data[start:end] + data[to:],
        )
    )


def insert(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.choice((*WILD, SYSTEM)) + data[at:]


def in_the_pickle(data: bytes, draw: random.Random) -> bytes:
    """A torch archive whose pickle alone is damaged, its checksums right again."""
    return _rezipped(data, "data.pkl", lambda body: draw.choice((flip, splice, insert))(body, draw))


def in_an_entry(data: bytes, draw: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = draw.choice(archive.namelist())
    return _rezipped(data, name, lambda body: draw.choice((flip, cut))(body or b"x", draw))


def _rezipped(data: bytes, end: str, change: Callable[[bytes], bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            body = source.read(name)
            target.writestr(name, change(body) if name.endswith(end) else body)
    return file.getvalue()


def in_the_header(data: bytes, draw: random.Random) -> bytes:
    """A safetensors header with another number, name or length."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    word = draw.choice((b"12", b"48", b"3", b"0", b"F32", b"conv1", b"}", b",", b'"'))
    new = draw.choice((*(n.encode() for n in NUMBERS), b"I64", b"\\u0000", b"{" * 500, b""))
    at = draw.randrange(max(header.count(word), 1))
    parts = header.split(word)
    header = word.join(parts[: at + 1]) + new + word.join(parts[at + 1 :])
    stated = draw.choice((len(header), len(header), len(header), 1 << 62, length, 0))
    return struct.pack("<Q", stated) + header + body


ANY = (flip, cut, splice, insert)
MUTATIONS = {
    "zip": (*ANY, in_the_pickle, in_the_pickle, in_an_entry),
    "older": ANY,
    "pickle": ANY,
    "pickle 4": ANY,
    "numpy": (*ANY, in_an_entry),
    "safetensors": (*ANY, in_the_header, in_the_header),
}


# --- what must hold ------------------------------------------------------------------------------


def outcome(act: Callable[[], object], path: Path) -> str:
    """`read` or `refused`; anything else than one line that names the file fails the test."""
    start = time.process_time()
    try:
        act()
        result = "read"
    except InputError as error:
        text = str(error)
        assert str(path) in text and text.isprintable() and len(text) < 700
        result = "refused"
    assert time.process_time() - start < LIMIT
    return result


@pytest.mark.parametrize("kind", MUTATIONS)
def test_damaged_files(kind, made, tmp_path, monkeypatch):
    """Every round another damage. What can be read is imported too, which must refuse it: the file
    has four tensors."""
    draw = random.Random(f"{kind} 0")
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = folder / "weights.pth"
    path.write_bytes(made[kind])
    assert outcome(lambda: formats.read(path), path) == "read"
    results = []
    for _ in range(ROUNDS):
        mutated = draw.choice(MUTATIONS[kind])(made[kind], draw)
        for _ in range(draw.choice((0, 0, 0, 1, 2))):
            mutated = draw.choice(ANY)(mutated or b"x", draw)
        path.unlink()  # a new file: an earlier one may still be mapped
        path.write_bytes(mutated)
        results.append(outcome(lambda: formats.read(path), path))
        assert outcome(lambda: importer.load(path), path) == "refused"
    assert os.listdir(folder) == [path.name] and os.listdir(tmp_path) == ["files"]
    assert {"read", "refused"} == set(results)  # the damage is neither none nor total


def test_damaged_indices_of_shards(made, tmp_path):
    """An index leads to files beside it and nowhere else, whatever it says."""
    draw = random.Random("index 0")
    folder = tmp_path / "files"
    folder.mkdir()
    for path in (folder / "a.safetensors", tmp_path / "outside.safetensors"):
        path.write_bytes(made["safetensors"])
    index = folder / "model.safetensors.index.json"
    sound = json.dumps({"weight_map": dict.fromkeys(NAMES, "a.safetensors")})
    words = (
        "../outside.safetensors",
        str(tmp_path / "outside.safetensors"),
        "..",
        "{",
        "",
        ".",
        "a\\u0000",
        "model.safetensors.index.json",
    )
    results = set()
    for _ in range(ROUNDS):
        text = sound.replace("a.safetensors", draw.choice(words), draw.choice((0, 1, 4)))
        index.write_bytes(
            draw.choice((flip, cut, splice, lambda data, _: data))(text.encode(), draw)
        )
        try:
            found = formats.read(index).data
            results.add("read")
            assert found.keys() <= {*NAMES} and "outside" not in index.read_text()
        except InputError as error:
            results.add("refused")
            assert str(folder) in str(error) and str(error).isprintable()
    assert results == {"read", "refused"}
    assert sorted(os.listdir(tmp_path)) == ["files", "outside.safetensors"]
