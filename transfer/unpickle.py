"""Pickles read without running anything in them.

A pickle names Python objects and asks for them to be called. Here no name is ever looked up: tensors and arrays become
descriptions (`Lazy`, `Array`), ordered dictionaries become dictionaries, and everything else becomes `Inert`, a dictionary
that takes whatever is done to it and does nothing. All opcodes are checked before the first one is obeyed.
"""

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

from . import InputError, opcodes

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a torch file from before torch 1.6
DTYPES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
}  # fmt: skip
SIZES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}  # bytes; others 1
NUMBER = re.compile(r"[<>=|]?([iufb][1248]|float(16|32|64)|u?int(8|16|32|64)|bool)")  # numpy's names of kinds of number
LIMIT = 1 << 40  # numbers in one tensor
DAMAGE = (
    pickle.UnpicklingError, ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, OverflowError,
    MemoryError, RecursionError, ImportError, OSError,
)  # fmt: skip


class Inert(dict):
    """Stands for an object that was not made. Keeps what is put into it as a dictionary, ignores everything else."""

    name = "?"
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __call__(self, *args, **kwargs):
        return self

    def __setstate__(self, state):
        if type(state) is dict:
            self.update(state)

    def _ignore(self, *args):
        pass

    append = extend = add = _ignore


class Ordered(dict):
    """`collections.OrderedDict` without its attributes (`_metadata` of state dicts)."""

    def __setstate__(self, state):
        pass


class Fixed:
    """Not to be changed by a pickle once it is made."""

    def __setstate__(self, state) -> NoReturn:
        raise ValueError(f"a {type(self).__name__.lower()} is changed after it was made")


class Storage(Fixed):
    """What tensors lie in: `count` numbers of a kind that begin at byte `start` of `data`, or of the file where that is None."""

    def __init__(self, dtype: str, key: str, count: int):
        self.dtype, self.key, self.count = dtype, key, count
        self.start: int | None = None
        self.data: bytes | None = None


class Lazy(Fixed):
    """A tensor not read yet: a view of a storage; `offset` and `stride` count numbers."""

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], dtype: str):
        self.storage, self.offset, self.shape, self.stride, self.dtype = storage, offset, shape, stride, dtype


class Kind(Fixed):
    """A kind of storage or number that a pickle names, e.g. `torch.FloatStorage` or `torch.float16`."""

    def __init__(self, name: str):
        self.name = name


class Call(Fixed):
    """One of our functions in place of the one a pickle names; it can be called and nothing else."""

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class Dtype:
    """`numpy.dtype` as its pickle describes it; the byte order comes with the state."""

    def __init__(self, text: Any = "", *args: Any):
        self.text = text

    def __setstate__(self, state):
        if type(self.text) is str and len(state) > 1 and state[1] in ("<", ">"):
            self.text = state[1] + self.text.lstrip("<>=|")


class Array:
    """A numpy array as its pickle describes it."""

    def __init__(self, dtype: Any = None, shape: Any = (), data: Any = b"", fortran: Any = False):
        self.dtype, self.shape, self.data, self.fortran = dtype, shape, data, fortran

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.fortran, self.data = state

    def read(self):
        """-> numpy array. Raises ValueError if bytes, shape and kind of number do not fit one another."""
        import numpy as np

        data = self.data.encode("latin1") if type(self.data) is str else self.data  # str: written by Python 2
        text = getattr(self.dtype, "text", None)
        if type(data) not in (bytes, bytearray) or type(text) is not str or not NUMBER.fullmatch(text):
            raise ValueError("an array of something else than numbers")
        kind = np.dtype(text)
        if not is_shape(self.shape) or math.prod(self.shape) * kind.itemsize != len(data):
            raise ValueError(f"an array whose shape does not fit its {len(data)} bytes")
        array = np.frombuffer(data, kind).reshape(self.shape, order="F" if self.fortran else "C")
        return array.astype(kind.newbyteorder("="), order="C")


def is_shape(shape: Any) -> bool:
    return type(shape) is tuple and all(type(n) is int and 0 <= n < LIMIT for n in shape) and math.prod(shape) < LIMIT


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> Lazy:
    """`torch._utils._rebuild_tensor`, `_v2` and `_v3`; the last brings the kind of number along."""
    sound = isinstance(storage, Storage) and is_shape((offset,)) and is_shape(shape) and type(stride) is tuple
    if not sound or len(shape) != len(stride) or not all(is_shape((step,)) for step in stride):
        raise ValueError("a tensor without a sound storage, shape or stride")
    return Lazy(storage, offset, shape, stride, next((part.name for part in more if isinstance(part, Kind)), storage.dtype))


