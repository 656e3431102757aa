"""Errors whose message is for the user: one clear line."""

import errno

from .values import printable


class InputError(ValueError):
    """Something given by the user is wrong; the message is one clear line (the command exits with
    status 2), whatever names it holds: control characters are escaped."""

    def __init__(self, message: object = ""):
        super().__init__(printable(str(message), spaces=True))


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not finite, ...); the message says which and where."""


def told(error: OSError) -> str:
    """`PATH: no space left on the device`: which file, and why. What names no file is written to
    standard output."""
    why = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        why = "no space left on the device"
    return f"{error.filename or 'standard output'}: {why}"


def one_line(problem: BaseException) -> str:
    """What went wrong, for a log or a record: a user's mistake as it is, else with its type."""
    if isinstance(problem, OSError) and problem.errno == errno.ENOSPC and problem.filename:
        return told(problem)
    text = " ".join(str(problem).split()) or "no message"
    return text if isinstance(problem, InputError) else f"{type(problem).__name__}: {text}"
