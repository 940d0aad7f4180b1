"""The compiled kernels (float32) and the operations of the autodiff (float64) against naive NumPy; the kernels
also without compilation."""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlf_np.kernels.operations import warp
from hlf_np.kernels.products import convolution
from hlf_np.kernels.products.geometry import geometry
from hlf_np.operations import affine
from hlf_np.operations.convolution import NUMPY

CHANNELS = st.sampled_from([1, 2, 3, 15, 16, 17, 33])  # around the 16 lanes of a vector


class Case:
    """Random images, weights, biases and output gradients of a convolution."""

    def __init__(self, count, size, channels, out_channels, kernel, stride, padding, dtype, seed=0):
        random = np.random.default_rng(seed)
        self.computing = convolution if dtype == np.float32 else NUMPY
        self.geometry = geometry((*size, channels), out_channels, kernel, stride, padding)
        self.kernel, self.stride, self.padding, self.size = kernel, stride, padding, size
        out_size = self.geometry.out_height, self.geometry.out_width
        self.x = random.standard_normal((count, *size, channels)).astype(dtype)
        self.weight = random.standard_normal((out_channels, channels, *kernel)).astype(dtype)
        self.bias = random.standard_normal(out_channels).astype(dtype)
        self.input_bias = random.standard_normal(channels).astype(dtype)
        self.g = random.standard_normal((count, *out_size, out_channels)).astype(dtype)

    def forward(self, x=None):
        return self.computing.convolve(self.x if x is None else x, self.weight, self.bias, self.stride, self.padding)

    def input_gradient(self, g=None):
        g = self.g if g is None else g
        bias, settings = self.input_bias, (self.stride, self.padding, self.size)
        return self.computing.convolve_input_gradient(g, self.weight, bias, *settings)

    def weight_gradient(self):
        return self.computing.convolve_weight_gradient(self.x, self.g, self.kernel, self.stride, self.padding)

    def all(self):
        return self.forward(), self.input_gradient(), self.weight_gradient()


@st.composite
def cases(draw, dtypes=(np.float32, np.float64)):
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    size = tuple(draw(st.integers(max(1, k - 2 * padding), 9)) for k in kernel)
    channels, out_channels = draw(CHANNELS), draw(CHANNELS)
    chunk = geometry((*size, channels), out_channels, kernel, stride, padding).chunk
    count = draw(st.sampled_from([1, 2, chunk - 1, chunk, chunk + 1, 2 * chunk + 3]))
    dtype = draw(st.sampled_from(dtypes))
    return Case(count, size, channels, out_channels, kernel, stride, padding, dtype, draw(st.integers(0, 99)))


def assert_sums_agree(actual, expected, absolute, terms):
    """Sums of `terms` products whose absolute values sum to `absolute` are rounded by at most `terms` epsilons of that.

    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: in whatever order, a factor 2 to spare.)
    """
    bound = (terms + 2) * np.finfo(actual.dtype).eps * absolute
    worst = np.max(np.abs(actual - expected) - bound, initial=0)
    assert actual.shape == expected.shape
    assert worst <= 0, f"{worst} beyond the rounding bound"


@given(case=cases())
def test_convolution(case):
    settings = case.stride, case.padding
    expected = oracles.convolution(case.x, case.weight, case.bias, *settings)
    absolute = oracles.convolution(np.abs(case.x), np.abs(case.weight), np.abs(case.bias), *settings)
    assert_sums_agree(case.forward(), expected, absolute, terms=case.weight[0].size + 1)


@given(case=cases())
def test_gradient_with_respect_to_the_input(case):
    settings = case.stride, case.padding, case.size
    expected = oracles.convolution_input_gradient(case.g, case.weight, *settings) + case.input_bias
    absolute = oracles.convolution_input_gradient(np.abs(case.g), np.abs(case.weight), *settings)
    terms = case.weight[:, 0].size + 1
    assert_sums_agree(case.input_gradient(), expected, absolute + np.abs(case.input_bias), terms)


