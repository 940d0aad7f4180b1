"""What users bring, written in the ways in which people write it: computed as they mean it, or refused."""

from dataclasses import dataclass

import numpy as np
import pytest
from conftest import small_cnn
from hypothesis import given
from hypothesis import strategies as st

from hlf_np import UserError, attacks, layers, models, operations, spaces
from hlf_np.attacks import PGD, SuccessRate
from hlf_np.attacks.masking import diagnose_masking
from hlf_np.attacks.objectives import difference_of_logits_ratio, margin
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.engine import Engine
from hlf_np.losses import CROSS_ENTROPY
from hlf_np.manifolds import Vae, VaeConfig
from hlf_np.manifolds.distance import project
from hlf_np.manifolds.oracle import ClassifierConfig, train_once
from hlf_np.models.architectures import Architecture, Kind
from hlf_np.optim import AdamConfig
from hlf_np.random import generator
from hlf_np.spaces.space import RunContext
from hlf_np.support.files import only_stored
from hlf_np.train_step import make_train_step
from hlf_np.training import TrainingConfig, train
from hlf_np.trainings import Perturbation, Training


def network_of(*middle, outputs=10):
    draws = generator(0, "network of a test")
    return models.Model(
        layers.Sequential(layers.Flatten(), layers.Linear(784, 12, draws), *middle, layers.Linear(12, outputs, draws)),
        outputs,
    )


# --- models with methods of their own -------------------------------------------------------------------------


def rounded(method):
    """A model one of whose methods rounds the images first, so that small perturbations change nothing."""

    def replaced(self, images):
        return getattr(models.Model, method)(self, np.round(images).astype(np.float32))

    return type("Rounded", (models.Model,), {method: replaced})


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("method", ["evaluate", "logits", "predict"])
def test_an_attack_succeeds_if_the_prediction_is_wrong_however_the_model_predicts(trained, split, method, engine):
    model = rounded(method)(trained.network, 10)
    right = split.take(np.flatnonzero(model.predict(split.images) == split.labels)[:60])
    others = [attack for attack in attacks.ATTACKS if attack.name in ("fgsm", "random")]
    for attack in [PGD(steps=5, restarts=2, engine=engine), *others, attacks.Fog(queries=2)]:
        result = attack.find(model, right, spaces.ImageBall(0.1))
        np.testing.assert_array_equal(result.success, model.predict(result.images) != right.labels)
        assert SuccessRate.of(result).worst == result.success.mean()
    assert PGD(steps=5).find(trained, right, spaces.ImageBall(0.1)).success.mean() > 0.1  # of the network itself


class Vote(models.Model):
    """An ensemble whose prediction is a vote, not the class of the largest mean logit."""

    def __init__(self, members):
        super().__init__(members[0].network, 10)
        self.members = members

    def forward(self, images, training=False):
        return (self.members[0].forward(images) + 20 * self.members[1].forward(images)) * (1 / 21)

    def predict(self, images):
        return self.members[0].predict(images)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(20, 0.02, restarts=2, engine="autodiff"),
        PGD(20, 0.02, stop_early=False),
        attacks.AutoPGD(20, restarts=2),
        attacks.CarliniWagner(20, learning_rate=0.05),
    ],
    ids=repr,
)
def test_attacks_stop_where_the_prediction_changes_and_not_the_largest_output(trained, split, attack):
    model = Vote([trained, small_cnn(seed=5)])  # the second member is untrained and wrong about nearly everything
    right = split.take(np.flatnonzero(model.predict(split.images) == split.labels)[:40])
    result = attack.find(model, right, spaces.ImageBall(0.3))
    np.testing.assert_array_equal(result.success, model.predict(result.images) != right.labels)
    np.testing.assert_array_equal(result.success, result.restart_success.any(axis=0))
    assert np.abs(result.perturbations[~result.success]).max(initial=0.1) > 0.01  # none was given up at its start


class Rounding(layers.Layer):
    def __call__(self, x, training=False):
        return Tensor(np.round(x.data))  # passes no gradient


def test_a_network_that_rounds_masks_its_gradients_and_is_attacked_in_vain(split):
    network = network_of().network
    model, few = models.Model(layers.Sequential(Rounding(), *network.layers), 10), split.take(np.arange(30))
    assert diagnose_masking(model, few, 0.3).vanishing == 1
    for attack in (PGD(steps=3, start="image"), attacks.AutoPGD(steps=3), attacks.CarliniWagner(3)):
        result = attack.find(model, few, spaces.ImageBall(0.01))
        np.testing.assert_array_equal(result.success, model.predict(result.images) != few.labels)


