"""The claims: their statistics, and the evidence that a verdict needs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import made_up

from hlf_np.experiments.analysis.claim import MIN_CELLS
from hlf_np.experiments.analysis.claims import evaluate_claims
from hlf_np.experiments.analysis.data_factor import data_factor
from hlf_np.experiments.analysis.existence import leaving_the_manifold, on_manifold_examples
from hlf_np.experiments.analysis.generalization import on_manifold_robustness, regular_robustness
from hlf_np.spaces import ImageBall
from hlf_np.trainings import ADVERSARIAL, NORMAL, PAPER, Training, training_of

TRANSFORMED = training_of("adversarial_transformations")


def cells(errors, successes, training=NORMAL):
    return [
        made_up(training, seed=i, test_error=float(error), regular_success=float(success))
        for i, (error, success) in enumerate(zip(errors, successes, strict=True))
    ]


def line(count, change, noise=0.0, seed=0):
    """Cells with errors from 0.1 to 0.6, whose success changes by `change` over them."""
    errors = np.linspace(0.1, 0.6, count)
    noises = noise * np.random.default_rng(seed).standard_normal(count)
    return cells(errors, 0.5 + change * (errors - 0.35) / 0.5 + noises)


def assert_judged(claim, verdict):
    """Check the verdict of a claim that has enough cells."""
    assert claim.verdict.split(":")[0] == verdict
    low, high = claim.interval
    assert low <= claim.statistic <= high


def assert_too_few_cells(claim):
    assert claim.verdict.startswith("undecided: too few ")
    assert (claim.statistic, claim.interval) == (None, None)


# --- claim 4 --------------------------------------------------------------------------------------------------


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
    assert_judged(regular_robustness(results), verdict)


@pytest.mark.parametrize("change", [0, 0.5])
@pytest.mark.parametrize("count", range(6))
def test_too_few_cells_give_no_verdict_however_clear_they_look(count, change):
    assert_too_few_cells(regular_robustness(line(count, change)))


def test_cells_with_equal_errors_give_no_verdict():
    assert regular_robustness(cells([0.3] * 20, np.linspace(0.2, 0.9, 20))).verdict.startswith("undecided")


def test_only_normal_training_with_measured_success_counts():
    flat = line(MIN_CELLS, 0)
    steep = cells(np.linspace(0, 1, 30), np.linspace(0, 1, 30), ADVERSARIAL)
    unmeasured = cells(np.linspace(0, 1, 30), [math.nan] * 30)
    claim = regular_robustness(flat + steep + unmeasured)
    assert claim.verdict == "supported"
    assert len(claim.data["regular_success"]["normal"]["cells"]) == MIN_CELLS
    assert regular_robustness(flat[1:] + steep + unmeasured).verdict.startswith("undecided")


def test_statistic_can_be_computed_again_from_the_data_beside_it():
    claim = regular_robustness(line(12, 0.2, noise=0.05))
    entry = claim.data["regular_success"]["normal"]
    errors, successes = entry["test_error"], entry["success"]
    assert claim.statistic == pytest.approx(np.polyfit(errors, successes, 1)[0] * (max(errors) - min(errors)))


def moving(changes, count=12, noise=0.005):
    """For each training cells whose regular success changes by so much over errors from 0.1 to 0.6."""
    return [
        replace(result, cell=replace(result.cell, training=training))
        for training, change in changes.items()
        for result in line(count, change, noise)
    ]


class MyBall(ImageBall):
    """A ball of a plugin: training in it is regular adversarial training, too."""


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        (moving({NORMAL: 0, TRANSFORMED: 0.02}), "supported"),
        (moving({NORMAL: 0, TRANSFORMED: 0.4}), "refuted"),  # any training may refute it
        (moving({NORMAL: 0, TRANSFORMED: -0.4}), "refuted"),
        (
            moving({NORMAL: 0, ADVERSARIAL: 0.4, training_of("regular_and_on_true_manifold_adversarial"): 0.4}),
            "supported",
        ),
        (moving({NORMAL: 0, Training("in_a_ball_of_my_own", (MyBall,)): 0.4}), "supported"),
        (moving({NORMAL: 0}) + moving({TRANSFORMED: 0.1}, noise=0.1), "undecided"),
        (moving({NORMAL: 0}) + moving({TRANSFORMED: 0}, count=5), "undecided"),
        (moving({ADVERSARIAL: 0}), "undecided"),
    ],
)
def test_regular_success_must_be_flat_in_every_training_without_regular_attacks(results, verdict):
    assert regular_robustness(results).verdict.split(":")[0] == verdict


def test_the_change_of_each_training_is_reported_and_the_largest_is_the_statistic():
    claim = regular_robustness(moving({NORMAL: 0.01, ADVERSARIAL: 0.4, TRANSFORMED: -0.05}, noise=0))
    assert claim.statistic == pytest.approx(0.05)  # of either sign
    assert claim.interval == pytest.approx((0.05, 0.05))
    assert claim.details == (
        "Normal: success changes by 0.010 (0.010 to 0.010) over test errors from 0.100 to 0.600; slope 0.02 (0.02 to"
        " 0.02), rank correlation 1.00.",
        "Adversarial (not part of the verdict): success changes by 0.400 (0.400 to 0.400) over test errors from"
        " 0.100 to 0.600; slope 0.80 (0.80 to 0.80), rank correlation 1.00.",
        "Adversarial transformations: success changes by -0.050 (-0.050 to -0.050) over test errors from 0.100 to"
        " 0.600; slope -0.10 (-0.10 to -0.10), rank correlation -1.00.",
    )


@pytest.mark.parametrize(("largest", "verdict"), [(0.44, "undecided"), (0.46, "supported")])
def test_nearly_equal_errors_do_not_show_whether_success_depends_on_them(largest, verdict):
    claim = regular_robustness(cells(np.linspace(0.3, largest, 12), [0.9] * 12))
    assert claim.verdict.split(":")[0] == verdict
    if verdict == "undecided":
        assert claim.verdict == "undecided: the test errors of training normal differ too little (0.300 to 0.440)"
        assert claim.statistic is None


# --- the price of adversarial training ------------------------------------------------------------------------


def learning_curves(factor, power=0.4, noise=0.0, sizes=(250, 500, 1000, 2000), seeds=4):
    """Errors that fall as a power of N; adversarial training needs `factor` times the images."""
    random = np.random.default_rng(0)
    return [
        made_up(
            training, size, seed, test_error=0.5 * (size / needed / 250) ** -power * np.exp(noise * random.normal())
        )
        for training, needed in ((NORMAL, 1), (ADVERSARIAL, factor))
        for size in sizes
        for seed in range(seeds)
    ]


@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_the_data_factor_of_clean_curves_is_exact(factor):
    found = data_factor(learning_curves(factor))
    assert found["factor"] == pytest.approx(factor)
    assert found["interval"] == pytest.approx((factor, factor))


def test_the_data_factor_of_noisy_curves_lies_in_its_interval_and_is_reported():
    results = learning_curves(2, noise=0.05)
    found = data_factor(results)
    low, high = found["interval"]
    assert 1.3 < low < 2 < high < 3
    assert low < found["factor"] < high
    claim = regular_robustness(results)
    assert claim.data["data_factor"] == found
    assert f"needs {found['factor']:.2f} times as many training images" in claim.details[0]
    ends = [
        f"{factor:.2f} ({low:.2f} to {high:.2f}) at N = {n}"
        for n, factor in (found["by_size"][0], found["by_size"][-1])
        for low, high in [found["intervals_by_size"][n]]
    ]
    assert f"from 250 to 2000: {', '.join(ends)}." in claim.details[0]


def unequal_curves():
    """A factor that grows with N, for eight seeds."""
    sizes = {250 * 2**k: 0.5 * 1.4**k for k in range(8)}
    return [
        made_up(training, size, seed, test_error=0.5 * (size / needed / 250) ** -0.4)
        for seed in range(8)
        for size, factor in sizes.items()
        for training, needed in ((NORMAL, 1), (ADVERSARIAL, factor))
    ]


def test_an_unfinished_seed_does_not_move_the_data_factor():
    results = unequal_curves()
    whole = data_factor(results)["factor"]
    for is_there in (lambda cell: cell.n_train <= 2000, lambda cell: cell.n_train > 2000):
        some = [r for r in results if r.cell.seed < 3 or is_there(r.cell)]
        assert data_factor(some)["factor"] == pytest.approx(whole)
    never_complete = [r for r in results if (r.cell.seed < 6) == (r.cell.n_train <= 2000)]
    assert data_factor(never_complete)["factor"] == pytest.approx(whole)


def test_an_n_of_one_training_only_does_not_move_the_data_factor():
    results = unequal_curves()
    without = [r for r in results if r.cell.n_train < 32_000]
    half = [r for r in results if r.cell.n_train < 32_000 or r.cell.training == NORMAL]
    assert data_factor(half)["factor"] == pytest.approx(data_factor(without)["factor"])


@pytest.mark.parametrize(
    "results",
    [
        [],
        learning_curves(2, seeds=1),  # four models
        learning_curves(2, sizes=(250,), seeds=9),  # no curve
        learning_curves(2, power=0),  # errors that do not fall
        learning_curves(2, power=-0.3),  # that rise
        learning_curves(2, power=0.02, noise=0.3, seeds=3),  # which may fall or rise
        learning_curves(2)[:16],  # of one training
    ],
)
def test_inconclusive_curves_have_no_data_factor(results):
    assert data_factor(results) is None
    assert regular_robustness(results).details == ()


# --- claim 1 --------------------------------------------------------------------------------------------------


def projected(count, regular, on_manifold=0.03, clean=0.0, images=20, spread=0.02):
    """Cells with random distances around given means, no two of them equal."""
    random = np.random.default_rng(0)
    return [
        made_up(
            list(PAPER)[i % len(PAPER)],
            seed=i,
            distances={
                kind: np.abs(mean + spread * random.standard_normal(images))
                for kind, mean in (("regular", regular), ("on_true_manifold", on_manifold), ("clean", clean))
            },
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        (projected(8, regular=0.8), "supported"),
        (projected(8, regular=0.06, spread=0.005), "supported"),
        (projected(8, regular=0.03), "refuted"),  # as far as images on the manifold
        (projected(8, regular=0.03, clean=0.8), "refuted"),
        (projected(8, regular=0.1, on_manifold=0.8), "refuted"),  # farther than clean images only
        (projected(4, regular=0.8) + projected(4, regular=0.03), "undecided"),
    ],
)
def test_regular_examples_leave_the_manifold_only_if_farther_than_all_that_is_on_it(results, verdict):
    claim = leaving_the_manifold(results)
    assert_judged(claim, verdict)
    assert 0 <= claim.interval[0] <= claim.interval[1] <= 1
    assert claim.statistic == pytest.approx(np.mean(claim.data["chance"]))


@pytest.mark.parametrize("results", [projected(5, 0.8), projected(20, 0.8, images=4), projected(20, 0.03, images=0)])
def test_too_few_distances_give_no_verdict(results):
    assert_too_few_cells(leaving_the_manifold(results))


def test_mean_distances_are_reported():
    near, far = (projected(8, regular, spread=0) for regular in (0.8, 1.6))
    results = [n if n.cell.training is NORMAL else f for n, f in zip(near, far, strict=True)]  # 1 and 7 of them
    assert leaving_the_manifold(results).details == (
        "Mean L2 distances to the manifold: regular adversarial examples 1.50 (of normally trained models 0.80),"
        " on-manifold ones 0.03, clean images 0.00.",
    )
    others = [r for r in near if r.cell.training is not NORMAL]
    assert "regular adversarial examples 0.80, on" in leaving_the_manifold(others).details[0]


# --- claim 2 --------------------------------------------------------------------------------------------------


def attacked(rates, column="on_true_manifold_success", **others):
    return [made_up(seed=i, **{column: rate}, **others) for i, rate in enumerate(rates)]


LEARNED = "on_learned_manifold_success_worst"


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        (attacked(np.linspace(0.1, 0.6, 8)), "supported"),
        (attacked([0.02] * 8), "supported"),
        (attacked([0.0] * 8), "refuted"),
        (attacked([0.002, 0.004] * 4), "refuted"),
        (attacked([0.0, 0.03] * 4), "undecided"),
        (attacked([0.0] * 8, on_learned_manifold_success_worst=0.9, learned_labels_kept=1.0), "refuted"),
        (attacked([0.6] * 8, LEARNED, learned_labels_kept=0.9), "supported"),
        (attacked([0.6] * 8, LEARNED, learned_labels_kept=0.3), "undecided"),  # they may be other letters
        (attacked([0.0] * 8, LEARNED, learned_labels_kept=1.0), "undecided"),  # poor reconstructions may be the cause
    ],
)
def test_on_manifold_examples_exist_only_where_attacks_succeed_and_labels_are_kept(results, verdict):
    assert_judged(on_manifold_examples(results), verdict)


@pytest.mark.parametrize(
    "results",
    [
        [],
        attacked([0.9] * 5),
        attacked([0.0] * 5),
        attacked([math.nan] * 9),
        attacked([0.9] * 5, LEARNED, learned_labels_kept=1.0),
    ],
)
def test_too_few_attacks_on_the_manifold_give_no_verdict(results):
    assert_too_few_cells(on_manifold_examples(results))


def test_the_bound_of_unchanged_labels_is_reported():
    both = attacked([0.5] * 8, on_learned_manifold_success_worst=0.7, learned_labels_kept=0.9)
    assert "at least 0.600 have an adversarial example with an unchanged label" in on_manifold_examples(both).details[0]
    alone = on_manifold_examples(attacked([0.7] * 8, LEARNED, learned_labels_kept=0.9))
    assert alone.statistic == pytest.approx(0.6)
    few = attacked([0.5] * 8, on_learned_manifold_success_worst=0.2, learned_labels_kept=0.3)
    assert "at least 0.000 have" in on_manifold_examples(few).details[0]


# --- claim 3 --------------------------------------------------------------------------------------------------


def following(slopes, count=12, noise=0.01, column="on_true_manifold_success"):
    """For each training cells whose on-manifold success rises with the error by a given slope."""
    random = np.random.default_rng(0)
    errors = np.linspace(0.1, 0.6, count)
    return [
        made_up(training, seed=i, test_error=error, **{column: 0.3 + slope * error + noise * random.normal()})
        for training, slope in slopes.items()
        for i, error in enumerate(errors)
    ]


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        (following({NORMAL: 1, ADVERSARIAL: 0.8}), "supported"),
        (following({NORMAL: 1, ADVERSARIAL: 0}), "refuted"),  # flat
        (following({NORMAL: 1, ADVERSARIAL: -1}), "refuted"),
        (following({NORMAL: -0.5}), "refuted"),
        (following({NORMAL: 1, ADVERSARIAL: 0.5}, noise=0.6), "undecided"),
        (following({NORMAL: 1}) + following({ADVERSARIAL: 1}, count=5), "undecided"),
        (following({NORMAL: 1}, column="on_learned_manifold_success"), "supported"),
        (following({NORMAL: 0}, column="on_learned_manifold_success"), "refuted"),
    ],
)
def test_on_manifold_success_must_follow_the_error_in_every_training(results, verdict):
    assert_judged(on_manifold_robustness(results), verdict)


def test_the_true_manifold_decides_where_there_is_one():
    results = [
        made_up(seed=i, test_error=i / 20, on_true_manifold_success=i / 20, on_learned_manifold_success=1 - i / 20)
        for i in range(12)
    ]
    claim = on_manifold_robustness(results)
    assert claim.verdict == "supported"
    assert claim.statistic == pytest.approx(1)
    learned = claim.data["on_learned_manifold_success"]["normal"]
    assert (learned["slope"], learned["rank_correlation"]) == pytest.approx((-1, -1))
    assert claim.details == ("Normal: slope 1.00 (1.00 to 1.00), rank correlation 1.00.",)


def test_intervals_of_many_trainings_hold_simultaneously_and_are_wider():
    alone = on_manifold_robustness(following({NORMAL: 1}, noise=0.1))
    together = on_manifold_robustness(
        following({NORMAL: 1}, noise=0.1) + following(dict.fromkeys(list(PAPER)[1:], 3), noise=0.1)
    )
    assert alone.statistic == together.statistic
    assert together.interval[0] < alone.interval[0] < alone.interval[1] < together.interval[1]


@pytest.mark.parametrize("slope", [-1, 0, 1])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_cells_of_a_training_give_no_slope(slope, count):
    claim = on_manifold_robustness(following({NORMAL: slope, ADVERSARIAL: slope}, count))
    models = "models of training normal" if count else "models with a success rate on a manifold"
    assert claim.verdict == f"undecided: too few {models} ({count}; 6 are needed)"
    assert claim.interval is None


@pytest.mark.parametrize("success", [0.0, 1.0])
def test_saturated_success_rates_decide_nothing(success):
    """Stronger or weaker attacks might tell the models apart."""
    values, rising = {"on_true_manifold_success": success}, following({NORMAL: 1}, noise=0.01)
    saturated = [replace(r, measurements=r.measurements | values) for r in rising]
    claim = on_manifold_robustness(saturated)
    assert claim.verdict == f"undecided: the success rates of training normal are all {success:.0f}"
    others = following({ADVERSARIAL: 1}, noise=0.01)
    assert on_manifold_robustness([*saturated, *others]).verdict == claim.verdict
    flat = [replace(r, measurements=r.measurements | {"regular_success": success}) for r in line(20, 0)]
    assert regular_robustness(flat).verdict == "undecided: all success rates are 0 or 1"


def test_a_training_whose_models_all_failed_counts_against_a_claim_about_all():
    results = following({NORMAL: 1, ADVERSARIAL: 1}, noise=0.01)
    assert on_manifold_robustness(results).verdict == "supported"
    failed = [made_up(TRANSFORMED, seed=seed, test_error=math.nan) for seed in range(12)]
    assert on_manifold_robustness([*results, *failed]).verdict == "supported"  # they merely lack the measurement
    failed = [replace(result, failure="it diverged") for result in failed]
    lacking = "undecided: too few models of training adversarial_transformations (0; 6 are needed)"
    assert on_manifold_robustness([*results, *failed]).verdict == lacking
    claim = regular_robustness([*line(20, 0), *failed])
    assert claim.verdict == lacking
    assert on_manifold_robustness(failed).verdict.startswith("undecided: too few models with a success rate")


def test_the_interval_of_all_trainings_together_agrees_with_the_verdict():
    """The smallest slope is certain here, and it is another one that is not."""
    steep = following({NORMAL: 0.3}, noise=0.001)
    uncertain = following({ADVERSARIAL: 1.6}, noise=0.6)
    claim = on_manifold_robustness([*steep, *uncertain])
    fits = claim.data["on_true_manifold_success"]
    assert fits["normal"]["slope"] < fits["adversarial"]["slope"]
    assert fits["normal"]["interval"][0] > 0 > fits["adversarial"]["interval"][0]
    assert claim.verdict == "undecided: the interval contains 0"
    assert claim.interval == (fits["adversarial"]["interval"][0], fits["normal"]["interval"][1])
    certain, noisy = (
        line(20, -0.2),
        [replace(r, cell=replace(r.cell, training=TRANSFORMED)) for r in line(20, 0.3, 0.9)],
    )
    claim = regular_robustness([*certain, *noisy])
    assert claim.verdict == "refuted"
    assert claim.interval[0] == pytest.approx(0.2)


def test_equal_test_errors_tell_nothing_about_success():
    cells = [made_up(NORMAL, seed=i, test_error=0.25, on_true_manifold_success=0.5 + 0.01 * i) for i in range(12)]
    assert on_manifold_robustness(cells).verdict == (
        "undecided: the test errors of training normal differ too little (0.250 to 0.250)"
    )


def test_a_success_that_never_changes_has_no_rank_correlation():
    claim = on_manifold_robustness(following({NORMAL: 0}, noise=0))
    assert claim.verdict == "refuted"
    assert claim.data["on_true_manifold_success"]["normal"]["rank_correlation"] is None


# --- all together ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "results",
    [
        [],
        line(3, 0),
        line(20, 0),
        cells([0.1, 0.2], [math.nan] * 2),
        projected(8, 0.8),
        following({NORMAL: 0}, noise=0),
    ],
)
def test_there_are_four_claims_and_those_without_measurements_are_undecided(results):
    claims = evaluate_claims(results)
    assert [claim.number for claim in claims] == [1, 2, 3, 4]
    for claim in claims:
        if claim.verdict in ("supported", "refuted"):
            assert claim.statistic is not None
            assert claim.interval is not None
        else:
            assert claim.verdict.startswith("undecided: ")
        for words in (claim.meaning, claim.confirmed_if, claim.refuted_if):
            assert len(words) > 40

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = json.dumps([claim.as_json() for claim in claims])
    assert len(json.loads(text, parse_constant=refuse)) == 4


def test_without_an_oracle_nobody_judges_labels():
    cells = [made_up(n_train=10 + i, on_learned_manifold_success_worst=0.5) for i in range(8)]
    assert (
        on_manifold_examples(cells).verdict
        == "undecided: no oracle judged whether the attacked images keep their labels"
    )
