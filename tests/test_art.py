"""Our models as estimators of the Adversarial Robustness Toolbox, where it is installed."""

import sys

import numpy as np
import pytest

from hlf_np import UserError, attacks
from hlf_np.attacks import Objective
from hlf_np.autodiff import Tensor
from hlf_np.layers import Flatten, Linear, Sequential, Tanh
from hlf_np.models import Model
from hlf_np.random import generator
from hlf_np.spaces import ImageBall

pytestmark = pytest.mark.stress


def test_without_art_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "art", None)
    monkeypatch.setitem(sys.modules, "art.estimators", None)
    monkeypatch.delitem(sys.modules, "hlf_np.adapters.art", raising=False)
    with pytest.raises(UserError, match=r"pip install 'hlf_np\[art\]'"):
        import hlf_np.adapters.art  # noqa: F401


@pytest.fixture(scope="module")
def evasion():
    """ART's attacks."""
    return pytest.importorskip("art.attacks.evasion")


@pytest.fixture
def classifier(evasion, trained):
    from hlf_np.adapters.art import Classifier

    return Classifier(trained)


def numerical(function, images, along, step=1e-2):
    return (function(images + step * along) - function(images - step * along)) / (2 * step)


def test_the_estimator_says_what_the_model_says(classifier, trained, split):
    assert (classifier.nb_classes, classifier.input_shape, classifier.channels_first) == (10, (28, 28, 1), False)
    np.testing.assert_array_equal(classifier.clip_values, (0, 1))
    assert classifier.get_params()["model"] is trained
    np.testing.assert_array_equal(classifier.predict(split.images.astype(np.float64)), trained.logits(split.images))
    one_hot = np.eye(10)[split.labels]
    losses = Objective.CROSS_ENTROPY.of(Tensor(trained.logits(split.images)), split.labels).data
    np.testing.assert_array_equal(classifier.compute_loss(split.images, one_hot), losses)
    np.testing.assert_array_equal(classifier.compute_loss(split.images, split.labels, reduction="mean"), losses.mean())
    last = classifier.layer_names[-1]
    np.testing.assert_allclose(classifier.get_activations(split.images, last), trained.logits(split.images), atol=1e-4)


@pytest.mark.parametrize("objective", [objective for objective in Objective if objective != "kl"])
def test_loss_gradients_are_those_of_the_objective(evasion, trained, split, objective):
    from hlf_np.adapters.art import Classifier

    classifier, images = Classifier(trained, objective), np.clip(split.images, 0.1, 0.9)
    random = np.random.default_rng(0)
    gradients = classifier.loss_gradient(images, split.labels)
    along = random.standard_normal(images.shape).astype(np.float32) * 0.05
    expected = numerical(lambda x: classifier.compute_loss(x, split.labels), images, along)
    found = (gradients * along).sum(axis=(1, 2, 3))
    assert np.corrcoef(found, expected)[0, 1] > 0.99


