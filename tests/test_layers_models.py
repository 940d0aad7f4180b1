"""Layers and classifiers: initialization, modes, weights in dictionaries and files, and errors."""

import math

import numpy as np
import oracles
import pytest

from hlf_np import UserError, layers, models, operations
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.training import train

BUILDERS = {
    "cnn": lambda seed=0: models.cnn(seed=seed, widths=(4, 8), hidden_units=6, image_shape=(12, 12, 1)),
    "mlp": lambda seed=0: models.mlp(seed=seed, widths=(7, 5), image_shape=(12, 12, 1)),
    "resnet": lambda seed=0: models.resnet(seed=seed, widths=(4, 8), blocks=(1, 2), image_shape=(12, 12, 1)),
    "vgg": lambda seed=0: models.vgg(seed=seed, widths=(4, 8), image_shape=(12, 12, 1)),
}
every_kind = pytest.mark.parametrize("kind", BUILDERS)


def images(count, shape=(12, 12, 1), seed=0):
    return np.random.default_rng(seed).random((count, *shape), np.float32)


def settled(kind):
    """Return a model whose running statistics have changed since initialization."""
    model = BUILDERS[kind]()
    model.forward(Tensor(images(20, seed=1)), training=True)
    return model


def assert_same_arrays(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


# --- operations and layers ------------------------------------------------------------------------------------


def test_pooling_and_transposed_convolution_against_their_definitions():
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 7, 9, 4))
    for kernel, stride in [(2, 2), (3, 2), (2, 1), (3, 5)]:
        for pool in ("max_pool", "average_pool"):
            expected = getattr(oracles, pool)(x, kernel, stride)
            actual = getattr(operations, pool)(Tensor(x), kernel, stride).data
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-14)
    for out_channels, stride, padding, output_padding in [(3, 1, 0, 0), (17, 2, 1, 1), (16, 3, 2, 2)]:
        weight, bias = random.standard_normal((4, out_channels, 4, 3)), random.standard_normal(out_channels)
        settings = stride, padding, output_padding
        actual = operations.transposed_convolution(Tensor(x), Tensor(weight), Tensor(bias), *settings).data
        expected = oracles.transposed_convolution(x, weight, bias, *settings)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_cross_entropy_and_affine_matrix_against_their_definitions():
    random = np.random.default_rng(0)
    logits, labels = 3 * random.standard_normal((20, 5)), random.integers(0, 5, 20)
    actual = operations.cross_entropy(Tensor(logits), labels).data
    np.testing.assert_allclose(actual, oracles.cross_entropy(logits, labels), rtol=1e-12)
    parameters = random.standard_normal((20, 6))
    matrices = operations.affine_matrix(Tensor(parameters)).data
    np.testing.assert_allclose(matrices, oracles.affine_matrix(parameters), rtol=0, atol=1e-14)


def test_the_losses_of_autoencoders_against_their_definitions():
    random = np.random.default_rng(0)
    x, target = random.standard_normal((2, 5, 4, 3, 2))
    actual = operations.absolute_error(Tensor(x), Tensor(target)).data
    np.testing.assert_allclose(actual, oracles.absolute_error(x, target), rtol=1e-13)
    mean, log_variance = 2 * random.standard_normal((2, 6, 3))
    actual = operations.gaussian_divergence(Tensor(mean), Tensor(log_variance)).data
    np.testing.assert_allclose(actual, oracles.gaussian_divergence(mean, log_variance), rtol=1e-10)
    zeros = Tensor(np.zeros((2, 3)))
    np.testing.assert_array_equal(operations.gaussian_divergence(zeros, zeros).data, [0, 0])


class Twice(layers.Layer):
    """A layer that has others as attributes."""

    def __init__(self, random):
        super().__init__()
        self.first, self.rest = layers.Linear(6, 6, random), [layers.ReLU(), layers.Linear(6, 3, random)]

    def __call__(self, x, training=False):
        x = self.first(x, training)
        for layer in self.rest:
            x = layer(x, training)
        return x


