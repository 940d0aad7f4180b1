"""A training step: forward, backward and Adam's update in two calls.

Like `executor`, this runs lists of `instructions` over flat workspaces. Here a batch is cut into *parts* of a few
images, each with a workspace of its own that keeps every activation and gradient until the step is over. Batch norm
needs sums over the whole batch: the list is cut into *stages* there. All parts finish a stage before their sums are
added up, in the order of the parts, and the next stage begins. The gradients to the weights are sums over the whole
batch too. Those of small matrices over many pixels are summed up in the parts as soon as what they need is in the
cache; all others at last, where a few rows of one half of the batch are a task of its own, so that a thread mostly
meets images that it had before. So the results have the same bits at any number of threads.

What the parts share lies in one array, the *weights*: first the parameters, arranged as the forward products read
them, then copies of them in the order of the backward products, the filters of Winograd's convolutions, the statistics
of batch norm, and constants. The gradients are arranged like the parameters.
"""

import numpy as np

from hlf_np.kernels import losses, normalization
from hlf_np.kernels.adam import adam_update
from hlf_np.kernels.cache import kernel
from hlf_np.kernels.compiling import inner, pasted
from hlf_np.kernels.convolution import OUTER_PRODUCTS, outer_product
from hlf_np.kernels.executor import INSTRUCTIONS, fetch, load
from hlf_np.kernels.instructions import KIND, decoder
from hlf_np.kernels.linking import Linked, floats, integer, matrix, rows, single, table, together
from hlf_np.kernels.parallel import Addresses, Parallel
from hlf_np.kernels.sharing import claim, shares
from hlf_np.kernels.tile import PANEL
from hlf_np.kernels.training_instructions import CLOSING, OF_PARTS, Task
from hlf_np.kernels.winograd_filters import all_filters

# In the order of `OF_PARTS` and of `CLOSING`.
(
    BIAS_SUMS, MOMENTS, NORMALIZE, NORM_SUMS, NORM_GRADIENT, SOFTMAX_LOSS, TRADES_LOSS, REPARAMETERIZE, _, VAE_LOSS,
    WEIGHT_SUMS,
) = (KIND[instruction] for instruction in OF_PARTS)  # fmt: skip
STATISTICS, NORM_TOTALS, _ = (KIND[instruction] for instruction in CLOSING)
(
    _softmax_loss_of, _trades_loss_of, _reparameterize_of, _reparameterize_gradient_of, _vae_loss_of, _weight_sums_of
) = (decoder(instruction) for instruction in OF_PARTS[5:])  # fmt: skip
_totals_of, _task_of = decoder(CLOSING[-1]), decoder(Task)

_run_instructions, _outer_products = INSTRUCTIONS.call, OUTER_PRODUCTS.call

VALUES_PER_BLOCK = 4096  # of the update
RUNS_PER_BLOCK = 64  # of copies
HALVES = 2  # of a batch, whose gradients are added up in the update


@pasted
def _weight_sums(run, row, tables, work, images):  # type: ignore[no-untyped-def]
    """A part's gradient to weights; `run` is the address of `outer_products`."""
    op = _weight_sums_of(row)
    _outer_products(
        run, work, tables[op.groups : op.groups + op.group_count], op.group, tables[op.a_steps :], work, op.columns,
        tables[op.b_steps :], images * op.pixels, work, op.sums,
    )  # fmt: skip


@pasted
def _softmax_loss(row, work, images, share):  # type: ignore[no-untyped-def]
    op = _softmax_loss_of(row)
    for image in range(images):
        to, label = op.gradient + image * op.gradient_step, np.int64(work[op.labels + image * op.labels_step])
        loss, predicted = losses.softmax_loss(work, op.logits + image * op.logits_step, to, op.classes, label)
        for c in range(op.classes):
            work[to + c] *= share
        results = work[op.results + image * op.results_step :]
        results[0], results[1] = loss, predicted


