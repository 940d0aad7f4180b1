"""Compiled programs compute what the autodiff computes, for all architectures, attacks and numbers of threads."""

from dataclasses import replace

import numba
import numpy as np
import pytest
from helpers import with_and_without_compilation

from hlf_np import models
from hlf_np.attacks import PGD, Engine
from hlf_np.attacks.pgd import COMPILED_OBJECTIVES
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.data.fonts import EMNIST_BOX, Fonts, load_fonts, load_prototypes
from hlf_np.kernels.instructions.encoding import decoded
from hlf_np.kernels.instructions.propagation import Product
from hlf_np.layers import BatchNorm, Convolution, Flatten, Linear, ReLU, Sequential, Tanh
from hlf_np.models.vae import Vae, VaeConfig
from hlf_np.operations import cross_entropy
from hlf_np.programs import capacity
from hlf_np.programs.capacity import MOST_IMAGES
from hlf_np.programs.evaluation import Program
from hlf_np.spaces import ImageBall, LearnedManifold, Transformations, TrueManifold
from hlf_np.support.errors import UserError

# the shapes of the experiments; and odd sizes, with numbers of channels and classes that do not fill a vector
MODELS = {
    "cnn": lambda: models.cnn(),
    "cnn of odd images": lambda: models.cnn(classes=7, widths=(5, 20), image_shape=(17, 20, 3)),
    "small cnn": lambda: models.cnn(classes=3, widths=(6, 20), image_shape=(9, 9, 1)),
    "mlp": lambda: models.mlp(),
    "mlp of odd images": lambda: models.mlp(classes=3, widths=(9, 33), image_shape=(5, 7, 2)),
    "resnet": lambda: models.resnet(widths=(8, 16, 24)),
    "resnet that narrows": lambda: models.resnet(widths=(16, 16), blocks=(1, 2), image_shape=(9, 9, 3)),
    "vgg": lambda: models.vgg(widths=(6, 16, 20, 8)),
    "vgg of many channels": lambda: models.vgg(widths=(33, 40), image_shape=(11, 10, 1)),
    "resnet of many channels": lambda: models.resnet(widths=(32, 40), blocks=(1, 1), image_shape=(9, 7, 1)),
}


def settled(name):
    """Return a model with non-trivial biases and statistics of batch norms, as after training."""
    model = MODELS[name]()
    random = np.random.default_rng(3)
    for parameter, array in model.network.named_arrays():
        if parameter.endswith(("running_mean", "bias")):
            array[...] = random.normal(0, 0.2, array.shape)
        elif parameter.endswith("running_var"):
            array[...] = random.uniform(0.5, 2, array.shape)
        elif array.ndim == 4 and array.shape[-1] != 4:  # of ResNet and VGG: keep variances
            array *= np.sqrt(2 / (3 * array[0].size)) / array.std()
    return model


def sharpened(model):
    """Scale a model's logits so that predictions differ by image: if all were alike, divergences would be rounding."""
    (_, weight), (_, bias) = list(model.network.named_arrays())[-2:]
    images = sample(model, 50).images
    weight *= 1 / model.logits(images).std(axis=0).mean()
    bias -= model.logits(images).mean(axis=0)
    return model


def sample(model, count):
    random = np.random.default_rng(5)
    return Split(random.random((count, *model.image_shape), np.float32), random.integers(0, model.classes, count))


