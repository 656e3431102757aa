"""Pickles read without running anything in them.

A pickle names Python objects and asks for them to be called. Here no name is ever looked up:
tensors and arrays become descriptions (`Lazy`, `Array`), ordered dictionaries become dictionaries,
and everything else becomes `Inert`, a dictionary that takes whatever is done to it and does
nothing. All opcodes are checked before the first one is obeyed.
"""

import io
import pickle
from functools import partial
from typing import Any, BinaryIO

from detco.common.errors import InputError

from . import opcodes
from .stubs import (
    COPIES,
    DTYPES,
    KINDS,
    SIZES,
    Array,
    Call,
    Dtype,
    Inert,
    Kind,
    Lazy,
    Ordered,
    Storage,
    is_shape,
    named,
)

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a torch file from before torch 1.6
DAMAGE = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    RecursionError,
    ImportError,
    OSError,
)


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, *more: Any, typed: bool = False
) -> Any:
    """`torch._utils._rebuild_tensor`, `_v2` and, `typed`, `_v3`, which brings the kind of number
    along (unknown: no tensor)."""
    sound = (
        isinstance(storage, Storage)
        and is_shape((offset,))
        and is_shape(shape)
        and type(stride) is tuple
    )
    if not sound or len(shape) != len(stride) or not all(is_shape((step,)) for step in stride):
        raise ValueError("a tensor without a sound storage, shape or stride")
    kind = more[2] if typed else storage
    return (
        Lazy(storage, offset, shape, stride, kind.dtype)
        if isinstance(kind, Kind | Storage)
        else Inert()
    )


def _of_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    return function(*args) if function is KNOWN["torch._utils._rebuild_tensor_v2"] else Inert()


def _scalar(dtype: Any, data: Any = b"") -> Any:
    try:
        return Array(dtype, (), data).read().item()
    except ValueError:
        return Inert()


def _storage_in_bytes(data: Any) -> Any:
    """`torch.storage._load_from_bytes`: a storage within a plain pickle is a torch file
    of its own."""
    if type(data) is not bytes:
        return Inert()
    file = io.BytesIO(data)
    storage = load_torch(file, nested=True) if load(file, nested=True) == MAGIC else None
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without numbers")
    storage.data = data
    return storage


def _rows(pairs: Any = ()) -> Ordered:
    if type(pairs) is list:  # written by Python 2
        return Ordered(
            pair
            for pair in pairs
            if type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) is str
        )
    return Ordered(named(pairs) if type(pairs) is dict else ())


def _size(values: Any = ()) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or not is_shape(tuple(values)):
        raise ValueError("a shape of impossible size")
    return tuple(values)


KNOWN: dict[str, Call] = {
    "collections.OrderedDict": Call(_rows),
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_tensor_v3": Call(partial(_tensor, typed=True)),
    "torch._utils._rebuild_parameter": Call(lambda data, *more: data),
    "torch._utils._rebuild_parameter_with_state": Call(lambda data, *more: data),
    "torch._tensor._rebuild_from_type_v2": Call(_of_type),
    "torch.storage._load_from_bytes": Call(_storage_in_bytes),
    "torch.Size": Call(_size),
    "numpy.dtype": Call(Dtype),
    # bytes, protocol 2
    "_codecs.encode": Call(
        lambda text, encoding: text.encode("latin1") if type(text) is str else Inert()
    ),
} | {
    f"numpy.{core}.{name}": Call(function)
    for core in ("core", "_core")  # numpy 1, numpy 2
    for name, function in (
        ("multiarray._reconstruct", lambda *args: Array()),
        ("multiarray.scalar", _scalar),
        (
            "numeric._frombuffer",
            lambda data, dtype, shape, order="C": Array(dtype, shape, data, order == "F"),
        ),
    )
}
OF_KINDS = {
    f"torch.{part}{name}": dtype
    for name, dtype in DTYPES.items()
    for part in ("", "storage.", "cuda.")
}
OF_KINDS |= {f"torch.{dtype}": dtype for dtype in KINDS}
# a pickle that names nothing else holds tensors and plain containers
PLAIN = KNOWN.keys() | OF_KINDS.keys()


def stand_in(module: str, name: str) -> Any:
    """What a pickle gets for the object it names. Nothing is imported and no name is looked up."""
    full = f"{module}.{name}"
    if full in OF_KINDS:
        return Kind(OF_KINDS[full])
    return KNOWN.get(full) or type("Inert", (Inert,), {"name": full})


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storages: dict[str, Storage], nested: bool):
        super().__init__(file, encoding="latin1")
        self.storages, self.nested = storages, nested

    def find_class(self, module: str, name: str) -> Any:
        if self.nested and name == "_load_from_bytes":
            raise ValueError("a torch file within a torch file within a pickle")
        return stand_in(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """("storage", kind, key, device, count, ...) -> Storage, one for each key. The device does
        not matter here."""
        if not (
            type(pid) is tuple
            and len(pid) >= 5
            and pid[0] == "storage"
            and isinstance(pid[1], Kind)
        ):
            return Inert()
        _, kind, key, _, count = pid[:5]
        if type(key) is not str or not is_shape((count,)):
            raise ValueError("a storage of impossible size")
        found = self.storages.setdefault(key, Storage(kind.dtype, key, count))
        if (found.dtype, found.count) != (kind.dtype, count):
            raise ValueError(f"storage {key} is described in two ways")
        return found


def load(file: BinaryIO, storages: dict[str, Storage] | None = None, nested: bool = False) -> Any:
    """The next pickle of a seekable file; `storages` collects what its tensors lie in. The file is
    left behind the pickle.
    `nested`: it lies within another pickle, and no further one may lie in it.

    Raises InputError, without the file's name, for one that is damaged or absurd.
    """
    start = file.tell()
    try:
        opcodes.check(file)
        length = file.tell() - start
        if nested:
            # up to so many opcodes, and there may be a thousand calls with the same bytes
            COPIES.charge(range(length))
        else:
            COPIES.begin(length)
        file.seek(start)
        return _Unpickler(file, {} if storages is None else storages, nested).load()
    except InputError:
        raise
    except DAMAGE as error:
        raise damaged(error) from None


def damaged(error: Exception) -> InputError:
    """What is said of a pickle that cannot be read."""
    what = (
        "it claims more than the file holds"
        if isinstance(error, MemoryError)
        else str(error) or type(error).__name__
    )
    what = "it refers to what is not there" if isinstance(error, LookupError) else what
    return InputError(f"damaged, or not a pickle of data ({what})")


def load_torch(file: BinaryIO, nested: bool = False) -> Any:
    """The rest of a torch file from before 1.6, behind its magic number: version, system, data,
    names of the storages, and each storage as a count and its numbers. Raises InputError, without
    the file's name, for a damaged or truncated one.
    """
    storages: dict[str, Storage] = {}
    _, system, data, keys = (load(file, storages, nested) for _ in range(4))
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise InputError("written on a big-endian machine; save it again on an ordinary one")
    start = file.tell()
    end = file.seek(0, 2)
    for key in keys if type(keys) is list else []:
        file.seek(start)
        storage, count = (
            storages.get(key) if type(key) is str else None,
            int.from_bytes(file.read(8), "little", signed=True),
        )
        length = 8 + count * SIZES.get(storage.dtype, 1) if storage else 0
        if storage is None or count != storage.count or start + length > end:
            raise InputError("truncated or damaged: it ends before the numbers of its tensors do")
        storage.start, start = start + 8, start + length
    return data
