"""Nothing in a checkpoint is executed: hostile files leave no trace, absurd and damaged ones give
one clear line."""

import argparse
import builtins
import collections
import copyreg
import functools
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from detco.common.errors import InputError
from detco.transfer.checkpoints.reader import formats, stubs, unpickle


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced

    def __call__(self):
        """What it gives can be called: `Call(Call(...))`."""


class SetState:
    """Runs code when its state is set."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __setstate__(self, state):
        Path(state["trace"]).touch()


class Subclass(torch.Tensor):
    pass


def touch(trace) -> str:
    return f"touch '{trace}'"


def python(trace) -> str:
    return f"open({str(trace)!r}, 'w').close()"


PAYLOADS = {
    "os.system": lambda t: Call(os.system, touch(t)),
    "posix_spawn": lambda t: Call(subprocess.check_call, ["touch", str(t)]),
    "eval": lambda t: Call(builtins.eval, python(t)),
    "exec": lambda t: Call(builtins.exec, python(t)),
    "getattr": lambda t: Call(
        Call(builtins.getattr, Call(builtins.__import__, "os"), "system"), touch(t)
    ),
    "import": lambda t: Call(builtins.__import__, "antics"),
    "in containers": lambda t: {
        "a": [({"b": Call(os.system, touch(t))},)],
        "c": {Call(os.system, touch(t))},
    },
    "as a key": lambda t: {Call(os.system, touch(t)): 1},
    "partial": lambda t: Call(functools.partial(os.system, touch(t))),
    "map": lambda t: Call(builtins.list, Call(builtins.map, os.system, [touch(t)])),
    "setstate": SetState,
    "copyreg": lambda t: Call(
        copyreg._reconstructor, SetState, object, None, state={"trace": str(t)}
    ),
    "defaultdict": lambda t: Call(
        collections.defaultdict(functools.partial(os.system, touch(t))).__getitem__, 1
    ),
    "nested torch file": lambda t: Call(torch.storage._load_from_bytes, nested(t)),
    "tensor subclass": lambda t: Call(
        torch._tensor._rebuild_from_type_v2, os.system, Subclass, (touch(t),), None
    ),
    "in an argument": lambda t: Call(
        torch._utils._rebuild_tensor_v2, Call(os.system, touch(t)), 0, (1,), (1,), False, None
    ),
    "ordered dictionary": lambda t: Call(
        collections.OrderedDict, [["a", Call(os.system, touch(t))]]
    ),
}


def pickled(value, protocol=2) -> bytes:
    return pickle.dumps(value, protocol=protocol)


def nested(trace) -> bytes:
    file = io.BytesIO()
    torch.save(Call(os.system, touch(trace)), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """A file that appears if anything ran; `antics` is a module that makes it when imported."""
    path = tmp_path / "trace"
    (tmp_path / "antics.py").write_text(python(path))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    sys.modules.pop("antics", None)


def run_for_real(data: bytes) -> None:
    try:
        pickle.loads(data)
    except Exception as error:  # some payloads fail after they ran
        print(error)


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_payloads_run_in_python_and_not_here(name, protocol, trace, tmp_path):
    data = pickled(PAYLOADS[name](trace), protocol)
    path = tmp_path / "weights.pkl"
    path.write_bytes(data)
    try:
        formats.read(path)
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    assert not trace.exists() and "antics" not in sys.modules
    run_for_real(data)
    assert trace.exists()  # the payload is a real one


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "older format"])
def test_payloads_in_torch_files_do_not_run_and_the_weights_are_read(name, new, trace, tmp_path):
    wanted = torch.arange(6.0).view(2, 3)
    content = {
        "state_dict": collections.OrderedDict(w=wanted),
        "hyper_parameters": PAYLOADS[name](trace),
        "epoch": 3,
    }
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=new)
    # no tensor can be made of that; no weights are to be trusted then
    if name in (
        "in an argument",
        "nested torch file",
    ):
        with pytest.raises(InputError, match=r"weights\.pth"):
            formats.read(tmp_path / "weights.pth")
    else:
        read = formats.read(tmp_path / "weights.pth").data
        assert torch.equal(read["state_dict"]["w"], wanted) and read["epoch"] == 3
    assert not trace.exists() and "antics" not in sys.modules


def test_opcodes_that_refer_outside_or_reserve_memory_are_refused(tmp_path):
    copyreg.add_extension("os", "system", 240)
    try:
        files = {
            "EXT1": b"\x80\x02\x82\xf0X\x04\x00\x00\x00true\x85R.",
            "memo entry": b"\x80\x02]r\xff\xff\xff\x7f.",
            "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
            "NEXT_BUFFER": b"\x80\x05\x97.",
            # hashing that crashes Python
            "more than 1000 parts": (b"\x80\x02}N" + b"\x85" * 500_000 + b"K\x01s."),
            "refers to what is not there": b"\x80\x02\x85.",
            # bytes that are not there
            "more than the file holds": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x."),
        }
        for says, data in files.items():
            (tmp_path / "a.pkl").write_bytes(data)
            with pytest.raises(InputError, match=says):
                formats.read(tmp_path / "a.pkl")
    finally:
        copyreg.remove_extension("os", "system", 240)


def test_what_is_ours_cannot_be_changed_by_a_pickle():
    """BUILD on one of our functions or on a finished tensor would change how the next
    file is read."""
    build = b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'function'\nNstb."
    with pytest.raises(InputError, match="changed after it was made"):
        unpickle.load(io.BytesIO(build))
    assert callable(unpickle.KNOWN["torch._utils._rebuild_tensor_v2"].function)


def test_deep_and_tangled_containers_are_read(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".")
    assert isinstance(formats.read(tmp_path / "a.pkl").data, list)
    tangle: list = []
    for _ in range(200):  # 2 ** 200 paths
        tangle = [tangle, tangle]
    tangle[0].append(tangle)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": tangle, "w": np.ones(2, "f4")}))
    assert formats.read(tmp_path / "a.pkl").data["w"].tolist() == [1.0, 1.0]


def test_inert_objects_take_anything_and_do_nothing():
    space = argparse.Namespace(lr=0.1, nested=argparse.Namespace(path=Path("x")))
    read = unpickle.load(io.BytesIO(pickle.dumps([space, {1, 2}, complex(1, 2), space, len, int])))
    assert isinstance(read[0], stubs.Inert) and read[0].name == "argparse.Namespace"
    assert read[0]["lr"] == 0.1 and isinstance(read[0]["nested"]["path"], stubs.Inert)
    assert read[3] is read[0] and read[0]() is read[0] and {read[0]: 1}


# --- tensors and arrays are what they were -------------------------------------------------------

KINDS = (
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "older format"])
def test_every_kind_of_tensor(tmp_path, new):
    made = {kind: torch.arange(12).view(3, 4).to(getattr(torch, kind)) for kind in KINDS}
    base = torch.randn(50)
    made |= {
        "view": base[5:25].view(4, 5).t(),
        "same": base,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    made["parameter"] = torch.nn.Parameter(torch.randn(3))
    torch.save(
        {"model": made, "args": argparse.Namespace()},
        tmp_path / "t.pt",
        _use_new_zipfile_serialization=new,
    )
    read = formats.read(tmp_path / "t.pt").data["model"]
    for name, tensor in made.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("core", ["core", "_core"])
def test_arrays_of_numpy_1_and_2_in_every_protocol(tmp_path, protocol, core):
    arrays = {
        "c": np.arange(12, dtype="f4").reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "big endian": np.arange(5, dtype=">i4"),
        "scalar": np.float32(1.5),
        "whole": np.int64(7),
        "flag": np.bool_(True),
    }
    data = pickle.dumps(
        arrays | {"object": np.array([{}]), "date": np.datetime64("2020-01-01")}, protocol=protocol
    )
    if protocol < 4:  # names are text: put the other numpy's in their place
        data = data.replace(b"numpy._core.", b"numpy.core.").replace(
            b"numpy.core.", f"numpy.{core}.".encode()
        )
    (tmp_path / "a.pkl").write_bytes(data)
    read = formats.read(tmp_path / "a.pkl").data
    for name in ("c", "fortran", "big endian"):
        assert np.array_equal(read[name].numpy(), arrays[name]), name
    assert (read["scalar"], read["whole"], read["flag"], read["object"]) == (1.5, 7, True, None)


def test_array_written_by_python_2(tmp_path):
    """Protocol 2 of Python 2: bytes are `str`, and names are `numpy.core.multiarray`."""
    raw = np.array([1.0, 200.0], "<f4").tobytes()
    data = (
        b"\x80\x02}U\x07conv1_wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + raw + b"tbs."
    )
    (tmp_path / "a.pkl").write_bytes(data)
    assert formats.read(tmp_path / "a.pkl").data["conv1_w"].tolist() == [1.0, 200.0]
    # as Python reads it
    assert pickle.loads(data, encoding="latin1")["conv1_w"].tolist() == [
        1.0,
        200.0,
    ]


def test_tensors_in_a_plain_pickle(tmp_path):
    made = {"w": torch.randn(3, 4), "n": torch.tensor(3)}
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(made))
    read = formats.read(tmp_path / "t.pkl").data
    assert all(torch.equal(read[k], v) for k, v in made.items())


# --- absurd and damaged files --------------------------------------------------------------------


def torch_zip(
    path: Path,
    count,
    shape,
    stride,
    offset=0,
    more: dict | None = None,
    compress=zipfile.ZIP_STORED,
) -> Path:
    """A torch file with one storage of ten floats, described as said."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    pid = ("storage", torch.FloatStorage, "0", "cuda:7", count)
    data = io.BytesIO()
    tensor = Call(
        torch._utils._rebuild_tensor_v2,
        pid,
        offset,
        shape,
        stride,
        False,
        collections.OrderedDict(),
    )
    Pickler(data, 2).dump({"w": tensor, "object": argparse.Namespace()})
    files = {
        "a/data.pkl": data.getvalue(),
        "a/version": b"3\n",
        "a/data/0": np.arange(10, dtype="f4").tobytes(),
    } | (more or {})
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_tensors_of_a_gpu_are_read_without_one(tmp_path):
    read = formats.read(torch_zip(tmp_path / "t.pth", 10, (2, 5), (5, 1))).data["w"]
    assert read.device.type == "cpu" and read.flatten().tolist() == list(range(10))


