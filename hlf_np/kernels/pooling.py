"""Pooling and its gradients, over pixels whose channels lie side by side.

Every loop over channels reads and writes slices and has no branch, so that it becomes vector instructions.
"""

import numpy as np

from hlf_np.kernels.compiling import pasted
from hlf_np.kernels.convolution import copy
from hlf_np.kernels.instructions import Pool, PoolGradient, decoder
from hlf_np.kernels.tile import ADD, GATE

_pool_of, _gradient_of = decoder(Pool), decoder(PoolGradient)


@pasted
def pool(row, tables, work, first, end):  # type: ignore[no-untyped-def]
    """The largest or the mean value of every window, for the images from `first` to before `end`."""
    op = _pool_of(row)
    for pixel in range(op.pixels * first, op.pixels * end):
        window, to = tables[op.windows + pixel], work[tables[op.targets + pixel] :]
        copy(work[window + tables[op.segments] :], to, op.channels)
        for s in range(1, op.size):
            value = work[window + tables[op.segments + s] :]
            if op.largest:
                for c in range(op.channels):
                    to[c] = max(to[c], value[c])
            else:
                for c in range(op.channels):
                    to[c] += value[c]
        if not op.largest:
            for c in range(op.channels):
                to[c] /= np.float32(op.size)


@pasted
def pool_gradient(row, tables, work, first, end):  # type: ignore[no-untyped-def]
    """Gradients of `pool`. The maximum's is handed out pixel by pixel, and taken away from what is `left` of it."""
    op = _gradient_of(row)
    left = np.empty(op.channels, np.float32)  # a copy: others may still have to read the gradient
    if not op.finish & ADD:
        for pixel in range(op.to_pixels * first, op.to_pixels * end):
            to = work[tables[op.to_all + pixel] :]
            for c in range(op.channels):
                to[c] = 0
    for pixel in range(op.pixels * first, op.pixels * end):
        window, target = tables[op.windows + pixel], tables[op.to_windows + pixel]
        result = work[tables[op.targets + pixel] :]
        copy(work[tables[op.gradients + pixel] :], left, op.channels)
        for s in range(op.size):
            value, to = work[window + tables[op.segments + s] :], work[target + tables[op.to_segments + s] :]
            if op.largest:
                for c in range(op.channels):
                    part = left[c] * np.float32(value[c] == result[c])
                    to[c] += part
                    left[c] -= part
            else:
                for c in range(op.channels):
                    to[c] += left[c] / np.float32(op.size)
    if op.finish & GATE:
        for pixel in range(op.to_pixels * first, op.to_pixels * end):
            to, gate = work[tables[op.to_all + pixel] :], work[tables[op.gates + pixel] :]
            for c in range(op.channels):
                to[c] *= np.float32(gate[c] > 0)
