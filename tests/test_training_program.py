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
from hlf_np.errors import UserError
from hlf_np.kernels.instructions import Winograd, decoded
from hlf_np.kernels.tile import LANES
from hlf_np.kernels.training import RUNS_PER_BLOCK, copy_block
from hlf_np.layers import BatchNorm, Convolution, Flatten, Linear, ReLU, Sequential, Tanh
from hlf_np.learners import AutodiffLearner, learner
from hlf_np.losses import CROSS_ENTROPY, Trades
from hlf_np.manifolds.learning import losses
from hlf_np.manifolds.vae import Vae, VaeConfig
from hlf_np.models import Model
from hlf_np.optim import Adam, AdamConfig
from hlf_np.programs import check, compiler
from hlf_np.programs.training import CLASSIFIERS, ClassifierTraining, TradesTraining, VaeTraining, _runs

# With an epsilon far above the gradients Adam's steps are proportional to them. With the usual one they are about their
# signs, and a gradient of rounding errors alone, as that of a bias before batch norm, would move as far as any other.
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
    reference = AutodiffLearner(readable, SMOOTH)
    batch = sample(compiled, count)
    for step in range(2):
        loss, predictions = program.step(batch.images, batch.images, batch.labels, 0.01)
        expected_loss, expected_predictions = reference.step(batch.images, batch.images, batch.labels, 0.01)
        # A ReLU whose input rounds to the other side of 0 changes its gradient: what follows is a little farther apart.
        np.testing.assert_allclose(loss, expected_loss, rtol=0, atol=1e-5 if step == 0 else 1e-3)
        assert (predictions == expected_predictions).mean() > 0.95
    program.store()
    assert_same_state(compiled.network, readable.network, 1e-4)


TRADES = Trades(beta=2.5)


def perturbed(batch):
    """Images near those of a batch."""
    noise = np.random.default_rng(6).uniform(-0.3, 0.3, batch.images.shape)
    return np.clip(batch.images + noise, 0, 1).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [100, 25, 23, 1])
def test_steps_with_trades(name, count):
    compiled, readable = MODELS[name](), MODELS[name]()
    program, reference = learner(compiled, SMOOTH, TRADES), AutodiffLearner(readable, SMOOTH, TRADES)
    assert type(program) is TradesTraining
    batch = sample(compiled, count)
    for step in range(3 if count > 1 else 1):  # a batch norm of two images alone divides by whatever difference
        loss, predictions = program.step(batch.images, perturbed(batch), batch.labels, 0.01)
        expected = reference.step(batch.images, perturbed(batch), batch.labels, 0.01)
        assert (loss.shape, predictions.shape) == ((count,), (2 * count,))
        np.testing.assert_allclose(loss, expected[0], rtol=0, atol=1e-3 if step == 0 else 5e-3)  # as above
        assert (predictions == expected[1]).mean() > 0.95
    program.store()
    assert_same_state(compiled.network, readable.network, 1e-3)


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet", "vgg"])
def test_gradients_of_trades_are_those_in_double_precision(name):
    """Of 23 pairs in several parts, to all parameters; a pair in which nothing is perturbed is among them."""
    model = sharpened(MODELS[name]())
    network, batch = check._in_double(model.network), sample(model, 23)
    program, images = TradesTraining(model.network, model.image_shape, SMOOTH, 8, TRADES), perturbed(batch)
    images[3] = batch.images[3]
    pairs = np.stack((batch.images, images), axis=1).reshape(46, -1)
    program.gradients(pairs, np.repeat(batch.labels, 2).astype(np.float32)[:, None])
    faces = (Tensor(array.astype(np.float64)) for array in (batch.images, images))
    TRADES(lambda x: network(x, training=True), *faces, batch.labels).mean().backward()
    found = dict(zip([name for name, _ in model.network.named_arrays()], program.gradient(), strict=True))
    lengths = {key: np.linalg.norm(parameter.gradient) for key, parameter in network.named_parameters()}
    for key, parameter in network.named_parameters():
        off = np.linalg.norm(found[key] - parameter.gradient)
        assert off < 2e-3 * max(lengths[key], max(lengths.values()) / 20), key


@pytest.mark.parametrize("layer", [Tanh(), ReLU()])
def test_trades_where_the_network_does_not_compile_is_the_same_by_autodiff(layer):
    random = np.random.default_rng(0)
    network = Sequential(Flatten(), Linear(64, 20, random), BatchNorm(20), layer, Linear(20, 5, random))
    model = Model.of(network, 5, (8, 8, 1))
    readable = copy.deepcopy(model)
    learns, reference = learner(model, SMOOTH, TRADES), AutodiffLearner(readable, SMOOTH, TRADES)
    assert type(learns) is (AutodiffLearner if isinstance(layer, Tanh) else TradesTraining)
    batch = sample(model, 30)
    for _ in range(3):
        found, expected = (x.step(batch.images, perturbed(batch), batch.labels, 0.1) for x in (learns, reference))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
        np.testing.assert_array_equal(found[1], expected[1])
    learns.store()
    assert_same_state(model.network, readable.network, 1e-6)


