"""Batch norm in training: the instructions that work on one part of a batch, and those that combine the parts.

The loops run over whole rows of pixels. The statistics are repeated for each pixel of a row, so that the inner loops
are long and become vector instructions.
"""

import math

import numpy as np

from hlf_np.kernels.instructions import training as kinds
from hlf_np.kernels.numba_internals.compiling import callee, inlined
from hlf_np.kernels.numba_internals.named_tuples import decoder
from hlf_np.kernels.products.product import copy
from hlf_np.kernels.products.tile import ADD, MASK

# The statistics of a batch norm are a matrix with these rows; each row repeats the channels' values for every pixel of
# a row of pixels. With xhat = (x - mean) * scale and g the gradient with respect to the output:
MEAN = 0
SCALE = 1  # 1 / sqrt(variance + epsilon)
FACTOR = 2  # weight * scale
OFFSET = 3  # bias - mean * weight * scale
G_MEAN = 4  # mean of g
SLOPE = 5  # scale * mean of g * xhat
STATISTICS_ROWS = 6

_decode_moments, _decode_normalize = decoder(kinds.Moments), decoder(kinds.Normalize)
_decode_norm_sums, _decode_norm_gradient = decoder(kinds.NormSums), decoder(kinds.NormGradient)
_decode_bias_sums = decoder(kinds.BiasSums)
_decode_statistics, _decode_norm_totals = decoder(kinds.Statistics), decoder(kinds.NormTotals)


@callee
def _fold(rows, channels, totals):  # type: ignore[no-untyped-def]
    """Add the values of each pixel of a row to the totals of its channels."""
    for first in range(0, rows.size, channels):
        pixel = rows[first:]
        for c in range(channels):
            totals[c] += pixel[c]


@inlined
def moments(instruction, tables, work, images):  # type: ignore[no-untyped-def]
    """Compute the mean of each channel over a part's pixels, and the sum of squared deviations from it.

    Two passes avoid cancellation. Sums within an image are in single precision, sums over images in double precision.
    """
    op = _decode_moments(instruction)
    rows, row, channels = op.rows, op.row_size, op.channels
    total, sums, mean = np.empty(channels, np.float64), np.empty(row, np.float32), np.zeros(row, np.float32)
    for squared in (False, True):
        total[:] = 0
        for image in range(images):
            sums[:] = 0
            for i in range(image * rows, (image + 1) * rows):
                x = work[tables[op.x + i] :]
                if squared:
                    for k in range(row):
                        deviation = x[k] - mean[k]
                        sums[k] += deviation * deviation
                else:
                    for k in range(row):
                        sums[k] += x[k]
            _fold(sums, channels, total)
        if not squared:
            for c in range(channels):
                total[c] /= images * rows * row // channels
            for first in range(0, row, channels):
                for c in range(channels):
                    mean[first + c] = total[c]
        to = work[op.moments + channels * squared :]
        for c in range(channels):
            to[c] = total[c]


@inlined
def normalize(instruction, tables, weights, work, images):  # type: ignore[no-untyped-def]
    """Compute y = x * factor + offset, or its positive part if a ReLU follows."""
    op = _decode_normalize(instruction)
    factor, offset = weights[op.statistics + FACTOR * op.row_size :], weights[op.statistics + OFFSET * op.row_size :]
    minimum = np.float32(0) if op.relu else np.float32(-np.inf)
    for i in range(images * op.rows):
        x, y = work[tables[op.x + i] :], work[tables[op.y + i] :]
        for k in range(op.row_size):
            value = x[k] * factor[k] + offset[k]
            y[k] = minimum if value < minimum else value


@inlined
def norm_sums(instruction, tables, weights, work, images):  # type: ignore[no-untyped-def]
    """Compute a part's gradients with respect to weight and bias: the sums of g * xhat and of g."""
    op = _decode_norm_sums(instruction)
    rows, row, channels = op.rows, op.row_size, op.channels
    mean, scale = weights[op.statistics + MEAN * row :], weights[op.statistics + SCALE * row :]
    total = np.zeros((2, channels), np.float64)
    products, sums = np.empty(row, np.float32), np.empty(row, np.float32)
    for image in range(images):
        products[:], sums[:] = 0, 0
        for i in range(image * rows, (image + 1) * rows):
            x, g = work[tables[op.x + i] :], work[tables[op.g + i] :]
            for k in range(row):
                sums[k] += g[k]
                products[k] += g[k] * (x[k] - mean[k])
        _fold(products, channels, total[0])
        _fold(sums, channels, total[1])
    for c in range(channels):
        work[op.sums + c], work[op.sums + channels + c] = total[0, c] * scale[c], total[1, c]


