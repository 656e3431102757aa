"""What stands for an object that a pickle asks for: descriptions of tensors and arrays, and `Inert`
for all else."""

import math
import re
import threading
from collections.abc import Callable
from typing import Any, NoReturn

DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
# of numbers
KINDS = {
    *DTYPES.values(),
    "uint16",
    "uint32",
    "uint64",
    "float8_e4m3fn",
    "float8_e5m2",
}
SIZES = {
    "float64": 8,
    "int64": 8,
    "uint64": 8,
    "float32": 4,
    "int32": 4,
    "uint32": 4,
} | dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2)  # bytes; others 1
# numpy's names of kinds of number
NUMBER = re.compile(r"[<>=|]?([iufb][1248]|float(16|32|64)|u?int(8|16|32|64)|bool)")
LIMIT, DIMENSIONS = 1 << 40, 16  # of one tensor: numbers, dimensions
# bytes that one entry of a dictionary takes when it is copied, at most; a list's or tuple's takes
# less
ENTRY = 100
FREE = 1 << 28  # bytes that a pickle may copy whatever its size: more than opcodes.MOST entries


class Copies(threading.local):
    """Bytes that the pickle being read may still copy: what it holds once, it can pass to a hundred
    thousand calls."""

    left = math.inf

    def begin(self, size: int) -> None:
        """A pickle of so many bytes is read; each thing in it may be copied a few times."""
        self.left = FREE + 4 * size

    def charge(self, *values: Any) -> None:
        self.left -= sum(
            len(value) * (1 if type(value) in (str, bytes, bytearray) else ENTRY)
            for value in values
        )
        if self.left < 0:
            raise ValueError("its objects are made of far more than the file holds")


COPIES = Copies()


class Inert(dict):
    """Stands for an object that was not made. Keeps what is put into it as a dictionary, ignores
    everything else."""

    name = "?"
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __new__(cls, *args, **kwargs):
        COPIES.charge(args, kwargs)
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __call__(self, *args, **kwargs):
        COPIES.charge(args, kwargs)
        return self

    def __setstate__(self, state):
        if type(state) is dict:
            self.update(named(state))

    def _ignore(self, *args):
        pass

    append = extend = add = _ignore


class Ordered(dict):
    """`collections.OrderedDict` without its attributes (`_metadata` of state dicts)."""

    def __setstate__(self, state):
        if type(state) is dict:
            COPIES.charge(state)  # torch, which may read the file next, copies it


class Fixed:
    """Not to be changed by a pickle once it is made."""

    def __setstate__(self, state) -> NoReturn:
        raise ValueError(f"a {type(self).__name__.lower()} is changed after it was made")


class Storage(Fixed):
    """What tensors lie in: `count` numbers of a kind that begin at byte `start` of `data`, or of
    the file where that is None."""

    def __init__(self, dtype: str, key: str, count: int):
        self.dtype, self.key, self.count = dtype, key, count
        self.start: int | None = None
        self.data: bytes | None = None


class Lazy(Fixed):
    """A tensor not read yet: a view of a storage; `offset` and `stride` count numbers."""

    def __init__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        dtype: str,
    ):
        self.storage, self.offset, self.shape, self.stride, self.dtype = (
            storage,
            offset,
            shape,
            stride,
            dtype,
        )


class Kind(Fixed):
    """A kind of storage or number that a pickle names, e.g.
    `torch.FloatStorage` or `torch.float16`."""

    def __init__(self, dtype: str):
        self.dtype = dtype


class Call(Fixed):
    """One of our functions in place of the one a pickle names; it can be called
    and nothing else."""

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        COPIES.charge(
            args,
            *(value for value in args if type(value) in (str, bytes, bytearray, list, tuple, dict)),
        )
        return self.function(*args)


class Dtype:
    """`numpy.dtype` as its pickle describes it; the byte order comes with the state."""

    def __init__(self, text: Any = "", *args: Any):
        self.text = text

    def __setstate__(self, state):
        if (
            type(self.text) is str
            and len(self.text) < 16
            and len(state) > 1
            and state[1] in ("<", ">")
        ):
            self.text = state[1] + self.text.lstrip("<>=|")


class Array:
    """A numpy array as its pickle describes it."""

    def __init__(self, dtype: Any = None, shape: Any = (), data: Any = b"", fortran: Any = False):
        self.dtype, self.shape, self.data, self.fortran = dtype, shape, data, fortran

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.fortran, self.data = state

    def read(self):
        """-> numpy array. Raises ValueError if bytes, shape and kind of number do not
        fit one another."""
        import numpy as np

        data, text = self.data, getattr(self.dtype, "text", None)
        if (
            type(data) not in (bytes, bytearray, str)
            or type(text) is not str
            or not NUMBER.fullmatch(text)
        ):
            raise ValueError("an array of something else than numbers")
        kind = np.dtype(text)
        if not is_shape(self.shape) or math.prod(self.shape) * kind.itemsize != len(data):
            raise ValueError(f"an array whose shape does not fit its {len(data)} bytes")
        data = data.encode("latin1") if type(data) is str else data  # str: written by Python 2
        array = np.frombuffer(data, kind).reshape(self.shape, order="F" if self.fortran else "C")
        return array.astype(kind.newbyteorder("="), order="C")


def named(values: dict) -> dict:
    """What a dictionary has under names: keys of other types can all have the same hash, and take
    long to be put in again."""
    COPIES.charge(values)
    return {key: value for key, value in values.items() if type(key) is str}


def is_shape(shape: Any) -> bool:
    """Whether these are lengths of dimensions that a tensor of this world has."""
    short = type(shape) is tuple and len(shape) <= DIMENSIONS
    return (
        short and all(type(n) is int and 0 <= n < LIMIT for n in shape) and math.prod(shape) < LIMIT
    )