def test_layers_inside_a_layer_of_ones_own_are_found_and_trained():
    random = np.random.default_rng(0)
    model = models.Model(layers.Sequential(layers.Flatten(), Twice(random)), 3, (2, 3, 1))
    before = model.state_dict()
    assert list(before) == ["1.first.weight", "1.first.bias", "1.rest.1.weight", "1.rest.1.bias"]
    train(model, Split(random.random((9, 2, 3, 1), np.float32), np.arange(9) % 3), epochs=2, batch_size=3)
    assert all((array != before[name]).any() for name, array in model.state_dict().items())


def test_rows_and_columns_are_selected():
    x = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(operations.columns(Tensor(x), 1, 3).data, [[1, 2], [4, 5], [7, 8], [10, 11]])
    np.testing.assert_array_equal(operations.take(Tensor(x), np.array([2, 0])).data, [[6, 7, 8], [0, 1, 2]])
    parts = [Tensor(x[:1]), Tensor(x[1:])]
    np.testing.assert_array_equal(operations.concatenate(parts).data, x)


def test_flatten_goes_channel_after_channel_and_back():
    x = np.arange(24.0).reshape(1, 2, 3, 4)
    flat = operations.flatten(Tensor(x))
    np.testing.assert_array_equal(flat.data[0, :6], x[0, :, :, 0].ravel())
    np.testing.assert_array_equal(operations.unflatten(flat, 2, 3).data, x)
    np.testing.assert_array_equal(layers.Unflatten(2, 3)(layers.Flatten()(Tensor(x))).data, x)


def test_activations_against_their_definitions():
    x = np.array([-2.0, -0.5, 0.0, 0.5, 2.0])
    for layer, expected in [
        (layers.ReLU(), [0, 0, 0, 0.5, 2]),
        (layers.LeakyReLU(), [-0.02, -0.005, 0, 0.5, 2]),
        (layers.LeakyReLU(0.25), [-0.5, -0.125, 0, 0.5, 2]),
        (layers.Sigmoid(), 1 / (1 + np.exp(-x))),
        (layers.Tanh(), (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1)),
    ]:
        np.testing.assert_allclose(layer(Tensor(x)).data, expected, rtol=1e-13, err_msg=type(layer).__name__)


def test_batch_norm_normalises_by_the_batch_in_training_and_by_running_statistics_in_evaluation():
    layer = layers.BatchNorm(3)
    layer.parameters["weight"].data[:] = 2, 3, 4
    layer.parameters["bias"].data[:] = 1, 0, -1
    x = (5 + 2 * np.random.default_rng(0).standard_normal((6, 4, 5, 3))).astype(np.float32)
    expected, mean, variance = oracles.batch_norm(x, [2, 3, 4], [1, 0, -1], 1e-5)

    fresh = layer(Tensor(x)).data  # initial statistics: mean 0, variance 1
    np.testing.assert_allclose(fresh, x * [2, 3, 4] + [1, 0, -1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer(Tensor(x), training=True).data, expected, rtol=1e-5, atol=1e-5)

    count = 6 * 4 * 5
    running_mean, running_var = 0.1 * mean, 0.9 + 0.1 * variance * count / (count - 1)
    np.testing.assert_allclose(layer.buffers["running_mean"], running_mean, rtol=1e-5)
    np.testing.assert_allclose(layer.buffers["running_var"], running_var, rtol=1e-5)
    evaluated = (x - running_mean) / np.sqrt(running_var + 1e-5) * [2, 3, 4] + [1, 0, -1]
    np.testing.assert_allclose(layer(Tensor(x)).data, evaluated, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1, 3), (0, 3)])
def test_a_single_value_of_each_channel_is_refused_in_training(shape):
    layer = layers.BatchNorm(3)
    with pytest.raises(UserError, match="at least 2 values of each channel"):
        layer(Tensor(np.ones(shape, np.float32)), training=True)
    assert not layer.buffers["running_mean"].any()
    assert layer(Tensor(np.ones(shape, np.float32))).shape == shape


