"""Differences of means with their confidence intervals: Welch's t, or paired by seed."""

from collections.abc import Mapping

import numpy as np
from scipy.special import stdtrit  # the quantile of Student's t, for arrays

LEVEL = 0.95


def welch(mean, std, n, mean_0, std_0, n_0, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Difference of two means and half of its confidence interval, each of the shape of its
    arguments (broadcast).

    std: of the sample (n - 1). The half is NaN where either side has fewer than two runs. Degrees
    of freedom after Welch (Biometrika 34, 1947) and Satterthwaite; two sides without any spread
    give 0.
    """
    mean, std, n, mean_0, std_0, n_0 = (
        np.asarray(x, float) for x in (mean, std, n, mean_0, std_0, n_0)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = std**2 / n, std_0**2 / n_0
        freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (n_0 - 1))
        half = stdtrit(freedom, (1 + level) / 2) * np.sqrt(a + b)
    half = np.where(a + b == 0, 0.0, half)
    return mean - mean_0, np.where((n >= 2) & (n_0 >= 2), half, np.nan)


def paired(
    values: Mapping[int, float], values_0: Mapping[int, float], level: float = LEVEL
) -> tuple[float, float, int]:
    """Mean over the seeds both have of (value - value_0), half of its confidence interval, number
    of such seeds.

    NaN for the difference without a common seed, for the half with fewer than two.
    """
    common = sorted(values.keys() & values_0.keys())
    differences = np.array([values[seed] - values_0[seed] for seed in common])
    n = len(common)
    if n < 2:
        return (float(differences.mean()) if n else float("nan")), float("nan"), n
    half = stdtrit(n - 1, (1 + level) / 2) * differences.std(ddof=1) / np.sqrt(n)
    return float(differences.mean()), float(half), n


def outside_noise(difference: float, half: float) -> bool:
    """Whether the interval leaves out 0. False where there is no interval."""
    return bool(abs(difference) > half)
