"""Projected gradient ascent: what every result must satisfy, and what is known in closed form."""

import math
import sys
from itertools import pairwise

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlf_np import UserError, attacks, layers, models
from hlf_np.attacks import AttackResult, SuccessRate, pgd
from hlf_np.data.dataset import Dataset
from hlf_np.kernels.interpreter import attack as kernels
from hlf_np.spaces import Chart, ImageBall, Norm

MODULE = sys.modules["hlf_np.attacks.pgd"]  # `attacks.pgd` is the function
EPSILON = {"linf": 0.03, "l2": 0.5}
every_variant = pytest.mark.parametrize(
    ("norm", "rule", "start", "stop_early"),
    [
        (norm, rule, start, stop_early)
        for norm in Norm
        for rule in attacks.Rule
        for start in attacks.Start
        for stop_early in (True, False)
    ],
)
FIELDS = ("images", "perturbations", "success", "iterations", "loss", "restart_success")


def assert_same_results(first, second):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def norms(perturbations, norm):
    """In double precision and as users compute them, in that of the array: the larger of both."""
    flat, order = perturbations.reshape(len(perturbations), -1), np.inf if norm == "linf" else 2
    return np.maximum(*(np.linalg.norm(rows, order, axis=1) for rows in (flat.astype(np.float64), flat)))


def linear_model(weight, bias=None, shape=(2, 3, 1)):
    """A classifier whose logits are weight @ image + bias; `weight` (classes, pixels)."""
    model = models.mlp(classes=len(weight), widths=(1,), image_shape=shape)
    linear = layers.Linear(weight.shape[1], len(weight), np.random.default_rng(0))
    linear.parameters["weight"].data[:] = weight
    linear.parameters["bias"].data[:] = 0 if bias is None else bias
    model.network = layers.Sequential(layers.Flatten(), linear)
    return model


# --- what holds for every attack ------------------------------------------------------------------------------


@every_variant
def test_results_are_what_they_claim(trained, split, norm, rule, start, stop_early):
    images, labels = split.images[:60], split.labels[:60]
    result = pgd(
        trained,
        images,
        labels,
        ImageBall(EPSILON[norm], norm),
        steps=6,
        step_size=EPSILON[norm] / 4,
        rule=rule,
        start=start,
        stop_early=stop_early,
        restarts=2,
    )
    assert (result.images.dtype, result.perturbations.dtype, result.loss.dtype) == (np.float32,) * 3
    assert (result.success.dtype, result.iterations.dtype) == (np.bool_, np.int64)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert norms(result.images - images, norm).max() <= EPSILON[norm]
    np.testing.assert_array_equal(result.perturbations, result.images - images)
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != labels)
    # -log of float32 logits of about 10: a few epsilons of those
    expected = oracles.cross_entropy(trained.logits(result.images), labels)
    np.testing.assert_allclose(result.loss, expected, rtol=1e-5, atol=1e-5)
    assert ((result.iterations >= 0) & (result.iterations <= 6)).all()
    assert result.restart_success.shape == (2, 60)
    if stop_early:
        np.testing.assert_array_equal(result.success, result.restart_success.any(axis=0))
    # The attack does something here, and not everything, or the checks above would say little.
    assert 0 < result.success.sum() < 60
    assert result.perturbations.any(axis=(1, 2, 3)).sum() > 30


@every_variant
def test_results_do_not_depend_on_the_batch_size_or_the_threads(
    trained, split, monkeypatch, threads, norm, rule, start, stop_early
):
    def attack():
        settings = {"steps": 3, "step_size": EPSILON[norm] / 3, "rule": rule, "start": start}
        space = ImageBall(EPSILON[norm], norm)
        return pgd(trained, split.images[:50], split.labels[:50], space, stop_early=stop_early, restarts=2, **settings)

    threads(1)
    expected = attack()
    threads(2)
    assert_same_results(attack(), expected)
    for size in (1, 7, 49):
        monkeypatch.setattr(MODULE, "IMAGES_PER_BATCH", size)
        assert_same_results(attack(), expected)


