"""The executor: lists of operations on a few images at a time, inside one core's cache.

A compiled network (see `programs`) is two lists of operations, forward and backward, over one flat workspace. An
operation is a row of numbers: its kind, and where its tables, weights and buffers are. The executor knows nothing
else about the network, so it is compiled once for all of them.
"""

import numpy as np
from numba import njit

from hlf_np.kernels.compiling import inner, pasted
from hlf_np.kernels.convolution import copy, product
from hlf_np.kernels.linking import Linked, floats, integer, matrix, pair, rows, table
from hlf_np.kernels.parallel import Parallel
from hlf_np.kernels.pooling import pool, pool_gradient
from hlf_np.kernels.tile import LANES
from hlf_np.kernels.warp import map_gradient, sample
from hlf_np.kernels.winograd import OUTPUTS, winograd

# Kinds of operations, and below each the fields behind the kind. Names in *_rows are positions in `tables`.
# a_rows, rows per image, segments, segment count, length, weights, start, columns, c_rows, c_panel, finish, gates
PRODUCT = 0
# a_rows, rows per image, c_rows, channels
COPY = 1
# a_rows, rows per image, b_rows, c_rows, channels
JOIN = 2
# windows, rows per image, segments, segment count, c_rows, channels
MAX_POOL, AVERAGE_POOL = 3, 4
# the same, then g_rows (output gradient), and of the input gradient: windows, segments, t_rows, rows per image; gates
MAX_POOL_GRADIENT, AVERAGE_POOL_GRADIENT = 5, 6
# blocks, distance to the next image's, order; of the image: rows, row, origin, distances of rows and images
FROM_BLOCKS = 7
# the same, then of the gradient: origin, distances of rows and images
BLOCKS_GRADIENT = 8
# parameters, distance to the next image's, plane, distance, rows, columns, positions and bounds among the weights,
# slopes, distance, image origin, distances of rows and images
WARP = 9
# parameters, distance, blocks, distance, order, pixels, positions, slopes, distance, gradient, distance
WARP_GRADIENT = 10
# form, patches, patches per image, row, channels, weights, start, zeros, columns, targets, gates, finish, lines
WINOGRAD = 11
FIELDS = 14


@inner
def _sigmoid(x, count):  # type: ignore[no-untyped-def]
    """x = 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2 in place, as vectors, unlike a call of exp.

    tanh(x / 8) is Lambert's continued fraction, to rounding for |x| <= 18, and tanh(2 z) = 2 t / (1 + t^2) twice.
    """
    one, two = np.float32(1), np.float32(2)
    for k in range(count):
        z = min(max(x[k], np.float32(-18)), np.float32(18)) * np.float32(0.125)
        s = z * z
        above = z * (np.float32(135135) + s * (np.float32(17325) + s * (np.float32(378) + s)))
        below = np.float32(135135) + s * (np.float32(62370) + s * (np.float32(3150) + s * np.float32(28)))
        t = above / below
        t = two * t / (one + t * t)
        t = two * t / (one + t * t)
        x[k] = np.float32(0.5) + np.float32(0.5) * t


@pasted
def _from_blocks(op, tables, work, first, end):  # type: ignore[no-untyped-def]
    """An image of few channels: the sigmoid of what lies in blocks."""
    blocks, step, order, rows, row, origin, row_step, image_step = op[1:9]
    for image in range(first, end):
        source = work[blocks + image * step :]
        _sigmoid(source, step)  # whole vectors, as rows of pixels are not
        for i in range(rows):
            target, of_row = work[origin + image * image_step + i * row_step :], tables[order + i * row :]
            for k in range(row):
                target[k] = source[of_row[k]]


@pasted
def _blocks_gradient(op, tables, work, first, end):  # type: ignore[no-untyped-def]
    """The gradient in front of the sigmoid from that to its result, which lies in blocks."""
    blocks, step, order, rows, row, origin, row_step, image_step, g_origin, g_row_step, g_image_step = op[1:12]
    for image in range(first, end):
        source = work[blocks + image * step :]
        for i in range(rows):
            y, of_row = work[origin + image * image_step + i * row_step :], tables[order + i * row :]
            g = work[g_origin + image * g_image_step + i * g_row_step :]
            for k in range(row):
                g[k] = source[of_row[k]] * y[k] * (np.float32(1) - y[k])


