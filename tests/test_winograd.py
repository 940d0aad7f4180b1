"""Winograd's convolutions, forward and backward, against the definition."""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlf_np.kernels.buffers import aligned_zeros
from hlf_np.kernels.instructions.encoding import decoded
from hlf_np.kernels.instructions.propagation import Scale, Winograd
from hlf_np.kernels.interpreter import executor
from hlf_np.kernels.winograd.forms import DOWN_F3_2, DOWN_F4_2, F2_3, F4_3, FORMS, UP_F3_2, UP_F4_2
from hlf_np.kernels.winograd.winograd import PATCHES_PER_BLOCK
from hlf_np.layers import BatchNorm, Convolution, ReLU, Sequential, TransposedConvolution
from hlf_np.programs.capacity import MOST_IMAGES
from hlf_np.programs.evaluation import Program

EPSILON = np.finfo(np.float32).eps


def layer_gradient(program, gradients):
    """Return the gradient with respect to the input (N, H, W, C), given that to the output (N, H, W, O)."""
    if len(gradients) > program.capacity:  # it is computed in several parts
        first, rest = np.split(gradients, [program.capacity])
        return np.concatenate([layer_gradient(program, first), layer_gradient(program, rest)])
    out, source = program.output.gradient, program.gradient
    work, room = (aligned_zeros((size,)) for size in program.sizes)
    for pixel, values in zip(out.all_pixels(), gradients.reshape(-1, gradients.shape[3]), strict=False):
        work[pixel : pixel + values.size] = values
    gates = program.output.writer.sources[0].buffer  # the copied output of a ReLU, which masks gradients: let all pass
    for pixel in gates.all_pixels():
        work[pixel : pixel + gates.channels] = 1
    executor.run_instructions(
        program.backward, program.tables, program.packed_weights()[0], work, room, 0, len(gradients)
    )
    pixels = source.all_pixels()[: len(gradients) * source.height * source.width]
    return np.stack([work[pixel : pixel + source.channels] for pixel in pixels])


def compiled(network, shape, forward, backward):
    """Return the network's program, after checking that all its convolutions are of these forms."""
    program = Program(network, shape)
    for rows, form in ((program.forward, forward), (program.backward, backward)):
        found = [step for step in map(decoded, rows) if not isinstance(step, Scale)]
        assert found
        assert all(isinstance(step, Winograd) and step.form == form for step in found)
    return program


def random_images(random, count, size, channels):
    return random.standard_normal((count, *size, channels)).astype(np.float32)


# --- one patch, in float64 ------------------------------------------------------------------------------------


def two_sided(matrix, square):
    """M S M^T."""
    return np.array(matrix) @ square @ np.array(matrix).T


def phase(weight, i, j):
    """Return the filter that phase (i, j) of an image meets."""
    return weight[0, 0] if weight.shape[2] == 3 else weight[0, 0, i::2, j::2]


@pytest.mark.parametrize("number", [F2_3, F4_3, DOWN_F3_2, DOWN_F4_2])
def test_a_patch_yields_its_outputs(number):
    """Y = A^T [(G g G^T) * (B^T d B)] A, summed over phases, is the convolution."""
    random, form = np.random.default_rng(0), FORMS[number]
    kernel, stride = (3, 1) if number in (F2_3, F4_3) else (4, 2)
    weight = random.standard_normal((1, 1, kernel, kernel))
    patch = random.standard_normal((1, stride * form.input_size, stride * form.input_size, 1))
    total = np.zeros((form.output_size, form.output_size))
    for i, j in np.ndindex(stride, stride):
        entries = two_sided(form.input_transform, patch[0, i::stride, j::stride, 0])
        total += two_sided(form.output_transform, two_sided(form.filter_transform, phase(weight, i, j)) * entries)
    expected = oracles.convolution(patch, weight, np.zeros(1), stride, 0)[0, : form.output_size, : form.output_size, 0]
    np.testing.assert_allclose(total, expected, atol=1e-12)


@pytest.mark.parametrize("number", [UP_F3_2, UP_F4_2])
def test_a_patch_yields_the_pixels_that_it_meets(number):
    """The transposed convolution, phase by phase."""
    random, form = np.random.default_rng(0), FORMS[number]
    weight, patch = (
        random.standard_normal((1, 1, 4, 4)),
        random.standard_normal((1, form.input_size, form.input_size, 1)),
    )
    size = 2 * form.input_size + 2
    padded = oracles.convolution_input_gradient(patch, weight, 2, 0, (size, size))[0, ..., 0]
    turn = -1 if number == UP_F4_2 else 1
    first = -2 * form.offset  # pixel 0 of a phase, where the patch begins before it
    for i, j in np.ndindex(2, 2):
        own = phase(weight, i, j)[::turn, ::turn]
        found = two_sided(
            form.output_transform,
            two_sided(form.filter_transform, own) * two_sided(form.input_transform, patch[0, ..., 0]),
        )
        expected = padded[first + i :: 2, first + j :: 2][: form.output_size, : form.output_size]
        np.testing.assert_allclose(found, expected, atol=1e-12)