@every_variant
def test_without_steps_the_start_is_the_result(trained, split, norm, rule, start, stop_early):
    result = pgd(
        trained, split.images, split.labels, ImageBall(EPSILON[norm], norm), steps=0, rule=rule, start=start,
        stop_early=stop_early,
    )  # fmt: skip
    assert not result.iterations.any()
    if start == "image":
        np.testing.assert_array_equal(result.images, split.images)
    else:
        assert result.perturbations.any(axis=(1, 2, 3)).all()
        assert norms(result.perturbations, norm).max() <= EPSILON[norm]


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("rule", attacks.Rule)
@pytest.mark.parametrize("start", attacks.Start)
def test_the_kept_loss_only_rises_with_further_steps(trained, split, norm, rule, start):
    """Steps so large that the loss itself jumps up and down."""
    settings = {"step_size": 0.3, "rule": rule, "start": start, "stop_early": False}
    kept = [
        pgd(trained, split.images, split.labels, ImageBall(3 * EPSILON[norm], norm), steps=n, **settings)
        for n in range(9)
    ]
    for earlier, later in pairwise(kept):
        assert (later.loss >= earlier.loss).all()
        np.testing.assert_array_equal(later.loss > earlier.loss, later.iterations > earlier.iterations)
    assert (kept[-1].loss > kept[0].loss).mean() > 0.5
    if norm == "linf":  # where such steps overshoot
        assert (kept[-1].iterations < 8).any()


def test_stopping_early_keeps_the_first_image_of_another_label(trained, split):
    settings = {"step_size": 0.02, "rule": "sign", "start": "image", "stop_early": True}
    whole = pgd(trained, split.images, split.labels, ImageBall(0.2), steps=8, **settings)
    assert len(np.unique(whole.iterations[whole.success])) > 3
    for steps in range(8):  # before its iteration no image has succeeded, from it on it stays as it is
        cut = pgd(trained, split.images, split.labels, ImageBall(0.2), steps=steps, **settings)
        done = whole.success & (whole.iterations <= steps)
        np.testing.assert_array_equal(cut.success, done)
        np.testing.assert_array_equal(cut.images[done], whole.images[done])


def test_more_restarts_keep_the_earlier_ones(trained, split):
    def attack(restarts):
        return pgd(trained, split.images, split.labels, ImageBall(0.1), steps=2, step_size=0.03, restarts=restarts)

    one, three = attack(1), attack(3)
    np.testing.assert_array_equal(three.restart_success[:1], one.restart_success)
    assert (three.restart_success[0] != three.restart_success[2]).any()
    np.testing.assert_array_equal(three.success, three.restart_success.any(axis=0))
    assert three.success.sum() > one.success.sum()
    np.testing.assert_array_equal(three.images[one.success], one.images[one.success])


def test_a_misclassified_image_succeeds_at_once(trained, split):
    wrong = (split.labels + 1) % 10
    result = pgd(trained, split.images, wrong, ImageBall(0.1), start="image", steps=3)
    at_once = trained.predict(split.images) != wrong
    assert at_once.sum() > 100
    assert result.success[at_once].all()
    assert not result.iterations[at_once].any()
    np.testing.assert_array_equal(result.images[at_once], split.images[at_once])


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("engine", attacks.Engine)
def test_an_image_whose_loss_is_no_number_is_left_as_it_is(engine, restarts):
    model = linear_model(np.ones((2, 6), np.float32), np.array([np.nan, 0], np.float32))
    images, space = np.full((3, 2, 3, 1), 0.5, np.float32), ImageBall(0.1)
    result = pgd(model, images, np.zeros(3, int), space, stop_early=False, restarts=restarts, engine=engine)
    np.testing.assert_array_equal(result.images, images)
    assert not result.perturbations.any()


def test_the_seed_decides_the_start(trained, split):
    def attack(seed):
        return pgd(trained, split.images, split.labels, ImageBall(0.1), steps=1, seed=seed)

    assert_same_results(attack(3), attack(3))
    assert (attack(3).images != attack(4).images).any()


def test_an_attack_changes_neither_its_inputs_nor_the_model(trained, split):
    images, labels, state = split.images.copy(), split.labels.copy(), trained.state_dict()
    pgd(trained, split.images, split.labels, ImageBall(0.1), steps=2)
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)
    for name, array in trained.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    assert all(parameter.gradient is None for parameter in trained.parameters())


def test_no_images_give_an_empty_result(trained, split):
    result = pgd(trained, split.images[:0], split.labels[:0], ImageBall(0.1), steps=2)
    assert result.images.shape == (0, 28, 28, 1)
    assert result.success.shape == result.loss.shape == (0,)