@pasted
def _warp(op, weights, work, first, end):  # type: ignore[no-untyped-def]
    """Images of one channel, warped by six parameters; see `kernels.warp` and `operations.affine_matrix`.

    Among the weights: x, y of every pixel, each filled up to whole vectors; the last column and line; half the columns
    and lines. In the workspace: the map, the values, their slopes to column and line.
    """
    codes, code_step, planes, plane_step, rows, width, at, filled = op[1:9]
    slopes, slope_step, origin, row_step, image_step = op[9:14]
    x, y, most, half = weights[at:], weights[at + filled :], weights[at + 2 * filled :], weights[at + 2 * filled + 2 :]
    one = np.float32(1)
    for image in range(first, end):
        own = work[slopes + image * slope_step :]
        u, v, hx, hy, scale, angle = work[codes + image * code_step : codes + image * code_step + 6]
        c, n = np.cos(angle), np.sin(angle)
        own[0], own[1] = half[0] * scale * (c - hx * n), half[0] * scale * (hx * c - n)
        own[2] = half[0] * (u + one) + one
        own[3], own[4] = half[1] * scale * (hy * c + n), half[1] * scale * (c - hy * n)
        own[5] = half[1] * (v + one) + one
        values, columns, lines = own[LANES:], own[LANES + filled :], own[LANES + 2 * filled :]
        plane = work[planes + image * plane_step :]
        sample(plane, width + 3, x, y, rows * width, own, 0, most, values, columns, lines)
        for i in range(rows):
            copy(values[i * width :], work[origin + image * image_step + i * row_step :], width)


@pasted
def _warp_gradient(op, tables, weights, work, first, end):  # type: ignore[no-untyped-def]
    """The gradient to the parameters from that to the image, which lies in blocks."""
    codes, code_step, blocks, block_step, order, pixels, at, filled, slopes, slope_step, to, to_step = op[1:13]
    x, y, half = weights[at:], weights[at + filled :], weights[at + 2 * filled + 2 :]
    for image in range(first, end):
        source, own = work[blocks + image * block_step :], work[slopes + image * slope_step :]
        of_pixels, g = tables[order:], own[LANES:]  # in place of the values, which nobody reads any more
        for k in range(pixels):
            g[k] = source[of_pixels[k]]
        a, b, d_u, c_, d, d_v = map_gradient(own[LANES + filled :], own[LANES + 2 * filled :], g, x, y, pixels)
        a, b, d_u, c_, d, d_v = a * half[0], b * half[0], d_u * half[0], c_ * half[1], d * half[1], d_v * half[1]
        hx, hy, s, r = work[codes + image * code_step + 2 : codes + image * code_step + 6]
        c, n = np.cos(r), np.sin(r)
        gradient = work[to + image * to_step :]
        gradient[0], gradient[1] = d_u, d_v
        gradient[2], gradient[3] = s * (c * b - n * a), s * (c * c_ - n * d)
        gradient[4] = a * (c - hx * n) + b * (hx * c - n) + c_ * (hy * c + n) + d * (c - hy * n)
        gradient[5] = s * (c_ * (c - hy * n) - a * (n + hx * c) - b * (hx * n + c) - d * (n + hy * c))


@njit(cache=True, error_model="numpy")
def run_operations(ops, tables, weights, work, room, first, end):  # type: ignore[no-untyped-def]
    """A list of operations on the lanes from `first` to before `end`; room : for Winograd's convolutions to work in."""
    for index in range(ops.shape[0]):
        op = ops[index]
        kind = op[0]
        if kind == PRODUCT:
            skipped = op[2] * first
            product(
                work, tables[op[1] + skipped :], tables[op[3] : op[3] + op[4]], op[5], weights, op[6], weights, op[7],
                op[8], work, tables[op[9] + skipped :], op[10], op[2] * (end - first), op[11],
                tables[op[12] + skipped :],
            )  # fmt: skip
        elif kind == WINOGRAD:
            skipped = op[3] * first
            outputs = OUTPUTS[op[1]] * skipped
            winograd(
                op[1], work, tables[op[2] + skipped :], op[4], op[5], weights, op[6], op[7], op[8], op[9],
                tables[op[10] + outputs :], tables[op[11] + outputs :], op[12], room, tables[op[13] :],
                op[3] * (end - first),
            )  # fmt: skip
        elif kind == COPY:
            for pixel in range(op[2] * first, op[2] * end):
                copy(work[tables[op[1] + pixel] :], work[tables[op[3] + pixel] :], op[4])
        elif kind == JOIN:
            for pixel in range(op[2] * first, op[2] * end):
                a, b = work[tables[op[1] + pixel] :], work[tables[op[3] + pixel] :]
                joined = work[tables[op[4] + pixel] :]
                for c in range(op[5]):
                    joined[c] = max(a[c] + b[c], np.float32(0))
        elif kind in (MAX_POOL, AVERAGE_POOL):
            pool(op, kind == MAX_POOL, tables, work, first, end)
        elif kind in (MAX_POOL_GRADIENT, AVERAGE_POOL_GRADIENT):
            pool_gradient(op, kind == MAX_POOL_GRADIENT, tables, work, first, end)
        elif kind == FROM_BLOCKS:
            _from_blocks(op, tables, work, first, end)
        elif kind == BLOCKS_GRADIENT:
            _blocks_gradient(op, tables, work, first, end)
        elif kind == WARP:
            _warp(op, weights, work, first, end)
        elif kind == WARP_GRADIENT:
            _warp_gradient(op, tables, weights, work, first, end)


