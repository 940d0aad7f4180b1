"""The executor: whole attacks on a few images at a time, inside one core's cache.

A compiled network (see `program`) is two lists of operations, forward and backward, over one flat workspace. An
operation is a row of numbers: its kind, and where its tables, weights and buffers are. The executor knows nothing
else about the network, so it is compiled once for all of them.

One call attacks many *tasks* (an image and its start). Each thread has a few *lanes*, as many as its workspace has
room for, and each lane works on one task: forward, loss, gradient, step, projection, again and again. When a task is
finished, the lane takes the next one, so no lane idles. No image's numbers depend on its lane or on the other lanes,
so the results have the same bits at any number of threads.
"""

import math

import numpy as np
from numba import njit, prange

from hlf_np.kernels.convolution import copy, product
from hlf_np.kernels.linking import Linked, floats, integer, rows, table
from hlf_np.kernels.losses import softmax_loss
from hlf_np.kernels.tile import LANES

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
# blocks, distance to the next image's, order; of the image: rows, row, origin, distances of rows and images; sigmoid
FROM_BLOCKS = 7
# the same but the last, then of the gradient: origin, distances of rows and images
BLOCKS_GRADIENT = 8
FIELDS = 13

ADAM, STEEPEST = 0, 1
LINF, L2 = 0, 1
_BETA1, _BETA2 = np.float32(0.9), np.float32(0.999)
_ADAM_EPSILON = np.float32(1e-8)


@njit(cache=True)
def _pool(op, tables, work, images):  # type: ignore[no-untyped-def]
    """The largest or the mean value of every window."""
    kind, windows, rows, segments, count, c_rows, channels = op[:7]
    for pixel in range(rows * images):
        window, to = tables[windows + pixel], tables[c_rows + pixel]
        for c in range(channels):
            value = work[window + tables[segments] + c]
            for s in range(1, count):
                other = work[window + tables[segments + s] + c]
                value = max(value, other) if kind == MAX_POOL else value + other
            work[to + c] = value if kind == MAX_POOL else value / np.float32(count)


@njit(cache=True)
def _pool_gradient(op, tables, work, images):  # type: ignore[no-untyped-def]
    """Gradients of `_pool`: to the first pixel that attains the maximum, or to all alike."""
    kind, windows, rows, segments, count, c_rows, channels, g_rows, t_windows, t_segments, t_rows, t_count, gates = op[
        :13
    ]
    for pixel in range(t_count * images):
        to = tables[t_rows + pixel]
        work[to : to + channels] = 0
    for pixel in range(rows * images):
        window, at, gradient = tables[windows + pixel], tables[c_rows + pixel], tables[g_rows + pixel]
        target = tables[t_windows + pixel]
        for c in range(channels):
            g = work[gradient + c]
            if kind == MAX_POOL_GRADIENT:
                for s in range(count):
                    if work[window + tables[segments + s] + c] == work[at + c]:
                        work[target + tables[t_segments + s] + c] += g
                        break
            else:
                for s in range(count):
                    work[target + tables[t_segments + s] + c] += g / np.float32(count)
    if gates >= 0:
        for pixel in range(t_count * images):
            to, gate = tables[t_rows + pixel], tables[gates + pixel]
            for c in range(channels):
                if not work[gate + c] > 0:
                    work[to + c] = 0


@njit(cache=True)
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


@njit(cache=True)
def _from_blocks(op, tables, work, images):  # type: ignore[no-untyped-def]
    """An image of few channels from its blocks, and its sigmoid if asked."""
    blocks, step, order, rows, row, origin, row_step, image_step, sigmoid = op[1:10]
    for image in range(images):
        source = work[blocks + image * step :]
        for i in range(rows):
            target, of_row = work[origin + image * image_step + i * row_step :], tables[order + i * row :]
            for k in range(row):
                target[k] = source[of_row[k]]
            if sigmoid:
                _sigmoid(target, row)


@njit(cache=True)
def _blocks_gradient(op, tables, work, images):  # type: ignore[no-untyped-def]
    """The gradient in front of the sigmoid from that to its result, which lies in blocks."""
    blocks, step, order, rows, row, origin, row_step, image_step, g_origin, g_row_step, g_image_step = op[1:12]
    for image in range(images):
        source = work[blocks + image * step :]
        for i in range(rows):
            y, of_row = work[origin + image * image_step + i * row_step :], tables[order + i * row :]
            g = work[g_origin + image * g_image_step + i * g_row_step :]
            for k in range(row):
                g[k] = source[of_row[k]] * y[k] * (np.float32(1) - y[k])


