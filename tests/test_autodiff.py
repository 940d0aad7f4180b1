"""Gradients compared with numerical derivatives; the gradient checker; the graph."""

import inspect

import numpy as np
import oracles
import pytest

from hlf_np import autodiff, operations
from hlf_np.autodiff import Tensor, add, check_grads, multiply

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.standard_normal(shape)


def off_zero(*shape):
    """Draw values at least 0.1 away from 0, where ReLU is not differentiable."""
    x = normal(*shape)
    return x + 0.1 * np.sign(x)


def affine(count):
    """Draw affine parameters for which no output pixel samples exactly an input pixel, where slopes jump."""
    return np.array(operations.IDENTITY) + RANDOM.uniform(-0.2, 0.2, (count, 6))


LABELS = np.array([0, 2, 1, 2])
MEAN, VARIANCE = normal(3), RANDOM.random(3) + 0.5

# (operation, case, function of tensors, arrays)
GRADIENTS = [
    ("add", "same shape", add, [normal(3, 4), normal(3, 4)]),
    ("add", "broadcast row", add, [normal(3, 4), normal(4)]),
    ("add", "broadcast column", add, [normal(1, 4), normal(3, 4)]),
    ("add", "broadcast both", add, [normal(3, 1, 2), normal(4, 1)]),
    ("add", "operator", lambda a, b: a + b, [normal(2, 3), normal(2, 3)]),
    ("multiply", "same shape", multiply, [normal(3, 4), normal(3, 4)]),
    ("multiply", "broadcast both", multiply, [normal(3, 1, 2), normal(4, 1)]),
    ("multiply", "operator, square", lambda a: a * a, [normal(2, 3)]),
    ("multiply", "negative", lambda a: -a, [normal(2, 3)]),
    ("add", "difference", lambda a, b: a - b, [normal(3, 1), normal(4)]),
    ("divide", "operator", lambda a, b: a / b, [normal(3, 4), off_zero(3, 4)]),
    ("divide", "broadcast both", autodiff.divide, [normal(3, 1, 2), off_zero(4, 1)]),
    ("divide", "number", lambda a: a / 3 + 2 / a, [off_zero(4)]),
    ("power", "square", lambda a: a**2, [normal(2, 3)]),
    ("power", "fraction", lambda a: autodiff.power(a, -1.5), [normal(4) ** 2 + 0.1]),
    ("power", "zero", lambda a: a**0, [normal(4)]),
    ("reduce_sum", "", autodiff.reduce_sum, [normal(2, 3)]),
    ("reduce_sum", "axis", lambda a: autodiff.reduce_sum(a, 1), [normal(2, 3, 4)]),
    ("reduce_sum", "last axis, method", lambda a: a.sum(axis=-1), [normal(2, 3)]),
    ("reduce_sum", "mean, axis, method", lambda a: a.mean(axis=0), [normal(2, 3)]),
    ("relu", "", operations.relu, [off_zero(4, 5)]),
    ("leaky_relu", "", lambda x: operations.leaky_relu(x, 0.2), [off_zero(4, 5)]),
    ("sigmoid", "", operations.sigmoid, [normal(4, 5)]),
    ("tanh", "", operations.tanh, [normal(4, 5)]),
    ("exponential", "", operations.exponential, [normal(4, 5)]),
    ("reshape", "", lambda x: operations.reshape(x, (4, -1)), [normal(2, 6)]),
    ("flatten", "", operations.flatten, [normal(2, 3, 4, 5)]),
    ("unflatten", "", lambda x: operations.unflatten(x, 3, 4), [normal(2, 24)]),
    ("columns", "", lambda x: operations.columns(x, 1, 3), [normal(4, 5)]),
    ("take", "", lambda x: operations.take(x, np.array([3, 0, 2])), [normal(4, 2, 3)]),
    ("take", "repeated", lambda x: operations.take(x, np.array([3, 0, 3])), [normal(4, 2, 3)]),
    ("clip", "", lambda x: operations.clip(x, -0.5, 0.5), [normal(4, 5)]),
    ("concatenate", "", lambda *parts: operations.concatenate(parts), [normal(2, 3), normal(1, 3), normal(4, 3)]),
    ("reduce_sum", "mean, method", lambda a: a.mean(), [normal(3, 4)]),
    ("linear", "", operations.linear, [normal(5, 7), normal(18, 7), normal(18)]),
    ("max_pool", "", operations.max_pool, [normal(2, 5, 6, 3)]),
    ("max_pool", "overlapping", lambda x: operations.max_pool(x, 3, 2), [normal(2, 7, 8, 3)]),
    ("average_pool", "", operations.average_pool, [normal(2, 5, 6, 3)]),
    ("average_pool", "overlapping", lambda x: operations.average_pool(x, 3, 1), [normal(2, 5, 6, 3)]),
    ("cross_entropy", "", lambda x: operations.cross_entropy(x, LABELS), [normal(4, 3)]),
    ("kl_divergence", "", operations.kl_divergence, [normal(4, 3), normal(4, 3)]),
    ("kl_divergence", "to itself", lambda p, q: operations.kl_divergence(p, p + q), [normal(4, 3), normal(4, 3)]),
    ("absolute_error", "", lambda d, x: operations.absolute_error(d + x, x), [off_zero(4, 3, 2), normal(4, 3, 2)]),
    (
        "absolute_error",
        "target",
        lambda d, x: operations.absolute_error(x, d + x),
        [off_zero(4, 5), normal(4, 5)],
    ),
    ("gaussian_divergence", "", operations.gaussian_divergence, [normal(4, 3), normal(4, 3)]),
    ("affine_matrix", "", operations.affine_matrix, [affine(4)]),
    ("warp", "", operations.warp, [normal(3, 6, 5, 2), affine(3)]),
    (
        "batch_norm",
        "images",
        lambda x, w, b: operations.batch_norm(x, w, b)[0],
        [normal(3, 4, 5, 2), normal(2), normal(2)],
    ),
    (
        "batch_norm",
        "rows",
        lambda x, w, b: operations.batch_norm(x, w, b)[0],
        [normal(6, 3), normal(3), normal(3)],
    ),
    (
        "normalize",
        "",
        lambda x, w, b: operations.normalize(x, w, b, MEAN, VARIANCE),
        [normal(2, 4, 5, 3), normal(3), normal(3)],
    ),
    *(
        (
            "convolution",
            f"{channels} to {out_channels}, stride {stride}",
            lambda x, w, b, s=stride: operations.convolution(x, w, b, s, 1),
            [normal(2, 6, 7, channels), normal(out_channels, channels, 3, 4), normal(out_channels)],
        )
        for channels, out_channels, stride in [(1, 3, 1), (3, 17, 2), (16, 2, 1), (17, 5, 2), (16, 3, 5)]
    ),
    (
        "convolution",
        "no bias",
        lambda x, w: operations.convolution(x, w, None),
        [normal(2, 4, 4, 2), normal(3, 2, 2, 2)],
    ),
    *(
        (
            "transposed_convolution",
            f"{channels} to {out_channels}, stride {stride}",
            lambda x, w, b, s=stride: operations.transposed_convolution(x, w, b, s, 1, s - 1),
            [normal(2, 3, 4, channels), normal(channels, out_channels, 4, 3), normal(out_channels)],
        )
        for channels, out_channels, stride in [(3, 1, 1), (2, 17, 2), (16, 4, 3)]
    ),
]