@given(case=cases())
def test_gradient_with_respect_to_the_weights(case):
    settings = case.kernel, case.stride, case.padding
    expected = oracles.convolution_weight_gradient(case.x, case.g, *settings)
    absolute = oracles.convolution_weight_gradient(np.abs(case.x), np.abs(case.g), *settings)
    assert_sums_agree(case.weight_gradient(), expected, absolute, terms=case.g[..., 0].size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("channels", "out_channels"), [(3, 5), (17, 33)])
def test_pixels_between_the_windows_of_a_large_stride_are_ignored(channels, out_channels, dtype):
    case = Case(3, (7, 8), channels, out_channels, kernel=(1, 2), stride=3, padding=0, dtype=dtype)
    unseen = np.ones((7, 8), bool)
    unseen[::3, [0, 1, 3, 4, 6, 7]] = False
    changed = np.where(unseen[None, :, :, None], dtype(1e6), case.x)
    np.testing.assert_array_equal(case.forward(changed), case.forward())
    no_gradient = np.broadcast_to(case.input_bias, (3, unseen.sum(), channels))
    np.testing.assert_array_equal(case.input_gradient()[:, unseen], no_gradient)


def test_no_bias_equals_a_bias_of_zero():
    case = Case(2, (5, 6), 16, 17, (3, 3), 1, 1, np.float32)
    zeros = np.zeros(17, np.float32)
    found = (convolution.convolve(case.x, case.weight, bias, 1, 1) for bias in (None, zeros))
    np.testing.assert_array_equal(*found)
    found = (
        convolution.convolve_input_gradient(case.g, case.weight, bias, 1, 1, case.size) for bias in (None, zeros[:16])
    )
    np.testing.assert_array_equal(*found)


# Few channels and many (two algorithms), a stride larger than the kernel, one pixel, incomplete chunks.
SAMPLE = [
    (19, (9, 8), 3, 17, (4, 4), 2, 1),
    (25, (7, 7), 17, 33, (3, 2), 2, 1),
    (9, (6, 5), 16, 3, (5, 3), 1, 2),
    (10, (8, 8), 33, 2, (2, 1), 3, 0),
    (97, (1, 1), 20, 10, (1, 1), 1, 0),
]


def sample_cases():
    return [Case(*sizes, np.float32) for sizes in SAMPLE]


@given(case=cases([np.float32]), data=st.data())
@settings(max_examples=15)
def test_each_image_has_the_same_bits_in_any_batch(case, data):
    rows = data.draw(st.lists(st.integers(0, len(case.x) - 1), min_size=1, max_size=20))
    np.testing.assert_array_equal(case.forward(case.x[rows]), case.forward()[rows])
    np.testing.assert_array_equal(case.input_gradient(case.g[rows]), case.input_gradient()[rows])


def test_inputs_in_any_memory_layout_give_the_same_bits():
    for case in sample_cases():
        turned = np.asfortranarray(case.x)
        turned.setflags(write=False)  # as in a memory-mapped file
        np.testing.assert_array_equal(case.forward(turned), case.forward())
        np.testing.assert_array_equal(case.input_gradient(case.g[::-1]), case.input_gradient(case.g[::-1].copy()))


def test_inputs_are_not_changed():
    for case in sample_cases():
        before = case.x.copy(), case.g.copy(), case.weight.copy()
        case.all()
        for array, copy in zip((case.x, case.g, case.weight), before, strict=True):
            np.testing.assert_array_equal(array, copy)


# --- warp -----------------------------------------------------------------------------------------------------


def computing_warps(dtype):
    return warp if dtype == np.float32 else affine


def random_warp(count, size, channels, dtype, seed=0):
    """Return images, matrices that rotate, scale and shift by up to a whole image, and output gradients."""
    random = np.random.default_rng(seed)
    images, g = random.standard_normal((2, count, *size, channels)).astype(dtype)
    matrices = random.uniform(-1.2, 1.2, (count, 2, 3)).astype(dtype)
    return images, matrices, g


warps = st.builds(
    random_warp,
    st.integers(1, 5),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 3),
    st.just(np.float64),
    st.integers(0, 999),
)


def exact_warp(count, size, channels, seed):
    """The same in float32, at positions that are exact and between pixels: at pixels, derivatives jump."""
    images, _, g = random_warp(count, size, channels, np.float32, seed)
    matrices = np.random.default_rng(seed).integers(-77, 78, (count, 2, 3)) / 64
    matrices[:, :, 2] += 2**-11
    return images, matrices.astype(np.float32), g


