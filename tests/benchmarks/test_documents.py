"""Users' YAML: allowed contents and limits. No time is asserted; a hang shows as
a test that never ends."""

import pytest

from detco.benchmarks import config, documents
from detco.benchmarks.plan import suite_plan
from detco.benchmarks.suites.builtin import SUITES, StartingPoint, Suite, Task
from detco.common.errors import InputError


def refused(text: str, *words: str) -> None:
    with pytest.raises(InputError) as error:
        config.load_yaml(text, "f.yaml")
    message = str(error.value)
    assert message.startswith("f.yaml: ") and "\n" not in message and len(message) < 400
    assert message.isprintable() and all(word in message for word in words), message


def nested_aliases(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    return "\n".join(lines)


def test_aliases_have_a_budget_and_few_of_them_are_fine():
    content = config.load_yaml(nested_aliases(3), "f.yaml")
    assert content["a2"] == [[["x"] * 9] * 9] * 9
    refused(nested_aliases(12), "more than 20,000 values", "aliases")
    refused("a: &a [1, *a]", "alias lies within")
    refused("a: &a {b: &b [*a]}", "alias lies within")


def test_size_and_nesting_have_a_budget():
    deepest = documents.DEEPEST - 1
    value = config.load_yaml("[" * deepest + "]" * deepest, "f")
    for _ in range(deepest - 1):
        (value,) = value
    assert value == []
    refused("[" * 100_000, "deep in one another")
    refused("- " * 50_000, "deep in one another")
    refused("#" * (config.LARGEST + 1), "characters")
    refused("\n".join("- x" for _ in range(documents.MOST + 1)), "values")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{1: 2}", "the key 1"),
        ("a: {2020-01-01: x}", "a: the key 2020-01-01"),
        ("a: {~: x}", "the key None"),
        ("? [a]\n: b", "unhashable"),
        ("!!bool x", "cannot be"),
        ("a: 2020-13-45", "month"),
        ("a: " + "9" * 5000, "digits"),
        ("a: 9223372036854775808", "64 are possible"),
        ('a: [1, "\\0"]', "a[1]"),
        ('"\\ud800": 1', "no text has"),
        ("a: \x00", "special characters"),
        ("!!set {a, b}", "set"),
        ("!!binary aGk=", "bytes"),
        ("!!omap [a: 1]", "tuple"),
        ("!!timestamp x", "cannot be"),
        ("!!map a", "cannot be"),
        ("!!python/name:os.system", "constructor"),
        ("a: 1\n? a\n: 2", "given twice"),
        ("--- a\n--- b", "another document"),
    ],
)
def test_what_no_setting_is_gives_one_line(text, word):
    refused(text, word)


def test_numbers_of_64_bits_and_dates_are_read():
    text = "a: 9223372036854775807\nb: -9223372036854775808\nc: 2020-02-29"
    found = config.load_yaml(text, "f")
    assert (found["a"], found["b"]) == (2**63 - 1, -(2**63)) and str(found["c"]) == "2020-02-29"


def test_a_plan_of_very_many_jobs_needs_a_yes(tmp_path):
    suite = Suite("own", (StartingPoint("random", random=True),), SUITES["demo"].protocols)
    suite = Suite("own", suite.start, suite.protocols, scenes=SUITES["demo"].scenes)
    assert len(suite.protocols) == 1 and isinstance(suite.protocols[0], Task)
    with pytest.raises(InputError, match=r"1,000,000,000 jobs.*--yes"):
        suite_plan.plan(suite, tmp_path, seeds=10**9)
    with pytest.raises(InputError, match="5 jobs; to plan more than 4"):
        suite_plan.plan(suite, tmp_path, seeds=5, most=4)
    for most in (None, 5):
        assert len(suite_plan.plan(suite, tmp_path, seeds=5, most=most)) == 5 + 1  # and the scenes
