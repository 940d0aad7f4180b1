"""The perturbation spaces: what their codes decode to, and that nothing allowed leaves ball or box."""

import sys
from dataclasses import replace

import numpy as np
import oracles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hlf_np import UserError, models
from hlf_np.attacks import PGD, CarliniWagner
from hlf_np.autodiff import Tensor, check_grads
from hlf_np.data.dataset import Codes, Split
from hlf_np.data.fonts import BOXES, Box, Difficulty
from hlf_np.spaces import EMNIST_BOX, ImageBall, Norm, Transformations, TrueManifold

IDENTITY = (0, 0, 0, 0, 1, 0)
HARD = BOXES[Difficulty.HARD]
SPACES = {  # of six parameters, from a generator of images, a size and a norm
    "true manifold": lambda fonts, epsilon=0.3, norm="linf": TrueManifold(fonts, epsilon=epsilon, norm=norm),
    "transformations": lambda fonts, epsilon=0.3, norm="linf": Transformations(HARD, epsilon=epsilon, norm=norm),
}
every_space = pytest.mark.parametrize("make", SPACES.values(), ids=SPACES)


@pytest.fixture(scope="module")
def hard_fonts(fonts):
    """The small FONTS with the paper's box."""
    return replace(fonts, difficulty=Difficulty.HARD)


@pytest.fixture(scope="module")
def batch(hard_fonts):
    """40 images with large transformations."""
    return hard_fonts.split(np.arange(40))


def chart_of(space, split):
    return space.chart(split.images, split.labels, split.codes)


def random_codes(chart, seed, scale):
    """Codes around the start, many of them outside of every bound if the scale is large."""
    noise = np.random.default_rng(seed).standard_normal(chart.start.shape, np.float32)
    return chart.start + np.float32(scale) * noise


# --- decoding -------------------------------------------------------------------------------------------------


def test_start_of_the_true_manifold_decodes_to_the_images(hard_fonts, batch):
    chart = chart_of(TrueManifold(hard_fonts), batch)
    np.testing.assert_array_equal(chart.start, batch.codes.parameters)
    np.testing.assert_array_equal(np.clip(chart.decode(Tensor(chart.start)).data, 0, 1), batch.images)


def test_start_of_transformations_decodes_to_the_images(batch):
    chart = chart_of(Transformations(HARD), batch)
    np.testing.assert_array_equal(chart.start, np.tile(np.float32(IDENTITY), (40, 1)))
    # the middle of a pixel is found only up to the rounding of its position, here of up to 28 pixels
    np.testing.assert_allclose(chart.decode(Tensor(chart.start)).data, batch.images, rtol=0, atol=1e-5)


def test_true_manifold_decodes_to_warps_of_the_own_letter(hard_fonts, batch):
    chart = chart_of(TrueManifold(hard_fonts), batch)
    codes = random_codes(chart, 0, 0.2)
    letters = hard_fonts.prototypes[batch.codes.font, batch.labels][..., None] / 255
    expected = oracles.warp(letters, oracles.affine_matrix(codes))
    np.testing.assert_allclose(chart.decode(Tensor(codes)).data, expected, rtol=0, atol=5e-5)


def test_transformations_decode_to_warps_of_the_image(batch):
    chart = chart_of(Transformations(HARD), batch)
    codes = random_codes(chart, 0, 0.2)
    expected = oracles.warp(batch.images, oracles.affine_matrix(codes))
    np.testing.assert_allclose(chart.decode(Tensor(codes)).data, expected, rtol=0, atol=5e-5)


@every_space
def test_decoders_are_differentiable_in_the_code(hard_fonts, make):
    split = hard_fonts.split(np.arange(6))
    chart = chart_of(make(hard_fonts), split)
    smooth = np.random.default_rng(1).random((6, 7, 7, 1))  # in float64, as check_grads needs it
    codes = random_codes(chart, 1, 0.1).astype(np.float64)
    check_grads(replace(chart, images=smooth).decode, codes)


@every_space
def test_a_chart_of_some_rows_decodes_to_their_images(hard_fonts, batch, make):
    chart = chart_of(make(hard_fonts), batch)
    codes, rows = random_codes(chart, 2, 0.1), np.array([5, 3, 30])
    whole = chart.decode(Tensor(codes)).data
    np.testing.assert_array_equal(chart.take(rows).decode(Tensor(codes[rows])).data, whole[rows])
    np.testing.assert_array_equal(chart.take(rows).start, chart.start[rows])


# --- what is allowed ------------------------------------------------------------------------------------------