def test_one_image_of_two_pixels_is_enough_for_batch_norm():
    pixels = Tensor(np.array([1, 3], np.float32).reshape(1, 1, 2, 1))
    np.testing.assert_allclose(layers.BatchNorm(1)(pixels, training=True).data.ravel(), [-1, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("build", "fan_in"),
    [
        (lambda random: layers.Linear(300, 200, random), 300),
        (lambda random: layers.Convolution(20, 100, random), 20 * 16),
        (lambda random: layers.Convolution(20, 200, random, kernel=3, bias=False), 20 * 9),
        (lambda random: layers.TransposedConvolution(64, 50, random), 64 * 16 // 4),
    ],
)
def test_weights_start_normal_with_the_protocols_deviation_and_biases_at_zero(build, fan_in):
    layer = build(np.random.default_rng(0))
    weight = layer.parameters["weight"].data.astype(np.float64).ravel() / math.sqrt(2 / (3 * fan_in))
    # within five standard errors of the mean, standard deviation and fourth moment of n standard normal values
    for value, expected, deviation in [
        (weight.mean(), 0, 1),
        (weight.std(), 1, math.sqrt(1 / 2)),
        ((weight**4).mean(), 3, math.sqrt(96)),
    ]:
        assert abs(value - expected) < 5 * deviation / math.sqrt(weight.size)
    if "bias" in layer.parameters:
        assert not layer.parameters["bias"].data.any()


# --- the classifiers ------------------------------------------------------------------------------------------


def test_the_papers_cnn_has_the_papers_shapes():
    state = models.cnn(classes=10).state_dict()
    shapes = {name: array.shape for name, array in state.items() if array.ndim > 1}
    assert shapes == {
        "0.weight": (16, 1, 4, 4),
        "3.weight": (32, 16, 4, 4),
        "6.weight": (64, 32, 4, 4),
        "10.weight": (100, 576),
        "11.weight": (10, 100),
    }
    weights = sum(math.prod(shape) for shape in shapes.values())
    biases_and_norms = 3 * (16 + 32 + 64) + 100 + 10  # a bias, and batch norm's weight and bias, per channel
    assert sum(p.data.size for p in models.cnn().parameters()) == weights + biases_and_norms
    assert all(array.dtype == np.float32 for array in state.values())


def test_resnet_13_has_13_convolutions_besides_its_shortcuts():
    names = [name for name, p in models.resnet().network.named_parameters() if p.data.ndim == 4]
    assert len([name for name in names if "shortcut" not in name]) == 13


@every_kind
def test_the_seed_decides_the_weights(kind):
    state = BUILDERS[kind](0).state_dict()
    assert_same_arrays(state, BUILDERS[kind](0).state_dict())
    other = BUILDERS[kind](1).state_dict()
    assert any((state[name] != other[name]).any() for name in state)


@every_kind
def test_evaluation_changes_nothing_and_gives_parameters_no_gradient(kind):
    model = settled(kind)
    before = model.state_dict()
    x = Tensor(images(5), requires_grad=True)
    model.forward(x).backward()
    assert x.gradient.any()
    assert all(parameter.gradient is None for parameter in model.parameters())
    assert_same_arrays(model.state_dict(), before)


@every_kind
def test_training_mode_gives_every_parameter_a_gradient_and_moves_the_running_statistics(kind):
    model = BUILDERS[kind]()
    before = model.state_dict()
    model.forward(Tensor(images(5)), training=True).backward()
    assert all(p.gradient is not None and p.gradient.shape == p.shape for p in model.parameters())
    for name, array in model.state_dict().items():
        assert (array != before[name]).any() == ("running" in name), name


@every_kind
def test_an_image_has_the_same_logits_in_any_batch(kind):
    model, x = settled(kind), images(130)
    logits = model.logits(x)
    for rows in ([7], [129, 0, 3], list(range(50, 130))):
        np.testing.assert_array_equal(model.logits(x[rows]), logits[rows])
    np.testing.assert_array_equal(model.predict(x), logits.argmax(axis=1))
    assert logits.dtype == np.float32
    assert model.predict(x).dtype == np.int64


def test_logits_of_an_empty_batch():
    assert BUILDERS["cnn"]().logits(images(0)).shape == (0, 10)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (images(2).tolist(), "NumPy array"),
        (images(2)[0], "shape"),
        (images(2, (12, 11, 1)), "shape"),
        (images(2, (12, 12, 3)), "shape"),
        ((images(2) * 255).astype(np.uint8), "float32"),
        (images(2) + np.float32(0.5), "outside"),
        (images(2) - np.float32(0.5), "outside"),
        (np.full((2, 12, 12, 1), np.nan, np.float32), "NaN"),
        (np.full((2, 12, 12, 1), np.inf, np.float32), "infinite"),
    ],
)
def test_bad_images_are_refused(bad, message):
    with pytest.raises(UserError, match=message):
        BUILDERS["cnn"]().logits(bad)