# --- whole layers ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, MOST_IMAGES),
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    channels=st.tuples(*[st.sampled_from([32, 48, 64])] * 2),
    rectified=st.booleans(),
    seed=st.integers(0, 99),
)
def test_stride_1_is_the_convolution(count, size, channels, rectified, seed):
    random = np.random.default_rng(seed)
    layer = Convolution(*channels, random, kernel=3, stride=1)
    few = [36 * -(-size[0] // 4) * -(-size[1] // 4), 16 * -(-size[0] // 2) * -(-size[1] // 2)]  # multiplications
    form = F4_3 if few[0] < few[1] else F2_3
    check(layer, (form, form), count, size, rectified, random, 36 if form == F2_3 else 400)


# sizes for which most of the patches lies inside the image
SMALL = st.tuples(*[st.sampled_from([6, 7])] * 2), (DOWN_F3_2, UP_F3_2)
LARGE = st.tuples(*[st.sampled_from([8, 14, 15, 16, 17, 24])] * 2), (DOWN_F4_2, UP_F4_2)


@pytest.mark.parametrize(("sizes", "forms"), [SMALL, LARGE], ids=["small", "large"])
@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    count=st.integers(1, MOST_IMAGES),
    channels=st.tuples(st.sampled_from([16, 32, 48]), st.sampled_from([32, 48, 64])),
    rectified=st.booleans(),
    seed=st.integers(0, 99),
)
def test_stride_2_is_the_convolution(sizes, forms, data, count, channels, rectified, seed):
    random = np.random.default_rng(seed)
    layer = Convolution(*channels, random, kernel=4, stride=2)
    # F(4, 2) has coefficients of up to 8 and is less accurate than F(3, 2)
    check(layer, forms, count, data.draw(sizes), rectified, random, 36 if forms[0] == DOWN_F3_2 else 400)


def check(layer, forms, count, size, rectified, random, growth):
    """Check the output to `growth` epsilons of the sum of absolute values, gradients to 1e-5 of the largest."""
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
    count=st.integers(1, MOST_IMAGES),
    side=st.sampled_from([(3, 0), (3, 1), (4, 0), (7, 0), (7, 1), (8, 1)]),
    channels=st.tuples(st.sampled_from([32, 48, 64]), st.sampled_from([16, 32, 48])),
    seed=st.integers(0, 99),
)
def test_stride_2_upwards_is_the_transposed_convolution(count, side, channels, seed):
    """With a folded batch norm and a ReLU, as in a decoder."""
    (size, extra), random = side, np.random.default_rng(seed)
    layer, norm = TransposedConvolution(*channels, random, output_padding=extra), BatchNorm(channels[1])
    layer.parameters["bias"].data[...] = random.standard_normal(channels[1])
    norm.buffers["running_var"][...] = random.random(channels[1]) + 0.5
    norm.buffers["running_mean"][...] = random.standard_normal(channels[1])
    forms = (DOWN_F3_2, UP_F3_2) if size == 3 else (DOWN_F4_2, UP_F4_2)
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
    """Blocks do not begin where images begin, and the last block is not full."""
    size, count = (9, 17), MOST_IMAGES - 1  # 3 x 5 patches in each image
    assert count * 15 > 2 * PATCHES_PER_BLOCK
    assert count * 15 % PATCHES_PER_BLOCK
    random = np.random.default_rng(0)
    layer = Convolution(32, 32, random, kernel=3, stride=1)
    x = random_images(random, count, size, 32)
    expected = oracles.convolution(x, layer.parameters["weight"].data, layer.parameters["bias"].data, 1, 1)
    found = Program(Sequential(layer), (*size, 32)).evaluate(x).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


def test_few_channels_and_incomplete_patches_use_the_plain_convolution():
    random = np.random.default_rng(0)
    for layer, size in (
        (Convolution(16, 16, random, kernel=4, stride=2), 14),  # few channels
        (Convolution(16, 16, random, kernel=3, stride=1), 5),  # the same, and patches that save little
        (Convolution(32, 32, random, kernel=4, stride=2), 10),  # 5 outputs in patches of 4
        (Convolution(32, 32, random, kernel=4, stride=2), 4),  # 2 outputs in a patch of 3
        (Convolution(32, 32, random, kernel=5, stride=2), 14),
    ):
        program = Program(Sequential(layer), (size, size, layer.parameters["weight"].shape[1]))
        assert not any(isinstance(decoded(row), Winograd) for row in program.forward)
