"""Pooling and its gradient, for pixels whose channels lie side by side.

Every loop over channels reads and writes slices and has no branch, so that it becomes vector instructions.
"""

import numpy as np

from hlf_np.kernels.instructions.propagation import Pool, PoolGradient
from hlf_np.kernels.numba_internals.compiling import inlined
from hlf_np.kernels.numba_internals.named_tuples import decoder
from hlf_np.kernels.products.product import copy
from hlf_np.kernels.products.tile import ADD, MASK

_pool_of, _gradient_of = decoder(Pool), decoder(PoolGradient)


@inlined
def pool(row, tables, work, first, end):  # type: ignore[no-untyped-def]
    """Compute the maximum or the mean of every window, for the images from `first` to before `end`.

    row, tables, work : an instruction `Pool`, and the arrays of a compiled network.
    """
    op = _pool_of(row)
    for pixel in range(op.pixels * first, op.pixels * end):
        window, target = tables[op.windows + pixel], work[tables[op.targets + pixel] :]
        copy(work[window + tables[op.segments] :], target, op.channels)
        for s in range(1, op.size):
            value = work[window + tables[op.segments + s] :]
            if op.largest:
                for c in range(op.channels):
                    target[c] = max(target[c], value[c])
            else:
                for c in range(op.channels):
                    target[c] += value[c]
        if not op.largest:
            for c in range(op.channels):
                target[c] /= np.float32(op.size)


@inlined
def pool_gradient(row, tables, work, first, end):  # type: ignore[no-untyped-def]
    """Compute the gradient of `pool`; row : an instruction `PoolGradient`.

    The gradient of a maximum goes to the first pixel that attains it, so that none of it is left for later ones.
    """
    op = _gradient_of(row)
    left = np.empty(op.channels, np.float32)  # a copy: other instructions may still have to read the gradient
    if not op.epilogue & ADD:
        for pixel in range(op.to_pixels * first, op.to_pixels * end):
            gradient = work[tables[op.to_all + pixel] :]
            for c in range(op.channels):
                gradient[c] = 0
    for pixel in range(op.pixels * first, op.pixels * end):
        window, gradient_window = tables[op.windows + pixel], tables[op.to_windows + pixel]
        result = work[tables[op.targets + pixel] :]
        copy(work[tables[op.gradients + pixel] :], left, op.channels)
        for s in range(op.size):
            value = work[window + tables[op.segments + s] :]
            gradient = work[gradient_window + tables[op.to_segments + s] :]
            if op.largest:
                for c in range(op.channels):
                    taken = left[c] * np.float32(value[c] == result[c])
                    gradient[c] += taken
                    left[c] -= taken
            else:
                for c in range(op.channels):
                    gradient[c] += left[c] / np.float32(op.size)
    if op.epilogue & MASK:
        for pixel in range(op.to_pixels * first, op.to_pixels * end):
            gradient, mask = work[tables[op.to_all + pixel] :], work[tables[op.masks + pixel] :]
            for c in range(op.channels):
                gradient[c] *= np.float32(mask[c] > 0)
