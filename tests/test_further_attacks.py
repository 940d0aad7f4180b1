"""Attacks beyond projected gradient ascent on the cross-entropy: margin, FGSM, Carlini and Wagner, transfer."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import oracles
import pytest
from conftest import small_cnn
from hypothesis import given
from hypothesis import strategies as st
from test_attacks import assert_same_results, linear_model, norms

from hlf_np import UserError
from hlf_np.attacks import (
    FGSM,
    PGD,
    CarliniWagner,
    Engine,
    Objective,
    RandomSearch,
    SuccessRate,
    Transfer,
    carlini_wagner,
    pgd,
)
from hlf_np.attacks.black_box import _blocks
from hlf_np.attacks.objectives import difference_of_logits_ratio, margin
from hlf_np.autodiff import Tensor, check_grads
from hlf_np.data.dataset import Split
from hlf_np.random import generator
from hlf_np.spaces import ImageBall, Norm
from hlf_np.training import train


def plain_margins(logits, labels):
    """max_{k != y} f_k - f_y, row by row."""
    return np.array([np.delete(row, label).max() - row[label] for row, label in zip(logits, labels, strict=True)])


# --- the margin -----------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(2, 12), st.integers(0, 999))
def test_margin_is_positive_exactly_where_the_label_has_changed(count, classes, seed):
    random = np.random.default_rng(seed)
    logits, labels = random.standard_normal((count, classes)), random.integers(0, classes, count)
    found = margin(Tensor(logits), labels).data
    np.testing.assert_array_equal(found, plain_margins(logits, labels))
    np.testing.assert_array_equal(found > 0, logits.argmax(axis=1) != labels)
    check_grads(lambda x: margin(x, labels), logits)


def test_the_margin_attack_raises_the_margin(trained, split):
    def attack(objective, steps):
        settings = {"start": "image", "stop_early": False, "objective": objective, "steps": steps}
        return pgd(trained, split.images, split.labels, ImageBall(0.05), **settings)

    before, after = attack("margin", 0), attack("margin", 8)
    np.testing.assert_allclose(before.loss, plain_margins(trained.logits(split.images), split.labels), atol=1e-5)
    assert (after.loss > before.loss + 0.1).all()
    np.testing.assert_array_equal(after.loss > 0, after.success)
    assert (attack("cross-entropy", 8).images != after.images).any()


def test_on_two_classes_both_objectives_have_the_same_optimum():
    random = np.random.default_rng(0)
    w, images = random.standard_normal(6).astype(np.float32), random.random((30, 2, 3, 1), np.float32)
    model, labels = linear_model(np.stack([-w, w])), random.integers(0, 2, 30)
    settings = {"steps": 40, "step_size": 0.02, "stop_early": False}
    by_margin, by_entropy = (
        pgd(model, images, labels, ImageBall(0.2), objective=o, **settings) for o in ("margin", "cross-entropy")
    )
    np.testing.assert_allclose(by_margin.images, by_entropy.images, rtol=0, atol=1e-6)


@given(st.integers(1, 20), st.integers(3, 12), st.integers(0, 999))
def test_the_ratio_of_logits_is_the_margin_without_its_scale(count, classes, seed):
    random = np.random.default_rng(seed)
    logits, labels = random.standard_normal((count, classes)), random.integers(0, classes, count)
    found = difference_of_logits_ratio(Tensor(logits), labels).data
    ordered = np.sort(logits, axis=1)
    np.testing.assert_allclose(found, plain_margins(logits, labels) / (ordered[:, -1] - ordered[:, -3]), rtol=1e-6)
    np.testing.assert_array_equal(found > 0, logits.argmax(axis=1) != labels)
    np.testing.assert_allclose(difference_of_logits_ratio(Tensor(1e3 * logits + 7), labels).data, found, rtol=1e-6)
    if np.diff(ordered, axis=1).min() > 1e-4 and (ordered[:, -1] - ordered[:, -3]).min() > 1e-2:  # no kink nearby
        check_grads(lambda x: difference_of_logits_ratio(x, labels), logits, tolerance=1e-5)


def test_the_ratio_of_logits_needs_a_third_one():
    with pytest.raises(UserError, match="at least three classes"):
        difference_of_logits_ratio(Tensor(np.zeros((1, 2))), np.zeros(1, np.int64))


# --- the divergence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", Engine)
def test_the_divergence_is_from_the_predictions_for_the_given_images(trained, split, engine):
    """The objective does not depend on the labels."""
    other = replace(split, labels=(split.labels + 1) % 10)
    attack = PGD(6, stop_early=False, objective="kl", restarts=2, engine=engine)
    result = attack.find(trained, split, ImageBall(0.05))
    expected = oracles.kl_divergence(trained.logits(split.images), trained.logits(result.images))
    np.testing.assert_allclose(result.loss, expected, rtol=1e-4, atol=1e-5)
    assert (result.loss > 10 * replace(attack, steps=0).find(trained, split, ImageBall(0.05)).loss).mean() > 0.9
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != split.labels)
    np.testing.assert_array_equal(attack.find(trained, other, ImageBall(0.05)).images, result.images)


def test_the_divergence_is_flat_where_nothing_is_perturbed(trained, split):
    images = Tensor(split.images, requires_grad=True)
    losses = Objective.DIVERGENCE.of(
        trained.forward(images), Objective.DIVERGENCE.targets(trained, split.images, split.labels)
    )
    losses.backward()
    np.testing.assert_allclose(losses.data, 0, atol=1e-6)
    np.testing.assert_allclose(images.gradient, 0, atol=1e-5)


def test_the_divergence_of_a_transferred_attack_is_the_targets(trained, split):
    target = small_cnn(seed=5)
    result = Transfer(trained, PGD(3, objective="kl")).find(target, split, ImageBall(0.05))
    expected = oracles.kl_divergence(target.logits(split.images), target.logits(result.images))
    np.testing.assert_allclose(result.loss, expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_objective_is_refused():
    with pytest.raises(UserError, match="cross-entropy, margin"):
        PGD(objective="hinge")


# --- FGSM -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", Norm)
def test_fgsm_is_one_step_of_size_epsilon_along_the_steepest_direction(trained, split, norm):
    space = ImageBall(0.05, norm)
    result = FGSM().find(trained, split, space)
    pixels = Tensor(split.images, requires_grad=True)
    Objective.CROSS_ENTROPY.of(trained.forward(pixels), split.labels).backward()
    step = 0.05 * (np.sign(pixels.gradient) if norm == "linf" else pixels.gradient)
    if norm == "l2":
        step /= np.linalg.norm(pixels.gradient.reshape(len(step), -1), axis=1).reshape(-1, 1, 1, 1)
    expected = np.clip(split.images + step, 0, 1)
    moved = result.iterations == 1
    # a gradient close to 0 may change its sign in the compiled program
    agree = np.isclose(result.images, expected, rtol=0, atol=1e-5).mean(axis=(1, 2, 3)) > 0.99
    assert agree[moved].all()
    assert moved.sum() > 80
    np.testing.assert_array_equal(result.images[~moved], split.images[~moved])
    one_step = {"steps": 1, "step_size": 0.05, "rule": "sign", "start": "image"}
    assert_same_results(result, pgd(trained, split.images, split.labels, space, **one_step))


# --- Carlini and Wagner ---------------------------------------------------------------------------------------


FAR = CarliniWagner(confidence=1.5, learning_rate=0.03, start="image")  # 120 steps lead far beyond the boundary


@pytest.fixture(scope="module")
def small(trained, split):
    """The result of the attack with a budget too large to matter, on correctly classified images."""
    right = split.take(np.flatnonzero(trained.predict(split.images) == split.labels)[:60])
    return right, FAR.find(trained, right, ImageBall(50, "l2"))


def test_cw_results_are_consistent(trained, small):
    right, result = small
    np.testing.assert_array_equal(result.perturbations, result.images - right.images)
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != right.labels)
    np.testing.assert_array_equal(result.restart_success, result.success[None])
    assert ((result.images >= 0) & (result.images <= 1)).all()
    expected = oracles.cross_entropy(trained.logits(result.images), right.labels)
    np.testing.assert_allclose(result.loss, expected, rtol=1e-5, atol=1e-5)
    assert result.success.all()
    assert (result.iterations > 0).all()


def test_cw_perturbations_shrink_and_are_smaller_than_those_of_projected_ascent(trained, small):
    right, result = small
    smallest = [  # norms after a number of iterations; infinite before the first success
        np.where(found.success, norms(found.perturbations, "l2"), np.inf)
        for n in (20, 40, 80)
        for found in [replace(FAR, iterations=n).find(trained, right, ImageBall(50, "l2"))]
    ]
    sizes = [*smallest, norms(result.perturbations, "l2")]
    for earlier, later in pairwise(sizes):
        assert (later <= earlier).all()
    first = np.isfinite(sizes[0])
    assert first.sum() > 20
    assert (sizes[-1][first] < sizes[0][first]).mean() > 0.1
    ascent = pgd(trained, right.images, right.labels, ImageBall(1.5, "l2"), steps=40)
    assert ascent.success.mean() > 0.9
    smaller = sizes[-1][ascent.success] < norms(ascent.perturbations, "l2")[ascent.success]
    assert smaller.mean() > 0.9


def test_on_a_linear_model_cw_finds_the_nearest_point_across_the_boundary():
    """The nearest point where the label changes lies along the weights, |margin| / |gradient of the margin| away."""
    random = np.random.default_rng(0)
    w = np.array([3, -2, 1, 0.5, -1, 2], np.float32)
    images = random.uniform(0.3, 0.7, (30, 2, 3, 1)).astype(np.float32)
    bias = np.array([0, -(w * images[0].ravel()).sum()], np.float32)
    model = linear_model(np.stack([0 * w, w]), bias + 10)  # logits far above 0, to which the attack compares them
    labels = model.predict(images)
    settings = CarliniWagner(iterations=400, confidence=0.01, start="image")
    result = settings.find(model, Split(images, labels), ImageBall(5, "l2"))
    assert result.success.all()
    shortest = np.abs(images.reshape(30, -1) @ w + bias[1]) / np.linalg.norm(w)
    found = norms(result.perturbations, "l2")
    assert (found >= shortest - 1e-5).all()
    # up to steps of Adam, 0.005 / 2 per pixel
    np.testing.assert_allclose(found, shortest, rtol=0, atol=0.01)


def test_a_misclassified_image_needs_no_perturbation(trained, split):
    wrong = (split.labels + 1) % 10
    rows = np.flatnonzero(trained.predict(split.images) != wrong)
    result = CarliniWagner(iterations=3).find(trained, Split(split.images[rows], wrong[rows]), ImageBall(1.5, "l2"))
    np.testing.assert_array_equal(result.images, split.images[rows])
    assert result.success.all()


@pytest.mark.parametrize("norm", Norm)
def test_cw_stays_within_its_budget(trained, small, norm):
    right, free = small
    sizes = norms(free.perturbations, norm)
    budget = float(np.median(sizes)) / (2 if norm == "linf" else 1)
    result = CarliniWagner().find(trained, right, ImageBall(budget, norm))
    assert norms(result.perturbations, norm).max() <= budget
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != right.labels)
    assert 0.3 < result.success.mean() < 1


def test_cw_does_not_depend_on_the_batch_size(trained, small, monkeypatch):
    right, _ = small
    attack, space = CarliniWagner(iterations=20), ImageBall(1.5, "l2")
    whole = attack.find(trained, right, space)
    monkeypatch.setattr(carlini_wagner, "IMAGES_PER_BATCH", 7)
    assert_same_results(attack.find(trained, right, space), whole)


def test_cw_of_no_images_is_empty(trained, split):
    result = CarliniWagner().find(trained, split.take(slice(0)), ImageBall(1.5, "l2"))
    assert result.images.shape == (0, 28, 28, 1)


@pytest.mark.parametrize(
    "settings",
    [{"iterations": -1}, {"confidence": -0.5}, {"confidence": math.nan}, {"weight": -1.0}, {"learning_rate": math.nan}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        CarliniWagner(**settings)


# --- transfer -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(split):
    """A second model, from another seed and half of the images."""
    model = small_cnn(seed=1)
    train(model, split.take(slice(100)), epochs=3, batch_size=10, seed=1)
    return model


def known_to_all(models, split):
    """The images that all models classify correctly."""
    return split.take(np.all([model.predict(split.images) == split.labels for model in models], axis=0))


def test_transfer_applies_the_examples_of_one_model_to_another(trained, other, split):
    split = known_to_all([trained, other], split)
    assert len(split) > 20
    result = Transfer(trained, PGD(steps=10, step_size=0.02, restarts=3, stop_early=False)).find(
        other, split, ImageBall(0.15)
    )
    np.testing.assert_array_equal(result.success, other.predict(result.images) != split.labels)
    np.testing.assert_array_equal(result.success, result.restart_success.any(axis=0))
    np.testing.assert_array_equal(result.perturbations, result.images - split.images)
    assert norms(result.perturbations, "linf").max() <= 0.15
    expected = oracles.cross_entropy(other.logits(result.images), split.labels)
    np.testing.assert_allclose(result.loss, expected, rtol=1e-5, atol=1e-5)
    assert result.restart_success.shape == (3, len(split))
    rate = SuccessRate.of(result)
    fooled_source = (trained.predict(result.images) != split.labels).mean()
    assert 0 < rate.average <= rate.worst < fooled_source


def test_transfer_to_the_source_itself_is_the_attack(trained, split):
    split = known_to_all([trained], split)
    result = Transfer(trained, PGD(steps=3)).find(trained, split, ImageBall(0.05))
    expected = PGD(steps=3).find(trained, split, ImageBall(0.05), int(generator(0, "transfer", 0).integers(2**31)))
    # the target's losses come from its logits, those of an attack from its program, with other rounding
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-5, atol=1e-6)
    assert_same_results(replace(result, loss=expected.loss), expected)


def test_transfer_depends_on_the_seed_alone(trained, other, split):
    attack = Transfer(trained, PGD(steps=2))
    first, again, another = (attack.find(other, split, ImageBall(0.05), seed) for seed in (1, 1, 2))
    assert_same_results(first, again)
    assert (first.images != another.images).any()


def test_transfer_of_no_images_has_no_rate(trained, other, split):
    result = Transfer(trained, PGD(steps=1)).find(other, split.take(slice(0)), ImageBall())
    assert math.isnan(SuccessRate.of(result).average)


# --- random search --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", Norm)
def test_random_search_results_are_consistent(trained, split, norm):
    space = ImageBall(0.1 if norm == "linf" else 1.0, norm)
    result = RandomSearch(60).find(trained, split, space)
    np.testing.assert_allclose(result.images - split.images, result.perturbations, rtol=0, atol=1e-6)
    assert norms(result.perturbations, norm).max() <= space.epsilon
    assert ((result.images >= 0) & (result.images <= 1)).all()
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != split.labels)
    np.testing.assert_array_equal(result.restart_success, result.success[None])
    np.testing.assert_allclose(result.loss, plain_margins(trained.logits(result.images), split.labels), atol=1e-5)
    before = plain_margins(trained.logits(split.images), split.labels)
    assert (result.loss >= before - 1e-5).all()
    wrong = before > 0
    np.testing.assert_array_equal(result.images[wrong], split.images[wrong])
    assert result.success.sum() > wrong.sum()
    assert result.iterations.max() <= 60
    assert_same_results(result, RandomSearch(60).find(trained, split, space))
    other = RandomSearch(60).find(trained, split, space, seed=1)
    assert (other.images != result.images).any()


def test_a_transfer_needs_examples_of_pgd(trained):
    with pytest.raises(UserError, match=r"the examples of a transfer must come from PGD, not FGSM\(\)"):
        Transfer(trained, FGSM())


def test_random_search_finds_the_worst_corner_of_a_linear_model():
    random = np.random.default_rng(0)
    w, images = random.standard_normal(6).astype(np.float32), (random.random((30, 2, 3, 1)) * 0.4 + 0.3).astype("f")
    model, labels = linear_model(np.stack([-w, w]), bias=np.array([100, -100])), np.zeros(30, np.int64)
    found = RandomSearch(400).find(model, Split(images, labels), ImageBall(0.2))
    assert not found.success.any()
    worst = images + 0.2 * np.sign(w).reshape(2, 3, 1)
    np.testing.assert_allclose(found.images, worst, rtol=0, atol=1e-6)
    none = RandomSearch(0).find(model, Split(images, labels), ImageBall(0.2))
    np.testing.assert_array_equal(none.images, images)


@given(st.integers(1, 4), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.floats(0.001, 1))
def test_blocks_are_contiguous_and_of_the_given_share(count, sizes, share):
    blocks = _blocks(np.random.default_rng(0), (count, *sizes), share)
    long = max(1, sum(size > 1 for size in sizes))
    lengths = [max(1, round(size * share ** (1 / long))) for size in sizes]
    for block in blocks:
        where = np.argwhere(block)
        np.testing.assert_array_equal(np.ptp(where, axis=0) + 1, lengths)
        assert len(where) == math.prod(lengths)


def test_random_search_of_no_images_finds_none(trained, split):
    result = RandomSearch().find(trained, split.take(slice(0)), ImageBall(0.1))
    assert len(result.images) == len(result.success) == 0
