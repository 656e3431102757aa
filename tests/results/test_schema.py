"""What does not fit is named by its place, also where several fields share a value."""

import json

import pytest

from detco.results import schema
from tests.factories.records import transfer_record


def changed(**more) -> dict:
    return json.loads(json.dumps(transfer_record("random", "c4", 0, 30.0) | more))


@pytest.mark.parametrize(
    "record, words",
    [
        (json.loads('{"metrics": {"box_ap": NaN, "box_ap50": NaN}}'), "metrics.box_ap is nan"),
        ({"metrics": {"box_ap": "1", "mask_ap": "1"}}, "metrics.box_ap is '1'"),
        ({"warnings": ["a", 3]}, "warnings[1] is 3"),
    ],
)
def test_the_first_wrong_field_is_named(record, words):
    assert schema.misfit(changed(), *kinds()) is None
    assert words in schema.misfit(changed(**record), *kinds())


def test_of_two_missing_fields_the_first_is_named():
    record = changed()
    del record["status"], record["kind"]
    assert schema.misfit(record, *kinds()) in ("status is missing", "kind is missing")


def kinds():
    """Those that records of fine-tunings are read with."""
    return (schema.Record, schema.Finished)
