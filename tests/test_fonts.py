"""FONTS: every image is decided by its number alone, and lies where the protocol says."""

import struct
from dataclasses import replace
from itertools import chain

import numpy as np
import oracles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hlf_np as hlf
from hlf_np import UserError
from hlf_np.data.fonts import BOXES, LETTERS, Difficulty, Fonts, load_prototypes
from hlf_np.data.fonts.dataset import TEST_REPEATS, TRAIN_REPEATS
from hlf_np.data.fonts.prototypes import prototypes_path

# translation, shear, scale, rotation, as the protocol has them
PROTOCOL = {
    "easy": (0.1, 0.2, (0.90, 1.10), np.pi / 6),
    "moderate": (0.2, 0.4, (0.85, 1.15), np.pi / 3),
    "hard": (0.2, 0.5, (0.75, 1.15), np.pi / 2),
}
SIZE = 3 * 10 * 112  # of the `fonts` fixture: fonts, classes, draws


def assert_same_split(first, second):
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.codes.font, second.codes.font)
    np.testing.assert_array_equal(first.codes.parameters, second.codes.parameters)


# --- the number of an image -----------------------------------------------------------------------------------

indices = st.one_of(
    st.lists(st.integers(0, SIZE - 1), max_size=30),
    # runs of consecutive images, which take a path of their own
    st.lists(st.builds(lambda a, n: list(range(a, min(a + n, SIZE))), st.integers(0, SIZE - 1), st.integers(1, 9))).map(
        lambda runs: list(chain(*runs))[:30]
    ),
)


@given(chosen=indices)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_image_is_the_same_in_whatever_batch_and_order(fonts, chosen):
    whole = all_images(fonts)
    assert_same_split(fonts.split(np.array(chosen, np.int64)), whole.take(np.array(chosen, np.int64)))


def all_images(fonts, cache={}):  # noqa: B006
    """The whole dataset, generated in one go, once."""
    if not cache:
        cache[0] = fonts.split(np.arange(SIZE))
    return cache[0]


def test_the_order_is_repeat_then_font_then_class(fonts):
    split = all_images(fonts)
    number = np.arange(SIZE).reshape(112, 3, 10)
    np.testing.assert_array_equal(split.labels[number], np.broadcast_to(np.arange(10), number.shape))
    np.testing.assert_array_equal(split.codes.font[number], np.broadcast_to(np.arange(3)[:, None], number.shape))
    assert split.labels.dtype == np.int64


def test_the_first_250_images_of_many_fonts_are_25_source_of_10_classes():
    generator = Fonts(np.zeros((30, 10, 28, 28), np.uint8))
    split = generator.dataset(250, 300).train
    pairs = set(zip(split.codes.font.tolist(), split.labels.tolist(), strict=True))
    assert pairs == {(font, letter) for font in range(25) for letter in range(10)}
    assert set(generator.dataset(0, 300).test.codes.font.tolist()) == set(range(30))


def test_training_and_test_images_are_different_draws(fonts):
    data = fonts.dataset(fonts.train_size, fonts.test_size)
    assert (len(data.train), len(data.test)) == (3 * 10 * TRAIN_REPEATS, 3 * 10 * TEST_REPEATS)
    rows = np.concatenate([data.train.codes.parameters, data.test.codes.parameters])
    assert len(np.unique(rows, axis=0)) == SIZE
    assert_same_split(data.test, all_images(fonts).take(slice(fonts.train_size, None)))


def test_more_images_keep_the_first_ones(fonts):
    few, many = fonts.dataset(70, 20), fonts.dataset(200, 40)
    assert_same_split(few.train, many.train.take(slice(70)))
    assert_same_split(few.test, many.test.take(slice(20)))


def test_the_seed_changes_the_draws_but_not_fonts_and_classes(fonts):
    first, other = fonts.split(np.arange(60)), replace(fonts, seed=2).split(np.arange(60))
    assert_same_split(first, replace(fonts).split(np.arange(60)))
    assert not (first.codes.parameters == other.codes.parameters).any()
    np.testing.assert_array_equal(first.labels, other.labels)
    np.testing.assert_array_equal(first.codes.font, other.codes.font)


