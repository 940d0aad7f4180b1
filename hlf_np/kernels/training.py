"""A training step: forward, backward and Adam's update in two calls.

Like `executor`, this runs lists of operations over flat workspaces. Here a batch is cut into *parts* of a few images,
each with a workspace of its own that keeps every activation and gradient until the step is over. Batch norm needs sums
over the whole batch: the list is cut into *stages* there. All parts finish a stage before their sums are added up, in
the order of the parts, and the next stage begins. The gradients to the weights are sums over the whole batch too. Those
of small matrices over many pixels are summed up in the parts as soon as what they need is in the cache; all others at
last, where a few rows of one half of the batch are a task of its own, so that a thread mostly meets images that it had
before. So the results have the same bits at any number of threads.

What the parts share lies in one array, the *weights*: first the parameters, arranged as the forward products read
them, then copies of them in the order of the backward products, the filters of Winograd's convolutions, the statistics
of batch norm, and constants. The gradients are arranged like the parameters.
"""

import numpy as np
from numba import njit

from hlf_np.kernels.adam import adam_update
from hlf_np.kernels.compiling import inner, pasted
from hlf_np.kernels.convolution import OUTER_PRODUCTS, outer_product
from hlf_np.kernels.executor import OPERATIONS, fetch, load
from hlf_np.kernels.linking import Linked, floats, integer, matrix, rows, single, table, together
from hlf_np.kernels.losses import absolute_error, divergence, reparameterize, reparameterize_gradient, softmax_loss
from hlf_np.kernels.normalization import (
    bias_sums,
    moments,
    norm_gradient,
    norm_sums,
    norm_totals,
    normalize,
    statistics,
)
from hlf_np.kernels.parallel import Addresses, Parallel
from hlf_np.kernels.sharing import claim, shares
from hlf_np.kernels.tile import PANEL
from hlf_np.kernels.winograd_filters import all_filters

# Kinds of operations besides the executor's, and below each the fields behind the kind. Names in *_rows are positions
# in `tables`; `row` is the numbers in a row of pixels, `rows` the rows of an image.
# g_rows, rows, row, channels, sums
BIAS_SUMS = 20
# x_rows, rows, row, channels, moments
MOMENTS = 21
# x_rows, rows, row, statistics, y_rows, rectify
NORMALIZE = 22
# x_rows, rows, row, channels, statistics, g_rows, sums
NORM_SUMS = 23
# x_rows, rows, row, statistics, g_rows, d_rows
NORM_GRADIENT = 24
# logits, distance to the next image's, gradient, distance, labels, distance, classes, results, distance
SOFTMAX_LOSS = 25
# latents, posterior, distance to the next image's, noise, distance, codes, distance
REPARAMETERIZE = 26
# the same, then gradients: to the posterior, distance, to the codes, distance
REPARAMETERIZE_GRADIENT = 27
# rows, row, then of the result, the image and the gradient: origin, distance of rows, of images; weight;
# latents, posterior, distance; results, distance
VAE_LOSS = 28
# a_groups, groups, rows in a group, a_steps, pixels, b_steps, columns, sums
WEIGHT_SUMS = 29
# At the end of a stage, for all parts together:
# pixels, channels, row, moments, statistics, weight, bias, running_mean, running_variance, settings
STATISTICS = 30
# pixels, channels, row, sums, statistics, weight, bias
NORM_TOTALS = 31
# count, sums, gradient
TOTALS = 32
FIELDS = 18

# A task, a few rows and a panel of a gradient to weights: where its first row's numbers are, a_steps, pixels, column,
# columns, b_steps, where it goes, rows.

_run_operations, _outer_products = OPERATIONS.call, OUTER_PRODUCTS.call

VALUES_PER_BLOCK = 4096  # of the update
RUNS_PER_BLOCK = 64  # of copies
HALVES = 2  # of a batch, whose gradients are added up in the update


@pasted
def _weight_sums(run, op, tables, work, images):  # type: ignore[no-untyped-def]
    """A part's gradient to weights; `run` is the address of `outer_products`."""
    _outer_products(
        run, work, tables[op[1] : op[1] + op[2]], op[3], tables[op[4] :], work, op[7], tables[op[6] :], images * op[5],
        work, op[8],
    )  # fmt: skip


@pasted
def _softmax_loss(op, work, images, share):  # type: ignore[no-untyped-def]
    for image in range(images):
        to, label = op[3] + image * op[4], np.int64(work[op[5] + image * op[6]])
        loss, predicted = softmax_loss(work, op[1] + image * op[2], to, op[7], label)
        for c in range(op[7]):
            work[to + c] *= share
        work[op[8] + image * op[9]], work[op[8] + image * op[9] + 1] = loss, predicted


