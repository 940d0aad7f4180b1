"""Compiled training steps compute what the autodiff computes, with the same bits at any number of threads."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import with_and_without_compilation
from hypothesis import given, settings
from hypothesis import strategies as st
from test_program import MODELS, sample, sharpened

from hlf_np.autodiff import Tensor
from hlf_np.kernels.instructions.encoding import decoded
from hlf_np.kernels.instructions.propagation import Winograd
from hlf_np.kernels.interpreter.update import COPIES_PER_BLOCK, copy_block
from hlf_np.kernels.products.tile import LANES
from hlf_np.layers import BatchNorm, Convolution, Flatten, Linear, ReLU, Sequential, Tanh
from hlf_np.losses import CROSS_ENTROPY, Trades
from hlf_np.manifolds.learning import losses
from hlf_np.models import Model
from hlf_np.models.vae import Vae, VaeConfig
from hlf_np.optim import Adam, AdamConfig
from hlf_np.programs import check, compiler
from hlf_np.programs.training import CLASSIFIERS, ClassifierTraining, TradesTraining, _strided_copies
from hlf_np.programs.vae_training import VaeTraining
from hlf_np.support.errors import UserError
from hlf_np.train_step import AutodiffTrainStep, make_train_step

# With an epsilon far above the gradients, Adam's steps are proportional to the gradients. With the usual epsilon they
# are about the signs of the gradients, and one that is only rounding, as that of a bias before batch norm, would count
# as much as any other.
SMOOTH = AdamConfig(epsilon=1.0, weight_decay=1e-2)

VAES = {
    "default": VaeConfig(),
    "large batches": VaeConfig(batch_size=100),
    "odd images": VaeConfig(channels=(5, 9), latent_dimensions=16, image_shape=(13, 13, 3), reconstruction_weight=0.7),
    "one convolution": VaeConfig(channels=(20,), latent_dimensions=3, image_shape=(6, 6, 1)),
}


def assert_same_state(actual, expected, tolerance):
    for (name, ours), (_, theirs) in zip(actual.named_arrays(), expected.named_arrays(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [100, 23])
def test_steps_of_a_classifier(name, count):
    compiled, readable = MODELS[name](), MODELS[name]()
    program = ClassifierTraining(compiled.network, compiled.image_shape, SMOOTH)
    reference = AutodiffTrainStep(readable, SMOOTH)
    batch = sample(compiled, count)
    for step in range(2):
        loss, predictions = program.step(batch.images, batch.images, batch.labels, 0.01)
        expected_loss, expected_predictions = reference.step(batch.images, batch.images, batch.labels, 0.01)
        # a ReLU whose input rounds to the other side of 0 has another gradient, so later steps agree a little less
        tolerance = 1e-5 * max(1, abs(expected_loss).max()) if step == 0 else 1e-3  # some 80 roundings of the largest
        np.testing.assert_allclose(loss, expected_loss, rtol=0, atol=tolerance)
        assert (predictions == expected_predictions).mean() > 0.95
    program.store()
    assert_same_state(compiled.network, readable.network, 1e-4)


TRADES = Trades(beta=2.5)


def perturbed(batch):
    """Return images near those of a batch."""
    noise = np.random.default_rng(6).uniform(-0.3, 0.3, batch.images.shape)
    return np.clip(batch.images + noise, 0, 1).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [100, 25, 23, 1])
def test_steps_with_trades(name, count):
    compiled, readable = MODELS[name](), MODELS[name]()
    program, reference = make_train_step(compiled, SMOOTH, TRADES), AutodiffTrainStep(readable, SMOOTH, TRADES)
    assert type(program) is TradesTraining
    batch = sample(compiled, count)
    for step in range(3 if count > 1 else 1):  # batch norm of two images divides by their difference, which may be tiny
        loss, predictions = program.step(batch.images, perturbed(batch), batch.labels, 0.01)
        expected = reference.step(batch.images, perturbed(batch), batch.labels, 0.01)
        assert (loss.shape, predictions.shape) == ((count,), (2 * count,))
        np.testing.assert_allclose(loss, expected[0], rtol=0, atol=1e-3 if step == 0 else 5e-3)  # as above
        assert (predictions == expected[1]).mean() > 0.95
    program.store()
    assert_same_state(compiled.network, readable.network, 1e-3)


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet", "vgg"])
def test_gradients_of_trades_are_those_in_double_precision(name):
    """Gradients of all parameters, for 23 pairs in several parts; in one pair nothing is perturbed."""
    model = sharpened(MODELS[name]())
    network, batch = check._in_double(model.network), sample(model, 23)
    program, images = TradesTraining(model.network, model.image_shape, SMOOTH, 8, TRADES), perturbed(batch)
    images[3] = batch.images[3]
    pairs = np.stack((batch.images, images), axis=1).reshape(46, -1)
    program.gradients(pairs, np.repeat(batch.labels, 2).astype(np.float32)[:, None])
    views = (Tensor(array.astype(np.float64)) for array in (batch.images, images))
    TRADES(lambda x: network(x, training=True), *views, batch.labels).mean().backward()
    actual = dict(zip([name for name, _ in model.network.named_arrays()], program.gradient(), strict=True))
    norms = {key: np.linalg.norm(parameter.gradient) for key, parameter in network.named_parameters()}
    for key, parameter in network.named_parameters():
        error = np.linalg.norm(actual[key] - parameter.gradient)
        assert error < 2e-3 * max(norms[key], max(norms.values()) / 20), key


@pytest.mark.parametrize("layer", [Tanh(), ReLU()])
def test_trades_where_the_network_does_not_compile_is_the_same_by_autodiff(layer):
    random = np.random.default_rng(0)
    network = Sequential(Flatten(), Linear(64, 20, random), BatchNorm(20), layer, Linear(20, 5, random))
    model = Model(network, 5, (8, 8, 1))
    readable = copy.deepcopy(model)
    train_step, reference = make_train_step(model, SMOOTH, TRADES), AutodiffTrainStep(readable, SMOOTH, TRADES)
    assert type(train_step) is (AutodiffTrainStep if isinstance(layer, Tanh) else TradesTraining)
    batch = sample(model, 30)
    for _ in range(3):
        actual, expected = (x.step(batch.images, perturbed(batch), batch.labels, 0.1) for x in (train_step, reference))
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
        np.testing.assert_array_equal(actual[1], expected[1])
    train_step.store()
    assert_same_state(model.network, readable.network, 1e-6)


def test_a_wrong_compiled_trades_is_noticed_before_it_is_used(monkeypatch):
    monkeypatch.setattr(compiler, "_verdicts", {})
    right = TradesTraining._loss
    monkeypatch.setattr(TradesTraining, "_loss", lambda *arguments: right(*arguments)._replace(beta=0))
    model = MODELS["small cnn"]()
    with pytest.warns(UserWarning, match="differs from its autodiff"):
        assert type(make_train_step(model, SMOOTH, TRADES)) is AutodiffTrainStep
    assert type(make_train_step(model, SMOOTH)) is ClassifierTraining


@pytest.mark.parametrize("beta", [0, -1, math.nan, math.inf, "6"])
def test_beta_of_trades_must_be_positive(beta):
    with pytest.raises(UserError, match="beta must be a positive number"):
        Trades(beta)


@pytest.mark.parametrize(("batch_size", "expected"), [(25, 0), (100, 8)])
def test_winograd_is_used_if_the_batch_is_large_enough(batch_size, expected):
    """By two layers of the encoder and two of the decoder, forward and backward."""
    config = VaeConfig(batch_size=batch_size)
    rows = VaeTraining(Vae(config), config)._program.instructions
    assert sum(isinstance(decoded(row), Winograd) for row in rows) == expected


def test_a_bias_before_batch_norm_only_decays():
    model = MODELS["cnn"]()
    bias = model.network.layers[0].parameters["bias"]
    bias.data += 1
    config = AdamConfig(epsilon=1.0, weight_decay=0.5, betas=(0.0, 0.0))
    program = ClassifierTraining(model.network, model.image_shape, config)
    batch = sample(model, 10)
    program.step(batch.images, batch.images, batch.labels, 0.1)
    program.store()
    # without moments a step is rate * g / (|g| + epsilon), here with g = 0.5 * 1
    np.testing.assert_allclose(bias.data, 1 - 0.1 * 0.5 / 1.5, rtol=1e-6)


@pytest.mark.parametrize("name", VAES)
def test_steps_of_a_vae(name):
    config = replace(VAES[name], adam=SMOOTH)
    compiled, readable = Vae(config, 1), Vae(config, 1)
    program = VaeTraining(compiled, compiled.config)
    optimiser = Adam([parameter for _, parameter in readable.named_parameters()], SMOOTH)
    random = np.random.default_rng(0)
    weight = Tensor(np.float32(config.reconstruction_weight))
    for count in (25, 7):
        images = random.random((count, *config.image_shape), np.float32)
        noise = random.standard_normal((count, config.latent_dimensions), np.float32)
        errors, divergences = losses(readable, Tensor(images), Tensor(noise))
        (weight * errors + divergences).mean().backward()
        optimiser.step(0.01)
        actual = program.step(images, noise, 0.01)
        np.testing.assert_allclose(actual[0], errors.data, rtol=1e-5)
        np.testing.assert_allclose(actual[1], divergences.data, rtol=1e-5, atol=1e-5)
    program.store()
    assert_same_state(compiled, readable, 1e-5)


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, TRADES])
def test_the_same_bits_at_any_number_of_threads(loss, threads):
    states = []
    for count in (1, 2):
        threads(count)
        model = MODELS["cnn of odd images"]()
        program = CLASSIFIERS[type(loss)](model.network, model.image_shape, AdamConfig(), loss=loss)
        batch = sample(model, 57)
        for _ in range(3):
            program.step(batch.images, perturbed(batch), batch.labels, 0.01)
        program.store()
        states.append(model.state_dict())
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


def test_a_smaller_batch_is_not_affected_by_a_larger_one_before():
    results = []
    for before in ((), (100,)):
        model = MODELS["cnn"]()
        program = ClassifierTraining(model.network, model.image_shape, AdamConfig())
        for count in before:
            batch = sample(model, count)
            program.step(batch.images, batch.images, batch.labels, 0.0)
        batch = sample(model, 13)
        results.append(program.step(batch.images, batch.images, batch.labels, 0.0)[0])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_a_batch_of_a_single_part_clears_the_gradients_of_a_larger_one_before():
    """Also those of the second half of the batch, which then has no parts."""
    gradients = []
    for before in ((), (100,)):
        model = MODELS["cnn"]()
        program = ClassifierTraining(model.network, model.image_shape, AdamConfig())
        for count in (*before, 4):
            batch = sample(model, count)
            program.step(batch.images, batch.images, batch.labels, 0.0)
        gradients.append(program._gradients.sum(axis=0))
    assert gradients[0].any()
    np.testing.assert_array_equal(*gradients)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_strided_copies_make_all_copies(data):
    size = data.draw(st.integers(0, 90))
    to = np.array(sorted(data.draw(st.sets(st.integers(0, 100), min_size=size, max_size=size))), np.int64)
    step = data.draw(st.integers(-3, 40))
    source = 400 + step * np.arange(size)  # evenly spaced, with some exceptions
    for place in data.draw(st.lists(st.integers(0, max(0, size - 1)), max_size=3 if size else 0)):
        source[place] += 1
    weights = np.arange(5000, dtype=np.float32)
    copied = weights.copy()
    copies = _strided_copies(to, source)
    for block in range(-(-len(copies) // COPIES_PER_BLOCK)):
        copy_block(block, copied, copies)
    expected = weights.copy()
    expected[to] = weights[source]
    np.testing.assert_array_equal(copied, expected)
    assert (copies[:, 3] <= LANES).all()
    if (np.diff(source) == step).all():  # then the targets in a vector are one copy, unless there are gaps between them
        vectors = np.split(to, np.flatnonzero(np.diff(to // LANES)) + 1)
        assert len(copies) == sum(1 if len(v) and np.ptp(v) < len(v) else len(v) for v in vectors)


def test_a_layer_without_a_compiled_form_is_named():
    random = np.random.default_rng(0)
    network = Sequential(Convolution(1, 4, random), Tanh(), Flatten(), Linear(4 * 4 * 4, 3, random))
    with pytest.raises(UserError, match="Tanh is not compiled here"):
        ClassifierTraining(network, (8, 8, 1), AdamConfig())


CODE = """
from dataclasses import replace
import numpy as np
from test_program import MODELS, sample
from hlf_np.models.vae import Vae
from hlf_np.optim import AdamConfig
from hlf_np.programs.training import ClassifierTraining, TradesTraining
from hlf_np.programs.vae_training import VaeTraining
from test_training_program import SMOOTH, TRADES, VAES, perturbed
model = MODELS[{name!r}]()
program = ClassifierTraining(model.network, model.image_shape, SMOOTH, batch_size=8)
batch = sample(model, 5)
loss, _ = program.step(batch.images, batch.images, batch.labels, 0.01)
program.store()
program = TradesTraining(model.network, model.image_shape, SMOOTH, 8, TRADES)
trades, _ = program.step(batch.images, perturbed(batch), batch.labels, 0.01)
config = replace(VAES["odd images"], adam=SMOOTH, batch_size=8)
vae = Vae(config)
program = VaeTraining(vae, config)
random = np.random.default_rng(0)
images, noise = random.random((3, *config.image_shape), np.float32), random.standard_normal((3, 16), np.float32)
errors, divergences = program.step(images, noise, 0.01)
program.store()
np.savez({out!r}, loss, trades, errors, divergences, *(array for _, array in vae.named_arrays()))
"""


@pytest.mark.stress
@pytest.mark.parametrize("name", ["cnn of odd images", "mlp of odd images", "resnet that narrows"])
def test_without_compilation_every_index_is_in_bounds_and_the_result_is_the_same(name, tmp_path, run_python):
    results = with_and_without_compilation(run_python, tmp_path, lambda out: CODE.format(name=name, out=out))
    compiled, interpreted = results
    assert compiled.keys() == interpreted.keys()
    for key, array in compiled.items():
        np.testing.assert_allclose(array, interpreted[key], rtol=1e-3, atol=1e-4)
