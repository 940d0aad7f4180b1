"""AutoPGD, the thorough attack, and gradients of any function of the logits by compiled programs."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import small_cnn
from oracles import softmax
from test_attacks import linear_model

from hlf_np import UserError, models
from hlf_np.attacks import PGD, AutoPGD, ThoroughAttack
from hlf_np.attacks.auto_pgd import _checkpoints, _Goal, _random_boundary
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.layers import Flatten, Linear, Sequential, Tanh
from hlf_np.manifolds import VaeConfig, class_vaes
from hlf_np.random import generator
from hlf_np.spaces import ImageBall, LearnedManifold, TrueManifold
from hlf_np.training import TrainingConfig, train


@pytest.fixture(scope="module")
def right(trained, split):
    return split.take(np.flatnonzero(trained.predict(split.images) == split.labels))


# --- the compiled gradient ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [models.cnn, lambda: models.mlp(widths=(20, 20)), lambda: models.resnet(widths=(4, 6), blocks=(1, 1))],
    ids=["cnn", "mlp", "resnet"],
)
def test_input_gradients_are_those_of_the_autodiff(build, split):
    model, random = build(), np.random.default_rng(0)
    images, weights = split.images[:23], random.standard_normal((23, 10)).astype(np.float32)
    pixels = Tensor(images, requires_grad=True)
    model.forward(pixels).backward(weights)
    found = model.program.input_gradient(images, weights).reshape(images.shape)
    np.testing.assert_allclose(found, pixels.gradient, rtol=1e-3, atol=1e-5 * np.abs(pixels.gradient).max())


@pytest.mark.parametrize("name", ["true", "learned"])
def test_input_gradients_flow_through_decoders_and_warps(name, trained, split, fonts):
    vaes = class_vaes(split, 10, VaeConfig(channels=(2, 4), latent_dimensions=3, epochs=1, batch_size=5))
    space = TrueManifold(fonts) if name == "true" else LearnedManifold(vaes)
    part = split.take(slice(30))
    chart = space.chart(part.images, part.labels, part.codes)
    compiled, random = chart.compiled(trained), np.random.default_rng(0)
    weights = random.standard_normal((30, 10)).astype(np.float32)
    codes = Tensor(chart.start, requires_grad=True)
    trained.forward(chart.decode(codes)).backward(weights)
    found = compiled.program.input_gradient(chart.start, weights, compiled.groups, compiled.sources)
    np.testing.assert_allclose(found, codes.gradient, rtol=5e-3, atol=1e-4 * np.abs(codes.gradient).max())


@pytest.mark.parametrize("threads_used", [1, 2])
def test_input_gradients_are_the_same_bits_at_any_number_of_threads(trained, split, threads, threads_used):
    weights = np.random.default_rng(0).standard_normal((len(split), 10)).astype(np.float32)
    threads(1)
    single = trained.program.input_gradient(split.images, weights)
    threads(threads_used)
    np.testing.assert_array_equal(trained.program.input_gradient(split.images, weights), single)


# --- objectives -----------------------------------------------------------------------------------------------


def test_the_targeted_ratio_is_positive_where_the_target_leads_and_its_gradient_is_right():
    random = np.random.default_rng(0)
    logits, labels = random.standard_normal((40, 6)), random.integers(0, 6, 40)
    targets = (labels + random.integers(1, 6, 40)) % 6
    values, gradients = _Goal(labels, targets).of(logits)
    rows = np.arange(40)
    np.testing.assert_array_equal(values > 0, logits[rows, targets] > logits[rows, labels])
    ordered = np.sort(logits, axis=1)
    expected = (logits[rows, targets] - logits[rows, labels]) / (ordered[:, -1] - ordered[:, -3:-5:-1].mean(axis=1))
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    for k in range(6):
        step = 1e-6 * (np.arange(6) == k)
        difference = (_Goal(labels, targets).of(logits + step)[0] - _Goal(labels, targets).of(logits - step)[0]) / 2e-6
        np.testing.assert_allclose(gradients[:, k], difference, rtol=1e-3, atol=1e-4)


def test_the_cross_entropy_and_its_gradient():
    random = np.random.default_rng(0)
    logits, labels = random.standard_normal((20, 5)).astype(np.float32), random.integers(0, 5, 20)
    values, gradients = _Goal(labels).of(logits)
    probabilities = softmax(logits.astype(np.float64))
    np.testing.assert_allclose(values, -np.log(probabilities[np.arange(20), labels]), rtol=1e-5)
    np.testing.assert_allclose(gradients, probabilities - np.eye(5)[labels], atol=1e-6)


def test_checkpoints_come_ever_closer_together():
    assert _checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]  # as published for 100 steps


def auto_pgd_of(objective, image, epsilon, perturbation, steps):
    """Return the best value that AutoPGD finds for one image: algorithm 1 of Croce and Hein (2020), in NumPy."""

    def projected(x):
        return np.clip(x, np.maximum(image - epsilon, 0), np.minimum(image + epsilon, 1))

    previous, x, step_size = None, projected(image + perturbation), 2 * epsilon
    value, gradient = objective(x)
    values, best, best_x, best_gradient = [value], value, x, gradient
    at_checkpoint, last, halved = best, 0, True
    for k in range(1, steps + 1):
        z = projected(x + step_size * np.sign(gradient))
        moved = z if previous is None else projected(x + 0.75 * (z - x) + 0.25 * (x - previous))
        previous, x = x, moved
        value, gradient = objective(x)
        values.append(value)
        if value > best:
            best, best_x, best_gradient = value, x, gradient
        if k in _checkpoints(steps):
            rises = np.count_nonzero(np.diff(values[last:]) > 0)
            halved = rises < 0.75 * (k - last) or (not halved and at_checkpoint == best)
            at_checkpoint, last = best, k
            if halved:
                step_size, x, gradient = step_size / 2, best_x, best_gradient
    return best


def test_it_is_the_published_algorithm():
    """The network is curved so strongly that step sizes are halved after rises are counted, and errs nowhere."""
    random, epsilon, steps = np.random.default_rng(0), 0.1, 20
    network = Sequential(Flatten(), Linear(8, 30, random), Tanh(), Linear(30, 2, random))
    w, w_bias, v, v_bias = (parameter.data for _, parameter in network.named_parameters())
    w *= 40
    v_bias[:] = 2.5, 0
    images, labels = random.random((200, 2, 4, 1)).astype(np.float32), np.zeros(200, np.int64)

    def objective(x):  # the cross-entropy log(1 + exp(-margin)) and its gradient
        hidden = np.tanh(w @ x + w_bias)
        margin = (v[0] - v[1]) @ hidden + v_bias[0]
        return np.log1p(np.exp(-margin)), -((v[0] - v[1]) * (1 - hidden**2)) @ w / (1 + np.exp(margin))

    starts = _random_boundary(ImageBall(epsilon), generator(0, "apgd", 0), images.shape)
    rows = list(zip(images.reshape(200, 8).astype(float), starts.reshape(200, 8), strict=True))
    expected = [auto_pgd_of(objective, x, epsilon, start, steps) for x, start in rows]
    model = models.Model(network, classes=2, image_shape=(2, 4, 1))
    result = AutoPGD(steps).find(model, Split(images, labels), ImageBall(epsilon))
    assert not result.success.any()
    found = [objective(x)[0] for x in result.images.reshape(200, 8).astype(float)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


# --- the attacks ----------------------------------------------------------------------------------------------

ATTACKS = [AutoPGD(20), AutoPGD(10, targets=3), AutoPGD(10, restarts=2), ThoroughAttack(10, 2, 20)]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_results_are_consistent_and_decided_by_the_seed(trained, right, attack, norm):
    space = ImageBall(0.03 if norm == "linf" else 0.5, norm)
    result = attack.find(trained, right, space)
    assert ((result.images >= 0) & (result.images <= 1)).all()
    assert space.norm.of(result.perturbations).max() <= space.epsilon
    np.testing.assert_allclose(result.images - right.images, result.perturbations, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != right.labels)
    np.testing.assert_array_equal(result.restart_success, result.success[None])  # a second restart continues the first
    again = attack.find(trained, right, space)
    np.testing.assert_array_equal(again.images, result.images)
    assert 0 < result.success.mean() < 1
    other = attack.find(trained, right, space, seed=1)
    assert (other.images != result.images).any()


def test_autodiff_and_compiled_gradients_lead_to_the_same_rates(trained, right):
    class Uncompiled(ImageBall):
        def project(self, chart, codes):  # a space that kernels do not know
            return super().project(chart, codes)

    rates = [AutoPGD(20).find(trained, right, space(0.03)).success.mean() for space in (ImageBall, Uncompiled)]
    assert rates[0] == pytest.approx(rates[1], abs=0.02)


def test_it_is_at_least_as_strong_as_steps_of_a_fixed_size(trained, right):
    space = ImageBall(0.03)
    weak = PGD(steps=40, step_size=0.005, restarts=5).find(trained, right, space).success
    strong = ThoroughAttack(40, 9, 100).find(trained, right, space).success
    assert strong.mean() >= weak.mean()
    assert (strong | ~weak).mean() > 0.98


def test_on_a_linear_model_it_finds_the_worst_corner():
    """The success of the best corner is known: the margin falls by epsilon times the sum of the weights' sizes."""
    random = np.random.default_rng(0)
    w, images = random.standard_normal(6).astype(np.float32), (random.random((200, 2, 3, 1)) * 0.4 + 0.3).astype("f")
    model = linear_model(np.stack([-w, w]), bias=np.zeros(2, np.float32))
    labels = model.predict(images)
    margins = 2 * np.abs(images.reshape(200, -1) @ w)
    epsilon = 0.05
    expected = margins < 2 * epsilon * np.abs(w).sum()
    found = AutoPGD(50).find(model, Split(images, labels), ImageBall(epsilon)).success
    clear = np.abs(margins - 2 * epsilon * np.abs(w).sum()) > 1e-4
    np.testing.assert_array_equal(found[clear], expected[clear])
    assert 0 < expected.mean() < 1


