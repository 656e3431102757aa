"""Loads a suite, built in or from a YAML file, and applies the changes of the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from detco.common.errors import InputError
from detco.common.values import nearest
from detco.transfer.data import layout_of

from .. import config
from .builtin import FILES, SUITES, Data, StartingPoint, Suite, Task, name_of, random_name

EARLIER_KEYS = {"pictures": "images", "pictures_by_class": "images_by_class"}


def load(name_or_file: str) -> Suite:
    """A suite by name, or from a YAML file; paths in the file are relative to
    it. Raises InputError."""
    if name_or_file in SUITES:
        return SUITES[name_or_file]
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        config.find(SUITES, name_or_file, "suite")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file; a suite is a name or a YAML file")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(config.LARGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the suite file {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    return parse(config.load_yaml(text, str(path)), path)


def parse(content: Any, path: Path) -> Suite:
    """The suite a YAML document describes; short forms (`start: [random, detco-small]`) are allowed
    for the lists."""
    where = str(path)
    if not isinstance(content, Mapping):
        raise InputError(
            f"{where}: a suite file holds `key: value` lines (images, data, start, ...)"
        )
    content = {"name": path.stem} | _with_todays_keys(content, where)
    for key, long_form in (("start", _starting_point), ("protocols", _task)):
        if isinstance(content.get(key), str | Mapping):
            content[key] = [content[key]]
        if isinstance(content.get(key), list):
            content[key] = [long_form(item, where) for item in content[key]]
    suite, base = config.build(Suite, content, where), path.resolve().parent
    _refuse_unknown_settings(suite, where)
    return (
        replace(suite, start=_anchored(suite.start, base))
        if suite.scenes
        else _anchored(suite, base)
    )


def _refuse_unknown_settings(suite: Suite, where: str) -> None:
    """Raises InputError, which names the file, for changes that a recipe or protocol cannot
    take."""
    from detco.pretrain.recipes import RECIPES
    from detco.transfer.protocols import PROTOCOLS

    rows: list[tuple[Any, dict, dict]] = []
    rows += [(RECIPES.get(one.recipe or ""), suite.pretrain, one.settings) for one in suite.start]
    rows += [(PROTOCOLS.get(one.protocol), suite.transfer, one.settings) for one in suite.protocols]
    for row, shared, own in rows:
        if row is not None:  # unknown ones are refused where they are planned
            config.override(row, config.later(shared, own), f"{where}: settings of {row.name}")


def adapted(
    suite: Suite,
    data: Path | None = None,
    images: Path | None = None,
    weights: Sequence[str] = (),
    start: Sequence[str] | None = None,
    protocols: Sequence[str] | None = None,
) -> Suite:
    """A suite changed by the command line: other folders, other backbone
    files, fewer starting points or protocols.

    data: a data set, or the folder of the published ones; weights: NAME=FILE each, a new name is a
        further starting point; start, protocols: the names of those that stay. Raises InputError.
    """
    suite = _with_folders(suite, data, images)
    suite = _with_weights(suite, weights)
    if protocols is not None:
        suite = _with_protocols(suite, protocols)
    if start is not None:
        suite = _with_only(suite, start)
    return suite if protocols is None else _without_unused(suite)


def changed(suite: Suite, changes: Mapping[str, Any]) -> tuple[Suite, list[str]]:
    """A suite that names its protocols, with settings changed in all its recipes and protocols that
    have them, and a line for each change that says where. A key may begin with `pretrain.` or
    `transfer.`, as a suite file has them; it must where both kinds have such a setting. Raises
    InputError for a key that nothing in the suite has."""
    lines = []
    for key, value in changes.items():
        suite, names = _with_change(suite, key, value)
        lines.append(f"{key}={value} in {', '.join(names)}")
    return suite, lines


def _with_folders(suite: Suite, data: Path | None, images: Path | None) -> Suite:
    if suite.scenes and (data or images):
        raise InputError(f"suite {suite.name} draws its own images: leave out --data and --images")
    if data and not data.is_dir():
        raise InputError(f"--data {data}: no such folder")
    if data and layout_of(data):
        suite = replace(suite, data=Data(data))
    elif data:
        suite = replace(suite, data=None, datasets=data)
    if images:
        suite = replace(suite, images=images, images_by_class=images)
    return suite


def _with_weights(suite: Suite, texts: Sequence[str]) -> Suite:
    """Its starting points with other files (`NAME=FILE`); each new name joins every protocol."""
    rows = {row.name: row for row in suite.start}
    new = []
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or not file:
            raise InputError(f"--weights {text}: expected NAME=FILE, e.g. detco=detco.safetensors")
        if name not in rows:
            new.append(name)
        rows[name] = StartingPoint(name, weights=Path(file))
    tasks = []
    for task in suite.protocols:  # one that names no starting points is for all of them
        tasks.append(replace(task, start=(*task.start, *new)) if task.start else task)
    return replace(suite, start=tuple(rows.values()), protocols=tuple(tasks))


def _with_protocols(suite: Suite, names: Sequence[str]) -> Suite:
    """Only these protocols; of a suite that names none, any."""
    from detco.transfer.protocols import PROTOCOLS

    there = {task.protocol: task for task in suite.protocols}
    known = there or {name: Task(name) for name in PROTOCOLS}
    for name in names:
        config.find(known, name, f"protocol of suite {suite.name}")
    kept = suite.protocols or known.values()
    return replace(suite, protocols=tuple(task for task in kept if task.protocol in names))


def _without_unused(suite: Suite) -> Suite:
    """Without starting points that no protocol is for: they would be pretrained for nothing."""
    if not all(task.start for task in suite.protocols):
        return suite
    used = {name for task in suite.protocols for name in task.start}
    return replace(suite, start=tuple(row for row in suite.start if row.name in used))


def _with_change(suite: Suite, key: str, value: Any) -> tuple[Suite, list[str]]:
    """The suite with one setting changed, and the names of the recipes and protocols that have
    it."""
    kind, _, inner = key.partition(".")
    name = inner if kind in ("pretrain", "transfer") else key
    recipes, tasks = _settings(suite, kind)
    has = {row for row, known in (recipes | tasks).items() if config.belongs(name, known)}
    if has & set(recipes) and has & set(tasks):
        raise InputError(
            f"--set {key}: recipes and protocols have it; say pretrain.{key} or transfer.{key}"
        )
    if not has:
        known = [path for paths in (recipes | tasks).values() for path in paths]
        more = "; `detco recipes show NAME` and `detco protocols show NAME` list settings"
        hint = nearest(name, dict.fromkeys(known)) or more
        raise InputError(f"--set {key}: nothing in suite {suite.name} has this setting{hint}")

    def after(rows: tuple, names: Sequence[str | None]) -> tuple:
        return tuple(
            replace(row, settings=config.later(row.settings, {name: value})) if of in has else row
            for row, of in zip(rows, names)
        )

    start = after(suite.start, [row.recipe for row in suite.start])
    protocols = after(suite.protocols, [task.protocol for task in suite.protocols])
    return replace(suite, start=start, protocols=protocols), sorted(has)


def _settings(suite: Suite, kind: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The settings of its recipes and of its protocols, by name; kind `pretrain` or `transfer`: of
    one of them alone."""
    from detco.pretrain.recipes import RECIPES
    from detco.transfer.protocols import PROTOCOLS

    recipes = dict.fromkeys(row.recipe for row in suite.start if row.recipe)
    tasks = dict.fromkeys(task.protocol for task in suite.protocols)
    return (
        {name: config.settings_of(config.find(RECIPES, name, "recipe")) for name in recipes}
        if kind != "transfer"
        else {},
        {name: config.settings_of(config.find(PROTOCOLS, name, "protocol")) for name in tasks}
        if kind != "pretrain"
        else {},
    )


