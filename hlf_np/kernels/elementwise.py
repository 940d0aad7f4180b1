"""Batch normalisation, ReLU and Adam, each in as few passes over memory as it takes.

A network's activations in training do not fit the cache, so these operations cost what it costs to read and write
them: NumPy expressions make a pass for every operator, these kernels one for all. Rows are handled in parts of a
fixed size, in parallel; sums over parts are added in order, so results have the same bits at any number of threads.
"""

import numpy as np
from numba import njit, prange

from hlf_np.arrays import Floats
from hlf_np.kernels.buffers import empty
from hlf_np.kernels.convolution import copy

ROWS_PER_PART = 1024


@njit(cache=True, parallel=True)
def _column_sums(x, shift, square, parts):  # type: ignore[no-untyped-def]
    """parts[p] = sum over the rows of part p of (x - shift), squared or not."""
    rows, columns = x.shape
    for part in prange(parts.shape[0]):
        total = np.zeros(columns, np.float64)
        for row in range(part * ROWS_PER_PART, min((part + 1) * ROWS_PER_PART, rows)):
            for c in range(columns):
                value = x[row, c] - shift[c]
                total[c] += value * value if square else value
        copy(total, parts[part], columns)


@njit(cache=True, parallel=True)
def _scale_rows(x, factor, offset, y, rectify):  # type: ignore[no-untyped-def]
    """y = x * factor + offset for every row, and its positive part if `rectify`."""
    rows, columns = x.shape
    zero = x.dtype.type(0)
    for part in prange((rows + ROWS_PER_PART - 1) // ROWS_PER_PART):
        for row in range(part * ROWS_PER_PART, min((part + 1) * ROWS_PER_PART, rows)):
            for c in range(columns):
                value = x[row, c] * factor[c] + offset[c]
                y[row, c] = zero if rectify and value < zero else value


@njit(cache=True, parallel=True)
def _gradient_sums(g, x, y, mean, scale, gated, g_parts, gx_parts):  # type: ignore[no-untyped-def]
    """For each part the sums of g and of g * xhat, xhat = (x - mean) * scale; g counts only where a gate y is open."""
    rows, columns = x.shape
    zero = x.dtype.type(0)
    for part in prange(g_parts.shape[0]):
        g_total, gx_total = np.zeros(columns, np.float64), np.zeros(columns, np.float64)
        for row in range(part * ROWS_PER_PART, min((part + 1) * ROWS_PER_PART, rows)):
            for c in range(columns):
                value = zero if gated and not y[row, c] > zero else g[row, c]
                g_total[c] += value
                gx_total[c] += value * (x[row, c] - mean[c]) * scale[c]
        copy(g_total, g_parts[part], columns)
        copy(gx_total, gx_parts[part], columns)


@njit(cache=True, parallel=True)
def _input_gradient(g, x, y, mean, factor, g_mean, slope, gated, dx):  # type: ignore[no-untyped-def]
    """dx = factor * (g - g_mean - (x - mean) * slope), g gated as above."""
    rows, columns = x.shape
    zero = x.dtype.type(0)
    for part in prange((rows + ROWS_PER_PART - 1) // ROWS_PER_PART):
        for row in range(part * ROWS_PER_PART, min((part + 1) * ROWS_PER_PART, rows)):
            for c in range(columns):
                value = zero if gated and not y[row, c] > zero else g[row, c]
                dx[row, c] = factor[c] * (value - g_mean[c] - (x[row, c] - mean[c]) * slope[c])


def _parts(rows: Floats) -> Floats:
    """Room for one row of sums per part, in double precision: thousands of terms are added one by one."""
    return np.empty((-(-len(rows) // ROWS_PER_PART), rows.shape[1]), np.float64)


def column_moments(rows: Floats) -> tuple[Floats, Floats]:
    """Mean and (biased) variance of every column of (M, C), two passes, so that nothing cancels."""
    parts = _parts(rows)
    _column_sums(rows, np.zeros(rows.shape[1], rows.dtype), False, parts)
    mean = (parts.sum(axis=0) / len(rows)).astype(rows.dtype)
    _column_sums(rows, mean, True, parts)
    return mean, (parts.sum(axis=0) / len(rows)).astype(rows.dtype)


def scale_columns(rows: Floats, factor: Floats, offset: Floats, rectify: bool) -> Floats:
    """rows (M, C) * factor (C,) + offset (C,), cut off at 0 if `rectify`."""
    y = empty(rows.shape, rows.dtype)
    _scale_rows(rows, factor, offset, y, rectify)
    return y


def normalization_gradients(
    g: Floats, rows: Floats, y: Floats, mean: Floats, scale: Floats, weight: Floats, rectified: bool
) -> tuple[Floats, Floats, Floats]:
    """Gradients of `operations.batch_norm` to the rows (M, C), the weight and the bias (C,)."""
    g_parts, gx_parts = _parts(rows), _parts(rows)
    _gradient_sums(g, rows, y, mean, scale, rectified, g_parts, gx_parts)
    d_bias, d_weight = (parts.sum(axis=0).astype(rows.dtype) for parts in (g_parts, gx_parts))
    count = rows.dtype.type(len(rows))
    dx = empty(rows.shape, rows.dtype)
    _input_gradient(g, rows, y, mean, weight * scale, d_bias / count, scale * (d_weight / count), rectified, dx)
    return dx, d_weight, d_bias


@njit(cache=True, parallel=True)
def gate(g, y, result):  # type: ignore[no-untyped-def]
    """result = g where y > 0, else 0; all flat."""
    zero = g.dtype.type(0)
    for k in prange(g.size):
        result[k] = g[k] if y[k] > zero else zero


@njit(cache=True)
def adam_update(parameter, gradient, first, second, settings):  # type: ignore[no-untyped-def]
    """One step of Adam in place; settings: weight decay, beta1, beta2, rate, 1 / sqrt(1 - beta2^t), epsilon."""
    decay, beta1, beta2, rate, correction, epsilon = (
        settings[0], settings[1], settings[2], settings[3], settings[4], settings[5],
    )  # fmt: skip
    one = parameter.dtype.type(1)
    for k in range(parameter.size):
        g = gradient[k] + decay * parameter[k]
        m = beta1 * first[k] + (one - beta1) * g
        v = beta2 * second[k] + (one - beta2) * g * g
        first[k], second[k] = m, v
        parameter[k] -= rate * m / (np.sqrt(v) * correction + epsilon)
