"""The gradients of a training step, forward and backward, in one call; `update` takes the step.

Like `executor`, this runs lists of `instructions` over flat workspaces. A batch is cut into *parts* (micro-batches) of
a few images, whose number does not depend on the threads (`programs.training.IMAGES_PER_PART`). Each part has a
workspace of its own, which keeps all activations and gradients until the step is over.

Batch norm needs sums over the whole batch, so the list of instructions is cut into *stages* there. All parts finish a
stage; then its *reductions* add up their sums, in the order of the parts; then the next stage begins.

The gradients with respect to weights are sums over the whole batch, too. Those of small matrices over many pixels are
summed within each part, while what they need is in the cache. All others come last: there a few rows of the gradient
over one half of the batch are one task, so that a thread mostly meets images whose activations its core's cache has
held before. Since all orders of summation are fixed, results are the same to the last bit for any
number of threads.

The parts share one array, the *weights*: first the parameters, packed as the forward products read them; then copies of
them in the order of the backward products, the filters of Winograd's convolutions, the statistics of batch norm, and
constants. The gradients are laid out like the parameters.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from hlf_np.kernels.instructions.encoding import KIND
from hlf_np.kernels.instructions.training import PART_INSTRUCTIONS, REDUCTIONS, WeightGradientPanel
from hlf_np.kernels.interpreter.executor import INSTRUCTIONS, copy_in, copy_out
from hlf_np.kernels.numba_internals.cache import kernel
from hlf_np.kernels.numba_internals.compiling import callee, inlined
from hlf_np.kernels.numba_internals.function_pointers import FunctionPointer
from hlf_np.kernels.numba_internals.named_tuples import decoder
from hlf_np.kernels.numba_internals.numba_types import (
    float32,
    float32_1d,
    float32_2d,
    int64,
    int64_1d,
    int64_2d,
)
from hlf_np.kernels.numba_internals.parallel import Addresses, ParallelLoop
from hlf_np.kernels.numba_internals.work_stealing import take_task, work_queues
from hlf_np.kernels.operations import losses, normalization
from hlf_np.kernels.products.product import OUTER_PRODUCTS, outer_product
from hlf_np.kernels.products.tile import PANEL
from hlf_np.support.arrays import Floats, Integers

# in the order of `PART_INSTRUCTIONS` and of `REDUCTIONS`
(
    BIAS_SUMS, MOMENTS, NORMALIZE, NORM_SUMS, NORM_GRADIENT, SOFTMAX_LOSS, TRADES_LOSS, REPARAMETERIZE, _, VAE_LOSS,
    WEIGHT_SUMS,
) = (KIND[instruction] for instruction in PART_INSTRUCTIONS)  # fmt: skip
STATISTICS, NORM_TOTALS, _ = (KIND[instruction] for instruction in REDUCTIONS)
(
    _decode_softmax_loss, _decode_trades_loss, _decode_reparameterize, _decode_reparameterize_gradient,
    _decode_vae_loss, _decode_weight_sums,
) = (decoder(instruction) for instruction in PART_INSTRUCTIONS[5:])  # fmt: skip
_decode_totals, _decode_panel = decoder(REDUCTIONS[-1]), decoder(WeightGradientPanel)

_run_instructions, _outer_products = INSTRUCTIONS.call, OUTER_PRODUCTS.call

BATCH_HALVES = 2  # the gradients of each half of a batch are added up by themselves, and together in the update


class Program(NamedTuple):
    """A compiled network in training mode, as the kernels take it."""

    instructions: Integers  # (I, fields), encoded
    stages: Integers  # (S, 3), each stage's first instruction, first reduction, and the next stage's first instruction
    panels: Integers  # (T, fields), encoded `WeightGradientPanel`s
    tables: Integers
    input_region: Integers  # (7,), where inputs, targets and results of an image are, see `copy_in`
    target_region: Integers
    result_region: Integers
    images: int  # images per part


class Memory(NamedTuple):
    """The arrays that a training works in, all float32."""

    weights: Floats  # (W,)
    work: Floats  # (parts or more, size), the workspaces
    scratch: Floats  # (threads, size), for Winograd's convolutions: one per thread, which stays in its core's cache
    gradients: Floats  # (BATCH_HALVES, P), whose sum is the gradient with respect to all parameters


class Batch(NamedTuple):
    """A batch of N images."""

    inputs: Floats  # (N, D) float32
    targets: Floats  # (N, T) float32
    results: Floats  # (N, R) float32, written


class StageAddresses(NamedTuple):
    """The addresses of `run_stage` and of the functions that it calls."""

    stage: int
    instructions: int
    outer_products: int


_PROGRAM = types.NamedTuple((int64_2d, int64_2d, int64_2d, int64_1d, int64_1d, int64_1d, int64_1d, int64), Program)
_MEMORY = types.NamedTuple((float32_1d, float32_2d, float32_2d, float32_2d), Memory)
_BATCH = types.NamedUniTuple(float32_2d, 3, Batch)
_STAGE_ADDRESSES = types.NamedUniTuple(int64, 3, StageAddresses)


@inlined
def _weight_sums(address, row, tables, work, images):  # type: ignore[no-untyped-def]
    """Sum a part's gradient with respect to a weight matrix; `address` is that of `outer_products`."""
    op = _decode_weight_sums(row)
    _outer_products(
        address, work, tables[op.groups : op.groups + op.group_count], op.group, tables[op.a_steps :], work, op.columns,
        tables[op.b_steps :], images * op.pixels, work, op.sums,
    )  # fmt: skip