def warp_gradients(images, matrices, g):
    computing = computing_warps(images.dtype)
    warped, slopes = computing.warp_with_slopes(images, matrices)
    np.testing.assert_array_equal(warped, computing.warp_images(images, matrices))
    return (
        warped,
        computing.warp_image_gradient(matrices, g),
        computing.warp_matrix_gradient(slopes, images.shape[1:3], g),
    )


def expected_warp(images, matrices, g):
    return oracles.warp(images, matrices), *oracles.warp_gradient(images, matrices, g)


@given(case=warps)
def test_warp_and_its_gradients_are_the_textbook_formulas(case):
    for actual, expected in zip(warp_gradients(*case), expected_warp(*case), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


exact_sizes = st.sampled_from([2, 3, 5, 9])  # a power of two from border to border


@given(
    case=st.builds(
        exact_warp, st.integers(1, 5), st.tuples(exact_sizes, exact_sizes), st.integers(1, 3), st.integers(0, 999)
    )
)
def test_the_kernels_of_warps_agree(case):
    # sums of up to 81 * 3 products of values up to 4, 8 and 4
    for actual, expected in zip(warp_gradients(*case), expected_warp(*case), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-3 if actual.shape[1:] == (2, 3) else 2e-5)


def test_warp_in_float32():
    images, matrices, g = random_warp(20, (28, 28), 1, np.float32)
    # A position of up to 13.5 * 4.6 = 62 pixels is rounded by a few units of 4e-6, and a pixel of up to 4 in size
    # differs from its neighbour by up to 8 per pixel.
    warped, d_images, _ = warp_gradients(images, matrices, g)
    np.testing.assert_allclose(warped, oracles.warp(images, matrices), rtol=0, atol=2e-4)
    # an input pixel receives gradients from several output pixels
    np.testing.assert_allclose(d_images, oracles.warp_gradient(images, matrices, g)[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("columns", "rows"), [(0, 0), (2, 0), (-1, 3), (0, -4)])
def test_translation_by_whole_pixels_moves_them_and_fills_with_zeros(columns, rows):
    images = np.random.default_rng(0).random((2, 7, 9, 2))
    matrix = np.array([[1, 0, columns * 2 / 8], [0, 1, rows * 2 / 6]])  # 8 and 6 pixels from border to border
    expected = np.zeros_like(images)
    for i in range(7):
        for j in range(9):
            if 0 <= i + rows < 7 and 0 <= j + columns < 9:
                expected[:, i, j] = images[:, i + rows, j + columns]
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-14)):
        moved = computing_warps(dtype).warp_images(images.astype(dtype), np.stack([matrix, matrix]).astype(dtype))
        np.testing.assert_allclose(moved, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("far", [3.0, 1e9, 1e30, np.inf])
def test_far_outside_everything_is_zero(far):
    images = np.ones((1, 5, 5, 1), np.float32)
    matrices = np.array([[[1, 0, far], [0, 1, 0]]], np.float32)
    for gradient in warp_gradients(images, matrices, images):
        assert not gradient.any()


# --- without compilation ----------------------------------------------------------------------------------


def results():
    """Return the results of the kernels for a sample of sizes."""
    arrays = [array for case in sample_cases() for array in case.all()]
    return [*arrays, *warp_gradients(*random_warp(9, (7, 6), 2, np.float32))]


def test_results_without_compilation_agree(run_python, tmp_path):
    """NumPy refuses indices out of bounds, so this also shows that compiled code has none."""
    path = tmp_path / "plain.npz"
    code = f"import numpy, test_kernels; numpy.savez({str(path)!r}, *test_kernels.results())"
    run_python(code, NUMBA_DISABLE_JIT="1")
    with np.load(path) as plain:
        interpreted = [plain[name] for name in plain.files]
    compiled = results()
    assert len(interpreted) == len(compiled)
    # Sums of at most 25 * 33 * 9 and 19 * 4 * 4 products of about 1, whose rounding errors mostly cancel.
    tolerance = 500 * np.finfo(np.float32).eps
    for ours, theirs in zip(compiled, interpreted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