@njit(cache=True)
def run_operations(ops, tables, weights, work, images):  # type: ignore[no-untyped-def]
    """A list of operations on the first `images` lanes."""
    for index in range(ops.shape[0]):
        op = ops[index]
        kind = op[0]
        if kind == PRODUCT:
            product(
                work, tables[op[1] :], tables[op[3] : op[3] + op[4]], op[5], weights, op[6],
                weights, op[7], op[8], work, tables[op[9] :], op[10], op[2] * images, op[11], tables[op[12] :],
            )  # fmt: skip
        elif kind == COPY:
            for pixel in range(op[2] * images):
                copy(work[tables[op[1] + pixel] :], work[tables[op[3] + pixel] :], op[4])
        elif kind == JOIN:
            for pixel in range(op[2] * images):
                a, b = work[tables[op[1] + pixel] :], work[tables[op[3] + pixel] :]
                joined = work[tables[op[4] + pixel] :]
                for c in range(op[5]):
                    joined[c] = max(a[c] + b[c], np.float32(0))
        elif kind in (MAX_POOL, AVERAGE_POOL):
            _pool(op, tables, work, images)
        elif kind in (MAX_POOL_GRADIENT, AVERAGE_POOL_GRADIENT):
            _pool_gradient(op, tables, work, images)
        elif kind == FROM_BLOCKS:
            _from_blocks(op, tables, work, images)
        elif kind == BLOCKS_GRADIENT:
            _blocks_gradient(op, tables, work, images)


OPERATIONS = Linked(run_operations, rows, table, floats, floats, integer)
_run = OPERATIONS.call


