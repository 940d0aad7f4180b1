"""Runs on IDX files: what changes where nobody knows the true manifold."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY, examined, made_up, main, rows, tree
from idx_makers import part_files, random_part, write_files, write_split

from hlf_np import UserError, models
from hlf_np.attacks import PGD
from hlf_np.cli.options import Data
from hlf_np.data import Split
from hlf_np.data.open_source import open_source
from hlf_np.data.source import open_files
from hlf_np.experiments.analysis.existence import leaving_the_manifold
from hlf_np.experiments.configuration.config import PRESETS, Preset, RunConfig
from hlf_np.experiments.grid.prepare import fit, prepare, source_of, spaces_of
from hlf_np.experiments.grid.run import check_grid
from hlf_np.experiments.measurements import Subject
from hlf_np.experiments.storage.folder import open_store
from hlf_np.manifolds import VaeConfig
from hlf_np.manifolds.distance import NeighbourSearch, subspace_distances
from hlf_np.manifolds.oracle import ClassifierConfig
from hlf_np.models.architectures import Architecture, Kind
from hlf_np.report.figures.draw import draw_figures
from hlf_np.report.figures.pictures import Section
from hlf_np.spaces import EMNIST_BOX, ImageBall, LearnedManifold, Need, Transformations
from hlf_np.training import TrainingConfig, train
from hlf_np.trainings import MAIN

N_TRAIN, N_TEST = 400, 120
WITHOUT_TRUE_MANIFOLD = [t for t in MAIN if Need.TRUE_MANIFOLD not in t.needs]
SUBSPACE_REFERENCE = ("regular_subspace_distance", "on_learned_manifold_subspace_distance", "clean_subspace_distance")


@pytest.fixture(scope="module")
def shapes(fonts, tmp_path_factory):
    """A folder of files named as MNIST's, with shapes of ten classes."""
    numbers = np.arange(N_TRAIN), np.arange(fonts.train_size, fonts.train_size + N_TEST)
    return write_split(tmp_path_factory.mktemp("data") / "shapes", *map(fonts.split, numbers))


