"""The statistics behind the claims, compared with other ways to compute them."""

import math
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hlf_np.experiments.analysis import statistics
from hlf_np.experiments.analysis.statistics import (
    DRAWS_BEYOND,
    bootstrap_interval,
    mean_interval,
    rank_correlation,
    slope,
    slope_interval,
    superiority,
)
from hlf_np.random import generator

# --- slope and interval ---------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(0, 10_000))
def test_slope_is_that_of_the_least_squares_line(count, seed):
    x, y = np.random.default_rng(seed).random((2, count))
    assert slope(x, y) == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-6, abs=1e-9)


def test_interval_of_points_on_a_line_is_the_slope_itself():
    x = np.array([0.1, 0.2, 0.4, 0.7, 0.8])
    assert slope_interval(x, 3 * x - 1) == pytest.approx((3, 3))


@pytest.mark.slow
def test_intervals_contain_the_true_value_about_as_often_as_they_should():
    """95 % are expected. Without the correction for few points, it would be 80 % of the means of 4 values."""
    random = np.random.default_rng(0)
    means, slopes = [], []
    for _ in range(300):
        low, high = mean_interval(random.standard_normal(5))
        means.append(low <= 0 <= high)
        x = random.random(25)
        low, high = slope_interval(x, 2 * x + 0.3 * random.standard_normal(25))
        slopes.append(low <= 2 <= high)
    assert 0.89 < np.mean(means) < 0.98
    assert 0.92 < np.mean(slopes) < 0.99


def test_interval_widens_with_the_noise_and_is_the_same_every_time():
    x = np.linspace(0, 1, 20)
    noise = np.random.default_rng(1).standard_normal(20)
    little, much = (slope_interval(x, x + scale * noise) for scale in (0.1, 0.5))
    assert much[1] - much[0] == pytest.approx(5 * (little[1] - little[0]), rel=1e-6)
    assert slope_interval(x, x + 0.1 * noise) == little


def test_interval_of_few_distinct_errors_is_finite():
    x = np.array([0.2] * 9 + [0.3])  # most resamples hold one error only
    assert np.isfinite(slope_interval(x, np.linspace(0, 1, 10))).all()


def test_a_slope_without_a_range_is_nan():
    assert np.isnan(slope(np.ones(5), np.arange(5.0)))


# --- other intervals ------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_close_to_the_normal_approximation():
    values = np.random.default_rng(0).standard_normal(400)
    half = 1.96 * values.std() / 20
    assert mean_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    low, high = mean_interval(values, level=0.5)
    assert high - low == pytest.approx(2 * half * 0.6745 / 1.96, rel=0.1)


def test_intervals_are_quantiles_over_draws_with_replacement():
    x, y = np.random.default_rng(2).random((2, 15))
    tail = scipy.stats.norm.cdf(-2.144787 * math.sqrt(15 / 14))  # that of Student's t with 14 degrees of freedom
    draws = generator(0, "bootstrap").integers(15, size=(math.ceil(DRAWS_BEYOND / tail), 15))
    for interval, values in (
        (mean_interval(x), [np.sort(x)[rows].mean() for rows in draws]),
        (slope_interval(x, y), [np.polyfit(x[rows], y[rows], 1)[0] for rows in draws]),
    ):
        assert interval == pytest.approx(np.quantile(values, [tail, 1 - tail], method="inverted_cdf"))


@pytest.mark.parametrize("sizes", [(4,), (5,), (3, 4), (7,)])
def test_intervals_of_few_points_are_those_of_all_draws(sizes):
    samples = [np.random.default_rng(size).random(size) for size in sizes]
    means = np.zeros(1)
    for sample in samples:
        rows = np.array(list(product(range(len(sample)), repeat=len(sample))))
        means = (means[:, None] + sample[rows].mean(axis=1)).ravel()
    n = min(sizes)
    tail = scipy.stats.norm.sf(scipy.stats.t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1)))
    interval = bootstrap_interval(lambda *draws: sum(draw.mean(axis=1) for draw in draws), *samples)
    assert interval == pytest.approx(np.quantile(means, [tail, 1 - tail], method="inverted_cdf"))


@pytest.mark.parametrize(("count", "level"), [(12, 0.99), (18, 0.99), (60, 0.99)])
def test_chance_hardly_moves_an_interval(monkeypatch, count, level):
    points = np.random.default_rng(count).random((2, count))
    intervals = []
    for seed in range(8):
        monkeypatch.setattr(statistics, "generator", lambda *_, seed=seed: np.random.default_rng(seed))
        intervals.append(slope_interval(*points, level))
    low, high = np.transpose(intervals)
    assert max(np.std(low), np.std(high)) < 0.05 * (high - low).mean()


def test_the_order_of_the_values_of_a_mean_does_not_matter():
    values = np.random.default_rng(3).random(20)
    assert mean_interval(values) == mean_interval(values[::-1])


def test_each_sample_is_drawn_from_itself_and_undefined_draws_are_left_out():
    seen = []

    def statistic(first, second):
        seen.append((first, second))
        return np.where(first.mean(axis=1) < 2, np.nan, first.mean(axis=1))

    low, high = bootstrap_interval(statistic, np.array([1.0, 2, 3]), np.array([7.0, 8]))
    first, second = (np.concatenate(draws) for draws in zip(*seen, strict=True))
    every = [sorted(set(map(tuple, np.sort(draws).tolist()))) for draws in (first, second)]
    assert every == [list(combinations_with_replacement(values, len(values))) for values in ([1, 2, 3], [7, 8])]
    assert (low, high) == (2, 3)  # for two points, the interval is the range of the defined values


# --- effect sizes and ranks -----------------------------------------------------------------------------------

samples = st.lists(st.integers(-5, 5), min_size=1, max_size=20).map(lambda values: np.array(values, np.float64))


@given(samples, samples)
def test_superiority_is_the_share_of_pairs(first, second):
    differences = first[:, None] - second
    expected = ((differences > 0) + 0.5 * (differences == 0)).mean()
    assert superiority(first, second) == pytest.approx(expected)
    assert superiority(second, first) == pytest.approx(1 - expected)


@given(st.integers(2, 30), st.integers(0, 1000))
def test_rank_correlation_is_the_correlation_of_the_ranks(count, seed):
    x, y = np.random.default_rng(seed).integers(0, 9, (2, count)).astype(np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert rank_correlation(x, y) is None
    else:
        ranks = scipy.stats.rankdata(x), scipy.stats.rankdata(y)
        assert rank_correlation(x, y) == pytest.approx(np.corrcoef(*ranks)[0, 1])
