"""Gradients of any function of the logits with respect to the inputs of a compiled network.

An attack whose objective the kernels know runs in one call (`attack`). Any other objective is computed outside, from
the logits; this kernel propagates its gradient with respect to the logits back to the codes.
"""

from numba import types

from hlf_np.kernels.interpreter.executor import (
    INSTRUCTIONS,
    NETWORK,
    aligned_zeros,
    copy_in,
    run_by_group,
)
from hlf_np.kernels.numba_internals.cache import kernel
from hlf_np.kernels.numba_internals.compiling import callee
from hlf_np.kernels.numba_internals.numba_types import float32_2d, int64, int64_1d
from hlf_np.kernels.numba_internals.parallel import ParallelLoop
from hlf_np.kernels.products.product import copy

_run = INSTRUCTIONS.call


@callee
def gradient_part(part, parts, network, weights, order, tasks, gradients, capacity):  # type: ignore[no-untyped-def]
    """Compute the gradients for one of `parts` equal parts of the inputs, a few images at a time.

    network, weights, order, capacity : see `executor.evaluate_part`.
    tasks : codes (N, D), images to warp (N, E), gradients with respect to the logits (N, classes), groups (N,).
    gradients : (N, D) float32, written.
    """
    codes, sources, logit_gradients, groups = tasks
    work, scratch = aligned_zeros(network.work_size), aligned_zeros(network.scratch_size)
    begin, end = part * order.size // parts, (part + 1) * order.size // parts
    for first in range(begin, end, capacity):
        indices = order[first : min(first + capacity, end)]
        count, own = indices.size, groups[indices]
        for image in range(count):
            copy_in(codes[indices[image]], network.input_region, work, image)
            copy_in(sources[indices[image]], network.source_region, work, image)
        run_by_group(network.run, network.preprocess_forward, network.tables, weights, work, scratch, own, count)
        _run(network.run, network.forward, network.tables, weights[0], work, scratch, 0, count)
        for image in range(count):
            target = work[network.logits_gradient + image * network.logits_gradient_stride :]
            for k in range(network.classes):
                target[k] = logit_gradients[indices[image], k]
        _run(network.run, network.backward, network.tables, weights[0], work, scratch, 0, count)
        run_by_group(network.run, network.preprocess_backward, network.tables, weights, work, scratch, own, count)
        for image in range(count):
            source, result = work[network.gradient + image * network.gradient_stride :], gradients[indices[image]]
            if network.gradient_offsets.size:  # it is not contiguous
                for k in range(result.size):
                    result[k] = source[network.gradient_offsets[k]]
            else:
                copy(source, result, result.size)


TASKS = types.Tuple((float32_2d, float32_2d, float32_2d, int64_1d))
GRADIENT = ParallelLoop(gradient_part, int64, NETWORK, float32_2d, int64_1d, TASKS, float32_2d, int64)
_gradient_parts = GRADIENT.parallel_for


@kernel
def gradient_kernel(addresses, threads, weights, order, tasks, gradients, capacity, network):  # type: ignore[no-untyped-def]
    """Compute the gradients of all inputs in parallel.

    addresses : those of `GRADIENT`.
    weights, ..., network : see `gradient_part`.
    """
    _gradient_parts(addresses, threads, threads, network, weights, order, tasks, gradients, capacity)
