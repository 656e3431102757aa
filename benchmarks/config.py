"""Settings from outside (YAML, `--set key=value`) as frozen dataclasses. Errors say
what to change."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args

from detco.common import settings
from detco.common.errors import InputError
from detco.common.values import nearest, shown

T = TypeVar("T")
LARGEST = 200_000  # characters of a YAML document
IDENTITY = ("name", "version")  # they identify a row and name folders
EARLIER_NAMES = {"optimiser": "optimizer"}  # of settings


def build(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """`cls(**mapping)` with every nested dataclass built too; `where` (a file or an option) opens
    each error message.

    Raises InputError for a key the dataclass does not have, naming the nearest one, and for a value
    that `detco.common.settings` refuses.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(
            f"{where}: expected {cls.__name__} settings as `key: value` lines, got"
            f" {settings.described(mapping)}"
        )
    _refuse_unknown(cls, mapping, where, "")
    try:  # normalised to JSON: dates become texts, tuples lists
        plain = json.loads(json.dumps(mapping, default=str, allow_nan=False))
        return settings.build(cls, plain)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def override(row: T, changes: Mapping[str, Any], where: str = "settings") -> T:
    """A copy of a dataclass with some fields changed; `schedule.iterations` reaches into a nested
    one, as `iterations` does where only one nested field has that name."""
    if not changes:
        return row
    tree = asdict(row)
    known = settings_of(row)
    for key, value in changes.items():
        if key in IDENTITY and getattr(row, key, value) != value:
            raise InputError(f"{where}: {key} says which row it is, it cannot be changed")
        *parents, last = _full_path(key, known).split(".")
        branch = tree
        for parent in parents:
            branch = branch.get(parent) if isinstance(branch, dict) else None
        if not isinstance(branch, dict) or last not in branch:
            hint = nearest(key, known) or f"; known: {', '.join(tree)}"
            raise InputError(f"{where}: unknown setting {key!r}{hint}")
        branch[last] = (
            {**branch[last], **value}
            if isinstance(branch[last], dict) and isinstance(value, dict)
            else value
        )
    return build(type(row), tree, where)


def later(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Changes for `override` in which the second ones win, whichever spelling each has."""
    return {key: value for key, value in first.items() if key not in second} | {**second}


def settings_of(row: Any) -> list[str]:
    """The dotted names of a row's settings."""
    return list(_paths(asdict(row)))


def belongs(key: str, known: Sequence[str]) -> bool:
    """Whether `override` would find the key among a row's settings."""
    return _full_path(key, known) in known


def _full_path(key: str, known: Sequence[str]) -> str:
    key = ".".join(EARLIER_NAMES.get(part, part) for part in key.split("."))
    if key in known:
        return key
    ends = [path for path in known if path.endswith(f".{key}")]
    return ends[0] if len(ends) == 1 else key


def parse_assignments(texts: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """`["a.b=3", "c=[1, 2]"]` -> `{"a.b": 3, "c": [1, 2]}`; values are read as YAML."""
    changes = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(
                f"{option} {shown(text)}: expected key=value, e.g. {option} schedule.iterations=50"
            )
        changes[key.strip()] = load_yaml(value, f"{option} {shown(text)}")
    return changes


def load_yaml(text: str, where: str) -> Any:
    """What a YAML document holds, see `detco.benchmarks.documents`. Raises InputError."""
    from . import documents

    return documents.load(text, where)


def find(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`; an unknown name is an InputError that says the nearest known ones."""
    if name in table:
        return table[name]
    close = nearest(name, table)
    raise InputError(f"unknown {what} {name!r}{close or '; known: ' + ', '.join(table)}")


def _paths(tree: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")


def _refuse_unknown(cls: type, mapping: Mapping[str, Any], where: str, prefix: str) -> None:
    hints = settings.hints(cls)
    names = [field.name for field in fields(cls)]
    for key, value in mapping.items():
        if key not in names:
            close = nearest(str(key), names)
            raise InputError(
                f"{where}: unknown key"
                f" {prefix + str(key)!r}{close or '; known: ' + ', '.join(names)}"
            )
        inner = _dataclass_in(hints[key])
        values = value if isinstance(value, list | tuple) else [value]
        for number, item in enumerate(values):
            if inner and isinstance(item, Mapping):
                place = f"{key}[{number}]" if isinstance(value, list | tuple) else key
                _refuse_unknown(inner, item, where, f"{prefix}{place}.")


def _dataclass_in(hint: Any) -> type | None:
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next((found for found in map(_dataclass_in, get_args(hint)) if found), None)
