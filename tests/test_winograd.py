"""Winograd's forms of a convolution, forward and backward, against the definition."""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlf_np.kernels import executor
from hlf_np.kernels.buffers import aligned
from hlf_np.kernels.instructions import Scale, Winograd, decoded
from hlf_np.kernels.winograd import BLOCK
from hlf_np.kernels.winograd_forms import FORMS, FROM_THREE, SAME, TO_BIG, TO_SMALL, TO_THREE
from hlf_np.layers import BatchNorm, Convolution, ReLU, Sequential, TransposedConvolution
from hlf_np.programs.evaluation import IMAGES, Program

EPSILON = np.finfo(np.float32).eps


def layer_gradient(program, gradients):
    """The gradient to the input (N, H, W, C) from that to the output (N, H, W, O)."""
    out, source = program.output.gradient, program.gradient
    work, room = (aligned((size,)) for size in program.sizes)
    for pixel, values in zip(out.all_pixels(), gradients.reshape(-1, gradients.shape[3]), strict=False):
        work[pixel : pixel + values.size] = values
    gates = program.output.writer.sources[0].buffer  # of a rectified output, which is copied: let every gradient pass
    for pixel in gates.all_pixels():
        work[pixel : pixel + gates.channels] = 1
    executor.run_instructions(program.backward, program.tables, program.pack()[0], work, room, 0, len(gradients))
    pixels = source.all_pixels()[: len(gradients) * source.height * source.width]
    return np.stack([work[pixel : pixel + source.channels] for pixel in pixels])


def compiled(network, shape, forward, backward):
    """The network's program; every instruction, but for the copy of a rectified output, is of these forms."""
    program = Program(network, shape)
    for rows, form in ((program.forward, forward), (program.backward, backward)):
        found = [step for step in map(decoded, rows) if not isinstance(step, Scale)]
        assert found
        assert all(isinstance(step, Winograd) and step.form == form for step in found)
    return program


def random_images(random, count, size, channels):
    return random.standard_normal((count, *size, channels)).astype(np.float32)


# --- one patch, in float64 ------------------------------------------------------------------------------------


def squared(matrix, square):
    return np.array(matrix) @ square @ np.array(matrix).T


def phase(weight, i, j):
    """The filter that phase (i, j) of an image meets."""
    return weight[0, 0] if weight.shape[2] == 3 else weight[0, 0, i::2, j::2]


@pytest.mark.parametrize("number", [SAME, TO_THREE, TO_SMALL])
def test_a_patch_yields_its_outputs(number):
    """Y = A [(G g G') * (B d B')] A', summed over phases, is the correlation."""
    random, form = np.random.default_rng(0), FORMS[number]
    kernel, stride = (3, 1) if number == SAME else (4, 2)
    weight = random.standard_normal((1, 1, kernel, kernel))
    patch = random.standard_normal((1, stride * form.reads, stride * form.reads, 1))
    total = np.zeros((form.outputs, form.outputs))
    for i, j in np.ndindex(stride, stride):
        entries = squared(form.entries, patch[0, i::stride, j::stride, 0])
        total += squared(form.sums, squared(form.filter, phase(weight, i, j)) * entries)
    expected = oracles.convolution(patch, weight, np.zeros(1), stride, 0)[0, : form.outputs, : form.outputs, 0]
    np.testing.assert_allclose(total, expected, atol=1e-12)


@pytest.mark.parametrize("number", [FROM_THREE, TO_BIG])
def test_a_patch_yields_the_pixels_that_it_meets(number):
    """Likewise the transpose, phase by phase."""
    random, form = np.random.default_rng(0), FORMS[number]
    weight, patch = random.standard_normal((1, 1, 4, 4)), random.standard_normal((1, form.reads, form.reads, 1))
    size = 2 * form.reads + 2
    padded = oracles.convolution_input_gradient(patch, weight, 2, 0, (size, size))[0, ..., 0]
    turn = -1 if number == TO_BIG else 1
    first = -2 * form.first  # pixel 0 of a phase, where the patch begins before it
    for i, j in np.ndindex(2, 2):
        own = phase(weight, i, j)[::turn, ::turn]
        found = squared(form.sums, squared(form.filter, own) * squared(form.entries, patch[0, ..., 0]))
        expected = padded[first + i :: 2, first + j :: 2][: form.outputs, : form.outputs]
        np.testing.assert_allclose(found, expected, atol=1e-12)


# --- whole layers ---------------------------------------------------------------------------------------------


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
    check(layer, (SAME, SAME), count, size, rectified, random, 36)


# sizes of which not too much is beyond the image
SMALL = st.tuples(*[st.sampled_from([6, 7])] * 2), (TO_THREE, FROM_THREE)
LARGE = st.tuples(*[st.sampled_from([8, 14, 15, 16, 17, 24])] * 2), (TO_SMALL, TO_BIG)


