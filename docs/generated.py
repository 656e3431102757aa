"""Parts of the site that are written from the project's own tables, as Markdown. A page asks for
one by a line `<!-- generated: NAME -->`."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass

from detco.benchmarks.cli.commands import COMMANDS
from detco.benchmarks.suites.builtin import SUITES
from detco.common.settings import explained, hints
from detco.pretrain.recipes import RECIPES, Recipe, recipe_hash
from detco.results.paper.numbers import PAPER
from detco.transfer.checkpoints.layouts import LAYOUTS
from detco.transfer.checkpoints.zoo import KNOWN
from detco.transfer.protocols import PROTOCOLS, protocol_hash
from detco.transfer.settings import Protocol

MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def fill(source: list[str]) -> None:
    """Replace the marks in a page (a list of one text, as Sphinx has it). Raises KeyError for an
    unknown name."""
    source[0] = MARK.sub(lambda mark: PARTS[mark[1]](), source[0])


def protocols() -> str:
    rows = []
    for row in PROTOCOLS.values():
        size = f"{row.schedule.length} × {row.schedule.images}"
        metrics = ", ".join(row.metrics)
        rows.append((f"[{row.name}](#{row.name})", row.architecture, size, metrics, row.scorer))
    parts = [table(("protocol", "detector", "iterations × images", "AP of", "scorer"), rows)]
    for row in PROTOCOLS.values():
        parts.append(f"## {row.name}")
        parts.append(f"Version {row.version}, hash `{protocol_hash(row)}`. Source: {row.source}.")
        parts.append(table(("setting", "value"), own_settings(row, ("name", "version", "source"))))
    return "\n\n".join(parts)


def recipes() -> str:
    rows = []
    for row in RECIPES.values():
        name = f"[{row.name}](#{row.name})"
        rows.append((name, row.method, row.arch, row.epochs, row.batch, row.optimizer))
    head = ("recipe", "method", "network", "epochs", "batch", "optimizer")
    parts = [table(head, rows)]
    for row in RECIPES.values():
        parts.append(f"## {row.name}")
        parts.append(f"Hash `{recipe_hash(row)[:16]}`. Source: {row.source}.")
        parts.append(table(("setting", "value"), own_settings(row, ("name", "source", "assumed"))))
        if row.assumed:
            named = ", ".join(f"`{name}`" for name in row.assumed)
            parts.append(f"Assumed, since its source does not state them: {named}.")
    return "\n\n".join(parts)


def own_settings(row: object, without: Sequence[str], place: str = "") -> list[tuple[str, str]]:
    """(setting, value) of a row wherever it is not the default of its dataclass, or has none."""
    found = []
    for field in fields(row):
        value, default = getattr(row, field.name), field.default
        if field.name in without or value == default:
            continue
        if is_dataclass(value):
            found += own_settings(value, (), f"{place}{field.name}.")
        else:
            found.append((f"`{place}{field.name}`", shown(value)))
    return found


def settings(cls: type, place: str = "") -> list[tuple[str, str, str]]:
    """(setting, default, meaning) of a dataclass, those of groups of settings within it
    included."""
    found, texts = [], explained(cls)
    for field in fields(cls):
        kind = hints(cls)[field.name]
        if is_dataclass(kind):
            found += settings(kind, f"{place}{field.name}.")
            continue
        value = field.default
        if field.default_factory is not MISSING:
            value = field.default_factory()
        default = "required" if value is MISSING else shown(value)
        found.append((f"`{place}{field.name}`", default, texts.get(field.name, "")))
    return found


def suites() -> str:
    rows = []
    for suite in SUITES.values():
        start = ", ".join(row.name for row in suite.start)
        columns = ", ".join(dict.fromkeys(task.protocol for task in suite.protocols))
        rows.append((f"`{suite.name}`", start, columns))
    return table(("suite", "starting points", "protocols"), rows)


def paper_tables() -> str:
    """DetCo's tables and the suites that run their protocols."""
    rows = []
    for number, paper in PAPER.items():
        names = [name for _, name in paper.groups]
        where = dict.fromkeys(_suite_of(name) for name in names)
        rows.append((number, paper.title, ", ".join(names), ", ".join(where)))
    return table(("table", "what", "protocols", "suite"), rows)


def _suite_of(protocol: str) -> str:
    for suite in SUITES.values():
        if protocol in (task.protocol for task in suite.protocols):
            return f"`{suite.name}`"
    return "as data only"


def checkpoint_layouts() -> str:
    rows = []
    for row in LAYOUTS:
        roles = ", ".join(dict.fromkeys(encoder.role for encoder in row.encoders))
        rows.append(
            (f"`{row.name}`", "only with `--as`" if row.only_forced else "by itself", roles)
        )
    return table(("layout", "recognised", "encoders"), rows)


def public_checkpoints() -> str:
    rows = [(f"`{row.name}`", row.method, row.epochs or "", row.licence) for row in KNOWN]
    return table(("name", "method", "epochs", "licence"), rows)


def commands() -> str:
    parts = []
    for command in COMMANDS:
        examples = "\n".join(line.strip() for line in command.example.splitlines())
        parts.append(f"## detco {command.name}")
        parts.append(f"{command.text[0].upper()}{command.text[1:]}.")
        parts.append(f"```sh\n{examples}\n```")
        rows = [(f"`{name}`", more["help"]) for name, more in command.options]
        parts.append(table(("argument", ""), rows))
    return "\n\n".join(parts)


def decisions() -> str:
    return "```{toctree}\n:hidden:\n:glob:\n\n0*\n```"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = []
    for row in (head, ["---"] * len(head), *rows):
        cells = [str(cell).replace("|", r"\|").replace("<", "&lt;") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_WORDS = {"True": "true", "False": "false", "None": "none", "": "none", "{}": "none"}


def shown(value: object) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]" if value else "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return _WORDS.get(str(value), str(value))


PARTS = {
    "protocols": protocols,
    "recipes": recipes,
    "suites": suites,
    "paper_tables": paper_tables,
    "checkpoint_layouts": checkpoint_layouts,
    "public_checkpoints": public_checkpoints,
    "commands": commands,
    "decisions": decisions,
    "protocol_settings": lambda: table(("setting", "default", "meaning"), settings(Protocol)),
    "recipe_settings": lambda: table(("setting", "default", "meaning"), settings(Recipe)),
}
