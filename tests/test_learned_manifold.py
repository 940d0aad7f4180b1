"""The learned manifold as a space, distances to manifolds, and the oracle."""

import math
from dataclasses import replace

import numpy as np
import oracles
import pytest

from hlf_np import UserError, models
from hlf_np.attacks import pgd
from hlf_np.autodiff import Tensor, check_grads
from hlf_np.data.dataset import Split
from hlf_np.data.fonts import Difficulty, Fonts, load_prototypes
from hlf_np.manifolds import Vae, VaeConfig, class_vaes, distance
from hlf_np.manifolds.distance import NeighbourSearch, project, subspace_distances
from hlf_np.manifolds.oracle import ClassifierConfig, labels_kept, train_once
from hlf_np.models.architectures import Architecture, Kind
from hlf_np.spaces import ImageBall, LearnedManifold, TrueManifold
from hlf_np.training import TrainingConfig


@pytest.fixture(scope="module")
def vaes(split):
    """Ten tiny VAEs, hardly trained; enough to tell them apart."""
    return class_vaes(split, 10, VaeConfig(channels=(2, 4), latent_dimensions=3, epochs=4, batch_size=5))


# --- the space ------------------------------------------------------------------------------------------------


def test_each_image_is_encoded_and_decoded_by_the_vae_of_its_class(vaes, split):
    images, labels = split.images[:35], split.labels[:35][::-1].copy()
    chart = LearnedManifold(vaes).chart(images, labels, None)
    decoded = chart.decode(Tensor(chart.start)).data
    for image, label, code, seen in zip(images, labels, chart.start, decoded, strict=True):
        np.testing.assert_allclose(code, vaes[label].encode(image[None])[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(seen, vaes[label].decode(code[None])[0], rtol=0, atol=1e-6)
    rows = np.array([30, 2, 17])
    np.testing.assert_allclose(chart.take(rows).decode(Tensor(chart.start[rows])).data, decoded[rows], atol=1e-6)


def test_codes_far_out_are_clipped_into_the_box(vaes, split):
    far = class_vaes(split, 10, VaeConfig(channels=(2, 4), latent_dimensions=3, epochs=0))
    for vae in far:
        vae.encoder.layers[-1].parameters["bias"].data[:] = 50
    part = split.take(slice(20))
    for space, largest in ((LearnedManifold(far), 10), (LearnedManifold(far, lower=(0,) * 3, upper=(7,) * 3), 7)):
        chart = space.chart(part.images, part.labels, None)
        np.testing.assert_array_equal(chart.start, np.full((20, 3), largest, np.float32))
    assert not LearnedManifold(far).perturbable(part).any()


def test_the_fitted_box_holds_all_codes_of_all_classes(vaes, split):
    space = LearnedManifold(vaes).fitted(split.images, split.labels)
    codes = np.concatenate([vaes[y].encode(x[None]) for x, y in zip(split.images, split.labels, strict=True)])
    np.testing.assert_allclose(space.lower, codes.min(axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(space.upper, codes.max(axis=0), rtol=0, atol=1e-6)
    chart = space.chart(split.images, split.labels, None)
    moved = space.project(chart, chart.start + np.float32(9))
    assert (moved <= chart.start + np.float32(0.3)).all()
    assert (moved <= chart.upper).all()
    assert space.fitted(split.images[:0], split.labels[:0]) == space


def test_images_with_a_code_beyond_2_are_not_perturbable(vaes, split):
    spread = class_vaes(split, 10, vaes[0].config)  # an equal copy
    codes = np.concatenate([spread[y].encode(x[None]) for x, y in zip(split.images, split.labels, strict=True)])
    for vae in spread:  # scale the means, so that some of the codes lie outside
        for parameter in vae.encoder.layers[-1].parameters.values():
            parameter.data[:3] *= 1.9 / np.quantile(np.abs(codes), 0.9)
    codes = np.concatenate([spread[y].encode(x[None]) for x, y in zip(split.images, split.labels, strict=True)])
    found = LearnedManifold(spread).perturbable(split)
    np.testing.assert_array_equal(found, (np.abs(codes) <= 2).all(axis=1))
    assert 0 < found.sum() < len(split)


@pytest.mark.parametrize("bounds", [{"lower": (0, 0)}, {"upper": (1, 2, math.nan)}])
def test_impossible_boxes_are_refused(vaes, bounds):
    with pytest.raises(UserError, match="one finite bound for each of the 3 latents"):
        LearnedManifold(vaes, **bounds)


def test_gradients_flow_through_the_decoders_to_each_code(vaes, split):
    def in_float64(layer):
        for parameter in layer.parameters.values():
            parameter.data = parameter.data.astype(np.float64)
        for child in layer.children().values():
            in_float64(child)

    doubled = class_vaes(split, 10, vaes[0].config)
    chart = LearnedManifold(doubled).chart(split.images[:25], split.labels[:25], None)
    for vae in doubled:
        in_float64(vae)
    # ReLUs have kinks, which a step of 1e-6 seldom crosses
    check_grads(chart.decode, chart.start.astype(np.float64), tolerance=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_stay_on_the_manifold_within_reach_and_in_the_box(vaes, split, trained, norm):
    images, labels = split.images[:60], split.labels[:60]
    space = LearnedManifold(vaes, epsilon=0.3, norm=norm, lower=(-1,) * 3, upper=(1.5,) * 3)
    chart = space.chart(images, labels, None)
    results = [
        pgd(trained, images, labels, space, steps=10, step_size=0.1, stop_early=False, start=start)
        for start in ("random", "image")
    ]
    for result in results:
        codes = chart.start + result.perturbations
        assert codes.min() >= -1 - 1e-6
        assert codes.max() <= 1.5 + 1e-6
        order = np.inf if norm == "linf" else 2
        assert np.linalg.norm(result.perturbations, order, axis=1).max() <= 0.3 + 1e-6
        np.testing.assert_allclose(result.images, chart.decode(Tensor(codes)).data, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(result.success, trained.predict(result.images) != labels)
    still = pgd(trained, images, labels, space, steps=0, start="image")
    assert (results[1].loss >= still.loss - 1e-5).all()
    assert results[1].loss.mean() > still.loss.mean() + 0.01


def test_labels_without_a_vae_are_refused(vaes, split):
    with pytest.raises(UserError, match="labels must lie between 0 and 4"):
        LearnedManifold(vaes[:5]).chart(split.images[:20], split.labels[:20], None)


@pytest.mark.parametrize("latents", [(), (3, 4)])
def test_vaes_that_do_not_belong_together_are_refused(latents):
    with pytest.raises(UserError, match="one VAE for each class, all with the same latent_dimensions"):
        LearnedManifold([Vae(VaeConfig(channels=(2, 4), latent_dimensions=count)) for count in latents])


def test_no_images_have_an_empty_chart(vaes, split):
    chart = LearnedManifold(vaes).chart(split.images[:0], split.labels[:0], None)
    assert chart.decode(Tensor(chart.start)).shape == (0, 28, 28, 1)


# --- projection -----------------------------------------------------------------------------------------------


def true_chart(fonts, split):
    return TrueManifold(fonts).chart(split.images, split.labels, split.codes)


def test_an_image_of_the_manifold_is_found_again_from_a_wrong_code(fonts, split):
    part = split.take(slice(60))
    box = np.array(fonts.box.upper, np.float32) - np.array(fonts.box.lower, np.float32)
    random = np.random.default_rng(0)
    moved = part.codes.parameters + 0.15 * box * random.uniform(-1, 1, (60, 6)).astype(np.float32)
    moved = np.clip(moved, fonts.box.lower, fonts.box.upper).astype(np.float32)
    chart = replace(true_chart(fonts, part), start=moved)
    before = np.linalg.norm((chart.decode(Tensor(chart.start)).data - part.images).reshape(60, -1), axis=1)
    assert np.median(before) > 1
    found = project(part.images, chart)
    assert np.median(found.distances) < 0.15
    assert (found.distances <= before + 1e-5).all()
    assert (found.codes >= chart.lower).all()
    assert (found.codes <= chart.upper).all()
    residuals = np.linalg.norm((found.images - part.images).reshape(60, -1), axis=1)
    np.testing.assert_allclose(found.distances, residuals, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.images, chart.decode(Tensor(found.codes)).data, rtol=0, atol=1e-5)


def test_an_image_is_at_no_distance_from_its_own_manifold(fonts, split):
    # up to the clipping to [0, 1] of what bilinear weights sum to
    assert project(split.images, true_chart(fonts, split)).distances.max() < 1e-4


def test_noise_is_off_the_manifold_by_almost_its_norm(fonts, split):
    """Of 784 directions the manifold takes up 6: the squared distance is 778 / 784 of the noise's, on average."""
    noise = np.random.default_rng(0).standard_normal(split.images.shape).astype(np.float32)
    noise *= 2 / np.linalg.norm(noise.reshape(len(noise), -1), axis=1)[:, None, None, None]
    found = project(split.images + noise, true_chart(fonts, split))
    assert found.distances.max() <= 2 + 1e-4
    assert 1.9 < found.distances.mean() < 2


def test_a_projection_takes_adams_steps_with_a_rate_that_decays_every_ten(split):
    """Onto all images, from black ones: the code is the image, and the gradient twice the difference."""
    goal = np.full((1, 28, 28, 1), 0.9, np.float32)
    black = np.zeros_like(goal)
    found = project(goal, ImageBall().chart(black, split.labels[:1], None), steps=25, learning_rates=[0.01], decay=0.5)
    codes, gradients = black, []
    rates = [0.01] * 10 + [0.005] * 10 + [0.0025] * 5
    for step in range(25):
        gradients.append(2 * (codes - goal))
        codes = oracles.adam(black, gradients, rates[: step + 1], (0.9, 0.999), 1e-8, 0)
    np.testing.assert_allclose(found.codes, codes, rtol=1e-4)


def test_the_nearest_code_of_all_descents_counts():
    """Codes moved as far as an attack does: each learning rate loses some images, seldom both the same."""
    fonts = Fonts(load_prototypes(), Difficulty.HARD)
    test = fonts.dataset(0, 400).test
    chart = true_chart(fonts, test)
    random = np.random.default_rng(0)
    moved = chart.start + random.uniform(-0.3, 0.3, chart.start.shape).astype(np.float32)
    images = chart.decoded(np.clip(moved, chart.lower, chart.upper))
    first, second = (project(images, chart, learning_rates=[rate]).distances for rate in (0.09, 0.03))
    both = project(images, chart)
    np.testing.assert_allclose(both.distances, np.minimum(first, second), rtol=0, atol=1e-5)
    assert (first - second).max() > 1
    assert (second - first).max() > 0.1
    assert both.distances.mean() < 0.8 * min(first.mean(), second.mean())


def test_more_images_than_a_batch_change_nothing(fonts, split, monkeypatch):
    part = split.take(slice(7))
    images = np.clip(part.images + np.float32(0.1), 0, 1)
    whole = project(images, true_chart(fonts, part), steps=20)
    monkeypatch.setattr(distance, "IMAGES_PER_BATCH", 3)
    parts = project(images, true_chart(fonts, part), steps=20)
    np.testing.assert_allclose(parts.distances, whole.distances, rtol=1e-4)


@pytest.mark.stress
def test_a_decoded_code_is_found_again_on_the_learned_manifold(vaes, split):
    chart = LearnedManifold(vaes).chart(split.images[:40], split.labels[:40], None)
    goal = chart.start + np.float32(0.2)
    images = chart.decode(Tensor(goal)).data
    before = np.linalg.norm((images - chart.decode(Tensor(chart.start)).data).reshape(40, -1), axis=1)
    found = project(images, chart)
    assert np.median(found.distances) < np.median(before) / 10


def test_a_projection_needs_one_code_for_each_image(fonts, split):
    with pytest.raises(UserError, match="3 images to project"):
        project(split.images[:3], true_chart(fonts, split.take(slice(4))))


# --- nearest neighbours ---------------------------------------------------------------------------------------


def test_nearest_neighbours_against_all_distances(monkeypatch):
    random = np.random.default_rng(0)
    images, among = random.random((23, 4, 4, 1), np.float32), random.random((80, 4, 4, 1), np.float32)
    monkeypatch.setattr(distance, "IMAGES_PER_BATCH", 10)
    search = NeighbourSearch(among, components=None)
    found = search.nearest(images, 7)
    for image, indices in zip(images, found, strict=True):
        expected = np.argsort([np.linalg.norm(image - other) for other in among])[:7]
        assert set(indices) == set(expected)
    with pytest.raises(UserError, match="count must be between 1 and 80, not 81"):
        search.nearest(images, 81)


def test_neighbours_are_searched_in_the_first_principal_components():
    """Images vary along three directions; in 3 components, noise in all others does not matter."""
    random = np.random.default_rng(0)
    directions, _ = np.linalg.qr(random.standard_normal((16, 16)))
    coordinates = random.standard_normal((80, 3))
    among = (coordinates @ directions[:3]).astype(np.float32).reshape(80, 4, 4, 1)
    noise = (5 * random.standard_normal((23, 13)) @ directions[3:]).astype(np.float32).reshape(23, 4, 4, 1)
    near = random.standard_normal((23, 3))
    images = (near @ directions[:3]).astype(np.float32).reshape(23, 4, 4, 1) + noise
    found = NeighbourSearch(among, components=3).nearest(images, 7)
    for image, indices in zip(near, found, strict=True):
        assert set(indices) == set(np.argsort(np.linalg.norm(coordinates - image, axis=1))[:7])


def lstsq_distances(images, originals, training_images, neighbours):
    """One image after the other, by NumPy's least squares in float64."""
    distances = []
    for image, original in zip(images.astype(np.float64), originals.astype(np.float64), strict=True):
        order = np.argsort(((training_images - image) ** 2).sum(axis=(1, 2, 3)))[:neighbours]
        spanning = (training_images[order] - original).reshape(neighbours, -1).T
        moved = (image - original).ravel()
        solution, *_ = np.linalg.lstsq(spanning, moved)
        distances.append(np.linalg.norm(moved - spanning @ solution))
    return np.array(distances)


def test_subspace_distances_against_numpys_least_squares(split, monkeypatch):
    random = np.random.default_rng(0)
    originals, training_images = split.images[:12], split.images[12:]
    images = np.clip(originals + 0.1 * random.standard_normal(originals.shape), 0, 1).astype(np.float32)
    monkeypatch.setattr(distance, "IMAGES_PER_BATCH", 5)
    found = subspace_distances(images, originals, NeighbourSearch(training_images, None), 20)
    np.testing.assert_allclose(found, lstsq_distances(images, originals, training_images, 20), rtol=1e-6)
    # some of the way lies in the subspace, most does not
    assert (found < np.linalg.norm((images - originals).reshape(12, -1), axis=1)).all()
    assert found.min() > 0.1


def test_neighbours_that_span_nothing_do_no_harm(split):
    """Each training image twice, and the original image among them."""
    originals = split.images[:12]
    doubled = np.concatenate([split.images, split.images])
    images = np.clip(originals + np.float32(0.1), 0, 1)
    found = subspace_distances(images, originals, NeighbourSearch(doubled, None), 20)
    np.testing.assert_allclose(found, lstsq_distances(images, originals, doubled, 20), rtol=1e-6)


def test_a_step_towards_a_neighbour_stays_in_the_subspace(split):
    originals, training_images = split.images[:5], split.images[5:]
    towards = training_images[NeighbourSearch(training_images).nearest(originals, 1)[:, 0]]
    images = (0.9 * originals + 0.1 * towards).astype(np.float32)
    np.testing.assert_allclose(subspace_distances(images, originals, training_images, 10), 0, atol=1e-5)


def test_each_image_needs_its_original(split):
    with pytest.raises(UserError, match="one original for each image"):
        subspace_distances(split.images[:3], split.images[:4], split.images, 5)


# --- the oracle -----------------------------------------------------------------------------------------------


def test_an_oracle_is_trained_once_and_judges_labels(split, tmp_path):
    config = ClassifierConfig(Architecture(Kind.CNN, (4, 8), hidden_units=12), TrainingConfig(epochs=4, batch_size=15))
    log = []
    oracle = train_once("oracle", config, split, folder=tmp_path, progress=log.append)
    again = train_once("oracle", config, split, folder=tmp_path, progress=log.append)
    assert len(log) == 4
    np.testing.assert_array_equal(again.logits(split.images), oracle.logits(split.images))
    train_once("oracle", config, Split(split.images[::-1], split.labels), folder=tmp_path, progress=log.append)
    assert len(log) == 8
    predicted = oracle.predict(split.images)
    assert labels_kept(oracle, split.images, split.labels) == (predicted == split.labels).mean() > 0.5
    assert labels_kept(oracle, split.images, (predicted + 1) % 10) == 0
    assert math.isnan(labels_kept(oracle, split.images[:0], split.labels[:0]))
    assert isinstance(oracle, models.Model)


def test_an_oracle_refuses_a_damaged_file(split, tmp_path):
    config = ClassifierConfig(Architecture(Kind.CNN, (2,), hidden_units=2), TrainingConfig(epochs=0))
    part = Split(split.images, split.labels)
    train_once("oracle", config, part, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="not a model file, or is damaged"):
        train_once("oracle", config, part, folder=tmp_path)


def test_images_of_another_shape_than_the_manifold_are_not_projected(fonts, split):
    chart = true_chart(fonts, split)
    for images in (split.images[..., 0], split.images[:, :14], np.repeat(split.images, 3, axis=3)):
        with pytest.raises(UserError, match=r"those of the chart \(28, 28, 1\)"):
            project(images, chart)
