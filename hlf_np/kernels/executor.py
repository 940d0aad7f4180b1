"""The executor: lists of instructions on a few images at a time, inside one core's cache.

A compiled network (see `programs`) is two lists of `instructions`, forward and backward, over one flat workspace. The
executor knows nothing else about the network, so it is compiled once for all of them.
"""

import numpy as np

from hlf_np.kernels.cache import kernel
from hlf_np.kernels.compiling import inner, pasted
from hlf_np.kernels.convolution import copy, product
from hlf_np.kernels.instructions import EXECUTED, KIND, decoder
from hlf_np.kernels.linking import Linked, floats, integer, matrix, pair, rows, table
from hlf_np.kernels.parallel import Parallel
from hlf_np.kernels.pooling import pool, pool_gradient
from hlf_np.kernels.tile import ADD, GATE, LANES, RELU
from hlf_np.kernels.warp import map_gradient, sample
from hlf_np.kernels.winograd import OUTPUTS, winograd

PRODUCT, SCALE, JOIN, POOL, POOL_GRADIENT, FROM_BLOCKS, BLOCKS_GRADIENT, WARP, WARP_GRADIENT, WINOGRAD = (
    KIND[instruction] for instruction in EXECUTED
)
_product_of, _scale_of, _join_of, _, _, _blocks_of, _blocks_gradient_of, _warp_of, _warp_gradient_of, _winograd_of = (
    decoder(instruction) for instruction in EXECUTED
)


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
def _scale(row, tables, weights, work, first, end):  # type: ignore[no-untyped-def]
    op = _scale_of(row)
    factors, offsets = weights[op.factors :], weights[op.offsets :]
    least = np.float32(0) if op.finish & RELU else np.float32(-np.inf)
    for pixel in range(op.pixels * first, op.pixels * end):
        source, target = work[tables[op.sources + pixel] :], work[tables[op.targets + pixel] :]
        if op.finish & ADD:
            for c in range(op.channels):
                target[c] += factors[c] * source[c] + offsets[c]
        else:
            for c in range(op.channels):
                value = factors[c] * source[c] + offsets[c]
                target[c] = least if value < least else value
        if op.finish & GATE:
            gate = work[tables[op.gates + pixel] :]
            for c in range(op.channels):
                target[c] = target[c] if gate[c] > 0 else np.float32(0)


@pasted
def _join(row, tables, work, first, end):  # type: ignore[no-untyped-def]
    op = _join_of(row)
    for pixel in range(op.pixels * first, op.pixels * end):
        body, shortcut = work[tables[op.bodies + pixel] :], work[tables[op.shortcuts + pixel] :]
        joined = work[tables[op.targets + pixel] :]
        for c in range(op.channels):
            joined[c] = max(body[c] + shortcut[c], np.float32(0))


@pasted
def _from_blocks(row, tables, work, first, end):  # type: ignore[no-untyped-def]
    op = _blocks_of(row)
    for image in range(first, end):
        source = work[op.blocks + image * op.block_step :]
        _sigmoid(source, op.block_step)  # whole vectors, as rows of pixels are not
        for i in range(op.rows):
            target = work[op.origin + image * op.image_step + i * op.row_step :]
            of_row = tables[op.order + i * op.row :]
            for k in range(op.row):
                target[k] = source[of_row[k]]


@pasted
def _blocks_gradient(row, tables, work, first, end):  # type: ignore[no-untyped-def]
    op = _blocks_gradient_of(row)
    for image in range(first, end):
        source = work[op.blocks + image * op.block_step :]
        for i in range(op.rows):
            y = work[op.origin + image * op.image_step + i * op.row_step :]
            of_row = tables[op.order + i * op.row :]
            g = work[op.g_origin + image * op.g_image_step + i * op.g_row_step :]
            for k in range(op.row):
                g[k] = source[of_row[k]] * y[k] * (np.float32(1) - y[k])


