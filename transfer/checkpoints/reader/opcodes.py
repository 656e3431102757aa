"""A pickle's opcodes looked at before any is obeyed: refused is what reaches outside the file or
would exhaust the machine."""

import pickletools
from typing import BinaryIO

from detco.common.errors import InputError

# Python's registry of names; buffers beside the file
OUTSIDE = (
    "EXT1",
    "EXT2",
    "EXT4",
    "NEXT_BUFFER",
    "READONLY_BUFFER",
)
PUTS, GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
# something of what lies on the stack, perhaps a tuple of it
MAKES = (
    "REDUCE",
    "BUILD",
    "OBJ",
    "INST",
    "NEWOBJ",
    "NEWOBJ_EX",
)
# keys that are not plain times their parts: all can have one hash, and comparing these takes 2 s
MOST_COMPARED = 200_000_000
# of a key: the hash of tuples within tuples is computed by recursion in C, of twins twice
MOST_PARTS = 1000
# opcodes and names of objects; the largest real checkpoints have a hundredth of that
MOST, MOST_NAMES = (
    2_000_000,
    10_000,
)
WIDEST = 1024  # bits of an integer; states of random number generators have 128


def check(file: BinaryIO) -> set[str]:
    """Read one pickle from where the file stands; returns the names of objects it asks for ("?":
    one it puts together).

    Raises ValueError (or what reading it raises) for one not to be obeyed, InputError for one that
    may be sound.
    """
    start = file.tell()
    size = file.seek(0, 2)
    file.seek(start)
    stack: list[
        int | None
        # how many parts the tuples on Python's stack would have (wide integers: 2); None: a mark
    ] = []
    memo: dict[int, int | None] = {}
    named, keys, parts = [], 0, 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        _refuse(opcode.name, argument, count, size)
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            named.append(argument.replace(" ", ".", 1) if opcode.name == "GLOBAL" else "?")
            if len(named) > MOST_NAMES:
                raise ValueError(f"it names objects more than {MOST_NAMES} times")
        made = _follow(opcode, argument, stack, memo)
        keys, parts = keys + len(made), parts + sum(made)
        if keys * parts > MOST_COMPARED:
            raise InputError(
                f"not read: a dictionary beside the weights has {keys} keys or more that are tuples"
                " or objects, which can take minutes; save the state dict alone"
            )
    return set(named)


def _refuse(name: str, argument: object, count: int, size: int) -> None:
    if name in OUTSIDE:
        raise ValueError(f"opcode {name} refers to something outside the file")
    if name == "FRAME" and argument > size:
        raise ValueError(f"a frame of {argument} bytes in a file of {size}")
    if name in PUTS and int(argument) > count:
        raise ValueError(f"memo entry {argument} after {count} opcodes")
    if type(argument) is int and argument.bit_length() > WIDEST:
        raise ValueError(f"an integer of {argument.bit_length()} bits")
    if count > MOST:
        raise ValueError(f"it has more than {MOST} opcodes")


def _follow(
    opcode: pickletools.OpcodeInfo,
    argument: object,
    stack: list[int | None],
    memo: dict[int, int | None],
) -> list[int]:
    """What an opcode does to the sizes on the stack and in the memo; returns the sizes of the keys
    it makes, of plain ones none."""
    name = opcode.name
    if name in PUTS or name == "MEMOIZE":
        memo[int(argument) if name in PUTS else len(memo)] = stack[-1]
    elif name in GETS:
        stack.append(memo[int(argument)])
    elif name == "MARK":
        stack.append(None)
    elif name == "DUP":
        stack.append(stack[-1])
    else:
        taken = _take(stack, opcode.stack_before)
        size = 1 + (type(argument) is int and argument.bit_length() > 64)
        if "TUPLE" in name or name == "FROZENSET" or name in MAKES:
            size = min(1 + sum(taken), MOST_PARTS + 1)
        stack += [size] * len(opcode.stack_after)
        keys = (
            taken
            if name in ("ADDITEMS", "FROZENSET")
            else taken[1::2]
            if name in ("SETITEM", "SETITEMS", "DICT")
            else ()
        )
        if max(keys, default=0) > MOST_PARTS:
            raise ValueError(f"a key of more than {MOST_PARTS} parts")
        return [size for size in keys if size > 1]
    return []


def _take(stack: list[int | None], wanted: list) -> list[int | None]:
    """Remove from the stack what an opcode takes: so many values, or everything down to the last
    mark and what is below it."""
    if pickletools.markobject not in wanted:
        return [stack.pop() for _ in wanted]
    taken = []
    while (value := stack.pop()) is not None:
        taken.append(value)
    return taken + [stack.pop() for _ in wanted[: wanted.index(pickletools.markobject)]]