def test_a_thorough_attack_keeps_the_strongest_of_its_failures(trained, split):
    right = split.take(np.flatnonzero(trained.predict(split.images) == split.labels)[:60])
    space = spaces.ImageBall(0.02)
    thorough = attacks.ThoroughAttack(5, 2, 20).find(trained, right, space)
    single, several = (attacks.AutoPGD(5, restarts=n).find(trained, right, space) for n in (1, 3))
    losses = operations.cross_entropy(Tensor(trained.logits(thorough.images)), right.labels).data
    np.testing.assert_array_equal(thorough.loss, losses)
    for other in (thorough, several):
        withstood = ~other.success
        assert withstood.any()
        assert (other.loss[withstood] >= single.loss[withstood]).all()


def test_tiny_gradients_give_steps_of_the_step_size_and_not_longer(split):
    model = network_of()
    head = model.network.layers[-1]
    for name, scale in (("weight", 600), ("bias", 0)):
        head.parameters[name].data *= np.float32(scale)
    few = split.take(np.arange(40))
    few = Split(few.images, model.predict(few.images))  # labels of which the model is sure
    one_step = {"steps": 1, "step_size": 0.05, "rule": "sign", "start": "image", "stop_early": False}
    lengths = [
        spaces.Norm.L2.of(PGD(**one_step, engine=engine).find(model, few, spaces.ImageBall(1.0, "l2")).perturbations)
        for engine in Engine
    ]
    assert np.logical_and(lengths[0] > 0, lengths[0] < 0.0501).any()
    np.testing.assert_allclose(lengths[0], lengths[1], atol=1e-4)


def test_the_divergence_has_no_gradient_at_the_image():
    with pytest.raises(UserError, match="kl has no gradient at the image itself: use start='random'"):
        PGD(objective="kl", start="image")


# --- spaces ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContrastChart(spaces.Chart):
    of_images = ("start", "images")
    images: np.ndarray

    def decode(self, codes):
        return codes * (self.images - 0.5) + 0.5  # beyond [0, 1] for codes above 1


class Contrast(spaces.Space):
    def chart(self, images, labels, codes):
        ones = np.ones((len(images), 1, 1, 1), np.float32)
        return ContrastChart(ones, 0.25 * ones[:1], 8 * ones[:1], images)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(steps=5, step_size=0.5, restarts=2),
        attacks.AutoPGD(steps=10),
        attacks.CarliniWagner(10),
        attacks.RandomSearch(20),
    ],
    ids=lambda attack: attack.name,
)
def test_images_outside_of_the_unit_interval_are_no_successes(trained, split, attack):
    right = split.take(np.flatnonzero(trained.predict(split.images) == split.labels)[:60])
    result = attack.find(trained, right, Contrast(7.0))
    assert 0 <= result.images.min() <= result.images.max() <= 1
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != right.labels)
    assert SuccessRate.of(result).worst == pytest.approx(result.restart_success.any(axis=0).mean())
    assert not (result.restart_success.any(axis=0) & ~result.success).any()


@given(st.lists(st.floats(-2, 3, width=32), min_size=1, max_size=9))
def test_clipping_lets_gradients_pass_where_it_changes_nothing(values):
    x = Tensor(np.array(values, np.float32), requires_grad=True)
    y = operations.clip(x, 0, 1)
    y.backward()
    np.testing.assert_array_equal(y.data, np.clip(x.data, 0, 1))
    unchanged = (x.data >= -1e-6) & (x.data <= 1 + 1e-6)
    assert (x.gradient[(x.data > 0) & (x.data < 1)] == 1).all()
    assert (x.gradient[~unchanged & (np.abs(x.data - 1) > 2e-6) & (np.abs(x.data) > 2e-6)] == 0).all()


def test_an_infinite_box_is_refused_where_a_finite_one_is_needed(trained, split):
    class Unbounded(Contrast):
        def chart(self, images, labels, codes):
            chart = super().chart(images, labels, codes)
            return ContrastChart(chart.start, -np.inf * chart.start, np.inf * chart.start, images)

    with pytest.raises(UserError, match="cw needs a space whose box is finite, unlike that of Unbounded"):
        attacks.CarliniWagner(1).find(trained, split, Unbounded(1.0))


class Halved(type(spaces.ImageBall().chart(np.zeros((1, 2, 2, 1), np.float32), np.zeros(1, np.int64), None))):
    codes_are_images = False

    def image_of(self, codes):
        return super().image_of(codes) * 0.5