@pytest.fixture(scope="module")
def source(shapes):
    return open_files(shapes)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Images of letters D, B and Y alone, in unequal numbers and sorted, in a test file only."""
    images, labels = random_part(100, side=8)
    labels = np.sort(np.r_[[2] * 60, [4] * 30, [25] * 10])
    return write_files(tmp_path_factory.mktemp("some"), part_files("emnist-letters-test-first", images, labels))


# --- a source of images ---------------------------------------------------------------------------------------


def test_images_come_in_an_order_that_the_seed_decides(shapes, source):
    stored = source.raw
    data = source.dataset(N_TRAIN, N_TEST)
    for split, files in ((data.train, stored.train.split()), (data.test, stored.test.split())):
        found = {image.tobytes(): label for image, label in zip(split.images, split.labels, strict=True)}
        assert found == {image.tobytes(): label for image, label in zip(files.images, files.labels, strict=True)}
        assert (split.images != files.images).any()
    few = source.dataset(7, 3)
    np.testing.assert_array_equal(few.train.images, data.train.images[:7])
    np.testing.assert_array_equal(few.test.labels, data.test.labels[:3])
    np.testing.assert_array_equal(open_files(shapes).dataset(7, 0).train.images, few.train.images)
    assert (open_files(shapes, seed=1).dataset(7, 0).train.images != few.train.images).any()
    for counts in ((N_TRAIN + 1, 0), (0, N_TEST + 1), (-1, 0)):
        with pytest.raises(UserError, match="must be between 0 and"):
            source.dataset(*counts)


def test_classes_are_those_with_training_images(letters):
    source = open_files(letters)
    assert (source.name, source.class_names, source.image_shape) == ("emnist_letters", ("B", "D", "Y"), (8, 8, 1))
    assert (source.train_size, source.test_size) == (80, 20)
    data = source.dataset(80, 20)
    counts = np.bincount(np.concatenate([data.train.labels, data.test.labels]))
    assert counts.tolist() == [60, 30, 10]
    assert source.class_size == np.bincount(data.train.labels).max()


def test_test_images_of_classes_that_nobody_can_learn_are_left_out_and_counted(tmp_path, capsys):
    images, _ = random_part(12)
    files = part_files("train", images, np.array([3, 7] * 6)) | part_files("t10k", images, np.arange(12) % 10)
    source = Data(str(write_files(tmp_path, files)), None, None, None, ()).source
    assert capsys.readouterr().err.startswith("hlf_np: 10 of 12 test images are left out")
    assert source.class_names == ("3", "7")
    assert sorted(source.dataset(0, source.test_size).test.labels.tolist()) == [0, 1]


def test_each_class_gives_its_first_images_or_all(letters):
    source = open_files(letters)
    train = source.dataset(80, 0).train
    found = source.of_each_class(20)
    chosen = [np.flatnonzero(train.labels == label)[:20] for label in range(3)]
    assert len(chosen[0]) == 20 > len(chosen[2])
    np.testing.assert_array_equal(found.images, train.images[np.sort(np.concatenate(chosen))])
    np.testing.assert_array_equal(found.labels, train.labels[np.sort(np.concatenate(chosen))])


def test_fonts_is_a_source_like_any_other(fonts):
    found = fonts.of_each_class(3)
    np.testing.assert_array_equal(found.images, fonts.dataset(30, 0).train.images)
    assert np.bincount(found.labels).tolist() == [3] * fonts.classes
    assert (fonts.name, fonts.class_names, fonts.class_size) == ("fonts", tuple("ABCDEFGHIJ"), 3 * 96)
    assert fonts.image_shape == found.images.shape[1:]


# --- a configuration for it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", Preset)
def test_presets_are_cut_to_what_there_is(source, preset):
    config = fit(PRESETS[preset], source)
    assert (config.dataset, config.classes) == ("shapes", tuple("0123456789"))
    expected = [t for t in PRESETS[preset].trainings if Need.TRUE_MANIFOLD not in t.needs]
    assert list(config.trainings) == expected
    assert config.sizes == tuple(size for size in PRESETS[preset].sizes if size <= N_TRAIN)
    assert config.n_test == min(PRESETS[preset].n_test, N_TEST)
    assert config.n_attacked <= N_TEST >= config.n_attacked_on_manifold
    assert (config.n_vae, config.n_neighbours) == (40, N_TRAIN)
    assert config.n_oracle == min(PRESETS[preset].n_oracle, N_TRAIN)
    check_grid(config, source)
    assert RunConfig.from_json(json.loads(json.dumps(config.as_json()))) == config


def test_a_source_smaller_than_every_size_is_used_whole(letters):
    config = fit(PRESETS[Preset.STANDARD], open_files(letters))
    assert config.sizes == (80,)
    assert config.classes == ("B", "D", "Y")
    assert config.vae.image_shape == (8, 8, 1)


def test_presets_on_fonts_stay_what_they_are():
    for config in PRESETS.values():
        assert fit(config, open_source("fonts")) == config


def test_grids_beyond_the_files_are_refused(source, letters):
    config = fit(TINY, source)
    for name, value in {"sizes": (401,), "n_test": 121, "n_vae": 41, "n_oracle": 401}.items():
        with pytest.raises(UserError, match=f"{name} must be between"):
            check_grid(replace(config, **{name: value}))
    with pytest.raises(UserError, match="too small for this cnn"):
        check_grid(replace(fit(TINY, open_files(letters)), architecture=Architecture(Kind.CNN, (1, 1, 1, 1))))
    for training in set(MAIN) - set(WITHOUT_TRUE_MANIFOLD):
        with pytest.raises(UserError, match="needs the true manifold, which is unknown for this dataset"):
            replace(config, trainings=(training,))


def test_a_run_goes_on_with_its_own_images_only(shapes, tmp_path):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    config = fit(TINY, open_files(folder))
    np.testing.assert_array_equal(
        source_of(config).dataset(5, 0).train.images, open_files(folder).dataset(5, 0).train.images
    )
    images, labels = random_part(N_TEST, side=28)
    write_files(folder, part_files("t10k", images, labels, ".gz"))
    with pytest.raises(UserError, match="contains other images than when this run started"):
        source_of(config)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"unknown dataset .*shapes"):
        source_of(config)


def test_spaces_have_the_papers_transformations_and_no_true_manifold(source):
    config = replace(fit(TINY, source), epsilon=0.1, latent_epsilon=0.2)
    assert spaces_of(config, source) == (ImageBall(0.1), Transformations(EMNIST_BOX, epsilon=0.2))


# --- groundwork and measurements ------------------------------------------------------------------------------


def laid(folder, config):
    with open_store(folder, config) as store:
        return prepare(config, store, lambda what, task, done: None)


def test_groundwork_on_classes_of_unequal_size(letters, tmp_path, monkeypatch):
    settings = ClassifierConfig(Architecture(Kind.CNN, (2, 4), hidden_units=4), TrainingConfig(epochs=1))
    monkeypatch.setattr("hlf_np.experiments.grid.prepare.ORACLE", settings)
    config = fit(replace(TINY, n_oracle=80, n_vae=30, n_neighbours=70), open_files(letters))
    ground = laid(tmp_path, config)
    (manifold,) = (space for space in ground.test_spaces if isinstance(space, LearnedManifold))
    assert len(manifold.vaes) == 3
    assert (ground.oracle.classes, ground.oracle.image_shape) == (3, (8, 8, 1))
    expected = open_files(letters).dataset(70, 0).train.images
    np.testing.assert_array_equal(ground.neighbours.images, expected.reshape(70, -1))


VAE = VaeConfig(channels=(4, 8), latent_dimensions=3, epochs=8, batch_size=5)


def test_distances_are_to_the_subspace_of_neighbours(source, tmp_path):
    config = replace(
        fit(TINY, source), attack=PGD(3, 0.3), latent_epsilon=2, n_projected=6, vae=VAE, n_vae=40, sizes=(N_TRAIN,)
    )
    ground = laid(tmp_path, config)
    model = models.cnn(widths=(4, 8), hidden_units=12)
    train(model, ground.dataset.train, config=TrainingConfig(epochs=6, batch_size=20))
    test = ground.dataset.test
    measured, _, distances = examined(model, test, config, ground.test_spaces, None, ground.neighbours)
    right = model.predict(test.images) == test.labels
    (manifold,) = (space for space in ground.test_spaces if isinstance(space, LearnedManifold))
    for kind, space, count in (
        ("regular", ImageBall(0.3), config.n_attacked),
        ("on_learned_manifold", manifold, config.n_attacked_on_manifold),
    ):
        attacked = test.take(np.flatnonzero(right[:count]))
        if space is manifold:
            attacked = Subject(model, test, config, ground.test_spaces).attacked(LearnedManifold)
        result = config.attack.find(model, attacked, space)
        fooled = np.flatnonzero(result.success)[:6]
        assert len(fooled)
        starts = attacked.images[fooled]
        if space is manifold:
            vaes = [manifold.vaes[label] for label in attacked.labels[fooled]]
            codes = [vae.encode(image[None]) for vae, image in zip(vaes, starts, strict=True)]
            starts = np.concatenate([vae.decode(z) for vae, z in zip(vaes, codes, strict=True)])
        expected = subspace_distances(result.images[fooled], starts, ground.neighbours, 50)
        np.testing.assert_allclose(distances[f"{kind}_subspace"], expected, rtol=1e-4)
        assert measured[f"{kind}_subspace_distance"] == pytest.approx(expected.mean())
    np.testing.assert_array_equal(distances["clean_subspace"], np.zeros(6))
    assert all(math.isnan(measured[name]) for name in ("regular_distance", "clean_distance"))


def test_neighbours_do_not_span_small_images():
    """Fifty directions reach all images of 49 pixels, which would be at distance 0."""
    random = np.random.default_rng(0)
    images = random.random((100, 7, 7, 1), np.float32)
    test = Split(images[:30], np.arange(30) % 2)
    model = models.mlp(image_shape=(7, 7, 1), classes=2)
    neighbours = NeighbourSearch(images[30:])
    config = replace(TINY, attack=PGD(3, 0.3))
    *_, distances = examined(model, test, config, [ImageBall(0.3)], None, neighbours)
    assert len(distances["regular_subspace"])
    assert (distances["regular_subspace"] > 0.01).all()


def in_subspace(count, regular, learned, images=40):
    random = np.random.default_rng(0)

    def around(mean):
        return np.abs(random.normal(mean, 0.1, images))

    return [
        made_up(
            seed=i,
            distances={
                "regular_subspace": around(regular),
                "on_learned_manifold_subspace": around(learned),
                "clean_subspace": np.zeros(images),
            },
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        (in_subspace(8, 1.12, 0.58), "supported"),
        (in_subspace(8, 0.6, 0.6), "refuted"),  # farther than clean images, but those are at 0 by construction
        (in_subspace(8, 0.5, 1.1), "refuted"),
        (in_subspace(5, 1.12, 0.58), "undecided"),
        (in_subspace(8, 1.12, 0.58, images=4), "undecided"),
    ],
)
def test_claim_1_compares_with_the_learned_manifold(results, verdict):
    claim = leaving_the_manifold(results)
    assert claim.verdict.split(":")[0] == verdict
    if claim.statistic is not None:
        assert "subspace" in claim.statistic_name
        assert "whose error does not count" in claim.details[1]
        assert claim.data["mean_distance"].keys() == {name.removesuffix("_distance") for name in SUBSPACE_REFERENCE}


def test_the_figure_of_distances_says_what_they_are_to():
    (picture,) = (p for p in draw_figures(in_subspace(8, 1.12, 0.58), "0123456789") if p.section is Section.CLAIM_1)
    assert "to the subspace of nearest training images" in picture.caption
    assert "true" not in picture.caption


# --- the command line -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    """The folder of a finished smoke run on the shapes; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "results"
    code, output, errors = main("run", "--preset", "smoke", "--dataset", shapes, "--out", out)
    assert (code, errors) == (0, "")
    assert "Success rate of attacks on the learned manifold" in output
    assert "true manifold" not in output
    return out