def _of_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    return function(*args) if function is KNOWN["torch._utils._rebuild_tensor_v2"] else Inert()


def _scalar(dtype: Any, data: Any = b"") -> Any:
    try:
        return Array(dtype, (), data).read().item()
    except ValueError:
        return Inert()


def _storage_in_bytes(data: Any) -> Any:
    """`torch.storage._load_from_bytes`: a storage within a plain pickle is a torch file of its own."""
    if type(data) is not bytes:
        return Inert()
    file = io.BytesIO(data)
    storage = load_torch(file) if load(file) == MAGIC else None
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without numbers")
    storage.data = data
    return storage


def _rows(pairs: Any = ()) -> Ordered:
    return Ordered(pairs if type(pairs) in (list, dict) else ())


KNOWN: dict[str, Call] = {
    "collections.OrderedDict": Call(_rows),
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_tensor_v3": Call(_tensor),
    "torch._utils._rebuild_parameter": Call(lambda data, *more: data),
    "torch._utils._rebuild_parameter_with_state": Call(lambda data, *more: data),
    "torch._tensor._rebuild_from_type_v2": Call(_of_type),
    "torch.storage._load_from_bytes": Call(_storage_in_bytes),
    "torch.Size": Call(lambda values=(): tuple(values) if type(values) in (tuple, list) else ()),
    "numpy.dtype": Call(Dtype),
    "_codecs.encode": Call(lambda text, encoding: text.encode("latin1") if type(text) is str else Inert()),  # bytes, protocol 2
} | {
    f"numpy.{core}.{name}": Call(function)
    for core in ("core", "_core")  # numpy 1, numpy 2
    for name, function in (
        ("multiarray._reconstruct", lambda *args: Array()),
        ("multiarray.scalar", _scalar),
        ("numeric._frombuffer", lambda data, dtype, shape, order="C": Array(dtype, shape, data, order == "F")),
    )
}
KINDS = {f"torch.{part}{name}": dtype for name, dtype in DTYPES.items() for part in ("", "storage.", "cuda.")}
KINDS |= {f"torch.{dtype}": dtype for dtype in DTYPES.values()}


def stand_in(module: str, name: str) -> Any:
    """What a pickle gets for the object it names. Nothing is imported and no name is looked up."""
    full = f"{module}.{name}"
    if full in KINDS:
        return Kind(KINDS[full])
    return KNOWN.get(full) or type("Inert", (Inert,), {"name": full})


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storages: dict[str, Storage]):
        super().__init__(file, encoding="latin1")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        return stand_in(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """("storage", kind, key, device, count, ...) -> Storage, one for each key. The device does not matter here."""
        if not (type(pid) is tuple and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], Kind)):
            return Inert()
        _, kind, key, _, count = pid[:5]
        if type(key) is not str or not is_shape((count,)):
            raise ValueError("a storage of impossible size")
        found = self.storages.setdefault(key, Storage(kind.name, key, count))
        if (found.dtype, found.count) != (kind.name, count):
            raise ValueError(f"storage {key} is described in two ways")
        return found


def load(file: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """The next pickle of a seekable file; `storages` collects what its tensors lie in. The file is left behind the pickle.

    Raises InputError, without the file's name, for one that is damaged or absurd.
    """
    start = file.tell()
    try:
        opcodes.check(file)
        file.seek(start)
        return _Unpickler(file, {} if storages is None else storages).load()
    except InputError:
        raise
    except DAMAGE as error:
        what = "it claims more than the file holds" if isinstance(error, MemoryError) else str(error) or type(error).__name__
        raise InputError(f"damaged, or not a pickle of data ({what})") from None


def load_torch(file: BinaryIO) -> Any:
    """The rest of a torch file from before 1.6, behind its magic number: version, system, data, names of the storages, and
    each storage as a count and its numbers. Raises InputError, without the file's name, for a damaged or truncated one.
    """
    storages: dict[str, Storage] = {}
    _, system, data, keys = load(file), load(file), load(file, storages), load(file)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise InputError("written on a big-endian machine; save it again on an ordinary one")
    start = file.tell()
    end = file.seek(0, 2)
    for key in keys if type(keys) is list else []:
        file.seek(start)
        storage, count = storages.get(key) if type(key) is str else None, int.from_bytes(file.read(8), "little", signed=True)
        length = 8 + count * SIZES.get(storage.dtype, 1) if storage else 0
        if storage is None or count != storage.count or start + length > end:
            raise InputError("truncated or damaged: it ends before the numbers of its tensors do")
        storage.start, start = start + 8, start + length
    return data