@pasted
def _warp(row, weights, work, first, end):  # type: ignore[no-untyped-def]
    """See `kernels.warp` and `operations.affine_matrix`."""
    op = _warp_of(row)
    rows, width, at, filled = op.rows, op.width, op.constants, op.filled
    x, y, most, half = weights[at:], weights[at + filled :], weights[at + 2 * filled :], weights[at + 2 * filled + 2 :]
    one = np.float32(1)
    for image in range(first, end):
        own, code = work[op.slopes + image * op.slope_step :], op.codes + image * op.code_step
        u, v, hx, hy, scale, angle = work[code : code + 6]
        c, n = np.cos(angle), np.sin(angle)
        own[0], own[1] = half[0] * scale * (c - hx * n), half[0] * scale * (hx * c - n)
        own[2] = half[0] * (u + one) + one
        own[3], own[4] = half[1] * scale * (hy * c + n), half[1] * scale * (c - hy * n)
        own[5] = half[1] * (v + one) + one
        values, columns, lines = own[LANES:], own[LANES + filled :], own[LANES + 2 * filled :]
        plane = work[op.planes + image * op.plane_step :]
        sample(plane, width + 3, x, y, rows * width, own, 0, most, values, columns, lines)
        for i in range(rows):
            source, target = values[i * width :], work[op.origin + image * op.image_step + i * op.row_step :]
            if op.pixel_step == 1:
                copy(source, target, width)
            else:
                for j in range(width):
                    target[j * op.pixel_step] = source[j]


@pasted
def _warp_gradient(row, tables, weights, work, first, end):  # type: ignore[no-untyped-def]
    op = _warp_gradient_of(row)
    at, filled, pixels = op.constants, op.filled, op.pixels
    x, y, half = weights[at:], weights[at + filled :], weights[at + 2 * filled + 2 :]
    for image in range(first, end):
        source, own = work[op.image + image * op.image_step :], work[op.slopes + image * op.slope_step :]
        of_pixels, g = tables[op.order :], own[LANES:]  # in place of the values, which nobody reads any more
        for k in range(pixels):
            g[k] = source[of_pixels[k]]
        a, b, d_u, c_, d, d_v = map_gradient(own[LANES + filled :], own[LANES + 2 * filled :], g, x, y, pixels)
        a, b, d_u, c_, d, d_v = a * half[0], b * half[0], d_u * half[0], c_ * half[1], d * half[1], d_v * half[1]
        code = op.codes + image * op.code_step
        hx, hy, s, r = work[code + 2 : code + 6]
        c, n = np.cos(r), np.sin(r)
        gradient = work[op.to + image * op.to_step :]
        gradient[0], gradient[1] = d_u, d_v
        gradient[2], gradient[3] = s * (c * b - n * a), s * (c * c_ - n * d)
        gradient[4] = a * (c - hx * n) + b * (hx * c - n) + c_ * (hy * c + n) + d * (c - hy * n)
        gradient[5] = s * (c_ * (c - hy * n) - a * (n + hx * c) - b * (hx * n + c) - d * (n + hy * c))


@pasted
def _run_product(row, tables, weights, work, first, end):  # type: ignore[no-untyped-def]
    op = _product_of(row)
    skipped = op.pixels * first
    product(
        work, tables[op.sources + skipped :], tables[op.segments : op.segments + op.segment_count], op.length, weights,
        op.weights, weights, op.start, op.columns, work, tables[op.targets + skipped :], op.pixels * (end - first),
        op.finish, tables[op.gates + skipped :],
    )  # fmt: skip


@pasted
def _run_winograd(row, tables, weights, work, room, first, end):  # type: ignore[no-untyped-def]
    op = _winograd_of(row)
    skipped = op.patches_per_image * first
    outputs = OUTPUTS[op.form] * skipped
    winograd(
        op.form, work, tables[op.patches + skipped :], op.row, op.channels, weights, op.weights, op.start, op.zeros,
        op.columns, tables[op.targets + outputs :], tables[op.gates + outputs :], op.finish, room, tables[op.lines :],
        op.patches_per_image * (end - first),
    )  # fmt: skip


