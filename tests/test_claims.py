"""The claims: what the statistics are, and that a verdict needs evidence."""

import json
import math

import numpy as np
import pytest
from helpers import made_up
from hypothesis import given
from hypothesis import strategies as st

from hlf_np.experiments.claims import FEWEST_CELLS, evaluate_claims, regular_robustness, slope, slope_interval
from hlf_np.training import Training


def cells(errors, successes, training=Training.NORMAL):
    return [
        made_up(training, seed=i, test_error=float(error), regular_success=float(success))
        for i, (error, success) in enumerate(zip(errors, successes, strict=True))
    ]


def line(count, change, noise=0.0, seed=0):
    """Cells with errors from 0.1 to 0.6, whose success changes by `change` over them."""
    errors = np.linspace(0.1, 0.6, count)
    noises = noise * np.random.default_rng(seed).standard_normal(count)
    return cells(errors, 0.5 + change * (errors - 0.35) / 0.5 + noises)


# --- slope and interval ---------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(0, 10_000))
def test_slope_is_that_of_the_least_squares_line(count, seed):
    x, y = np.random.default_rng(seed).random((2, count))
    assert slope(x, y) == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-6, abs=1e-9)


def test_interval_of_points_on_a_line_is_the_slope_itself():
    x = np.array([0.1, 0.2, 0.4, 0.7, 0.8])
    assert slope_interval(x, 3 * x - 1) == pytest.approx((3, 3))


def test_interval_holds_the_true_slope_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        x = random.random(25)
        low, high = slope_interval(x, 2 * x + 0.3 * random.standard_normal(25))
        held += low <= 2 <= high
    # 57 of 60 are expected. Of a binomial with 95 %, 51 or fewer come once in a hundred times; a percentile
    # bootstrap of 25 points is known to hold a little less often.
    assert 50 <= held < 60


def test_interval_widens_with_the_noise_and_is_the_same_every_time():
    x = np.linspace(0, 1, 20)
    noise = np.random.default_rng(1).standard_normal(20)
    little, much = (slope_interval(x, x + scale * noise) for scale in (0.1, 0.5))
    assert much[1] - much[0] == pytest.approx(5 * (little[1] - little[0]), rel=1e-6)
    assert slope_interval(x, x + 0.1 * noise) == little


def test_interval_of_few_distinct_errors_is_finite():
    x = np.array([0.2] * 9 + [0.3])  # most resamples hold one error only
    assert np.isfinite(slope_interval(x, np.linspace(0, 1, 10))).all()


# --- verdicts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        (line(20, 0), "supported"),
        (line(20, 0.03, noise=0.01), "supported"),
        (line(20, -0.03, noise=0.01), "supported"),
        (line(20, 0.5), "refuted"),
        (line(20, -0.5, noise=0.02), "refuted"),
        (line(20, 0, noise=0.2), "undecided"),
        (line(20, 0.1, noise=0.05), "undecided"),
    ],
)
def test_flat_is_supported_steep_refuted_and_noise_undecided(results, verdict):
    claim = regular_robustness(results)
    assert claim.verdict.split(":")[0] == verdict
    low, high = claim.interval
    assert low <= claim.statistic <= high


@pytest.mark.parametrize("change", [0, 0.5])
@pytest.mark.parametrize("count", range(6))
def test_too_few_cells_give_no_verdict_however_clear_they_look(count, change):
    claim = regular_robustness(line(count, change))
    assert claim.verdict.startswith("undecided: too few cells")
    assert claim.statistic is None
    assert claim.interval is None


def test_cells_of_one_and_the_same_error_give_no_verdict():
    assert regular_robustness(cells([0.3] * 20, np.linspace(0.2, 0.9, 20))).verdict.startswith("undecided")


def test_only_normal_training_with_measured_success_counts():
    flat = line(FEWEST_CELLS, 0)
    steep = cells(np.linspace(0, 1, 30), np.linspace(0, 1, 30), Training.ADVERSARIAL)
    unmeasured = cells(np.linspace(0, 1, 30), [math.nan] * 30)
    claim = regular_robustness(flat + steep + unmeasured)
    assert claim.verdict == "supported"
    assert len(claim.data["cells"]) == FEWEST_CELLS
    assert regular_robustness(flat[1:] + steep + unmeasured).verdict.startswith("undecided")


def test_statistic_can_be_computed_again_from_the_data_beside_it():
    claim = regular_robustness(line(12, 0.2, noise=0.05))
    errors, successes = claim.data["test_error"], claim.data["regular_success"]
    assert claim.statistic == pytest.approx(np.polyfit(errors, successes, 1)[0] * (max(errors) - min(errors)))


@pytest.mark.parametrize("results", [[], line(3, 0), line(20, 0), cells([0.1, 0.2], [math.nan] * 2)])
def test_there_are_four_claims_and_those_without_measurements_are_undecided(results):
    claims = evaluate_claims(results)
    assert [claim.number for claim in claims] == [1, 2, 3, 4]
    for claim in claims:
        if claim.verdict in ("supported", "refuted"):
            assert claim.statistic is not None
            assert claim.interval is not None
        else:
            assert claim.verdict.startswith("undecided: ")
    assert all(claim.verdict.startswith("undecided") for claim in claims[:3])  # nothing on the manifold was measured

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = json.dumps([claim.as_json() for claim in claims])
    assert len(json.loads(text, parse_constant=refuse)) == 4
