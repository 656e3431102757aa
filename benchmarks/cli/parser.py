"""What rows of `detco.benchmarks.cli.commands` are made of: commands, options that several share;
and the parser made of the rows."""

import argparse
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from detco.common.values import nearest, shown
from detco.transfer.data import LAYOUTS
from detco.transfer.engines import ENGINES

from ..run import EXECUTORS

PRECISIONS = ("fp16", "bf16")
LONGEST, LONGEST_ARGUMENT = 1000, 800  # characters of an error, and of one in an argument
KEPT = ("final", "best")
TRACKERS = ("wandb", "mlflow")
EXAMPLE = "example: "  # begins the end of a command's help
# of options that may stand alone; alone they mean the first
VALUES = {
    "--amp": PRECISIONS,
    "--keep-model": KEPT,
}
Option = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Command:
    """A row of COMMANDS. `name` may be two words; `call`: "module:function" below
    benchmarks, which takes the parsed arguments and returns the exit status; `options` are
    rows for `add_argument`."""

    name: str
    call: str
    text: str
    example: str
    options: tuple[Option, ...]


def option(name: str, text: str, **more) -> Option:
    return name, {"help": text, **more}


def folder(name: str, text: str, **more) -> Option:
    return option(name, text, type=Path, metavar="DIR", **more)