@pytest.mark.parametrize(
    "build",
    [
        lambda: models.cnn(classes=0),
        lambda: models.cnn(classes=2.5),
        lambda: models.cnn(widths=()),
        lambda: models.cnn(widths=(4, 0)),
        lambda: models.cnn(image_shape=(7, 28, 1)),
        lambda: models.vgg(image_shape=(3, 15, 1)),
        lambda: models.resnet(widths=(4, 8), blocks=(1,)),
        lambda: layers.MaxPool(2, 0),
        lambda: layers.Convolution(1, 0, np.random.default_rng(0)),
        lambda: layers.TransposedConvolution(1, 2, np.random.default_rng(0), kernel=0),
        lambda: layers.Linear(2.5, 3, np.random.default_rng(0)),
        lambda: layers.BatchNorm(0),
        lambda: layers.BatchNorm(3, epsilon=-1),
        lambda: layers.Sequential([layers.ReLU()]),
    ],
)
def test_impossible_architectures_are_refused(build):
    with pytest.raises(UserError):
        build()


# --- weights as dictionaries and files ------------------------------------------------------------------------


@every_kind
def test_weights_move_to_another_model(kind):
    model, other = settled(kind), BUILDERS[kind](seed=5)
    other.load_state_dict(model.state_dict() | {"1.num_batches_tracked": np.array(3)})
    assert_same_arrays(other.state_dict(), model.state_dict())
    np.testing.assert_array_equal(other.logits(images(3)), model.logits(images(3)))


def test_a_state_is_a_copy():
    model = BUILDERS["cnn"]()
    before = model.state_dict()
    for array in model.state_dict().values():
        array += 1
    assert_same_arrays(model.state_dict(), before)


def prefixed(prefix, state):
    """Add a prefix to the names of weights, as PyTorch's wrappers do."""
    return {prefix + name: array for name, array in state.items()} | {f"{prefix}1.num_batches_tracked": np.array(3)}


LAST = "8.bias"  # the last entry: weights must be checked before any of them is replaced


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: a for k, a in s.items() if k != LAST}, "lack '8.bias'"),
        (lambda s: s | {"9.weight": np.ones(3, np.float32)}, "unknown entry '9.weight'"),
        (lambda s: s | {LAST: np.ones(11, np.float32)}, "shape"),
        (lambda s: s | {LAST: np.full(10, np.nan, np.float32)}, "finite"),
        (lambda s: s | {LAST: np.ones(10, np.int64)}, "floating-point"),
        (
            lambda s: prefixed("module.", s),
            r"names that all begin with 'module\.': remove the prefix, .*removeprefix\('module\.'\)",
        ),
        (lambda s: prefixed("_orig_mod.module.", s), r"all begin with '_orig_mod\.module\.'"),
        (lambda s: prefixed("module.", s) | {"9.weight": np.ones(3)}, "belong to another architecture than this cnn"),
        (
            lambda s: {k: a for k, a in s.items() if "running" not in k},
            "lack '1.running_mean': include",
        ),
        (lambda s: {"epoch": 3, "model": s}, "entry 'model' of these weights is itself a dictionary"),
        (lambda s: s | {LAST: [[1, 2], [3]]}, "'8.bias' is not an array but list"),
        (lambda s: list(s.values()), "dictionary from names to arrays, not list"),
        (lambda s: dict(enumerate(s.values())), "dictionary from names to arrays"),
    ],
)
def test_bad_weights_are_refused_and_change_nothing(change, message):
    model, other = BUILDERS["cnn"](), settled("cnn")
    before = model.state_dict()
    assert LAST in before
    with pytest.raises(UserError, match=message):
        model.load_state_dict(change(other.state_dict()))
    assert_same_arrays(model.state_dict(), before)


@every_kind
def test_a_saved_model_is_loaded_unchanged(kind, tmp_path):
    model, path = settled(kind), tmp_path / "new" / "model.npz"
    model.save(path)
    again = models.load(str(path))
    assert again.architecture == model.architecture
    assert_same_arrays(again.state_dict(), model.state_dict())
    np.testing.assert_array_equal(again.logits(images(3)), model.logits(images(3)))
    assert [file.name for file in path.parent.iterdir()] == ["model.npz"]


