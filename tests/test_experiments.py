"""The grid of models: its configuration, its order, and the results of a cell."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY, command, compute, examined, made_up, numbers, quiet, tree
from hypothesis import given
from hypothesis import strategies as st

from hlf_np import UserError, attacks, models
from hlf_np.attacks import PGD, CarliniWagner, Rule, Start
from hlf_np.data.fonts import BOXES, Difficulty
from hlf_np.experiments.configuration.config import PRESETS, Preset, RunConfig
from hlf_np.experiments.grid.cell import run_cell
from hlf_np.experiments.grid.prepare import Prepared, prepare, source_of, spaces_of, training_config
from hlf_np.experiments.grid.run import check_grid, run_grid
from hlf_np.experiments.measurements import Subject
from hlf_np.experiments.results import Cell
from hlf_np.experiments.storage.folder import open_store
from hlf_np.manifolds import VaeConfig
from hlf_np.manifolds.distance import project
from hlf_np.manifolds.oracle import labels_kept
from hlf_np.models.architectures import DEFAULTS, Kind
from hlf_np.optim import AdamConfig
from hlf_np.spaces import ImageBall, LearnedManifold, Norm, Transformations, TrueManifold
from hlf_np.training import TrainingConfig, train
from hlf_np.trainings import ADVERSARIAL, MAIN, NORMAL, PAPER, REGULAR_AND_LEARNED, SAMPLED, Variant, training_of

# --- configuration --------------------------------------------------------------------------------------------

fractions = st.floats(1e-6, 1, allow_nan=False)
some_attacks = st.builds(
    PGD,
    steps=st.integers(0, 100),
    step_size=fractions,
    rule=st.sampled_from(Rule),
    start=st.sampled_from(Start),
    restarts=st.integers(1, 9),
    stop_early=st.booleans(),
)
configurations = st.builds(
    RunConfig,
    difficulty=st.sampled_from(Difficulty),
    data_seed=st.integers(0, 2**63),
    prototypes=st.text(max_size=64),
    trainings=st.lists(st.sampled_from(PAPER), min_size=1, unique=True).map(tuple),
    sizes=st.lists(st.integers(1, 960_000), min_size=1, max_size=20, unique=True).map(tuple),
    seeds=st.integers(1, 99),
    architecture=st.sampled_from(list(DEFAULTS.values())),
    epochs=st.integers(0, 99),
    batch_size=st.integers(1, 999),
    adam=st.builds(
        AdamConfig, learning_rate=fractions, betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), decay=fractions
    ),
    training_attack=some_attacks,
    attack=some_attacks,
    epsilon=fractions,
    latent_epsilon=fractions,
    n_test=st.integers(1000, 160_000),
    n_attacked=st.integers(1, 1000),
    n_attacked_on_manifold=st.integers(1, 1000),
    n_projected=st.integers(0, 1000),
    vae=st.builds(
        VaeConfig,
        channels=st.lists(st.integers(1, 99), min_size=1, max_size=4).map(tuple),
        latent_dimensions=st.integers(1, 99),
        reconstruction_weight=fractions,
        epochs=st.integers(0, 99),
    ),
    n_vae=st.integers(1, 96_000),
    n_oracle=st.integers(0, 960_000),
    variant=st.sampled_from(Variant),
    norm=st.sampled_from(Norm),
    carlini_wagner=st.none() | st.builds(CarliniWagner, iterations=st.integers(0, 999), confidence=st.floats(0, 9)),
    n_transfer=st.integers(0, 960_000),
)


@given(configurations)
def test_configurations_survive_a_round_trip_through_json(config):
    found = RunConfig.from_json(json.loads(json.dumps(config.as_json())))
    assert found == config
    assert type(found.architecture.kind) is Kind
    assert type(found.attack.rule) is Rule
    assert (type(found.norm), type(found.variant)) == (Norm, Variant)


@pytest.mark.parametrize("preset", Preset)
def test_every_preset_has_the_papers_recipe(preset):
    config = PRESETS[preset]
    assert (config.dataset, config.difficulty, config.architecture) == ("fonts", "hard", DEFAULTS[Kind.CNN])
    assert config.batch_size == 100
    assert config.adam == AdamConfig(learning_rate=0.01, betas=(0.5, 0.9), weight_decay=1e-4, decay=0.95)
    assert config.epsilon == 0.3
    assert config.training_attack == replace(config.attack, stop_early=False, restarts=1)
    assert config.attack.stop_early
    assert (
        config.trainings
        == {
            Preset.SMOKE: MAIN,
            Preset.QUICK: MAIN[:5],
            Preset.STANDARD: (*MAIN, REGULAR_AND_LEARNED, *SAMPLED),
            Preset.PAPER: (*PAPER, *SAMPLED),
        }[preset]
    )
    assert config.latent_epsilon == 0.3


@pytest.mark.parametrize("preset", [Preset.QUICK, Preset.STANDARD, Preset.PAPER])
def test_all_but_the_smoke_preset_train_and_attack_as_long_as_the_paper(preset):
    config = PRESETS[preset]
    assert config.epochs == 20
    restarts = 3 if preset is Preset.QUICK else 5
    assert config.attack == PGD(steps=40, step_size=0.005, rule="adam", start="random", restarts=restarts)
    assert config.n_attacked == 1000
    assert config.n_attacked_on_manifold == {Preset.QUICK: 500, Preset.STANDARD: 1000, Preset.PAPER: 2500}[preset]


def test_paper_preset_has_the_papers_grid():
    config = PRESETS[Preset.PAPER]
    assert config.sizes == (
        *(250, 500, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 7500),
        *(10_000, 15_000, 20_000, 30_000, 40_000),
    )
    assert config.seeds == 5
    assert (TINY.architecture.widths, config.architecture.widths) == ((2, 4), (16, 32, 64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainings": ()}, "at least one training"),
        ({"trainings": (NORMAL, NORMAL)}, "each only once"),
        ({"sizes": ()}, "at least one number"),
        ({"sizes": (5, 5)}, "each only once"),
        ({"sizes": (5, 0)}, "sizes must be at least 1, not 0"),
        ({"seeds": 0}, "seeds must be between 1 and 10000"),
        ({"seeds": 10**12}, "seeds must be between 1 and 10000"),
        ({"epsilon": 0}, "epsilon must be a positive number"),
        ({"epsilon": float("nan")}, "epsilon must be a positive number"),
        ({"latent_epsilon": -0.3}, "latent_epsilon must be a positive number"),
        ({"n_test": 0}, "n_test must be at least 1"),
        ({"n_attacked": 0}, "n_attacked must be between 1 and 60"),
        ({"n_attacked": 61}, "n_attacked must be between 1 and 60"),
        ({"n_attacked_on_manifold": 61}, "n_attacked_on_manifold must be between 1 and 60"),
        ({"n_tracked": -1}, "n_tracked must be at least 0, not -1"),
        ({"n_tracked": 1}, "n_tracked must be between 2 and 60, not 1"),
        ({"n_tracked": 61}, "n_tracked must be between 2 and 60, not 61"),
        ({"n_projected": -1}, "n_projected must be at least 0, not -1"),
        ({"n_vae": -1}, "n_vae must be at least 0, not -1"),
        ({"n_oracle": -1}, "n_oracle must be at least 0, not -1"),
        ({"n_transfer": -1}, "n_transfer must be at least 0, not -1"),
        (
            {"n_vae": 0, "trainings": PAPER},
            "on_learned_manifold_adversarial needs the learned manifold, but the run trains no VAEs",
        ),
    ],
)
def test_invalid_configurations_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(TINY, **changes)


def test_grids_beyond_the_data_are_refused():
    limits = {"n_test": 160_000, "n_vae": 96_000, "n_oracle": 960_000, "n_transfer": 960_000}
    check_grid(replace(TINY, sizes=(960_000,), **limits))
    with pytest.raises(UserError, match="sizes must be between 1 and 960000, not 960001"):
        check_grid(replace(TINY, sizes=(10, 960_001)))
    for name, count in limits.items():
        with pytest.raises(UserError, match=rf"{name} must be between \d and {count}, not {count + 1}"):
            check_grid(replace(TINY, **{name: count + 1}))


# --- the grid -------------------------------------------------------------------------------------------------


def test_grid_has_every_cell_once_small_models_first():
    cells = list(replace(TINY, sizes=(30, 10, 20), seeds=2).cells())
    assert [cell.n_train for cell in cells] == sorted(cell.n_train for cell in cells)
    assert len({cell.name for cell in cells}) == len(set(cells)) == len(cells) == 3 * 2 * len(TINY.trainings)


@pytest.mark.stress
def test_a_larger_grid_has_the_same_numbers_in_the_cells_of_a_smaller_one(tmp_path):
    results = {}
    for name, config in {"small": TINY, "large": replace(TINY, sizes=(10, 15, 20, 30), seeds=2)}.items():
        compute(tmp_path / name, config)
        results[name] = numbers(tmp_path / name)
        assert [(row["training"], int(row["n_train"]), int(row["seed"])) for row in results[name]] == [
            (cell.training.name, cell.n_train, cell.seed) for cell in config.cells()
        ]
    assert [row for row in results["large"] if row in results["small"]] == results["small"]
    assert len({tuple(row.values()) for row in results["large"]}) == 16


def test_progress_adds_up_to_the_work_that_was_left(tmp_path):
    done = Counter()
    with open_store(tmp_path / "results", TINY) as store:
        run_grid(TINY, store, lambda what, task, share: done.update({task: share}))
    tasks = {cell.name for cell in TINY.cells()} | {f"class {label}" for label in range(10)}
    assert {task: share for task, share in done.items() if share} == pytest.approx(dict.fromkeys(tasks, 1))


@pytest.mark.stress
def test_results_are_the_same_bits_at_any_number_of_threads(tmp_path):
    for threads in (1, 2, 5):
        done = command(
            *("run", "--preset", "smoke", "--sizes", "30,60", "--seeds", "1"),
            *("--out", tmp_path / str(threads), "--threads", threads),
        )
        assert (done.returncode, done.stderr) == (0, "")
    first = numbers(tmp_path / "1")
    assert len(first) == len({row["train_loss"] for row in first}) == 12
    assert numbers(tmp_path / "2") == numbers(tmp_path / "5") == first
    for folder in ("models", "manifolds"):
        found = tree(tmp_path / "1" / folder)
        assert len(found) >= 10
        assert tree(tmp_path / "2" / folder) == tree(tmp_path / "5" / folder) == found


# --- a cell ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset():
    return source_of(TINY).dataset(400, TINY.n_test)


@pytest.fixture(scope="module")
def spaces(tmp_path_factory):
    vae = VaeConfig(channels=(4, 8), latent_dimensions=3, epochs=8, batch_size=5)
    config = replace(TINY, vae=vae, n_vae=40)
    with open_store(tmp_path_factory.mktemp("spaces"), config) as store:
        return prepare(config, store, quiet).test_spaces


@pytest.fixture(scope="module")
def learned(dataset):
    """A small model that classifies some test images correctly."""
    model = models.cnn(widths=(4, 8), hidden_units=12)
    train(model, dataset.train, config=TrainingConfig(epochs=8, batch_size=20))
    return model


def test_measurements_are_as_documented(learned, dataset, spaces):
    config = replace(TINY, attack=PGD(2, 0.01, restarts=2))
    measurements, examples, _ = examined(learned, dataset.test, config, spaces)
    images, labels = dataset.test.images, dataset.test.labels
    right = learned.predict(images) == labels
    assert measurements["test_error"] == pytest.approx(1 - right.sum() / 60)

    (manifold,) = (space for space in spaces if isinstance(space, LearnedManifold))
    candidates = dataset.test.take(slice(TINY.n_attacked_on_manifold))
    codes = np.concatenate(
        [manifold.vaes[y].encode(x[None]) for x, y in zip(candidates.images, candidates.labels, strict=True)]
    )
    reconstructions = np.concatenate(
        [manifold.vaes[y].decode(code[None]) for code, y in zip(codes, candidates.labels, strict=True)]
    )
    reconstructed = learned.predict(reconstructions) == candidates.labels
    assert measurements["reconstruction_error"] == pytest.approx(1 - reconstructed.mean())
    inside = (np.abs(codes) <= 2).all(axis=1)
    for space, correct, perturbable in (
        (ImageBall(0.3), right[: TINY.n_attacked], True),
        (TrueManifold(source_of(TINY)), right[: TINY.n_attacked_on_manifold], True),
        (manifold, reconstructed, inside),
    ):
        attacked = dataset.test.take(np.flatnonzero(correct & perturbable))
        settings = {"steps": 2, "step_size": 0.01, "restarts": 2, "seed": 0}
        result = attacks.pgd(learned, attacked.images, attacked.labels, space, attacked.codes, **settings)
        average, worst = measurements[f"{space.name}_success"], measurements[f"{space.name}_success_worst"]
        assert average == pytest.approx(result.restart_success.sum() / 2 / correct.sum())
        assert worst == pytest.approx(result.success.sum() / correct.sum())
        assert 0 <= average <= worst
        assert 0 < average <= worst < 1 or space is manifold  # whose barely trained VAEs hardly change images
    assert math.isnan(measurements["learned_labels_kept"])

    assert set(examples) == {"regular", "on_true_manifold", "on_learned_manifold"}
    for kind, found in examples.items():
        assert (kind != "on_learned_manifold") <= len(found.labels) <= TINY.n_examples
        assert len(set(found.labels.tolist())) == len(found.labels)  # one of each class
        for original in found.originals:
            assert any((original == image).all() for image in images[: TINY.n_attacked])
        if kind != "on_learned_manifold":  # where attacks start from reconstructions
            np.testing.assert_array_equal(learned.predict(found.originals), found.labels)
        np.testing.assert_array_equal(learned.predict(found.adversarial), found.predictions)
        assert (found.predictions != found.labels).all()
        changes = np.abs(found.adversarial - found.originals)
        assert not changes.size or (changes.max() <= 0.3 + 1e-6) == (kind == "regular")


def test_distances_are_those_of_the_first_successful_examples_to_the_manifold_of_their_originals(
    learned, dataset, spaces
):
    config = replace(TINY, attack=PGD(3, 0.05), n_projected=4)
    measurements, _, distances = examined(learned, dataset.test, config, spaces)
    manifold = TrueManifold(source_of(TINY))
    right = learned.predict(dataset.test.images) == dataset.test.labels
    for kind, space, count in (
        ("regular", ImageBall(0.3), TINY.n_attacked),
        ("on_true_manifold", manifold, TINY.n_attacked_on_manifold),
    ):
        attacked = dataset.test.take(np.flatnonzero(right[:count]))
        result = config.attack.find(learned, attacked, space)
        fooled = np.flatnonzero(result.success)[:4]
        part = attacked.take(fooled)
        found = project(result.images[fooled], manifold.chart(part.images, part.labels, part.codes))
        np.testing.assert_array_equal(distances[kind], found.distances)
        assert measurements[f"{kind}_distance"] == pytest.approx(found.distances.mean())
    assert len(distances["clean"]) == 4
    assert measurements["clean_distance"] == pytest.approx(distances["clean"].mean())
    assert measurements["clean_distance"] < 1e-3
    assert measurements["regular_distance"] > 10 * measurements["on_true_manifold_distance"]


def test_without_a_true_manifold_there_are_no_distances(learned, dataset):
    measurements, _, distances = examined(learned, dataset.test, TINY, [ImageBall(0.3)])
    assert distances == {}
    for name in ("regular_distance", "clean_distance", "on_true_manifold_success"):
        assert math.isnan(measurements[name])


def test_the_oracle_judges_every_image_attacked_on_the_learned_manifold(learned, dataset, spaces):
    (manifold,) = (space for space in spaces if isinstance(space, LearnedManifold))
    far, config = replace(manifold, epsilon=1.1), replace(TINY, attack=PGD(10, 0.2))
    measurements, *_ = examined(learned, dataset.test, config, [far], learned)  # others might recognise nothing
    attacked = Subject(learned, dataset.test, config, [far]).attacked(LearnedManifold)
    result = config.attack.find(learned, attacked, far)
    assert measurements["learned_labels_kept"] == labels_kept(learned, result.images, attacked.labels)
    assert 0 < measurements["learned_labels_kept"] < 1


@pytest.mark.parametrize("training", PAPER)
def test_a_cell_is_the_model_of_its_own_training_size_and_seed(dataset, spaces, training):
    cell = Cell(training, 20, 3)
    result, found = run_cell(TINY, cell, Prepared(dataset, spaces, spaces), quiet)
    expected = models.Model.from_architecture(TINY.architecture, seed=3)
    config = training_config(TINY, training, spaces)
    log = train(expected, dataset.train.take(slice(0, 20)), seed=3, config=config)
    for name, array in expected.state_dict().items():
        np.testing.assert_array_equal(found.state_dict()[name], array)
    assert (result.cell, result.value("train_loss")) == (cell, log[-1].loss)


def test_settings_of_a_run_reach_its_trainings():
    config = replace(TINY, epsilon=0.1, latent_epsilon=0.2, epochs=7, batch_size=9, difficulty=Difficulty.EASY)
    fonts = source_of(config)
    both = training_config(config, training_of("regular_and_on_true_manifold_adversarial"), spaces_of(config, fonts))
    assert (both.epochs, both.batch_size, both.adam) == (7, 9, TINY.adam)
    image, manifold = both.perturbations
    assert (image.space, image.attack, image.fraction) == (ImageBall(0.1), TINY.training_attack, pytest.approx(1 / 3))
    assert (manifold.space.fonts, manifold.space.epsilon, manifold.fraction) == (fonts, 0.2, pytest.approx(1 / 3))
    (drawn,) = training_config(config, training_of("random_transformations"), spaces_of(config, fonts)).perturbations
    assert drawn.space == Transformations(BOXES[Difficulty.EASY], epsilon=0.2)


def test_a_model_that_misclassifies_everything_has_no_success_rate_and_no_examples(learned, dataset, spaces):
    wrong = dataset.test.take(np.flatnonzero(learned.predict(dataset.test.images) != dataset.test.labels))
    measurements, examples, distances = examined(learned, wrong, TINY, spaces)
    assert measurements["test_error"] == 1
    for name in ("regular_success_worst", "regular_distance", *(f"{space.name}_success" for space in spaces[:2])):
        assert math.isnan(measurements[name])
    # some of the reconstructions are classified correctly
    assert [len(examples[kind].labels) for kind in ("regular", "on_true_manifold")] == [0, 0]
    assert {kind: len(found) for kind, found in distances.items()} == {"regular": 0, "on_true_manifold": 0, "clean": 10}


def test_models_of_other_classes_are_refused(dataset, spaces):
    with pytest.raises(UserError, match="labels must lie between 0 and 4"):
        examined(models.cnn(classes=5, widths=(2,), hidden_units=2), dataset.test, TINY, spaces)


def test_cells_are_named_for_files_and_for_people():
    cell = Cell(ADVERSARIAL, 250, 3)
    assert cell.name == "adversarial-250-3"
    assert str(made_up(ADVERSARIAL, 250, 3).cell) == "Adversarial, N = 250, seed 3"
