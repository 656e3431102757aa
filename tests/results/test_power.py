"""Seeds that show a difference, against simulated experiments and the tables of t tests."""

import numpy as np
import pytest

from detco.common.errors import InputError
from detco.results import power, stats, tables
from tests.factories.records import transfer_record


@pytest.mark.parametrize(("n", "effect"), [(3, 2.0), (5, 1.2), (8, 0.5)])
@pytest.mark.parametrize("paired", [True, False])
def test_power_is_how_often_simulated_suites_show_it(n, effect, paired):
    """20,000 suites: both sides' runs drawn, the interval computed as in the tables."""
    draw = np.random.default_rng(0)
    runs = draw.normal(size=(20_000, n))
    if paired:  # differences have the spread 1
        differences = runs + effect
        half = stats.stdtrit(n - 1, 0.975) * differences.std(1, ddof=1) / np.sqrt(n)
        shown = np.abs(differences.mean(1)) > half
    else:
        other = draw.normal(size=(20_000, n)) + effect
        pooled = np.sqrt((runs.var(1, ddof=1) + other.var(1, ddof=1)) / n)
        shown = np.abs(other.mean(1) - runs.mean(1)) > stats.stdtrit(2 * n - 2, 0.975) * pooled
    assert power.power(n, effect, paired) == pytest.approx(shown.mean(), abs=0.012)


def test_known_sample_sizes():
    """Cohen's tables: d = 0.5 and 0.8, two sides, 5 %, 80 %: 64 and 26 a side; paired 34 and 15."""
    assert [power.seeds(d) for d in (0.5, 0.8)] == [64, 26]
    assert [power.seeds(d, paired=True) for d in (0.5, 0.8)] == [34, 15]


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n", [2, 5, 30])
def test_the_smallest_effect_has_just_that_power(n, paired):
    effect = power.smallest(n, paired)
    assert power.power(n, effect, paired) == pytest.approx(0.8, abs=1e-6)
    assert power.seeds(effect * 1.0001, paired) == n


def test_one_seed_shows_nothing():
    assert power.power(1, 100.0) == 0.0 and power.smallest(1) == np.inf
    with pytest.raises(InputError, match="more than 10,000 seeds"):
        power.seeds(0.001)


def test_spreads_are_pooled_over_cells_and_pairs():
    """Two rows of three seeds and one single run, by hand: variance 1 in both; of the differences
    -1, 1, 0 it is 1, too."""
    made = {"random": (10, 11, 12), "moco": (11, 10, 12), "detco-small": (20,)}
    records = [
        transfer_record(start, "c4", seed, value)
        for start, found in made.items()
        for seed, value in enumerate(found)
    ]
    (row,) = power.spreads(tables.frame(records)).itertuples()
    assert (row.metric, row.runs) == ("box_ap", 6)
    assert row.spread == pytest.approx(1.0)
    assert row.paired == pytest.approx(1.0)
    with pytest.raises(InputError, match="no starting point has two seeds"):
        power.spreads(tables.frame(records[-1:]))