def test_a_wrong_compiled_trades_is_noticed_before_it_is_used(monkeypatch):
    monkeypatch.setattr(compiler, "_verdicts", {})
    right = TradesTraining._loss
    monkeypatch.setattr(TradesTraining, "_loss", lambda *given: right(*given)._replace(beta=0))
    model = MODELS["small cnn"]()
    with pytest.warns(UserWarning, match="differs from its autodiff"):
        assert type(learner(model, SMOOTH, TRADES)) is AutodiffLearner
    assert type(learner(model, SMOOTH)) is ClassifierTraining


@pytest.mark.parametrize("beta", [0, -1, math.nan, math.inf, "6"])
def test_trades_wants_a_positive_beta(beta):
    with pytest.raises(UserError, match="beta must be a positive number"):
        Trades(beta)


@pytest.mark.parametrize(("batch_size", "expected"), [(25, 0), (100, 8)])
def test_filters_are_transformed_where_the_batch_is_large_enough(batch_size, expected):
    """Two layers of the encoder and two of the decoder, forward and backward."""
    rows = VaeTraining(Vae(VaeConfig(batch_size=batch_size)))._rows
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
    # without moments a step is rate * g / (|g| + epsilon), here of g = 0.5 * 1
    np.testing.assert_allclose(bias.data, 1 - 0.1 * 0.5 / 1.5, rtol=1e-6)


@pytest.mark.parametrize("name", VAES)
def test_steps_of_a_vae(name):
    config = replace(VAES[name], adam=SMOOTH)
    compiled, readable = Vae(config, 1), Vae(config, 1)
    program = VaeTraining(compiled)
    optimiser = Adam([parameter for _, parameter in readable.named_parameters()], SMOOTH)
    random = np.random.default_rng(0)
    weight = Tensor(np.float32(config.reconstruction_weight))
    for count in (25, 7):
        images = random.random((count, *config.image_shape), np.float32)
        noise = random.standard_normal((count, config.latent_dimensions), np.float32)
        errors, divergences = losses(readable, Tensor(images), Tensor(noise))
        (weight * errors + divergences).mean().backward()
        optimiser.step(0.01)
        found = program.step(images, noise, 0.01)
        np.testing.assert_allclose(found[0], errors.data, rtol=1e-5)
        np.testing.assert_allclose(found[1], divergences.data, rtol=1e-5, atol=1e-5)
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


def test_nothing_of_a_larger_batch_is_left_in_a_smaller_one():
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


def test_the_gradients_of_a_larger_batch_are_gone_in_one_of_a_single_part():
    """Of the second half, which then has no part, too."""
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
def test_runs_of_copies_are_the_copies(data):
    size = data.draw(st.integers(0, 90))
    to = np.array(sorted(data.draw(st.sets(st.integers(0, 100), min_size=size, max_size=size))), np.int64)
    step = data.draw(st.integers(-3, 40))
    source = 400 + step * np.arange(size)  # evenly spaced, but for some
    for place in data.draw(st.lists(st.integers(0, max(0, size - 1)), max_size=3 if size else 0)):
        source[place] += 1
    weights = np.arange(5000, dtype=np.float32)
    copied = weights.copy()
    runs = _runs(to, source)
    for block in range(-(-len(runs) // RUNS_PER_BLOCK)):
        copy_block(block, copied, runs)
    expected = weights.copy()
    expected[to] = weights[source]
    np.testing.assert_array_equal(copied, expected)
    assert (runs[:, 3] <= LANES).all()
    if size == 90 and step > 1 and (np.diff(source) == step).all():
        assert len(runs) < size / 2


def test_a_layer_without_a_compiled_form_is_named():
    random = np.random.default_rng(0)
    network = Sequential(Convolution(1, 4, random), Tanh(), Flatten(), Linear(4 * 4 * 4, 3, random))
    with pytest.raises(UserError, match="Tanh is not compiled here"):
        ClassifierTraining(network, (8, 8, 1), AdamConfig())


CODE = """
from dataclasses import replace
import numpy as np
from test_program import MODELS, sample
from hlf_np.manifolds.vae import Vae
from hlf_np.optim import AdamConfig
from hlf_np.programs.training import ClassifierTraining, TradesTraining, VaeTraining
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
learner = VaeTraining(vae)
random = np.random.default_rng(0)
images, noise = random.random((3, *config.image_shape), np.float32), random.standard_normal((3, 16), np.float32)
errors, divergences = learner.step(images, noise, 0.01)
learner.store()
np.savez({out!r}, loss, trades, errors, divergences, *(array for _, array in vae.named_arrays()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn of odd images", "mlp of odd images", "resnet that narrows"])
def test_without_compilation_every_index_is_inside_and_the_result_the_same(name, tmp_path, run_python):
    results = with_and_without_compilation(run_python, tmp_path, lambda out: CODE.format(name=name, out=out))
    compiled, interpreted = results
    assert compiled.keys() == interpreted.keys()
    for key, array in compiled.items():
        np.testing.assert_allclose(array, interpreted[key], rtol=1e-3, atol=1e-4)
