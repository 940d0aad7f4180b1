"""Training: it learns, the same at any number of threads, and the attack inside it leaves the model alone."""

import math
from dataclasses import replace

import numpy as np
import oracles
import pytest
from conftest import small_cnn

from hlf_np import UserError, models, training, trainings
from hlf_np.attacks import PGD
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Dataset, Split
from hlf_np.engine import Engine
from hlf_np.losses import Trades
from hlf_np.manifolds import VaeConfig, class_vaes
from hlf_np.optim import AdamConfig
from hlf_np.spaces import DataManifold, ImageBall, LearnedManifold, Transformations, TrueManifold
from hlf_np.train_step import AutodiffTrainStep
from hlf_np.training import TrainingConfig, perturbed_batch, train
from hlf_np.trainings import TRAININGS, Perturbation, Variant, trades, training_of

FAST = TrainingConfig(epochs=3, batch_size=25, adam=AdamConfig(learning_rate=0.005))
ATTACK = PGD(steps=2, step_size=0.05, stop_early=False)
SHARE = Perturbation(ImageBall(0.1), ATTACK)
ADVERSARIAL = replace(FAST, perturbations=(SHARE,))


def random():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def spaces(fonts, split):
    vaes = class_vaes(split, 10, VaeConfig(channels=(2, 2), latent_dimensions=3, epochs=1))
    return (
        ImageBall(0.1),
        TrueManifold(fonts),
        Transformations(fonts.box),
        LearnedManifold(vaes),
        DataManifold(vaes[:1] * 10),
    )


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
    np.testing.assert_allclose(
        [entry.learning_rate for entry in log], [0.005 * 0.95 ** (epoch + 1) for epoch in range(3)]
    )
    assert all(math.isfinite(entry.loss) and 0 <= entry.error <= 1 for entry in log)


def test_the_log_is_the_mean_over_the_images_as_trained_on(split, monkeypatch):
    """With a learning rate of almost 0 the model stays as it is, so every batch's loss is known."""
    model, twin, batches = small_cnn(), small_cnn(), []
    monkeypatch.setattr(training, "perturbed_batch", lambda m, batch, s, r: batches.append(batch) or batch.images)
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


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize(("count", "batch_size"), [(4, 1), (1, 1)])
def test_a_batch_too_small_for_batch_norm_is_refused_and_changes_nothing(split, engine, count, batch_size):
    model = models.mlp(widths=(4,))
    before = model.state_dict()
    with pytest.raises(UserError, match=r"needs at least 2 values of each channel .* use more images in each batch"):
        train(model, split.take(slice(count)), config=TrainingConfig(batch_size=batch_size, engine=engine))
    assert_same_arrays(model.state_dict(), before)


@pytest.mark.parametrize("batch_size", [2, 4, 25, 26, 27, 60])
def test_no_other_batch_is_refused(split, batch_size):
    config = TrainingConfig(epochs=1, batch_size=batch_size)
    assert len(train(models.mlp(widths=(4,)), split.take(slice(27)), config=config)) == 1


def test_the_learning_rate_falls_at_every_step(split, monkeypatch):
    """Two epochs of three steps; the first step has the rate after one epoch of decay."""
    rates = []

    class Watched(AutodiffTrainStep):
        def step(self, clean, perturbed, labels, learning_rate):
            rates.append(learning_rate)
            return super().step(clean, perturbed, labels, learning_rate)

    monkeypatch.setattr(training, "make_train_step", lambda model, config, loss, engine: Watched(model, config, loss))
    config = TrainingConfig(epochs=2, batch_size=25, adam=AdamConfig(learning_rate=0.01, decay=0.5))
    train(small_cnn(), split.take(slice(60)), config=config)
    np.testing.assert_allclose(rates, [0.01 * 0.5 ** (1 + step / 3) for step in range(6)])


def test_every_image_of_an_epoch_is_used_once_and_the_last_batch_is_filled(split, monkeypatch):
    seen = []

    def watched(model, batch, shares, random):
        seen.append(batch.images)
        return perturbed_batch(model, batch, shares, random)

    monkeypatch.setattr(training, "perturbed_batch", watched)
    train(small_cnn(), split, config=replace(FAST, epochs=2, batch_size=40))
    assert [len(batch) for batch in seen] == [40, 40, 40, 40] * 2
    orders = [np.concatenate(seen[:4]), np.concatenate(seen[4:])]
    for order in orders:
        np.testing.assert_array_equal(order[150:], order[:10])
    orders = [order[:150] for order in orders]
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