@pytest.mark.parametrize("norm", Norm)
def test_random_starts_are_uniform_over_direction_and_distance(norm):
    space = ImageBall(0.3, norm)
    perturbations = space.random_perturbations(np.random.default_rng(0), (2000, 4, 4, 1))
    distances = norms(perturbations, norm) / 0.3
    assert distances.max() <= 1 + 1e-6
    # Kolmogorov-Smirnov: beyond 2.2 / sqrt(n) with probability 1e-4
    empirical = np.arange(1, 2001) / 2000
    assert np.abs(np.sort(distances) - empirical).max() < 2.2 / math.sqrt(2000)
    directions = perturbations.reshape(2000, -1) / norms(perturbations, "l2")[:, None]
    assert np.abs(directions.mean(axis=0)).max() < 5 * math.sqrt(1 / 16 / 2000)


# --- known answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", attacks.Rule)
@pytest.mark.parametrize("start", attacks.Start)
def test_on_a_linear_model_the_linf_optimum_is_the_corner(rule, start):
    random = np.random.default_rng(0)
    w = random.standard_normal(6).astype(np.float32)
    model, epsilon = linear_model(np.stack([-w, w])), 0.25
    images = random.random((30, 2, 3, 1), np.float32)
    labels = random.integers(0, 2, 30)
    settings = {"steps": 60, "step_size": 0.02, "rule": rule, "start": start, "stop_early": False}
    result = pgd(model, images, labels, ImageBall(epsilon), **settings)
    direction = np.where(labels == 0, 1, -1)[:, None] * np.sign(w)  # away from the label
    corner = np.clip(images + epsilon * direction.reshape(-1, 2, 3, 1), 0, 1)
    np.testing.assert_allclose(result.images, corner, rtol=0, atol=1e-6)


def test_on_a_linear_model_the_l2_optimum_is_along_the_weights():
    random = np.random.default_rng(0)
    w = random.standard_normal(6).astype(np.float32)
    images = random.uniform(0.4, 0.6, (30, 2, 3, 1)).astype(np.float32)  # 0.4 away from the border of [0, 1]
    labels = random.integers(0, 2, 30)
    settings = {"steps": 60, "step_size": 0.02, "rule": "sign", "start": "random", "stop_early": False}
    result = pgd(linear_model(np.stack([-w, w])), images, labels, ImageBall(0.3, "l2"), **settings)
    direction = np.where(labels == 0, 1, -1)[:, None] * w / np.linalg.norm(w)
    # A step along w shrinks what is not along w by 0.3 / 0.32: 60 of them leave 0.3 * 0.02.
    np.testing.assert_allclose(result.perturbations, 0.3 * direction.reshape(-1, 2, 3, 1), rtol=0, atol=0.01)


def plain_pgd(weight, bias, images, labels, epsilon, steps, step_size, sign):
    """The textbook in float64 for logits = weight @ x + bias, from the image itself: the path of every pixel."""
    x = start = images.reshape(len(images), -1).astype(np.float64)
    one_hot, m, v = np.eye(len(weight))[labels], 0, 0
    for t in range(1, steps + 1):
        gradient = (oracles.softmax(x @ weight.T + bias) - one_hot) @ weight
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        adam = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        x = x + step_size * (np.sign(gradient) if sign else adam)
        x = np.clip(np.clip(x, start - epsilon, start + epsilon), 0, 1)
    return x.reshape(images.shape)


