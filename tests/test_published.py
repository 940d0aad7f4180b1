"""The paper's numbers: what they are, with what they are compared, and what the claims' rules say of them."""

import math
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from helpers import made_up, report
from scipy.stats import norm
from test_report import Page

from hlf_np.data.fonts import LETTERS, Difficulty
from hlf_np.experiments.analysis.claims import evaluate_claims
from hlf_np.experiments.analysis.data_factor import data_factor, factor_intervals, factors_by_size
from hlf_np.experiments.analysis.existence import leaving_the_manifold, on_manifold_examples
from hlf_np.experiments.analysis.generalization import regular_robustness
from hlf_np.experiments.configuration.config import PRESETS, Preset, RunConfig
from hlf_np.models.architectures import DEFAULTS, Kind
from hlf_np.report.curves import table
from hlf_np.report.figures.draw import draw_figures
from hlf_np.report.figures.pictures import Section
from hlf_np.report.figures.plots import PUBLISHED_STYLE, curve_figure
from hlf_np.report.page import in_the_paper
from hlf_np.report.published import differences, matching_cells, published, published_distances
from hlf_np.spaces import Norm
from hlf_np.trainings import ADVERSARIAL, MAIN, NORMAL, PAPER, SAMPLED, training_of

FONTS = RunConfig()
COLUMNS = ("test_error", "regular_success", "on_true_manifold_success", "on_learned_manifold_success")


def of_dataset(name):
    """The configuration of a run on IDX files."""
    return RunConfig(dataset=name, path="somewhere", trainings=MAIN)


def papers_main():
    """The published means of the main trainings on FONTS."""
    return [r for r in published(FONTS) if r.cell.training in MAIN]


def found(cells, training, size):
    (cell,) = (r for r in cells if (r.cell.training, r.cell.n_train) == (training, size))
    return [cell.value(name) for name in COLUMNS]


# --- the numbers ----------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_poster():
    fonts, digits = published(FONTS), published(of_dataset("emnist-digits"))
    assert found(fonts, NORMAL, 250) == [0.72952, 1.0, 0.9365, 0.5362]
    assert found(fonts, training_of("on_true_manifold_adversarial"), 40_000) == [0.03576, 0.9999, 0.1330, 0.1170]
    assert found(digits, ADVERSARIAL, 10_000) == pytest.approx([0.01349, 0.0797, math.nan, 0.0131], nan_ok=True)
    assert found(digits, NORMAL, 100) == pytest.approx([0.3191] + 3 * [math.nan], nan_ok=True)
    resnet = published(replace(FONTS, architecture=DEFAULTS[Kind.RESNET], epochs=80))
    assert found(resnet, ADVERSARIAL, 900_000) == pytest.approx([0.00177, 0.08308] + 2 * [math.nan], nan_ok=True)


def test_fonts_has_a_mean_for_each_of_the_papers_trainings_and_sizes():
    cells = published(FONTS)
    trainings = set(MAIN)
    expected = Counter((training, size) for training in trainings for size in PRESETS[Preset.PAPER].sizes)
    main = [r for r in cells if r.cell.training in trainings]
    assert Counter((r.cell.training, r.cell.n_train) for r in main) == expected
    measured = np.array([[r.value(name) for name in COLUMNS] for r in main])
    assert ((measured > 0) & (measured <= 1)).all()


@pytest.mark.parametrize(
    "config",
    [
        replace(FONTS, difficulty=Difficulty.EASY),
        replace(FONTS, epsilon=0.2),
        replace(FONTS, latent_epsilon=0.1),
        replace(FONTS, architecture=replace(FONTS.architecture, widths=(8, 16, 32))),
        replace(FONTS, epochs=10),
        of_dataset("mnist"),
    ],
)
def test_nothing_is_compared_that_was_made_otherwise(config):
    assert published(config) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (FONTS, "a mean distance of 1.07, and 90 % of them lie between 0.35 and 1.86"),
        (of_dataset("emnist-digits"), "a mean distance of 1.12, and 90 % of them lie between 1.04 and 1.18"),
        (of_dataset("fashion-mnist"), None),
        (replace(FONTS, difficulty=Difficulty.EASY), None),
        (replace(FONTS, norm=Norm.L2, epsilon=1.5), None),
        (replace(FONTS, architecture=DEFAULTS[Kind.MLP]), None),
    ],
)
def test_the_posters_distances_are_told_where_they_are_comparable(config, said):
    text = " ".join(in_the_paper(leaving_the_manifold([]), config, [made_up()], published(config)))
    assert ("On the authors' poster" in text) == (said is not None)
    assert said is None or said in text


