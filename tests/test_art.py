"""Our models as estimators of the Adversarial Robustness Toolbox, where it is installed."""

import sys

import numpy as np
import pytest

from hlf_np import UserError, attacks
from hlf_np.attacks import Objective
from hlf_np.autodiff import Tensor
from hlf_np.spaces import ImageBall


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


@pytest.mark.parametrize("objective", Objective)
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
