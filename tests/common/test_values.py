"""Small functions that all packages use."""

import hashlib
import random
from dataclasses import dataclass

import pytest

from detco.common.errors import InputError, one_line
from detco.common.values import canonical_hash, flatten, nearest, shown


@dataclass
class Setting:
    rate: float = 0.1


def test_canonical_hash_sees_values_only():
    assert canonical_hash({"b": 1, "a": (1, 2)}) == canonical_hash({"a": [1, 2], "b": 1})
    assert canonical_hash(Setting()) != canonical_hash(Setting(0.2))
    for same in ({"rate": 0.1}, Setting()):
        assert canonical_hash(same) == hashlib.sha256(b'{"rate":0.1}').hexdigest()
    with pytest.raises(TypeError):
        canonical_hash({"a": object()})


def test_flattened_leaves_are_those_on_every_path():
    draw = random.Random(3)

    def tree(depth: int) -> dict:
        size = draw.randint(1, 3)
        return {
            f"k{n}": tree(depth - 1) if depth and draw.random() < 0.6 else n for n in range(size)
        }

    for _ in range(50):
        nested = tree(4)
        flat = flatten(nested)
        for path, value in flat.items():
            place = nested
            for key in path.split("."):
                place = place[key]
            assert place == value and not isinstance(place, dict)
        assert len(flat) == str(nested).count(":") - str(nested).count("{") + 1


def test_nearest_names():
    assert nearest("detco-smal", ["detco-small", "moco"]) == "; did you mean 'detco-small'?"
    assert nearest("iterations", ["schedule.iterations"]) == "; did you mean 'schedule.iterations'?"
    assert nearest("zzz", ["detco"]) == ""


def test_what_is_printed_stays_one_line():
    assert one_line(InputError("a\n  b")) == "a b"
    assert one_line(KeyError("k")) == "KeyError: 'k'" and one_line(OSError()).startswith("OSError")
    assert shown("a\x1b[2Jb") == r"a\x1b[2Jb" and len(shown("x" * 500)) == 80
