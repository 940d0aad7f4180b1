"""Losses; each operation returns one value per image."""

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.support.arrays import Floats, Integers, flat_rows, per_row
from hlf_np.support.checks import check_labels


def cross_entropy(logits: Tensor, labels: Integers) -> Tensor:
    """Compute -log softmax(logits)[label] of each row, L in the paper; the gradient is softmax - one_hot.

    This is L = log sum_j exp(f_j) - f_y, and the derivative of its first term with respect to f_k is
    exp(f_k) / sum_j exp(f_j).

    Parameters
    ----------
    logits : Tensor, shape (N, classes)
        Logits f.
    labels : ndarray of int64, shape (N,)
        True classes y.

    Returns
    -------
    Tensor, shape (N,)
        The losses, in nats.

    Raises
    ------
    UserError
        If the labels are not one class per row.

    Examples
    --------
    Odds of 3 to 1 are a probability of 0.75:

    >>> logits = Tensor(np.log([[3.0, 1.0]]), requires_grad=True)
    >>> loss = cross_entropy(logits, np.array([0]))
    >>> loss.backward()
    >>> np.exp(-loss.data).round(6).tolist(), logits.gradient.round(6).tolist()
    ([0.75], [[-0.25, 0.25]])
    """
    labels = check_labels(labels, logits.shape[1], len(logits.data))
    rows = np.arange(len(labels))
    shifted = logits.data - logits.data.max(axis=1, keepdims=True)  # so that exp does not overflow
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1)
    losses = np.log(sums) - shifted[rows, labels]

    def backward(g: Floats) -> tuple[Floats]:
        d_logits = exponentials / sums[:, None]
        d_logits[rows, labels] -= 1
        return (d_logits * g[:, None],)

    return Tensor.result(losses, (logits,), backward)


def log_softmax(logits: Floats) -> Floats:
    """Compute log softmax(logits) of each row (N, classes), which leaves log-probabilities as they are."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def kl_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence KL(p || q) = sum_k p_k log(p_k / q_k) of the softmaxes of each row.

    With dp_k / df_j = p_k ([k = j] - p_j), the derivative with respect to a logit f_j of p is
    p_j (log(p_j / q_j) - KL). With respect to a logit of q it is q_j - p_j, as sum_k p_k = 1: that of the cross-entropy
    with p instead of a label.

    Parameters
    ----------
    p_logits : Tensor, shape (N, classes)
        Logits of p.
    q_logits : Tensor, shape (N, classes)
        Logits of q.

    Returns
    -------
    Tensor, shape (N,)
        The divergences, in nats.

    Examples
    --------
    p = (1/2, 1/2) and q = (1/4, 3/4) have the divergence log(2) / 2 + log(2 / 3) / 2 = log(4 / 3) / 2:

    >>> p, q = Tensor(np.zeros((1, 2))), Tensor(np.log([[1.0, 3.0]]), requires_grad=True)
    >>> divergence = kl_divergence(p, q)
    >>> divergence.backward()
    >>> np.exp(2 * divergence.data).round(6).tolist(), q.gradient.round(6).tolist()
    ([1.333333], [[-0.25, 0.25]])
    """
    log_p, log_q = log_softmax(p_logits.data), log_softmax(q_logits.data)
    p, log_ratios = np.exp(log_p), log_p - log_q
    divergences = (p * log_ratios).sum(axis=1)

    def backward(g: Floats) -> tuple[Floats, Floats]:
        return g[:, None] * p * (log_ratios - divergences[:, None]), g[:, None] * (np.exp(log_q) - p)

    return Tensor.result(divergences, (p_logits, q_logits), backward)


def absolute_error(x: Tensor, target: Tensor) -> Tensor:
    """Compute the sum of |x - target| over the entries of each image; the derivative at 0 is taken as 0.

    Parameters
    ----------
    x : Tensor, shape (N, ...)
        Images.
    target : Tensor, shape (N, ...)
        Images of the same shape.

    Returns
    -------
    Tensor, shape (N,)
        The sums.
    """
    difference = x.data - target.data

    def backward(g: Floats) -> tuple[Floats, Floats]:
        d_x = np.sign(difference) * per_row(g, difference)
        return d_x, -d_x

    return Tensor.result(np.abs(flat_rows(difference)).sum(axis=1), (x, target), backward)


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence KL(N(m, s^2) || N(0, 1)), summed over the columns of each row.

    With v = log s^2, and E the expectation over z from N(m, s^2), each column contributes:

        E[log N(z; m, s^2) - log N(z; 0, 1)] = E[-v / 2 - (z - m)^2 / (2 s^2) + z^2 / 2]
                                             = (m^2 + e^v - v - 1) / 2

    since E[(z - m)^2] = s^2 and E[z^2] = m^2 + s^2. The derivatives with respect to m and v are m and (e^v - 1) / 2:
    gradient descent pulls the mean to 0 and the variance to 1, where the divergence is 0.

    Parameters
    ----------
    mean : Tensor, shape (N, L)
        m.
    log_variance : Tensor, shape (N, L)
        v.

    Returns
    -------
    Tensor, shape (N,)
        The divergences, in nats.

    References
    ----------
    Kingma and Welling, 2014, appendix B.

    Examples
    --------
    >>> mean, log_variance = Tensor(np.array([[0.0, 0.0], [2.0, 0.0]])), Tensor(np.zeros((2, 2)))
    >>> gaussian_divergence(mean, log_variance).data.tolist()
    [0.0, 2.0]
    """
    m, v = mean.data, log_variance.data
    variance = np.exp(v)
    divergence = ((m * m + variance - v - 1) / 2).sum(axis=1)
    parents = (mean, log_variance)
    return Tensor.result(divergence, parents, lambda g: [g[:, None] * m, g[:, None] * (variance - 1) / 2])