@pytest.mark.stress
def test_a_smoke_run_leaves_the_columns_of_the_true_manifold_empty(finished):
    found = rows(finished)
    assert [(row["n_train"], row["training"]) for row in found] == [
        (size, training) for size in ("100", "200") for training in map(str, WITHOUT_TRUE_MANIFOLD)
    ]
    for row in found:
        assert row["dataset"] == "shapes"
        assert {name for name in row if not row[name]} == {
            *("on_true_manifold_success", "on_true_manifold_success_worst", "learned_labels_kept"),
            *("regular_distance", "on_true_manifold_distance", "clean_distance"),
            *("carlini_wagner_success", "carlini_wagner_norm", "on_true_manifold_subspace_distance"),
            *(f"{place}_manifold_carlini_wagner_success" for place in ("on_true", "on_learned")),
            *("on_data_manifold_success", "on_data_manifold_success_worst", "gradient_tangent_share"),
            *(f"{place}_transfer_success" for place in ("regular", "on_true_manifold", "on_learned_manifold")),
        } | {name for name in SUBSPACE_REFERENCE if not row[name]}
        assert float(row["clean_subspace_distance"]) == 0
        assert 0 <= float(row["on_learned_manifold_success"]) <= float(row["on_learned_manifold_success_worst"]) <= 1
    assert sum(bool(row["regular_subspace_distance"]) for row in found) > 5
    claims = json.loads((finished / "claims.json").read_text())
    assert [claim["number"] for claim in claims] == [1, 2, 3, 4]
    assert claims[2]["data"]["success"] == "on_learned_manifold_success"
    page = (finished / "report.html").read_text()
    assert "shapes, 10 classes, whose true manifold is unknown" in page
    assert "FONTS" not in page
    assert "of 10 autoencoders, one per class, each trained on up to 40 images" in " ".join(page.split())
    assert (finished / "figures" / "distances.png").exists()


