"""Whole attacks in one call.

One call attacks many *tasks* (an image and its start). Each thread has a few *lanes*, as many as its workspace has
room for, and each lane works on one task: forward, loss, gradient, step, projection, again and again. When a task is
finished, the lane takes the next one, so no lane idles. No image's numbers depend on its lane or on the other lanes,
so the results have the same bits at any number of threads.
"""

import math

import numpy as np

from hlf_np.kernels.cache import kernel
from hlf_np.kernels.compiling import inner, pasted
from hlf_np.kernels.convolution import copy
from hlf_np.kernels.executor import INSTRUCTIONS, load, run_fronts, workspace
from hlf_np.kernels.linking import (
    boolean,
    booleans,
    floats,
    integer,
    matrix,
    pair,
    rows,
    single,
    table,
    together,
    unsigned,
)  # fmt: skip
from hlf_np.kernels.losses import divergence_loss, softmax_loss
from hlf_np.kernels.parallel import Parallel
from hlf_np.kernels.sharing import claim, shares
from hlf_np.kernels.tile import TILE_ROWS

ADAM, STEEPEST = 0, 1
LINF, L2 = 0, 1
_BETA1, _BETA2 = np.float32(0.9), np.float32(0.999)
_ADAM_EPSILON, _TINY = np.float32(1e-8), np.float32(1.1754944e-38)
# This fraction of a float32 is more than half of the distance to its neighbour on either side, and less than three
# halves: added or subtracted, it gives the neighbour. (`nextafter` would be a call, and the loop no vectors.)
_NEIGHBOUR = np.float32(1.25 * 2**-24)

_run = INSTRUCTIONS.call


@pasted
def _project(code, origin_code, lower, upper, norm, epsilon):  # type: ignore[no-untyped-def]
    """Bring a code (D,) back into the ball around its origin, then into the box; see `Space.project`."""
    limit, factor = epsilon, np.float32(1)
    if norm == L2:
        total = np.float64(0)
        for k in range(code.size):
            delta = np.float64(code[k] - origin_code[k])
            total += delta * delta
        limit, factor = np.float32(np.inf), epsilon / max(np.float32(np.sqrt(total)), epsilon, _TINY)
    for k in range(code.size):
        origin = origin_code[k]
        delta = min(max((code[k] - origin) * factor, -limit), limit)
        moved = origin + delta
        # by rounding it may lie too far away: then the next number back
        back = abs(moved) * _NEIGHBOUR if abs(moved - origin) > abs(delta) else np.float32(0)
        moved = moved - back if delta > 0 else moved + back
        code[k] = min(max(moved, lower[k]), upper[k])


@pasted
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


@inner
def attack_part(thread, order, shared, weights, program, settings, box, tasks, kept, lanes):  # type: ignore[no-untyped-def]
    """Work on a thread's lanes through its share of the tasks of these numbers; see `sharing`."""
    (
        run,
        front,
        forward,
        backward,
        front_backward,
        tables,
        sizes,
        slots,
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
    origins, sources, codes, targets, labels, groups = tasks
    kept_codes, kept_success, kept_iterations, kept_loss = kept
    dimensions = codes.shape[1]
    work, room = workspace(sizes[0]), workspace(sizes[1])
    current = np.empty((lanes, dimensions), np.float32)  # each lane's code
    gradient = np.empty(dimensions, np.float32)
    first, second = np.zeros((lanes, dimensions), np.float32), np.zeros((lanes, dimensions), np.float32)
    task, group, iteration = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
    finished = np.zeros(lanes, np.bool_)
    active = 0
    while True:
        while active < lanes:
            number = claim(shared, thread)
            if number < 0:
                break
            t = order[number]
            copy(codes[t], current[active], dimensions)
            load(sources[t], slots[1], work, active)
            first[active, :], second[active, :] = 0, 0
            task[active], group[active], iteration[active] = t, groups[t], 0
            active += 1
        if active == 0:
            break
        for lane in range(active):
            load(current[lane], slots[0], work, lane)
        run_fronts(run, front, tables, weights, work, room, group, active)
        _run(run, forward, tables, weights[0], work, room, 0, active)
        all_finished = True
        for lane in range(active):
            t = task[lane]
            at, to = logits_at + lane * logits_step, g_at + lane * g_step
            if targets.shape[1]:
                loss, predicted = divergence_loss(work, at, to, classes, targets[t])
            else:
                loss, predicted = softmax_loss(work, at, to, classes, labels[t])
            changed, better = predicted != labels[t], loss > kept_loss[t]
            if stop_early:
                better = not kept_success[t] and (changed or better)
            if better:
                copy(current[lane], kept_codes[t], dimensions)
                kept_success[t], kept_iterations[t], kept_loss[t] = changed, iteration[lane], loss
            finished[lane] = iteration[lane] == steps or (stop_early and changed)
            all_finished = all_finished and finished[lane]
        if not all_finished:
            _run(run, backward, tables, weights[0], work, room, 0, active)
            run_fronts(run, front_backward, tables, weights, work, room, group, active)
        for lane in range(active):
            if not finished[lane]:
                iteration[lane] += 1
                uphill = work[gradient_at + lane * gradient_step :]
                if gradient_order.size:  # it lies there in blocks
                    for k in range(dimensions):
                        gradient[k] = uphill[gradient_order[k]]
                    uphill = gradient
                _step(current[lane], uphill, first[lane], second[lane], iteration[lane], rule, norm, step_size)
                _project(current[lane], origins[task[lane]], lower, upper, norm, epsilon)
        going = 0
        for lane in range(active):  # the others move up, in order; free lanes are filled above
            if not finished[lane]:
                if going < lane:
                    for rows_of_lanes in (current, first, second):
                        copy(rows_of_lanes[lane], rows_of_lanes[going], dimensions)
                    load(sources[task[lane]], slots[1], work, going)
                    task[going], group[going], iteration[going] = task[lane], group[lane], iteration[lane]
                going += 1
        active = going


_program = together(
    (integer, *[rows] * 4, table, pair, rows, integer, integer, unsigned, *[integer] * 5)
)  # in the order in which `attack_part` unpacks it; so are the others
_settings = together((integer, single, integer, integer, single, boolean))
_tasks, _kept = together((matrix, matrix, matrix, matrix, table, table)), together((matrix, booleans, table, floats))
_box = together((floats, floats))
PART = Parallel(attack_part, table, rows, matrix, _program, _settings, _box, _tasks, _kept, integer)
_attack_parts = PART.spread


@kernel
def attack_kernel(part, weights, program, settings, box, tasks, kept, order, most, threads):  # type: ignore[no-untyped-def]
    """Attack every task; `kept` = (codes, success, iterations, loss) of each is updated in place.

    part : the addresses of `PART`; weights : (G, W), see `programs.evaluation`.
    order : the tasks' numbers, those of a group side by side; most : lanes of a workspace.
    """
    share = (order.size + threads - 1) // threads
    lanes = min(most, (share + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS)
    shared = shares(order.size, threads)
    _attack_parts(part, threads, order, shared, weights, program, settings, box, tasks, kept, lanes)
