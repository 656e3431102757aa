"""A command that comes in by its door only: a row of COMMANDS and a function."""

import sys
from types import ModuleType

import pytest

from detco.benchmarks.cli import commands
from detco.benchmarks.cli import main as cli
from detco.benchmarks.cli.parser import JSON, Command, option
from detco.common.errors import InputError


@pytest.fixture
def count(monkeypatch):
    """`detco data count WORD`: prints the word's length, 1 for a word that has none."""
    module = ModuleType("detco.benchmarks.cli.counting")

    def count(args):
        if args.word == "?":
            raise InputError("? is no\nword")
        print(len(args.word), args.json, args.again)
        return 0 if args.word else 1

    module.count = count
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = Command(
        "data count",
        "cli.counting:count",
        "how long a word is",
        "detco data count word",
        (option("word", "any", metavar="WORD"), JSON),
    )
    monkeypatch.setattr(commands, "COMMANDS", (*commands.COMMANDS, row))


def test_a_dummy_command_runs_and_its_status_is_the_commands(count, capsys):
    assert cli.main(["data", "count", "four", "--json"]) == 0
    assert capsys.readouterr().out == "4 True detco data count four --json\n"
    assert cli.main(["data", "count", ""]) == 1
    assert cli.main(["data", "count", "?"]) == 2
    assert capsys.readouterr().err == "detco: ? is no word\n"


def test_a_dummy_command_has_help(count, capsys):
    for words, part in ((["data"], "how long a word is"), (["data", "count"], "example: detco")):
        with pytest.raises(SystemExit) as end:
            cli.main([*words, "--help"])
        assert end.value.code == 0 and part in capsys.readouterr().out


def test_every_commands_function_is_there():
    assert all(callable(cli.function_of(row.call)) for row in commands.COMMANDS)