OPERATIONS = Linked(run_operations, rows, table, floats, floats, floats, integer, integer)
_run = OPERATIONS.call


@inner
def run_fronts(run, ops, tables, weights, work, room, groups, active):  # type: ignore[no-untyped-def]
    """A list of operations with the weights of each lane's group; lanes of the same group should lie side by side.

    run : the address of `run_operations`; weights : (G, W); groups : (L,), of the lanes.
    """
    first = 0
    while first < active:
        end = first + 1
        while end < active and groups[end] == groups[first]:
            end += 1
        _run(run, ops, tables, weights[groups[first]], work, room, first, end)
        first = end


@inner
def workspace(size):  # type: ignore[no-untyped-def]
    """Zeros that begin at a whole cache line: a vector that straddles two lines takes two loads."""
    buffer = np.zeros(size + LANES, np.float32)
    first = LANES - (np.int64(buffer.ctypes.data) // 4) % LANES
    return buffer[first : first + size]


@inner
def load(values, slot, work, lane):  # type: ignore[no-untyped-def]
    """Put values (D,) into a lane's framed buffer; slot = (rows, numbers per row, origin, row, image)."""
    rows, width, origin, row, image = slot[0], slot[1], slot[2], slot[3], slot[4]
    for i in range(rows):
        copy(values[i * width :], work[origin + lane * image + i * row :], width)


@inner
def fetch(values, slot, work, lane):  # type: ignore[no-untyped-def]
    """The other way round."""
    rows, width, origin, row, image = slot[0], slot[1], slot[2], slot[3], slot[4]
    for i in range(rows):
        copy(work[origin + lane * image + i * row :], values[i * width :], width)


@inner
def evaluate_part(  # type: ignore[no-untyped-def]
    part, parts, run, front, forward, tables, weights, sizes, slots, order, groups, inputs, outputs, lanes
):
    """A part of the inputs, a few at a time."""
    work, room = workspace(sizes[0]), workspace(sizes[1])
    begin, end = part * order.size // parts, (part + 1) * order.size // parts
    for first in range(begin, end, lanes):
        own = order[first : min(first + lanes, end)]
        for lane in range(own.size):
            load(inputs[own[lane]], slots[0], work, lane)
        run_fronts(run, front, tables, weights, work, room, groups[own], own.size)
        _run(run, forward, tables, weights[0], work, room, 0, own.size)
        for lane in range(own.size):
            fetch(outputs[own[lane]], slots[1], work, lane)


EVALUATION = Parallel(
    evaluate_part, integer, integer, rows, rows, table, matrix, pair, rows, table, table, matrix, matrix, integer
)
_evaluate_parts = EVALUATION.spread


@njit(cache=True)
def evaluation_kernel(  # type: ignore[no-untyped-def]
    addresses, run, front, forward, tables, weights, sizes, slots, order, groups, inputs, outputs, lanes, parts
):
    """Outputs (N, E) of inputs (N, D).

    addresses : of `EVALUATION`; run : of `run_operations`; front, forward : the operations, and weights : (G, W), see
    `programs.evaluation`; slots : (2, 5), where inputs and outputs belong; order : (N,), the inputs' numbers, those of
    a group side by side; groups : (N,), of the inputs.
    """
    _evaluate_parts(
        addresses, parts, parts, run, front, forward, tables, weights, sizes, slots, order, groups, inputs, outputs,
        lanes,
    )  # fmt: skip