@pytest.mark.parametrize(
    ("function", "arrays"),
    [pytest.param(f, arrays, id=f"{name} {case}".strip()) for name, case, f, arrays in GRADIENTS],
)
def test_gradient_is_the_numerical_derivative(function, arrays):
    check_grads(function, *arrays)


LAYOUTS = {
    "columns first": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.swapaxes(0, -1)).swapaxes(0, -1),
    "backwards": lambda a: np.flip(np.flip(a).copy()),
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "not aligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "another byte order": lambda a: a.astype(a.dtype.newbyteorder()),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    ("function", "arrays"),
    [pytest.param(f, arrays, id=f"{name} {case}".strip()) for name, case, f, arrays in GRADIENTS],
)
def test_the_layout_in_memory_makes_no_difference(function, arrays, layout):
    """Up to rounding, as NumPy sums in the order of the memory layout."""
    results = []
    for arrange in (np.copy, layout):
        leaves = [Tensor(arrange(array), requires_grad=True) for array in arrays]
        output = function(*leaves)
        gradient = np.cos(np.arange(output.data.size, dtype=float)).reshape(output.shape)
        output.backward(arrange(gradient) if gradient.ndim else gradient)
        results.append([output.data, *(leaf.gradient for leaf in leaves)])
    for actual, expected in zip(*reversed(results), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


def test_the_table_holds_every_operation():
    def public(module):
        return {
            name
            for name, f in inspect.getmembers(module, inspect.isfunction)
            if f.__module__.startswith(module.__name__) and not name.startswith("_")
        }

    assert public(operations) | public(autodiff) - {"check_grads"} == {name for name, *_ in GRADIENTS}


# --- the checker --------------------------------------------------------------------------------------------


def cube(wrong):
    """Return x^3 as an operation whose gradient is changed by `wrong`."""
    return lambda x: Tensor.result(x.data**3, (x,), lambda g: (wrong(3 * g * x.data**2),))


def without_first(gradient):
    gradient[0, 0] = 0
    return gradient


def test_checker_accepts_the_right_gradient():
    check_grads(cube(lambda g: g), normal(3, 4))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda g: 1.0001 * g, id="slightly too large"),
        pytest.param(lambda g: -g, id="sign"),
        pytest.param(lambda g: None, id="missing"),
        pytest.param(lambda g: g.T.reshape(g.shape), id="permuted"),
        pytest.param(without_first, id="one entry"),
        pytest.param(lambda g: g * np.nan, id="NaN"),
    ],
)
def test_checker_refuses_a_wrong_gradient(wrong):
    with pytest.raises(AssertionError, match="numerical derivative"):
        check_grads(cube(wrong), off_zero(3, 4))