@inlined
def _softmax_loss(row, work, images, share):  # type: ignore[no-untyped-def]
    op = _decode_softmax_loss(row)
    for image in range(images):
        to, label = op.gradient + image * op.gradient_stride, np.int64(work[op.labels + image * op.labels_stride])
        loss, predicted = losses.softmax_loss(work, op.logits + image * op.logits_stride, to, op.classes, label)
        for c in range(op.classes):
            work[to + c] *= share
        results = work[op.results + image * op.results_stride :]
        results[0], results[1] = loss, predicted


@inlined
def _trades_loss(row, weights, work, images, share):  # type: ignore[no-untyped-def]
    op, scale = _decode_trades_loss(row), share + share  # an image has two views
    for image in range(0, images, 2):
        at, to = op.logits + image * op.logits_stride, op.gradient + image * op.gradient_stride
        label = np.int64(work[op.labels + image * op.labels_stride])
        loss, predicted, other_predicted = losses.trades_loss(
            work, at, to, at + op.logits_stride, to + op.gradient_stride, op.classes, label, weights[op.beta], scale
        )
        results = work[op.results + image * op.results_stride :]
        results[0], results[1] = loss, predicted
        results[op.results_stride], results[op.results_stride + 1] = loss, other_predicted


@inlined
def _reparameterize(row, work, images):  # type: ignore[no-untyped-def]
    op = _decode_reparameterize(row)
    for image in range(images):
        posterior = work[op.posterior + image * op.posterior_stride :]
        noise = work[op.noise + image * op.noise_stride :]
        losses.reparameterize(posterior, noise, work[op.codes + image * op.codes_stride :], op.latents)


@inlined
def _reparameterize_gradient(row, work, images, share):  # type: ignore[no-untyped-def]
    op = _decode_reparameterize_gradient(row)
    for image in range(images):
        posterior = work[op.posterior + image * op.posterior_stride :]
        noise = work[op.noise + image * op.noise_stride :]
        d_posterior = work[op.d_posterior + image * op.d_posterior_stride :]
        d_codes = work[op.d_codes + image * op.d_codes_stride :]
        losses.reparameterize_gradient(posterior, noise, d_codes, d_posterior, op.latents, share)


@inlined
def _vae_loss(row, weights, work, images, share):  # type: ignore[no-untyped-def]
    op = _decode_vae_loss(row)
    scale = share * weights[op.weight]
    for image in range(images):
        total = np.float32(0)
        for i in range(op.rows):
            y = work[op.y + i * op.y_row_stride + image * op.y_stride :]
            x = work[op.x + i * op.x_row_stride + image * op.x_stride :]
            g = work[op.g + i * op.g_row_stride + image * op.g_stride :]
            total += losses.absolute_error(y, x, g, op.row_size, scale)
        results, posterior = work[op.results + image * op.results_stride :], op.posterior + image * op.posterior_stride
        results[0], results[1] = total, losses.divergence(work[posterior:], op.latents)


@callee
def run_stage(addresses, rows, tables, weights, work, scratch, images, share):  # type: ignore[no-untyped-def]
    """Run a stage's instructions for one part.

    addresses : a `StageAddresses`.
    rows : (count, fields) int64, the encoded instructions.
    work : the workspace of the part.
    images : the number of images of the part.
    share : 1 / the number of images of the batch, float32.
    """
    for index in range(rows.shape[0]):
        row = rows[index]
        kind = row[0]
        if kind < BIAS_SUMS:
            _run_instructions(
                addresses.instructions, rows[index : index + 1], tables, weights, work, scratch, 0, images
            )
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
            _weight_sums(addresses.outer_products, row, tables, work, images)
        elif kind == VAE_LOSS:
            _vae_loss(row, weights, work, images, share)
        elif kind == REPARAMETERIZE:
            _reparameterize(row, work, images)
        else:
            _reparameterize_gradient(row, work, images, share)


@callee
def run_reductions(rows, weights, work, parts, count, images, gradients):  # type: ignore[no-untyped-def]
    """Combine the results of all parts at the end of a stage.

    rows : (count, fields) int64, the encoded reductions.
    work : (parts or more, size), the workspaces of all parts.
    parts, count, images : the number of parts, of images in the batch, and of images in each part but the last.
    gradients : (P,), of the first half of the batch.
    """
    for index in range(rows.shape[0]):
        row = rows[index]
        if row[0] == STATISTICS:
            normalization.statistics(row, weights, work, parts, count, images)
        elif row[0] == NORM_TOTALS:
            normalization.norm_totals(row, weights, work, parts, count, gradients)
        else:
            op = _decode_totals(row)
            total = gradients[op.gradient : op.gradient + op.size]
            total[:] = 0
            for part in range(parts):
                sums = work[part, op.sums :]
                for k in range(total.size):
                    total[k] += sums[k]