@pytest.mark.stress
def test_a_finished_run_and_its_report_are_found_again(finished, shapes, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "results")
    assert main("run", "--preset", "smoke", "--dataset", shapes, "--out", folder)[0] == 0
    (folder / "report.html").unlink()
    assert main("report", folder)[0] == 0
    assert tree(folder) == tree(finished)


@pytest.mark.stress
def test_single_models_on_the_shapes(finished, shapes, tmp_path):
    model, data = tmp_path / "model.npz", ("--dataset", shapes)
    learned = ("--manifolds", finished / "manifolds")
    training = ("--training", "on_learned_manifold_adversarial", "--n-train", 300, "--epochs", 3)
    code, output, errors = main("train", *training, *data, *learned, "--out", model)
    assert (code, errors) == (0, "")
    code, output, errors = main("evaluate", model, *data, *learned, "--restarts", 1)
    assert (code, errors) == (0, "")
    assert f"{N_TEST} test images of shapes" in output
    assert "on the learned manifold" in output
    assert "true manifold" not in output
    for space, vaes in {"image": (), "transformations": (), "learned-manifold": learned}.items():
        out = tmp_path / f"{space}.npz"
        code, _, errors = main("attack", model, *data, *vaes, "--space", space, "--images", 20, "--out", out)
        assert (code, errors) == (0, "")
        with np.load(out) as stored:
            np.testing.assert_array_equal(stored["originals"], open_files(shapes).dataset(0, 20).test.images)