@njit(cache=True)
def _workspace(size):  # type: ignore[no-untyped-def]
    """Zeros that begin at a whole cache line: a vector that straddles two lines takes two loads."""
    buffer = np.zeros(size + LANES, np.float32)
    first = LANES - (np.int64(buffer.ctypes.data) // 4) % LANES
    return buffer[first : first + size]


@njit(cache=True)
def load(code, slot, work, lane):  # type: ignore[no-untyped-def]
    """Put a code (D,) into a lane's framed buffer; slot = (rows, numbers per row, origin, row, image)."""
    rows, width, origin, row, image = slot[0], slot[1], slot[2], slot[3], slot[4]
    for i in range(rows):
        copy(code[i * width :], work[origin + lane * image + i * row :], width)


@njit(cache=True, parallel=True)
def logits_kernel(run, forward, tables, weights, size, slot, logits_at, logits_step, codes, logits, lanes, parts):  # type: ignore[no-untyped-def]
    """Logits (N, classes) of codes (N, D); `run` is the address of `run_operations`."""
    n, classes = logits.shape
    for part in prange(parts):
        work = _workspace(size)
        end = (part + 1) * n // parts
        for first in range(part * n // parts, end, lanes):
            images = min(lanes, end - first)
            for lane in range(images):
                load(codes[first + lane], slot, work, lane)
            _run(run, forward, tables, weights, work, images)
            for lane in range(images):
                for c in range(classes):
                    logits[first + lane, c] = work[logits_at + lane * logits_step + c]


@njit(cache=True)
def _project(code, origin_code, lower, upper, norm, epsilon):  # type: ignore[no-untyped-def]
    """Bring a code (D,) back into the ball around its origin, then into the box."""
    if norm == LINF:
        for k in range(code.size):
            delta = min(max(code[k] - origin_code[k], -epsilon), epsilon)
            code[k] = min(max(origin_code[k] + delta, lower[k]), upper[k])
    else:
        total = np.float32(0)
        for k in range(code.size):
            delta = code[k] - origin_code[k]
            total += delta * delta
        factor = epsilon / max(np.sqrt(total), epsilon)
        for k in range(code.size):
            delta = (code[k] - origin_code[k]) * factor
            code[k] = min(max(origin_code[k] + delta, lower[k]), upper[k])


@njit(cache=True)
def _step(code, gradient, first, second, count, rule, norm, step_size):  # type: ignore[no-untyped-def]
    """Move a code (D,) uphill; first, second: Adam's moments, count: the number of this step from 1."""
    one = np.float32(1)
    if rule == ADAM:
        scale = np.float32(step_size / (1 - 0.9**count))
        correction = np.float32(1 / math.sqrt(1 - 0.999**count))
        for k in range(code.size):
            g = gradient[k]
            first[k] += (one - _BETA1) * (g - first[k])
            second[k] += (one - _BETA2) * (g * g - second[k])
            code[k] += scale * first[k] / (np.sqrt(second[k]) * correction + _ADAM_EPSILON)
    elif norm == LINF:
        for k in range(code.size):
            g = gradient[k]
            code[k] += step_size if g > 0 else (-step_size if g < 0 else np.float32(0))
    else:
        total = np.float32(0)
        for k in range(code.size):
            total += gradient[k] * gradient[k]
        scale = step_size / max(np.sqrt(total), np.float32(1.1754944e-38))
        for k in range(code.size):
            code[k] += scale * gradient[k]


@njit(cache=True)
def _attack_part(first_task, end_task, program, settings, box, tasks, kept, lanes):  # type: ignore[no-untyped-def]
    """Work through tasks first_task to end_task - 1 on this thread's lanes."""
    (
        run,
        forward,
        backward,
        tables,
        weights,
        size,
        slot,
        gradient_at,
        gradient_step,
        gradient_order,
        logits_at,
        logits_step,
        g_at,
        g_step,
        classes,
    ) = program
    steps, step_size, rule, norm, epsilon, stop_early = settings
    lower, upper = box
    origins, origin_of, codes, labels = tasks
    kept_codes, kept_success, kept_iterations, kept_loss = kept
    dimensions = codes.shape[1]
    work = _workspace(size)
    current = np.empty((lanes, dimensions), np.float32)  # each lane's code
    gradient = np.empty(dimensions, np.float32)
    first, second = np.zeros((lanes, dimensions), np.float32), np.zeros((lanes, dimensions), np.float32)
    task, iteration = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
    finished = np.zeros(lanes, np.bool_)
    active, upcoming = 0, first_task
    while True:
        while active < lanes and upcoming < end_task:
            copy(codes[upcoming], current[active], dimensions)
            first[active, :], second[active, :] = 0, 0
            task[active], iteration[active] = upcoming, 0
            active += 1
            upcoming += 1
        if active == 0:
            break
        for lane in range(active):
            load(current[lane], slot, work, lane)
        _run(run, forward, tables, weights, work, active)
        all_finished = True
        for lane in range(active):
            t = task[lane]
            loss, predicted = softmax_loss(
                work, logits_at + lane * logits_step, g_at + lane * g_step, classes, labels[t]
            )
            changed, better = predicted != labels[t], loss > kept_loss[t]
            if stop_early:
                better = not kept_success[t] and (changed or better)
            if better:
                copy(current[lane], kept_codes[t], dimensions)
                kept_success[t], kept_iterations[t], kept_loss[t] = changed, iteration[lane], loss
            finished[lane] = iteration[lane] == steps or (stop_early and changed)
            all_finished = all_finished and finished[lane]
        if not all_finished:
            _run(run, backward, tables, weights, work, active)
        for lane in range(active):
            if not finished[lane]:
                iteration[lane] += 1
                blocks = work[gradient_at + lane * gradient_step :]
                for k in range(dimensions):
                    gradient[k] = blocks[gradient_order[k]]
                _step(current[lane], gradient, first[lane], second[lane], iteration[lane], rule, norm, step_size)
                _project(current[lane], origins[origin_of[task[lane]]], lower, upper, norm, epsilon)
        lane = 0
        while lane < active:  # a finished lane takes over the last one's task; free lanes are filled above
            if finished[lane]:
                active -= 1
                if lane < active:
                    for rows_of_lanes in (current, first, second):
                        copy(rows_of_lanes[active], rows_of_lanes[lane], dimensions)
                    task[lane], iteration[lane], finished[lane] = task[active], iteration[active], finished[active]
            else:
                lane += 1


@njit(cache=True, parallel=True)
def attack_kernel(program, settings, box, tasks, kept, lanes, parts):  # type: ignore[no-untyped-def]
    """Attack every task; `kept` = (codes, success, iterations, loss) of each is updated in place."""
    count = tasks[2].shape[0]
    for part in prange(parts):
        _attack_part(part * count // parts, (part + 1) * count // parts, program, settings, box, tasks, kept, lanes)
