"""What the options of a run change: architecture, norm, variant, and attacks that are measured on request."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import small_cnn
from helpers import TINY, examined, main, quiet, rows, tree

from hlf_np import attacks, models
from hlf_np.attacks import PGD, CarliniWagner
from hlf_np.experiments.configuration.config import PRESETS, Preset
from hlf_np.experiments.grid.prepare import prepare, source_of, spaces_of, training_config
from hlf_np.experiments.storage.folder import open_store, stored_config
from hlf_np.manifolds import Vae, VaeConfig, load_vae, train_vae
from hlf_np.models.architectures import DEFAULTS, Architecture, Kind
from hlf_np.spaces import DataManifold, ImageBall, LearnedManifold, Norm, RunContext, Transformations, TrueManifold
from hlf_np.training import TrainingConfig, train
from hlf_np.trainings import ADVERSARIAL, PAPER, Variant, training_of

MEASURED_ON_REQUEST = {
    "--carlini-wagner": {
        *("carlini_wagner_success", "carlini_wagner_norm"),
        *("on_true_manifold_carlini_wagner_success", "on_learned_manifold_carlini_wagner_success"),
    },
    "--transfer": {
        *("regular_transfer_success", "on_true_manifold_transfer_success"),
        "on_learned_manifold_transfer_success",
    },
}


@pytest.fixture
def tiny_preset(monkeypatch):
    """The smoke preset, made tiny and without a report; so is the surrogate of transfer attacks."""
    config = replace(TINY, trainings=(ADVERSARIAL,), sizes=(20,), epochs=3, n_vae=0)
    monkeypatch.setitem(PRESETS, Preset.SMOKE, config)
    monkeypatch.setattr("hlf_np.experiments.configuration.config.SURROGATE_IMAGES", 200)
    monkeypatch.setattr("hlf_np.report.write.write_report", lambda store, results: store.write_csv(results) or [])
    return config


# --- choosing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ("", {}),
        ("--architecture mlp --channels 6,5", {"architecture": Architecture(Kind.MLP, (6, 5))}),
        ("--channels 3", {"architecture": replace(TINY.architecture, widths=(3,))}),
        ("--architecture resnet --channels 2,3", {"architecture": Architecture(Kind.RESNET, (2, 3), blocks=(2, 2))}),
        ("--norm l2", {"norm": Norm.L2, "epsilon": 1.5, "latent_epsilon": 0.3}),
        ("--norm linf", {}),
        ("--variant weak", {"variant": Variant.WEAK}),
        ("--carlini-wagner", {"carlini_wagner": CarliniWagner(bounded=False)}),
        ("--transfer", {"n_transfer": 200}),
    ],
)
def test_options_change_what_they_say_and_nothing_else(tiny_preset, tmp_path, arguments, changes):
    code, _, errors = main("run", "--preset", "smoke", "--out", tmp_path / "out", *arguments.split())
    assert (code, errors) == (0, "")
    expected = replace(tiny_preset, **changes)
    assert stored_config(tmp_path / "out") == expected
    (row,) = rows(tmp_path / "out")
    measured = {name for names in MEASURED_ON_REQUEST.values() for name in names if row[name]}
    expected_columns = MEASURED_ON_REQUEST.get(arguments, set())  # but this run has no learned manifold
    assert measured == {name for name in expected_columns if "learned" not in name}
    stored = models.load(tmp_path / "out" / "models" / "adversarial-20-0.npz")
    assert stored.architecture == expected.architecture


@pytest.mark.parametrize("kind", Kind)
def test_without_channels_an_architecture_is_the_papers(kind):
    architecture = DEFAULTS[kind]
    assert architecture.with_widths(architecture.widths) == architecture
    assert models.Model.from_architecture(architecture.with_widths((2, 2))).classes == 10


def test_the_class_agnostic_manifold_is_learned_once_and_trained_on(tiny_preset, tmp_path):
    chosen = ("--trainings", "normal,on_data_manifold_adversarial", "--data-vae-images", 50)
    code, _, errors = main("run", "--preset", "smoke", *chosen, "--out", tmp_path / "out")
    assert (code, errors) == (0, "")
    assert stored_config(tmp_path / "out").n_data_vae == 50
    (path,) = (tmp_path / "out" / "manifolds").iterdir()
    images = source_of(tiny_preset).dataset(50, 0).train.images
    expected, found = train_vae(images, tiny_preset.vae), load_vae(path)
    np.testing.assert_array_equal(found.encode(images), expected.encode(images))
    model, manifolds = next((tmp_path / "out" / "models").iterdir()), ("--manifolds", tmp_path / "out" / "manifolds")
    attack = ("attack", model, "--images", 20, "--steps", 2, *manifolds, "--out", tmp_path / "found.npz", "--space")
    code, output, errors = main(*attack, "data-manifold")
    assert (code, errors) == (0, "")
    assert "of 20 reconstructions are classified correctly" in output
    code, output, errors = main("evaluate", model, *manifolds, "--n-test", 20, "--n-attacked-on-manifold", 10)
    assert (code, errors) == (0, "")
    code, _, errors = main(*attack, "learned-manifold")
    assert code == 2
    assert "needs a VAE of each class: give the folder of a run without --vae-images 0" in errors
    code, _, errors = main("run", "--preset", "smoke", *chosen[:2], "--out", tmp_path / "without")
    assert code == 2
    assert (
        "needs the class-agnostic manifold, but the run trains no VAE on all classes: give --data-vae-images" in errors
    )


def test_the_class_agnostic_manifold_has_a_third_of_the_radius(fonts):
    vae = Vae(VaeConfig(channels=(2, 2), latent_dimensions=3))
    space = DataManifold.of_run(RunContext(fonts, data_vae=vae))
    assert (space.epsilon, len(space.vaes)) == (pytest.approx(0.1), 10)
    config = replace(TINY, norm=Norm.L2, n_data_vae=9)
    (found,) = (s for s in spaces_of(config, fonts, data_vae=vae) if isinstance(s, DataManifold))
    assert (found.epsilon, found.norm) == (pytest.approx(0.1), Norm.L2)


# --- what reaches trainings and attacks -----------------------------------------------------------------------


def test_the_norm_is_that_of_all_perturbations():
    config = replace(TINY, norm=Norm.L2, epsilon=1.5)
    fonts = source_of(config)
    spaces = {type(space): space for space in spaces_of(config, fonts)}
    assert spaces[ImageBall] == ImageBall(1.5, "l2")
    assert (spaces[TrueManifold].norm, spaces[TrueManifold].epsilon) == (Norm.L2, 0.3)
    assert spaces[Transformations] == Transformations(fonts.box, epsilon=0.3, norm="l2")
    for training in PAPER:
        if LearnedManifold not in training.spaces:
            shares = training_config(config, training, tuple(spaces.values())).perturbations
            assert [share.space for share in shares] == [
                spaces[type(share.space)] for share in shares if type(share.space) in spaces
            ]


@pytest.mark.parametrize(
    ("variant", "fraction", "stop_early"), [("half", 0.5, False), ("full", 1, False), ("weak", 0.5, True)]
)
def test_the_variant_is_that_of_every_adversarial_training(variant, fraction, stop_early):
    config = replace(TINY, variant=Variant(variant))
    spaces = spaces_of(config, source_of(config))
    for training in (ADVERSARIAL, training_of("on_true_manifold_adversarial")):
        (share,) = training_config(config, training, spaces).perturbations
        assert share.fraction == fraction
        assert share.attack == replace(TINY.training_attack, stop_early=stop_early)


# --- attacks that are measured on request ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def config():
    counts = {"n_test": 150, "n_attacked": 120, "n_attacked_on_manifold": 100}
    return replace(
        TINY, attack=PGD(3, 0.02, restarts=2), carlini_wagner=CarliniWagner(iterations=30, bounded=False), **counts
    )


@pytest.fixture(scope="module")
def surrogate(split):
    model = small_cnn(seed=1)
    train(model, split, epochs=4, batch_size=15, seed=1)
    return model


def test_the_small_perturbations_are_those_of_carlini_and_wagner_from_the_papers_ball(trained, split, config):
    measurements, *_ = examined(trained, split, config, [ImageBall(0.1)])
    right = np.flatnonzero(trained.predict(split.images[:120]) == split.labels[:120])
    attacked = split.take(right)
    result = config.carlini_wagner.find(trained, attacked, ImageBall(1.5, "l2"))
    sizes = [float(np.linalg.norm(p)) for p in result.images[result.success] - attacked.images[result.success]]
    assert measurements["carlini_wagner_success"] == pytest.approx(result.success.mean())
    assert 0 < measurements["carlini_wagner_success"] < 1  # or the above says little
    assert measurements["carlini_wagner_norm"] == pytest.approx(np.mean(sizes), rel=1e-5)
    assert measurements["carlini_wagner_norm"] > 0


def test_transferred_examples_are_those_of_the_surrogate_on_images_that_both_classify_correctly(
    trained, surrogate, split, fonts, config
):
    spaces = [ImageBall(0.2), TrueManifold(fonts)]
    measurements, *_ = examined(trained, split, config, spaces, surrogate=surrogate)
    for space, count, name in zip(spaces, (120, 100), ("regular", "on_true_manifold"), strict=True):
        known = [model.predict(split.images[:count]) == split.labels[:count] for model in (trained, surrogate)]
        attacked = split.take(np.flatnonzero(known[0] & known[1]))
        result = attacks.Transfer(surrogate, config.attack).find(trained, attacked, space)
        rate = measurements[f"{name}_transfer_success"]
        assert rate == pytest.approx(result.restart_success.mean())
        assert 0 < rate < measurements[f"{name}_success"]


def test_nothing_is_measured_that_was_not_asked_for(trained, split, config):
    measurements, *_ = examined(trained, split, replace(config, carlini_wagner=None), [ImageBall(0.1)])
    for names in MEASURED_ON_REQUEST.values():
        assert all(math.isnan(measurements[name]) for name in names)


def test_the_surrogate_is_trained_once_normally_and_from_a_seed_of_its_own(tmp_path):
    config = replace(TINY, n_transfer=30, n_vae=0, trainings=(ADVERSARIAL,))
    done = Counter()
    with open_store(tmp_path, config) as store:
        first = prepare(config, store, lambda what, task, share: done.update({task: share})).surrogate
        assert done["surrogate"] == pytest.approx(1)
        before = tree(tmp_path)
        again = prepare(config, store, quiet).surrogate
    assert tree(tmp_path) == before
    (path,) = (tmp_path / "models").glob("surrogate-*.npz")
    split = source_of(config).split(np.arange(30))
    images = split.images
    for model in (again, models.load(path)):
        np.testing.assert_array_equal(model.logits(images), first.logits(images))
    recipe = TrainingConfig(epochs=config.epochs, batch_size=config.batch_size, adam=config.adam)
    for seed in range(3):
        other = models.Model.from_architecture(config.architecture, seed)
        train(other, split, seed=seed, config=recipe)
        assert (other.logits(images) != first.logits(images)).any()
