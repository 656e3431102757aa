"""Settings are frozen dataclasses. Their annotations say which types and ranges a field may have;
pydantic reads them, here alone, and its findings become one line each."""

import json
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic_core import ErrorDetails

from .errors import InputError

T = TypeVar("T")
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
# pydantic's types of errors in the words of a suite file; in braces: from the error's context
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "path": "a path",
    "tuple": "a list",
    "is_instance_of": "a path",
    "dict": "a group of settings",
    "dataclass": "a group of settings",
    "dataclass_exact": "a group of settings",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
}

# of each class: they take a while to make
_ADAPTERS: dict[type, TypeAdapter] = {}
_MODELS: dict[type, type[BaseModel]] = {}


def check(settings: object) -> None:
    """For `__post_init__`: InputError where a field's value is not what its annotation allows. It
    names the class, the field, the value and what is allowed."""
    model = _fields_of(type(settings))
    try:
        model.model_validate({name: getattr(settings, name) for name in model.model_fields})
    except ValidationError as error:
        raise InputError(f"{type(settings).__name__}: {_said(error.errors()[0], '')}") from None


def explained(cls: type, place: str = "") -> dict[str, str]:
    """The line that says what each field is, by its dotted name: the text in its annotation, ""
    where there is none; fields of the dataclasses within it included."""
    found: dict[str, str] = {}
    for name, hint in hints(cls).items():
        for part in (hint, *get_args(hint), *get_args(getattr(hint, "__origin__", None))):
            if isinstance(part, type) and is_dataclass(part):
                found |= explained(part, f"{place}{name}.")
        texts = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, str)]
        if texts or not is_dataclass(hint):
            found[place + name] = texts[0] if texts else ""
    return found


def build(cls: type[T], mapping: Mapping[str, Any], place: str = "") -> T:
    """`cls` from the values of a JSON document: lists become tuples, texts paths, mappings the
    dataclasses of their fields, whole numbers floats where the annotation says so.

    Keys that are no fields are left out. Raises InputError, which opens with the place of the
    value, e.g. `protocols[0].seeds`; `place`: that of the mapping itself.
    """
    try:
        return _adapter(cls).validate_json(json.dumps(mapping), strict=True)
    except ValidationError as error:
        raise InputError(_said(error.errors()[0], place)) from None


def hints(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, ranges included."""
    return get_type_hints(cls, include_extras=True)


def described(value: object) -> str:
    """A value as YAML has it, in messages."""
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        value = list(value)
    return "nothing" if value is None else repr(value)


def _adapter(cls: type) -> TypeAdapter:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def _fields_of(cls: type) -> type[BaseModel]:
    """A model with the fields of a dataclass: validating it makes no further object of the class,
    so that a class can ask for it while it is made."""
    if cls not in _MODELS:
        required: dict[str, Any] = {name: (hint, ...) for name, hint in hints(cls).items()}
        _MODELS[cls] = create_model(cls.__name__, __config__=STRICT, **required)
    return _MODELS[cls]


def _said(problem: ErrorDetails, place: str) -> str:
    place = _place(problem["loc"], place)
    kind, context, value = problem["type"], problem.get("ctx", {}), problem["input"]
    if kind == "missing":
        return f"{place} is missing"
    if kind == "value_error":  # from a class that checks more than its annotations say
        return f"{place}: {context['error']}" if place else str(context["error"])
    if kind == "too_short":
        least = context["min_length"]
        return f"{place} must have {least} or more values, got {context['actual_length']}"
    if kind == "too_long":
        most = context["max_length"]
        return f"{place} must have {most} values at most, got {context['actual_length']}"
    if kind == "tuple_type" and isinstance(value, list):
        return f"{place} must be a tuple, got {described(value)}"
    words = WORDS.get(kind.removesuffix("_type").removesuffix("_parsing"))
    wanted = words.format(**context) if words else problem["msg"].lower()
    return f"{place} must be {wanted}, got {described(value)}"


def _place(parts: tuple, place: str) -> str:
    """`protocols[0].seeds`. Parts in brackets or with capitals name branches of an annotation."""
    for part in parts:
        if isinstance(part, int):
            place += f"[{part}]"
        elif re.fullmatch(r"[a-z_]\w*", part) and part not in ("str", "int", "float", "bool"):
            place += f".{part}" if place else part
    return place
