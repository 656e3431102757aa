"""A page's material without host names, users and paths."""

import getpass
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from detco.results.report.curves import LossChart
from detco.results.report.examples import Example
from detco.results.report.page import Material

PLACE = "PATH"  # stands for the folders of a path
# what looks like a path, behind a space, quote, colon or bracket; no address of the web
REST = r"[^\s'\"<>,;:()\[\]]"
LIKE_PATH = re.compile(rf"(?<![\w./~-])(?!//)(?:~[\w.-]*/|\.{{0,2}}/|[A-Za-z]:\\){REST}+")
NOBODY = ("root", "localhost", "~")  # identify no one


def hidden(material: Material, directory: Path) -> Material:
    """The material with `PATH/name` for every path, and without the machines' names and the user's.

    Names of starting points, data folders and classes stay. directory: that of the runs."""
    hide = _Hider(_paths(material, directory), _words(material))
    return replace(
        material,
        title="Transfer to detection",
        records=[hide(_without_host(record)) for record in material.records],
        unfinished=hide(material.unfinished),
        problems=hide(material.problems),
        training=hide(material.training),
        examples=hide(material.examples),
        attention=(material.attention[0], hide(material.attention[1])),
        commands=hide(material.commands),
        notes=hide(material.notes),
        anonymous=True,
    )


def _without_host(record: dict) -> dict:
    machine = record.get("hardware")
    if not isinstance(machine, Mapping):
        return record
    return record | {"hardware": {key: machine[key] for key in machine if key != "host"}}


def _paths(material: Material, directory: Path) -> set[str]:
    """Paths that are known to be some, also those with spaces in them."""
    known = {directory.absolute(), directory.resolve(), Path.cwd(), tempfile.gettempdir(), _home()}
    texts = {str(path) for path in known} | set(_texts([material.records, material.unfinished]))
    texts = {text.rstrip("/") for text in texts if PurePath(text).is_absolute()}
    return texts - {""}


def _words(material: Material) -> set[str]:
    """Names of machines and of the user."""
    machines = [record.get("hardware") for record in material.records]
    hosts = {str(one["host"]) for one in machines if isinstance(one, Mapping) and "host" in one}
    hosts.add(socket.gethostname())
    words = hosts | {host.partition(".")[0] for host in hosts} | {PurePath(_home()).name}
    with suppress(KeyError, OSError):  # a user without a name, as in containers
        words.add(getpass.getuser())
    return {word for word in words if word and word not in NOBODY}


def _home() -> str:
    """The user's folder; `~` where none is known."""
    return os.path.expanduser("~")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inside in value.values():
            yield from _texts(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from _texts(inside)


class _Hider:
    """Replaces paths and words in all texts of a value; pictures and numbers stay."""

    def __init__(self, paths: set[str], words: set[str]):
        self.words = words
        longest = sorted(paths, key=len, reverse=True)
        self.paths = re.compile(
            "|".join(rf"{re.escape(path)}(?:/{REST}*|(?![\w.-]))" for path in longest)
        )
        named = sorted(words, key=len, reverse=True)
        self.named = re.compile(
            "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in named) or "$^"
        )

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self(key): self(inside) for key, inside in value.items()}
        if isinstance(value, list | tuple):
            return [self(inside) for inside in value]
        if isinstance(value, LossChart):
            return replace(value, lines=self(value.lines))
        if isinstance(value, Example):
            return replace(value, found={self(name): boxes for name, boxes in value.found.items()})
        return value

    def _text(self, text: str) -> str:
        for pattern in (self.paths, LIKE_PATH):
            text = pattern.sub(lambda found: self._short(found[0]), text)
        return self.named.sub("hidden", text)

    def _short(self, path: str) -> str:
        name = PurePath(path).name
        return f"{PLACE}/{name}" if name and name not in self.words else PLACE
