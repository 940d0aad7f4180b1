"""Slopes, effect sizes, correlations, and how sure they are: the bootstrap.

The bootstrap asks how a number would vary if the experiment were repeated. It takes the points at hand for the
world they come from, draws as many of them with replacement, computes the number again, and does so many
times; the middle 95 % of what it finds are the interval.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from hlf_np.arrays import Floats
from hlf_np.random import generator

RESAMPLES = 2000
LEVEL = 0.95
Interval = tuple[float, float]


def interval(statistic: Callable[..., Floats], *samples: Floats, level: float = LEVEL) -> Interval:
    """A percentile bootstrap interval of a number computed from samples.

    Parameters
    ----------
    statistic : takes many draws of the samples at once, (B, n, ...) each; the number of each draw, (B,), NaN where it
        is not defined. Such draws are left out.
    samples : (n, ...) each; their rows are drawn anew, each sample from itself. The statistic must be defined
        for the samples as they are.
    level : how much of the distribution the interval holds.
    """
    random = generator(0, "bootstrap")
    found = np.zeros(0)
    while len(found) < RESAMPLES:
        draws = (sample[random.integers(len(sample), size=(RESAMPLES, len(sample)))] for sample in samples)
        numbers = statistic(*draws)
        found = np.append(found, numbers[np.isfinite(numbers)])
    low, high = np.quantile(found[:RESAMPLES], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(values: Floats, level: float = LEVEL) -> Interval:
    """Of the mean of values (n,)."""
    return interval(lambda draws: draws.mean(axis=1), values, level=level)


def slope(x: Floats, y: Floats) -> float:
    """Of the least-squares line through the points; NaN if they all have the same x.

    Examples
    --------
    >>> x = np.array([0.0, 1.0, 2.0, 3.0])
    >>> slope(x, 0.5 * x + 2), [round(bound, 6) for bound in slope_interval(x, 0.5 * x + 2)]
    (0.5, [0.5, 0.5])
    """
    return float(slopes(x, y))


def slopes(x: Floats, y: Floats) -> Floats:
    """The same for many lines at once, whose points lie along the last axis."""
    x_distances, y_distances = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    squares = np.where(np.ptp(x, axis=-1) == 0, np.nan, np.square(x_distances).sum(axis=-1))
    return np.asarray((x_distances * y_distances).sum(axis=-1) / squares)


def slope_interval(x: Floats, y: Floats, level: float = LEVEL) -> Interval:
    """Of the slope, by drawing the points anew; x must not be all the same."""
    return interval(lambda draws: slopes(draws[..., 0], draws[..., 1]), np.stack([x, y], axis=1), level=level)


def superiority(first: Floats, second: Floats) -> float:
    """The chance that a random one of `first` (n,) is larger than a random one of `second` (m,).

    An effect size that needs no unit and no normal distribution: 0.5 is no difference, 1 is complete
    separation. Equal values count half. (It is Mann and Whitney's U divided by n m.)

    Examples
    --------
    >>> superiority(np.array([1.0, 3.0]), np.array([0.0, 2.0]))  # only 1 against 2 is lost
    0.75
    """
    ordered = np.sort(second)
    below, not_above = (np.searchsorted(ordered, first, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(second)))


def rank_correlation(x: Floats, y: Floats) -> float | None:
    """Spearman's: 1 if y always rises with x, -1 if it always falls; None if one of them never changes.

    Examples
    --------
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> round(rank_correlation(x, np.exp(x)), 6), round(rank_correlation(x, -x), 6)
    (1.0, -1.0)
    """
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