# --- the images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", PROTOCOL)
def test_parameters_fill_the_protocols_box(fonts, difficulty):
    translation, shear, scale, rotation = PROTOCOL[difficulty]
    lower = np.array([-translation, -translation, -shear, -shear, scale[0], -rotation])
    upper = np.array([translation, translation, shear, shear, scale[1], rotation])
    box = BOXES[Difficulty(difficulty)]
    np.testing.assert_allclose((box.lower, box.upper), (lower, upper))

    parameters = replace(fonts, difficulty=Difficulty(difficulty)).codes(np.arange(SIZE)).parameters
    assert parameters.dtype == np.float32
    rounding = 1e-6
    assert (parameters >= lower - rounding).all()
    assert (parameters <= upper + rounding).all()
    position = (parameters - lower) / (upper - lower)  # uniform over [0, 1], independent
    # five standard errors of the mean, the deviation and the correlation of n uniform numbers
    assert np.abs(position.mean(axis=0) - 1 / 2).max() < 5 * np.sqrt(1 / 12 / SIZE)
    assert np.abs(position.std(axis=0) - np.sqrt(1 / 12)).max() < 5 * np.sqrt(1 / 60 / SIZE)
    assert np.abs(np.corrcoef(position.T) - np.eye(6)).max() < 5 / np.sqrt(SIZE)


def test_images_are_the_warped_prototypes(fonts):
    split = fonts.split(np.arange(40))
    prototypes = fonts.prototypes[split.codes.font, split.labels][..., None] / 255
    expected = oracles.warp(prototypes, oracles.affine_matrix(split.codes.parameters))
    # positions of up to 30 pixels in float32, and neighbouring pixels that differ by up to 1
    np.testing.assert_allclose(split.images, expected, rtol=0, atol=2e-5)


def test_images_are_grey_float32_of_28_pixels():
    bright = Fonts(np.full((2, 10, 28, 28), 255, np.uint8))  # rounding could exceed 1 here
    images = bright.split(np.arange(300)).images
    assert (images.shape, images.dtype) == ((300, 28, 28, 1), np.float32)
    assert images.min() >= 0
    assert images.max() == 1


# --- loading --------------------------------------------------------------------------------------------------


def test_the_shipped_fonts_load():
    data = hlf.data.load_fonts(n_train=20, n_test=10, difficulty="moderate", seed=3)
    assert data.classes == LETTERS
    assert_same_split(data.train, Fonts(load_prototypes(), Difficulty.MODERATE, 3).split(np.arange(20)))
    assert len(load_prototypes()) == 1000
    sizes = data.train.images.shape, data.test.images.shape, data.train.codes.parameters.shape
    assert sizes == ((20, 28, 28, 1), (10, 28, 28, 1), (20, 6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"difficulty": "extreme"}, "easy, moderate, hard"),
        ({"n_train": -1}, "n_train"),
        ({"n_train": 960_001}, "n_train.*960000"),
        ({"n_test": 160_001}, "n_test.*160000"),
        ({"n_test": 1.5}, "n_test"),
    ],
)
def test_impossible_requests_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        hlf.data.load_fonts(**settings)


@pytest.mark.parametrize("prototypes", [np.ones((2, 3, 28, 28)), np.ones((6, 28, 28), np.uint8)])
def test_what_are_no_prototypes_are_refused(prototypes):
    with pytest.raises(UserError, match=r"prototypes must be uint8 of shape \(fonts, classes, H, W\), not"):
        Fonts(prototypes)


@pytest.mark.parametrize("index", [-1, SIZE])
def test_images_that_do_not_exist_are_refused(fonts, index):
    with pytest.raises(UserError, match=f"0 to {SIZE - 1}"):
        fonts.split(np.array([0, index]))


def damaged(path):
    """A compressed file whose directory is whole, but whose data begins with a kind of block that does not exist."""
    np.savez_compressed(path, images=np.zeros((2, 10, 28, 28), np.uint8))
    content = bytearray(path.read_bytes())
    name_length, extra_length = struct.unpack("<HH", content[26:30])
    content[30 + name_length + extra_length] = 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: None, id="missing"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"no numbers"), id="text"),
        pytest.param(lambda path: path.write_bytes(prototypes_path().read_bytes()[:5000]), id="truncated"),
        pytest.param(damaged, id="damaged"),
        pytest.param(lambda path: np.save(path.open("wb"), np.ones(3)), id="npy"),
        pytest.param(lambda path: np.savez(path, letters=np.zeros((2, 10, 28, 28), np.uint8)), id="other name"),
        pytest.param(lambda path: np.savez(path, images=np.array([{}], object)), id="pickled"),
        pytest.param(lambda path: np.savez(path, images=np.zeros((2, 10, 28, 28), np.float32)), id="type"),
        pytest.param(lambda path: np.savez(path, images=np.zeros((2, 9, 28, 28), np.uint8)), id="classes"),
        pytest.param(lambda path: np.savez(path, images=np.zeros((2, 10, 32, 32), np.uint8)), id="size"),
        pytest.param(lambda path: np.savez(path, images=np.zeros((0, 10, 28, 28), np.uint8)), id="none"),
    ],
)
def test_what_is_not_a_prototypes_file_is_refused(spoil, tmp_path):
    path = tmp_path / "prototypes.npz"
    spoil(path)
    with pytest.raises(UserError, match="fonts build"):
        load_prototypes(path)