@pasted
def _trades_loss(row, weights, work, images, share):  # type: ignore[no-untyped-def]
    op, pair = _trades_loss_of(row), share + share  # of an image with both faces
    for image in range(0, images, 2):
        at, to = op.logits + image * op.logits_step, op.gradient + image * op.gradient_step
        label = np.int64(work[op.labels + image * op.labels_step])
        loss, predicted, other_predicted = losses.trades_loss(
            work, at, to, at + op.logits_step, to + op.gradient_step, op.classes, label, weights[op.beta], pair
        )
        results = work[op.results + image * op.results_step :]
        results[0], results[1] = loss, predicted
        results[op.results_step], results[op.results_step + 1] = loss, other_predicted


@pasted
def _reparameterize(row, work, images):  # type: ignore[no-untyped-def]
    op = _reparameterize_of(row)
    for image in range(images):
        posterior, noise = work[op.posterior + image * op.posterior_step :], work[op.noise + image * op.noise_step :]
        losses.reparameterize(posterior, noise, work[op.codes + image * op.codes_step :], op.latents)


@pasted
def _reparameterize_gradient(row, work, images, share):  # type: ignore[no-untyped-def]
    op = _reparameterize_gradient_of(row)
    for image in range(images):
        posterior, noise = work[op.posterior + image * op.posterior_step :], work[op.noise + image * op.noise_step :]
        d_posterior = work[op.d_posterior + image * op.d_posterior_step :]
        d_codes = work[op.d_codes + image * op.d_codes_step :]
        losses.reparameterize_gradient(posterior, noise, d_codes, d_posterior, op.latents, share)


@pasted
def _vae_loss(row, weights, work, images, share):  # type: ignore[no-untyped-def]
    op = _vae_loss_of(row)
    scale = share * weights[op.weight]
    for image in range(images):
        total = np.float32(0)
        for i in range(op.rows):
            y, x = (
                work[op.y + i * op.y_row_step + image * op.y_step :],
                work[op.x + i * op.x_row_step + image * op.x_step :],
            )
            total += losses.absolute_error(y, x, work[op.g + i * op.g_row_step + image * op.g_step :], op.row, scale)
        results = work[op.results + image * op.results_step :]
        results[0], results[1] = total, losses.divergence(work[op.posterior + image * op.posterior_step :], op.latents)


@inner
def run_stage(run, run_products, rows, tables, weights, work, room, images, share):  # type: ignore[no-untyped-def]
    """A stage for one part; run, run_products : the addresses of `run_instructions` and `outer_products`; share = 1 /
    images in the batch."""
    for index in range(rows.shape[0]):
        row = rows[index]
        kind = row[0]
        if kind < BIAS_SUMS:
            _run_instructions(run, rows[index : index + 1], tables, weights, work, room, 0, images)
        elif kind == BIAS_SUMS:
            normalization.bias_sums(row, tables, work, images)
        elif kind == MOMENTS:
            normalization.moments(row, tables, work, images)
        elif kind == NORMALIZE:
            normalization.normalize(row, tables, weights, work, images)
        elif kind == NORM_SUMS:
            normalization.norm_sums(row, tables, weights, work, images)
        elif kind == NORM_GRADIENT:
            normalization.norm_gradient(row, tables, weights, work, images)
        elif kind == SOFTMAX_LOSS:
            _softmax_loss(row, work, images, share)
        elif kind == TRADES_LOSS:
            _trades_loss(row, weights, work, images, share)
        elif kind == WEIGHT_SUMS:
            _weight_sums(run_products, row, tables, work, images)
        elif kind == VAE_LOSS:
            _vae_loss(row, weights, work, images, share)
        elif kind == REPARAMETERIZE:
            _reparameterize(row, work, images)
        else:
            _reparameterize_gradient(row, work, images, share)


