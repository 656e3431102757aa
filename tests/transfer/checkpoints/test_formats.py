"""Files made to exhaust the machine, or that trip over the libraries that read them: one short
clear line for each."""

import argparse
import io
import os
import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detco.common.errors import InputError
from detco.transfer.checkpoints import detect
from detco.transfer.checkpoints.reader import formats, opcodes, stubs


def refusal(path: Path) -> str:
    """What is said of a file, without its path."""
    with pytest.raises(InputError) as error:
        formats.read(path)
    text = str(error.value).removeprefix(str(path))
    assert text != str(error.value) and text.isprintable() and len(text) < 310
    return text


def pickled(folder: Path, data: bytes, zipped: bool = False) -> Path:
    path = folder / "weights.pth"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", data)
            archive.writestr("a/version", b"3\n")
    else:
        path.write_bytes(data)
    return path


SAME = [[n + 1 for n in range(12)], [n + 2**61 for n in range(12)]]  # pairs of the same hash


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        # half a million of them crash Python
        (
            b"\x80\x02}N" + b"\x85" * 5000 + b"K\x01s.",
            "key of more than 1000 parts",
        ),
        (b"\x80\x02](" + b"}" * 3000 + b"e.", "more than 2000 opcodes"),
        (
            b"\x80\x02](" + b"".join(b"ca\n%d\n" % n for n in range(200)) + b"e.",
            "names objects more than 100 times",
        ),
        (pickle.dumps({"epoch": 10**5000}, 2), "an integer of 16610 bits"),
        (
            b"\x80\x02ctorch\nSize\nq\x00}("
            + b"h\x00" * 700
            + b"K\x01"
            + b"\x85\x85R" * 700
            + b"Nd.",
            "key of more than 1000 parts",
        ),
        # its hash is computed 2 ** 60 times
        (
            b"\x80\x02}K\x01" + b"2\x86" * 60 + b"Ns.",
            "key of more than 1000 parts",
        ),
        # all with one hash
        (
            pickle.dumps({(2**61 - 1) * n: None for n in range(10_100)}, 2),
            "state dict alone",
        ),
        # as well
        (
            pickle.dumps({tuple(-1 - int(b) for b in f"{n:012b}"): n for n in range(4000)}, 2),
            "state dict alone",
        ),
        (
            pickle.dumps(
                {
                    frozenset(SAME[int(b)][i] for i, b in enumerate(f"{n:012b}"))
                    for n in range(4000)
                },
                4,
            ),
            "state dict alone",
        ),
        # twins too
        (
            b"\x80\x02}Nq\x01" + b"0ctorch\nSize\n](h\x01h\x01e\x85Rq\x01" * 60 + b"Ns.",
            "shape of impossible size",
        ),
        (b"S" + b"x" * 5000 + b"\n.", "no string quotes"),
    ],
    ids=[
        "tuples",
        "opcodes",
        "names",
        "integer",
        "sizes",
        "twins",
        "wide keys",
        "tuple keys",
        "set keys",
        "twin sizes",
        "string",
    ],
)
def test_pickles_that_would_exhaust_the_machine(tmp_path, monkeypatch, data, says, zipped):
    monkeypatch.setattr(opcodes, "MOST", 2000 if "opcodes" in says else 100_000)
    monkeypatch.setattr(opcodes, "MOST_NAMES", 100)
    assert says in refusal(pickled(tmp_path, data, zipped))
    assert not stubs.is_shape((1 << 39,) * 300_000)  # a product that takes minutes


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "keys",
    [[np.int64(n) for n in range(3000)], [(n, "x") for n in range(5000)]],
    ids=["numpy", "tuples"],
)
def test_honest_dictionaries_beside_the_weights_are_read(tmp_path, keys, protocol):
    (tmp_path / "a.pkl").write_bytes(
        pickle.dumps({"names": dict.fromkeys(keys, 1), "w": np.ones(2, "f4")}, protocol)
    )
    read = formats.read(tmp_path / "a.pkl").data
    assert list(read["names"]) == keys and read["w"].tolist() == [1.0, 1.0]


