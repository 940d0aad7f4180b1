"""Which networks are compiled, left to the autodiff, or refused; `test_fuzz` does the same for random networks."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import hlf_np as hlf
from hlf_np.attacks import PGD
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.kernels.products.tile import LANES
from hlf_np.layers import (
    AveragePool,
    BatchNorm,
    Convolution,
    Flatten,
    LeakyReLU,
    Linear,
    MaxPool,
    ReLU,
    Residual,
    Sequential,
    TransposedConvolution,
    Unflatten,
)
from hlf_np.manifolds import VaeConfig, train_vae
from hlf_np.models import Model
from hlf_np.optim import AdamConfig
from hlf_np.programs import affine, compiler, products
from hlf_np.programs.structure import structure
from hlf_np.spaces import ImageBall
from hlf_np.support.errors import UserError
from hlf_np.training import train

DRAWS = np.random.default_rng(0)
IMAGES, LABELS = DRAWS.random((7, 8, 8, 1), np.float32), np.arange(7) % 3


def convolution(channels, out_channels, kernel=3, stride=1, padding=1):
    return Convolution(channels, out_channels, DRAWS, kernel, stride, padding)


def linear(inputs, outputs=3):
    return Linear(inputs, outputs, DRAWS)


def model(*layers, channels=1):
    return Model(Sequential(*layers), 3, (8, 8, channels))


def simple():
    return model(convolution(1, 4), BatchNorm(4), ReLU(), Flatten(), linear(256))


TIED, TIED_NORM, TIED_CONVOLUTION = linear(10, 10), BatchNorm(4), convolution(4, 4)
COMPILED = {
    "average pooling first": lambda: model(AveragePool(2), Flatten(), linear(16)),
    "max pooling first": lambda: model(MaxPool(3, 2), convolution(1, 4), ReLU(), Flatten(), linear(36)),
    "residual block first": lambda: model(Residual(convolution(1, 1)), Flatten(), linear(64)),
    "batch norm first": lambda: model(BatchNorm(1), ReLU(), convolution(1, 3), Flatten(), linear(192)),
    "transposed convolution first": lambda: model(TransposedConvolution(1, 3, DRAWS), Flatten(), linear(768)),
    "17 channels": lambda: model(convolution(17, 4), ReLU(), Flatten(), linear(256), channels=17),
    "64 channels": lambda: model(MaxPool(2), convolution(64, 33), Flatten(), linear(528), channels=64),
    "a linear layer twice": lambda: model(Flatten(), linear(64, 10), ReLU(), TIED, ReLU(), TIED, ReLU(), linear(10)),
    "a convolution and its norm twice": lambda: model(
        convolution(1, 4), *[TIED_CONVOLUTION, TIED_NORM, ReLU()] * 2, Flatten(), linear(256)
    ),
    "a body that ends in a ReLU": lambda: model(
        convolution(1, 4), Residual(Sequential(convolution(4, 4), ReLU())), Flatten(), linear(256)
    ),
    "a body that ends in a pooling": lambda: model(
        Residual(Sequential(convolution(1, 4), MaxPool(2)), convolution(1, 4, 2, 2, 0)), Flatten(), linear(64)
    ),
    "an empty body": lambda: model(convolution(1, 4), Residual(Sequential()), Flatten(), linear(256)),
    "a ReLU at the end": lambda: model(Flatten(), linear(64), ReLU()),
    "a code that is unflattened": lambda: model(
        Flatten(), linear(64, 10), ReLU(), linear(10, 18), Unflatten(3, 3), ReLU(), convolution(2, 5, 4, 2), ReLU(),
        Flatten(), linear(5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
def test_networks_are_compiled_for_evaluation_and_training_and_pass_the_check(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tested = make()
        assert tested.compiles
        assert tested.training_program(AdamConfig()) is not None


class Doubled(Convolution):
    """A subclass that computes something else than its base class."""

    def __call__(self, x, training=False):
        return super().__call__(x, training) * 2


class Brighter(Model):
    def forward(self, images, training=False):
        return super().forward(images + 1, training)


@pytest.mark.parametrize("layer", [LeakyReLU(), Doubled(1, 1, DRAWS, 3, 1, 1)], ids=["no node", "subclass"])
def test_layers_without_a_node_are_computed_by_autodiff(layer):
    tested = model(layer, Flatten(), linear(64))
    assert not tested.compiles
    np.testing.assert_array_equal(tested.logits(IMAGES), tested.network(Tensor(IMAGES)).data)


def test_a_model_that_computes_more_than_its_network_is_computed_by_autodiff():
    tested = Brighter(simple().network, 3, (8, 8, 1))
    np.testing.assert_array_equal(tested.logits(IMAGES), tested.network(Tensor(IMAGES + 1)).data)
    assert tested.training_program(AdamConfig()) is None


@pytest.mark.parametrize("direction", ["gather", "scatter"])
def test_a_wrong_program_is_noticed_before_it_is_used(direction, monkeypatch):
    """Products with wrong sources, forward or backward, lead to one warning and right results."""
    right = getattr(products, direction)

    def wrong(affine, builder, *arguments):
        result = right(affine, builder, *arguments)
        steps = result if isinstance(result, list) else [result]
        steps = [step._replace(sources=steps[-1].targets) for step in steps]
        return steps if isinstance(result, list) else steps[0]

    monkeypatch.setattr(products, direction, wrong)
    monkeypatch.setattr(compiler, "_verdicts", {})
    tested = model(convolution(1, 4), ReLU(), convolution(4, 4), ReLU(), Flatten(), linear(256))
    with pytest.warns(UserWarning, match="differs from its autodiff"):
        assert not tested.compiles
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(tested.logits(IMAGES), tested.network(Tensor(IMAGES)).data)


def test_each_structure_is_checked_once(monkeypatch):
    calls = []
    monkeypatch.setattr(compiler, "_verdicts", {})
    monkeypatch.setattr(compiler.check, "evaluation", lambda *arguments: calls.append(1) or True)
    for _ in range(3):
        assert simple().compiles
    assert len(calls) == 1


def changes():
    """Return functions that change a model in the ways in which users may."""

    def scale_in_place(tested):
        tested.network.layers[0].parameters["weight"].data *= 2

    def assign_weight(tested):
        parameter = tested.network.layers[0].parameters["weight"]
        parameter.data = parameter.data + 1

    def change_statistics(tested):
        tested.network.layers[1].buffers["running_mean"] += 1

    def assign_statistics(tested):
        tested.network.layers[1].buffers["running_var"] = np.full(4, 3, np.float32)

    def change_epsilon(tested):
        tested.network.layers[1].epsilon = 0.5

    def set_epsilon_to_a_scalar_of_numpy(tested):
        tested.network.layers[1].epsilon = np.float32(0.5)

    def replace_a_layer(tested):
        tested.network.layers = (*tested.network.layers[:-1], linear(256))

    def replace_a_norm(tested):
        norm = BatchNorm(4)
        norm.buffers["running_mean"] += 1
        tested.network.layers = (tested.network.layers[0], norm, *tested.network.layers[2:])

    def change_layers(tested):
        tested.network.layers = (*tested.network.layers[:2], *tested.network.layers[3:])

    def change_network(tested):
        tested.network = simple().network

    def load(tested):
        tested.load_state_dict(simple().state_dict())

    return [value for value in locals().values() if callable(value)]


COPIES = {
    "itself": lambda tested: tested,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda tested: pickle.loads(pickle.dumps(tested)),
}


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_programs_follow_changes_of_the_model(change, duplicate):
    original = simple()
    before = original.logits(IMAGES)
    tested = duplicate(original)
    np.testing.assert_array_equal(tested.logits(IMAGES), before)
    change(tested)
    assert tested.compiles
    after = tested.logits(IMAGES)
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(after, tested.network(Tensor(IMAGES)).data, rtol=1e-4, atol=1e-5)
    if tested.network is not original.network and duplicate is not COPIES["itself"]:
        np.testing.assert_array_equal(original.logits(IMAGES), before)


def test_programs_follow_a_layer_that_is_replaced_inside_another():
    block = Residual(convolution(1, 1))
    tested = model(block, Flatten(), linear(64))
    before = tested.logits(IMAGES)
    block.body = convolution(1, 1)
    after = tested.logits(IMAGES)
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(after, tested.network(Tensor(IMAGES)).data, rtol=1e-4, atol=1e-5)


def test_a_new_head_is_trained_and_attacked_instead_of_the_old_one():
    tested = simple()
    tested.predict(IMAGES)
    tested.network.layers = (*tested.network.layers[:-1], linear(256))
    same = copy.deepcopy(tested)  # whose compiler begins empty
    for one in (tested, same):
        train(one, Split(IMAGES, LABELS), training="adversarial", epochs=2, batch_size=4)
    np.testing.assert_array_equal(tested.logits(IMAGES), same.logits(IMAGES))
    found, expected = (PGD(5, 0.05).find(one, Split(IMAGES, LABELS), ImageBall(0.3)) for one in (tested, same))
    np.testing.assert_array_equal(found.images, expected.images)


@pytest.mark.parametrize("kind", ["frozen", "read-only"])
def test_parameters_that_must_not_be_changed_are_left_to_autodiff(kind):
    tested = simple()
    weight = tested.network.layers[0].parameters["weight"]
    array, before = weight.data, weight.data.copy()
    if kind == "frozen":
        weight.requires_grad = False
    else:
        array.setflags(write=False)
    assert tested.compiles
    train(tested, Split(IMAGES, LABELS), epochs=2, batch_size=4)
    np.testing.assert_array_equal(array, before)
    assert (weight.data is array) == (kind == "frozen")  # a read-only array is replaced by a new one
    assert np.abs(weight.data - before).max() > 1e-4 or kind == "frozen"


@pytest.mark.parametrize("method", ["forward", "logits"])
@pytest.mark.parametrize("of", ["class", "object"])
def test_other_ways_to_compute_the_logits_are_attacked(method, of):
    tested = simple()
    plain = getattr(tested, method)
    if of == "class":
        tested.__class__ = type("Reversed", (Model,), {method: lambda self, x, *rest: -getattr(Model, method)(self, x)})
    else:
        setattr(tested, method, lambda x, *rest: -plain(x))
    found = PGD(3, 0.05).find(tested, Split(IMAGES, LABELS), ImageBall(0.1))
    np.testing.assert_array_equal(found.success, tested.predict(found.images) != LABELS)
    assert (tested.predict(IMAGES) != simple().predict(IMAGES)).any()


def test_a_training_continues_with_values_written_into_the_layers():
    tested, reference = simple(), simple()
    program = tested.training_program(AdamConfig())
    program.step(IMAGES, IMAGES, LABELS, 0.01)
    program.store()
    for network in (tested.network, reference.network):
        for _, array in network.named_arrays():
            array[...] = 0.1
    losses, _ = program.step(IMAGES, IMAGES, LABELS, 0.01)
    fresh, _ = reference.training_program(AdamConfig()).step(IMAGES, IMAGES, LABELS, 0.01)
    np.testing.assert_array_equal(losses, fresh)
    tested.network.layers[0].parameters["weight"].data = np.zeros((4, 1, 3, 3), np.float32)
    program.store()  # writes into the present array
    assert tested.network.layers[0].parameters["weight"].data.any()


def test_parameters_that_share_memory_are_trained_by_autodiff():
    tested = model(Flatten(), linear(64, 8), ReLU(), linear(8, 8), linear(8))
    memory = np.zeros(100, np.float32)
    for layer, first in ((3, 0), (4, 50)):
        weight = tested.network.layers[layer].parameters["weight"]
        weight.data = memory[first : first + weight.data.size].reshape(weight.shape)
    assert tested.compiles
    assert tested.training_program(AdamConfig()) is None


MISFITS = {
    "linear": (
        (Flatten(), linear(40)),
        r"layer 1, Linear\(40, 3\), expects inputs of shape \(40,\); .* of layer 0, Flatten\(\), has shape \(64",
    ),
    "no flattening": ((convolution(1, 3), linear(64)), r"Linear\(64, 3\), expects .*\(64,\).* has shape \(8, 8, 3\)"),
    "channels": (
        (convolution(1, 4), convolution(8, 4)),
        r"layer 1, .*expects images of shape \(H, W, 8\).*Convolution\(1, 4",
    ),
    "batch norm": (
        (convolution(1, 4), BatchNorm(2)),
        r"BatchNorm\(2\), expects inputs of 2 channels; .*has shape \(8, 8, 4\)",
    ),
    "kernel": ((convolution(1, 4, 11),), r"at least 9x9 pixels; its input has shape \(8, 8, 1\)"),
    "within a block": ((Residual(Sequential(convolution(1, 1), convolution(3, 1))),), r"layer 0\.body\.1, "),
    "branches": ((Residual(convolution(1, 4)),), r"branches of the same output shape, not \(8, 8, 4\) and \(8, 8, 1\)"),
    "unflatten": ((Flatten(), Unflatten(3, 3)), "inputs of a multiple of 9 features"),
    "outputs": ((Flatten(), linear(64, 4)), r"into \(4,\), but a model of 3 classes needs logits \(3,\)"),
    "an image": ((convolution(1, 3),), r"into \(8, 8, 3\)"),
}


@pytest.mark.parametrize(("layers", "message"), MISFITS.values(), ids=MISFITS)
def test_layers_that_do_not_fit_together_are_refused_with_both_sizes(layers, message):
    for use in (
        lambda tested: tested.logits(IMAGES),
        lambda tested: hlf.attacks.pgd(tested, IMAGES, LABELS, hlf.spaces.ImageBall(0.1), engine="autodiff"),
        lambda tested: hlf.training.train(tested, hlf.data.Split(IMAGES, LABELS), epochs=1),
    ):
        with pytest.raises(UserError, match=message):
            use(model(*layers))


def test_one_class_is_refused():
    with pytest.raises(UserError, match="classes must be at least 2"):
        hlf.models.cnn(classes=1)


def test_structure_depends_on_sharing_but_not_on_weights():
    one, other, tied = linear(9, 9), linear(9, 9), linear(9, 9)
    assert structure(Sequential(one, other)) == structure(Sequential(other, tied))
    assert structure(Sequential(one, other)) != structure(Sequential(tied, tied))
    assert structure(MaxPool(2)) != structure(MaxPool(2, 1)) != structure(AveragePool(2, 1))


def test_an_error_inside_the_compiler_does_not_stop_the_user(monkeypatch):
    def fail(*arguments):
        raise IndexError("inside the compiler")

    monkeypatch.setattr(products, "gather", fail)
    monkeypatch.setattr(compiler, "_verdicts", {})
    tested = simple()
    with pytest.warns(UserWarning, match="cannot be built"):
        logits = tested.logits(IMAGES)
    np.testing.assert_array_equal(logits, tested.network(Tensor(IMAGES)).data)


def test_weights_of_another_precision_are_refused():
    tested = simple()
    tested.logits(IMAGES)
    tested.network.layers[0].parameters["weight"].data = np.zeros((4, 1, 3, 3))
    with pytest.raises(UserError, match=r"weight '0\.weight' is float64: convert it"):
        tested.logits(IMAGES)


@pytest.mark.parametrize("channels", [LANES - 1, LANES])
def test_autoencoders_of_many_channels_are_trained_too(channels):
    """A sigmoid behind channels that fill a vector is not compiled; then autodiff computes."""
    images = DRAWS.random((12, 8, 8, channels), np.float32)
    config = VaeConfig(channels=(4,), latent_dimensions=3, epochs=2, batch_size=6, image_shape=(8, 8, channels))
    log = []
    vae = train_vae(images, config, progress=log.append)
    assert log[1].reconstruction_error < log[0].reconstruction_error
    assert (compiler.vae_training(vae, vae.config, None) is None) == (channels == LANES)
    reconstructions = vae.decode(vae.encode(images))
    np.testing.assert_allclose(reconstructions, vae(Tensor(images)).data, rtol=1e-4, atol=1e-5)


def test_a_wrong_training_of_an_autoencoder_is_noticed_before_it_is_used(monkeypatch):
    monkeypatch.setattr(compiler, "_verdicts", {})
    right = affine.Affine.parameter_gradients
    monkeypatch.setattr(affine.Affine, "parameter_gradients", lambda node, builder: right(node, builder)[:0])
    images = DRAWS.random((12, 8, 8, 1), np.float32)
    config = VaeConfig(channels=(4,), latent_dimensions=3, epochs=1, batch_size=6, image_shape=(8, 8, 1))
    with pytest.warns(UserWarning, match="differs from its autodiff"):
        train_vae(images, config)