def test_checker_looks_at_every_argument():
    def product(a, b):
        return Tensor.result(a.data * b.data, (a, b), lambda g: (g * b.data, g * b.data))

    with pytest.raises(AssertionError, match="numerical derivative"):
        check_grads(product, normal(3), normal(3))


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_checker_refuses_types_other_than_float64(dtype):
    with pytest.raises(ValueError, match="float64"):
        check_grads(operations.tanh, np.ones(3, dtype))


# --- the graph ----------------------------------------------------------------------------------------------


def test_a_value_used_twice_collects_both_gradients():
    x = Tensor(np.array([2.0, -3.0]), requires_grad=True)
    y = x * x  # a diamond: x enters twice, y too
    (y * y + y).backward()  # x^4 + x^2
    np.testing.assert_allclose(x.gradient, 4 * x.data**3 + 2 * x.data)


def test_a_node_is_visited_once_however_many_paths_lead_to_it():
    x = Tensor(np.array(1.0), requires_grad=True)
    y, visits = x, []

    def counted(node):
        def backward(gradient):
            visits.append(1)
            return (gradient,)

        return Tensor.result(node.data, (node,), backward)

    for _ in range(30):  # 2^30 paths
        y = counted(y)
        y = y + y
    y.backward()
    assert len(visits) == 30
    assert x.gradient == 2.0**30


def test_two_backward_calls_add_up():
    x = Tensor(normal(3), requires_grad=True)
    y = operations.tanh(x)
    y.backward()
    once = x.gradient.copy()
    y.backward()
    np.testing.assert_allclose(x.gradient, 2 * once)