@pasted
def _reparameterize(op, work, images, share):  # type: ignore[no-untyped-def]
    """Forward, or backward with the gradient of the KL."""
    latents = op[1]
    for image in range(images):
        posterior, noise = work[op[2] + image * op[3] :], work[op[4] + image * op[5] :]
        if op[0] == REPARAMETERIZE:
            reparameterize(posterior, noise, work[op[6] + image * op[7] :], latents)
        else:
            d_posterior, d_codes = work[op[8] + image * op[9] :], work[op[10] + image * op[11] :]
            reparameterize_gradient(posterior, noise, d_codes, d_posterior, latents, share)


@pasted
def _vae_loss(op, weights, work, images, share):  # type: ignore[no-untyped-def]
    scale = share * weights[op[12]]
    for image in range(images):
        total = np.float32(0)
        for i in range(op[1]):
            y, x = work[op[3] + i * op[4] + image * op[5] :], work[op[6] + i * op[7] + image * op[8] :]
            total += absolute_error(y, x, work[op[9] + i * op[10] + image * op[11] :], op[2], scale)
        results = work[op[16] + image * op[17] :]
        results[0], results[1] = total, divergence(work[op[14] + image * op[15] :], op[13])


@inner
def run_stage(run, run_products, ops, tables, weights, work, room, images, share):  # type: ignore[no-untyped-def]
    """A stage for one part; run, run_products : the addresses of `run_operations` and `outer_products`; share = 1 /
    images in the batch."""
    for index in range(ops.shape[0]):
        op = ops[index]
        kind = op[0]
        if kind < BIAS_SUMS:
            _run_operations(run, ops[index : index + 1], tables, weights, work, room, 0, images)
        elif kind == BIAS_SUMS:
            bias_sums(op, tables, work, images)
        elif kind == MOMENTS:
            moments(op, tables, work, images)
        elif kind == NORMALIZE:
            normalize(op, tables, weights, work, images)
        elif kind == NORM_SUMS:
            norm_sums(op, tables, weights, work, images)
        elif kind == NORM_GRADIENT:
            norm_gradient(op, tables, weights, work, images)
        elif kind == SOFTMAX_LOSS:
            _softmax_loss(op, work, images, share)
        elif kind == WEIGHT_SUMS:
            _weight_sums(run_products, op, tables, work, images)
        elif kind == VAE_LOSS:
            _vae_loss(op, weights, work, images, share)
        else:
            _reparameterize(op, work, images, share)


@inner
def close(ops, weights, work, parts, count, images, gradients):  # type: ignore[no-untyped-def]
    """The end of a stage."""
    for index in range(ops.shape[0]):
        op = ops[index]
        if op[0] == STATISTICS:
            statistics(op, weights, work, parts, count, images)
        elif op[0] == NORM_TOTALS:
            norm_totals(op, weights, work, parts, count, gradients)
        else:
            total = gradients[op[3] : op[3] + op[1]]
            total[:] = 0
            for part in range(parts):
                sums = work[part, op[2] :]
                for k in range(total.size):
                    total[k] += sums[k]


STAGE = Linked(run_stage, integer, integer, rows, table, floats, floats, floats, integer, single)
_run_stage = STAGE.call