def test_a_chart_that_makes_images_in_its_own_way_is_not_compiled(trained, split):
    class Dark(spaces.ImageBall):
        starts_at_image = False

        def chart(self, images, labels, codes):
            chart = super().chart(images, labels, codes)
            return Halved(chart.start, chart.lower, chart.upper)

    few = split.take(np.arange(60))
    compiled, readable = (PGD(5, 0.05, engine=engine).find(trained, few, Dark(0.2)) for engine in Engine)
    assert compiled.images.max() <= 0.5
    np.testing.assert_array_equal(compiled.images, readable.images)


def test_a_chart_may_have_a_box_for_each_image(trained, split):
    class OwnBoxes(Contrast):
        def chart(self, images, labels, codes):
            chart, ones = super().chart(images, labels, codes), np.ones((len(images), 1, 1, 1), np.float32)
            return ContrastChart(chart.start, 0.25 * ones, (1 + labels.astype(np.float32)).reshape(ones.shape), images)

    result = PGD(10, 0.5).find(trained, split, OwnBoxes(20.0))  # early stops and several batches select images
    assert ((1 + result.perturbations).ravel() <= 1 + split.labels).all()


def test_vaes_that_encode_in_their_own_way_are_refused():
    own = type("Own", (Vae,), {"encode": lambda self, images: images})
    with pytest.raises(UserError, match="a learned manifold would not use `encode` of Own"):
        spaces.LearnedManifold([own(VaeConfig((2, 2), 3))])


def test_a_decoder_need_not_end_in_a_sigmoid(trained, split):
    vaes = [Vae(VaeConfig([2, 2], 3, image_shape=[28, 28, 1]), seed) for seed in range(10)]
    for vae in vaes:
        vae.decoder = layers.Sequential(*vae.decoder.layers[:-1])
    space = spaces.LearnedManifold(vaes, lower=-np.ones(3), upper=np.ones(3))
    few = split.take(np.arange(30))
    compiled, readable = (PGD(3, 0.1, engine=engine).find(trained, few, space) for engine in Engine)
    assert 0 <= compiled.images.min() <= compiled.images.max() <= 1
    np.testing.assert_array_equal(compiled.success, readable.success)


def test_bounds_of_double_precision_are_those_of_float32_codes(trained, split):
    class Double(Contrast):
        def chart(self, images, labels, codes):
            chart = super().chart(images, labels, codes)
            return ContrastChart(chart.start, chart.lower.astype(np.float64), 8.0, images)

    few = split.take(np.arange(20))
    for attack in (PGD(steps=3), attacks.AutoPGD(steps=3), attacks.CarliniWagner(3), attacks.RandomSearch(3)):
        single, double = (attack.find(trained, few, kind(7.0), seed=1) for kind in (Contrast, Double))
        np.testing.assert_array_equal(single.images, double.images)


def test_of_two_spaces_of_a_kind_the_exact_one_is_meant_and_two_of_these_are_refused():
    class Small(spaces.ImageBall):
        pass

    both = Training("both_balls", (spaces.ImageBall, Small))
    for given_spaces in ((Small(0.05), spaces.ImageBall(0.2)), (spaces.ImageBall(0.2), Small(0.05))):
        shares = both.perturbations(given_spaces)
        assert [share.space.epsilon for share in shares] == [0.2, 0.05]
    with pytest.raises(UserError, match="needs a single ImageBall, not 2: leave the others out"):
        both.perturbations((spaces.ImageBall(0.1), spaces.ImageBall(0.2), Small(0.1)))


@pytest.mark.parametrize(("change", "message"), [((0, 20), "between 0 and 9"), ((3, 0), r"outside \[0, 1\]")])
@pytest.mark.parametrize("engine", Engine)
def test_samples_of_a_space_are_checked(split, engine, change, message):
    class Odd(spaces.ImageBall):
        def sampled(self, part, random):
            return Split(part.images + change[0], part.labels + change[1])

    with pytest.raises(UserError, match=message):
        train(small_cnn(), split, config=TrainingConfig(epochs=1, samples=Odd(), engine=engine))


# --- layers ---------------------------------------------------------------------------------------------------


class Scale(layers.Layer):
    """A layer as the base class documents it, which reads its parameter directly."""

    def __init__(self):
        super().__init__()
        self.parameters = {"scale": Tensor(np.full(12, 2, np.float32), requires_grad=True)}

    def __call__(self, x, training=False):
        return operations.tanh(x * self.parameters["scale"])


