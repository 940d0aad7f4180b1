"""Batch normalisation."""

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor
from hlf_np.errors import UserError


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5) -> tuple[Tensor, Floats, Floats]:
    """Batch normalisation with the batch's own statistics (training mode).

    Per channel, over all M = N H W positions::

        xhat = (x - mean) / s,   s = sqrt(variance + epsilon),   y = weight xhat + bias

    The mean and s depend on every x. With d mean / d x_j = 1 / M, and d s / d x_j = (x_j - mean) / (M s) = xhat_j / M,
    the quotient rule gives::

        d xhat_i / d x_j = ([i = j] - 1 / M - xhat_i xhat_j / M) / s

    and the chain rule, sum_i weight g_i d xhat_i / d x_j, one product for each of the three terms::

        dx = weight / s * (g - mean(g) - xhat mean(g xhat)),   dweight = sum(g xhat),   dbias = sum(g)

    So each gradient is corrected for the two directions along which xhat cannot change, a common shift and a common
    scaling.

    Parameters
    ----------
    x : (..., C); weight, bias : (C,).

    Returns
    -------
    y, and the batch's mean and (biased) variance, (C,) each, for the running statistics.

    Raises
    ------
    UserError : for a single value of each channel: it is its own mean, and the output would be the bias, whatever x.

    Source: Ioffe and Szegedy, 2015.

    Examples
    --------
    >>> x = Tensor(np.array([[1.0, 10.0], [3.0, 50.0]]))
    >>> y, average, variance = batch_norm(x, Tensor(np.ones(2)), Tensor(np.zeros(2)), epsilon=0)
    >>> y.data.tolist(), average.tolist(), variance.tolist()
    ([[-1.0, -1.0], [1.0, 1.0]], [2.0, 30.0], [1.0, 400.0])
    """
    rows = x.data.reshape(-1, x.shape[-1])  # (M, C)
    if len(rows) < 2:
        raise UserError(f"batch norm needs at least 2 values of each channel in training, not {len(rows)}")
    average = _mean(rows)
    centred = rows - average
    variance = _mean(np.square(centred))
    scale = 1 / np.sqrt(variance + rows.dtype.type(epsilon))
    normalised = centred * scale

    def backward(g: Floats) -> tuple[Floats, Floats, Floats]:
        g = g.reshape(rows.shape)
        g_mean, slope = _mean(g), _mean(g * normalised)
        d_x = weight.data * scale * (g - g_mean - normalised * slope)
        return d_x.reshape(x.shape), slope * len(rows), g_mean * len(rows)

    y = normalised * weight.data + bias.data
    return Tensor.result(y.reshape(x.shape), (x, weight, bias), backward), average, variance


def _mean(rows: Floats) -> Floats:
    """Of every column of (M, C); summed in double precision, as thousands of terms are added one by one."""
    return np.asarray(rows.mean(axis=0, dtype=np.float64), rows.dtype)


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
