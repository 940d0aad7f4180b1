"""Losses, one for each image."""

import numpy as np

from hlf_np.arrays import Floats, Integers, flat_rows
from hlf_np.autodiff import Tensor


def cross_entropy(logits: Tensor, labels: Integers) -> Tensor:
    """-log softmax(logits)[label] for each row, L in the paper; the gradient is softmax - one_hot.

    For L = log sum_j exp(f_j) - f_y, and the derivative of the first term to f_k is exp(f_k) / sum_j exp(f_j).

    Parameters
    ----------
    logits : (N, classes); labels : (N,) int64.

    Returns
    -------
    (N,) losses.

    Examples
    --------
    A network that says 3 to 1 is wrong one time in four.

    >>> logits = Tensor(np.log([[3.0, 1.0]]), requires_grad=True)
    >>> loss = cross_entropy(logits, np.array([0]))
    >>> loss.backward()
    >>> np.exp(-loss.data).round(6).tolist(), logits.gradient.round(6).tolist()
    ([0.75], [[-0.25, 0.25]])
    """
    rows = np.arange(len(labels))
    shifted = logits.data - logits.data.max(axis=1, keepdims=True)  # no overflow in exp
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1)
    losses = np.log(sums) - shifted[rows, labels]

    def backward(g: Floats) -> tuple[Floats]:
        d_logits = exponentials / sums[:, None]
        d_logits[rows, labels] -= 1
        return (d_logits * g[:, None],)

    return Tensor.result(losses, (logits,), backward)


def absolute_error(x: Tensor, target: Tensor) -> Tensor:
    """sum |x - target| over the entries of each row, (N, ...) twice to (N,); the derivative at 0 is taken as 0."""
    difference = x.data - target.data

    def backward(g: Floats) -> tuple[Floats, Floats]:
        d_x = np.sign(difference) * g.reshape(-1, *[1] * (difference.ndim - 1))
        return d_x, -d_x

    return Tensor.result(np.abs(flat_rows(difference)).sum(axis=1), (x, target), backward)


def gaussian_divergence(average: Tensor, log_variance: Tensor) -> Tensor:
    """The Kullback-Leibler divergence KL(N(m, s^2) || N(0, 1)), summed over the columns of each row.

    With v = log s^2, and E the expectation over z from N(m, s^2), one column contributes::

        E[log N(z; m, s^2) - log N(z; 0, 1)] = E[-v / 2 - (z - m)^2 / (2 s^2) + z^2 / 2]
                                             = (m^2 + e^v - v - 1) / 2

    since E[(z - m)^2] = s^2 and E[z^2] = m^2 + s^2. Hence the derivatives m and (e^v - 1) / 2: the mean is pulled to 0
    and the variance to 1, where the divergence is 0.

    Parameters
    ----------
    average, log_variance : m and v, (N, L).

    Returns
    -------
    (N,), in nats.

    Source: Kingma and Welling, 2014, appendix B.

    Examples
    --------
    >>> average, log_variance = Tensor(np.array([[0.0, 0.0], [2.0, 0.0]])), Tensor(np.zeros((2, 2)))
    >>> gaussian_divergence(average, log_variance).data.tolist()
    [0.0, 2.0]
    """
    m, v = average.data, log_variance.data
    variance = np.exp(v)
    divergence = ((m * m + variance - v - 1) / 2).sum(axis=1)
    parents = (average, log_variance)
    return Tensor.result(divergence, parents, lambda g: [g[:, None] * m, g[:, None] * (variance - 1) / 2])