@inner
def run_parts(  # type: ignore[no-untyped-def]
    thread, addresses, stage, ops, tables, weights, work, rooms, parts, images, slots, batch
):
    """A stage of a thread's parts; with the first their images are put where they belong, with the last their results.

    addresses : of `run_stage` and of what it calls; rooms : of each thread, for Winograd's convolutions: one for all
    its parts stays in the cache.
    """
    inputs, targets, results = batch
    count, threads = inputs.shape[0], rooms.shape[0]
    for part in range(thread * parts // threads, (thread + 1) * parts // threads):
        first, own = part * images, work[part]
        here = min(images, count - first)
        if stage[0] == 0:
            for image in range(here):
                load(inputs[first + image], slots[0], own, image)
                load(targets[first + image], slots[1], own, image)
        _run_stage(
            addresses[0], addresses[1], addresses[2], ops[stage[0] : stage[1]], tables, weights, own, rooms[thread],
            here, np.float32(1 / count),
        )  # fmt: skip
        if stage[2] == ops.shape[0]:
            for image in range(here):
                fetch(results[first + image], slots[2], own, image)


@inner
def run_tasks(thread, shared, tasks, tables, work, parts, count, images, gradients):  # type: ignore[no-untyped-def]
    """A thread's tasks. Each is a panel of some rows of a gradient to weights, over all parts of one half; shared : see
    `sharing`."""
    while True:
        number = claim(shared, thread)
        if number < 0:
            break
        half, index = number // tasks.shape[0], number % tasks.shape[0]
        task, result = tasks[index], gradients[half]
        first = half * parts // HALVES
        if first == (half + 1) * parts // HALVES:  # no part at all
            result[task[6] : task[6] + task[7] * PANEL] = 0
        for part in range(first, (half + 1) * parts // HALVES):
            outer_product(
                work[part], task[0], tables[task[1] :], work[part], task[3], task[4], tables[task[5] :],
                min(images, count - part * images) * task[2], result, task[6], task[7], part > first,
            )  # fmt: skip


CLOSE = Linked(close, rows, floats, matrix, integer, integer, integer, floats)
PARTS = Parallel(
    run_parts, together((integer,) * 3), table, rows, table, floats, matrix, matrix, integer, integer, rows,
    together((matrix,) * 3),
)  # fmt: skip
TASKS = Parallel(run_tasks, rows, rows, table, matrix, integer, integer, integer, matrix)
_close, _run_parts, _run_tasks = CLOSE.call, PARTS.spread, TASKS.spread


def addresses() -> tuple[Addresses, tuple[int, int, int], int, Addresses]:
    """What `gradients_kernel` calls."""
    stage = (STAGE.address, OPERATIONS.address, OUTER_PRODUCTS.address(np.float32))
    return PARTS.addresses, stage, CLOSE.address, TASKS.addresses


@njit(cache=True)
def gradients_kernel(  # type: ignore[no-untyped-def]
    addresses, ops, stages, tasks, tables, weights, work, rooms, images, slots, inputs, targets, results, gradients
):
    """Forward and backward.

    addresses : of `PARTS`; of `run_stage` and of what it calls; of `close`; of `TASKS`.
    stages : (S, 3) first operation of each stage, first of its end, and the next stage's first; tasks : (T, 8).
    work : (parts or more, size); rooms : (threads, size), see `run_parts`; images : in a part; slots : where the inputs
    and targets of an image, (N, ...) float32, and its results belong, (3, 5), see `executor.load`; gradients :
    (HALVES, P), whose sum is that to all parameters.
    """
    count = inputs.shape[0]
    parts, threads = (count + images - 1) // images, rooms.shape[0]
    for stage in range(stages.shape[0]):
        _run_parts(
            addresses[0], threads, addresses[1], stages[stage], ops, tables, weights, work, rooms, parts, images,
            slots, (inputs, targets, results),
        )  # fmt: skip
        end = ops[stages[stage, 1] : stages[stage, 2]]
        _close(addresses[2], end, weights, work, parts, count, images, gradients[0])
    shared = shares(HALVES * tasks.shape[0], threads)
    _run_tasks(addresses[3], threads, shared, tasks, tables, work, parts, count, images, gradients)


@inner
def update_block(block, weights, gradients, first, second, settings):  # type: ignore[no-untyped-def]
    """Adam's step for a block of parameters."""
    begin, end = block * VALUES_PER_BLOCK, min((block + 1) * VALUES_PER_BLOCK, first.size)
    total, other = gradients[0, begin:end], gradients[1, begin:end]
    for k in range(total.size):
        total[k] += other[k]
    adam_update(weights[begin:end], total, first[begin:end], second[begin:end], settings)


@inner
def copy_block(block, weights, runs):  # type: ignore[no-untyped-def]
    """A block of runs of copies.

    runs : (R, 4), of each: where its copies go, side by side; where the first original is, and the distance of these;
    how many.
    """
    for index in range(block * RUNS_PER_BLOCK, min((block + 1) * RUNS_PER_BLOCK, runs.shape[0])):
        to, source, step, count = runs[index]
        copies = weights[to:]
        for k in range(count):
            copies[k] = weights[source + k * step]


UPDATES = Parallel(update_block, floats, matrix, floats, floats, floats)
COPIES = Parallel(copy_block, floats, rows)
_update_blocks, _copy_blocks = UPDATES.spread, COPIES.spread


@njit(cache=True)
def update_kernel(addresses, weights, gradients, first, second, settings, runs, vectors):  # type: ignore[no-untyped-def]
    """Adam's step for all parameters (see `optim.Adam`), and the new ones put everywhere the operations read them.

    addresses : of `UPDATES`, `COPIES` and `FILTERS`.
    gradients : (HALVES, P); first, second : (P,), Adam's moments; settings : see `adam_update`.
    runs : see `copy_block`; vectors : see `filters_block`.
    """
    size = VALUES_PER_BLOCK
    _update_blocks(addresses[0], (first.size + size - 1) // size, weights, gradients, first, second, settings)
    _copy_blocks(addresses[1], (runs.shape[0] + RUNS_PER_BLOCK - 1) // RUNS_PER_BLOCK, weights, runs)
    all_filters(addresses[2], weights, vectors)
