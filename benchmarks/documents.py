"""YAML of users. Size, nesting and aliases are limited, so that a small file cannot take much
memory or time. The result holds only texts, numbers, lists and dicts that JSON could hold too."""

import re
from collections.abc import Hashable, Iterator, Mapping
from datetime import date
from typing import Any

import yaml

from detco.common.errors import InputError
from detco.common.values import shown

from .config import LARGEST

DEEPEST = 40  # lists and groups within one another
MOST = 20_000  # values, those of an alias counted each time
SIGNED = 2**63  # whole numbers lie below it


class Loader(yaml.SafeLoader):
    """SafeLoader with three traps closed: `1e-3` is a number, `24:00:00` a text, and a key given
    twice is an error. Enforces the limits while reading."""

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = 0
        self.sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        self.depth += 1
        if self.depth > DEEPEST:
            raise Refused(mark, f"lists and groups lie more than {DEEPEST} deep in one another")
        repeated = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if repeated and node not in self.sizes:
            raise Refused(mark, "an alias lies within what it stands for")
        if not repeated:
            self.sizes[node] = 1 + sum(self.sizes[part] for part in _parts(node))
        if self.sizes[node] > MOST:
            raise Refused(mark, f"more than {MOST:,} values, with what aliases repeat")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key in (key.value for key, _ in node.value if isinstance(key.value, Hashable)):
            if key in seen:
                raise Refused(node.start_mark, f"{key} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


class Refused(yaml.MarkedYAMLError):
    """Valid YAML that is refused."""

    def __init__(self, mark: Any, problem: str):
        super().__init__(None, None, problem, mark)


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
_TEXT_FIRST = ("tag:yaml.org,2002:str", re.compile(r"\d+(:\d+)+$"))
for _digit in "0123456789":
    Loader.yaml_implicit_resolvers[_digit] = [
        _TEXT_FIRST,
        *Loader.yaml_implicit_resolvers[_digit],
    ]


def load(text: str, where: str, of_settings: bool = True) -> Any:
    """What a YAML document holds: None, bool, int (64 bits), float, text, date, list, dict with
    texts as keys. of_settings=False: keys and values of other types too, for files of other tools.
    Raises InputError, which opens with `where`."""
    if len(text) > LARGEST:
        raise InputError(f"{where}: more than {LARGEST:,} characters, too long for settings")
    try:
        value = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        problem = shown(str(said), 200)
        text = problem if isinstance(error, Refused) else f"not valid YAML ({problem})"
        raise InputError(f"{where}: {line}{text}") from None
    # of constructors, e.g. of `!!bool x`, `2020-13-45` and a number of 5,000 digits
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        said = shown(" ".join(str(error).split()), 200)
        raise InputError(f"{where}: not valid YAML (a value that cannot be: {said})") from None
    odd = _problem(value, "") if of_settings else None
    if odd:
        raise InputError(f"{where}: {odd}")
    return value


def _problem(value: Any, place: str) -> str | None:
    """The first value that no setting can have, with its place, as a
    message; None if there is none."""
    at = f"{place}: " if place else ""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                return f"{at}the key {shown(str(key))} is no text; put it in quotes"
            found = _problem(key, place) or _problem(inner, f"{place}.{key}" if place else key)
            if found:
                return found
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found = _problem(inner, f"{place}[{number}]")
            if found:
                return found
    elif isinstance(value, str):
        if "\0" in value or not _is_unicode(value):
            return f"{shown(at)}{shown(ascii(value))} holds characters that no text has"
    elif isinstance(value, int) and not -SIGNED <= value < SIGNED:
        return f"{at}a whole number of {len(f'{abs(value):x}') * 4} bits; at most 64 are possible"
    elif not isinstance(value, int | float | date | None):
        return f"{at}a value of the kind {type(value).__name__}, which no setting is"
    return None


def _is_unicode(text: str) -> bool:
    try:
        return bool(text.encode()) or True
    except UnicodeEncodeError:
        return False