@pytest.mark.parametrize("name", MODELS)
def test_logits_agree_with_the_autodiff(name):
    model = settled(name)
    for count in (1, MOST_IMAGES - 1, 2 * MOST_IMAGES + 5):
        images = sample(model, count).images
        expected = model.forward(Tensor(images)).data
        # sums of up to some thousand float32 terms, in another order
        np.testing.assert_allclose(model.logits(images), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_where_a_layer_fills_the_cache_fewer_images_are_computed_together_with_the_same_bits(monkeypatch):
    monkeypatch.setattr(capacity, "cache_elements", lambda: 1 << 17)
    model = models.resnet(blocks=(1, 1, 1), widths=(16, 32, 64))
    few, split = Program(model.network, model.image_shape), sample(model, 27)
    assert Program(models.mlp().network, (28, 28, 1)).capacity == MOST_IMAGES > few.capacity
    for images in (MOST_IMAGES, 2):
        monkeypatch.setattr(capacity, "CHOICES", (images,))
        many = Program(model.network, model.image_shape)
        assert many.capacity == images
        np.testing.assert_array_equal(few.evaluate(split.images), many.evaluate(split.images))


def test_a_workspace_has_room_for_a_network_of_any_size_and_caches_for_one_of_unknown_size(monkeypatch, tmp_path):
    monkeypatch.setattr(capacity, "MAX_ACTIVATIONS", 1)
    assert Program(models.mlp().network, (28, 28, 1)).capacity == 1
    for text, size in (("512K\n", 512 * 1024), ("", capacity.USUAL_CACHE)):
        (tmp_path / "size").write_text(text)
        monkeypatch.setattr(capacity, "_CACHE_SIZE", tmp_path / "size")
        assert capacity.cache_elements.__wrapped__() == size // 8


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stop_early", [False, True])
def test_normalised_gradient_steps_agree_with_the_autodiff(name, stop_early):
    """L2 steps depend smoothly on the gradient, so all codes agree to rounding."""
    model = settled(name)
    attack = PGD(steps=4, step_size=0.1, rule="sign", stop_early=stop_early)
    fast, slow = attacked(model, ImageBall(0.3, "l2"), attack)
    np.testing.assert_allclose(fast.images, slow.images, atol=1e-4)
    np.testing.assert_allclose(fast.loss, slow.loss, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(fast.iterations, slow.iterations)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stop_early", [False, True])
def test_ascending_the_divergence_agrees_with_the_autodiff(name, stop_early):
    """Where p and q are close, their difference loses digits, and so does the gradient: the tolerance is larger."""
    attack = PGD(steps=4, step_size=0.1, rule="sign", stop_early=stop_early, objective="kl")
    fast, slow = attacked(sharpened(settled(name)), ImageBall(0.5, "l2"), attack)
    assert np.quantile(np.abs(fast.images - slow.images).max(axis=(1, 2, 3)), 0.9) < 2e-3
    np.testing.assert_allclose(fast.loss, slow.loss, rtol=5e-2, atol=1e-4)
    assert fast.loss.mean() > 1e-2


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rule", ["sign", "adam"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_other_steps_agree_except_where_the_gradient_is_rounding(name, rule, norm):
    """Signs, and Adam's first steps, are discontinuous where a gradient is nearly 0: there rounding decides.

    Rounding may also change the maximum of a window or the sign of a ReLU's input; the test allows that in one image.
    """
    model = settled(name)
    fast, slow = attacked(model, ImageBall(0.3 if norm == "linf" else 2, norm), PGD(3, 0.02, rule, stop_early=False))
    differing = (np.abs(fast.images - slow.images) > 1e-4).mean(axis=(1, 2, 3))
    assert np.sort(differing)[:-1].mean() < 0.005
    np.testing.assert_allclose(fast.loss, slow.loss, rtol=1e-2, atol=1e-4)


def attacked(model, space, attack):
    split = sample(model, 2 * MOST_IMAGES + 3)
    return [replace(attack, engine=engine).find(model, split, space) for engine in (Engine.PROGRAM, Engine.AUTODIFF)]


@pytest.mark.parametrize("name", MODELS)
def test_success_and_loss_of_an_attack_are_those_of_the_model(name):
    """Success must be exactly that of `predict`: images are not evaluated again after an attack."""
    model, split = settled(name), sample(MODELS[name](), 2 * MOST_IMAGES + 3)
    result = PGD(steps=2, step_size=0.02, restarts=2).find(model, split, ImageBall(0.05))
    assert result.success.sum() > 0
    np.testing.assert_array_equal(result.success, model.predict(result.images) != split.labels)
    losses = cross_entropy(Tensor(model.logits(result.images)), split.labels).data
    np.testing.assert_allclose(result.loss, losses, rtol=1e-5, atol=1e-6)


LINEAR = {  # layers behind a linear layer of 40 outputs, and the number of products that they are lowered to
    "another": (lambda random: [Linear(40, 10, random)], 1),
    "batch norm behind another": (lambda random: [Linear(40, 10, random), BatchNorm(10), ReLU()], 1),
    "a ReLU between": (lambda random: [ReLU(), Linear(40, 10, random)], 2),
    "batch norm between": (lambda random: [BatchNorm(40), Linear(40, 10, random)], 2),
    "two others": (lambda random: [Linear(40, 30, random), Linear(30, 10, random)], 2),
}


@pytest.mark.parametrize(("layers", "products"), LINEAR.values(), ids=LINEAR)
def test_adjacent_linear_layers_are_folded(layers, products):
    random = np.random.default_rng(0)
    network = Sequential(Flatten(), Linear(36, 40, random), *layers(random))
    for name, array in network.named_arrays():
        if name.endswith(("bias", "mean")):
            array[...] = random.standard_normal(array.shape)
    x = random.random((30, 6, 6, 1), np.float32)
    program = Program(network, (6, 6, 1))
    assert sum(isinstance(decoded(row), Product) for row in program.forward) == products
    np.testing.assert_allclose(program.evaluate(x), network(Tensor(x)).data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["sign", "adam"])
def test_the_result_of_an_image_does_not_depend_on_the_others(trained, split, rule):
    """Slots of the workspace are refilled as tasks finish; no result depends on the slot or on its neighbours."""
    attack, space = PGD(steps=30, step_size=0.005, rule=rule, start="image"), ImageBall(0.15)
    together = attack.find(trained, split, space)
    assert len(set(together.iterations.tolist())) > 3  # slots were refilled at different times
    for index in (0, 1, MOST_IMAGES, 4 * MOST_IMAGES, len(split) - 1):
        alone = attack.find(trained, split.take(np.array([index])), space)
        np.testing.assert_array_equal(alone.images[0], together.images[index])
        assert alone.iterations[0] == together.iterations[index]
        assert alone.loss[0] == together.loss[index]


@pytest.mark.parametrize("name", ["cnn", "resnet that narrows", "vgg"])
@pytest.mark.parametrize("objective", COMPILED_OBJECTIVES)
def test_threads_change_no_bit(name, objective, threads):
    model = settled(name)
    split, attack = sample(model, 40), PGD(steps=3, step_size=0.02, objective=objective)
    results = []
    for count in range(1, min(4, numba.config.NUMBA_NUM_THREADS) + 1):
        threads(count)
        results.append(attack.find(model, split, ImageBall(0.2)))
    for result in results[1:]:
        np.testing.assert_array_equal(result.images, results[0].images)
        np.testing.assert_array_equal(result.loss, results[0].loss)


# --- behind a preprocessor --------------------------------------------------------------------------------------------


def latent_spaces():
    """Return spaces whose codes are decoded by a warp or a decoder."""
    fonts = Fonts(load_prototypes())
    vaes = [Vae(VaeConfig(channels=(5, 16, 20), latent_dimensions=7), seed) for seed in range(10)]
    return {
        "true": TrueManifold(fonts),
        "transformations": Transformations(fonts.box),
        "learned": LearnedManifold(vaes),
    }


@pytest.mark.parametrize("name", ["true", "transformations", "learned"])
@pytest.mark.parametrize("make", [models.cnn, models.mlp, lambda: models.resnet(widths=(8, 8, 8))])
@pytest.mark.parametrize("objective", COMPILED_OBJECTIVES)
def test_attacks_behind_a_warp_or_a_decoder_agree_with_the_autodiff(name, make, objective):
    model, space, split = make(), latent_spaces()[name], load_fonts(0, 2 * MOST_IMAGES + 3).test
    attack = PGD(steps=3, step_size=0.05, start="random", stop_early=False, objective=objective)
    actual, expected = (
        replace(attack, engine=engine).find(model, split, space) for engine in (Engine.PROGRAM, Engine.AUTODIFF)
    )
    # Adam's first steps are about the signs of gradients, and where a warp samples exactly at a pixel, the gradient
    # with respect to a parameter is discontinuous: some codes may differ
    near = np.abs(actual.perturbations - expected.perturbations).max(axis=1) < 1e-3
    assert near.mean() > 0.9
    np.testing.assert_allclose(actual.loss[near], expected.loss[near], rtol=1e-2, atol=1e-4)
    assert (actual.success == expected.success).mean() > 0.9


@pytest.mark.parametrize("name", ["true", "learned"])
def test_attacks_behind_a_preprocessor_have_the_same_bits_at_any_number_of_threads(name, threads):
    model, space, split = models.cnn(), latent_spaces()[name], load_fonts(0, 33).test
    results = []
    for count in (1, 2):
        threads(count)
        results.append(PGD(steps=4, step_size=0.05).find(model, split, space))
    np.testing.assert_array_equal(results[0].images, results[1].images)
    np.testing.assert_array_equal(results[0].loss, results[1].loss)


def test_the_result_of_an_image_behind_a_decoder_does_not_depend_on_the_others():
    """Images of several classes share a workspace, and move to other slots as tasks finish."""
    model, space, split = settled("cnn"), latent_spaces()["learned"], load_fonts(0, 3 * MOST_IMAGES + 1).test
    attack = PGD(steps=12, step_size=0.1, rule="sign", start="image")
    together = attack.find(model, split, space)
    assert len(set(together.iterations.tolist())) > 2
    for index in (0, 5, MOST_IMAGES, len(split) - 1):
        alone = attack.find(model, split.take(np.array([index])), space)
        np.testing.assert_array_equal(alone.images[0], together.images[index])
        assert alone.iterations[0] == together.iterations[index]
        assert alone.loss[0] == together.loss[index]


def test_decoders_and_classifier_may_change_between_attacks():
    model, space, split = models.cnn(), latent_spaces()["learned"], load_fonts(0, 20).test
    attack = PGD(steps=2, step_size=0.05)
    before = attack.find(model, split, space)
    np.testing.assert_array_equal(attack.find(model, split, space).images, before.images)
    vae = space.vaes[split.labels[0]]
    vae.decoder.layers[0].parameters["weight"].data *= 1.5
    after = attack.find(model, split, space)
    changed = (after.images != before.images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, split.labels == split.labels[0])
    codes = space.chart(split.images, split.labels, None).start + after.perturbations
    for image, code, label in zip(after.images, codes, split.labels, strict=True):
        np.testing.assert_allclose(image, space.vaes[label].decode(code[None])[0], rtol=0, atol=1e-6)
    model.network.layers[0].parameters["weight"].data *= 1.5
    assert (attack.find(model, split, space).loss != after.loss).all()


def test_a_compiled_model_follows_its_weights():
    model = settled("cnn")
    images = sample(model, 3).images
    before = model.logits(images)
    model.network.layers[0].parameters["weight"].data *= 1.5
    assert np.abs(model.logits(images) - before).max() > 1e-3
    np.testing.assert_allclose(model.logits(images), model.forward(Tensor(images)).data, rtol=1e-4, atol=1e-5)


def test_a_layer_without_a_compiled_form_is_named():
    random = np.random.default_rng(0)
    network = Sequential(Convolution(1, 4, random), Tanh(), Flatten(), Linear(4 * 4 * 4, 3, random))
    with pytest.raises(UserError, match="Tanh is not compiled here"):
        Program(network, (8, 8, 1))


def small_decoders():
    return LearnedManifold(
        tuple(Vae(VaeConfig((4, 20), latent_dimensions=3, image_shape=(9, 9, 1)), seed) for seed in range(3))
    )


# model, space, and the attack's rule, early stopping and objective
WITHOUT_COMPILATION = {
    "cnn": ("cnn of odd images", lambda: ImageBall(0.2, "l2"), "sign", False, "kl"),
    "mlp": ("mlp of odd images", lambda: ImageBall(0.2), "sign", True, "cross-entropy"),
    "resnet": ("resnet that narrows", lambda: ImageBall(0.2, "l2"), "sign", False, "cross-entropy"),
    "warp": ("small cnn", lambda: Transformations(EMNIST_BOX), "adam", False, "kl"),
    "decoder": ("small cnn", small_decoders, "adam", True, "cross-entropy"),
}
CODE = """
import numpy as np
from test_program import WITHOUT_COMPILATION, sample, settled, sharpened
from hlf_np.attacks import PGD
name, space, rule, stop_early, objective = WITHOUT_COMPILATION[{name!r}]
model = sharpened(settled(name)) if objective == "kl" else settled(name)
result = PGD(2, 0.05, rule, stop_early=stop_early, objective=objective).find(model, sample(model, 4), space())
np.savez({out!r}, images=result.images, loss=result.loss)
"""


@pytest.mark.stress
@pytest.mark.parametrize("name", WITHOUT_COMPILATION)
def test_without_compilation_every_index_is_in_bounds_and_the_result_is_the_same(name, tmp_path, run_python):
    """Plain Python and NumPy check every index; the compiled kernels do not."""
    results = with_and_without_compilation(run_python, tmp_path, lambda out: CODE.format(name=name, out=out))
    np.testing.assert_allclose(results[0]["images"], results[1]["images"], atol=1e-4)
    np.testing.assert_allclose(results[0]["loss"], results[1]["loss"], rtol=1e-3)