def whole(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """A whole number in a range."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            if least == 0 and number < 0 and text.strip().startswith("-"):
                raise argparse.ArgumentTypeError(f"must not be negative, it is {text}")
            limits = f"from {least} to {most}" if most < 2**63 - 1 else f"of at least {least}"
            raise argparse.ArgumentTypeError(f"must be a whole number {limits}, it is {text!r}")
        return number

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    """A number in a range, never nan."""

    def read(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not least <= found <= most:
            raise argparse.ArgumentTypeError(f"must be from {least:g} to {most:g}, it is {text!r}")
        return found

    return read


def names(text: str) -> list[str]:
    """What an option lists between commas; nothing is an error."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError("expected one or more names with commas between them")
    return found


not_negative, positive = whole(0), whole(1)
share = number(0, 1)


JSON = option("--json", "as JSON", action="store_true", default=argparse.SUPPRESS)
RUN_JSON = option(
    "--json",
    "the table (or the plan) as JSON on standard output, everything else on standard error",
    action="store_true",
)
# how a checkpoint of another project is read
READ_AS = (
    option(
        "--as",
        "whose layout a checkpoint has (`detco weights list --layouts`); default: recognised",
        metavar="NAME",
        dest="forced",
    ),
    option(
        "--encoder",
        "of a checkpoint with two: e.g. key, momentum or teacher; default: query, base or student",
        metavar="ROLE",
    ),
    option(
        "--prefix",
        "of a checkpoint: take only the tensors whose names begin so, e.g. `model.` of Lightning",
        metavar="TEXT",
    ),
)
REPOSITORY = option(
    "repo",
    "a folder, or OWNER/NAME: a model of the Hugging Face hub (pip install huggingface_hub)",
    metavar="REPO",
)
REVISION = option("--revision", "of the hub: a branch, tag or commit", metavar="NAME")
SEED = option("--seed", "default 0", type=not_negative, default=0)
DEVICE = option(
    "--device", "auto, cpu or cuda", choices=("auto", "cpu", "cuda"), default="auto", metavar="NAME"
)
FORMAT = option(
    "--format",
    "terminal, md, csv, json, latex or html",
    metavar="NAME",
    default="terminal",
    choices=("terminal", "md", "csv", "json", "latex", "html"),
)
AS_JSON = option(
    "--json", "short for --format json", action="store_const", const="json", dest="format"
)
PROTOCOLS = option("--protocols", "only these protocols", metavar="A,B", type=names)
BASELINE = option(
    "--baseline",
    "differences to this row (may be repeated), none: no differences; default: supervised and"
    " random",
    metavar="NAME",
    action="append",
)
PAIRED = option(
    "--paired",
    "confidence intervals of differences paired by seed; default: Welch's t",
    action="store_true",
)
STRICT = option("--strict", "exit status 1 if a record had to be left out", action="store_true")
STRICT_DATA = option(
    "--strict",
    "refuse a data set with a single bad object; default: up to 1 in 100, and always up to 5, are"
    " left out",
    action="store_true",
)
MERGE_CLASSES = option(
    "--merge-classes",
    "make classes one whose names differ in case, spaces or Unicode form only",
    action="store_true",
)
VERIFY = option(
    "--verify",
    "decode every labelled picture to the end before anything starts; default: those to test on",
    action="store_true",
)
REPEATS = option("--repeats", "default 5", metavar="N", type=whole(1, 10_000), default=5)
AMP = option(
    "--amp",
    "automatic mixed precision: fp16 (default) or bf16; detectron2 only",
    nargs="?",
    const="fp16",
    default="",
    choices=PRECISIONS,
    metavar="NAME",
)
DETECTRON2 = (
    option(
        "--batch",
        "images an iteration; rate, iterations, steps and warm-up follow (linear rule)",
        metavar="N",
        type=int,
    ),
    option(
        "--num-gpus",
        "processes on each machine, a GPU for each; detectron2 only",
        metavar="N",
        type=int,
        default=1,
    ),
    option("--num-machines", "detectron2 only", metavar="N", type=int, default=1),
    option(
        "--machine-rank",
        "this machine's number, from 0; detectron2 only",
        metavar="N",
        type=int,
        default=0,
    ),
    option(
        "--dist-url",
        "tcp://FIRST_MACHINE:PORT for several machines; detectron2 only",
        metavar="URL",
        default="auto",
    ),
    AMP,
    option(
        "--eval-period",
        "evaluate every N iterations too; detectron2 only",
        metavar="N",
        type=not_negative,
        default=0,
    ),
)
TRACK = option(
    "--track",
    "send curves and results to wandb (Weights & Biases) or mlflow when it is done",
    choices=TRACKERS,
    metavar="NAME",
)
KEEP_MODEL = option(
    "--keep-model",
    "keep the trained detector as detector.safetensors: final (also where nothing follows), or the "
    "best of the evaluations on the way",
    nargs="?",
    const="final",
    default="",
    choices=KEPT,
    metavar="WHICH",
)
COPIES = folder(
    "--dir", "where copies of public checkpoints lie; default: $DETCO_WEIGHTS, else weights"
)


def either(names: Iterable[str]) -> str:
    """`voc, coco or cityscapes`"""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


ENGINE_NAMES = either(("auto", *ENGINES))
EXECUTOR_TEXT = either(f"{name} ({row.text})" for name, row in EXECUTORS.items())
LAYOUT_NAMES = either(LAYOUTS)
LAYOUT_TITLES = either(layout.title for layout in LAYOUTS.values())


def changes(example: str, more: str = "") -> Option:
    text = f"change a setting{more}, e.g. --set {example} (may be repeated)"
    return option("--set", text, metavar="KEY=VALUE", action="append", default=[], dest="changes")


def refuse(problem: str, longest: int = LONGEST, hint: str = "") -> int:
    """One line on what is wrong with the input, and a hint that is never cut; exit status 2. A
    terminal gets it broken between words."""
    line = f"detco: {shown(' '.join(problem.split()), longest)}{hint}"
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
    print(line, file=sys.stderr)
    return 2


class Help(argparse.HelpFormatter):
    """Examples keep their lines; one that is too long goes on behind a backslash, as in a shell."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if not text.startswith(EXAMPLE):
            return super()._fill_text(text, width, indent)
        wrap = textwrap.TextWrapper(
            width, subsequent_indent=" " * 13, break_long_words=False, break_on_hyphens=False
        )
        return "\n".join(" \\\n".join(wrap.wrap(line)) for line in text.splitlines())


class Parser(argparse.ArgumentParser):
    """One line for a bad argument, with the nearest known one."""

    def __init__(self, **more):
        super().__init__(formatter_class=Help, **more)

    def parse_args(self, args=None, namespace=None):
        """`--amp` and `--keep-model` may stand before a positional argument, which is
        not their value."""
        words = list(sys.argv[1:] if args is None else args)
        for number, (word, after) in enumerate(zip(words, [*words[1:], ""])):
            if word in VALUES and not nearest(after, VALUES[word]):
                words[number] = f"{word}={VALUES[word][0]}"
        found, unknown = self.parse_known_args(words, namespace)
        if unknown:
            own: Parser = getattr(found, "parser", self)
            hint = nearest(unknown[0].partition("=")[0], own._option_string_actions)
            own.error(f"unknown argument {unknown[0]!r}{hint}")
        return found

    def error(self, message: str) -> NoReturn:
        wrong = re.search(
            r"argument (\S+): invalid choice: '?([^' ]*)'? \(choose from (.*)\)", message
        )
        if wrong:
            known = [choice.strip("' ") for choice in wrong[3].split(",")]
            message = f"unknown {wrong[1].lower()} {wrong[2]!r}"
            message += nearest(wrong[2], known) or f"; known: {', '.join(known)}"
        raise SystemExit(refuse(message, LONGEST_ARGUMENT, f" (see `{self.prog} --help`)"))


def parser(version: str, commands: Sequence[Command], groups: Mapping[str, str]) -> Parser:
    """The parser of all commands. The parsed arguments' `command` is the
    command's name, one or two words.

    groups: the first word of those with two, with its text.
    """
    about = "Pretrain on pictures, fine-tune detectors from the backbone, read the AP table."
    top = Parser(
        prog="detco",
        description=about,
        epilog=f"{EXAMPLE}detco run demo    (each command has its own --help)",
    )
    top.add_argument("--version", action="version", version=f"detco {version}")
    inside = {"": top.add_subparsers(metavar="COMMAND", required=True)}
    for command in commands:
        group, _, name = command.name.rpartition(" ")
        if group not in inside:
            text = groups[group]
            made = inside[""].add_parser(group, help=text, description=_sentence(text))
            inside[group] = made.add_subparsers(metavar="ACTION", required=True)
        about = _sentence(command.text)
        sub = inside[group].add_parser(
            name, help=command.text, description=about, epilog=EXAMPLE + command.example
        )
        for key, more in command.options:
            if "choices" in more:  # shtab takes a dict for subcommands
                more = more | {"choices": tuple(more["choices"])}
            sub.add_argument(key, **more)
        sub.set_defaults(command=command.name, call=command.call, parser=sub)
        if any(other.name.startswith(f"{command.name} ") for other in commands):
            inside[command.name] = sub.add_subparsers(metavar="ACTION")
    return top


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