@pytest.mark.parametrize("rule", attacks.Rule)
@pytest.mark.parametrize("steps", [1, 2, 6])  # 6 * 0.03 < 0.2: still on the way
def test_the_path_is_the_textbooks(rule, steps):
    random = np.random.default_rng(1)
    weight, bias = random.standard_normal((3, 6)).astype(np.float32), random.standard_normal(3).astype(np.float32)
    images, labels = random.random((40, 2, 3, 1), np.float32), random.integers(0, 3, 40)
    epsilon, step_size = 0.2, 0.03
    settings = {"steps": steps, "step_size": step_size, "rule": rule, "start": "image", "stop_early": False}
    result = pgd(linear_model(weight, bias), images, labels, ImageBall(epsilon), **settings)
    last = result.iterations == steps  # where the last image is the best, so that it is the one returned
    assert last.mean() > 0.9
    expected = plain_pgd(weight, bias, images, labels, epsilon, steps, step_size, rule == "sign")
    # Adam's first steps are g / |g|, with float32 gradients known to 1e-5 or so
    np.testing.assert_allclose(result.images[last], expected[last], rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", Norm)
def test_projection_is_onto_ball_and_box_and_leaves_the_inside_alone(norm):
    random = np.random.default_rng(0)
    space, start = ImageBall(0.5, norm), random.random((200, 2, 2, 1), np.float32)
    chart = space.chart(start, np.zeros(200, np.int64), None)
    codes = start + random.normal(0, 0.4, start.shape).astype(np.float32)
    projected = space.project(chart, codes)
    assert norms(projected - start, norm).max() <= 0.5
    assert ((projected >= 0) & (projected <= 1)).all()
    inside = (norms(codes - start, norm) < 0.5) & ((codes >= 0) & (codes <= 1)).all(axis=(1, 2, 3))
    assert 10 < inside.sum() < 190
    np.testing.assert_allclose(projected[inside], codes[inside], rtol=0, atol=1e-6)
    np.testing.assert_allclose(space.project(chart, projected), projected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.3, 0.1, 8 / 255, 1e-3, 1e-7, 1e-9, 1e-50, 1.5])
@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("engine", attacks.Engine)
def test_no_rounding_leaves_the_ball_or_the_box(trained, split, norm, epsilon, engine):
    space, images = ImageBall(epsilon, norm), np.concatenate([split.images, 1 - split.images * np.float32(0.9)])
    labels = np.tile(split.labels, 2)
    size = min(epsilon, 1)
    for rule in attacks.Rule:
        settings = {"steps": 4, "step_size": size / 3, "rule": rule, "engine": engine, "stop_early": False}
        result = pgd(trained, images, labels, space, **settings)
        assert norms(result.images - images, norm).max() <= epsilon
        np.testing.assert_array_equal(result.perturbations, result.images - images)
        assert result.images.min() >= 0
        assert result.images.max() <= 1
    if epsilon > 1e-7:  # the neighbours of a float32 near 1 are not nearer
        assert norms(result.images - images, norm).max() > 0.9 * size


@given(norm=st.sampled_from(Norm), epsilon=st.floats(1e-3, 3), scale=st.floats(-12, 2), seed=st.integers(0, 999))
def test_both_engines_project_to_the_same_bits_within_ball_and_box(norm, epsilon, scale, seed):
    random = np.random.default_rng(seed)
    start = (random.uniform(-2, 2, (50, 6)) * 2.0 ** random.integers(-20, 1, (50, 6))).astype(np.float32)
    codes = (start + np.exp(scale) * random.normal(size=start.shape)).astype(np.float32)
    space = ImageBall(epsilon, norm)
    lower, upper = (np.full(6, bound, np.float32) for bound in (-2, 2))
    projected = space.project(Flat(start, lower, upper), codes)
    which = kernels.LINF if norm is Norm.LINF else kernels.L2
    for code, origin in zip(codes, start, strict=True):
        kernels._project(code, origin, lower, upper, which, np.float32(space.radius))
    np.testing.assert_array_equal(codes, projected)
    assert norms(projected - start, norm).max() <= epsilon
    assert np.abs(projected).max() <= 2
    assert (np.sign(projected - start) * np.sign(codes - start) >= 0).all()


class Flat(Chart):
    """A chart of codes alone."""

    def decode(self, codes):
        raise NotImplementedError

    def take(self, rows):
        raise NotImplementedError


@pytest.mark.parametrize("norm", Norm)
def test_random_perturbations_lie_in_the_ball(norm):
    for epsilon in (0.3, 0.1, 1e-3):
        drawn = ImageBall(epsilon, norm).random_perturbations(np.random.default_rng(0), (20_000, 2, 2, 1))
        assert norms(drawn, norm).max() <= epsilon


# --- rates and errors -----------------------------------------------------------------------------------------


def result_of(restart_success):
    """A result of which only the successes matter."""
    n = restart_success.shape[1]
    success = restart_success.any(axis=0)
    nothing = np.zeros((n, 1, 1, 1), np.float32)
    return AttackResult(nothing, nothing, success, np.zeros(n, np.int64), np.zeros(n, np.float32), restart_success)


def test_the_success_rate_averages_over_restarts_and_takes_their_union():
    rates = SuccessRate.of(result_of(np.array([[True, False, False, True], [True, True, False, False]])))
    assert (rates.average, rates.worst) == (0.5, 0.75)


