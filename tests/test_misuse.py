"""Natural mistakes in Python: one clear line instead of a wrong result or an error from inside."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from conftest import small_cnn
from test_own_ideas import network_of

from hlf_np import UserError, attacks, layers, manifolds, models, spaces
from hlf_np.attacks import PGD
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Dataset, Split
from hlf_np.data.source import array_source
from hlf_np.engine import Engine
from hlf_np.losses import CrossEntropy
from hlf_np.manifolds import Vae, VaeConfig
from hlf_np.manifolds.distance import NeighbourSearch, project
from hlf_np.manifolds.learning import all_classes_vae
from hlf_np.operations import cross_entropy
from hlf_np.random import generator
from hlf_np.spaces.learned_manifold import LearnedChart
from hlf_np.training import TrainingConfig, perturbed_batch, train
from hlf_np.trainings import Perturbation, Training, training_of

# --- data -----------------------------------------------------------------------------------------------------


def test_masked_labels_are_refused(trained, split):
    labels = np.ma.array(np.where(split.labels < 5, split.labels, 999), mask=split.labels >= 5)
    for attack in (PGD(2), attacks.AutoPGD(2), attacks.Fog(2)):
        with pytest.raises(UserError, match="labels must be a NumPy array, not MaskedArray"):
            attack.find(trained, Split(split.images, labels), spaces.ImageBall(0.1))
    with pytest.raises(UserError, match="labels must be a NumPy array, not MaskedArray"):
        train(small_cnn(), Split(split.images, labels), epochs=1)


def test_samples_of_the_manifold_of_other_images_are_refused(fonts, split):
    inverted = Split(1 - split.images, split.labels, split.codes)
    with pytest.raises(UserError, match="the codes of TrueManifold do not decode to the images"):
        train(small_cnn(), inverted, "with_true_manifold_samples", epochs=1, space=spaces.TrueManifold(fonts))


# --- spaces ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DarkChart(LearnedChart):
    def decode(self, codes):
        return super().decode(codes) * 0.1


class Dark(spaces.LearnedManifold):
    def chart(self, images, labels, codes):
        chart = super().chart(images, labels, codes)
        return DarkChart(chart.start, chart.lower, chart.upper, chart.space, chart.labels)


@pytest.mark.parametrize("attack", [PGD(3), PGD(3, engine="autodiff"), attacks.AutoPGD(3), attacks.RandomSearch(3)])
def test_the_decoder_of_a_chart_of_ones_own_makes_the_images(trained, split, attack):
    space, few = Dark([Vae(VaeConfig((4, 4), 3), seed) for seed in range(10)]), split.take(np.arange(20))
    result = attack.find(trained, few, space)
    chart = space.chart(few.images, few.labels, None)
    expected = chart.image_of(Tensor(chart.start + result.perturbations)).data
    assert 0 < expected.max() <= 0.1
    np.testing.assert_allclose(result.images, expected, atol=1e-6)
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != few.labels)


def test_no_box_is_wider_than_images(trained, split):
    class Wide(spaces.ImageBall):
        def chart(self, images, labels, codes):
            return replace(super().chart(images, labels, codes), lower=np.float32(-2), upper=np.float32(3))

    few = split.take(np.arange(20))
    for engine in Engine:
        attack = PGD(20, 0.1, rule="sign", stop_early=False, engine=engine)
        result = attack.find(trained, few, Wide(1.0))
        assert result.images.min() == 0
        assert result.images.max() == 1


class Patch(spaces.ImageBall):
    """A ball of which a training also uses the base class."""


def test_a_space_that_a_training_uses_itself_does_not_stand_for_its_base():
    both = Training("patch_and_ball", (spaces.ImageBall, Patch))
    assert [share.space for share in both.perturbations((Patch(0.5),))] == [spaces.ImageBall(0.3), Patch(0.5)]
    assert training_of("adversarial").perturbations((Patch(0.5),))[0].space == Patch(0.5)


@pytest.mark.parametrize("result", [True, [True] * 20, np.arange(5)], ids=["scalar", "list", "indices"])
def test_which_images_are_perturbable_is_a_bool_for_each(split, result):
    class Some(spaces.ImageBall):
        def perturbable(self, split):
            return result

    shares = (Perturbation(Some(0.1), PGD(2), 1.0),)
    with pytest.raises(UserError, match="`perturbable` of Some must return an array with a bool for each image"):
        perturbed_batch(small_cnn(), split.take(np.arange(20)), shares, generator(0, "test"))


def test_a_space_may_draw_and_project_in_double_precision(trained, split):
    class Double(spaces.ImageBall):
        def random_perturbations(self, random, shape):
            return random.uniform(-self.epsilon, self.epsilon, shape)

    class Projecting(Double):
        def project(self, chart, codes):
            return super().project(chart, codes).astype(np.float64)

    few = split.take(np.arange(20))
    for engine in Engine:
        for kind in (Double, Projecting):
            result = PGD(3, engine=engine).find(trained, few, kind(0.1))
            assert result.images.dtype == np.float32
            assert np.abs(result.images - few.images).max() <= 0.1 + 1e-6
    for attack in (attacks.AutoPGD(3), attacks.RandomSearch(3)):
        assert attack.find(trained, few, Projecting(0.1)).images.dtype == np.float32


@pytest.mark.parametrize("method", ["project", "random_perturbations"])
def test_a_space_that_returns_nothing_is_named(trained, split, method):
    empty = type("Empty", (spaces.ImageBall,), {method: lambda self, *arguments: None})
    with pytest.raises(UserError, match=f"`{method}` of Empty must return an array of shape"):
        PGD(2).find(trained, split, empty(0.1))


def test_a_chart_that_is_none_is_named(trained, split):
    class Forgotten(spaces.ImageBall):
        def chart(self, images, labels, codes):
            super().chart(images, labels, codes)

    with pytest.raises(UserError, match=r"Forgotten\.chart must return a Chart, not NoneType"):
        PGD(2).find(trained, split, Forgotten(0.1))


def test_a_single_vae_is_not_one_for_each_class():
    with pytest.raises(UserError, match=r"one VAE for each class: give the same for all as \[vae\] \* classes"):
        spaces.DataManifold(Vae(VaeConfig((2, 2), 3)))


# --- tensors and networks -------------------------------------------------------------------------------------


def test_tensors_are_not_compared_by_mistake():
    x = Tensor(np.zeros(2))
    for compare in (lambda: x == x.data, lambda: x.data == x, lambda: x != Tensor(np.zeros(2))):
        with pytest.raises(TypeError, match="compare their `data`, or use `is`"):
            compare()
    assert x in {x}


def test_arrays_in_place_of_tensors_are_named(split):
    class Rounded(layers.Layer):
        def __call__(self, x, training=False):
            return np.round(x.data)

    def loss(model, clean, perturbed, labels):
        return cross_entropy(model(perturbed.data), labels)

    with pytest.raises(UserError, match="`forward` needs a Tensor, not ndarray: use `logits`, or Tensor"):
        train(small_cnn(), split, Training("on_arrays", loss=loss), epochs=1)
    with pytest.raises(UserError, match=r"Rounded\(\) returned an array: a layer must return a Tensor"):
        network_of(Rounded()).predict(split.images)


def test_sizes_of_any_integer_type_and_sequence_make_a_network():
    assert models.cnn(classes=np.int64(3), widths=np.array([2, 4]), hidden_units=np.uint8(4)).classes == 3
    for build in (models.cnn, lambda image_shape: VaeConfig(image_shape=image_shape)):
        with pytest.raises(UserError, match=r"the shape of an image must be \(H, W, C\), not \(28, 28\)"):
            build(image_shape=(28, 28))
    for build, name in ((lambda: models.cnn(widths=16), "widths"), (lambda: VaeConfig(channels=16), "channels")):
        with pytest.raises(UserError, match=f"{name} must be a tuple of integers such as"):
            build()


# --- settings -------------------------------------------------------------------------------------------------


class Nothing:
    """An attack that forgets to return its result."""

    name = "nothing"

    def find(self, model, split, space, seed=0):
        PGD(1).find(model, split, space, seed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: {"training": Training("x", (Patch,), attack=Nothing()), "space": Patch()}, "`find` of attack nothing"),
        (lambda: {"config": "adversarial"}, "`config` must be a TrainingConfig, not 'adversarial': name a training"),
        (lambda: {"config": TrainingConfig((Perturbation(spaces.ImageBall),))}, "a space must be an object such as"),
        (lambda: {"config": TrainingConfig((Perturbation(Patch(), PGD),))}, "must be an object such as PGD"),
        (lambda: {"config": TrainingConfig(Perturbation(Patch()))}, "`perturbations` must be a tuple of Perturbation"),
        (lambda: {"config": TrainingConfig(loss="ce")}, "`loss` must be a Loss such as CROSS_ENTROPY, not 'ce'"),
        (lambda: {"config": TrainingConfig(loss=CrossEntropy)}, "`loss` must be a Loss such as CROSS_ENTROPY"),
        (lambda: {"config": TrainingConfig(samples=spaces.TrueManifold)}, "`samples` must be a space such as"),
        (lambda: {"config": TrainingConfig(adam=0.001)}, r"`adam` must be an AdamConfig, such as AdamConfig\(0\.005\)"),
    ],
)
def test_settings_of_another_kind_are_named(split, settings, message):
    with pytest.raises(UserError, match=message):
        train(small_cnn(), split, **{"epochs": 1, **settings()})


def test_numbers_out_of_range_are_refused(split):
    for make, message in [
        (lambda: attacks.Fog(density=30), "density must be a number from 0 to 1, not 30"),
        (lambda: attacks.Blur(max_width=-1.0), "max_width must be a number of at least 0"),
        (lambda: attacks.Rotation(max_angle=np.nan), "max_angle must be a number of at least 0"),
        (lambda: attacks.ElasticDeformation(smoothness=np.inf), "smoothness must be a number of at least 0"),
        (lambda: layers.BatchNorm(3, momentum=5), "momentum must be a number from 0 to 1, not 5"),
        (lambda: layers.BatchNorm(3, momentum=np.nan), "momentum must be a number from 0 to 1, not nan"),
        (lambda: Perturbation(spaces.ImageBall(), fraction="half"), "must be a number from 0 to 1, not 'half'"),
        (lambda: NeighbourSearch(split.images, 0), "components must be at least 1, not 0"),
    ]:
        with pytest.raises(UserError, match=message):
            make()


def test_weights_that_cannot_be_loaded_leave_the_model_unchanged():
    linear = layers.Linear(4, 4, generator(0, "shared"))
    model = models.Model(layers.Sequential(layers.Flatten(), linear, layers.ReLU(), linear), 4, image_shape=(2, 2, 1))
    before = model.state_dict()
    different = before | {"3.weight": before["3.weight"] + 1}
    masked = before | {"1.weight": np.ma.array(before["1.weight"], mask=True)}
    for state, message in (
        (different, "weights '1.weight' and '3.weight' of this network are the same array: give both the same values"),
        (masked, "weight '1.weight' is not an array but MaskedArray"),
    ):
        with pytest.raises(UserError, match=message):
            model.load_state_dict(state)
    linear.parameters["bias"].data.flags.writeable = False
    with pytest.raises(UserError, match=r"weight '1\.bias' of this network is read-only: replace it by a copy"):
        model.load_state_dict({name: array + 1 for name, array in before.items()})
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("names", [(0, 1), ["a", 1]])
def test_names_of_classes_are_text(split, names):
    part = Split(split.images, split.labels % 2)
    with pytest.raises(UserError, match="the names of classes must be a tuple of str"):
        array_source(Dataset("mine", names, part, part))


class Mixing(layers.Layer):
    """A normalisation with the statistics of the batch, also in evaluation mode."""

    def __call__(self, x, training=False):
        return x - x.mean(axis=0)


class Noisy(layers.Layer):
    """Noise that is not left out in evaluation mode."""

    def __call__(self, x, training=False):
        return x + np.random.default_rng().standard_normal(x.shape).astype(np.float32)


@pytest.mark.parametrize("layer", [Mixing(), Noisy()])
def test_a_network_that_mixes_images_or_is_random_in_evaluation_mode_is_refused(split, layer):
    network = layers.Sequential(layers.Flatten(), layers.Linear(784, 10, generator(0, "mixing")), layer)
    model = models.Model(network, 10)
    for use in (model.predict, lambda images: PGD(2).find(model, split, spaces.ImageBall(0.1))):
        with pytest.raises(UserError, match="must not mix images or draw random numbers"):
            use(split.images)


def faulty(change):
    """Return an attack whose result is changed."""

    class Faulty:
        name = "faulty"

        def find(self, model, split, space, seed=0):
            return replace(PGD(2).find(model, split, space), **change(model, split, space))

    return Faulty()


class Corner(spaces.ImageBall):
    """Only four pixels may change."""

    def project(self, chart, codes):
        inside = chart.start.copy()
        inside[:, :2, :2] = super().project(chart, codes)[:, :2, :2]
        return inside


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (spaces.ImageBall, lambda m, s, b: {"restart_success": np.ones((3, len(s)), bool)}, "that a restart misled"),
        (spaces.ImageBall, lambda m, s, b: {"restart_success": np.ones((0, len(s)), bool)}, "must set restart_success"),
        (Corner, lambda m, s, b: moved(m, s, s.images * 0.9), "left its Corner: use space.project"),
        (spaces.TrueManifold, lambda m, s, b: moved(m, s, 1 - s.images), "do not belong to its perturbations"),
    ],
)
def test_results_of_attacks_that_are_not_what_they_claim_are_refused(trained, split, fonts, kind, change, message):
    space = kind(fonts) if kind is spaces.TrueManifold else kind(0.3)
    right = split.take(np.flatnonzero(trained.predict(split.images) == split.labels))
    attack = faulty(change)
    with pytest.raises(UserError, match=message):
        attacks.checked_result(attack, attack.find(trained, right, space), trained, right, space)


def moved(model, split, images):
    return {"images": images, "success": model.predict(images) != split.labels}


def test_an_attack_of_a_training_may_not_leave_the_ball(split):
    attack = faulty(lambda m, s, b: {"images": 1 - s.images})
    training = Training("inverted", (spaces.ImageBall,), attack=attack)
    with pytest.raises(UserError, match=r"attack faulty returned a perturbation of norm 1, but epsilon is 0\.01"):
        train(small_cnn(), split, training, epochs=1, space=spaces.ImageBall(0.01))


def test_gradients_of_operations_of_ones_own_are_counted():
    x = Tensor(np.ones(3), requires_grad=True)
    for gradients in (lambda g: [g], lambda g: g, lambda g: 0.0):
        result = Tensor.result(x.data, (x, x), gradients)
        with pytest.raises(ValueError, match="must return a list with a gradient for each input: 2 in all"):
            result.backward()


def test_means_over_several_axes():
    x = Tensor(np.random.default_rng(0).random((2, 3, 4, 5)), requires_grad=True)
    means = x.mean((1, 2))
    np.testing.assert_allclose(means.data, x.data.mean((1, 2)))
    means.backward()
    np.testing.assert_allclose(x.gradient, 1 / 12)


@pytest.mark.parametrize("layer", [layers.MaxPool(5), layers.AveragePool(5)])
def test_windows_larger_than_images_are_refused(layer):
    with pytest.raises(UserError, match="5x5"):
        layer(Tensor(np.ones((1, 4, 6, 1), np.float32)))


def test_learning_rates_may_be_an_array(fonts, split):
    few = split.take(np.arange(3))
    chart = spaces.TrueManifold(fonts).chart(few.images, few.labels, few.codes)
    assert len(project(few.images, chart, steps=1, learning_rates=np.array([0.1, 0.03])).distances) == 3


def test_a_folder_may_be_a_string(split, tmp_path):
    config = VaeConfig((2, 2), 3, epochs=0)
    all_classes_vae(split.images, config, folder=str(tmp_path / "vaes"))
    assert len(list((tmp_path / "vaes").glob("*.npz"))) == 1
    manifolds.class_vaes(split, 10, config, folder=str(tmp_path / "vaes"))
    assert len(list((tmp_path / "vaes").glob("*.npz"))) == 11


def test_a_corruption_that_changes_its_argument_does_not_change_the_data(trained, split):
    class Brighter(attacks.corruptions.Corruption):
        name = "brighter"

        def corrupted(self, images, random):
            images += 0.5
            return images

    before = split.images.copy()
    result = Brighter(queries=2).find(trained, split, spaces.ImageBall(0.1))
    np.testing.assert_array_equal(split.images, before)
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != split.labels)