def test_backward_starts_from_the_given_gradient_and_does_not_change_it():
    x = Tensor(normal(2, 3), requires_grad=True)
    y, given = x * x + x, normal(2, 3)
    before = given.copy()
    y.backward(given)
    y.backward(given)
    np.testing.assert_allclose(x.gradient, 2 * before * (2 * x.data + 1))
    np.testing.assert_array_equal(given, before)


def test_constants_get_no_gradient_and_record_nothing():
    constant, x = Tensor(np.ones(2)), Tensor(np.ones(2), requires_grad=True)
    (constant * x + x.detach()).backward()
    assert constant.gradient is None
    np.testing.assert_array_equal(x.gradient, [1, 1])
    assert not (constant * x.detach()).requires_grad


def test_gradients_keep_the_shape_and_type_of_the_data():
    for name, _, function, arrays in GRADIENTS:
        leaves = [Tensor(array.astype(np.float32), requires_grad=True) for array in arrays]
        if name == "normalize":  # with statistics of the same type
            function = lambda x, w, b: operations.normalize(  # noqa: E731
                x, w, b, MEAN.astype(np.float32), VARIANCE.astype(np.float32)
            )
        output = function(*leaves)
        output.backward()
        assert output.data.dtype == np.float32, name
        for leaf in leaves:
            assert (leaf.gradient.shape, leaf.gradient.dtype) == (leaf.shape, np.float32), name


def test_a_chain_of_5000_operations_is_not_too_deep():
    x = Tensor(np.array([1.0]), requires_grad=True)
    y, one = x, Tensor(np.array([1.0]))
    for _ in range(5000):
        y = y + one
    y.backward()
    np.testing.assert_array_equal(x.gradient, [1])


@pytest.mark.parametrize("data", [[1, 2], np.ones(2, bool), np.ones(2, np.float16), np.ones(2, np.longdouble), "text"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_tensor_of_another_type_is_refused(data, requires_grad):
    with pytest.raises(TypeError, match=r"float32 or float64, not .*: use numpy.asarray\(data, numpy.float32\)$"):
        Tensor(data, requires_grad)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("tensor first", lambda x, other: (x + other, x - other, x * other, x / other)),
        ("tensor last", lambda x, other: (other + x, other - x, other * x, other / x)),
    ],
)
@pytest.mark.parametrize(
    "other", [2, 0.3, np.float64(0.3), np.int64(3), np.array(0.3), np.array([2, 3]), np.array([True, True])], ids=repr
)
def test_operators_take_numbers_and_keep_the_type(name, function, other):
    x = np.array([0.7, -1.9], np.float32)
    for actual, expected in zip(function(Tensor(x), other), function(x, np.float32(other)), strict=True):
        assert actual.data.dtype == np.float32
        np.testing.assert_array_equal(actual.data, expected)


def test_an_array_and_a_tensor_make_one_tensor():
    array, x = normal(3, 1), Tensor(normal(2), requires_grad=True)
    for result, expected in ((array * x, array * x.data), (array - x, array - x.data), (array / x, array / x.data)):
        assert isinstance(result, Tensor)
        np.testing.assert_array_equal(result.data, expected)
    with pytest.raises(TypeError):
        np.exp(x)
    with pytest.raises(TypeError, match="exponent"):
        x**x


