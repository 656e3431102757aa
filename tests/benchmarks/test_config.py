"""Settings from YAML and options: correct values, and errors that name the key, the place, the
value found and the one wanted."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from detco.benchmarks import config
from detco.common.errors import InputError
from detco.pretrain.recipes import RECIPES
from detco.transfer.protocols import PROTOCOLS


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    steps: tuple[int, ...] = ()
    kind: Literal["sgd", "adamw"] = "sgd"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    folder: Path | None = None
    rows: tuple[Inner, ...] = ()
    on: bool = False
    count: int = 1

    def __post_init__(self):
        if self.count < 0:
            raise ValueError("count must not be negative")


def test_build_fills_nested_dataclasses():
    made = config.build(
        Outer,
        {
            "name": "a",
            "inner": {"rate": 1, "steps": [3, 4]},
            "folder": "x/y",
            "rows": [{"kind": "adamw"}],
        },
        "f.yaml",
    )
    assert made == Outer("a", Inner(1.0, (3, 4)), Path("x/y"), (Inner(kind="adamw"),))


@pytest.mark.parametrize(
    "mapping, parts",
    [
        ({"nam": "a"}, ["unknown key 'nam'", "did you mean 'name'"]),
        ({"name": "a", "inner": {"rtae": 1}}, ["unknown key 'inner.rtae'", "'rate'"]),
        ({"name": "a", "rows": [{}, {"stps": [1]}]}, ["unknown key 'rows[1].stps'", "'steps'"]),
        ({"name": "a", "zzzzzz": 1}, ["unknown key 'zzzzzz'", "known: name, inner"]),
        ({}, ["name is missing"]),
        ({"name": 3}, ["name must be a text, got 3"]),
        ({"name": "a", "count": "3"}, ["count must be a whole number, got the text '3'"]),
        ({"name": "a", "count": True}, ["count must be a whole number, got true"]),
        ({"name": "a", "count": 2.5}, ["count must be a whole number, got 2.5"]),
        ({"name": "a", "on": 1}, ["on must be true or false, got 1"]),
        ({"name": "a", "inner": 3}, ["inner must be a group of settings, got 3"]),
        ({"name": "a", "inner": {"steps": 3}}, ["inner.steps must be a list, got 3"]),
        (
            {"name": "a", "inner": {"steps": [1, "x"]}},
            ["inner.steps[1] must be a whole number", "'x'"],
        ),
        (
            {"name": "a", "inner": {"kind": "adam"}},
            ["inner.kind must be 'sgd' or 'adamw', got the text 'adam'"],
        ),
        ({"name": "a", "inner": {"rate": float("nan")}}, ["not JSON compliant"]),
        ({"name": "a", "count": -1}, ["count must not be negative"]),
        ([1], ["expected Outer settings"]),
        (None, ["expected Outer settings", "got nothing"]),
    ],
)
def test_wrong_settings_say_what_and_where(mapping, parts):
    with pytest.raises(InputError) as caught:
        config.build(Outer, mapping, "f.yaml")
    message = str(caught.value)
    assert message.startswith("f.yaml: ") and "\n" not in message
    assert all(part in message for part in parts), message


def test_override_reaches_into_nested_groups_and_leaves_the_row_alone():
    row = PROTOCOLS["small-retinanet"]
    before = replace(row)
    made = config.override(
        row, {"schedule.iterations": 50, "resize.train": [96, 128], "scorer": "voc2012"}
    )
    schedule, resize = replace(row.schedule, iterations=50), replace(row.resize, train=(96, 128))
    assert made == replace(row, schedule=schedule, resize=resize, scorer="voc2012")
    assert row == before
    assert config.override(row, {"schedule": {"iterations": 50}}).schedule == schedule
    assert config.override(row, {"iterations": 50}).schedule == schedule
    assert config.override(row, {}) is row


@pytest.mark.parametrize("row", [*PROTOCOLS.values(), *RECIPES.values()], ids=lambda row: row.name)
def test_every_row_survives_the_way_through_a_spec_file(row):
    assert config.build(type(row), asdict(row), "spec") == row


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"schedule.iteratons": 5}, ["'schedule.iteratons'", "did you mean 'schedule.iterations'"]),
        ({"iteration": 5}, ["unknown setting 'iteration'", "'schedule.iterations'"]),
        ({"name.x": 5}, ["unknown setting 'name.x'"]),
        ({"schedule.iterations": "many"}, ["schedule.iterations must be a whole number"]),
    ],
)
def test_override_refuses(changes, parts):
    with pytest.raises(InputError) as caught:
        config.override(PROTOCOLS["small-retinanet"], changes, "--set")
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_contradiction_within_a_recipe_is_bad_input():
    with pytest.raises(InputError, match="batch 7 does not divide"):
        config.override(RECIPES["moco-v2-small"], {"batch": 7}, "--set")


def test_assignments_are_yaml_scalars():
    texts = ["a.b=3", "lr=1e-3", "x=-2.5E+2", "c=[1, 2]", "d=true", "e=bf16", "f=", "g=a=b"]
    expected = {
        "a.b": 3,
        "lr": 0.001,
        "x": -250.0,
        "c": [1, 2],
        "d": True,
        "e": "bf16",
        "f": None,
        "g": "a=b",
    }
    assert config.parse_assignments(texts) == expected
    with pytest.raises(InputError, match="expected key=value"):
        config.parse_assignments(["epochs"])


def test_yaml_traps():
    assert config.load_yaml("lr: 1e-3\nn: 10\nv: 1.5", "f") == {"lr": 0.001, "n": 10, "v": 1.5}
    with pytest.raises(InputError, match=r"f.yaml: line 1: a is given twice"):
        config.load_yaml("a: 1\nb: 2\na: 3", "f.yaml")
    with pytest.raises(InputError, match=r"f.yaml: line 2: not valid YAML"):
        config.load_yaml("a: [1,\n", "f.yaml")
    with pytest.raises(InputError, match="not valid YAML"):
        config.load_yaml("a: !!python/object/apply:os.getcwd []", "f.yaml")


def test_find_names_the_nearest():
    assert config.find({"alpha": 1, "beta": 2}, "beta", "thing") == 2
    with pytest.raises(InputError, match="'alpa'; did you mean 'alpha'"):
        config.find({"alpha": 1, "beta": 2}, "alpa", "thing")
    with pytest.raises(InputError, match="unknown thing 'zzz'; known: alpha, beta"):
        config.find({"alpha": 1, "beta": 2}, "zzz", "thing")


@pytest.mark.parametrize("row", [PROTOCOLS["small-retinanet"], RECIPES["moco-v2-small"]])
@pytest.mark.parametrize("key", ["name", "version"])
def test_what_a_row_is_cannot_be_set(row, key):
    """They name the folders of results, and the row that a record claims."""
    assert config.override(row, {"name": row.name}) == row
    for value in ("../../elsewhere", "/elsewhere", 7):
        with pytest.raises(InputError, match=key):
            config.override(row, {key: value})
