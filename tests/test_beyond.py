"""What goes beyond the paper: tangent spaces, series in the course of trainings and attacks, and claims about them."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import small_cnn
from helpers import TINY, made_up, quiet
from scipy.stats import kstest, norm, truncnorm

from hlf_np.attacks import PGD, UNSEEN_ATTACKS
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.data.fonts import LETTERS, Box
from hlf_np.experiments.analysis.beyond import (
    adversary_or_data,
    best_epoch,
    further_claims,
    orthogonal_gradients,
    paired,
    robust_overfitting,
    turned_gradients,
    unseen_attacks,
)
from hlf_np.experiments.grid.cell import run_cell
from hlf_np.experiments.grid.prepare import Prepared, source_of
from hlf_np.experiments.measurements import Subject, measure
from hlf_np.experiments.measurements.series import (
    ATTACK_PROGRESS,
    EPSILONS,
    ERROR_BY_EPOCH,
    HELD_OUT_BY_EPOCH,
    SELECTION_BY_EPOCH,
    SUCCESS_BY_EPSILON,
    TANGENT_SHARE_BY_STEP,
    thorough_success,
)
from hlf_np.experiments.results import Cell
from hlf_np.experiments.storage.folder import open_store
from hlf_np.manifolds import VaeConfig
from hlf_np.manifolds.tangent import tangent_bases, tangent_share
from hlf_np.models.vae import Vae
from hlf_np.random import generator
from hlf_np.report.figures.draw import draw_figures
from hlf_np.spaces import ImageBall, LearnedManifold, Need, Transformations, TrueManifold
from hlf_np.support.errors import UserError
from hlf_np.training import train
from hlf_np.trainings import (
    ADVERSARIAL,
    NORMAL,
    ON_LEARNED_MANIFOLD,
    ON_TRUE_MANIFOLD,
    REGULAR_AND_LEARNED,
    SAMPLED,
    Training,
    trades,
)

TRACKED = replace(TINY, epochs=3, n_tracked=20, n_thorough=10, n_vae=0, trainings=(NORMAL,))


# --- tangent spaces -------------------------------------------------------------------------------------------


def test_bases_are_orthonormal_and_span_what_the_decoders_gradient_does(fonts, split):
    """A gradient with respect to the codes is J^T g, so it is 0 exactly where g is normal to the manifold."""
    part = split.take(slice(12))
    manifold = TrueManifold(fonts)
    bases = tangent_bases(manifold, part)
    assert bases.shape == (12, 784, 6)
    products = bases.transpose(0, 2, 1) @ bases
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(6), products.shape), atol=1e-9)
    random = np.random.default_rng(0)
    vectors = random.standard_normal((12, 784))
    normal = vectors - np.einsum("ndk,nk->nd", bases, np.einsum("nd,ndk->nk", vectors, bases))
    chart = manifold.chart(part.images, part.labels, part.codes)
    chart = replace(chart, images=chart.images.astype(np.float64))
    for g, vanishes in ((vectors, False), (normal, True)):
        codes = Tensor(chart.start.astype(np.float64), requires_grad=True)
        chart.decode(codes).backward(g.reshape(part.images.shape))
        sizes = np.abs(codes.gradient).max(axis=1)
        assert (sizes < 1e-4).all() if vanishes else (sizes > 0.1).all()


def test_a_move_along_the_manifold_is_tangent_and_noise_is_not(fonts, split):
    part = split.take(slice(30))
    manifold = TrueManifold(fonts)
    bases = tangent_bases(manifold, part)
    chart = manifold.chart(part.images, part.labels, part.codes)
    small = np.random.default_rng(0).uniform(-1e-3, 1e-3, chart.start.shape).astype(np.float32)
    along = tangent_share(chart.decoded(chart.start + small) - chart.decoded(chart.start), bases)
    noise = tangent_share(np.random.default_rng(0).standard_normal(part.images.shape), bases)
    assert np.median(along) > 0.98
    assert noise.mean() == pytest.approx(6 / 784, rel=0.3)
    assert np.isnan(tangent_share(np.zeros((1, 784)), bases[:1]))


def test_the_measurement_is_the_share_of_the_gradient_of_the_loss(trained, split, fonts):
    config = replace(TINY, n_projected=15)
    subject = Subject(trained, split, config, [ImageBall(), TrueManifold(fonts)])
    (declared,) = (m for m in config.measurements if m.column == "gradient_tangent_share")
    pixels = Tensor(split.images[:15], requires_grad=True)
    logits = trained.forward(pixels)
    probabilities = np.exp(logits.data) / np.exp(logits.data).sum(axis=1, keepdims=True)
    logits.backward((probabilities - np.eye(10)[split.labels[:15]]).astype(np.float32))
    bases = tangent_bases(TrueManifold(fonts), split.take(slice(15)))
    expected = tangent_share(pixels.gradient, bases).mean()
    assert measure(subject, [declared])["gradient_tangent_share"] == pytest.approx(expected, rel=1e-4)
    without = Subject(trained, split, config, [ImageBall()])
    assert np.isnan(measure(without, [declared])["gradient_tangent_share"])


# --- series ---------------------------------------------------------------------------------------------------


def test_a_cell_is_measured_after_every_epoch_and_stored(tmp_path):
    source = source_of(TRACKED)
    spaces = (ImageBall(0.1), TrueManifold(source))
    prepared = Prepared(source.dataset(20, 60), spaces, spaces)
    cell = Cell(NORMAL, 20, 0)
    result, model = run_cell(TRACKED, cell, prepared, quiet)
    test = prepared.dataset.test.take(slice(20))
    series = result.series
    right = model.predict(test.images) == test.labels
    assert series[ERROR_BY_EPOCH][-1] == pytest.approx(1 - right.mean())
    attack = replace(TRACKED.attack, restarts=1)
    attacked = np.flatnonzero(right)
    wrong = ~right
    if len(attacked):
        wrong[attacked] = attack.find(model, test.take(attacked), spaces[0]).success
    np.testing.assert_allclose(
        [series[SELECTION_BY_EPOCH][-1], series[HELD_OUT_BY_EPOCH][-1]], [wrong[:10].mean(), wrong[10:].mean()]
    )
    assert all(len(series[name]) == 3 for name in series if "by_epoch" in name)
    assert len(series[TANGENT_SHARE_BY_STEP]) == len(ATTACK_PROGRESS)
    assert len(series[SUCCESS_BY_EPSILON]) == len(EPSILONS)
    with open_store(tmp_path / "out", TRACKED) as store:
        store.save(result, model)
        stored = store.load(cell)
    assert stored.series.keys() == series.keys()
    for name, values in series.items():
        np.testing.assert_array_equal(stored.series[name], values)


def test_tracking_does_not_change_the_model():
    source = source_of(TRACKED)
    spaces = (ImageBall(0.1), TrueManifold(source))
    prepared = Prepared(source.dataset(20, 60), spaces, spaces)
    for training in (NORMAL, ADVERSARIAL):
        states = [
            run_cell(config, Cell(training, 20, 0), prepared, quiet)[1].state_dict()
            for config in (TRACKED, replace(TRACKED, n_tracked=0, n_thorough=0))
        ]
        for name, array in states[0].items():
            np.testing.assert_array_equal(array, states[1][name])


def test_thorough_success_grows_with_the_radius(trained, split):
    right = split.take(np.flatnonzero(trained.predict(split.images) == split.labels)[:20])
    rates = thorough_success(trained, right)
    assert (np.diff(rates) >= 0).all()
    assert rates[-1] == 1
    weak = PGD().find(trained, right, ImageBall(EPSILONS[2])).success.mean()
    assert rates[2] >= weak - 0.05
    assert np.isnan(thorough_success(small_cnn(), right.take(slice(0)))).all()


def test_the_smallest_radius_of_every_image_is_found_by_bisection(monkeypatch, trained, split):
    """An attack that turns the image i from the radius EPSILONS[i - 1] on."""
    part, tried = split.take(slice(len(EPSILONS) + 2)), []

    class FromARadiusOn:
        def find(self, model, attacked, space, seed):
            index = [int(np.flatnonzero((part.images == image).all(axis=(1, 2, 3)))[0]) for image in attacked.images]
            tried.extend(index)
            return SimpleNamespace(success=np.searchsorted(EPSILONS, space.epsilon) >= np.array(index) - 1)

    monkeypatch.setattr("hlf_np.experiments.measurements.series.THOROUGH_ATTACK", FromARadiusOn())
    expected = [(np.arange(len(part)) - 1 <= radius).mean() for radius in range(len(EPSILONS))]
    np.testing.assert_allclose(thorough_success(trained, part), expected)
    assert max(Counter(tried).values()) <= 4  # of nine radii


# --- claims ---------------------------------------------------------------------------------------------------


def with_shares(shares, seeds=3):
    """Cells of trainings with the given tangent shares, for two N."""
    random = np.random.default_rng(0)
    return [
        made_up(training, size, seed, gradient_tangent_share=share * random.uniform(0.9, 1.1))
        for training, share in shares.items()
        for size in (250, 500)
        for seed in range(seeds)
    ]


def test_gradients_are_orthogonal_if_less_than_a_twentieth_is_tangent():
    assert orthogonal_gradients(with_shares({NORMAL: 0.01, ADVERSARIAL: 0.3})).verdict == "supported"
    assert orthogonal_gradients(with_shares({NORMAL: 0.2})).verdict == "refuted"
    assert orthogonal_gradients(with_shares({NORMAL: 0.05})).verdict.startswith("undecided")
    assert orthogonal_gradients(with_shares({NORMAL: 0.01}, seeds=2)).verdict.endswith("(4; 6 are needed)")


@pytest.mark.parametrize(("share", "verdict"), [(0.02, "supported"), (0.005, "refuted"), (0.01, "undecided")])
def test_on_manifold_training_is_compared_with_normal_training(share, verdict):
    others = {trades(TrueManifold, 6): 0.03, ADVERSARIAL: 0.1}  # neither is what the claim is about
    claim = turned_gradients(with_shares({NORMAL: 0.01, **others, ON_TRUE_MANIFOLD: share}))
    assert claim.verdict.split(":")[0] == verdict
    assert claim.statistic == pytest.approx(share / 0.01, rel=0.1)


def with_epochs(training, held_out, selection=None, seed=0):
    """A cell with these errors under attack after each epoch."""
    held_out = np.array(held_out, float)
    series = {
        ERROR_BY_EPOCH: held_out / 2,
        SELECTION_BY_EPOCH: held_out if selection is None else np.array(selection, float),
        HELD_OUT_BY_EPOCH: held_out,
        "regular_success_by_epoch": held_out,
    }
    return replace(made_up(training, 250, seed), series=series)


def test_overfitting_is_what_the_last_epoch_loses_against_the_best():
    rising = [with_epochs(ADVERSARIAL, [0.9, 0.5, 0.6 + seed / 100], seed=seed) for seed in range(6)]
    claim = robust_overfitting(rising)
    assert claim.verdict == "supported"
    assert claim.statistic == pytest.approx(0.125)
    falling = [with_epochs(ADVERSARIAL, [0.9, 0.6, 0.5], seed=seed) for seed in range(6)]
    assert robust_overfitting(falling).statistic == 0
    normal = [with_epochs(NORMAL, [0.9, 0.5, 0.7], seed=seed) for seed in range(6)]
    assert robust_overfitting(normal).verdict.endswith("(0; 6 are needed)")


def test_claim_4_is_compared_between_the_last_and_the_best_epoch():
    cells = [with_epochs(NORMAL, [0.9, 0.5, 0.6 + 0.05 * seed], seed=seed) for seed in range(8)]
    last, best, note = robust_overfitting(cells).details
    claim_4 = "Claim 4 on the images attacked after every epoch"
    assert last.startswith(f"{claim_4}, last epoch of each model: Refuted: 0.350 ")  # success is twice the error
    assert best.startswith(f"{claim_4}, best epoch of each model: Undecided")  # all have the same error and success
    assert (
        "the error under attack is 0.775 on average after the last epoch, and the best epoch is the first, before"
        in note
    )


def test_the_best_epoch_is_chosen_on_the_other_half():
    cell = with_epochs(ADVERSARIAL, [0.9, 0.5, 0.7], selection=[0.2, 0.4, 0.3])
    assert best_epoch(cell) == 0


def test_claims_beyond_the_paper_need_measurements():
    assert further_claims([made_up()]) == []
    numbers = [claim.number for claim in further_claims([*with_shares({NORMAL: 0.01}), with_epochs(NORMAL, [1, 0.5])])]
    assert numbers == [5, 6, 7]


def test_figures_show_what_was_measured():
    cells = [
        replace(
            with_epochs(training, [0.9, 0.5, 0.6]),
            series=with_epochs(training, [0.9, 0.5, 0.6]).series
            | {TANGENT_SHARE_BY_STEP: np.full(4, 0.01), SUCCESS_BY_EPSILON: np.linspace(0, 1, len(EPSILONS))},
        )
        for training in (NORMAL, ADVERSARIAL)
    ]
    names = {picture.name for picture in draw_figures(cells, LETTERS)}
    assert {ERROR_BY_EPOCH, HELD_OUT_BY_EPOCH, SUCCESS_BY_EPSILON, "tangent_share_of_perturbations"} <= names
    assert not {ERROR_BY_EPOCH, SUCCESS_BY_EPSILON} & {picture.name for picture in draw_figures([made_up()], LETTERS)}


def with_column(column, values, seeds=3):
    """Cells of trainings with these values of a measurement, for two N, with a little noise."""
    random = np.random.default_rng(0)
    return [
        made_up(training, size, seed, **{column: value + random.uniform(-0.01, 0.01)})
        for training, value in values.items()
        for size in (250, 500)
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(("both", "verdict"), [(0.3, "supported"), (0.6, "refuted"), (0.45, "refuted")])
def test_training_on_both_is_compared_with_the_better_of_the_two(both, verdict):
    values = {ADVERSARIAL: 0.7, ON_LEARNED_MANIFOLD: 0.4, REGULAR_AND_LEARNED: both, NORMAL: 0.1}
    claim = unseen_attacks(with_column("unseen_success", values))
    assert claim.verdict == verdict
    assert claim.statistic == pytest.approx(0.4 - both, abs=0.02)
    assert unseen_attacks(with_column("unseen_success", {ADVERSARIAL: 0.7})).verdict.endswith("(0; 6 are needed)")


def test_random_images_of_the_manifold_are_compared_with_the_adversary():
    by_true, by_learned = SAMPLED
    values = {NORMAL: 0.5, by_true: 0.4, ON_TRUE_MANIFOLD: 0.25, by_learned: 0.2, ON_LEARNED_MANIFOLD: 0.3}
    claim = adversary_or_data(with_column("test_error", values))
    assert claim.verdict == "supported"
    assert claim.statistic == pytest.approx(0.15, abs=0.02)
    normal, random, adversarial = paired(
        with_column("test_error", values), "test_error", NORMAL, by_true, ON_TRUE_MANIFOLD
    )
    assert f"{(normal - random).mean() / (normal - adversarial).mean():.0%} of it" in claim.details[0]
    assert len(claim.details) == 2
    without = {training: value for training, value in values.items() if training not in (by_true, ON_TRUE_MANIFOLD)}
    learned = adversary_or_data(with_column("test_error", without))
    assert learned.verdict == "refuted"  # decided on the learned manifold where the true one is unknown
    assert learned.statistic == pytest.approx(-0.1, abs=0.02)
    del values[NORMAL]  # which the claim does not need
    alone = adversary_or_data(with_column("test_error", values))
    assert (alone.verdict, alone.details) == ("supported", ())


def test_pairs_have_the_same_size_and_seed_and_all_values():
    cells = [
        made_up(NORMAL, 250, 0, x=1.0),
        made_up(NORMAL, 250, 1, x=2.0),
        made_up(NORMAL, 500, 0, x=3.0),
        made_up(ADVERSARIAL, 500, 0, x=30.0),
        made_up(ADVERSARIAL, 250, 1, x=np.nan),
        made_up(ADVERSARIAL, 250, 0, x=10.0),
    ]
    assert paired(cells, "x", NORMAL, ADVERSARIAL).tolist() == [[1.0, 3.0], [10.0, 30.0]]
    assert paired(cells, "x", NORMAL, ON_TRUE_MANIFOLD).shape == (2, 0)


# --- data from a generator ------------------------------------------------------------------------------------


def test_samples_of_the_true_manifold_are_the_same_letters_in_the_same_fonts(fonts, split):
    manifold = TrueManifold(fonts)
    new = manifold.sampled(split, np.random.default_rng(0))
    np.testing.assert_array_equal(new.labels, split.labels)
    np.testing.assert_array_equal(new.codes.font, split.codes.font)
    assert not np.isclose(new.codes.parameters, split.codes.parameters).all(axis=1).any()
    chart = manifold.chart(new.images, new.labels, new.codes)  # refuses codes outside of the box
    np.testing.assert_allclose(chart.decoded(chart.start), new.images, atol=1e-6)
    lower, upper = np.array(fonts.box.lower), np.array(fonts.box.upper)
    share = (new.codes.parameters - lower) / (upper - lower)
    np.testing.assert_allclose(share.mean(axis=0), 0.5, atol=4 / np.sqrt(12 * len(split)))  # uniform


def test_samples_of_a_learned_manifold_are_decoded_normal_codes():
    vaes = [Vae(VaeConfig(channels=(4, 4), latent_dimensions=3), seed) for seed in range(10)]
    labels = np.arange(400) % 10
    blank = Split(np.zeros((400, 28, 28, 1), np.float32), labels)
    new = LearnedManifold(vaes).sampled(blank, np.random.default_rng(0))
    again = LearnedManifold(vaes).sampled(blank, np.random.default_rng(0))
    np.testing.assert_array_equal(new.images, again.images)
    np.testing.assert_array_equal(new.labels, labels)
    uniform = np.random.default_rng(0).uniform(norm.cdf(-2), norm.cdf(2), (400, 3))
    codes = norm.ppf(uniform).astype(np.float32)
    assert kstest(codes.ravel(), truncnorm(-2, 2).cdf).pvalue > 0.01
    for label in (0, 7):
        rows = np.flatnonzero(labels == label)
        np.testing.assert_allclose(vaes[label].decoder(Tensor(codes[rows])).data, new.images[rows], atol=1e-5)


@pytest.mark.parametrize("space", [ImageBall(0.3), Transformations(Box.around_identity(0.1, 0.1, (0.9, 1.1), 0.1))])
def test_a_space_that_is_no_manifold_generates_nothing(space, split):
    with pytest.raises(UserError, match="does not generate images"):
        space.sampled(split, np.random.default_rng(0))


def test_training_with_samples_is_training_on_both(fonts, split):
    """The samples are those of the seed, drawn once; normal training on the joined images is the same."""
    part = split.take(slice(40))
    manifold = TrueManifold(fonts)
    by_declaration, by_hand, normal = small_cnn(), small_cnn(), small_cnn()
    train(by_declaration, part, SAMPLED[0], epochs=2, batch_size=20, seed=5, space=manifold)
    joined = part.joined(manifold.sampled(part, generator(5, "samples")))
    train(by_hand, joined, "normal", epochs=2, batch_size=20, seed=5)
    train(normal, part, "normal", epochs=2, batch_size=20, seed=5)
    np.testing.assert_array_equal(by_declaration.logits(split.images), by_hand.logits(split.images))
    assert not np.allclose(by_declaration.logits(split.images), normal.logits(split.images))
    with pytest.raises(UserError, match="pass space=TrueManifold"):
        train(small_cnn(), part, SAMPLED[0], epochs=1)
    assert SAMPLED[0].needs == {Need.TRUE_MANIFOLD}
    with pytest.raises(UserError, match="samples of training x must be a class"):
        Training("x", samples=manifold)


def test_unseen_attacks_are_measured_on_the_first_images_that_are_classified_correctly(trained, split, fonts):
    config = replace(TINY, n_unseen=40)
    subject = Subject(trained, split, config, [ImageBall(0.3)])
    columns = [f"{attack.name}_success" for attack in UNSEEN_ATTACKS]
    numbers = measure(subject, [m for m in config.measurements if m.column in (*columns, "unseen_success")])
    first = split.take(slice(40))
    right = first.take(trained.predict(first.images) == first.labels)
    expected = [
        attack.find(trained, right, ImageBall(), config.attack_seed).success.mean() for attack in UNSEEN_ATTACKS
    ]
    np.testing.assert_allclose([numbers[column] for column in columns], expected)
    assert numbers["unseen_success"] == pytest.approx(np.mean(expected))
    none = measure(Subject(trained, split, TINY, [ImageBall(0.3)]), config.measurements[-5:])
    assert np.isnan(list(none.values())).all()