@pytest.mark.parametrize("name", TRAININGS)
def test_every_training_is_decided_by_its_seed(split, spaces, name):
    config = replace(FAST, epochs=1, perturbations=name.perturbations(spaces, ATTACK), loss=name.loss)
    first = weights_after(split, config)
    assert_same_arrays(weights_after(split, config), first)
    assert differ(weights_after(split, config, seed=1), first)
    if name.spaces:
        assert differ(weights_after(split, replace(FAST, epochs=1)), first)


# --- perturbed batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "clean"), [(0.5, 10), (1.0, 0), (0.25, 15), (0.0, 20)])
def test_only_the_last_part_of_a_batch_is_perturbed(trained, split, fraction, clean):
    batch = split.take(slice(20))
    images = perturbed_batch(trained, batch, [replace(SHARE, fraction=fraction)], random())
    np.testing.assert_array_equal(images[:clean], batch.images[:clean])
    changes = images[clean:] - batch.images[clean:]
    assert changes.any(axis=(1, 2, 3)).all()
    assert np.abs(changes).max(initial=0) <= 0.1 + 1e-6
    assert ((images >= 0) & (images <= 1)).all()
    assert (images.shape, images.dtype) == (batch.images.shape, np.float32)


@pytest.mark.parametrize(("count", "sizes"), [(20, (10, 5, 5)), (25, (13, 6, 6)), (2, (1, 1, 0)), (1, (1, 0, 0))])
def test_two_shares_lie_behind_each_other(trained, split, count, sizes):
    """One so small that it can be told from the other."""
    batch = split.take(slice(count))
    shares = [replace(SHARE, fraction=0.25), Perturbation(ImageBall(0.01), ATTACK, 0.25)]
    largest = np.abs(perturbed_batch(trained, batch, shares, random()) - batch.images).max(axis=(1, 2, 3))
    kinds = [(largest == 0).sum(), (largest > 0.02).sum(), ((largest > 0) & (largest < 0.02)).sum()]
    assert tuple(kinds) == sizes
    np.testing.assert_array_equal(largest[: sizes[0]], 0)
    assert (largest[sizes[0] : sizes[0] + sizes[1]] > 0.02).all()


def test_shares_of_the_whole_batch_leave_nothing_clean(trained, split):
    batch = split.take(slice(25))
    shares = [SHARE, Perturbation(ImageBall(0.01), ATTACK)]
    images = perturbed_batch(trained, batch, shares, random())
    assert (images != batch.images).any(axis=(1, 2, 3)).all()


def test_the_first_share_does_not_depend_on_the_others(trained, split):
    batch = split.take(slice(20))
    alone = perturbed_batch(trained, batch, [replace(SHARE, fraction=0.25)], random())[15:]
    swapped = batch.take(np.r_[0:10, 15:20, 10:15])
    first = perturbed_batch(trained, swapped, [replace(SHARE, fraction=0.25)] * 2, random())[10:15]
    np.testing.assert_array_equal(first, alone)


def test_the_perturbed_part_has_a_higher_loss(trained, split):
    batch = split.take(slice(40))
    images = perturbed_batch(trained, batch, [replace(SHARE, fraction=1.0)], random())
    errors = [(trained.predict(x) != batch.labels).mean() for x in (batch.images, images)]
    assert errors[1] > errors[0] + 0.3


def test_normal_training_takes_batches_as_they_are(trained, split):
    np.testing.assert_array_equal(perturbed_batch(trained, split, (), random()), split.images)


def test_perturbed_batches_leave_the_data_alone(trained, split):
    images = split.images.copy()
    perturbed_batch(trained, split, [SHARE], random())
    np.testing.assert_array_equal(split.images, images)


def test_random_shares_are_drawn_and_not_attacked(trained, split, spaces):
    (share,) = training_of("random_transformations").perturbations(spaces, PGD(steps=9, start="image", restarts=3))
    share = replace(share, fraction=1.0)
    images = perturbed_batch(trained, split, [share], random())
    start = PGD(steps=0).find(trained, split, spaces[2], int(random().integers(2**31)))
    np.testing.assert_array_equal(images, start.images)
    assert (images != split.images).any(axis=(1, 2, 3)).mean() > 0.9
    untrained = perturbed_batch(small_cnn(), split, [share], random())
    np.testing.assert_array_equal(images, untrained)


def test_weak_attacks_stop_at_the_first_label_change(trained, split):
    attack = PGD(steps=6, step_size=0.05)
    weak, full = (
        perturbed_batch(trained, split, [Perturbation(ImageBall(0.2), replace(attack, stop_early=stop), 1.0)], random())
        for stop in (True, False)
    )
    losses = [oracles.cross_entropy(trained.logits(images), split.labels) for images in (weak, full)]
    fooled = trained.predict(weak) != split.labels
    assert fooled.mean() > 0.5
    assert (losses[0][fooled] < losses[1][fooled]).mean() > 0.8


