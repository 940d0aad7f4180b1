"""Batch normalization, with the statistics of the batch or with given ones."""

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.support.arrays import Floats
from hlf_np.support.errors import UserError


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5) -> tuple[Tensor, Floats, Floats]:
    """Normalize each channel with the statistics of the batch (training mode).

    Per channel, over all M = N H W positions:

        xhat = (x - mean) / s,   s = sqrt(variance + epsilon),   y = weight xhat + bias

    The mean and s depend on every x. With d mean / d x_j = 1 / M, and d s / d x_j = (x_j - mean) / (M s) = xhat_j / M,
    the quotient rule gives:

        d xhat_i / d x_j = ([i = j] - 1 / M - xhat_i xhat_j / M) / s

    and the chain rule, sum_i weight g_i d xhat_i / d x_j, one term for each of these three:

        dx = weight / s * (g - mean(g) - xhat mean(g xhat)),   dweight = sum(g xhat),   dbias = sum(g)

    So g is projected onto the directions in which xhat can change: adding a constant to all x, or scaling them, leaves
    xhat the same.

    Parameters
    ----------
    x : Tensor, shape (..., C)
        Inputs.
    weight : Tensor, shape (C,)
        Factor of each channel.
    bias : Tensor, shape (C,)
        Offset of each channel.
    epsilon : float
        Added to the variance.

    Returns
    -------
    y : Tensor, shape (..., C)
        Outputs.
    mean : ndarray, shape (C,)
        Mean of the batch, for the running statistics.
    variance : ndarray, shape (C,)
        Biased variance of the batch, for the running statistics.

    Raises
    ------
    UserError
        If each channel has a single value: it is its own mean, so the output would be the bias for every x.

    References
    ----------
    Ioffe and Szegedy, 2015.

    Examples
    --------
    >>> x = Tensor(np.array([[1.0, 10.0], [3.0, 50.0]]))
    >>> y, mean, variance = batch_norm(x, Tensor(np.ones(2)), Tensor(np.zeros(2)), epsilon=0)
    >>> y.data.tolist(), mean.tolist(), variance.tolist()
    ([[-1.0, -1.0], [1.0, 1.0]], [2.0, 30.0], [1.0, 400.0])
    """
    rows = x.data.reshape(-1, x.shape[-1])  # (M, C)
    if len(rows) < 2:
        raise UserError(f"batch norm needs at least 2 values of each channel in training, not {len(rows)}")
    mean = _column_means(rows)
    centred = rows - mean
    variance = _column_means(np.square(centred))
    scale = 1 / np.sqrt(variance + rows.dtype.type(epsilon))  # 1 / s
    normalized = centred * scale  # xhat

    def backward(g: Floats) -> tuple[Floats, Floats, Floats]:
        g = g.reshape(rows.shape)
        g_mean, g_normalized_mean = _column_means(g), _column_means(g * normalized)
        d_x = weight.data * scale * (g - g_mean - normalized * g_normalized_mean)
        return d_x.reshape(x.shape), g_normalized_mean * len(rows), g_mean * len(rows)

    y = normalized * weight.data + bias.data
    return Tensor.result(y.reshape(x.shape), (x, weight, bias), backward), mean, variance


def _column_means(rows: Floats) -> Floats:
    """Return the mean of every column of (M, C), summed in double precision, as M may be many thousands."""
    return np.asarray(rows.mean(axis=0, dtype=np.float64), rows.dtype)


def normalize(x: Tensor, weight: Tensor, bias: Tensor, mean: Floats, variance: Floats, epsilon: float = 1e-5) -> Tensor:
    """Normalize each channel with given statistics (evaluation mode): an affine map per channel.

    Parameters
    ----------
    x : Tensor, shape (..., C)
        Inputs.
    weight : Tensor, shape (C,)
        Factor of each channel.
    bias : Tensor, shape (C,)
        Offset of each channel.
    mean : ndarray, shape (C,)
        Mean of each channel.
    variance : ndarray, shape (C,)
        Variance of each channel.
    epsilon : float
        Added to the variance.

    Returns
    -------
    Tensor, shape (..., C)
        weight (x - mean) / sqrt(variance + epsilon) + bias.
    """
    scale = 1 / np.sqrt(variance + variance.dtype.type(epsilon))
    factor = weight.data * scale

    def backward(g: Floats) -> tuple[Floats | None, ...]:
        if not (weight.requires_grad or bias.requires_grad):
            return g * factor, None, None
        rows = g.reshape(-1, g.shape[-1])
        normalized = (x.data.reshape(rows.shape) - mean) * scale
        return g * factor, (rows * normalized).sum(axis=0), rows.sum(axis=0)

    return Tensor.result(x.data * factor + (bias.data - mean * factor), (x, weight, bias), backward)