def _with_only(suite: Suite, names: Sequence[str]) -> Suite:
    """These starting points, none of them optional any more, and the protocols that
    are for them."""
    rows = {row.name: row for row in suite.start}
    kept = [replace(config.find(rows, name, "starting point"), optional=False) for name in names]
    tasks = []
    for task in suite.protocols:
        wanted = tuple(name for name in task.start or rows if name in names)
        if wanted:
            tasks.append(replace(task, start=wanted))
    if suite.protocols and not tasks:
        raise InputError(f"suite {suite.name}: no protocol is for {', '.join(names)}")
    return replace(suite, start=tuple(kept), protocols=tuple(tasks))


def with_labels(suite: Suite, strict: bool, merge_classes: bool) -> Suite:
    """The suite with all its own data sets read in this way, see `Data`."""

    def changed(data: Data | None) -> Data | None:
        if data is None:
            return None
        merge = merge_classes or data.merge_classes
        return replace(data, strict=strict or data.strict, merge_classes=merge)

    tasks = tuple(replace(task, data=changed(task.data)) for task in suite.protocols)
    return replace(suite, data=changed(suite.data), protocols=tasks)


def without_absent(suite: Suite) -> tuple[Suite, list[str]]:
    """The suite without its optional starting points without a local copy, and a
    line for each of those."""
    from detco.transfer.checkpoints import importer

    absent: dict[str, str] = {}
    for row in suite.start:
        try:
            if row.optional:
                importer.file_of(row.weights)
        except InputError as error:
            absent[row.name] = f"{row.name}: {error}"
    rest = [row.name for row in suite.start if row.name not in absent]
    if not rest:
        raise InputError(f"no starting point is left: without {'; without '.join(absent.values())}")
    return (adapted(suite, start=rest) if absent else suite), list(absent.values())


