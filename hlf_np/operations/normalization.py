"""Batch normalisation."""

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor
from hlf_np.kernels.elementwise import column_moments, normalization_gradients, scale_columns


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5, rectify: bool = False
) -> tuple[Tensor, Floats, Floats]:
    """Batch normalisation with the batch's own statistics (training mode).

    Per channel, over all M = N H W positions::

        xhat = (x - mean) / s,   s = sqrt(variance + epsilon),   y = weight xhat + bias

    The mean and s depend on every x, so each gradient is corrected for the two directions along which xhat cannot
    change (a common shift and a common scaling)::

        dx = weight / s * (g - mean(g) - xhat mean(g xhat))

    Parameters
    ----------
    x : (..., C); weight, bias : (C,).
    rectify : return relu(y) instead, which saves two passes over memory; g then counts only where that is positive.

    Returns
    -------
    y, and the batch's mean and (biased) variance, (C,) each, for the running statistics.

    Source: Ioffe and Szegedy, 2015.
    """
    rows = np.ascontiguousarray(x.data).reshape(-1, x.shape[-1])  # (M, C)
    average, variance = column_moments(rows)
    scale = 1 / np.sqrt(variance + rows.dtype.type(epsilon))
    factor = weight.data * scale
    y = scale_columns(rows, factor, bias.data - average * factor, rectify)

    def backward(g: Floats) -> tuple[Floats, Floats, Floats]:
        g = np.ascontiguousarray(g).reshape(rows.shape)
        d_x, d_weight, d_bias = normalization_gradients(g, rows, y, average, scale, weight.data, rectify)
        return d_x.reshape(x.shape), d_weight, d_bias

    return Tensor.result(y.reshape(x.shape), (x, weight, bias), backward), average, variance


def normalize(
    x: Tensor, weight: Tensor, bias: Tensor, average: Floats, variance: Floats, epsilon: float = 1e-5
) -> Tensor:
    """Batch normalisation with given statistics (evaluation mode): an affine map per channel."""
    scale = 1 / np.sqrt(variance + epsilon)
    factor = weight.data * scale

    def backward(g: Floats) -> tuple[Floats | None, ...]:
        if not (weight.requires_grad or bias.requires_grad):
            return g * factor, None, None
        rows = g.reshape(-1, g.shape[-1])
        normalised = (x.data.reshape(rows.shape) - average) * scale
        return g * factor, (rows * normalised).sum(axis=0), rows.sum(axis=0)

    return Tensor.result(x.data * factor + (bias.data - average * factor), (x, weight, bias), backward)
