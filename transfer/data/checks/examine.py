"""A data set before training: everything that would give a wrong number, or none, after it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from detco.common import depth

from .. import inspection
from ..dataset import Dataset
from . import content, counting


def examined(
    train: Dataset,
    test: Dataset,
    leaves_out: Sequence[str] = (),
    verify: bool = False,
    report: Callable | None = None,
) -> tuple[Dataset, Dataset]:
    """Both splits with their `content` and what else there is to say of them (`facts`).

    Of training images the headers are read (verify: all of each), test images are decoded, as no
    other can stand for one. leaves_out: what the scorer does not count, see `counting`. Raises
    InputError for the first thing that makes the data useless.
    """
    counting.refuse(train, counting.TRAINED_WITHOUT, "trained on")
    uncounted = counting.refuse(test, leaves_out, "scored")
    trained = inspection.refuse(train, verify, report)
    tested = inspection.refuse(test, True, report)
    train, test = content.identified(train, test, report)
    if uncounted:
        test = replace(test, facts={**test.facts, "uncounted": uncounted})
    return inspection.noted(train, trained), inspection.noted(test, tested)


def deviations(test: Dataset) -> list[str]:
    """What a table says of a test set, from its `facts`."""
    facts, found = test.facts, []
    if count := facts.get("in_training"):
        found.append(f"{count:,} of {len(test.images):,} test images are training images too")
    if text := counting.notable(facts.get("uncounted", {})):
        found.append(text)
    if value_range := facts.get("value_range"):
        found.append(depth.policy(value_range))
    if best := facts.get("ceiling"):
        found.append(
            f"perfect boxes would reach AP {best['ap']:.1f}: {best['images']:,} of"
            f" {len(test.images):,} test images have more objects than the {best['kept']}"
            " detections kept"
        )
    return found
