"""Batch norm in training: the operations of one part of a batch, and what brings the parts together.

The fields of the operations (`op`) are listed in `training`. Whole rows of pixels are treated at once: the statistics
are repeated for each pixel of a row, so that the inner loops are long and become vector instructions.
"""

import math

import numpy as np

from hlf_np.kernels.compiling import inner, pasted
from hlf_np.kernels.convolution import copy

# The statistics of a batch norm, each repeated for a row of pixels.
MEAN, SCALE, FACTOR, OFFSET, G_MEAN, SLOPE = 0, 1, 2, 3, 4, 5
STATISTICS_ROWS = 6


@inner
def _fold(rows, channels, totals):  # type: ignore[no-untyped-def]
    """Add the sums of each pixel of a row to those of the channels."""
    for first in range(0, rows.size, channels):
        pixel = rows[first:]
        for c in range(channels):
            totals[c] += pixel[c]


@pasted
def moments(op, tables, work, images):  # type: ignore[no-untyped-def]
    """Mean of each channel over a part's pixels, and the sum of squared distances from it: two passes, so that nothing
    cancels; single precision within an image, double beyond."""
    x_rows, rows, row, channels, moments = op[1], op[2], op[3], op[4], op[5]
    total, sums, mean = np.empty(channels, np.float64), np.empty(row, np.float32), np.zeros(row, np.float32)
    for squared in (False, True):
        total[:] = 0
        for image in range(images):
            sums[:] = 0
            for i in range(image * rows, (image + 1) * rows):
                x = work[tables[x_rows + i] :]
                if squared:
                    for k in range(row):
                        distance = x[k] - mean[k]
                        sums[k] += distance * distance
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
        to = work[moments + channels * squared :]
        for c in range(channels):
            to[c] = total[c]


@pasted
def normalize(op, tables, weights, work, images):  # type: ignore[no-untyped-def]
    """y = x * factor + offset, and its positive part if asked."""
    x_rows, rows, row, at, y_rows, rectify = op[1], op[2], op[3], op[4], op[5], op[6]
    factor, offset = weights[at + FACTOR * row :], weights[at + OFFSET * row :]
    least = np.float32(0) if rectify else np.float32(-np.inf)
    for i in range(images * rows):
        x, y = work[tables[x_rows + i] :], work[tables[y_rows + i] :]
        for k in range(row):
            value = x[k] * factor[k] + offset[k]
            y[k] = least if value < least else value


@pasted
def norm_sums(op, tables, weights, work, images):  # type: ignore[no-untyped-def]
    """A part's gradients to weight and bias: sums of g * xhat, xhat = (x - mean) * scale, and of g."""
    x_rows, rows, row, channels, at, g_rows, to = op[1], op[2], op[3], op[4], op[5], op[6], op[7]
    mean, scale = weights[at + MEAN * row :], weights[at + SCALE * row :]
    total = np.zeros((2, channels), np.float64)
    products, sums = np.empty(row, np.float32), np.empty(row, np.float32)
    for image in range(images):
        products[:], sums[:] = 0, 0
        for i in range(image * rows, (image + 1) * rows):
            x, g = work[tables[x_rows + i] :], work[tables[g_rows + i] :]
            for k in range(row):
                sums[k] += g[k]
                products[k] += g[k] * (x[k] - mean[k])
        _fold(products, channels, total[0])
        _fold(sums, channels, total[1])
    for c in range(channels):
        work[to + c], work[to + channels + c] = total[0, c] * scale[c], total[1, c]


@pasted
def norm_gradient(op, tables, weights, work, images):  # type: ignore[no-untyped-def]
    """d = factor * (g - mean(g) - (x - mean) * slope); see `operations.batch_norm`."""
    x_rows, rows, row, at, g_rows, d_rows = op[1], op[2], op[3], op[4], op[5], op[6]
    mean, factor = weights[at + MEAN * row :], weights[at + FACTOR * row :]
    g_mean, slope = weights[at + G_MEAN * row :], weights[at + SLOPE * row :]
    g = np.empty(row, np.float32)  # a copy, as d often takes the place of g: vector instructions must keep them apart
    for i in range(images * rows):
        x, d = work[tables[x_rows + i] :], work[tables[d_rows + i] :]
        copy(work[tables[g_rows + i] :], g, row)
        for k in range(row):
            d[k] = factor[k] * (g[k] - g_mean[k] - (x[k] - mean[k]) * slope[k])


@pasted
def bias_sums(op, tables, work, images):  # type: ignore[no-untyped-def]
    """A part's gradient to a bias: the sum of g."""
    g_rows, rows, row, channels, to = op[1], op[2], op[3], op[4], op[5]
    sums = np.zeros(row, np.float32)
    for i in range(images * rows):
        g = work[tables[g_rows + i] :]
        for k in range(row):
            sums[k] += g[k]
    work[to : to + channels] = 0
    _fold(sums, channels, work[to:])


@pasted
def statistics(op, weights, work, parts, count, images):  # type: ignore[no-untyped-def]
    """Mean and variance of the batch from those of its parts (Chan et al., 1979), and what follows from them."""
    pixels, channels, row, moments, at = op[1], op[2], op[3], op[4], op[5]
    weight, bias, running_mean, running_variance = (
        weights[op[6] :],
        weights[op[7] :],
        weights[op[8] :],
        weights[op[9] :],
    )
    momentum, epsilon = weights[op[10]], weights[op[10] + 1]
    total = count * pixels
    for c in range(channels):
        mean, squares = 0.0, 0.0
        for part in range(parts):
            mean += work[part, moments + c] * (min(images, count - part * images) / count)
        for part in range(parts):
            distance = work[part, moments + c] - mean
            of_part = min(images, count - part * images) * pixels
            squares += work[part, moments + channels + c] + of_part * distance * distance
        scale = 1 / math.sqrt(squares / total + epsilon)
        running_mean[c] += momentum * (mean - running_mean[c])
        running_variance[c] += momentum * (squares / max(1, total - 1) - running_variance[c])
        for k in range(c, row, channels):
            weights[at + MEAN * row + k], weights[at + SCALE * row + k] = mean, scale
            weights[at + FACTOR * row + k] = weight[c] * scale
            weights[at + OFFSET * row + k] = bias[c] - mean * (weight[c] * scale)


@pasted
def norm_totals(op, weights, work, parts, count, gradients):  # type: ignore[no-untyped-def]
    """The gradients to weight and bias, and what that to the input needs of them."""
    pixels, channels, row, sums, at = op[1], op[2], op[3], op[4], op[5]
    for c in range(channels):
        d_weight, d_bias = 0.0, 0.0
        for part in range(parts):
            d_weight += work[part, sums + c]
            d_bias += work[part, sums + channels + c]
        gradients[op[6] + c], gradients[op[7] + c] = d_weight, d_bias
        for k in range(c, row, channels):
            weights[at + G_MEAN * row + k] = d_bias / (count * pixels)
            weights[at + SLOPE * row + k] = weights[at + SCALE * row + k] * d_weight / (count * pixels)