STAGE = FunctionPointer(
    run_stage, _STAGE_ADDRESSES, int64_2d, int64_1d, float32_1d, float32_1d, float32_1d, int64, float32
)
_run_stage = STAGE.call


@callee
def run_parts(thread, addresses, stage, program, memory, batch, parts):  # type: ignore[no-untyped-def]
    """Run one stage of a thread's share of the parts.

    The first stage copies inputs and targets into the workspaces, the last copies the results out of them.

    addresses : a `StageAddresses`.
    stage : (3,), a row of `Program.stages`.
    program, memory, batch : a `Program`, a `Memory` and a `Batch`.
    parts : the number of parts of the batch.
    """
    instructions, images = program.instructions, program.images
    count, threads = batch.inputs.shape[0], memory.scratch.shape[0]
    for part in range(thread * parts // threads, (thread + 1) * parts // threads):
        first, work = part * images, memory.work[part]
        size = min(images, count - first)
        if stage[0] == 0:
            for image in range(size):
                copy_in(batch.inputs[first + image], program.input_region, work, image)
                copy_in(batch.targets[first + image], program.target_region, work, image)
        _run_stage(
            addresses.stage, addresses, instructions[stage[0] : stage[1]], program.tables, memory.weights, work,
            memory.scratch[thread], size, np.float32(1 / count),
        )  # fmt: skip
        if stage[2] == instructions.shape[0]:
            for image in range(size):
                copy_out(batch.results[first + image], program.result_region, work, image)


@callee
def run_panels(thread, shared, program, memory, parts, count):  # type: ignore[no-untyped-def]
    """Compute panels of weight gradients, each over one half of the parts, as long as any are left.

    shared : the shares of all threads, see `numba_internals.work_stealing`.
    program, memory : a `Program` and a `Memory`.
    parts, count : the number of parts and of images in the batch.
    """
    tables, work, panels, images = program.tables, memory.work, program.panels, program.images
    while True:
        task = take_task(shared, thread)
        if task < 0:
            break
        half, index = task // panels.shape[0], task % panels.shape[0]
        op, result = _decode_panel(panels[index]), memory.gradients[half]
        first = half * parts // BATCH_HALVES
        if first == (half + 1) * parts // BATCH_HALVES:  # this half has no parts
            result[op.gradient : op.gradient + op.rows * PANEL] = 0
        for part in range(first, (half + 1) * parts // BATCH_HALVES):
            outer_product(
                work[part], op.a, tables[op.a_steps :], work[part], op.column, op.columns, tables[op.b_steps :],
                min(images, count - part * images) * op.pixels, result, op.gradient, op.rows, part > first,
            )  # fmt: skip


REDUCE = FunctionPointer(run_reductions, int64_2d, float32_1d, float32_2d, int64, int64, int64, float32_1d)
PARTS = ParallelLoop(run_parts, _STAGE_ADDRESSES, int64_1d, _PROGRAM, _MEMORY, _BATCH, int64)
PANELS = ParallelLoop(run_panels, int64_2d, _PROGRAM, _MEMORY, int64, int64)
_run_reductions, _run_parts, _run_panels = REDUCE.call, PARTS.parallel_for, PANELS.parallel_for


def gradient_addresses() -> tuple[Addresses, tuple[int, int, int], int, Addresses]:
    """Return the addresses of `PARTS`, of a stage (the fields of a `StageAddresses`), of `REDUCE` and of `PANELS`."""
    stage = (STAGE.address, INSTRUCTIONS.address, OUTER_PRODUCTS.address)
    return PARTS.addresses, stage, REDUCE.address, PANELS.addresses


@kernel
def gradients_kernel(addresses, *fields):  # type: ignore[no-untyped-def]
    """Run the forward and the backward pass of a batch.

    Writes the results of the batch, and all activations and gradients in the memory.

    addresses : see `gradient_addresses`.
    fields : those of a `Program`, a `Memory` and a `Batch`, which Numba passes faster from Python than the tuples.
    """
    of_parts, of_stage, of_reductions, of_panels = addresses
    stage_addresses = StageAddresses(*of_stage)
    program, memory, batch = Program(*fields[:8]), Memory(*fields[8:12]), Batch(*fields[12:])
    count, images = batch.inputs.shape[0], program.images
    parts, threads = (count + images - 1) // images, memory.scratch.shape[0]
    for index in range(program.stages.shape[0]):
        stage = program.stages[index]
        _run_parts(of_parts, threads, stage_addresses, stage, program, memory, batch, parts)
        _run_reductions(
            of_reductions, program.instructions[stage[1] : stage[2]], memory.weights, memory.work, parts, count,
            images, memory.gradients[0],
        )  # fmt: skip
    shared = work_queues(BATCH_HALVES * program.panels.shape[0], threads)
    _run_panels(of_panels, threads, shared, program, memory, parts, count)
