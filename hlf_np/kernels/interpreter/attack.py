"""Whole attacks in one call.

One call attacks many *tasks*, each an image and the code where its ascent starts. The workspace of a thread has a fixed
number of *slots*. Each slot works on one task: forward, loss, gradient, step, projection, again and again. When a task
is finished, its slot takes the next one, so no slot is idle while there is work (inference servers call this continuous
batching). No result depends on the slot or on the other tasks, so results are the same to the last bit for any
number of threads.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import types

from hlf_np.kernels.interpreter.executor import (
    INSTRUCTIONS,
    NETWORK,
    aligned_zeros,
    copy_in,
    run_by_group,
)
from hlf_np.kernels.numba_internals.cache import kernel
from hlf_np.kernels.numba_internals.compiling import callee, inlined
from hlf_np.kernels.numba_internals.numba_types import (
    boolean,
    boolean_1d,
    float32,
    float32_1d,
    float32_2d,
    int64,
    int64_1d,
    int64_2d,
)
from hlf_np.kernels.numba_internals.parallel import ParallelLoop
from hlf_np.kernels.numba_internals.work_stealing import take_task, work_queues
from hlf_np.kernels.operations.losses import divergence_loss, softmax_loss
from hlf_np.kernels.products.product import copy
from hlf_np.kernels.products.tile import TILE_ROWS
from hlf_np.support.arrays import Booleans, Floats, Integers

ADAM, STEEPEST = 0, 1  # values of `AscentSettings.rule`
LINF, L2 = 0, 1  # values of `AscentSettings.norm`
_BETA1, _BETA2 = np.float32(0.9), np.float32(0.999)
_ADAM_EPSILON, _SMALLEST_NORMAL, _LARGEST = np.float32(1e-8), np.float32(1.1754944e-38), np.float32(3.4028235e38)
# This fraction of a float32 x is more than half and less than three halves of the distance to its neighbours: x plus or
# minus it rounds to the neighbour. (A call of `nextafter` would keep the loop from becoming vector instructions.)
_HALF_ULP_AND_A_BIT = np.float32(1.25 * 2**-24)

_run = INSTRUCTIONS.call


class AscentSettings(NamedTuple):
    """How an attack ascends."""

    steps: int
    step_size: np.float32
    rule: int  # ADAM or STEEPEST
    norm: int  # LINF or L2
    epsilon: np.float32  # radius of the ball around the origin
    stop_early: bool  # whether a task ends when the predicted class changes


class Box(NamedTuple):
    """Bounds of the codes."""

    lower: Floats  # (D,) float32
    upper: Floats  # (D,) float32


class AttackTasks(NamedTuple):
    """What is attacked, one row for each task."""

    origins: Floats  # (T, D) float32, the centres of the balls
    starts: Floats  # (T, D) float32, the codes to start from
    targets: Floats  # (T, classes) float32, log p for ascending KL(p || q); (T, 0) for the cross-entropy
    labels: Integers  # (T,)
    groups: Integers  # (T,), which preprocessor each task goes through
    sources: Floats  # (T, E) float32, the images that are warped; E = 0 if there is no warp


class BestCodes(NamedTuple):
    """The best code of each task so far, updated in place."""

    codes: Floats  # (T, D) float32
    success: Booleans  # (T,), whether the predicted class differs from the label
    iterations: Integers  # (T,), the step at which it was found
    loss: Floats  # (T,) float32


@inlined
def _project(code, origin_code, lower, upper, norm, epsilon):  # type: ignore[no-untyped-def]
    """Project a code (D,) onto the ball around its origin, then onto the box, in place; see `Space.project`."""
    limit, factor = epsilon, np.float32(1)
    if norm == L2:
        total = np.float64(0)
        for k in range(code.size):
            delta = np.float64(code[k] - origin_code[k])
            total += delta * delta
        limit, factor = np.float32(np.inf), epsilon / max(np.float32(np.sqrt(total)), epsilon, _SMALLEST_NORMAL)
    for k in range(code.size):
        origin = origin_code[k]
        delta = min(max((code[k] - origin) * factor, -limit), limit)
        moved = origin + delta
        # rounding may have moved it too far: then take the neighbour nearer to the origin
        back = abs(moved) * _HALF_ULP_AND_A_BIT if abs(moved - origin) > abs(delta) else np.float32(0)
        moved = moved - back if delta > 0 else moved + back
        code[k] = min(max(moved, lower[k]), upper[k])


@inlined
def _step(code, gradient, first, second, count, rule, norm, step_size):  # type: ignore[no-untyped-def]
    """Move a code (D,) uphill, in place.

    gradient : (D,) float32.
    first, second : (D,) float32, Adam's moments, updated in place.
    count : the number of this step, from 1.
    """
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
        total = np.float64(0)  # in float32 the squares of small gradients would vanish
        for k in range(code.size):
            total += np.float64(gradient[k]) * np.float64(gradient[k])
        scale = np.float32(min(step_size / max(np.sqrt(total), _SMALLEST_NORMAL), _LARGEST))
        for k in range(code.size):
            code[k] += scale * gradient[k]


@callee
def attack_part(thread, order, shared, weights, network, settings, box, tasks, best, slots):  # type: ignore[no-untyped-def]
    """Work on a thread's share of the tasks.

    order : (T,), the indices of the tasks, those of a group next to each other.
    shared : the shares of all threads, see `numba_internals.work_stealing`.
    weights : (G, W), see `run_by_group`.
    network, settings, box, tasks, best : the named tuples of this module, and `executor.Network`.
    slots : the number of slots of the workspace.
    """
    steps, stop_early = settings.steps, settings.stop_early
    targets, labels = tasks.targets, tasks.labels
    dimensions = tasks.starts.shape[1]
    work, scratch = aligned_zeros(network.work_size), aligned_zeros(network.scratch_size)
    # of each slot: its code, Adam's moments, its task and the task's group, steps taken, whether it is finished
    current = np.empty((slots, dimensions), np.float32)
    first, second = np.zeros((slots, dimensions), np.float32), np.zeros((slots, dimensions), np.float32)
    task, group, iteration = np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.zeros(slots, np.int64)
    finished = np.zeros(slots, np.bool_)
    gradient = np.empty(dimensions, np.float32)
    active = 0  # the first `active` slots are in use
    while True:
        while active < slots:
            index = take_task(shared, thread)
            if index < 0:
                break
            t = order[index]
            copy(tasks.starts[t], current[active], dimensions)
            copy_in(tasks.sources[t], network.source_region, work, active)
            first[active, :], second[active, :] = 0, 0
            task[active], group[active], iteration[active] = t, tasks.groups[t], 0
            active += 1
        if active == 0:
            break
        for slot in range(active):
            copy_in(current[slot], network.input_region, work, slot)
        run_by_group(network.run, network.preprocess_forward, network.tables, weights, work, scratch, group, active)
        _run(network.run, network.forward, network.tables, weights[0], work, scratch, 0, active)
        all_finished = True
        for slot in range(active):
            t = task[slot]
            logits = network.logits + slot * network.logits_stride
            d_logits = network.logits_gradient + slot * network.logits_gradient_stride
            if targets.shape[1]:
                loss, predicted = divergence_loss(work, logits, d_logits, network.classes, targets[t])
            else:
                loss, predicted = softmax_loss(work, logits, d_logits, network.classes, labels[t])
            changed, better = predicted != labels[t], loss > best.loss[t]
            if stop_early:
                better = not best.success[t] and (changed or better)
            if better:
                copy(current[slot], best.codes[t], dimensions)
                best.success[t], best.iterations[t], best.loss[t] = changed, iteration[slot], loss
            finished[slot] = iteration[slot] == steps or (stop_early and changed)
            all_finished = all_finished and finished[slot]
        if not all_finished:
            _run(network.run, network.backward, network.tables, weights[0], work, scratch, 0, active)
            run_by_group(
                network.run, network.preprocess_backward, network.tables, weights, work, scratch, group, active
            )
        for slot in range(active):
            if not finished[slot]:
                iteration[slot] += 1
                uphill = work[network.gradient + slot * network.gradient_stride :]
                if network.gradient_offsets.size:  # it is not contiguous
                    for k in range(dimensions):
                        gradient[k] = uphill[network.gradient_offsets[k]]
                    uphill = gradient
                _step(
                    current[slot], uphill, first[slot], second[slot], iteration[slot], settings.rule, settings.norm,
                    settings.step_size,
                )  # fmt: skip
                _project(
                    current[slot], tasks.origins[task[slot]], box.lower, box.upper, settings.norm, settings.epsilon
                )
        unfinished = 0
        for slot in range(active):  # unfinished tasks move up, in order; the slots after them are refilled above
            if not finished[slot]:
                if unfinished < slot:
                    for state in (current, first, second):
                        copy(state[slot], state[unfinished], dimensions)
                    copy_in(tasks.sources[task[slot]], network.source_region, work, unfinished)
                    task[unfinished], group[unfinished] = task[slot], group[slot]
                    iteration[unfinished] = iteration[slot]
                unfinished += 1
        active = unfinished


PART = ParallelLoop(
    attack_part,
    int64_1d,
    int64_2d,
    float32_2d,
    NETWORK,
    types.NamedTuple((int64, float32, int64, int64, float32, boolean), AscentSettings),
    types.NamedUniTuple(float32_1d, 2, Box),
    types.NamedTuple((float32_2d, float32_2d, float32_2d, int64_1d, int64_1d, float32_2d), AttackTasks),
    types.NamedTuple((float32_2d, boolean_1d, int64_1d, float32_1d), BestCodes),
    int64,
)
_attack_parts = PART.parallel_for


@kernel
def attack_kernel(part, weights, network, settings, box, tasks, best, order, capacity, threads):  # type: ignore[no-untyped-def]
    """Attack every task; `best` is updated in place.

    part : the addresses of `PART`.
    weights, ..., best, order : see `attack_part`.
    capacity : the number of images that a workspace has room for.
    """
    share = (order.size + threads - 1) // threads
    slots = min(capacity, (share + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS)
    shared = work_queues(order.size, threads)
    _attack_parts(part, threads, order, shared, weights, network, settings, box, tasks, best, slots)