def test_the_attack_leaves_the_model_alone(trained, split):
    before = trained.state_dict()
    perturbed_batch(trained, split, [SHARE], random())
    assert_same_arrays(trained.state_dict(), before)
    assert all(parameter.gradient is None for parameter in trained.parameters())


def test_the_attack_of_each_batch_has_a_seed_of_its_own(split, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        training,
        "perturbed_batch",
        lambda model, batch, shares, random: seeds.append(random.integers(2**31)) or batch.images,
    )
    train(small_cnn(), split, config=FAST)
    assert len(set(seeds)) == len(seeds) == 18


# --- the trainings --------------------------------------------------------------------------------------------

KINDS = {  # where each training perturbs, by the protocol
    "normal": [],
    "adversarial": [ImageBall],
    "on_true_manifold_adversarial": [TrueManifold],
    "on_learned_manifold_adversarial": [LearnedManifold],
    "adversarial_transformations": [Transformations],
    "random_transformations": [Transformations],
    "regular_and_on_true_manifold_adversarial": [ImageBall, TrueManifold],
    "regular_and_on_learned_manifold_adversarial": [ImageBall, LearnedManifold],
    "regular_and_adversarial_transformations": [ImageBall, Transformations],
    "random_perturbations": [ImageBall],
    "on_data_manifold_adversarial": [DataManifold],
    "random_on_true_manifold": [TrueManifold],
    "random_on_learned_manifold": [LearnedManifold],
    **{f"trades_{beta}": [ImageBall] for beta in (1, 3, 6)},
    **{f"on_true_manifold_trades_{beta}": [TrueManifold] for beta in (1, 3, 6)},
    **{f"on_learned_manifold_trades_{beta}": [LearnedManifold] for beta in (1, 3, 6)},
    **{f"transformations_trades_{beta}": [Transformations] for beta in (1, 3, 6)},
    "with_true_manifold_samples": [],
    "with_learned_manifold_samples": [],
}


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_perturb_where_and_as_much_as_they_say(spaces, name, variant):
    shares = name.perturbations(spaces[::-1], ATTACK, variant)
    assert [type(share.space) for share in shares] == KINDS[str(name)]
    assert all(share.space in spaces for share in shares)
    for share in shares:
        everything = variant == "full" or "trades" in str(name)
        assert share.fraction == pytest.approx(1 / (len(shares) + (not everything)))
        expected = replace(ATTACK, stop_early=variant == "weak")
        if "trades" in str(name):
            expected = replace(expected, objective="kl")
        assert share.attack == (replace(expected, steps=0) if name.random else expected)


def test_the_trainings_are_these():
    assert {str(name) for name in TRAININGS} == KINDS.keys()


@pytest.mark.parametrize("space", ["", "on_true_manifold_", "on_learned_manifold_", "transformations_"])
def test_trades_in_every_space_lowers_the_loss(split, spaces, space):
    model, chosen = small_cnn(), training_of(f"{space}trades_6")
    shares = chosen.perturbations(spaces, ATTACK)
    log = train(model, split, config=replace(FAST, epochs=6, perturbations=shares, loss=chosen.loss))
    assert log[-1].loss < 0.8 * log[0].loss
    assert all(0 <= entry.error <= 1 for entry in log)
    assert (model.predict(split.images) != split.labels).mean() < 0.4  # 0.9 by chance


def test_both_engines_train_alike_with_trades(split):
    logs = []
    for engine in Engine:
        share = trades(ImageBall, 3).perturbations([ImageBall(0.1)], replace(ATTACK, engine=engine))
        config = replace(FAST, epochs=1, perturbations=share, loss=Trades(3), engine=engine)
        logs.append(train(small_cnn(), split, config=config)[0])
    assert logs[0].loss == pytest.approx(logs[1].loss, rel=1e-2)
    assert logs[0].error == pytest.approx(logs[1].error, abs=0.03)


@pytest.mark.stress
def test_more_weight_of_the_divergence_is_more_robust_and_less_accurate(fonts):
    """On images that were not trained on, means of two models."""
    learned, test, space = fonts.split(np.arange(300)), fonts.split(np.arange(1000, 1300)), ImageBall(0.1)
    attack, changed, wrong = PGD(5, 0.025, stop_early=False), {}, {}
    for beta in (1, 6):
        chosen, clean, perturbed = trades(ImageBall, beta), [], []
        for seed in range(2):
            model, shares = small_cnn(seed), chosen.perturbations([space], attack)
            config = replace(FAST, epochs=10, perturbations=shares, loss=chosen.loss)
            train(model, learned, config=config, seed=seed)
            clean.append(model.predict(test.images))
            perturbed.append(model.predict(PGD(20, 0.0125, restarts=2).find(model, test, space).images))
        changed[beta] = (np.array(clean) != perturbed).mean()
        wrong[beta] = (clean != test.labels).mean()
    assert changed[6] < changed[1] - 0.05
    assert wrong[6] > wrong[1]