def test_only_the_runs_trainings_within_its_sizes_stand_beside_it():
    results = [made_up(NORMAL, 400), made_up(ADVERSARIAL, 1500)]
    cells = {(r.cell.training, r.cell.n_train) for r in matching_cells(published(FONTS), results)}
    assert cells == {(t, n) for t in (NORMAL, ADVERSARIAL) for n in (500, 1000, 1500)}
    assert matching_cells(published(FONTS), [made_up(n_train=100)]) == []


# --- beside a run's -------------------------------------------------------------------------------------------


def ours():
    """Two trainings at sizes of which the paper has two of three."""
    return [
        made_up(training, size, seed, test_error=error + seed / 10, regular_success=math.nan)
        for training in (NORMAL, training_of("regular_and_on_true_manifold_adversarial"))
        for size, error in ((250, 0.6), (300, 0.5), (1000, 0.4))
        for seed in (0, 1)
    ]


@pytest.mark.slow
def test_the_page_has_ours_the_papers_and_the_difference():
    source = report(ours(), replace(FONTS, trainings=MAIN))
    assert Page(source).tables["Test error"] == [
        ["Training", "250", "300", "1000"],
        ["Normal", "0.650", "0.550", "0.450"],
        ["paper", "0.730", "\u2013", "0.495"],
        ["difference", "-0.080", "\u2013", "-0.045"],
        ["Regular and on true manifold adversarial", "0.650", "0.550", "0.450"],
    ]
    assert "its letters came from other font files" in source
    alone = report(ours(), replace(FONTS, difficulty=Difficulty.EASY))
    assert len(Page(alone).tables["Test error"]) == 3
    assert "font files" not in alone


def test_the_terminal_has_the_papers_below_ours():
    lines = [line.split() for line in table(ours(), published(FONTS)).splitlines()]
    assert lines[1] == ["N=250", "N=300", "N=1000"]
    assert lines[2:4] == [["Normal", "0.650", "0.550", "0.450"], ["paper", "0.730", "-", "0.495"]]
    assert len(lines) == 5
    assert "paper" not in table(ours())


def test_the_papers_curves_are_dashed_and_have_one_entry_in_the_legend():
    results = [made_up(training, size) for training in list(PAPER)[:3] for size in (250, 1000)]
    figure = curve_figure(results, "test_error", "test error", published(FONTS))
    dashed = [
        line
        for line in figure.axes[0].lines
        if line.get_linestyle() == PUBLISHED_STYLE["linestyle"] and len(line.get_xdata())
    ]
    solid = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert len(dashed) == len(solid) == 3
    for training, paper, own in zip(PAPER, dashed, solid, strict=False):
        assert (paper.get_color(), paper.get_marker()) == (own.get_color(), own.get_marker())
        expected = [found(published(FONTS), training, size)[0] for size in (250, 500, 1000)]
        np.testing.assert_array_equal(paper.get_xydata(), np.stack([[250, 500, 1000], expected], axis=1))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*(training.label for training in list(PAPER)[:3]), "paper"]
    assert len(curve_figure(results, "test_error", "test error").axes[0].lines) == 3


# --- judged by the claims' rules ------------------------------------------------------------------------------


def test_on_fonts_the_papers_own_numbers_support_its_claims():
    first, *others = evaluate_claims(papers_main())
    assert first.verdict.startswith("undecided: too few models with distances")  # it published no distances by model
    assert [claim.verdict for claim in others] == ["supported"] * 3


