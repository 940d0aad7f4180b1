"""Batch norm in training: the instructions of one part of a batch, and what brings the parts together.

Whole rows of pixels are treated at once: the statistics are repeated for each pixel of a row, so that the inner loops
are long and become vector instructions.
"""

import math

import numpy as np

from hlf_np.kernels import training_instructions as kinds
from hlf_np.kernels.compiling import inner, pasted
from hlf_np.kernels.convolution import copy
from hlf_np.kernels.instructions import decoder
from hlf_np.kernels.tile import ADD, GATE

# The statistics of a batch norm, each repeated for a row of pixels.
MEAN, SCALE, FACTOR, OFFSET, G_MEAN, SLOPE = 0, 1, 2, 3, 4, 5
STATISTICS_ROWS = 6

_moments_of, _normalize_of = decoder(kinds.Moments), decoder(kinds.Normalize)
_norm_sums_of, _norm_gradient_of, _bias_sums_of = map(decoder, (kinds.NormSums, kinds.NormGradient, kinds.BiasSums))
_statistics_of, _norm_totals_of = decoder(kinds.Statistics), decoder(kinds.NormTotals)


@inner
def _fold(rows, channels, totals):  # type: ignore[no-untyped-def]
    """Add the sums of each pixel of a row to those of the channels."""
    for first in range(0, rows.size, channels):
        pixel = rows[first:]
        for c in range(channels):
            totals[c] += pixel[c]


@pasted
def moments(instruction, tables, work, images):  # type: ignore[no-untyped-def]
    """Mean of each channel over a part's pixels, and the sum of squared distances from it: two passes, so that nothing
    cancels; single precision within an image, double beyond."""
    op = _moments_of(instruction)
    rows, row, channels = op.rows, op.row, op.channels
    total, sums, mean = np.empty(channels, np.float64), np.empty(row, np.float32), np.zeros(row, np.float32)
    for squared in (False, True):
        total[:] = 0
        for image in range(images):
            sums[:] = 0
            for i in range(image * rows, (image + 1) * rows):
                x = work[tables[op.x + i] :]
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
        to = work[op.moments + channels * squared :]
        for c in range(channels):
            to[c] = total[c]


@pasted
def normalize(instruction, tables, weights, work, images):  # type: ignore[no-untyped-def]
    """y = x * factor + offset, and its positive part if asked."""
    op = _normalize_of(instruction)
    factor, offset = weights[op.statistics + FACTOR * op.row :], weights[op.statistics + OFFSET * op.row :]
    least = np.float32(0) if op.rectified else np.float32(-np.inf)
    for i in range(images * op.rows):
        x, y = work[tables[op.x + i] :], work[tables[op.y + i] :]
        for k in range(op.row):
            value = x[k] * factor[k] + offset[k]
            y[k] = least if value < least else value


@pasted
def norm_sums(instruction, tables, weights, work, images):  # type: ignore[no-untyped-def]
    """A part's gradients to weight and bias: sums of g * xhat, xhat = (x - mean) * scale, and of g."""
    op = _norm_sums_of(instruction)
    rows, row, channels = op.rows, op.row, op.channels
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


@pasted
def norm_gradient(instruction, tables, weights, work, images):  # type: ignore[no-untyped-def]
    """d = factor * (g - mean(g) - (x - mean) * slope); see `operations.batch_norm`."""
    op = _norm_gradient_of(instruction)
    row, at = op.row, op.statistics
    mean, factor = weights[at + MEAN * row :], weights[at + FACTOR * row :]
    g_mean, slope = weights[at + G_MEAN * row :], weights[at + SLOPE * row :]
    g = np.empty(row, np.float32)  # a copy, as d often takes the place of g: vector instructions must keep them apart
    for i in range(images * op.rows):
        x, d = work[tables[op.x + i] :], work[tables[op.d + i] :]
        copy(work[tables[op.g + i] :], g, row)
        if op.finish & ADD:
            for k in range(row):
                d[k] += factor[k] * (g[k] - g_mean[k] - (x[k] - mean[k]) * slope[k])
        else:
            for k in range(row):
                d[k] = factor[k] * (g[k] - g_mean[k] - (x[k] - mean[k]) * slope[k])
        if op.finish & GATE:
            gate = work[tables[op.gates + i] :]
            for k in range(row):
                d[k] = d[k] if gate[k] > 0 else np.float32(0)


@pasted
def bias_sums(instruction, tables, work, images):  # type: ignore[no-untyped-def]
    """A part's gradient to a bias: the sum of g."""
    op = _bias_sums_of(instruction)
    sums = np.zeros(op.row, np.float32)
    for i in range(images * op.rows):
        g = work[tables[op.gradients + i] :]
        for k in range(op.row):
            sums[k] += g[k]
    work[op.sums : op.sums + op.channels] = 0
    _fold(sums, op.channels, work[op.sums :])


@pasted
def statistics(instruction, weights, work, parts, count, images):  # type: ignore[no-untyped-def]
    """Mean and variance of the batch from those of its parts (Chan et al., 1979), and what follows from them."""
    op = _statistics_of(instruction)
    row, channels, moments, at = op.row, op.channels, op.moments, op.statistics
    weight, bias = weights[op.weight :], weights[op.bias :]
    running_mean, running_variance = weights[op.running_mean :], weights[op.running_variance :]
    momentum, epsilon = weights[op.settings], weights[op.settings + 1]
    total = count * op.pixels
    for c in range(channels):
        mean, squares = 0.0, 0.0
        for part in range(parts):
            mean += work[part, moments + c] * (min(images, count - part * images) / count)
        for part in range(parts):
            distance = work[part, moments + c] - mean
            of_part = min(images, count - part * images) * op.pixels
            squares += work[part, moments + channels + c] + of_part * distance * distance
        scale = 1 / math.sqrt(squares / total + epsilon)
        running_mean[c] += momentum * (mean - running_mean[c])
        running_variance[c] += momentum * (squares / max(1, total - 1) - running_variance[c])
        for k in range(c, row, channels):
            weights[at + MEAN * row + k], weights[at + SCALE * row + k] = mean, scale
            weights[at + FACTOR * row + k] = weight[c] * scale
            weights[at + OFFSET * row + k] = bias[c] - mean * (weight[c] * scale)


@pasted
def norm_totals(instruction, weights, work, parts, count, gradients):  # type: ignore[no-untyped-def]
    """The gradients to weight and bias, and what that to the input needs of them."""
    op = _norm_totals_of(instruction)
    row, channels, at = op.row, op.channels, op.statistics
    for c in range(channels):
        d_weight, d_bias = 0.0, 0.0
        for part in range(parts):
            d_weight += work[part, op.sums + c]
            d_bias += work[part, op.sums + channels + c]
        gradients[op.weight + c], gradients[op.bias + c] = d_weight, d_bias
        for k in range(c, row, channels):
            weights[at + G_MEAN * row + k] = d_bias / (count * op.pixels)
            weights[at + SLOPE * row + k] = weights[at + SCALE * row + k] * d_weight / (count * op.pixels)
