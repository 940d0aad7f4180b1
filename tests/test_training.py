"""Training: it learns, the same at any number of threads, and the attack inside it leaves the model alone."""

import math
from dataclasses import replace

import numpy as np
import oracles
import pytest
from conftest import small_cnn

from hlf_np import UserError, training
from hlf_np.attacks import Attack
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.optim import AdamConfig
from hlf_np.training import TrainingConfig, adversarial_batch, train

FAST = TrainingConfig(epochs=3, batch_size=25, adam=AdamConfig(learning_rate=0.005))
ADVERSARIAL = replace(FAST, training="adversarial", epsilon=0.1, attack=Attack(steps=2, step_size=0.05))


def weights_after(split, config=FAST, seed=0, model=None):
    model = model or small_cnn()
    train(model, split, config=config, seed=seed)
    return model.state_dict()


def assert_same_arrays(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def differ(first, second):
    return any((first[name] != second[name]).any() for name in first)


# --- learning -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [FAST, ADVERSARIAL], ids=["normal", "adversarial"])
def test_the_loss_falls(split, model, config):
    log = train(model, split, config=replace(config, epochs=6))
    assert log[-1].loss < 0.75 * log[0].loss
    assert log[-1].error < log[0].error
    assert (model.predict(split.images) != split.labels).mean() < 0.3  # 0.9 by chance


def test_the_log_tells_every_epoch(split, model):
    seen = []
    log = train(model, split, config=FAST, progress=seen.append)
    assert seen == log
    assert [entry.epoch for entry in log] == [1, 2, 3]
    np.testing.assert_allclose([entry.learning_rate for entry in log], [0.005 * 0.95**epoch for epoch in range(3)])
    assert all(math.isfinite(entry.loss) and 0 <= entry.error <= 1 for entry in log)


def test_the_log_is_the_mean_over_the_images_as_trained_on(split, monkeypatch):
    """With a learning rate of almost 0 the model stays as it is, so every batch's loss is known."""
    model, twin, batches = small_cnn(), small_cnn(), []
    monkeypatch.setattr(training, "adversarial_batch", lambda m, batch, c, s: batches.append(batch) or batch.images)
    config = replace(FAST, epochs=1, batch_size=40, adam=AdamConfig(learning_rate=1e-12))
    (entry,) = train(model, split, config=config)
    losses, wrong = [], []
    for batch in batches:
        logits = twin.forward(Tensor(batch.images), training=True).data
        losses.extend(oracles.cross_entropy(logits, batch.labels))
        wrong.extend(logits.argmax(axis=1) != batch.labels)
    assert entry.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert entry.error == pytest.approx(np.mean(wrong))


def test_no_epochs_change_nothing(split, model):
    before = model.state_dict()
    assert train(model, split, epochs=0) == []
    assert_same_arrays(model.state_dict(), before)


@pytest.mark.parametrize("count", [1, 26, 51])
def test_a_last_batch_of_a_single_image_spoils_nothing(split, count):
    model = small_cnn()
    log = train(model, split.take(slice(count)), config=FAST)
    assert all(math.isfinite(entry.loss) for entry in log)
    assert np.isfinite(model.logits(split.images)).all()


def test_every_image_of_an_epoch_is_used_once(split, monkeypatch):
    seen = []

    def watched(model, batch, config, seed):
        seen.append(batch.images)
        return adversarial_batch(model, batch, config, seed)

    monkeypatch.setattr(training, "adversarial_batch", watched)
    train(small_cnn(), split, config=replace(FAST, epochs=2, batch_size=40))
    assert [len(batch) for batch in seen] == [40, 40, 40, 30] * 2
    orders = [np.concatenate(seen[:4]), np.concatenate(seen[4:])]
    for order in orders:
        assert sorted(image.tobytes() for image in order) == sorted(image.tobytes() for image in split.images)
    assert (orders[0] != orders[1]).any()


# --- determinism ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [FAST, ADVERSARIAL], ids=["normal", "adversarial"])
def test_the_same_seed_gives_the_same_bits_at_any_number_of_threads(split, config, threads):
    threads(1)
    single = weights_after(split, config)
    threads(2)
    assert_same_arrays(weights_after(split, config), single)
    assert differ(weights_after(split, config, seed=1), single)


# --- adversarial training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "clean"), [(0.5, 10), (1.0, 0), (0.25, 15), (0.0, 20)])
def test_only_the_last_part_of_a_batch_is_perturbed(trained, split, fraction, clean):
    batch = split.take(slice(20))
    config = replace(ADVERSARIAL, adversarial_fraction=fraction)
    images = adversarial_batch(trained, batch, config, seed=0)
    np.testing.assert_array_equal(images[:clean], batch.images[:clean])
    perturbations = images[clean:] - batch.images[clean:]
    assert perturbations.any(axis=(1, 2, 3)).all()
    assert np.abs(perturbations).max(initial=0) <= 0.1 + 1e-6
    assert ((images >= 0) & (images <= 1)).all()
    assert (images.shape, images.dtype) == (batch.images.shape, np.float32)


def test_the_perturbed_part_has_a_higher_loss(trained, split):
    batch = split.take(slice(40))
    images = adversarial_batch(trained, batch, replace(ADVERSARIAL, adversarial_fraction=1.0), seed=0)
    errors = [(trained.predict(x) != batch.labels).mean() for x in (batch.images, images)]
    assert errors[1] > errors[0] + 0.3


def test_normal_training_takes_batches_as_they_are(trained, split):
    np.testing.assert_array_equal(adversarial_batch(trained, split, FAST, seed=0), split.images)


def test_the_attack_takes_all_its_steps_even_if_told_to_stop_early(trained, split):
    for config in (ADVERSARIAL, replace(ADVERSARIAL, attack=replace(ADVERSARIAL.attack, steps=6))):
        early, late = (
            adversarial_batch(trained, split, replace(config, attack=replace(config.attack, stop_early=stop)), seed=0)
            for stop in (True, False)
        )
        np.testing.assert_array_equal(early, late)


def test_the_attack_leaves_the_model_alone(trained, split):
    before = trained.state_dict()
    adversarial_batch(trained, split, ADVERSARIAL, seed=0)
    assert_same_arrays(trained.state_dict(), before)
    assert all(parameter.gradient is None for parameter in trained.parameters())


def test_the_attack_of_each_batch_has_a_seed_of_its_own(split, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        training, "adversarial_batch", lambda model, batch, config, seed: seeds.append(seed) or batch.images
    )
    train(small_cnn(), split, config=FAST)
    assert len(set(seeds)) == len(seeds) == 18


# --- errors ---------------------------------------------------------------------------------------------------


def test_a_diverging_training_says_so_and_nothing_else(split, model, recwarn):
    config = replace(FAST, epochs=10, adam=AdamConfig(learning_rate=1e30))
    with pytest.raises(UserError, match="lower the learning rate"):
        train(model, split, config=config)
    assert not recwarn.list


@pytest.mark.parametrize(
    "settings",
    [
        {"training": "magic"},
        {"epochs": -1},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"adversarial_fraction": 1.5},
        {"adversarial_fraction": math.nan},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        TrainingConfig(**settings)


@pytest.mark.parametrize(
    "settings", [{"training": "magic"}, {"epochs": -1}, {"batch_size": 0}], ids=["training", "epochs", "batch size"]
)
def test_impossible_arguments_are_refused(split, model, settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        train(model, split, **settings)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: Split(s.images[:0], s.labels[:0]), "no images"),
        (lambda s: Split(s.images[:, :14], s.labels), "shape"),
        (lambda s: Split(s.images.astype(np.float64), s.labels), "float32"),
        (lambda s: Split(s.images * np.float32(np.nan), s.labels), "NaN"),
        (lambda s: Split(s.images, s.labels[:-1]), "one per image"),
        (lambda s: Split(s.images, s.labels + 1), "between 0 and 9"),
    ],
)
def test_bad_data_is_refused_and_changes_nothing(split, model, spoil, message):
    before = model.state_dict()
    with pytest.raises(UserError, match=message):
        train(model, spoil(split), epochs=1)
    assert_same_arrays(model.state_dict(), before)