BIG = 20_000  # entries, or bytes, that one object passed to many calls has
CALLS = {
    "sizes": b"ctorch\nSize\n](" + b"K\x01" * BIG + b"e\x85",
    "texts": (
        b"c_codecs\nencode\nX"
        + struct.pack("<I", BIG * 50)
        + b"a" * (BIG * 50)
        + b"X\x06\x00\x00\x00latin1\x86"
    ),
    "dictionaries": (
        b"ccollections\nOrderedDict\n}("
        + b"".join(b"M%sN" % struct.pack("<H", n) for n in range(BIG))
        + b"u\x85"
    ),
    "objects": b"cx\nY\n(" + b"N" * BIG + b"t",
    "tensors": b"ctorch._utils\n_rebuild_parameter\n(" + b"N" * BIG + b"t",
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_passed_to_many_calls_does_not_multiply(tmp_path, name, zipped):
    """Of 1,500 calls each would copy all: gigabytes, of a file of 100 kB to 1 MB."""
    function, argument = CALLS[name].split(b"\n", 2)[:2], CALLS[name].split(b"\n", 2)[2]
    data = (
        b"\x80\x02]("
        + b"\n".join(function)
        + b"\nq\x00"
        + argument
        + b"q\x01R"
        + b"h\x00h\x01R" * 1500
        + b"e."
    )
    tracemalloc.start()
    assert ("impossible size" if name == "sizes" else "far more than the file holds") in refusal(
        pickled(tmp_path, data, zipped)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * stubs.FREE


@pytest.mark.parametrize("made", [b"ccollections\nOrderedDict\n)R", b"cx\nY\n)R", b"cx\nY\n)\x81"])
def test_a_state_set_many_times_is_refused(tmp_path, made):
    state = b"}(" + b"".join(b"X\x05\x00\x00\x00%05dN" % n for n in range(BIG)) + b"u"
    data = b"\x80\x02](" + made + state + b"q\x01b" + (made + b"h\x01b") * 1500 + b"e."
    assert "far more than the file holds" in refusal(pickled(tmp_path, data, zipped=True))


def test_a_nested_torch_file_is_not_read_a_thousand_times(tmp_path, monkeypatch):
    file = io.BytesIO()
    torch.save(torch.zeros(3).untyped_storage(), file, _use_new_zipfile_serialization=False)
    ends = [file.seek(0)] + [list(pickletools.genops(file)) and file.tell() for _ in range(3)]
    # a long "system"
    data = (
        file.getvalue()[: ends[2]] + b"\x80\x02" + b"N0" * 2000 + b"}." + file.getvalue()[ends[3] :]
    )
    call = (
        b"\x80\x03](ctorch.storage\n_load_from_bytes\nq\x00B"
        + struct.pack("<I", len(data))
        + data
        + b"\x85q\x01R"
    )
    monkeypatch.setattr(stubs, "FREE", 1 << 23)  # 20 times
    assert len(formats.read(pickled(tmp_path, call + b"h\x00h\x01R" * 9 + b"e.")).data) == 10
    assert "far more than the file holds" in refusal(
        pickled(tmp_path, call + b"h\x00h\x01R" * 1500 + b"e.")
    )


def test_torch_makes_no_objects_either(tmp_path):
    """`bytearray(n)` is allowed by torch's own reader, and takes n bytes."""
    data = b"\x80\x02}X\x01\x00\x00\x00xcbuiltins\nbytearray\nK\x32\x85Rs."
    assert isinstance(formats.read(pickled(tmp_path, data, zipped=True)).data["x"], stubs.Inert)


def test_torch_files_within_torch_files_are_refused(tmp_path):
    file = io.BytesIO()
    torch.save(torch.zeros(3).untyped_storage(), file, _use_new_zipfile_serialization=False)
    data = file.getvalue()
    for _ in range(2):  # each level would hold all that it contains once more
        call = (
            b"\x80\x03ctorch.storage\n_load_from_bytes\nB"
            + struct.pack("<I", len(data))
            + data
            + b"\x85R."
        )
        data = (
            b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
            + call
            + pickle.dumps([], 2)
        )
    assert "within a torch file" in refusal(pickled(tmp_path, data))


def test_what_is_named_many_times_is_made_once(tmp_path):
    base = torch.arange(1000.0)
    for pad in range(1, 9):  # the storage begins at any byte
        content = {"n" * pad: [base[n : n + 1] for n in range(50)], "other": argparse.Namespace()}
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
        read = formats.read(tmp_path / "a.pth").data["n" * pad]
        assert [float(tensor) for tensor in read] == list(range(50))
        assert len({tensor.untyped_storage().data_ptr() for tensor in read}) == 1
    array = np.arange(1000.0)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([array] * 50, 2))
    read = formats.read(tmp_path / "a.pkl").data
    assert np.array_equal(read[0].numpy(), array) and len({id(tensor) for tensor in read}) == 1


@pytest.mark.parametrize("beside", [None, argparse.Namespace()], ids=["plain", "with an object"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "older format"])
def test_expanded_tensors_are_read_as_views(tmp_path, beside, new):
    five, huge, wanted = (
        torch.full((1,), 3.0).expand(5),
        torch.ones(2, 1).expand(2, 1 << 38),
        torch.arange(6.0),
    )
    content = {"state_dict": {"w": wanted}, "five": five, "memory": {"huge": huge}, "other": beside}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    read = formats.read(tmp_path / "a.pth").data
    assert read["five"].tolist() == [3.0] * 5 and read["memory"]["huge"].shape == (2, 1 << 38)
    places = detect.places(read)
    assert places["state_dict"]["w"].tolist() == wanted.tolist() and places[""].keys() == {"five"}


def test_arrays_that_share_their_bytes_a_thousand_times_are_refused(tmp_path):
    one = b"cnumpy.core.multiarray\n_reconstruct\n)R"
    one += b"(K\x01M\xe8\x03\x85cnumpy\ndtype\nU\x02f4\x85R\x89"
    data = (
        b"\x80\x03]("
        + one
        + b"B"
        + struct.pack("<I", 4000)
        + bytes(4000)
        + b"q\x01tb"
        + (one + b"h\x01tb") * 99
        + b"e."
    )
    assert "more room than the file has" in refusal(pickled(tmp_path, data))


def npy(header: str, body: bytes = b"") -> bytes:
    return (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + body
    )


@pytest.mark.parametrize(
    "member",
    [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 60,), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,), }", b"1234"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4000,), }", b"1234"),
        npy("{1: 2, 'shape': 3}"),
        npy("{" + " " * 30_000 + "}"),
        npy("-" * 9000 + "1"),
    ],
    ids=["expression", "huge", "short", "keys", "long", "nested"],
)
def test_odd_npz_files(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", member)
    assert refusal(tmp_path / "a.npz")


def test_members_of_an_npz_that_are_no_arrays_of_numbers(tmp_path):
    wanted = np.arange(6, dtype=">f4").reshape(2, 3)
    np.savez(
        tmp_path / "a.npz",
        w=wanted,
        text=np.array(["x"]),
        wide=np.ones(2, "longdouble"),
        complex=np.ones(2, complex),
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("readme.txt", "some text")
        archive.writestr("b.npy", "no array")
    read = formats.read(tmp_path / "a.npz").data
    assert read.keys() == {"w"} and np.array_equal(read["w"].numpy(), wanted)


def test_zip_members_that_cannot_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(
            "a.npy",
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (500,), }", os.urandom(2000)),
        )
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[60:200] = bytes(140)
    (tmp_path / "a.npz").write_bytes(data)
    assert "damaged" in refusal(tmp_path / "a.npz")


def test_numbers_that_are_not_real_are_refused(tmp_path):
    save_file({"conv1.weight": torch.ones(2, dtype=torch.complex64)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"conv1\.weight as torch\.complex64"):
        detect.places(formats.read(tmp_path / "a.safetensors").data)
    # shapes without numbers
    torch.save({"a": torch.ones(2, device="meta"), "b": torch.ones(2)}, tmp_path / "a.pth")
    assert detect.places(formats.read(tmp_path / "a.pth").data)[""].keys() == {"b"}
    with pytest.raises(InputError, match="21000 tensors"):
        detect.places({str(n): torch.ones(()) for n in range(21_000)})


def test_pipes_and_folders(tmp_path):
    os.mkfifo(tmp_path / "a.pth")
    for path in (tmp_path / "a.pth", tmp_path):
        assert not formats.is_backbone_file(path)  # and does not wait for a writer
        with pytest.raises(InputError, match="no checkpoint at"):
            formats.read(path)
