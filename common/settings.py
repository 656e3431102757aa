"""Settings are frozen dataclasses. Their annotations say which types and ranges a field may have;
this is the one place that reads them."""

import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

from .errors import InputError

T = TypeVar("T")
KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
    tuple: "a list",
    dict: "a group of settings",
}
BOUNDS = {  # its words, the comparison that holds, the attribute with the limit
    Ge: ("at least", operator.ge, "ge"),
    Gt: ("above", operator.gt, "gt"),
    Le: ("at most", operator.le, "le"),
    Lt: ("below", operator.lt, "lt"),
}

_HINTS: dict[type, dict[str, Any]] = {}  # of each class: reading them takes a while


def check(settings: object) -> None:
    """For `__post_init__`: InputError where a field's value is not what its annotation allows. It
    names the class, the field, the value and the range."""
    for name, hint in hints(type(settings)).items():
        problem = _problem(getattr(settings, name), hint, name)
        if problem:
            raise InputError(f"{type(settings).__name__}: {problem}")


def build(cls: type[T], mapping: Mapping[str, Any], place: str = "") -> T:
    """`cls` from the values of a JSON document: lists become tuples, texts paths, mappings the
    dataclasses of their fields, whole numbers floats where the annotation says so.

    Keys that are no fields are left out. Raises InputError, which opens with the place of the
    value, e.g. `protocols[0].seeds`; `place`: that of the mapping itself.
    """
    values = {}
    for field in fields(cls):  # type: ignore[arg-type]  # mypy cannot say: a class of dataclass
        here = f"{place}.{field.name}" if place else field.name
        if field.name in mapping:
            hint = hints(cls)[field.name]
            values[field.name] = _converted(mapping[field.name], hint, here)
            problem = _problem(values[field.name], hint, here)
            if problem:
                raise InputError(problem)
        elif _is_required(field):
            raise InputError(f"{here} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise InputError(f"{place}: {error}" if place else str(error)) from None


def hints(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, ranges included."""
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls, include_extras=True)
    return _HINTS[cls]


def described(value: object) -> str:
    """A value as YAML has it, in messages."""
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None else repr(value)


def _converted(value: Any, hint: Any, place: str) -> Any:
    """A JSON value in the form that the annotation wants; left as it is where it has none."""
    origin, parts = _taken_apart(hint)
    if origin is Annotated:
        return _converted(value, parts[0], place)
    if origin is Union:
        return _as_one_of(value, parts, place)
    if origin is tuple and isinstance(value, list):
        inner = _of_items(parts, len(value))
        pairs = enumerate(zip(value, inner, strict=True))
        return tuple(_converted(item, part, f"{place}[{n}]") for n, (item, part) in pairs)
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, place)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and _is_number(value):
        return float(value)
    return value


def _as_one_of(value: Any, hints: tuple, place: str) -> Any:
    """Converted to the first of several annotations that it fits."""
    for hint in hints:
        made = _converted(value, hint, place)
        if _problem(made, hint, place) is None:
            return made
    return value


def _problem(value: Any, hint: Any, place: str) -> str | None:
    """What is wrong with a value, by the annotation of its place; None where nothing is."""
    origin, parts = _taken_apart(hint)
    if origin is None:
        return None if _is_of(value, hint) else _mistyped(value, hint, place)
    if origin is Annotated:
        return _problem(value, parts[0], place) or _outside(value, parts[1:], place)
    if origin is Union:
        problems = [_problem(value, part, place) for part in parts if part is not NoneType]
        allowed = None in problems or (value is None and NoneType in parts)
        return None if allowed else problems[0]
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in parts):
            return None
        *others, last = map(repr, parts)
        choices = f"{', '.join(others)} or {last}" if others else last
        return f"{place} must be {choices}, got {described(value)}"
    if origin is tuple and isinstance(value, tuple):
        return _problem_of_items(value, parts, place)
    return _mistyped(value, origin, place)


def _problem_of_items(values: tuple, parts: tuple, place: str) -> str | None:
    inner = _of_items(parts, len(values))
    if parts[-1] is not Ellipsis and len(values) != len(parts):
        return f"{place} must have {len(parts)} values, got {described(list(values))}"
    for number, (value, part) in enumerate(zip(values, inner, strict=True)):
        problem = _problem(value, part, f"{place}[{number}]")
        if problem:
            return problem
    return None


def _outside(value: Any, bounds: tuple, place: str) -> str | None:
    """Of a value of the right type: the whole range, where it lies outside."""
    least, limits, words = _range(bounds)
    if least and len(value) < least:
        return f"{place} must have {least} or more values, got {len(value)}"
    for fits, limit in limits:
        if not fits(value, limit):
            return f"{place} must be {words}, got {described(value)}"
    return None


@cache
def _range(bounds: tuple) -> tuple[int, list[tuple[Callable, float]], str]:
    """What annotated-types say: the least length, (comparison, limit) for each limit, and the
    limits in words."""
    least, limits, words = 0, [], []
    for bound in bounds:
        if isinstance(bound, MinLen):
            least = bound.min_length
        else:
            word, fits, name = BOUNDS[type(bound)]
            limit = getattr(bound, name)
            limits.append((fits, limit))
            words.append(f"{word} {limit:g}")
    return least, limits, " and ".join(words)


@cache
def _taken_apart(hint: Any) -> tuple[Any, tuple]:
    origin = get_origin(hint)
    return (Union if origin is UnionType else origin), get_args(hint)


def _of_items(parts: tuple, count: int) -> tuple:
    """The annotation of each of `count` items of a tuple; `Any` for those that are too many."""
    if parts[-1] is Ellipsis:
        return parts[:1] * count
    return (*parts[:count], *[Any] * (count - len(parts)))


def _is_of(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is float:
        return _is_number(value)
    return isinstance(value, kind) and (kind is not int or not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    """Finite, and within what a float can hold."""
    largest = sys.float_info.max
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -largest <= value <= largest


def _mistyped(value: Any, kind: Any, place: str) -> str:
    wanted = KINDS.get(kind, "a group of settings")
    if kind is tuple and isinstance(value, list):
        wanted = "a tuple"
    if kind is float and isinstance(value, float):
        wanted = "a finite number"
    return f"{place} must be {wanted}, got {described(value)}"


def _is_required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