@inlined
def norm_gradient(instruction, tables, weights, work, images):  # type: ignore[no-untyped-def]
    """Compute d = factor * (g - mean(g) - (x - mean) * slope); `operations.batch_norm` derives it."""
    op = _decode_norm_gradient(instruction)
    row, at = op.row_size, op.statistics
    mean, factor = weights[at + MEAN * row :], weights[at + FACTOR * row :]
    g_mean, slope = weights[at + G_MEAN * row :], weights[at + SLOPE * row :]
    g = np.empty(row, np.float32)  # a copy: d may overwrite g, and only loops over separate arrays are vectorised
    for i in range(images * op.rows):
        x, d = work[tables[op.x + i] :], work[tables[op.d + i] :]
        copy(work[tables[op.g + i] :], g, row)
        if op.epilogue & ADD:
            for k in range(row):
                d[k] += factor[k] * (g[k] - g_mean[k] - (x[k] - mean[k]) * slope[k])
        else:
            for k in range(row):
                d[k] = factor[k] * (g[k] - g_mean[k] - (x[k] - mean[k]) * slope[k])
        if op.epilogue & MASK:
            mask = work[tables[op.masks + i] :]
            for k in range(row):
                d[k] = d[k] if mask[k] > 0 else np.float32(0)


@inlined
def bias_sums(instruction, tables, work, images):  # type: ignore[no-untyped-def]
    """Compute a part's gradient with respect to a bias: the sum of g."""
    op = _decode_bias_sums(instruction)
    sums = np.zeros(op.row_size, np.float32)
    for i in range(images * op.rows):
        g = work[tables[op.gradients + i] :]
        for k in range(op.row_size):
            sums[k] += g[k]
    work[op.sums : op.sums + op.channels] = 0
    _fold(sums, op.channels, work[op.sums :])


@inlined
def statistics(instruction, weights, work, parts, count, images):  # type: ignore[no-untyped-def]
    """Compute the statistics of the batch from the moments of its parts (Chan et al., 1979).

    parts : the number of parts.
    count : the number of images of the batch.
    images : the number of images of each part but the last.
    """
    op = _decode_statistics(instruction)
    row, channels, moments, at = op.row_size, op.channels, op.moments, op.statistics
    weight, bias = weights[op.weight :], weights[op.bias :]
    running_mean, running_variance = weights[op.running_mean :], weights[op.running_variance :]
    momentum, epsilon = weights[op.settings], weights[op.settings + 1]
    total = count * op.pixels
    for c in range(channels):
        mean, squares = 0.0, 0.0
        for part in range(parts):
            mean += work[part, moments + c] * (min(images, count - part * images) / count)
        for part in range(parts):
            deviation = work[part, moments + c] - mean
            size = min(images, count - part * images) * op.pixels
            squares += work[part, moments + channels + c] + size * deviation * deviation
        scale = 1 / math.sqrt(squares / total + epsilon)
        running_mean[c] += momentum * (mean - running_mean[c])
        running_variance[c] += momentum * (squares / max(1, total - 1) - running_variance[c])
        for k in range(c, row, channels):
            weights[at + MEAN * row + k], weights[at + SCALE * row + k] = mean, scale
            weights[at + FACTOR * row + k] = weight[c] * scale
            weights[at + OFFSET * row + k] = bias[c] - mean * (weight[c] * scale)


@inlined
def norm_totals(instruction, weights, work, parts, count, gradients):  # type: ignore[no-untyped-def]
    """Compute the gradients with respect to weight and bias, and the means that the input's gradient needs."""
    op = _decode_norm_totals(instruction)
    row, channels, at = op.row_size, op.channels, op.statistics
    for c in range(channels):
        d_weight, d_bias = 0.0, 0.0
        for part in range(parts):
            d_weight += work[part, op.sums + c]
            d_bias += work[part, op.sums + channels + c]
        gradients[op.weight + c], gradients[op.bias + c] = d_weight, d_bias
        for k in range(c, row, channels):
            weights[at + G_MEAN * row + k] = d_bias / (count * op.pixels)
            weights[at + SLOPE * row + k] = weights[at + SCALE * row + k] * d_weight / (count * op.pixels)