@pytest.mark.parametrize(
    ("count", "shape", "stride", "offset"),
    [
        (10**6, (10,), (1,), 0),
        (10**15, (10,), (1,), 0),
        (-1, (4,), (1,), 0),
        (10, (11,), (1,), 0),
        (10, (10,), (1,), 1),
        (10, (5,), (-1,), 0),
        (10, (-5,), (1,), 0),
        (10, (2, 2), (1,), 0),
        (10, (4,), (3,), 1),
        (10, (1 << 50,), (0,), 0),
        (True, (1,), (1,), 0),
        ("10", (1,), (1,), 0),
        (10, [1], (1,), 0),
    ],
)
def test_wild_sizes_are_refused(tmp_path, count, shape, stride, offset):
    with pytest.raises(InputError, match=r"t\.pth: damaged") as error:
        formats.read(torch_zip(tmp_path / "t.pth", count, shape, stride, offset))
    assert "\n" not in str(error.value)


def test_traps_in_archives(tmp_path, monkeypatch):
    made = torch_zip(tmp_path / "t.pth", 10, (10,), (1,), compress=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed zip"):
        formats.read(made)
    monkeypatch.setattr(formats, "LARGEST_PICKLE", 100)
    with pytest.raises(InputError, match="its pickle has"):
        formats.read(torch_zip(tmp_path / "t.pth", 10, (10,), (1,)))
    with pytest.raises(InputError, match="TorchScript"):
        formats.read(torch_zip(tmp_path / "t.pth", 10, (10,), (1,), more={"a/constants.pkl": b""}))
    monkeypatch.setattr(formats, "LARGEST_NPZ", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", w=np.zeros(1 << 20))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 14
    with pytest.raises(InputError, match="unpacks to more than"):
        formats.read(tmp_path / "bomb.npz")


def test_npz_with_objects_is_not_unpickled(tmp_path, trace):
    np.savez(tmp_path / "a.npz", w=np.array([PAYLOADS["os.system"](trace)], dtype=object))
    with pytest.raises(InputError, match=r"not a \.npz file of numbers"):
        formats.read(tmp_path / "a.npz")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "web page"),
        (b"<HTML><body>404", "web page"),
        (b"\xef\xbb\xbf<!-- -->", "web page"),
        (b"<Error><Code>AccessDenied</Code></Error>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 94\n", "git lfs pull"),
        (b'{"message": "Not Found"}', "JSON text"),
        (b"\x1f\x8b\x08 gzip", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x00" * 257 + b"ustar\x0000" + b"\x00" * 600, "tar archive"),
        (b"PK\x03\x04 not a zip", "damaged or truncated"),
        (b"\x80\x02}q\x00(X\x05\x00", "damaged"),
        (b"just some text, no pickle", "damaged"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, says):
    path = tmp_path / "moco_v2_800ep_pretrain.pth.tar"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        formats.read(path)
    assert (
        str(path) in str(error.value)
        and "\n" not in str(error.value)
        and len(str(error.value)) < 400
    )


@pytest.mark.parametrize("new", [True, False], ids=["zip", "older format"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_torch_files(tmp_path, new, share):
    torch.save(
        {"w": torch.randn(5000), "v": torch.randn(5000)},
        tmp_path / "t.pth",
        _use_new_zipfile_serialization=new,
    )
    whole = (tmp_path / "t.pth").read_bytes()
    (tmp_path / "t.pth").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"truncated|damaged"):
        formats.read(tmp_path / "t.pth")


def test_tensors_of_the_older_format_that_do_not_begin_at_a_multiple_of_their_size(tmp_path):
    for length in range(1, 9):  # the names' length shifts the numbers
        made = {"n" * length: torch.arange(7.0), "m": torch.arange(5, dtype=torch.float64)}
        torch.save(made, tmp_path / "t.pth", _use_new_zipfile_serialization=False)
        read = formats.read(tmp_path / "t.pth").data
        assert all(torch.equal(read[k], v) for k, v in made.items())