@pytest.mark.parametrize(("sizes", "forms"), [SMALL, LARGE], ids=["small", "large"])
@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    count=st.integers(1, IMAGES),
    channels=st.tuples(st.sampled_from([16, 32, 48]), st.sampled_from([32, 48, 64])),
    rectified=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_convolution_of_stride_2(sizes, forms, data, count, channels, rectified, seed):
    random = np.random.default_rng(seed)
    layer = Convolution(*channels, random, kernel=4, stride=2)
    # entries of up to 8, so more is lost than with a patch of four
    check(layer, forms, count, data.draw(sizes), rectified, random, 36 if forms[0] == TO_THREE else 400)


def check(layer, forms, count, size, rectified, random, growth):
    """Forward within `growth` roundings of the largest possible sum, backward within 1e-5 of the largest gradient."""
    weight, bias = layer.parameters["weight"].data, layer.parameters["bias"].data
    bias[...] = random.standard_normal(bias.size)
    channels, geometry = weight.shape[1], (layer.stride, layer.padding)
    program = compiled(Sequential(layer, *[ReLU()] * rectified), (*size, channels), *forms)
    x = random_images(random, count, size, channels)
    y, bound = (
        oracles.convolution(*arrays, *geometry) for arrays in ((x, weight, bias), (abs(x), abs(weight), abs(bias)))
    )
    expected = np.maximum(y, 0) if rectified else y
    assert (abs(program.evaluate(x).reshape(y.shape) - expected) <= growth * EPSILON * bound + 1e-6).all()

    g = random.standard_normal(y.shape).astype(np.float32)
    expected = oracles.convolution_input_gradient(g, weight, *geometry, size)
    found = layer_gradient(program, g).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


@settings(deadline=None, max_examples=20)
@given(
    count=st.integers(1, IMAGES),
    side=st.sampled_from([(3, 0), (3, 1), (4, 0), (7, 0), (7, 1), (8, 1)]),
    channels=st.tuples(st.sampled_from([32, 48, 64]), st.sampled_from([16, 32, 48])),
    seed=st.integers(0, 99),
)
def test_it_is_the_transposed_convolution(count, side, channels, seed):
    """With a batch norm folded into it, and a ReLU, as in a decoder."""
    (size, extra), random = side, np.random.default_rng(seed)
    layer, norm = TransposedConvolution(*channels, random, output_padding=extra), BatchNorm(channels[1])
    layer.parameters["bias"].data[...] = random.standard_normal(channels[1])
    norm.buffers["running_var"][...] = random.random(channels[1]) + 0.5
    norm.buffers["running_mean"][...] = random.standard_normal(channels[1])
    forms = (TO_THREE, FROM_THREE) if size == 3 else (TO_SMALL, TO_BIG)
    program = compiled(Sequential(layer, norm, ReLU()), (size, size, channels[0]), *forms[::-1])
    weight, bias = layer.parameters["weight"].data, layer.parameters["bias"].data
    x = random_images(random, count, (size, size), channels[0])
    scale = 1 / np.sqrt(norm.buffers["running_var"] + norm.epsilon)
    plain = oracles.transposed_convolution(x, weight, bias, 2, 1, extra)
    expected = np.maximum((plain - norm.buffers["running_mean"]) * scale, 0)
    found = program.evaluate(x).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=2e-5 * abs(expected).max())

    g = random.standard_normal(expected.shape).astype(np.float32)
    expected = oracles.convolution(g * scale, weight, np.zeros(channels[0]), 2, 1)
    np.testing.assert_allclose(
        layer_gradient(program, g).reshape(expected.shape), expected, atol=2e-5 * abs(expected).max()
    )


def test_more_patches_than_a_block():
    """Blocks and images do not begin together, and the last block is not full."""
    size = (9, 13)  # 5 x 7 patches
    assert IMAGES * 35 > 2 * BLOCK
    assert IMAGES * 35 % BLOCK
    random = np.random.default_rng(0)
    layer = Convolution(32, 32, random, kernel=3, stride=1)
    x = random_images(random, IMAGES, size, 32)
    expected = oracles.convolution(x, layer.parameters["weight"].data, layer.parameters["bias"].data, 1, 1)
    found = Program(Sequential(layer), (*size, 32)).evaluate(x).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_few_channels_and_wasted_patches_are_left_to_the_plain_convolution():
    random = np.random.default_rng(0)
    for layer, size in (
        (Convolution(16, 16, random, kernel=4, stride=2), 14),  # few channels
        (Convolution(32, 32, random, kernel=4, stride=2), 10),  # 5 outputs in patches of 4
        (Convolution(32, 32, random, kernel=4, stride=2), 4),  # 2 outputs in a patch of 3
        (Convolution(32, 32, random, kernel=5, stride=2), 14),
    ):
        program = Program(Sequential(layer), (size, size, layer.parameters["weight"].shape[1]))
        assert not any(isinstance(decoded(row), Winograd) for row in program.forward)
