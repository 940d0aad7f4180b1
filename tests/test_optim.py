"""Adam compared with the algorithm in float64, and the decay of the learning rate."""

import numpy as np
import oracles
import pytest

from hlf_np import UserError
from hlf_np.autodiff import Tensor
from hlf_np.optim import Adam, AdamConfig


def steps(config, start, gradients, rates):
    """Return the parameters after one step per row of gradients."""
    parameters = [Tensor(array.copy(), requires_grad=True) for array in start]
    optimizer = Adam(parameters, config)
    for step, rate in enumerate(rates):
        for parameter, rows in zip(parameters, gradients, strict=True):
            parameter.gradient = rows[step]
        optimizer.step(rate)
    return parameters


@pytest.mark.parametrize(
    "config",
    [
        AdamConfig(),
        AdamConfig(betas=(0.9, 0.999), weight_decay=0),
        AdamConfig(betas=(0.0, 0.5), epsilon=0.1, weight_decay=0.3),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_adam_is_the_algorithm(config, dtype, tolerance):
    random = np.random.default_rng(0)
    start = [random.standard_normal(shape).astype(dtype) for shape in [(3, 4), (5,)]]
    gradients = [random.standard_normal((30, *array.shape)).astype(dtype) for array in start]
    rates = 0.01 * 0.95 ** np.arange(30)
    for first, rows, parameter in zip(start, gradients, steps(config, start, gradients, rates), strict=True):
        expected = oracles.adam(first, rows, rates, config.betas, config.epsilon, config.weight_decay)
        np.testing.assert_allclose(parameter.data, expected, rtol=0, atol=tolerance)
        assert parameter.data.dtype == dtype


def test_the_first_step_has_the_size_of_the_learning_rate_whatever_the_gradients():
    gradients = np.array([1e-3, -1.0, 1e3])
    (parameter,) = steps(AdamConfig(weight_decay=0), [np.zeros(3)], [gradients[None]], [0.01])
    np.testing.assert_allclose(parameter.data, [-0.01, 0.01, -0.01], rtol=1e-4)


def test_weight_decay_alone_shrinks_weights():
    start = np.array([2.0, -1.0])
    (parameter,) = steps(AdamConfig(weight_decay=0.1), [start], [np.zeros((5, 2))], [0.01] * 5)
    assert (np.abs(parameter.data) < np.abs(start)).all()


@pytest.mark.parametrize(
    "arrange",
    [
        lambda a: np.ascontiguousarray(a.T).T,
        lambda a: np.flip(np.flip(a).copy()),
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    ],
    ids=["transposed", "backwards", "every second", "read-only"],
)
def test_the_layout_of_parameters_and_gradients_makes_no_difference(arrange):
    random = np.random.default_rng(0)
    start, gradients = random.standard_normal((3, 4)), random.standard_normal((5, 3, 4))
    results = []
    for laid_out in (np.copy, arrange):
        parameter = Tensor(laid_out(start), requires_grad=True)
        optimizer = Adam([parameter])
        for gradient in gradients:
            parameter.gradient = laid_out(gradient)
            optimizer.step(0.1)
        results.append(parameter.data)
    np.testing.assert_array_equal(*results)


def test_a_view_is_updated_in_place():
    whole = np.zeros((3, 4))
    parameter = Tensor(whole[:, 1::2], requires_grad=True)
    optimizer = Adam([parameter])
    parameter.gradient = np.ones((3, 2))
    optimizer.step(0.1)
    assert (whole[:, 1::2] < 0).all()
    assert not whole[:, ::2].any()


def test_parameters_must_keep_their_shape_and_have_gradients_of_it():
    weight = Tensor(np.ones(4, np.float32), requires_grad=True)
    adam = Adam([weight])
    for gradient, values in ((1, 4), (6, 6)):
        weight.data, weight.gradient = np.ones(values, np.float32), np.ones(gradient, np.float32)
        with pytest.raises(UserError, match=r"a parameter .* shapes and types must stay the same"):
            adam.step(0.1)


def test_a_step_is_in_place_clears_gradients_and_skips_parameters_without_one():
    used, unused = (Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    array = used.data
    optimizer = Adam([used, unused])
    used.gradient = given = np.ones(2)
    optimizer.step(0.1)
    assert used.data is array
    assert (array < 1).all()
    assert used.gradient is None
    np.testing.assert_array_equal(given, 1)
    np.testing.assert_array_equal(unused.data, 1)


def test_the_learning_rate_decays_by_epoch():
    config = AdamConfig(learning_rate=0.01, decay=0.5)
    assert [config.rate(epoch) for epoch in range(4)] == [0.01, 0.005, 0.0025, 0.00125]


def test_the_defaults_are_the_papers():
    config = AdamConfig()
    assert (config.learning_rate, config.betas, config.weight_decay, config.decay) == (0.01, (0.5, 0.9), 1e-4, 0.95)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("betas", 0.9, "`betas` must be two numbers"),
        ("betas", (0.9,), "`betas` must be two numbers"),
        ("betas", (0.9, 0.99999), "each of `betas` must be a number from 0 to 0.9999, not 0.99999"),
        ("betas", (None, 0.9), "each of `betas` must be a number from 0 to 0.9999, not None"),
        ("weight_decay", -1, "weight_decay must be a number of at least 0, not -1"),
        ("weight_decay", "a", "weight_decay must be a number of at least 0, not 'a'"),
        ("weight_decay", np.inf, "weight_decay must be a number of at least 0, not inf"),
    ],
)
def test_impossible_settings_are_refused(name, value, message):
    with pytest.raises(UserError, match=message):
        AdamConfig(**{name: value})