def test_class_gradients_add_up_to_the_loss_gradient(classifier, trained, split):
    images, labels = split.images[:20], split.labels[:20]
    each = classifier.class_gradient(images)
    assert each.shape == (20, 10, 28, 28, 1)
    logits = trained.logits(images).astype(np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.einsum("nk,nkhwc->nhwc", softmax - np.eye(10)[labels], each)
    np.testing.assert_allclose(classifier.loss_gradient(images, labels), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(classifier.class_gradient(images, 3), each[:, 3:4], atol=1e-5)
    own = each[np.arange(20), labels][:, None]
    np.testing.assert_allclose(classifier.class_gradient(images, labels), own, atol=1e-5)


def outside(images, seed=0):
    """Images as attacks make them on their way."""
    return images + np.random.default_rng(seed).normal(0, 0.5, images.shape)


@pytest.fixture(params=["compiled", "of layers that do not compile"])
def network(request, trained):
    """A model of each kind."""
    if request.param == "compiled":
        return trained
    draws = generator(0, "own")
    return Model(Sequential(Flatten(), Linear(784, 20, draws), Tanh(), Linear(20, 10, draws)), classes=10)


def test_it_answers_for_any_finite_numbers(evasion, network, split):
    from hlf_np.adapters.art import Classifier

    images, classifier = outside(split.images), Classifier(network)
    with pytest.raises(UserError, match="outside"):
        network.logits(images.astype(np.float32))
    expected = network.forward(Tensor(images.astype(np.float32))).data
    for size in (128, 7):
        np.testing.assert_allclose(classifier.predict(images, batch_size=size), expected, rtol=0, atol=1e-4)
    losses = Objective.CROSS_ENTROPY.of(Tensor(expected), split.labels).data
    np.testing.assert_allclose(classifier.compute_loss(images, split.labels), losses, rtol=0, atol=1e-3)
    gradients = classifier.loss_gradient(images, split.labels)
    np.testing.assert_allclose(classifier.loss_gradient(images, split.labels, batch_size=7), gradients, atol=1e-6)
    assert classifier.class_gradient(images[:9], 3, batch_size=2).shape == (9, 1, 28, 28, 1)


def test_images_that_no_network_can_take_are_refused(classifier, split):
    for bad, problem in ((split.images.transpose(0, 3, 1, 2), "channels come last"), (split.images * np.nan, "NaN")):
        for method in (classifier.predict, lambda x: classifier.loss_gradient(x, split.labels)):
            with pytest.raises(UserError, match=problem):
                method(bad)


def test_labels_come_in_every_form_that_fits(classifier, split):
    images, labels = split.images[:20], split.labels[:20]
    expected = classifier.loss_gradient(images, labels)
    for same in (labels[:, None], np.eye(10)[labels], labels.astype(np.int8), labels.astype(float), labels.tolist()):
        np.testing.assert_array_equal(classifier.loss_gradient(images, same), expected)
    each = classifier.class_gradient(images)
    for label in (3, np.int64(3), np.full(20, 3), [3] * 20):
        np.testing.assert_allclose(classifier.class_gradient(images, label), each[:, 3:4], atol=1e-6)
    for wrong in (labels + 10, labels[:5], np.eye(9)[labels % 9]):
        with pytest.raises(UserError, match="labels must"):
            classifier.compute_loss(images, wrong)
    for label in (10, -1, [3, 4]):
        with pytest.raises(UserError, match="labels must"):
            classifier.class_gradient(images, label)
    with pytest.raises(UserError, match="unknown reduction 'median'"):
        classifier.compute_loss(images, labels, reduction="median")


@pytest.mark.parametrize("method", ["logits", "predict"])
def test_a_model_that_art_would_judge_otherwise_is_refused(classifier, method):
    from hlf_np.adapters.art import Classifier

    network = classifier.model.network
    other = type("Rounded", (Model,), {method: lambda self, images: getattr(Model, method)(self, images.round())})
    for use in (Classifier, lambda model: classifier.set_params(model=model)):
        with pytest.raises(UserError, match=f"ART would not use `{method}` of Rounded"):
            use(other(network, 10))


def test_layers_are_counted_from_both_ends(classifier, split):
    names, images = classifier.layer_names, split.images[:5]
    for number, name in enumerate(names):
        wanted = classifier.get_activations(images, name)
        for same in (number, number - len(names), np.int64(number)):
            np.testing.assert_array_equal(classifier.get_activations(images, same, batch_size=2), wanted)
    np.testing.assert_allclose(classifier.get_activations(images, -1), classifier.predict(images), atol=1e-4)
    with pytest.warns(UserWarning, match="the last, is used"):
        beyond = classifier.get_activations(images, len(names))
    np.testing.assert_array_equal(beyond, classifier.get_activations(images, -1))
    for missing in (-len(names) - 1, "softmax", 1.5):
        with pytest.raises(UserError, match=r"no layer .*use an index from"):
            classifier.get_activations(images, missing)


def test_parameters_can_be_changed(evasion, trained, model, split):
    from hlf_np.adapters.art import Classifier

    classifier = Classifier(trained)
    classifier.set_params(objective="margin", model=model)
    np.testing.assert_array_equal(classifier.predict(split.images), model.logits(split.images))
    assert classifier.get_params()["objective"] == Objective.MARGIN
    with pytest.raises(UserError, match="unknown objective"):
        classifier.set_params(objective="hinge")
    with pytest.raises(UserError, match="ART does not support the objective kl"):
        classifier.set_params(objective="kl")
    with pytest.raises(ValueError, match="preprocessing_defences"):  # which would have no effect
        classifier.set_params(preprocessing_defences=[])


def few(**settings):
    return settings | {"verbose": False}


# with few steps: enough to leave the box, for those that do
ATTACKS = {
    "FastGradientMethod": {"eps": 0.1},
    "MomentumIterativeMethod": few(eps=0.1, eps_step=0.05, max_iter=2),
    "AutoConjugateGradient": few(eps=0.1, eps_step=0.2, max_iter=3, nb_random_init=1),
    "DeepFool": few(max_iter=3),
    "CarliniL2Method": few(max_iter=2, binary_search_steps=1),
    "CarliniLInfMethod": few(max_iter=1),
    "ElasticNet": few(max_iter=2, binary_search_steps=1),
    "BoundaryAttack": few(targeted=False, max_iter=2),
    "HopSkipJump": few(max_iter=1, max_eval=20, init_eval=5),
    "ZooAttack": few(max_iter=2, nb_parallel=5, use_resize=False, use_importance=False, binary_search_steps=1),
    "SaliencyMapMethod": few(theta=0.3, gamma=0.01),
    "NewtonFool": few(max_iter=2),
    "UniversalPerturbation": few(attacker="fgsm", max_iter=1, eps=0.3),
    "SpatialTransformation": few(max_translation=10, num_translations=1, max_rotation=20, num_rotations=2),
    "SignOPTAttack": few(targeted=False, max_iter=1, k=5, query_limit=50, num_trial=2),
    "PixelAttack": few(th=2, es=1, max_iter=1),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.filterwarnings("ignore")  # ART's own
def test_attacks_run(evasion, classifier, split, name):
    np.random.seed(0)  # noqa: NPY002, ART draws from it
    images = split.images[:3]
    found = getattr(evasion, name)(classifier, **ATTACKS[name]).generate(images.copy())
    assert found.shape == images.shape
    assert np.isfinite(found).all()
    assert 0 <= found.min() <= found.max() <= 1


def test_fitting_trains_the_model(evasion, model, split):
    from hlf_np.adapters.art import Classifier

    classifier = Classifier(model)
    before = classifier.compute_loss(split.images, split.labels).mean()
    classifier.fit(split.images, np.eye(10)[split.labels], batch_size=15, nb_epochs=2)
    assert classifier.compute_loss(split.images, split.labels).mean() < before / 2


def test_attacks_of_both_agree(evasion, classifier, trained, split):
    right = split.take(np.flatnonzero(trained.predict(split.images) == split.labels))
    epsilon, step, steps, restarts = 0.04, 0.005, 60, 3
    settings = {"steps": steps, "step_size": step, "rule": "sign", "restarts": restarts}
    own = attacks.pgd(trained, right.images, right.labels, ImageBall(epsilon), **settings)
    np.random.seed(0)  # noqa: NPY002, ART draws from it
    common = {"eps": epsilon, "batch_size": 100, "verbose": False}
    theirs = {
        "PGD": evasion.ProjectedGradientDescent(
            classifier, eps_step=step, max_iter=steps, num_random_init=restarts, **common
        ),
        "AutoPGD": evasion.AutoProjectedGradientDescent(
            classifier, eps_step=2 * epsilon, max_iter=steps, nb_random_init=restarts, **common
        ),
        "Square": evasion.SquareAttack(classifier, max_iter=50, **common),
    }
    rates = {}
    for name, attack in theirs.items():
        images = attack.generate(right.images.copy(), right.labels)
        assert np.abs(images - right.images).max() <= epsilon + 1e-5
        rates[name] = (trained.predict(images.astype(np.float32)) != right.labels).mean()
    assert 0.2 < own.success.mean() < 1
    assert max(rates.values()) <= own.success.mean() + 0.02
    assert min(rates["PGD"], rates["AutoPGD"]) >= own.success.mean() - 0.02
    assert rates["Square"] > 0
