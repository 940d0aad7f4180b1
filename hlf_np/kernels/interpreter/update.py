"""Adam's step of all parameters, and of everything that is derived from them, in one call."""

from hlf_np.kernels.numba_internals.cache import kernel
from hlf_np.kernels.numba_internals.compiling import callee
from hlf_np.kernels.numba_internals.numba_types import float32_1d, float32_2d, int64_2d
from hlf_np.kernels.numba_internals.parallel import ParallelLoop
from hlf_np.kernels.operations.adam import adam_update
from hlf_np.kernels.winograd.filters import transform_all_filters

PARAMETERS_PER_BLOCK = 4096  # a thread's unit of work in the update
COPIES_PER_BLOCK = 64  # a thread's unit of work in copying parameters


@callee
def update_block(block, weights, gradients, first, second, settings):  # type: ignore[no-untyped-def]
    """Update a block of parameters by Adam."""
    begin, end = block * PARAMETERS_PER_BLOCK, min((block + 1) * PARAMETERS_PER_BLOCK, first.size)
    total, other = gradients[0, begin:end], gradients[1, begin:end]
    for k in range(total.size):
        total[k] += other[k]
    adam_update(weights[begin:end], total, first[begin:end], second[begin:end], settings)


@callee
def copy_block(block, weights, copies):  # type: ignore[no-untyped-def]
    """Make a block of strided copies within the weights.

    copies : (R, 4) int64, for each copy the position of its contiguous target, the position and the stride of its
    source, and its length.
    """
    for index in range(block * COPIES_PER_BLOCK, min((block + 1) * COPIES_PER_BLOCK, copies.shape[0])):
        to, source, stride, count = copies[index]
        target = weights[to:]
        for k in range(count):
            target[k] = weights[source + k * stride]


UPDATES = ParallelLoop(update_block, float32_1d, float32_2d, float32_1d, float32_1d, float32_1d)
COPIES = ParallelLoop(copy_block, float32_1d, int64_2d)
_update_blocks, _copy_blocks = UPDATES.parallel_for, COPIES.parallel_for


@kernel
def update_kernel(addresses, weights, gradients, first, second, settings, copies, vectors):  # type: ignore[no-untyped-def]
    """Update all parameters by Adam (see `optim.Adam`), and what is derived from them: copies and transformed filters.

    addresses : those of `UPDATES`, `COPIES` and `FILTER_TRANSFORM`.
    weights : (W,), the first P of which are the parameters.
    gradients : (2, P), of each half of the batch, see `training.BATCH_HALVES`.
    first, second : (P,), Adam's moments.
    settings : see `adam_update`.
    copies : see `copy_block`.
    vectors : see `winograd.filters.filter_transform_block`.
    """
    size = PARAMETERS_PER_BLOCK
    _update_blocks(addresses[0], (first.size + size - 1) // size, weights, gradients, first, second, settings)
    _copy_blocks(addresses[1], (copies.shape[0] + COPIES_PER_BLOCK - 1) // COPIES_PER_BLOCK, weights, copies)
    transform_all_filters(addresses[2], weights, vectors)
