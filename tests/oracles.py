"""Reference implementations of the operations in float64, written from their definitions and without regard for speed.

They do not use the package. Images are (N, H, W, C), weights of convolutions (O, C, kh, kw).
"""

import numpy as np


def _double(*arrays):
    return tuple(np.asarray(array, np.float64) for array in arrays)


def _windows(padded, kernel, stride):
    """Yield each output pixel (i, j) with the slices of its window."""
    (kh, kw), (height, width) = kernel, padded.shape[1:3]
    for i in range((height - kh) // stride + 1):
        for j in range((width - kw) // stride + 1):
            yield i, j, np.s_[:, i * stride : i * stride + kh, j * stride : j * stride + kw]


def _zero_padded(x, padding):
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def convolution(x, weight, bias, stride, padding):
    """Compute y[n, i, j, o] = bias[o] + sum_{a, b, c} x[n, s i + a - p, s j + b - p, c] w[o, c, a, b]."""
    x, weight, bias = _double(x, weight, bias)
    padded, kernel = _zero_padded(x, padding), weight.shape[2:]
    height, width = ((n - k) // stride + 1 for n, k in zip(padded.shape[1:3], kernel, strict=True))
    y = np.empty((len(x), height, width, len(weight)))
    for i, j, window in _windows(padded, kernel, stride):
        y[:, i, j] = bias + np.einsum("nabc,ocab->no", padded[window], weight)
    return y


def convolution_input_gradient(g, weight, stride, padding, size):
    """Add the gradient of each output pixel to all pixels of its window."""
    g, weight = _double(g, weight)
    gradient = np.zeros((len(g), size[0] + 2 * padding, size[1] + 2 * padding, weight.shape[1]))
    for i, j, window in _windows(gradient, weight.shape[2:], stride):
        gradient[window] += np.einsum("no,ocab->nabc", g[:, i, j], weight)
    return gradient[:, padding : padding + size[0], padding : padding + size[1]]


def convolution_weight_gradient(x, g, kernel, stride, padding):
    """Sum, for each weight, over everything that it was multiplied by."""
    x, g = _double(x, g)
    padded = _zero_padded(x, padding)
    gradient = np.zeros((g.shape[3], x.shape[3], *kernel))
    for i, j, window in _windows(padded, kernel, stride):
        gradient += np.einsum("nabc,no->ocab", padded[window], g[:, i, j])
    return gradient


def transposed_convolution(x, weight, bias, stride, padding, output_padding):
    """Add a multiple of the kernel (C, O, kh, kw) for every pixel of x; then cut off the border."""
    x, weight, bias = _double(x, weight, bias)
    n, height, width, _ = x.shape
    _, out_channels, kh, kw = weight.shape
    rows, columns = (height - 1) * stride + kh + output_padding, (width - 1) * stride + kw + output_padding
    padded = np.zeros((n, rows, columns, out_channels))
    for i in range(height):
        for j in range(width):
            stamp = np.einsum("nc,coab->nabo", x[:, i, j], weight)
            padded[:, i * stride : i * stride + kh, j * stride : j * stride + kw] += stamp
    return padded[:, padding : rows - padding, padding : columns - padding] + bias


def max_pool(x, kernel, stride):
    return _pool(x, kernel, stride, np.max)


def average_pool(x, kernel, stride):
    return _pool(x, kernel, stride, np.mean)


def _pool(x, kernel, stride, summary):
    (x,) = _double(x)
    height, width = ((n - kernel) // stride + 1 for n in x.shape[1:3])
    y = np.empty((len(x), height, width, x.shape[3]))
    for i, j, window in _windows(x, (kernel, kernel), stride):
        y[:, i, j] = summary(x[window], axis=(1, 2))
    return y


def _hat(distance):
    """Return the weight of a pixel at this distance along one axis in bilinear interpolation."""
    return np.maximum(0, 1 - np.abs(distance))


def _hat_slope(distance):
    """Return the derivative of `_hat`."""
    return np.where(np.abs(distance) < 1, -np.sign(distance), 0)


def _positions(matrices, height, width):
    """Return the rows and columns (N, H, W) that output pixels sample, and their own normalized (x, y, 1)."""
    rows, columns = (np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in (height, width))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    output = np.stack([x, y, np.ones_like(x)])  # (3, H, W)
    sampled = np.einsum("nkm,mij->nkij", matrices, output)
    return (sampled[:, 1] + 1) / 2 * (height - 1), (sampled[:, 0] + 1) / 2 * (width - 1), output


def _distances(matrices, height, width):
    rows, columns, output = _positions(matrices, height, width)
    return rows[..., None] - np.arange(height), columns[..., None] - np.arange(width), output


def warp(images, matrices):
    """Compute out[n, i, j] = sum_{r, c} hat(row - r) hat(column - c) image[n, r, c]; pixels outside count as 0."""
    images, matrices = _double(images, matrices)
    rows, columns, _ = _distances(matrices, *images.shape[1:3])
    return np.einsum("nijr,nijc,nrck->nijk", _hat(rows), _hat(columns), images, optimize=True)


def warp_gradient(images, matrices, g):
    """Differentiate that formula with respect to the images and to the matrices."""
    images, matrices, g = _double(images, matrices, g)
    height, width = images.shape[1:3]
    rows, columns, output = _distances(matrices, height, width)
    d_images = np.einsum("nijr,nijc,nijk->nrck", _hat(rows), _hat(columns), g, optimize=True)
    d_row = np.einsum("nijr,nijc,nrck,nijk->nij", _hat_slope(rows), _hat(columns), images, g, optimize=True)
    d_column = np.einsum("nijr,nijc,nrck,nijk->nij", _hat(rows), _hat_slope(columns), images, g, optimize=True)
    d_position = np.stack([d_column * (width - 1) / 2, d_row * (height - 1) / 2], axis=1)  # (N, 2, H, W)
    return d_images, np.einsum("nkij,mij->nkm", d_position, output)


def affine_matrix(parameters):
    """Compute the protocol's sampling matrices of (u, v, hx, hy, s, r)."""
    matrices = []
    for u, v, hx, hy, s, r in np.asarray(parameters, np.float64):
        matrices.append(
            [
                [s * np.cos(r) - s * hx * np.sin(r), -s * np.sin(r) + s * hx * np.cos(r), u],
                [s * hy * np.cos(r) + s * np.sin(r), -s * hy * np.sin(r) + s * np.cos(r), v],
            ]
        )
    return np.array(matrices)


def batch_norm(x, weight, bias, epsilon):
    """Normalize channel by channel; also return the mean and the biased variance."""
    x, weight, bias = _double(x, weight, bias)
    y, axes = np.empty_like(x), tuple(range(x.ndim - 1))
    for c in range(x.shape[-1]):
        channel = x[..., c]
        y[..., c] = weight[c] * (channel - channel.mean()) / np.sqrt(channel.var() + epsilon) + bias[c]
    return y, x.mean(axis=axes), x.var(axis=axes)


def softmax(logits):
    (logits,) = _double(logits)
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def cross_entropy(logits, labels):
    """Compute -log of the probability of the label, row by row."""
    return np.array([-np.log(row[label]) for row, label in zip(softmax(logits), labels, strict=True)])


def kl_divergence(p_logits, q_logits):
    """Compute sum_k p_k log(p_k / q_k), row by row."""
    return np.array(
        [sum(p * np.log(p / q) for p, q in zip(*rows, strict=True))
         for rows in zip(softmax(p_logits), softmax(q_logits), strict=True)]
    )  # fmt: skip


def absolute_error(x, target):
    """Compute the sum of |x - target|, row by row."""
    x, target = _double(x, target)
    return np.array(
        [sum(abs(a - b) for a, b in zip(p.ravel(), q.ravel(), strict=True)) for p, q in zip(x, target, strict=True)]
    )


def gaussian_divergence(mean, log_variance, points=20_001):
    """Integrate q log(q / p) for q = N(mean, exp(log_variance)) and p = N(0, 1), by the trapezoidal rule.

    The integral is over 12 standard deviations of q to both sides, beyond which it is below 1e-30.
    """
    divergences = np.zeros(len(mean))
    for row, (means, log_variances) in enumerate(zip(*_double(mean, log_variance), strict=True)):
        for m, v in zip(means, log_variances, strict=True):
            s = np.exp(v / 2)
            z = np.linspace(m - 12 * s, m + 12 * s, points)
            log_q = -((z - m) ** 2) / (2 * s * s) - np.log(s * np.sqrt(2 * np.pi))
            log_p = -(z**2) / 2 - np.log(np.sqrt(2 * np.pi))
            divergences[row] += (np.exp(log_q) * (log_q - log_p)).sum() * (z[1] - z[0])
    return divergences


def adam(start, gradients, rates, betas, epsilon, weight_decay):
    """Return the weights after one step per gradient: algorithm 1 of Kingma and Ba, weight decay in the gradient."""
    w, m, v = np.array(start, np.float64), 0.0, 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        g = np.asarray(gradient, np.float64) + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        w = w - rate * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + epsilon)
    return w