def _with_todays_keys(content: Mapping, where: str) -> dict:
    """Suite files of earlier versions say `pictures` for `images`."""
    renamed = {}
    for key, value in content.items():
        today = EARLIER_KEYS.get(key, key)
        if today in renamed:
            raise InputError(f"{where}: {today} is given twice, once as {key}")
        renamed[today] = value
    return renamed


def _starting_point(item: Any, where: str) -> Any:
    from detco.pretrain.recipes import RECIPES
    from detco.transfer.checkpoints.zoo import BY_NAME

    if isinstance(item, str):
        random, _, arch = item.partition(":")
        if random == "random":
            return {"name": random_name(arch), "random": True, "arch": arch}
        if item in RECIPES:
            return {"name": item, "recipe": item}
        if "/" not in item and not item.endswith(FILES) and item not in BY_NAME:
            close = nearest(item, ["random", *RECIPES, *BY_NAME])
            what = (
                "; it is `random`, a recipe (`detco pretrain --help`), a public checkpoint (`detco"
                " weights list`) or a file"
            )
            raise InputError(f"{where}: unknown starting point {item!r}{close or what}")
        return {"name": name_of(Path(item)), "weights": item}
    if isinstance(item, Mapping) and "name" not in item:
        name = (
            random_name(str(item.get("arch", "")))
            if item.get("random")
            else item.get("recipe") or name_of(Path(str(item.get("weights", ""))))
        )
        return {"name": name, **item} if name else item
    return item


def _task(item: Any, where: str) -> Any:
    return {"protocol": item} if isinstance(item, str) else item


def _anchored(value: Any, base: Path) -> Any:
    """The value with every relative path in nested dataclasses made absolute."""
    if isinstance(value, Path):
        return base / value.expanduser()
    if isinstance(value, tuple):
        return tuple(_anchored(item, base) for item in value)
    if is_dataclass(value):
        return replace(
            value, **{f.name: _anchored(getattr(value, f.name), base) for f in fields(value)}
        )
    return value
