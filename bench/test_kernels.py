"""The kernels of a training step, at the sizes of the paper's CNN and a batch of 100."""

import numpy as np
import pytest

from hlf_np.kernels.operations.warp import warp_images, warp_matrix_gradient, warp_with_slopes
from hlf_np.kernels.products.convolution import convolve, convolve_input_gradient, convolve_weight_gradient

RANDOM = np.random.default_rng(0)
SIZES = {"28": (28, 1, 16), "14": (14, 16, 32), "7": (7, 32, 64)}  # side in pixels, input and output channels
each_size = pytest.mark.parametrize("size", SIZES)


def normal(*shape):
    return RANDOM.standard_normal(shape, np.float32)


@each_size
def test_convolution(benchmark, size):
    side, channels, out_channels = SIZES[size]
    benchmark(convolve, normal(100, side, side, channels), normal(out_channels, channels, 4, 4), None, 2, 1)


@each_size
def test_gradient_with_respect_to_the_input(benchmark, size):
    side, channels, out_channels = SIZES[size]
    gradient = normal(100, side // 2, side // 2, out_channels)
    benchmark(convolve_input_gradient, gradient, normal(out_channels, channels, 4, 4), None, 2, 1, (side, side))


@each_size
def test_gradient_with_respect_to_the_weights(benchmark, size):
    side, channels, out_channels = SIZES[size]
    gradient = normal(100, side // 2, side // 2, out_channels)
    benchmark(convolve_weight_gradient, normal(100, side, side, channels), gradient, (4, 4), 2, 1)


@pytest.mark.parametrize("gradient", [False, True])
def test_warp(benchmark, gradient):
    images, matrices = RANDOM.random((1000, 28, 28, 1), np.float32), 0.5 * normal(1000, 2, 3)
    if gradient:
        _, slopes = warp_with_slopes(images, matrices)
        benchmark(warp_matrix_gradient, slopes, (28, 28), images)
    else:
        benchmark(warp_images, images, matrices)
