"""Winograd's form of a convolution, forward and backward, against the definition."""

import numpy as np
import oracles
from hypothesis import given, settings
from hypothesis import strategies as st

from hlf_np.kernels import executor
from hlf_np.kernels.buffers import aligned
from hlf_np.kernels.winograd import BLOCK
from hlf_np.layers import Convolution, ReLU, Sequential
from hlf_np.programs.evaluation import IMAGES, Program

EPSILON = np.finfo(np.float32).eps


def layer_gradient(program, gradients):
    """The gradient to the input (N, H, W, C) from that to the output (N, H, W, O)."""
    out, source, work = program.output.gradient, program.gradient, aligned((program.work,))
    for pixel, values in zip(out.all_pixels(), gradients.reshape(-1, gradients.shape[3]), strict=False):
        work[pixel : pixel + values.size] = values
    executor.run_operations(program.backward, program.tables, program.pack()[0], work, 0, len(gradients))
    pixels = source.all_pixels()[: len(gradients) * source.height * source.width]
    return np.stack([work[pixel : pixel + source.channels] for pixel in pixels])


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, IMAGES),
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    channels=st.tuples(*[st.sampled_from([32, 48, 64])] * 2),
    rectified=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_convolution(count, size, channels, rectified, seed):
    random = np.random.default_rng(seed)
    layer = Convolution(*channels, random, kernel=3, stride=1)
    layer.parameters["bias"].data[...] = random.standard_normal(channels[1])
    program = Program(Sequential(layer, *[ReLU()] * rectified), (*size, channels[0]))
    assert (program.forward[:, 0] == executor.WINOGRAD).all()
    assert (program.backward[:, 0] == executor.WINOGRAD).all()
    weight, bias = layer.parameters["weight"].data, layer.parameters["bias"].data
    x = random.standard_normal((count, *size, channels[0])).astype(np.float32)
    y = oracles.convolution(x, weight, bias, 1, 1)
    bound = oracles.convolution(abs(x), abs(weight), abs(bias), 1, 1)
    # patches sum up to four numbers, entries up to nine products: rounding grows by about as much
    expected = np.maximum(y, 0) if rectified else y
    assert (abs(program.evaluate(x).reshape(y.shape) - expected) <= 36 * EPSILON * bound + 1e-6).all()

    g = random.standard_normal(y.shape).astype(np.float32)
    expected = oracles.convolution_input_gradient(g, weight, 1, 1, size)
    found = layer_gradient(program, g).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


def test_more_patches_than_a_block():
    """Blocks and images do not begin together, and the last block is not full."""
    size = (9, 13)  # 5 x 7 patches
    assert IMAGES * 35 > 2 * BLOCK
    assert IMAGES * 35 % BLOCK
    random = np.random.default_rng(0)
    layer = Convolution(32, 32, random, kernel=3, stride=1)
    x = random.standard_normal((IMAGES, *size, 32)).astype(np.float32)
    expected = oracles.convolution(x, layer.parameters["weight"].data, layer.parameters["bias"].data, 1, 1)
    found = Program(Sequential(layer), (*size, 32)).evaluate(x).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