def test_a_saved_model_keeps_its_class_names_and_what_is_frozen(tmp_path):
    model, path = settled("cnn"), tmp_path / "model.npz"
    model.class_names = tuple("ABCDEFGHIJ")
    frozen = [name for name, _ in model.network.named_parameters()][:3]
    for name, parameter in model.network.named_parameters():
        parameter.requires_grad = name not in frozen
    model.save(path)
    again = models.load(path)
    assert again.class_names == model.class_names
    assert [name for name, parameter in again.network.named_parameters() if not parameter.requires_grad] == frozen


def test_a_model_file_without_class_names_and_frozen_parameters_is_read(tmp_path):
    path = tmp_path / "model.npz"
    stored(path, class_names=None, frozen=None)
    again = models.load(path)
    assert again.class_names == ()
    assert all(parameter.requires_grad for _, parameter in again.network.named_parameters())


@pytest.mark.parametrize("compiles", [True, False])
def test_a_prediction_from_logits_that_are_not_numbers_is_refused(compiles):
    model = BUILDERS["cnn"]()
    if not compiles:
        model = models.Model(layers.Sequential(model.network, layers.Tanh()), model.classes, model.image_shape)
    dict(model.network.named_arrays())[LAST if compiles else f"0.{LAST}"][0] = np.nan
    with pytest.raises(UserError, match="not numbers"):
        model.predict(images(3))


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    BUILDERS["cnn"]().save(path)
    before = path.read_bytes()

    def disk_full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(UserError, match="No space left"):
        BUILDERS["mlp"]().save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]


def stored(path, **changes):
    """Write a model file with some entries replaced, or left out where they are None."""
    BUILDERS["cnn"]().save(path)
    with np.load(path) as file:
        entries = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: entry for name, entry in entries.items() if entry is not None})


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: None, id="missing"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"no numbers"), id="text"),
        pytest.param(lambda path: np.save(path.open("wb"), np.ones(3)), id="npy"),
        pytest.param(lambda path: np.savez(path, a=np.ones(3)), id="other arrays"),
        pytest.param(lambda path: np.savez(path, architecture=np.array([{}], object)), id="pickled"),
        pytest.param(lambda path: stored(path, architecture=None), id="no architecture"),
        pytest.param(lambda path: stored(path, architecture=np.array("{")), id="architecture not JSON"),
        pytest.param(lambda path: stored(path, architecture=np.array("[1]")), id="architecture a list"),
        pytest.param(lambda path: stored(path, architecture=np.array('{"kind": "cnn"}')), id="sizes missing"),
        pytest.param(lambda path: stored(path, class_names=np.array("[1]")), id="class names not text"),
        pytest.param(lambda path: stored(path, frozen=np.array("1")), id="frozen not a list"),
        pytest.param(lambda path: stored(path, **{LAST: None}), id="weight missing"),
        pytest.param(lambda path: stored(path, **{LAST: np.ones(11, np.float32)}), id="weight shape"),
        pytest.param(lambda path: stored(path, **{LAST: np.array([None] * 10)}), id="weight pickled"),
    ],
)
def test_files_that_are_not_model_files_are_refused(spoil, tmp_path):
    path = tmp_path / "model.npz"
    spoil(path)
    with pytest.raises(UserError):
        models.load(path)


def test_a_truncated_model_file_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    BUILDERS["mlp"]().save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            models.load(path)


def test_a_bit_flipped_anywhere_never_changes_the_weights_and_gives_a_clear_error(tmp_path):
    path = tmp_path / "model.npz"
    model = models.cnn(widths=(2,), hidden_units=2, image_shape=(4, 4, 1))
    model.save(path)
    whole, refused = path.read_bytes(), 0
    for position in range(0, len(whole), 3):
        flipped = whole[position] ^ 1 << position % 8
        path.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
        try:
            loaded = models.load(path)
        except UserError:
            refused += 1
        else:  # the bit was in metadata, such as a date
            assert_same_arrays(loaded.state_dict(), model.state_dict())
    assert refused > len(whole) / 3 / 2