@inner
def close(rows, weights, work, parts, count, images, gradients):  # type: ignore[no-untyped-def]
    """The end of a stage."""
    for index in range(rows.shape[0]):
        row = rows[index]
        if row[0] == STATISTICS:
            normalization.statistics(row, weights, work, parts, count, images)
        elif row[0] == NORM_TOTALS:
            normalization.norm_totals(row, weights, work, parts, count, gradients)
        else:
            op = _totals_of(row)
            total = gradients[op.gradient : op.gradient + op.size]
            total[:] = 0
            for part in range(parts):
                sums = work[part, op.sums :]
                for k in range(total.size):
                    total[k] += sums[k]


STAGE = Linked(run_stage, integer, integer, rows, table, floats, floats, floats, integer, single)
_run_stage = STAGE.call


@inner
def run_parts(  # type: ignore[no-untyped-def]
    thread, addresses, stage, rows, tables, weights, work, rooms, parts, images, slots, batch
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
            addresses[0], addresses[1], addresses[2], rows[stage[0] : stage[1]], tables, weights, own, rooms[thread],
            here, np.float32(1 / count),
        )  # fmt: skip
        if stage[2] == rows.shape[0]:
            for image in range(here):
                fetch(results[first + image], slots[2], own, image)


@inner
def run_tasks(thread, shared, tasks, tables, work, parts, count, images, gradients):  # type: ignore[no-untyped-def]
    """A thread's tasks, each for one half of the parts; shared : see `sharing`."""
    while True:
        number = claim(shared, thread)
        if number < 0:
            break
        half, index = number // tasks.shape[0], number % tasks.shape[0]
        task, result = _task_of(tasks[index]), gradients[half]
        first = half * parts // HALVES
        if first == (half + 1) * parts // HALVES:  # no part at all
            result[task.gradient : task.gradient + task.rows * PANEL] = 0
        for part in range(first, (half + 1) * parts // HALVES):
            outer_product(
                work[part], task.a, tables[task.a_steps :], work[part], task.column, task.columns,
                tables[task.b_steps :], min(images, count - part * images) * task.pixels, result, task.gradient,
                task.rows, part > first,
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
    stage = (STAGE.address, INSTRUCTIONS.address, OUTER_PRODUCTS.address)
    return PARTS.addresses, stage, CLOSE.address, TASKS.addresses


@kernel
def gradients_kernel(  # type: ignore[no-untyped-def]
    addresses, rows, stages, tasks, tables, weights, work, rooms, images, slots, inputs, targets, results, gradients
):
    """Forward and backward.

    addresses : of `PARTS`; of `run_stage` and of what it calls; of `close`; of `TASKS`.
    stages : (S, 3) first instruction of each stage, first of its end, and the next stage's first; rows, tasks : encoded
    instructions.
    work : (parts or more, size); rooms : (threads, size), see `run_parts`; images : in a part; slots : where the inputs
    and targets of an image, (N, ...) float32, and its results belong, (3, 7), see `executor.load`; gradients :
    (HALVES, P), whose sum is that to all parameters.
    """
    count = inputs.shape[0]
    parts, threads = (count + images - 1) // images, rooms.shape[0]
    for stage in range(stages.shape[0]):
        _run_parts(
            addresses[0], threads, addresses[1], stages[stage], rows, tables, weights, work, rooms, parts, images,
            slots, (inputs, targets, results),
        )  # fmt: skip
        end = rows[stages[stage, 1] : stages[stage, 2]]
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


@kernel
def update_kernel(addresses, weights, gradients, first, second, settings, runs, vectors):  # type: ignore[no-untyped-def]
    """Adam's step for all parameters (see `optim.Adam`), and the new ones put wherever instructions read them.

    addresses : of `UPDATES`, `COPIES` and `FILTERS`.
    gradients : (HALVES, P); first, second : (P,), Adam's moments; settings : see `adam_update`.
    runs : see `copy_block`; vectors : see `filters_block`.
    """
    size = VALUES_PER_BLOCK
    _update_blocks(addresses[0], (first.size + size - 1) // size, weights, gradients, first, second, settings)
    _copy_blocks(addresses[1], (runs.shape[0] + RUNS_PER_BLOCK - 1) // RUNS_PER_BLOCK, weights, runs)
    all_filters(addresses[2], weights, vectors)