def test_gradients_of_attacks_do_not_enter_the_training(split):
    class Detached(Scale):
        def __call__(self, x, training=False):
            return operations.tanh(x * self._parameter("scale", training))

    first, second = network_of(Scale()), network_of(Detached())
    for model in (first, second):
        train(model, split, "adversarial", epochs=1, batch_size=50)
    np.testing.assert_array_equal(first.state_dict()["2.scale"], second.state_dict()["2.scale"])


class Nested(layers.Layer):
    """Layers in a dictionary and in a list of lists."""

    def __init__(self):
        super().__init__()
        draws = generator(1, "nested")
        self.by_name = {"a": layers.Linear(12, 12, draws)}
        self.grid = [[layers.Linear(12, 12, draws)], (layers.ReLU(),)]

    def __call__(self, x, training=False):
        return self.grid[1][0](self.grid[0][0](self.by_name["a"](x, training), training))


class WithHead(layers.Sequential):
    """A sequence with one more layer."""

    def __init__(self, *parts, head):
        super().__init__(*parts)
        self.head = head

    def __call__(self, x, training=False):
        return self.head(super().__call__(x, training), training)

    def output_shape(self, shape):
        return self.head.output_shape(super().output_shape(shape))


def test_layers_are_found_wherever_they_are_kept(split):
    draws = generator(2, "head")
    nested = network_of(Nested())
    head = models.Model(
        WithHead(layers.Flatten(), layers.Linear(784, 12, draws), head=layers.Linear(12, 10, draws)), 10
    )
    names = {"2.by_name.a.weight", "2.grid.0.0.weight"}, {"1.weight", "head.weight"}
    for model, expected in zip((nested, head), names, strict=True):
        before = model.state_dict()
        assert expected <= before.keys()
        train(model, split, epochs=1)
        after = model.state_dict()
        assert all((after[name] != before[name]).any() for name in expected)


def test_a_parameter_that_would_not_be_trained_is_named(split):
    class Attribute(layers.Layer):
        def __init__(self):
            super().__init__()
            self.scale = Tensor(np.ones(12, np.float32), requires_grad=True)

        def __call__(self, x, training=False):
            return x * self.scale

    class Forgetful(Nested):
        def __call__(self, x, training=False):
            return self.by_name["a"](x)

    with pytest.raises(UserError, match=r"Attribute\(\) has its parameter 'scale' as an attribute: put it into"):
        train(network_of(Attribute()), split, epochs=1)
    with pytest.raises(UserError, match=r"'2\.by_name\.a\.weight' gets no gradient from the loss: pass `training` on"):
        train(network_of(Forgetful()), split, epochs=1)


class Torchlike(layers.Layer):
    def forward(self, x):
        return x


class Unready(layers.Layer):
    def __init__(self):
        self.factor = 2.0

    def __call__(self, x, training=False):
        return x * self.factor


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Torchlike, r"Torchlike must define __call__\(self, x, training=False\)"),
        (Unready, r"Unready\.__init__ must call super\(\)\.__init__\(\) first"),
    ],
)
def test_an_incomplete_layer_is_named(split, layer, message):
    with pytest.raises(UserError, match=message):
        network_of(layer()).predict(split.images)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, -1, 2]), "between 0 and 9, found -1 to 2"),
        (np.eye(10, dtype=int)[:3], r"use labels\.argmax\(axis=1\)"),
        (np.array([0, 1]), r"shape \(3,\)"),
        (np.array([0.0, 1.0, 2.0]), "must be integers"),
    ],
)
@pytest.mark.parametrize("loss", [operations.cross_entropy, margin, difference_of_logits_ratio])
def test_losses_take_one_class_for_each_row(loss, labels, message):
    with pytest.raises(UserError, match=message):
        loss(Tensor(np.zeros((3, 10), np.float32)), labels)


class TwoNetworks(models.Model):
    def __init__(self, kept_in, requires_grad):
        super().__init__(network_of().network, 10)
        second = network_of()
        self.second, self.forward_second = kept_in(second), second.forward
        for parameter in second.parameters():
            parameter.requires_grad = requires_grad

    def forward(self, images, training=False):
        return self.network(images, training) + self.forward_second(images, training)


@pytest.mark.parametrize("kept_in", [lambda model: model.network, lambda model: [model], lambda model: {"b": (model,)}])
def test_parameters_outside_of_the_network_are_named_unless_frozen(split, kept_in):
    with pytest.raises(UserError, match="a parameter outside of the `network`"):
        train(TwoNetworks(kept_in, True), split, epochs=1)
    assert len(train(TwoNetworks(kept_in, False), split, epochs=1)) == 1


