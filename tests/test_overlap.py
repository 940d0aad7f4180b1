"""Images of few channels from overlapping patches, forward and backward, against the definition."""

import numpy as np
import oracles
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hlf_np.kernels.buffers import aligned_zeros
from hlf_np.kernels.instructions.encoding import decoded
from hlf_np.kernels.instructions.propagation import OverlapAdd
from hlf_np.kernels.interpreter import executor
from hlf_np.kernels.products.tile import LANES
from hlf_np.layers import Convolution, Sequential, Sigmoid, TransposedConvolution
from hlf_np.programs.evaluation import Program

GEOMETRIES = {
    "count": st.integers(1, 30),
    "kernel": st.integers(1, 5),
    "stride": st.integers(1, 3),
    "padding": st.integers(0, 2),
    "channels": st.tuples(st.integers(1, min(3, LANES - 1)), st.sampled_from([3, 16, 20])),
    "seed": st.integers(0, 99),
}


def has_overlap(rows):
    return any(isinstance(decoded(row), OverlapAdd) for row in rows)


@settings(deadline=None, max_examples=80)
@given(size=st.tuples(*[st.integers(4, 12)] * 2), **GEOMETRIES)
def test_the_gradient_with_respect_to_an_image(count, size, kernel, stride, padding, channels, seed):
    assume(padding < kernel <= min(size) + 2 * padding)
    random = np.random.default_rng(seed)
    layer = Convolution(*channels, random, kernel=kernel, stride=stride, padding=padding)
    program = Program(Sequential(layer), (*size, channels[0]))
    assert has_overlap(program.backward) or size == (kernel, kernel)  # otherwise there is a single patch
    out = program.output.gradient
    g = random.standard_normal((count, *program.output.shape)).astype(np.float32)
    count = min(count, program.capacity)
    g = g[:count]
    work, scratch = (aligned_zeros((elements,)) for elements in program.sizes)
    for pixel, values in zip(out.all_pixels(), g.reshape(-1, g.shape[3]), strict=False):
        work[pixel : pixel + values.size] = values
    rows, weights = program.backward, program.packed_weights()[0]
    executor.run_instructions(rows, program.tables, weights, work, scratch, 0, count)
    offsets = program.gradient_offsets if program.gradient_offsets.size else np.arange(np.prod((*size, channels[0])))
    found = [work[program.gradient.origin + n * program.gradient.image :][offsets.astype(int)] for n in range(count)]
    expected = oracles.convolution_input_gradient(g, layer.parameters["weight"].data, stride, padding, size)
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1e-5 * abs(expected).max())


@settings(deadline=None, max_examples=80)
@given(size=st.tuples(*[st.integers(1, 6)] * 2), **GEOMETRIES)
def test_the_image_that_a_decoder_ends_in(count, size, kernel, stride, padding, channels, seed):
    few, many = channels
    random = np.random.default_rng(seed)
    assume(kernel >= stride and min(size) * stride + kernel - stride - 2 * padding > 1)
    layer = TransposedConvolution(many, few, random, kernel=kernel, stride=stride, padding=padding, output_padding=0)
    layer.parameters["bias"].data[...] = random.standard_normal(few)
    program = Program(Sequential(layer, Sigmoid()), (*size, many))
    assert has_overlap(program.forward) or (size == (1, 1) and padding == 0)  # otherwise there is a single patch
    x = random.standard_normal((count, *size, many)).astype(np.float32)
    weight, bias = layer.parameters["weight"].data, layer.parameters["bias"].data
    expected = 1 / (1 + np.exp(-oracles.transposed_convolution(x, weight, bias, stride, padding, 0)))
    np.testing.assert_allclose(program.evaluate(x).reshape(expected.shape), expected, atol=1e-5)