@kernel(error_model="numpy")
def run_instructions(rows, tables, weights, work, room, first, end):  # type: ignore[no-untyped-def]
    """A list of instructions on the images from `first` to before `end`; room : for Winograd's convolutions."""
    for index in range(rows.shape[0]):
        row = rows[index]
        kind = row[0]
        if kind == PRODUCT:
            _run_product(row, tables, weights, work, first, end)
        elif kind == WINOGRAD:
            _run_winograd(row, tables, weights, work, room, first, end)
        elif kind == SCALE:
            _scale(row, tables, weights, work, first, end)
        elif kind == JOIN:
            _join(row, tables, work, first, end)
        elif kind == POOL:
            pool(row, tables, work, first, end)
        elif kind == POOL_GRADIENT:
            pool_gradient(row, tables, work, first, end)
        elif kind == FROM_BLOCKS:
            _from_blocks(row, tables, work, first, end)
        elif kind == BLOCKS_GRADIENT:
            _blocks_gradient(row, tables, work, first, end)
        elif kind == WARP:
            _warp(row, weights, work, first, end)
        elif kind == WARP_GRADIENT:
            _warp_gradient(row, tables, weights, work, first, end)


INSTRUCTIONS = Linked(run_instructions, rows, table, floats, floats, floats, integer, integer)
_run = INSTRUCTIONS.call


@inner
def run_fronts(run, rows, tables, weights, work, room, groups, active):  # type: ignore[no-untyped-def]
    """A list of instructions with the weights of each lane's group; lanes of the same group should lie side by side.

    run : the address of `run_instructions`; weights : (G, W); groups : (L,), of the lanes.
    """
    first = 0
    while first < active:
        end = first + 1
        while end < active and groups[end] == groups[first]:
            end += 1
        _run(run, rows, tables, weights[groups[first]], work, room, first, end)
        first = end


@inner
def workspace(size):  # type: ignore[no-untyped-def]
    """Zeros that begin at a whole cache line: a vector that straddles two lines takes two loads."""
    buffer = np.zeros(size + LANES, np.float32)
    first = LANES - (np.int64(buffer.ctypes.data) // 4) % LANES
    return buffer[first : first + size]


@inner
def load(values, slot, work, lane):  # type: ignore[no-untyped-def]
    """Put values (D,) where a lane has them, run after run; slot : see `programs.builder.slot`."""
    rows, runs, length, origin, row, run, image = slot[0], slot[1], slot[2], slot[3], slot[4], slot[5], slot[6]
    for i in range(rows):
        for j in range(runs):
            copy(values[(i * runs + j) * length :], work[origin + lane * image + i * row + j * run :], length)


@inner
def fetch(values, slot, work, lane):  # type: ignore[no-untyped-def]
    """The other way round."""
    rows, runs, length, origin, row, run, image = slot[0], slot[1], slot[2], slot[3], slot[4], slot[5], slot[6]
    for i in range(rows):
        for j in range(runs):
            copy(work[origin + lane * image + i * row + j * run :], values[(i * runs + j) * length :], length)


@inner
def evaluate_part(  # type: ignore[no-untyped-def]
    part, parts, run, front, forward, tables, weights, sizes, slots, order, groups, inputs, outputs, lanes
):
    """Outputs (N, E) of a part of the inputs (N, D), a few at a time.

    run : the address of `run_instructions`; front, forward : the instructions, and weights : (G, W), see
    `programs.evaluation`; slots : (2, 7), where inputs and outputs belong; order : (N,), the inputs' numbers, those of
    a group side by side; groups : (N,), of the inputs.
    """
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


@kernel
def evaluation_kernel(addresses, threads, *arguments):  # type: ignore[no-untyped-def]
    """All parts, see `evaluate_part`; addresses : of `EVALUATION`."""
    _evaluate_parts(addresses, threads, *arguments)