def test_a_model_that_forgets_the_training_mode_is_told_so(split):
    forgetful = type("Model", (models.Model,), {"forward": lambda self, images, training=False: self.network(images)})
    with pytest.raises(UserError, match=r"'1\.weight' gets no gradient from the loss: pass `training` on"):
        train(forgetful(network_of().network, 10), split, epochs=1)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_a_single_image_has_no_batch_statistics(split, batch_size):
    with pytest.raises(UserError, match="batch norm needs at least 2 values"):
        train(models.mlp(widths=(4,)), split.take([0]), epochs=1, batch_size=batch_size)


def test_a_gradient_of_another_shape_than_its_input_is_refused():
    bias = Tensor(np.zeros(3, np.float32), requires_grad=True)
    total = Tensor.result(np.ones((2, 3), np.float32) + bias.data, (bias,), lambda g: [g])
    with pytest.raises(ValueError, match=r"test_own_ideas.py:\d+\) returned a gradient of shape \(2, 3\) for an input"):
        total.backward()


# --- what changes after it was made ---------------------------------------------------------------------------


def freeze(model):
    model.parameters()[0].requires_grad = False


def set_momentum(model):
    next(layer for layer in model.network.every_layer() if isinstance(layer, layers.BatchNorm)).momentum = 0.0


def replace_activations(model):
    model.network.layers = tuple(
        layers.LeakyReLU(0.3) if isinstance(layer, layers.ReLU) else layer for layer in model.network.layers
    )


def replace_head(model):
    model.network.layers = (*model.network.layers[:-1], layers.Linear(12, 10, generator(3, "head")))


@pytest.mark.parametrize("change", [freeze, set_momentum, replace_activations, replace_head])
@pytest.mark.parametrize("engine", Engine)
def test_a_network_that_changes_in_the_course_of_its_training_is_trained_as_it_is_or_refused(split, engine, change):
    model, config = small_cnn(), TrainingConfig(epochs=3, engine=engine)
    if engine is Engine.AUTODIFF and change is not replace_head:
        log = train(model, split, config=config, progress=lambda entry: change(model) if entry.epoch == 1 else None)
        assert len(log) == 3
        return
    with pytest.raises(UserError, match=r"the network (changed while it was trained|has other parameters than at the)"):
        train(model, split, config=config, progress=lambda entry: change(model) if entry.epoch == 1 else None)


@pytest.mark.parametrize("change", [replace_activations, set_momentum, lambda model: setattr(model, "forward", None)])
def test_a_changed_network_is_not_saved_as_if_it_were_the_original(tmp_path, change):
    model = small_cnn()
    model.save(tmp_path / "model.npz")
    change(model)
    with pytest.raises(UserError, match="a custom or changed network has no architecture to save"):
        model.save(tmp_path / "changed.npz")
    vae = Vae(VaeConfig((2, 2), 3))
    vae.save(tmp_path / "vae.npz")
    next(layer for layer in vae.every_layer() if isinstance(layer, layers.BatchNorm)).epsilon = 0.5
    with pytest.raises(UserError, match="a changed VAE cannot be saved"):
        vae.save(tmp_path / "vae.npz")
    assert len(list(tmp_path.iterdir())) == 2


# --- settings that would have no effect -----------------------------------------------------------------------


def test_a_class_cannot_set_fields_that_its_constructor_overwrites():
    """`class Strong(PGD): steps = 200` inherits a constructor that sets 40 steps."""
    for base, field in [
        (PGD, {"steps": 200}),
        (spaces.ImageBall, {"epsilon": 0.05}),
        (attacks.Blur, {"max_width": 5.0}),
        (attacks.AutoPGD, {"restarts": 3}),
        (attacks.ThoroughAttack, {"steps": 500}),
        (AdamConfig, {"decay": 0.5}),
    ]:
        with pytest.raises(UserError, match=f"class Mine sets {next(iter(field))!r} without effect: decorate it"):
            type("Mine", (base,), field)()
        type("Mine", (base,), {"name": "mine"})()  # a class variable, no field
    for base, argument in ((Training, "mine"), (Perturbation, spaces.ImageBall())):
        with pytest.raises(UserError, match="class Mine sets 'fraction' without effect: decorate it"):
            type("Mine", (base,), {"fraction": 1.0})(argument)


@dataclass(frozen=True)
class Tiny(spaces.ImageBall):
    name = "tiny"
    epsilon: float = 0.05


def test_the_default_epsilon_of_a_class_of_ones_own_holds_in_runs(fonts):
    run = RunContext(fonts, epsilon=0.2)
    assert Tiny.of_run(run) == Tiny(0.05)
    assert spaces.ImageBall.of_run(run) == spaces.ImageBall(0.2)