def test_on_digits_they_do_not_refute_them():
    digits = of_dataset("emnist-digits")
    verdicts = [claim.verdict.split(":")[0] for claim in evaluate_claims(published(digits))]
    # With few images, regular success under normal training falls from 1.00 to 0.80 and is flat from there on.
    assert verdicts == ["undecided", "undecided", "supported", "undecided"]


@pytest.mark.slow
def test_claims_stand_beside_what_the_rule_says_of_the_papers_numbers():
    theirs = evaluate_claims(papers_main())
    claims = evaluate_claims(ours(), papers_main())
    assert [claim.published for claim in claims] == [None, *theirs[1:]]
    assert claims[3].as_json()["published"].keys() == {"verdict", "statistic", "interval", "details"}
    assert claims[0].as_json()["published"] is None
    text = "".join(Page(report(ours(), replace(FONTS, trainings=MAIN))).text)
    for claim in theirs[1:]:
        low, high = claim.interval
        assert f"give {claim.statistic:.3f} ({low:.3f} to {high:.3f}): supported." in text


def test_success_on_the_manifold_is_also_compared_for_the_trainings_and_sizes_of_both():
    """Our values are the paper's, but for another training, which the paper does not have."""
    theirs = papers_main()
    same = [r for r in theirs if r.cell.n_train in (250, 1000)]
    sampled = [made_up(SAMPLED[0], size, on_true_manifold_success=0.1) for size in (250, 1000)]
    papers = on_manifold_examples(theirs)
    low, high = on_manifold_examples(same).interval
    value = f"{on_manifold_examples(same).statistic:.3f} ({low:.3f} to {high:.3f})"
    for results in (same, [*same, *sampled]):
        claim = replace(on_manifold_examples(results), published=papers)
        sentences = " ".join(in_the_paper(claim, FONTS, results, theirs))
        assert f"For the trainings and N that both have, this run gives {value}, the paper {value}." in sentences
    claim = replace(papers, published=papers)
    assert "For the trainings and N that both have" not in " ".join(in_the_paper(claim, FONTS, theirs, theirs))


# --- the price of adversarial training ------------------------------------------------------------------------


def curve(training, height, power, sizes=(250, 500, 1000, 2000, 4000)):
    return [made_up(training, size, test_error=height * size**-power) for size in sizes]


def test_the_factor_at_each_size_is_that_of_two_powers_of_n():
    results = curve(NORMAL, 20, 0.5) + curve(ADVERSARIAL, 8, 0.3)
    # normal training needs n with 20 n**-0.5 = 8 size**-0.3
    expected = {size: size / (2.5 * size**0.3) ** 2 for size in (250, 500, 1000, 2000, 4000)}
    inside = {size: factor for size, factor in expected.items() if 250 <= size / factor <= 4000}
    assert 0 < len(inside) < 5
    assert dict(factors_by_size(results)) == pytest.approx(inside)


def test_a_larger_n_that_did_worse_by_chance_does_not_count():
    errors = {100: 0.8, 200: 0.4, 400: 0.5, 800: 0.2}
    normal = [made_up(n_train=size, test_error=error) for size, error in errors.items()]
    adversarial = [made_up(ADVERSARIAL, 800, test_error=error) for error in (0.45, 0.35)]
    ((size, factor),) = factors_by_size(normal + adversarial[:1])
    between = 100 * 2 ** (math.log(0.8 / 0.45) / math.log(2))
    assert (size, factor) == (800, pytest.approx(800 / between))
    ((size, factor),) = factors_by_size(normal + adversarial[1:])
    assert 1 < factor < 2  # from 400 on


def test_models_without_a_test_error_count_in_the_mean_of_their_n():
    errors = {500: [0.08] * 3, 1000: [0.04] * 3, 2000: [0.02] * 3, 4000: [0, 0, 0.03]}  # in the mean, 40 / N
    results = [
        made_up(training, n, seed, test_error=error if n == 4000 else error * (1 + index))
        for index, training in enumerate((NORMAL, ADVERSARIAL))
        for n, of_seeds in errors.items()
        for seed, error in enumerate(of_seeds)
    ]
    assert dict(factors_by_size(results)) == pytest.approx({1000: 2, 2000: 2, 4000: 1})
    # where some have none, the logarithms of the others would not be a fair sample
    assert data_factor(results)["factor"] == pytest.approx(2)
    assert data_factor(results)["sizes"] == (500, 2000)
    assert factor_intervals(results) == {}


