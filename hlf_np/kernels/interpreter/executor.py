"""The executor: runs lists of instructions on a few images at a time, inside one core's cache.

A compiled network (see `programs`) is a forward and a backward list of `instructions` over one flat workspace. The
executor knows nothing else about the network, so it is compiled once for all of them.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from hlf_np.kernels.instructions.encoding import KIND, PROPAGATION_INSTRUCTIONS
from hlf_np.kernels.numba_internals.cache import kernel
from hlf_np.kernels.numba_internals.compiling import callee, inlined
from hlf_np.kernels.numba_internals.function_pointers import FunctionPointer
from hlf_np.kernels.numba_internals.named_tuples import decoder
from hlf_np.kernels.numba_internals.numba_types import (
    float32_1d,
    float32_2d,
    int64,
    int64_1d,
    int64_2d,
    uint64_1d,
)
from hlf_np.kernels.numba_internals.parallel import ParallelLoop
from hlf_np.kernels.operations.overlap import overlap_add
from hlf_np.kernels.operations.pointwise import residual_add, scale
from hlf_np.kernels.operations.pooling import pool, pool_gradient
from hlf_np.kernels.operations.warp import MAP_SIZE, map_gradient, sample
from hlf_np.kernels.products.product import copy, product
from hlf_np.kernels.products.tile import LANES
from hlf_np.kernels.winograd.winograd import winograd
from hlf_np.support.arrays import Array, Integers

(
    PRODUCT, SCALE, RESIDUAL_ADD, POOL, POOL_GRADIENT, SIGMOID_FROM_BLOCKS, SIGMOID_GRADIENT_FROM_BLOCKS, WARP,
    WARP_GRADIENT, WINOGRAD, OVERLAP_ADD,
) = (KIND[instruction] for instruction in PROPAGATION_INSTRUCTIONS)  # fmt: skip
(
    _decode_product, _, _, _, _, _decode_sigmoid, _decode_sigmoid_gradient, _decode_warp, _decode_warp_gradient,
    _decode_winograd, _,
) = (decoder(instruction) for instruction in PROPAGATION_INSTRUCTIONS)  # fmt: skip


class Network(NamedTuple):
    """What the kernels need of a compiled network; `preprocess_*` are the instructions of the networks before it."""

    run: int  # address of `run_instructions`
    preprocess_forward: Integers  # instructions, (count, fields) each
    forward: Integers
    backward: Integers
    preprocess_backward: Integers
    tables: Integers
    work_size: int  # elements of a workspace
    scratch_size: int  # elements of the scratch memory for Winograd's convolutions
    input_region: Integers  # (7,), see `copy_in`
    source_region: Integers  # likewise, for the image that a warp moves; empty regions have no rows
    output_region: Integers
    gradient: int  # work: gradient with respect to the first image's input
    gradient_stride: int  # from one image to the next
    gradient_offsets: Array  # (D,) uint64, where its elements are relative to the first; () if they are contiguous
    logits: int  # work: logits of the first image
    logits_stride: int
    logits_gradient: int  # work: gradient with respect to them
    logits_gradient_stride: int
    classes: int


NETWORK = types.NamedTuple(
    (
        int64, *[int64_2d] * 4, int64_1d, int64, int64, *[int64_1d] * 3, int64, int64, uint64_1d, *[int64] * 5,
    ),
    Network,
)  # fmt: skip


@callee
def _sigmoid(x, count):  # type: ignore[no-untyped-def]
    """Compute x = 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2 in place, in vector instructions, unlike a call of exp.

    tanh(x / 8) is Lambert's continued fraction, exact to rounding for |x| <= 18; then tanh(2 z) = 2 t / (1 + t^2) for
    t = tanh(z), twice.
    """
    one, two = np.float32(1), np.float32(2)
    for k in range(count):
        z = min(max(x[k], np.float32(-18)), np.float32(18)) * np.float32(0.125)
        s = z * z
        numerator = z * (np.float32(135135) + s * (np.float32(17325) + s * (np.float32(378) + s)))
        denominator = np.float32(135135) + s * (np.float32(62370) + s * (np.float32(3150) + s * np.float32(28)))
        t = numerator / denominator
        t = two * t / (one + t * t)
        t = two * t / (one + t * t)
        x[k] = np.float32(0.5) + np.float32(0.5) * t


@inlined
def _sigmoid_from_blocks(row, tables, work, first, end):  # type: ignore[no-untyped-def]
    op = _decode_sigmoid(row)
    for image in range(first, end):
        source = work[op.blocks + image * op.block_stride :]
        _sigmoid(source, op.block_stride)  # blocks consist of whole vectors, rows of pixels do not
        for i in range(op.rows):
            target = work[op.origin + image * op.image_stride + i * op.row_stride :]
            offsets = tables[op.offsets + i * op.row_size :]
            for k in range(op.row_size):
                target[k] = source[offsets[k]]


@inlined
def _sigmoid_gradient_from_blocks(row, tables, work, first, end):  # type: ignore[no-untyped-def]
    op = _decode_sigmoid_gradient(row)
    for image in range(first, end):
        source = work[op.blocks + image * op.block_stride :]
        for i in range(op.rows):
            y = work[op.origin + image * op.image_stride + i * op.row_stride :]
            offsets = tables[op.offsets + i * op.row_size :]
            g = work[op.g_origin + image * op.g_image_stride + i * op.g_row_stride :]
            for k in range(op.row_size):
                g[k] = source[offsets[k]] * y[k] * (np.float32(1) - y[k])


@inlined
def _warp(row, weights, work, first, end):  # type: ignore[no-untyped-def]
    """Warp images; `kernels.operations.warp` and `operations.affine_matrix` have the formulas."""
    op = _decode_warp(row)
    rows, width, at, size = op.rows, op.width, op.constants, op.padded_pixels
    x, y, last, half = weights[at:], weights[at + size :], weights[at + 2 * size :], weights[at + 2 * size + 2 :]
    one = np.float32(1)
    for image in range(first, end):
        own, code = work[op.slopes + image * op.slope_stride :], op.codes + image * op.code_stride
        u, v, hx, hy, scale, angle = work[code : code + 6]
        c, n = np.cos(angle), np.sin(angle)
        own[0], own[1] = half[0] * scale * (c - hx * n), half[0] * scale * (hx * c - n)
        own[2] = half[0] * (u + one) + one
        own[3], own[4] = half[1] * scale * (hy * c + n), half[1] * scale * (c - hy * n)
        own[5] = half[1] * (v + one) + one
        values, columns, lines = own[MAP_SIZE:], own[MAP_SIZE + size :], own[MAP_SIZE + 2 * size :]
        plane = work[op.planes + image * op.plane_stride :]
        sample(plane, width + 3, x, y, rows * width, own, 0, last, values, columns, lines)
        for i in range(rows):
            source, target = values[i * width :], work[op.origin + image * op.image_stride + i * op.row_stride :]
            if op.pixel_stride == 1:
                copy(source, target, width)
            else:
                for j in range(width):
                    target[j * op.pixel_stride] = source[j]


@inlined
def _warp_gradient(row, tables, weights, work, first, end):  # type: ignore[no-untyped-def]
    op = _decode_warp_gradient(row)
    at, size, pixels = op.constants, op.padded_pixels, op.pixels
    x, y, half = weights[at:], weights[at + size :], weights[at + 2 * size + 2 :]
    for image in range(first, end):
        source, own = work[op.image + image * op.image_stride :], work[op.slopes + image * op.slope_stride :]
        offsets, g = tables[op.offsets :], own[MAP_SIZE:]  # overwrites the values, which are not needed any more
        for k in range(pixels):
            g[k] = source[offsets[k]]
        a, b, d_u, c_, d, d_v = map_gradient(own[MAP_SIZE + size :], own[MAP_SIZE + 2 * size :], g, x, y, pixels)
        a, b, d_u, c_, d, d_v = a * half[0], b * half[0], d_u * half[0], c_ * half[1], d * half[1], d_v * half[1]
        code = op.codes + image * op.code_stride
        hx, hy, s, r = work[code + 2 : code + 6]
        c, n = np.cos(r), np.sin(r)
        gradient = work[op.targets + image * op.target_stride :]
        gradient[0], gradient[1] = d_u, d_v
        gradient[2], gradient[3] = s * (c * b - n * a), s * (c * c_ - n * d)
        gradient[4] = a * (c - hx * n) + b * (hx * c - n) + c_ * (hy * c + n) + d * (c - hy * n)
        gradient[5] = s * (c_ * (c - hy * n) - a * (n + hx * c) - b * (hx * n + c) - d * (n + hy * c))


@inlined
def _run_product(row, tables, weights, work, first, end):  # type: ignore[no-untyped-def]
    op = _decode_product(row)
    skipped = op.pixels * first
    product(
        work, tables[op.sources + skipped :], tables[op.segments : op.segments + op.segment_count], op.length, weights,
        op.weights, weights, op.initial, op.columns, work, tables[op.targets + skipped :], op.pixels * (end - first),
        op.epilogue, tables[op.masks + skipped :],
    )  # fmt: skip


@kernel(error_model="numpy")
def run_instructions(rows, tables, weights, work, scratch, first, end):  # type: ignore[no-untyped-def]
    """Run a list of instructions on the images from `first` to before `end` of a workspace.

    rows : (count, fields) int64, the encoded instructions.
    tables, weights, work : see `instructions`.
    scratch : (S,) float32, memory for Winograd's convolutions.
    """
    for index in range(rows.shape[0]):
        row = rows[index]
        kind = row[0]
        if kind == PRODUCT:
            _run_product(row, tables, weights, work, first, end)
        elif kind == WINOGRAD:
            winograd(_decode_winograd(row), tables, weights, work, scratch, first, end)
        elif kind == SCALE:
            scale(row, tables, weights, work, first, end)
        elif kind == RESIDUAL_ADD:
            residual_add(row, tables, work, first, end)
        elif kind == POOL:
            pool(row, tables, work, first, end)
        elif kind == POOL_GRADIENT:
            pool_gradient(row, tables, work, first, end)
        elif kind == SIGMOID_FROM_BLOCKS:
            _sigmoid_from_blocks(row, tables, work, first, end)
        elif kind == SIGMOID_GRADIENT_FROM_BLOCKS:
            _sigmoid_gradient_from_blocks(row, tables, work, first, end)
        elif kind == WARP:
            _warp(row, weights, work, first, end)
        elif kind == WARP_GRADIENT:
            _warp_gradient(row, tables, weights, work, first, end)
        elif kind == OVERLAP_ADD:
            overlap_add(row, tables, weights, work, first, end)


INSTRUCTIONS = FunctionPointer(run_instructions, int64_2d, int64_1d, float32_1d, float32_1d, float32_1d, int64, int64)
_run = INSTRUCTIONS.call


@callee
def run_by_group(run, rows, tables, weights, work, scratch, groups, count):  # type: ignore[no-untyped-def]
    """Run a list of instructions on `count` images, each with the weights of its group.

    Neighbouring images of the same group are computed together.

    run : the address of `run_instructions`.
    weights : (G, W), one row for each group.
    groups : (count or more,), the group of each image in the workspace.
    """
    first = 0
    while first < count:
        end = first + 1
        while end < count and groups[end] == groups[first]:
            end += 1
        _run(run, rows, tables, weights[groups[first]], work, scratch, first, end)
        first = end


@callee
def aligned_zeros(size):  # type: ignore[no-untyped-def]
    """Return float32 zeros aligned to vectors: loading a vector that straddles two cache lines takes two accesses."""
    buffer = np.zeros(size + LANES, np.float32)
    first = LANES - (np.int64(buffer.ctypes.data) // 4) % LANES
    return buffer[first : first + size]


@callee
def copy_in(values, region, work, image):  # type: ignore[no-untyped-def]
    """Copy flat values (D,) to a region of an image in the workspace; `programs.values.Region` has its fields."""
    rows, runs, length, origin = region[0], region[1], region[2], region[3]
    row_stride, run_stride, image_stride = region[4], region[5], region[6]
    for i in range(rows):
        for j in range(runs):
            target = work[origin + image * image_stride + i * row_stride + j * run_stride :]
            copy(values[(i * runs + j) * length :], target, length)


@callee
def copy_out(values, region, work, image):  # type: ignore[no-untyped-def]
    """Copy a region of an image in the workspace to flat values (D,), the reverse of `copy_in`."""
    rows, runs, length, origin = region[0], region[1], region[2], region[3]
    row_stride, run_stride, image_stride = region[4], region[5], region[6]
    for i in range(rows):
        for j in range(runs):
            source = work[origin + image * image_stride + i * row_stride + j * run_stride :]
            copy(source, values[(i * runs + j) * length :], length)


@callee
def evaluate_part(part, parts, network, weights, order, groups, inputs, outputs, capacity):  # type: ignore[no-untyped-def]
    """Compute the outputs of one of `parts` equal parts of the inputs, a few images at a time.

    network : a `Network`.
    weights : (G, W), one row for each group; the first also has the weights of the network that follows.
    order : (N,), the indices of the inputs, those of a group next to each other.
    groups : (N,), the group of each input.
    inputs : (N, D) float32.
    outputs : (N, E) float32, written.
    capacity : the number of images computed together.
    """
    work, scratch = aligned_zeros(network.work_size), aligned_zeros(network.scratch_size)
    begin, end = part * order.size // parts, (part + 1) * order.size // parts
    for first in range(begin, end, capacity):
        indices = order[first : min(first + capacity, end)]
        count = indices.size
        for image in range(count):
            copy_in(inputs[indices[image]], network.input_region, work, image)
        run_by_group(
            network.run, network.preprocess_forward, network.tables, weights, work, scratch, groups[indices], count
        )
        _run(network.run, network.forward, network.tables, weights[0], work, scratch, 0, count)
        for image in range(count):
            copy_out(outputs[indices[image]], network.output_region, work, image)


EVALUATION = ParallelLoop(evaluate_part, int64, NETWORK, float32_2d, int64_1d, int64_1d, float32_2d, float32_2d, int64)
_evaluate_parts = EVALUATION.parallel_for


@kernel
def evaluation_kernel(  # type: ignore[no-untyped-def]
    addresses, threads, weights, order, groups, inputs, outputs, capacity, *network
):
    """Evaluate all inputs in parallel.

    addresses : those of `EVALUATION`.
    weights, ..., capacity : see `evaluate_part`.
    network : the fields of a `Network`, one by one, which Numba passes faster from Python than a tuple of arrays.
    """
    _evaluate_parts(addresses, threads, threads, Network(*network), weights, order, groups, inputs, outputs, capacity)