def test_the_default_norm_of_a_class_of_ones_own_holds_in_runs(fonts):
    @dataclass(frozen=True)
    class Euclidean(spaces.Space):
        epsilon: float = 2.0
        norm: spaces.Norm = spaces.Norm.L2

        def chart(self, images, labels, codes):
            raise NotImplementedError

    @dataclass(frozen=True)
    class Ball(spaces.ImageBall):
        norm: spaces.Norm = spaces.Norm.L2

    for norm in spaces.Norm:
        run = RunContext(fonts, norm=norm)
        assert Euclidean.of_run(run) == Euclidean(2.0, spaces.Norm.L2)
        assert Ball.of_run(run) == Ball(0.3, spaces.Norm.L2)
        assert spaces.ImageBall.of_run(run).norm == spaces.TrueManifold.of_run(run).norm == norm


@dataclass(frozen=True)
class Plain(spaces.ImageBall):
    """A subclass without a default of its own."""


def test_the_epsilon_of_a_run_holds_for_classes_without_a_default(fonts):
    assert Plain.of_run(RunContext(fonts, epsilon=0.2)) == Plain(0.2)


@pytest.mark.parametrize("engine", Engine)
def test_only_the_parameters_of_a_model_are_trained(split, engine):
    class HeadOnly(models.Model):
        def parameters(self):
            return list(self.network.layers[-1].parameters.values())

    model = HeadOnly(small_cnn().network, 10)
    before = model.state_dict()
    train(model, split, config=TrainingConfig(epochs=1, engine=engine))
    changed = {name for name, array in model.state_dict().items() if not np.array_equal(array, before[name])}
    head = {name for name in before if name.split(".")[0] == max((n.split(".")[0] for n in before), key=int)}
    assert {name for name in changed if "running" not in name} == head


def test_a_trainable_tensor_of_a_loss_is_refused(split):
    temperature = Tensor(np.ones(1, np.float32), requires_grad=True)

    def scaled(model, clean, perturbed, labels):
        return operations.cross_entropy(model(perturbed) * temperature, labels)

    with pytest.raises(UserError, match=r"a parameter outside of the `network`, Tensor\(shape=\(1,\)"):
        train(small_cnn(), split, Training("scaled", loss=scaled), epochs=1)


@pytest.mark.parametrize(
    "settings",
    [{"attack": PGD(1)}, {"random": True}, {"objective": attacks.Objective.MARGIN}, {"fraction": 0.5}],
    ids=str,
)
def test_a_training_without_spaces_perturbs_nothing(settings):
    with pytest.raises(UserError, match="training mine perturbs nothing without `spaces`"):
        Training("mine", **settings)


@pytest.mark.parametrize(
    ("training", "settings", "message"),
    [
        (Training("most", (spaces.ImageBall,), fraction=0.8), {"variant": "full"}, "'full' contradicts the settings"),
        (Training("mine", (spaces.ImageBall,), attack=PGD(1)), {"variant": "weak"}, "'weak' contradicts the settings"),
        ("adversarial", {"batch_size": 1}, "0.5 of a batch of 1 is no image to perturb: use a larger batch_size"),
    ],
)
def test_settings_that_cannot_hold_are_refused(split, training, settings, message):
    with pytest.raises(UserError, match=message):
        train(small_cnn(), split, training, epochs=1, **settings)


# --- codes and images that do not belong together -------------------------------------------------------------


def test_codes_of_other_images_are_refused(fonts, trained, split):
    manifold, few = spaces.TrueManifold(fonts), split.take(np.arange(20))
    backwards = np.arange(20)[::-1]
    for wrong, message in [
        (Split(few.images, few.labels, split.codes), "150 codes for 20 images"),
        (Split(few.images[backwards], few.labels[backwards], few.codes), "do not decode to the images"),
        (Split(few.images, few.labels, few.codes.take(backwards)), "do not decode to the images"),
    ]:
        for attack in (PGD(2), attacks.AutoPGD(2), attacks.RandomSearch(2)):
            with pytest.raises(UserError, match=message):
                attack.find(trained, wrong, manifold)
        with pytest.raises(UserError, match=message):
            train(small_cnn(), wrong, "on_true_manifold_adversarial", epochs=1, batch_size=10, space=manifold)