@pytest.mark.stress
def test_mistakes_about_datasets_are_one_line(finished, shapes, letters, tmp_path):
    model = finished / "models" / "normal-100-0.npz"
    true = "regular_and_on_true_manifold_adversarial"
    for arguments, words in {
        ("run", "--dataset", tmp_path / "emnist"): "unknown dataset",
        ("run", "--dataset", tmp_path): "holds no dataset in a supported format",
        ("run", "--dataset", shapes, "--difficulty", "easy"): "only FONTS has a difficulty",
        ("run", "--dataset-name", "mnist"): "leave --dataset-name out",
        ("run", "--dataset", shapes, "--dataset-name", "emnist-digits"): "instead of emnist-digits",
        ("run", "--dataset", shapes, "--trainings", true): "which is unknown for",
        ("run", "--dataset", shapes, "--sizes", "401"): "sizes must be between 1 and 400, not 401",
        (
            "train",
            "--dataset",
            shapes,
            "--training",
            "on_true_manifold_adversarial",
        ): "which is unknown for",
        ("train", "--dataset", shapes, "--n-train", 401): "n_train must be between 0 and 400, not 401",
        ("evaluate", model, "--dataset", letters): "is a model for 10 classes of 28x28x1 images",
        ("evaluate", model, "--dataset", shapes, "--n-attacked-on-manifold", 5): "has no effect without --manifolds",
        ("evaluate", model, "--dataset", shapes, "--n-test", 121): "n_test must be between 0 and 120, not 121",
        (
            "attack",
            model,
            "--dataset",
            shapes,
            "--space",
            "true-manifold",
        ): "which is unknown for",
        ("attack", model, "--dataset", letters): "emnist_letters has 3 classes of 8x8x1 images",
    }.items():
        out = () if arguments[0] == "evaluate" else ("--out", tmp_path / "new")
        code, output, errors = main(*arguments, *out)
        assert (code, output, errors.count("\n")) == (2, "", 1)
        assert words in errors
    assert not (tmp_path / "new").exists()


@pytest.mark.stress
def test_a_folder_of_other_results_is_refused(finished, shapes, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "results")
    before = tree(folder)
    assert "another configuration" in main("run", "--preset", "smoke", "--out", folder)[2]
    other = shutil.copytree(shapes, tmp_path / "shapes")
    write_files(other, part_files("t10k", *random_part(N_TEST, side=28), ".gz"))
    code, _, errors = main("run", "--preset", "smoke", "--dataset", other, "--out", folder)
    assert code == 2
    assert "different digest, path" in errors
    assert tree(folder) == before