def test_a_dataset_of_another_kind_that_has_the_name_of_one_of_the_paper_is_not_compared():
    config = of_dataset("fashion_mnist")
    assert published(config)
    for changed in ({"classes": 3}, {"image_shape": (12, 12, 1)}):
        assert published(replace(config, architecture=replace(config.architecture, **changed))) == []


def noisy_curves(seeds):
    random = np.random.default_rng(3)
    noise = {key: math.exp(0.03 * random.normal()) for key in product(range(seeds), (100, 200, 400), (0, 1))}
    return noise, [
        made_up((NORMAL, ADVERSARIAL)[training], size, seed, test_error=size**-0.5 * (1 + training / 8) * factor)
        for (seed, size, training), factor in noise.items()
    ]


def test_the_interval_of_a_factor_is_that_of_all_draws_of_seeds():
    noise, results = noisy_curves(4)
    sizes, seeds = np.array([100, 200, 400]), list(product(range(4), repeat=4))
    normal, adversarial = (
        np.array([[np.mean([noise[seed, size, training] for seed in draw]) for size in sizes] for draw in seeds])
        * sizes**-0.5
        * (1 + training / 8)
        for training in (0, 1)
    )  # (256, 3): the mean errors of every draw
    found = factor_intervals(results)
    assert found.keys() == dict(factors_by_size(results)).keys() == {200, 400}
    for column, size in ((1, 200), (2, 400)):
        factors = []
        for curve, aim in product(normal, adversarial[:, column]):
            best = np.minimum.accumulate(curve)
            if not best[-1] <= aim <= best[0]:
                factors.append(0 if aim < best[-1] else math.inf)
            else:
                after = max(1, int(np.argmax(best <= aim)))
                share = math.log(best[after - 1] / aim) / math.log(best[after - 1] / best[after])
                factors.append(size / (sizes[after - 1] * 2**share))
        tail = norm.cdf(-3.182446 * math.sqrt(4 / 3))  # that of Student's t with 3 degrees of freedom
        assert found[size] == pytest.approx(np.quantile(factors, [tail, 1 - tail], method="inverted_cdf"))


def test_an_interval_that_the_curve_cannot_tell_is_left_out():
    """At the smallest N half of the draws need fewer images than that, at the largest more: neither bound is known."""
    random = np.random.default_rng(1)
    results = [
        made_up(training, size, seed, test_error=size**-0.5 * math.exp(0.1 * random.normal()))
        for training, size, seed in product((NORMAL, ADVERSARIAL), (100, 400, 1600), range(4))
    ]
    assert factor_intervals(results).keys() == {400}


@pytest.mark.parametrize("training", [NORMAL, ADVERSARIAL])
def test_an_error_of_zero_gives_no_interval_instead_of_being_left_out(training):
    results = noisy_curves(5)[1]
    flawless = [
        replace(r, measurements={"test_error": 0.0})
        if (r.cell.training, r.cell.n_train, r.cell.seed) == (training, 400, 0)
        else r
        for r in results
    ]
    assert factor_intervals(results).keys() == {200, 400}
    assert factor_intervals(flawless).keys() == (set() if training == NORMAL else {200})


def test_fewer_than_four_seeds_or_a_missing_model_give_no_interval():
    assert factor_intervals(noisy_curves(3)[1]) == {}
    assert factor_intervals(noisy_curves(4)[1][1:]) == {}
    assert factor_intervals([]) == {}


def test_models_of_an_unfinished_seed_change_no_other_interval():
    results = noisy_curves(4)[1]
    first_of_fifth = [r for r in noisy_curves(5)[1] if r.cell.seed == 4][:1]
    assert first_of_fifth[0].cell.training == NORMAL
    assert factor_intervals([*results, *first_of_fifth]) == factor_intervals(results)


