"""What goes beyond the paper: tangent spaces, series in the course of trainings and attacks, and claims about them."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import small_cnn
from helpers import TINY, made_up, quiet

from hlf_np.attacks import PGD
from hlf_np.autodiff import Tensor
from hlf_np.data.fonts import LETTERS
from hlf_np.experiments.analysis.beyond import (
    best_epoch,
    further_claims,
    orthogonal_gradients,
    robust_overfitting,
    turned_gradients,
)
from hlf_np.experiments.grid.prepare import Prepared, source_of
from hlf_np.experiments.grid.run import run_cell
from hlf_np.experiments.measurements import (
    ATTACK_PROGRESS,
    EPSILONS,
    ERROR_BY_EPOCH,
    HELD_OUT_BY_EPOCH,
    SELECTION_BY_EPOCH,
    SUCCESS_BY_EPSILON,
    TANGENT_SHARE_BY_STEP,
    Subject,
    measure,
    thorough_success,
)
from hlf_np.experiments.results import Cell
from hlf_np.experiments.storage.folder import open_store
from hlf_np.manifolds.tangent import tangent_bases, tangent_share
from hlf_np.report.figures.draw import draw_figures
from hlf_np.spaces import ImageBall, TrueManifold
from hlf_np.trainings import ADVERSARIAL, NORMAL, training_of

ON_MANIFOLD = training_of("on_true_manifold_adversarial")
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
    assert orthogonal_gradients(with_shares({NORMAL: 0.01}, seeds=2)).verdict.startswith("undecided: only 4")


@pytest.mark.parametrize(("share", "verdict"), [(0.02, "supported"), (0.005, "refuted"), (0.01, "undecided")])
def test_on_manifold_training_is_compared_with_normal_training(share, verdict):
    claim = turned_gradients(with_shares({NORMAL: 0.01, ON_MANIFOLD: share, ADVERSARIAL: 0.1}))
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
    assert robust_overfitting(normal).verdict.startswith("undecided: only 0")


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