def test_an_attack_that_does_not_project_refuses_a_projection_of_ones_own(trained, split):
    class Patch(spaces.ImageBall):
        def project(self, chart, codes):
            codes = super().project(chart, codes)
            codes[:, :14] = chart.start[:, :14]
            return codes

    few = split.take(np.arange(10))
    with pytest.raises(UserError, match="cw does not use `project`, which Patch redefines: use pgd"):
        attacks.CarliniWagner(2).find(trained, few, Patch(0.3))
    assert (attacks.AutoPGD(2).find(trained, few, Patch(0.3)).perturbations[:, :14] == 0).all()


# --- networks that are stored once ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Doubled:
    def __call__(self, model, clean, perturbed, labels):
        return operations.cross_entropy(model(perturbed) * 2, labels)


def test_networks_of_other_classes_of_settings_are_not_loaded(split, tmp_path):
    small = Architecture(Kind.CNN, (2, 2), hidden_units=4)
    trained_with = {
        loss: train_once(
            "m", ClassifierConfig(small, TrainingConfig(epochs=1, loss=loss)), split, np.int64(1), tmp_path
        ).state_dict()["0.weight"]
        for loss in (CROSS_ENTROPY, Doubled())
    }
    assert len(list(tmp_path.iterdir())) == 2
    assert not np.array_equal(*trained_with.values())
    config = ClassifierConfig(small, TrainingConfig(epochs=0, loss=lambda *_: None))
    with pytest.raises(UserError, match="cannot be told from others by <function"):
        train_once("m", config, split, folder=tmp_path)
    with pytest.raises(UserError, match=r"holds 2 files m-\*\.npz: remove all but one"):
        only_stored("m", tmp_path)


# --- degenerate shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 9])
def test_a_single_row_of_pixels_is_at_the_centre(width):
    """Rotations about the centre leave the central pixel where it is."""
    images = np.zeros((1, 1, width, 1), np.float32)
    images[0, 0, width // 2] = 1
    turned = attacks.Rotation(max_angle=0.5).corrupted(images, np.random.default_rng(0))
    if width % 2:
        assert turned[0, 0, width // 2, 0] == pytest.approx(1, abs=1e-6)
    for dtype in (np.float32, np.float64):
        sheared = np.array([[0, 0, 0.5, 0, 1, 0]], dtype)
        moved = operations.warp(Tensor(images.astype(dtype)), Tensor(sheared)).data
        np.testing.assert_allclose(moved, images, atol=1e-6)  # the only row is at y = 0


def test_fog_has_a_cloud_on_small_images():
    images = np.full((4, 3, 3, 1), 0.5, np.float32)
    foggy = attacks.Fog().corrupted(images, np.random.default_rng(0))
    assert foggy.std(axis=(1, 2, 3)).min() > 0.01


def test_no_images_have_no_results(split):
    none, tanh = split.take(np.arange(0)), network_of(layers.Tanh())
    assert tanh.logits(none.images).shape == (0, 10)
    for attack in (PGD(2), attacks.FGSM(), attacks.AutoPGD(2), attacks.RandomSearch(2)):
        assert len(attack.find(tanh, none, spaces.ImageBall(0.1)).success) == 0


def test_evaluate_takes_images_of_its_shape_only():
    with pytest.raises(UserError, match=r"images must have shape \(28, 28, 1\) each, not \(1, 28, 28\)"):
        small_cnn().evaluate(np.zeros((5, 1, 28, 28), np.float32))


def test_the_shape_of_images_has_three_entries_of_any_sequence():
    network = small_cnn().network
    assert models.Model(network, 10, [28, 28, 1]).image_shape == (28, 28, 1)
    with pytest.raises(UserError, match=r"the shape of an image must be \(H, W, C\), not \(28, 28\)"):
        models.Model(network, 10, (28, 28))


def test_projections_of_images_that_are_not_finite_are_refused(fonts, split):
    few = split.take(np.arange(3))
    chart = spaces.TrueManifold(fonts).chart(few.images, few.labels, few.codes)
    with pytest.raises(UserError, match="distances need images without NaN"):
        project(few.images * np.nan, chart)
    with pytest.raises(UserError, match="at least one learning rate"):
        project(few.images, chart, learning_rates=())


def test_counts_of_any_integer_type_are_stored_as_int():
    assert type(PGD(steps=np.uint8(255)).steps) is int
    assert type(TrainingConfig(epochs=np.int64(1)).epochs) is int
    assert type(VaeConfig((np.int64(2), 2), np.int64(3)).channels[0]) is int


# --- what a compiled program or a kernel must not take ------------------------------------------------------------


def with_an_unused_layer(network, draws):
    network.layers[1].aside = layers.Linear(3, 2, draws)


def with_an_unused_parameter(network, draws):
    network.layers[0].parameters["aside"] = layers.Linear(3, 2, draws).parameters["weight"]


def with_unused_statistics(network, draws):
    network.layers[2].buffers["aside"] = np.arange(3, dtype=np.float32)


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("add", [with_an_unused_layer, with_an_unused_parameter, with_unused_statistics])
def test_arrays_that_the_forward_pass_does_not_use_are_never_overwritten(split, add, engine):
    draws = generator(0, "network of a test")
    network = layers.Sequential(
        layers.Convolution(1, 4, draws), layers.ReLU(), layers.Flatten(), layers.Linear(4 * 14 * 14, 10, draws)
    )
    add(network, draws)
    model = models.Model(network, 10)
    before = {name: array for name, array in model.state_dict().items() if "aside" in name}
    config = TrainingConfig(epochs=1, batch_size=20, engine=engine)
    if add is with_unused_statistics:
        train(model, split.take(slice(40)), config=config)
    else:
        with pytest.raises(UserError, match=r"aside.* gets no gradient from the loss"):
            train(model, split.take(slice(40)), config=config)
    assert before
    for name, array in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], array)