def test_a_plateau_counts_from_its_first_size():
    normal = {250: 0.5, 500: 0.3, 1000: 0.3, 2000: 0.2}
    results = [made_up(NORMAL, size, test_error=error) for size, error in normal.items()]
    adversarial = {250: 0.5, 500: 0.3, 1000: 0.3, 2000: 0.25}
    results += [made_up(ADVERSARIAL, size, test_error=error) for size, error in adversarial.items()]
    needed = 1000 * 2 ** (math.log(0.3 / 0.25) / math.log(0.3 / 0.2))
    assert dict(factors_by_size(results)) == pytest.approx({250: 1, 500: 1, 1000: 2, 2000: 2000 / needed})


def test_the_papers_success_on_another_manifold_is_not_set_beside_ours():
    config = replace(FONTS, architecture=DEFAULTS[Kind.MLP])
    paper = published(config)
    (_, _, third, _), *_ = [evaluate_claims(ours(), paper)[:4]]
    assert third.data["success"] == "on_true_manifold_success"
    assert third.published is None
    assert "do not train a VGG" in report(ours(), replace(FONTS, architecture=DEFAULTS[Kind.VGG]))


@pytest.mark.parametrize("results", [[], curve(NORMAL, 20, 0.5), curve(ADVERSARIAL, 20, 0.5), ours()])
def test_without_two_curves_there_are_no_factors(results):
    assert factors_by_size(results) == []
    assert "data_factor" not in {picture.name for picture in draw_figures(results or ours(), LETTERS)}


@pytest.mark.slow
def test_in_the_papers_numbers_adversarial_training_helps_with_few_images_and_costs_with_many():
    cells = published(FONTS)
    factors = factors_by_size(cells)
    assert [size for size, factor in factors if factor < 1] == [250, 500, 1000, 1500, 2000]
    assert dict(factors)[40_000] > 4
    few = data_factor([r for r in cells if r.cell.n_train <= 2500])
    assert few["factor"] < 0.9
    assert data_factor(cells)["interval"][0] > 1
    normal = curve(NORMAL, 5, 0.4)
    text = " ".join(in_the_paper(regular_robustness(normal), FONTS, normal, cells))
    conclusion = "adversarial training saves images if there are few, and costs images if there are many"
    assert conclusion not in text  # ours has no factor
    both = curve(NORMAL, 5, 0.4, (250, 1000, 2000)) + curve(ADVERSARIAL, 4, 0.4, (250, 1000, 2000))
    text = " ".join(in_the_paper(regular_robustness(both), FONTS, both, cells))
    assert "The paper's values in the range of this run, for N from 250 to 2000, give a data factor of 0.76." in text
    assert conclusion in text
    (picture,) = (p for p in draw_figures(both, LETTERS, cells) if p.name == "data_factor")
    assert picture.section is Section.CLAIM_4


def test_published_distances_are_those_of_the_captions():
    """Means and quantiles of the histograms, as read from the poster."""
    fonts = published_distances(PRESETS[Preset.STANDARD])
    assert list(fonts) == ["regular"]
    assert fonts["regular"].mean() == pytest.approx(1.08, abs=0.02)
    assert np.quantile(fonts["regular"], [0.05, 0.95]) == pytest.approx([0.353, 1.864], abs=0.05)
    digits = published_distances(of_dataset("emnist-digits"))
    assert digits["regular_subspace"].mean() == pytest.approx(1.118, abs=0.01)
    assert digits["on_learned_manifold_subspace"].mean() == pytest.approx(0.580, abs=0.01)
    assert published_distances(replace(PRESETS[Preset.STANDARD], norm=Norm.L2, epsilon=1.5)) == {}


def test_only_a_vgg_is_said_to_have_been_trained_in_another_way():
    assert "VGG" in differences(replace(FONTS, architecture=DEFAULTS[Kind.VGG]))
    assert "VGG" not in differences(FONTS)
    assert "combined trainings" in differences(replace(FONTS, trainings=PAPER))
    assert "combined trainings" not in differences(replace(FONTS, trainings=MAIN))
