"""Ranges and types of settings: the same error from Python, YAML and --set."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

from detco.benchmarks import config
from detco.benchmarks.run.sbatch import Resources
from detco.benchmarks.suites import files
from detco.benchmarks.suites.builtin import Data, Scenes, StartingPoint, Suite, Task
from detco.common import settings
from detco.common.errors import InputError
from detco.common.settings import explained
from detco.common.values import flatten
from detco.pretrain.recipes import RECIPES
from detco.transfer.protocols import PROTOCOLS

RETINA, FCN = PROTOCOLS["coco-retinanet-90k"], PROTOCOLS["cityscapes-semantic"]
ROWS = (  # one of each class; with tuples that are not empty, where a row has some
    RECIPES["supervised-90ep"],
    FCN,
    FCN.schedule,
    FCN.resize,
    FCN.detector,
    FCN.data,
    Resources(cpus=2),
    Scenes(),
    Data(Path("x")),
    StartingPoint("a", random=True),
    Task("small-retinanet"),
    Suite("s", (StartingPoint("a", random=True),)),
)
WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def plainly(value: object) -> object:
    """As a suite file holds it."""
    if is_dataclass(value):
        return {f.name: plainly(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [plainly(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def just_outside(key: str, limit: float, whole: bool) -> float:
    """The nearest number that a bound forbids."""
    if key in ("gt", "lt"):
        return limit
    down = key == "ge"
    if whole:
        return limit - 1 if down else limit + 1
    return math.nextafter(limit, -math.inf if down else math.inf)


def outside(hint: object, value: object, place: str) -> Iterator[tuple[str, object, str]]:
    """(place, the value with one number just outside one bound, the bound in words) for each bound
    in an annotation."""
    parts = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        for part in parts:
            yield from outside(part, value, place)
    elif get_origin(hint) is Annotated:
        yield from outside(parts[0], value, place)
        for bound in parts[1:]:
            if isinstance(bound, str):  # what the setting is
                continue
            if hasattr(bound, "min_length"):
                yield place, (), f"{bound.min_length} or more"
                continue
            ((key, limit),) = vars_of(bound).items()
            wrong = just_outside(key, limit, parts[0] is int)
            yield place, wrong, f"{WORDS[key]} {limit}"
    elif get_origin(hint) is tuple:
        items = value or (1,)
        for n, item in enumerate(items):
            part = parts[0] if parts[-1] is Ellipsis else parts[n]
            for inner, wrong, words in outside(part, item, f"{place}[{n}]"):
                yield inner, (*items[:n], wrong, *items[n + 1 :]), words


def vars_of(bound: object) -> dict[str, float]:
    return {key: getattr(bound, key) for key in WORDS if hasattr(bound, key)}


def cases() -> Iterator:
    for row in ROWS:
        for name, hint in get_type_hints(type(row), include_extras=True).items():
            for place, wrong, words in outside(hint, getattr(row, name), name):
                label = f"{type(row).__name__}.{place} {words}"
                yield pytest.param(row, name, wrong, place, words, id=label)


CASES = list(cases())


def message(call, *arguments, **named) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_cases_hold_bounds_written_down_by_hand():
    """So that the reading of annotations above is itself compared with something."""
    found = {(type(c.values[0]).__name__, *c.values[3:]) for c in CASES}
    assert {
        ("Schedule", "iterations", "at least 0"),
        ("Schedule", "images", "at least 1"),
        ("Schedule", "steps[1]", "at least 0"),
        ("Schedule", "lr", "at least 0"),
        ("Resize", "train", "1 or more"),
        ("Resize", "scale[0]", "above 0"),
        ("Detector", "retina_prior", "below 1"),
        ("Detector", "anchors[4]", "1 or more"),
        ("Detector", "anchors[0][0]", "above 0"),
        ("Recipe", "key_momentum", "at most 1"),
        ("Recipe", "randaugment[1]", "at most 30"),
        ("Recipe", "workers", "at least -1"),
        ("Recipe", "jitter[3]", "at most 1"),
        ("Resources", "nodes", "at least 1"),
        ("Resources", "cpus", "at least 1"),
        ("Scenes", "size", "at least 64"),
        ("Scenes", "unlabelled", "at least 0"),
        ("StartingPoint", "seed", "at least 0"),
        ("Task", "seeds", "at least 1"),
        ("Suite", "eval_period", "at least 0"),
    } <= found
    assert len(CASES) > 90


@pytest.mark.parametrize(("row", "name", "wrong", "place", "words"), CASES)
def test_a_value_just_outside_is_refused_by_every_way_in(row, name, wrong, place, words):
    fitting = {f.name: getattr(row, f.name) for f in fields(row)}
    text = f"{name}={json.dumps(wrong)}"
    document = yaml.safe_dump({**plainly(row), name: plainly(wrong)})
    name_of = type(row).__name__
    messages = {
        f"{name_of}: ": [
            message(type(row), **{**fitting, name: wrong}),
            message(replace, row, **{name: wrong}),
        ],
        "f.yaml: ": [
            message(config.build, type(row), config.load_yaml(document, "f.yaml"), "f.yaml")
        ],
    }
    if name not in config.IDENTITY:
        changes = config.parse_assignments([text])
        messages["--set: "] = [message(config.override, row, changes, "--set")]
    number = wrong
    for digits in place.split("[")[1:]:
        number = number[int(digits.rstrip("]"))]
    shown = "got 0" if number == () else f"got {number}"
    for start, found in messages.items():
        for said in found:
            assert said.startswith(f"{start}{place} must ") and words in said and shown in said


def test_the_row_itself_comes_through_every_way_in():
    for row in ROWS:
        assert replace(row) == row == config.build(type(row), plainly(row), "f.yaml")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda: replace(FCN.schedule, optimizer="adam"), "'sgd' or 'adamw', got the text 'adam'"),
        (lambda: replace(FCN.schedule, iterations=2.0), "a whole number, got 2.0"),
        (lambda: replace(FCN.schedule, iterations=True), "a whole number, got true"),
        (lambda: replace(FCN.schedule, lr=math.nan), "a finite number, got nan"),
        (lambda: replace(FCN.schedule, lr=math.inf), "a finite number, got inf"),
        (lambda: replace(FCN.schedule, lr=10**400), "lr must be a number"),
        (lambda: replace(FCN.schedule, steps=[3]), r"steps must be a tuple, got \[3\]"),
        (lambda: replace(FCN, schedule=None), "schedule must be a group of settings, got nothing"),
        (lambda: replace(FCN, name=None), "name must be a text, got nothing"),
        (lambda: replace(RECIPES["detco-small"], fill_queue=1), "true or false, got 1"),
        (lambda: replace(RECIPES["detco-small"], blur_sigma=(1.0,)), r"blur_sigma\[1\] is missing"),
        (lambda: Data("x"), "root must be a path, got the text 'x'"),
        (lambda: Resources(time="soon"), "time 'soon'"),
    ],
)
def test_types_and_choices_are_checked_too(changed, words):
    with pytest.raises(InputError, match=words):
        changed()


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("scenes: {size: 63}", "scenes.size", "at least 64, got 63"),
        ("start: [{name: a, random: true, seed: -1}]", "start[0].seed", "at least 0, got -1"),
        ("protocols: [small-retinanet, {protocol: x, seeds: 0}]", "protocols[1].seeds", "got 0"),
        ("keep_model: worst", "keep_model", "'', 'final' or 'best', got the text 'worst'"),
    ],
)
def test_a_suite_file_says_the_place(text, place, words, tmp_path):
    content = {"start": ["random"]} | config.load_yaml(text, "f.yaml")
    said = message(files.parse, content, tmp_path / "f.yaml")
    assert said.startswith(f"{tmp_path / 'f.yaml'}: {place} must be ") and words in said


@dataclass(frozen=True)
class Small:
    share: float
    size: int | float = 1
    name: Literal["a", "b"] | None = None
    pair: tuple[float, int] = (1.0, 1)
    more: dict = field(default_factory=dict)


def test_build_gives_each_value_the_form_of_its_annotation():
    made = settings.build(Small, {"share": 1, "size": 2, "pair": [3, 4], "more": {"x": [1]}})
    assert made == Small(1.0, 2, None, (3.0, 4), {"x": [1]})
    kinds = type(made.share), type(made.size), [type(item) for item in made.pair]
    assert kinds == (float, int, [float, int])
    assert settings.build(Small, {"share": 0.5, "size": 2.5, "name": "b"}).name == "b"
    with pytest.raises(InputError, match=r"^share is missing$"):
        settings.build(Small, {})
    with pytest.raises(InputError, match=r"^x\.pair must have 2 values at most, got 3"):
        settings.build(Small, {"share": 1, "pair": [1, 2, 3]}, "x")


def test_largest_numbers():
    assert settings.build(Small, {"share": sys.float_info.max}).share == sys.float_info.max
    with pytest.raises(InputError, match="lr must be a finite number"):
        settings.build(type(FCN.schedule), plainly(FCN.schedule) | {"lr": 10**400})


@pytest.mark.parametrize("cls", [type(RECIPES["detco-200ep"]), type(RETINA)])
def test_every_setting_says_what_it_is(cls):
    texts = explained(cls)
    assert [name for name, text in texts.items() if not text] == []
    assert len(set(texts.values())) > 0.95 * len(texts)  # not one line for all
    for row in RECIPES.values() if cls is not type(RETINA) else PROTOCOLS.values():
        assert flatten(asdict(row)).keys() <= texts.keys()