def test_gradients_share_no_memory():
    x, y = (Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    given = np.ones(2)
    (x + y).backward(given)
    x.gradient *= 5
    np.testing.assert_array_equal(y.gradient, 1)
    np.testing.assert_array_equal(given, 1)


def test_backward_needs_something_to_differentiate():
    with pytest.raises(ValueError, match="requires a gradient"):
        (Tensor(np.ones(2)) * Tensor(np.ones(2))).backward()


def test_backward_refuses_a_gradient_of_another_shape():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        Tensor(np.ones(2), requires_grad=True).backward(np.ones(3))


def test_equal_entries_in_a_window_pass_the_gradient_to_the_first_only():
    x = Tensor(np.ones((1, 2, 2, 1)), requires_grad=True)
    operations.max_pool(x).backward()
    np.testing.assert_array_equal(x.gradient.ravel(), [1, 0, 0, 0])


@pytest.mark.parametrize("function", [operations.sigmoid, operations.tanh])
def test_saturated_activations_stay_finite(function):
    x = Tensor(np.array([-1000.0, 1000.0]), requires_grad=True)
    y = function(x)
    y.backward()
    assert np.isfinite(y.data).all()
    np.testing.assert_allclose(x.gradient, 0, atol=1e-12)


def test_cross_entropy_of_huge_logits_stays_finite():
    x = Tensor(np.array([[1e4, 0.0], [0.0, 1e4]], np.float32), requires_grad=True)
    loss = operations.cross_entropy(x, np.array([0, 0]))
    loss.backward()
    np.testing.assert_allclose(loss.data, [0, 1e4])
    np.testing.assert_allclose(x.gradient, [[0, 0], [-1, 1]], atol=1e-12)


def test_the_divergence_is_that_of_the_probabilities():
    p, q = normal(6, 5), normal(6, 5)
    actual = operations.kl_divergence(Tensor(p), Tensor(q)).data
    np.testing.assert_allclose(actual, oracles.kl_divergence(p, q), rtol=1e-12)
    np.testing.assert_allclose(operations.kl_divergence(Tensor(p), Tensor(p + 3)).data, 0, atol=1e-15)


def test_the_divergence_of_huge_logits_stays_finite():
    p, q = (Tensor(np.array(x, np.float32), requires_grad=True) for x in ([[1e4, 0.0]] * 2, [[0.0, 1e4], [1e4, 0.0]]))
    divergence = operations.kl_divergence(p, q)
    divergence.backward()
    np.testing.assert_allclose(divergence.data, [1e4, 0])
    np.testing.assert_allclose(q.gradient, [[-1, 1], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(p.gradient, 0, atol=1e-12)


# --- arguments that do not fit ------------------------------------------------------------------------------

SETUP = """
import numpy as np
from hlf_np import operations
from hlf_np.autodiff import Tensor, add
from hlf_np.operations import convolution, linear, transposed_convolution

def ones(*shape, dtype=np.float32):
    return Tensor(np.ones(shape, dtype))

try:
    {call}
except (TypeError, ValueError):
    print("refused")
"""


@pytest.mark.parametrize(
    "call",
    [
        "add(ones(2, 3), ones(2))",
        "convolution(ones(2, 5, 5, 3), ones(4, 2, 3, 3), None)",  # channels
        "convolution(ones(2, 5, 5, 3), ones(4, 3, 3, 3), ones(3))",  # bias
        "convolution(ones(2, 2, 2, 3), ones(4, 3, 3, 3), None)",  # kernel larger than the image
        "convolution(ones(2, 5, 5, 3), ones(4, 3, 3, 3, dtype=np.float64), None)",  # types
        "convolution(ones(2, 5, 5, 3, dtype=np.int64), ones(4, 3, 3, 3), None)",
        "linear(ones(2, 5), ones(4, 6), ones(4))",
        "operations.warp(ones(2, 5, 5, 3), ones(2, 6, dtype=np.float64))",  # types
        "transposed_convolution(ones(2, 5, 5, 3), ones(2, 4, 3, 3), None)",  # channels
        "transposed_convolution(ones(2, 5, 5, 3), ones(3, 4, 3, 3), None, 2, 1, 2)",  # output padding
    ],
)
def test_operations_refuse_arguments_that_do_not_fit(call, run_python):
    """In a separate process, as a kernel that runs on such shapes would access memory outside of its arrays."""
    assert run_python(SETUP.format(call=call)).strip() == "refused"
