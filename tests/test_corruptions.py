"""Attacks unlike those of any training: rotations, elastic deformations, fog and blur, at their worst of a few."""

import numpy as np
import pytest
from conftest import small_cnn
from scipy.ndimage import rotate, shift

from hlf_np.attacks import UNSEEN_ATTACKS, Blur, Corruption, ElasticDeformation, Fog, Rotation, checked_result
from hlf_np.data.dataset import Split
from hlf_np.spaces import ImageBall
from hlf_np.support.errors import UserError

ATTACKS = pytest.mark.parametrize("attack", UNSEEN_ATTACKS, ids=lambda attack: attack.name)


@ATTACKS
@pytest.mark.parametrize("shape", [(3, 28, 28, 1), (4, 9, 13, 3), (0, 28, 28, 1), (1, 4, 4, 1)])
def test_corrupted_images_are_valid_and_of_the_same_shape(attack, shape):
    images = np.random.default_rng(0).random(shape, np.float32)
    before = images.copy()
    corrupted = attack.corrupted(images, np.random.default_rng(1))
    assert corrupted.shape == shape
    np.testing.assert_array_equal(images, before)
    assert np.isfinite(corrupted).all()
    assert not len(images) or (corrupted.min() >= -1e-6 and corrupted.max() <= 1 + 1e-6)


@ATTACKS
def test_success_means_misclassified_and_the_worst_of_all_queries_is_kept(attack, trained, split):
    result = attack.find(trained, split, ImageBall(0.01), seed=3)
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != split.labels)
    assert result.images.dtype == np.float32
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    np.testing.assert_array_equal(result.images[result.iterations == 0], split.images[result.iterations == 0])
    fewer = type(attack)(queries=3).find(trained, split, ImageBall(0.01), seed=3)
    assert (result.success >= fewer.success).all()
    same = result.success == fewer.success
    assert (result.loss[same] >= fewer.loss[same] - 1e-6).all()
    wrong = trained.predict(split.images) != split.labels
    assert result.success[wrong].all()  # misclassified without a corruption


@ATTACKS
def test_the_seed_decides_and_the_model_does_not(attack, trained, split):
    """An image's corruptions do not depend on which other images the model misclassifies."""
    part = split.take(slice(20))
    first, again, other = (attack.find(trained, part, ImageBall(0.3), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


def test_a_rotation_is_that_of_scipy(split):
    """All angles equal: SciPy turns the same way about the same centre, up to its interpolation at the border."""
    images = np.zeros((1, 28, 28, 1), np.float32)
    images[0, 6:22, 10:14, 0] = 1
    ours = Rotation(max_angle=0.5).corrupted(images, np.random.default_rng(0))[0, ..., 0]
    angle = np.random.default_rng(0).uniform(-0.5, 0.5)
    candidates = [rotate(images[0, ..., 0], np.degrees(sign * angle), reshape=False, order=1) for sign in (-1, 1)]
    assert min(np.abs(ours - candidate).mean() for candidate in candidates) < 0.02
    np.testing.assert_array_equal(Rotation(max_angle=0.0).corrupted(images, np.random.default_rng(0)).round(5), images)


def test_an_elastic_deformation_moves_by_what_it_says():
    """A ramp turns displacements into grey values."""
    ramp = np.tile(np.linspace(0, 1, 41, dtype=np.float32), (50, 41, 1))[..., None]
    attack = ElasticDeformation(displacement=1.0, smoothness=4.0)
    moved = 40 * (attack.corrupted(ramp, np.random.default_rng(0)) - ramp)[:, 8:-8, 8:-8, 0]
    assert np.sqrt(np.square(moved).mean()) == pytest.approx(1.0, rel=0.1)
    neighbours = np.corrcoef(moved[:, :, 1:].ravel(), moved[:, :, :-1].ravel())[0, 1]
    assert neighbours > 0.9  # smooth
    still = ElasticDeformation(displacement=0.0).corrupted(ramp, np.random.default_rng(0))
    np.testing.assert_allclose(still, ramp, atol=1e-6)


def test_images_do_not_mix_in_an_elastic_deformation():
    images = np.zeros((3, 12, 12, 1), np.float32)
    images[1] = 1
    moved = ElasticDeformation().corrupted(images, np.random.default_rng(0))
    assert moved[0].max() == moved[2].max() == 0
    assert moved[1, 4:8, 4:8].min() == 1


def test_fog_is_a_mixture_with_a_cloud_from_black_to_white():
    images = np.stack([np.zeros((28, 28, 1), np.float32), np.ones((28, 28, 1), np.float32)])
    foggy = Fog(density=0.4).corrupted(images, np.random.default_rng(0))
    np.testing.assert_allclose([foggy[0].min(), foggy[0].max()], [0, 0.4], atol=1e-6)
    np.testing.assert_allclose([foggy[1].min(), foggy[1].max()], [0.6, 1], atol=1e-6)
    cloud = foggy[0, ..., 0] / 0.4
    assert np.corrcoef(cloud[:, 1:].ravel(), cloud[:, :-1].ravel())[0, 1] > 0.8  # clouds, not pixel noise


def test_blur_keeps_the_mean_and_moves_with_the_image():
    image = np.zeros((1, 28, 28, 1), np.float32)
    image[0, 12, 12, 0] = 1
    blurred = Blur(max_width=1.5).corrupted(image, np.random.default_rng(0))
    assert blurred.sum() == pytest.approx(1, abs=1e-3)
    moved = np.asarray(shift(image, (0, 3, 0, 0), order=0))
    np.testing.assert_allclose(
        Blur(max_width=1.5).corrupted(moved, np.random.default_rng(0)), shift(blurred, (0, 3, 0, 0), order=0), atol=1e-6
    )


def test_invalid_settings_and_images_are_refused(split):
    with pytest.raises(UserError, match="queries"):
        Fog(queries=0)
    with pytest.raises(UserError, match=r"\[0, 1\]"):
        Fog().find(small_cnn(), Split(split.images + 1, split.labels), ImageBall(0.3))


def test_a_corruption_of_ones_own_needs_one_method(trained, split):
    class Inversion(Corruption):
        name = "inversion"

        def corrupted(self, images, random):
            return 1 - images

    result = Inversion(queries=1).find(trained, split, ImageBall(0.3))
    assert checked_result(Inversion(), result, trained, split, ImageBall(0.3)) is result  # far outside of the ball
    inverted = trained.predict(1 - split.images) != split.labels
    np.testing.assert_array_equal(result.success, inverted | (trained.predict(split.images) != split.labels))


def test_rotations_keep_angles_on_images_that_are_not_square():
    image = np.zeros((1, 33, 65, 1), np.float32)
    image[0, 15:18, 22:43] = 1  # a horizontal bar

    class Quarter(np.random.Generator):
        def uniform(self, low, high, size):
            return np.full(size, np.pi / 4)

    turned = Rotation().corrupted(image, Quarter(np.random.PCG64(0)))[0, ..., 0]
    rows, columns = np.nonzero(turned > 0.5)
    slopes = np.polyfit(columns, rows, 1)[0]
    assert abs(slopes) == pytest.approx(1, abs=0.1)
    assert turned.sum() == pytest.approx(image.sum(), rel=0.02)