@pytest.mark.parametrize("engine", Engine)
def test_a_training_step_takes_matching_images_and_labels_only(split, engine):
    few = split.take(slice(20))
    step = make_train_step(small_cnn(), AdamConfig(), engine=engine).step
    for images, labels in (
        (few.images, few.labels + 10),
        (few.images, few.labels - 10),
        (few.images, few.labels[:10]),
        (few.images[:, 1:, 1:], few.labels),
    ):
        with pytest.raises(ValueError, match=r"labels|images"):
            step(images, images, labels, 0.01)


@pytest.mark.parametrize("engine", Engine)
def test_a_network_replaced_while_it_is_trained_is_an_error(split, engine):
    model = small_cnn()

    def replace_network(entry):
        model.network = small_cnn(seed=1).network

    with pytest.raises(UserError, match="network"):
        train(model, split.take(slice(40)), epochs=2, progress=replace_network, config=None)


def test_kernels_do_not_read_beyond_their_arrays():
    rng = np.random.default_rng(0)
    images = Tensor(rng.random((3, 5, 5, 1), np.float32))
    with pytest.raises(ValueError, match="3 images cannot be warped by 1 maps"):
        operations.warp(images, Tensor(np.zeros((1, 6), np.float32)))
    weight = Tensor(rng.random((1, 1, 3, 3), np.float32))
    for convolve in (operations.convolution, operations.transposed_convolution):
        for stride, padding in ((1, -1), (0, 0)):
            with pytest.raises(ValueError, match="the stride must be at least 1 and the padding at least 0"):
                convolve(images, weight, None, stride, padding)


@pytest.mark.parametrize("engine", Engine)
def test_vanishing_gradients_do_not_overflow(engine):
    model = network_of()
    model.parameters()[-1].data[1] = 96  # gradients of the loss are as small as single precision has them
    images = np.full((4, 28, 28, 1), 0.5, np.float32)
    result = PGD(3, step_size=7.0, rule="sign", start="image", engine=engine).find(
        model, Split(images, np.ones(4, np.int64)), spaces.ImageBall(7.0, "l2")
    )
    assert np.isfinite(result.images).all()


def test_a_setting_that_is_an_array_may_change_in_place(split):
    draws = generator(0, "network of a test")
    normalized = layers.BatchNorm(4)
    normalized.epsilon = np.array(1e-5, np.float32)
    network = layers.Sequential(
        layers.Convolution(1, 4, draws), normalized, layers.Flatten(), layers.Linear(4 * 14 * 14, 10, draws)
    )
    model = models.Model(network, 10)
    for epsilon in (1e-5, 5):
        normalized.epsilon[...] = epsilon
        expected = network(Tensor(split.images[:5])).data
        np.testing.assert_allclose(model.logits(split.images[:5]), expected, rtol=1e-4, atol=1e-5)


def test_masked_images_are_refused():
    with pytest.raises(UserError, match="images must be a NumPy array, not MaskedArray"):
        small_cnn().logits(np.ma.masked_array(np.zeros((1, 28, 28, 1)), mask=True))


def test_a_vae_with_its_own_posterior_encodes_with_it():
    class Shifted(Vae):
        def posterior(self, images, training=False):
            mean, log_variance = super().posterior(images, training)
            return mean + 7, log_variance

    config, images = VaeConfig((2, 2), 3), np.full((2, 28, 28, 1), 0.5, np.float32)
    np.testing.assert_allclose(Shifted(config).encode(images), Vae(config).encode(images) + 7, rtol=1e-5)