@every_space
@given(norm=st.sampled_from(Norm), epsilon=st.floats(0.01, 1), scale=st.floats(0, 3), seed=st.integers(0, 999))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_projected_codes_lie_in_ball_and_box(hard_fonts, batch, make, norm, epsilon, scale, seed):
    space = make(hard_fonts, epsilon, norm)
    chart = chart_of(space, batch)
    codes = space.project(chart, random_codes(chart, seed, scale))
    sizes = np.linalg.norm((codes - chart.start).astype(np.float64), np.inf if norm == "linf" else 2, axis=1)
    assert sizes.max() <= epsilon
    assert ((codes >= np.float32(HARD.lower)) & (codes <= np.float32(HARD.upper))).all()


@every_space
def test_starts_lie_in_the_box(hard_fonts, make):
    split = hard_fonts.split(np.arange(0, 3000, 7))
    space = make(hard_fonts)
    chart = chart_of(space, split)
    np.testing.assert_array_equal(space.project(chart, chart.start), chart.start)


@every_space
@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("stop_early", [True, False])
def test_attacks_find_valid_images_of_codes_within_ball_and_box(trained, hard_fonts, batch, make, norm, stop_early):
    space = make(hard_fonts, 0.25, norm)
    chart = chart_of(space, batch)
    result = PGD(8, 0.05, stop_early=stop_early, restarts=2).find(trained, batch, space)
    codes = chart.start + result.perturbations
    sizes = np.linalg.norm(result.perturbations.astype(np.float64), np.inf if norm == "linf" else 2, axis=1)
    assert sizes.max() <= 0.25
    rounding = 1e-6  # of the code as start plus perturbation
    assert ((codes >= np.array(HARD.lower) - rounding) & (codes <= np.array(HARD.upper) + rounding)).all()
    assert ((result.images >= 0) & (result.images <= 1)).all()
    np.testing.assert_array_equal(result.success, trained.predict(result.images) != batch.labels)
    np.testing.assert_allclose(result.images, np.clip(chart.decode(Tensor(codes)).data, 0, 1), rtol=0, atol=1e-4)
    assert result.success.sum() > 0
    assert (sizes > 0.01).mean() > 0.5


@every_space
def test_attacks_raise_the_loss(trained, hard_fonts, batch, make):
    def losses(steps):
        space, attack = make(hard_fonts), PGD(steps, 0.02, start="image", stop_early=False)
        return attack.find(trained, batch, space).loss

    assert (losses(10) > losses(0)).mean() > 0.8


@every_space
def test_a_tiny_ball_leaves_images_nearly_as_they_are(trained, hard_fonts, batch, make):
    result = PGD(3, 1e-5, stop_early=False).find(trained, batch, make(hard_fonts, 1e-5))
    assert result.perturbations.any()
    # 1e-5 half images are 14e-5 pixels, of slope up to 1, for each of six parameters
    np.testing.assert_allclose(result.images, batch.images, rtol=0, atol=1e-3)


@every_space
def test_attacks_depend_on_the_seed_alone(trained, hard_fonts, batch, make, monkeypatch):
    def attack(seed):
        return PGD(3, 0.02).find(trained, batch, make(hard_fonts), seed)

    first = attack(1)
    assert (attack(2).images != first.images).any()
    monkeypatch.setattr(sys.modules["hlf_np.attacks.pgd"], "IMAGES_PER_BATCH", 7)
    again = attack(1)
    for name, array in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), array, err_msg=name)


# --- random codes ---------------------------------------------------------------------------------------------


def test_random_transformations_lie_around_the_identity(trained):
    """On both sides of it in each parameter, alike; around 0 instead, every scale would be the smallest allowed."""
    images = np.zeros((2000, 28, 28, 1), np.float32)
    drawn = PGD(steps=0).find(trained, Split(images, np.zeros(2000, np.int64)), Transformations(HARD))
    codes = np.array([0, 0, 0, 0, 1, 0]) + drawn.perturbations
    lower, upper = np.array([-0.2, -0.2, -0.3, -0.3, 0.75, -0.3]), np.array([0.2, 0.2, 0.3, 0.3, 1.15, 0.3])
    assert ((codes >= lower - 1e-6) & (codes <= upper + 1e-6)).all()
    above = (drawn.perturbations > 0).mean(axis=0)
    np.testing.assert_allclose(above, 0.5, rtol=0, atol=5 * 0.5 / np.sqrt(2000))
    assert (codes > lower + 1e-3).mean(axis=0).min() > 0.8
    assert (codes < upper - 1e-3).mean(axis=0).min() > 0.7
    assert drawn.perturbations.std(axis=0).min() > 0.08


# --- boxes and errors -----------------------------------------------------------------------------------------


def test_the_box_of_emnist_is_the_papers():
    expected = [[-0.15, -0.15, -0.2, -0.2, 0.85, -np.pi / 10], [0.15, 0.15, 0.2, 0.2, 1.15, np.pi / 10]]
    np.testing.assert_allclose((EMNIST_BOX.lower, EMNIST_BOX.upper), expected)


