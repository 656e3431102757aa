"""The page's first sentences: nothing is ranked that noise, a single run or no training made."""

import numpy as np
import pytest
import scipy.stats

from detco.results import tables
from detco.results.report import headline
from tests.factories.records import failed_record, transfer_record


def sentences(values, untrained=(), **changes):
    records = [
        transfer_record(start, "c4", seed, value, **changes)
        for start, found in values.items()
        for seed, value in enumerate(found)
    ]
    return headline.sentences(tables.ap_table(tables.frame(records)), untrained)


@pytest.mark.parametrize(
    "values, said",
    [
        (
            {"detco-small": [31, 35, 27], "random": [29, 30, 31]},
            "no difference in box AP outside the noise; detco-small is highest with 31.0 ± 4.0 (3),"
            " random lowest with 30.0 ± 1.0 (3).",
        ),
        (
            {"detco-small": [41], "random": [30]},
            "single runs, so whether box AP differs or that is noise cannot be told; detco-small is"
            " highest with 41.0 (1), random lowest with 30.0 (1).",
        ),
        (
            {"detco-small": [41, 42], "random": [29, 30]},
            "box AP is highest from detco-small, 41.5 ± 0.7 (2); +12.0 over random (± 3.0, outside"
            " the noise).",
        ),
        # above random, but not above moco, whose own lead over random is clear
        (
            {"detco-small": [41, 42, 43], "moco": [40, 41, 42], "random": [10, 11, 12]},
            "box AP is highest from detco-small, 42.0 ± 1.0 (3); +31.0 over random (± 2.3, outside"
            " the noise); not clearly above moco.",
        ),
        # the highest is a single run: others are told apart, it is not
        (
            {"detco-small": [43], "moco": [40, 41, 42], "random": [10, 11, 12]},
            "box AP is highest from detco-small, 43.0 (1); +32.0 over random (single runs, so it"
            " may be noise); not clearly above moco.",
        ),
        ({"detco-small": [30], "random": [30.04]}, "box AP is 30.0 from every starting point."),
        (
            {"random": [30]},
            "box AP is 30.0 (1) from random, the only starting point with a result.",
        ),
    ],
)
def test_what_is_said(values, said):
    (line,) = sentences(values)
    assert line == f"c4 v1: pets, torchvision, VOC07 AP: {said}"


def test_intervals_are_welchs():
    """Against SciPy: the half of the interval in the sentence, for unequal spreads and numbers."""
    first, second = [41.0, 44.5, 43.0, 42.0], [29.0, 30.5, 28.0]
    test = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    half = (test.high - test.low) / 2
    (line,) = sentences({"detco-small": first, "random": second})
    assert f"+{np.mean(first) - np.mean(second):.1f} over random (± {half:.1f}, outside" in line


def test_what_was_not_trained_is_not_ranked():
    values = {"detco-small": [41, 42], "random": [29, 30]}
    (line,) = sentences(values, ["replay"], engine="replay")
    assert line.endswith("nothing was trained (engine replay), so nothing is ranked.")
    (line,) = sentences(values, ["replay"])
    assert "highest" in line


def test_no_result():
    runs = tables.frame([failed_record("random", "c4", 0)])
    (line,) = headline.sentences(tables.ap_table(runs))
    assert line.endswith("no result yet.")