def test_misclassified_images_count_as_found_and_stay(trained, split):
    wrong = np.flatnonzero(trained.predict(split.images) != split.labels)
    labels = (split.labels + 1) % 10
    result = AutoPGD(3).find(trained, replace(split, labels=labels), ImageBall(0.01))
    unchanged = trained.predict(split.images) != labels
    assert result.success[unchanged].all()
    np.testing.assert_array_equal(result.images[unchanged], split.images[unchanged])
    assert len(wrong) < len(split)


def test_few_classes_and_no_images(split):
    network = Sequential(Flatten(), Linear(784, 3, generator(0, "few")), Tanh())
    model = models.Model(network, classes=3)
    few = replace(split, labels=split.labels % 3).take(slice(20))
    train(model, few, config=TrainingConfig(epochs=1))
    assert len(ThoroughAttack(3, 9, 5).find(model, few, ImageBall(0.1)).success) == 20  # without targets
    assert len(AutoPGD(3).find(small_cnn(), split.take(slice(0)), ImageBall(0.1)).success) == 0


@pytest.mark.parametrize("settings", [{"steps": 0}, {"targets": -1}, {"restarts": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        AutoPGD(**settings)


def test_the_ratio_needs_four_classes(split):
    network = Sequential(Flatten(), Linear(784, 3, generator(0, "few")))
    few = replace(split, labels=split.labels % 3)
    with pytest.raises(UserError, match="four classes"):
        AutoPGD(3, targets=2).find(models.Model(network, classes=3), few, ImageBall(0.1))