def test_the_papers_sizes_are_the_defaults(fonts):
    for space in (ImageBall(), TrueManifold(fonts), Transformations(HARD)):
        assert (space.epsilon, space.norm) == (0.3, "linf")


def test_colours_are_transformed_alike(batch):
    """Three equal channels and a third of the weights: what is found is what is found on grey images."""
    grey = models.cnn(seed=0, widths=(4, 8), hidden_units=6)
    coloured = models.cnn(seed=0, widths=(4, 8), hidden_units=6, image_shape=(28, 28, 3))
    weights = grey.state_dict()
    first = next(name for name, array in weights.items() if array.ndim == 4)
    coloured.load_state_dict(weights | {first: np.repeat(weights[first], 3, axis=1) / np.float32(3)})
    space, attack = Transformations(HARD), PGD(steps=5)
    found = attack.find(grey, batch, space)
    in_colour = attack.find(coloured, replace(batch, images=np.repeat(batch.images, 3, axis=3)), space)
    assert np.abs(found.images - batch.images).max() > 0.1
    np.testing.assert_allclose(in_colour.images, np.repeat(found.images, 3, axis=3), rtol=0, atol=1e-3)


def test_transformations_take_images_without_labels_meaning_anything(trained, batch):
    space = Transformations(EMNIST_BOX)
    result = PGD(1).find(trained, replace(batch, codes=None), space)
    np.testing.assert_array_equal(result.images, PGD(1).find(trained, batch, space).images)


def test_images_without_codes_are_refused(trained, fonts, split):
    with pytest.raises(UserError, match="needs the codes of the images"):
        PGD(1).find(trained, replace(split, codes=None), TrueManifold(fonts))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda codes: codes.take(slice(0, 5)), "5 codes for 40 images"),
        (lambda codes: Codes(codes.font, codes.parameters[:, :5]), "as many codes"),
        (lambda codes: Codes(codes.font + 3, codes.parameters), "other fonts than the 3"),
        (lambda codes: Codes(codes.font - 1, codes.parameters), "other fonts than the 3"),
        (lambda codes: Codes(codes.font, codes.parameters * 2), "use the difficulty"),
        (lambda codes: Codes(codes.font, codes.parameters * np.float32(np.nan)), "use the difficulty"),
    ],
)
def test_codes_of_something_else_are_refused(trained, hard_fonts, batch, spoil, message):
    with pytest.raises(UserError, match=message):
        PGD(1).find(trained, replace(batch, codes=spoil(batch.codes)), TrueManifold(hard_fonts))


@pytest.mark.parametrize(
    "box",
    [Box.around_identity(0.1, 0.1, (1.1, 1.2), 0.1), Box((-1, -1), (1, 1)), Box.around_identity(-0.1, 0.1, (1, 1), 0)],
)
def test_boxes_without_the_identity_are_refused(box):
    with pytest.raises(UserError, match=r"Box\.around_identity"):
        Transformations(box)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, np.nan])
@every_space
def test_impossible_sizes_are_refused(fonts, make, epsilon):
    with pytest.raises(UserError, match="epsilon"):
        make(fonts, epsilon)


# --- the smallest perturbation of a code ----------------------------------------------------------------------


@every_space
def test_the_attack_of_carlini_and_wagner_works_on_codes(trained, hard_fonts, batch, make):
    right = batch.take(np.flatnonzero(trained.predict(batch.images) == batch.labels))
    space = make(hard_fonts, 0.3, "l2")
    early, late = (CarliniWagner(n).find(trained, right, space) for n in (30, 120))
    for result in (early, late):
        codes = chart_of(space, right).start + result.perturbations
        assert ((codes >= np.array(HARD.lower) - 1e-6) & (codes <= np.array(HARD.upper) + 1e-6)).all()
        assert np.linalg.norm(result.perturbations, axis=1).max() <= 0.3
        np.testing.assert_array_equal(result.success, trained.predict(result.images) != right.labels)
    done = early.success
    assert late.success[done].all()
    assert done.sum() > 3
    before, after = (np.linalg.norm(result.perturbations[done], axis=1) for result in (early, late))
    within = before < 0.2999  # one cut off at the border may be at another place of it now
    assert (after[within] <= before[within]).all()
    assert (after < before).any()


def test_parameters_without_room_stay_where_they_are(trained, batch):
    flat = Transformations(Box.around_identity(0.2, 0, (1, 1), 0.3))
    results = [
        PGD(5, 0.05).find(trained, batch, flat),
        CarliniWagner(10).find(trained, batch, flat),
    ]
    for result in results:
        assert not result.perturbations[:, 2:5].any()
        assert result.perturbations[:, [0, 1, 5]].any(axis=0).all()
