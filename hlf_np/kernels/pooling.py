"""Pooling and its gradients, over pixels whose channels lie side by side.

Every loop over channels reads and writes slices and has no branch, so that it becomes vector instructions. `op` is a
row of the executor, whose fields stand there.
"""

import numpy as np

from hlf_np.kernels.compiling import pasted


@pasted
def pool(op, largest, tables, work, first, end):  # type: ignore[no-untyped-def]
    """The largest or the mean value of every window, for the images from `first` to before `end`."""
    windows, rows, segments, count, c_rows, channels = op[1:7]
    for pixel in range(rows * first, rows * end):
        window, to = tables[windows + pixel], work[tables[c_rows + pixel] :]
        value = work[window + tables[segments] :]
        for c in range(channels):
            to[c] = value[c]
        for s in range(1, count):
            value = work[window + tables[segments + s] :]
            if largest:
                for c in range(channels):
                    to[c] = max(to[c], value[c])
            else:
                for c in range(channels):
                    to[c] += value[c]
        if not largest:
            for c in range(channels):
                to[c] /= np.float32(count)


@pasted
def pool_gradient(op, largest, tables, work, first, end):  # type: ignore[no-untyped-def]
    """Gradients of `pool`: to the first pixel that attains the maximum, or to all alike.

    The maximum's is handed out pixel by pixel, and taken away from what is `left` of the output gradient.
    """
    windows, rows, segments, count, c_rows, channels = op[1:7]
    g_rows, t_windows, t_segments, t_rows, t_count, gates = op[7:13]
    for pixel in range(t_count * first, t_count * end):
        to = work[tables[t_rows + pixel] :]
        for c in range(channels):
            to[c] = 0
    for pixel in range(rows * first, rows * end):
        window, target = tables[windows + pixel], tables[t_windows + pixel]
        result, left = work[tables[c_rows + pixel] :], work[tables[g_rows + pixel] :]
        for s in range(count):
            value, to = work[window + tables[segments + s] :], work[target + tables[t_segments + s] :]
            if largest:
                for c in range(channels):
                    part = left[c] * np.float32(value[c] == result[c])
                    to[c] += part
                    left[c] -= part
            else:
                for c in range(channels):
                    to[c] += left[c] / np.float32(count)
    if gates >= 0:
        for pixel in range(t_count * first, t_count * end):
            to, gate = work[tables[t_rows + pixel] :], work[tables[gates + pixel] :]
            for c in range(channels):
                to[c] *= np.float32(gate[c] > 0)