def test_the_papers_attack_is_the_default():
    (share,) = trainings.ADVERSARIAL.perturbations()
    assert share == Perturbation(ImageBall(0.3), PGD(steps=40, step_size=0.005, rule="adam", stop_early=False), 0.5)


@pytest.mark.parametrize("name", TRAININGS)
def test_every_training_is_called_by_its_name(split, spaces, monkeypatch, name):
    seen = []

    def watched(model, batch, shares, random):
        seen.append(shares)
        return batch.images

    monkeypatch.setattr(training, "perturbed_batch", watched)
    train(small_cnn(), split, str(name), epochs=1, space=spaces, variant="full")
    assert seen[0] == name.perturbations(spaces, variant=Variant.FULL)


def test_names_mean_the_same_as_the_choices_they_name(spaces):
    for name in TRAININGS:
        for variant in Variant:
            expected = name.perturbations(spaces, ATTACK, variant)
            assert training_of(str(name)).perturbations(spaces, ATTACK, str(variant)) == expected
    assert all(TrainingConfig(engine=str(engine)).engine is engine for engine in Engine)


def test_one_space_may_be_given_alone(split, spaces):
    logs = [
        train(small_cnn(), split.take(slice(20)), "random_transformations", epochs=1, space=space)
        for space in (spaces[2], [spaces[2]])
    ]
    assert logs[0][0].loss == logs[1][0].loss


@pytest.mark.parametrize(
    ("name", "needed"), [(n, k[-1].__name__) for n, k in KINDS.items() if k[-1:] not in ([], [ImageBall])]
)
def test_trainings_without_their_space_are_refused(split, model, name, needed):
    before = model.state_dict()
    with pytest.raises(UserError, match=rf"{name} needs its space: pass space={needed}\("):
        train(model, split, name, epochs=1)
    assert_same_arrays(model.state_dict(), before)


def test_training_on_the_true_manifold_needs_codes(split, model, spaces):
    with pytest.raises(UserError, match="needs the codes"):
        train(model, Split(split.images, split.labels), "on_true_manifold_adversarial", epochs=1, space=spaces)


# --- errors ---------------------------------------------------------------------------------------------------


def test_a_diverging_training_says_so_and_nothing_else(split, model, recwarn):
    config = replace(FAST, epochs=10, adam=AdamConfig(learning_rate=1e30))
    with pytest.raises(UserError, match="lower the learning rate"):
        train(model, split, config=config)
    assert not recwarn.list


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": -1},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"engine": "gpu"},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        TrainingConfig(**settings)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, math.nan])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(UserError, match="fraction"):
        Perturbation(ImageBall(), fraction=fraction)


def test_more_than_the_whole_batch_is_refused():
    assert TrainingConfig((replace(SHARE, fraction=0.1),) * 10)
    with pytest.raises(UserError, match="more than the whole batch"):
        TrainingConfig((replace(SHARE, fraction=0.6),) * 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"training": "magic"},
        {"variant": "strong"},
        {"epochs": -1},
        {"batch_size": 0},
        {"space": 0.1, "training": "adversarial"},
        {"space": (ImageBall,), "training": "adversarial"},
    ],
    ids=["training", "variant", "epochs", "batch size", "radius", "class of spaces"],
)
def test_impossible_arguments_are_refused(split, model, settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        train(model, split, **settings)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: Dataset("letters", ("A", "B"), s, s), "use Split.images, labels., or the attribute `train`"),
        (lambda s: Split(s.images[:0], s.labels[:0]), "no images"),
        (lambda s: Split(s.images[:, :14], s.labels), "shape"),
        (lambda s: Split((s.images * 255).astype(np.uint8), s.labels), r"use images.astype\(numpy.float32\) / 255"),
        (lambda s: Split(s.images * np.float32(np.nan), s.labels), "NaN"),
        (lambda s: Split(s.images, s.labels[:-1]), "one label per image"),
        (lambda s: Split(s.images, s.labels + 1), "between 0 and 9"),
    ],
)
def test_bad_data_is_refused_and_changes_nothing(split, model, spoil, message):
    before = model.state_dict()
    with pytest.raises(UserError, match=message):
        train(model, spoil(split), epochs=1)
    assert_same_arrays(model.state_dict(), before)