def test_the_success_rate_of_no_images_is_not_a_number():
    rates = SuccessRate.of(result_of(np.zeros((2, 0), bool)))
    assert math.isnan(rates.average)
    assert math.isnan(rates.worst)


def test_the_worst_case_counts_every_restart_that_succeeded():
    """Also when all steps are taken: there a restart without a label change may have a higher loss than one with."""
    # One pixel x, label 0. At x = 0.2 logits 6, 6.1, 0, 0, ...: another label, but a loss of log 2 only.
    # At x = 0.8 logits 0.05, 0, 0, 0, ...: the right label, and a loss of log 20.
    weight, bias = np.zeros((20, 1), np.float32), np.zeros(20, np.float32)
    for row, (at_low, at_high) in enumerate([(6, 0.05), (6.1, 0)]):
        weight[row] = (at_high - at_low) / 0.6
        bias[row] = at_low - 0.2 * weight[row, 0]
    model = linear_model(weight, bias, shape=(1, 1, 1))
    image, label = np.full((1, 1, 1, 1), 0.5, np.float32), np.zeros(1, np.int64)
    result = pgd(model, image, label, ImageBall(0.3), steps=0, restarts=40, stop_early=False)
    assert 0 < result.restart_success.sum() < 40
    assert not result.success[0]
    rates = SuccessRate.of(result)
    assert rates.average == result.restart_success.mean()
    assert rates.worst == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": math.nan}, "step_size"),
        ({"rule": "newton"}, "adam, sign"),
        ({"start": "corner"}, "random, image"),
    ],
)
def test_impossible_settings_are_refused(trained, split, settings, message):
    with pytest.raises(UserError, match=message):
        pgd(trained, split.images, split.labels, ImageBall(0.1), **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.0,), "epsilon"), ((-1.0,), "epsilon"), ((math.inf,), "epsilon"), ((0.3, "l7"), "linf, l2")],
)
def test_impossible_spaces_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        ImageBall(*arguments)


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=lambda attack: attack.name)
def test_what_is_no_space_or_no_split_is_refused(trained, split, attack):
    with pytest.raises(UserError, match=r"a space must be an object such as ImageBall\(epsilon=0.3\), not 0.1"):
        attack.find(trained, split, 0.1)
    with pytest.raises(UserError, match="must be given as a Split, not Dataset"):
        attack.find(trained, Dataset("letters", ("A", "B"), split, split), ImageBall(0.1))


@pytest.mark.parametrize("engine", attacks.Engine)
def test_an_engine_may_be_named(trained, split, monkeypatch, engine):
    used = []
    for name, kind in (("_compiled_ascent", attacks.Engine.PROGRAM), ("_ascent", attacks.Engine.AUTODIFF)):
        original = getattr(MODULE, name)
        monkeypatch.setattr(
            MODULE, name, lambda *given, kind=kind, original=original: (used.append(kind), original(*given))[1]
        )
    attacks.PGD(steps=1, engine=str(engine)).find(trained, split.take(slice(3)), ImageBall(0.1))
    assert used == [engine]
    with pytest.raises(UserError, match="unknown engine 'gpu': use one of program, autodiff"):
        attacks.PGD(engine="gpu")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda images, labels: (images * 2, labels), "outside"),
        (lambda images, labels: (images * np.float32(np.nan), labels), "NaN"),
        (lambda images, labels: (images[:, :20], labels), "shape"),
        (lambda images, labels: (images, labels[:-1]), "one label per image"),
        (lambda images, labels: (images, labels + 5), "between 0 and 9"),
        (lambda images, labels: (images, labels - 1), "between 0 and 9"),
        (lambda images, labels: (images, labels.astype(float)), r"not float64: use labels.astype\(numpy.int64\)"),
        (lambda images, labels: (images, labels.tolist()), r"not list: use numpy.array\(labels\)"),
        (lambda images, labels: (images, np.eye(10)[labels]), r"use labels.argmax\(axis=1\)"),
        (lambda images, labels: (images, labels[:, None]), r"use labels\[:, 0\]"),
    ],
)
def test_bad_images_and_labels_are_refused(trained, split, spoil, message):
    images, labels = spoil(split.images, split.labels)
    with pytest.raises(UserError, match=message):
        pgd(trained, images, labels, ImageBall(0.1), steps=1)
