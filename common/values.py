"""Small pure functions on values and texts."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any


def flatten(fields: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names: `{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def canonical_hash(value: object) -> str:
    """sha256 (hex) of a value's JSON with sorted keys; dataclasses as their fields,
    paths as texts."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a setting")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is near. Of a dotted name the last part
    alone may match."""
    known = list(known)
    close = get_close_matches(name, known, 1, 0.6)
    if not close:
        last = {path.rpartition(".")[2]: path for path in reversed(known)}
        close = [
            last[match] for match in get_close_matches(name.rpartition(".")[2], list(last), 1, 0.6)
        ]
    return f"; did you mean {close[0]!r}?" if close else ""


def printable(text: str, spaces: bool = False) -> str:
    """Text out of a file on one line, with its control characters (a terminal obeys them) as
    escapes; spaces: ends of lines and other white space as spaces."""
    if text.isprintable():
        return text
    if spaces:
        text = "".join(" " if sign.isspace() else sign for sign in text)
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def shown(text: str, longest: int = 80) -> str:
    """Text out of a file as it can be printed: no control characters, one line, not endless."""
    plain = printable(text)
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."
