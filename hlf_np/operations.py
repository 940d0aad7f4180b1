"""The operations a network is made of: each computes its result and says how gradients flow back.

Images are channels last, (N, H, W, C); weights are laid out as PyTorch's. g stands for the gradient of
the loss with respect to the result. `add` and `multiply` are in `autodiff`, for `Tensor`'s operators.
"""

from collections.abc import Sequence

import numpy as np

from hlf_np.arrays import Booleans, Floats, Integers, flat_rows
from hlf_np.autodiff import Tensor
from hlf_np.kernels.convolution import convolve, convolve_input_gradient, convolve_weight_gradient
from hlf_np.kernels.elementwise import column_moments, gate, normalization_gradients, scale_columns
from hlf_np.kernels.warp import warp_image_gradient, warp_images, warp_matrix_gradient, warp_with_slopes

# --- elementwise ----------------------------------------------------------------------------------------------------


def relu(x: Tensor) -> Tensor:
    """max(x, 0); the derivative at 0 is taken as 0."""
    y = np.maximum(np.ascontiguousarray(x.data), 0)

    def backward(g: Floats) -> tuple[Floats]:
        d_x = np.empty_like(y)
        gate(np.ascontiguousarray(g).reshape(-1), y.reshape(-1), d_x.reshape(-1))
        return (d_x,)

    return Tensor.result(y, (x,), backward)


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """x where positive, slope * x elsewhere."""
    factor = np.where(x.data > 0, x.data.dtype.type(1), x.data.dtype.type(slope))

    def backward(g: Floats) -> tuple[Floats]:
        return (g * factor,)

    return Tensor.result(x.data * factor, (x,), backward)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), whose derivative is y (1 - y)."""
    # tanh never overflows, exp(-x) does
    y = 0.5 * (1 + np.tanh(0.5 * x.data))

    def backward(g: Floats) -> tuple[Floats]:
        return (g * y * (1 - y),)

    return Tensor.result(y, (x,), backward)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent, whose derivative is 1 - y^2."""
    y = np.tanh(x.data)

    def backward(g: Floats) -> tuple[Floats]:
        return (g * (1 - y * y),)

    return Tensor.result(y, (x,), backward)


def exponential(x: Tensor) -> Tensor:
    """e^x, its own derivative."""
    y = np.exp(x.data)

    def backward(g: Floats) -> tuple[Floats]:
        return (g * y,)

    return Tensor.result(y, (x,), backward)


# --- shape and sums -------------------------------------------------------------------------------------------------


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same entries in another shape; one axis may be -1."""

    def backward(g: Floats) -> tuple[Floats]:
        return (g.reshape(x.shape),)

    return Tensor.result(x.data.reshape(shape), (x,), backward)


def flatten(x: Tensor) -> Tensor:
    """(N, H, W, C) to (N, C H W): channel after channel, the order that PyTorch's weights expect."""
    n, h, w, c = x.shape

    def backward(g: Floats) -> tuple[Floats]:
        return (g.reshape(n, c, h, w).transpose(0, 2, 3, 1),)

    return Tensor.result(x.data.transpose(0, 3, 1, 2).reshape(n, c * h * w), (x,), backward)


def unflatten(x: Tensor, height: int, width: int) -> Tensor:
    """(N, C H W) to (N, H, W, C): the inverse of `flatten`."""
    n = x.shape[0]

    def backward(g: Floats) -> tuple[Floats]:
        return (g.transpose(0, 3, 1, 2).reshape(n, -1),)

    return Tensor.result(x.data.reshape(n, -1, height, width).transpose(0, 2, 3, 1), (x,), backward)


def columns(x: Tensor, first: int, last: int) -> Tensor:
    """Columns `first` to before `last` of x (N, D)."""

    def backward(g: Floats) -> tuple[Floats]:
        d_x = np.zeros_like(x.data)
        d_x[:, first:last] = g
        return (d_x,)

    return Tensor.result(x.data[:, first:last], (x,), backward)


def take(x: Tensor, rows: Integers) -> Tensor:
    """The rows x[rows] of x (N, ...), each at most once."""

    def backward(g: Floats) -> tuple[Floats]:
        d_x = np.zeros_like(x.data)
        d_x[rows] = g
        return (d_x,)

    return Tensor.result(x.data[rows], (x,), backward)


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts (N_i, ...), one part after the other."""
    ends = np.cumsum([len(part.data) for part in parts])

    def backward(g: Floats) -> list[Floats]:
        return np.split(g, ends[:-1])

    return Tensor.result(np.concatenate([part.data for part in parts]), tuple(parts), backward)


def mean(x: Tensor) -> Tensor:
    """The mean of all entries, a scalar."""

    def backward(g: Floats) -> tuple[Floats]:
        return (np.broadcast_to(g / x.data.size, x.shape),)

    return Tensor.result(np.asarray(x.data.mean()), (x,), backward)


# --- linear ---------------------------------------------------------------------------------------------------------


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution (cross-correlation, as everywhere in deep learning), zeros around the image.

    Parameters
    ----------
    x : (N, H, W, C); weight : (O, C, kh, kw); bias : (O,) or None.

    Returns
    -------
    (N, H', W', O) with H' = (H + 2 padding - kh) // stride + 1. The gradients are derived in `kernels.convolution`.
    """
    y = convolve(x.data, weight.data, None if bias is None else bias.data, stride, padding)
    kernel = (weight.shape[2], weight.shape[3])

    def backward(g: Floats) -> list[Floats | None]:
        size = (x.shape[1], x.shape[2])
        gradients: list[Floats | None] = [
            convolve_input_gradient(g, weight.data, None, stride, padding, size) if x.requires_grad else None,
            convolve_weight_gradient(x.data, g, kernel, stride, padding) if weight.requires_grad else None,
        ]
        return gradients if bias is None else [*gradients, g.sum(axis=(0, 1, 2)) if bias.requires_grad else None]

    return Tensor.result(y, (x, weight) if bias is None else (x, weight, bias), backward)


def transposed_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> Tensor:
    """The transpose of `convolution` as a linear map: its gradient to the input, taken as a forward pass.

    Parameters
    ----------
    x : (N, H, W, C); weight : (C, O, kh, kw); bias : (O,) or None.
    output_padding : rows and columns added at the end, where several sizes would convolve down to H.

    Returns
    -------
    (N, H', W', O) with H' = (H - 1) stride - 2 padding + kh + output_padding.
    """
    kernel = (weight.shape[2], weight.shape[3])
    height, width = (
        (n - 1) * stride - 2 * padding + k + output_padding for n, k in zip(x.shape[1:3], kernel, strict=True)
    )
    bias_data = None if bias is None else bias.data
    y = convolve_input_gradient(x.data, weight.data, bias_data, stride, padding, (height, width))

    def backward(g: Floats) -> list[Floats | None]:
        gradients: list[Floats | None] = [
            convolve(g, weight.data, None, stride, padding) if x.requires_grad else None,
            convolve_weight_gradient(g, x.data, kernel, stride, padding) if weight.requires_grad else None,
        ]
        return gradients if bias is None else [*gradients, g.sum(axis=(0, 1, 2)) if bias.requires_grad else None]

    return Tensor.result(y, (x, weight) if bias is None else (x, weight, bias), backward)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b for x (N, I), weight (O, I), bias (O,): a 1x1 convolution over images of one pixel."""
    n, inputs = x.shape
    pixels = reshape(x, (n, 1, 1, inputs))
    kernel = reshape(weight, (*weight.shape, 1, 1))
    return reshape(convolution(pixels, kernel, bias), (n, -1))


# --- normalisation --------------------------------------------------------------------------------------------------


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


# --- pooling --------------------------------------------------------------------------------------------------------


def _pooling_views(x: Floats, kernel: int, stride: int) -> list[Floats]:
    """For each position in the kernel, the pixels that all windows see there: kernel^2 views (N, H', W', C) into x."""
    height, width = ((n - kernel) // stride + 1 for n in x.shape[1:3])
    return [
        x[:, a : a + (height - 1) * stride + 1 : stride, b : b + (width - 1) * stride + 1 : stride]
        for a in range(kernel)
        for b in range(kernel)
    ]


def max_pool(x: Tensor, kernel: int = 2, stride: int | None = None) -> Tensor:
    """The largest value of each window; its gradient goes to the first pixel that attains it."""
    step = stride or kernel
    views = _pooling_views(x.data, kernel, step)
    y = views[0].copy()
    for view in views[1:]:
        np.maximum(y, view, out=y)

    def backward(g: Floats) -> tuple[Floats]:
        d_x = np.zeros_like(x.data)
        remaining: Booleans = np.ones(y.shape, bool)  # windows whose maximum has not been met yet
        for view, target in zip(views, _pooling_views(d_x, kernel, step), strict=True):
            here = remaining & (view == y)
            target += g * here
            remaining &= ~here
        return (d_x,)

    return Tensor.result(y, (x,), backward)


def average_pool(x: Tensor, kernel: int = 2, stride: int | None = None) -> Tensor:
    """The mean of each window."""
    step = stride or kernel
    views = _pooling_views(x.data, kernel, step)
    weight = x.data.dtype.type(1 / len(views))
    y = views[0] * weight
    for view in views[1:]:
        y += view * weight

    def backward(g: Floats) -> tuple[Floats]:
        d_x = np.zeros_like(x.data)
        for target in _pooling_views(d_x, kernel, step):
            target += g * weight
        return (d_x,)

    return Tensor.result(y, (x,), backward)


# --- losses ---------------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, labels: Integers) -> Tensor:
    """-log softmax(logits)[label] for each row, L in the paper; the gradient is softmax - one_hot.

    Parameters
    ----------
    logits : (N, classes); labels : (N,) int64.

    Returns
    -------
    (N,) losses.
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
    """
    m, v = average.data, log_variance.data
    variance = np.exp(v)

    def backward(g: Floats) -> tuple[Floats, Floats]:
        return g[:, None] * m, g[:, None] * (variance - 1) / 2

    return Tensor.result(((m * m + variance - v - 1) / 2).sum(axis=1), (average, log_variance), backward)


# --- affine maps of images ------------------------------------------------------------------------------------------


def affine_matrix(parameters: Tensor) -> Tensor:
    """The sampling matrix of six parameters.

    With translation (u, v), shear (hx, hy), scale s and rotation r, c = cos r, n = sin r::

        A = [[s c - s hx n,  -s n + s hx c,  u],
             [s hy c + s n,  -s hy n + s c,  v]]

    A maps *output* positions to *input* positions (see `warp`), so s > 1 shrinks the image.

    Parameters
    ----------
    parameters : (N, 6) in the order u, v, hx, hy, s, r; angles in radians, lengths in half images.

    Returns
    -------
    (N, 2, 3).
    """
    u, v, hx, hy, s, r = parameters.data.T
    c, n = np.cos(r), np.sin(r)
    matrix = np.stack([s * c - s * hx * n, s * hx * c - s * n, u, s * hy * c + s * n, s * c - s * hy * n, v], axis=1)

    def backward(g: Floats) -> tuple[Floats]:
        a, b, d_u, c_, d, d_v = g.reshape(-1, 6).T  # gradients to the entries, row by row
        d_hx = s * (c * b - n * a)
        d_hy = s * (c * c_ - n * d)
        d_s = a * (c - hx * n) + b * (hx * c - n) + c_ * (hy * c + n) + d * (c - hy * n)
        d_r = s * (-a * (n + hx * c) - b * (hx * n + c) + c_ * (c - hy * n) - d * (n + hy * c))
        return (np.stack([d_u, d_v, d_hx, d_hy, d_s, d_r], axis=1),)

    return Tensor.result(matrix.reshape(-1, 2, 3), (parameters,), backward)


def warp(images: Tensor, parameters: Tensor) -> Tensor:
    """Images moved by the affine map of six parameters, bilinearly interpolated, zeros outside.

    Output pixel (x, y) shows the input at A (x, y, 1) for A = `affine_matrix(parameters)`. Coordinates
    run from -1 at the centre of the first pixel to 1 at the centre of the last: `align_corners=True` in
    PyTorch's `affine_grid` and `grid_sample`. That was PyTorch's only convention when the paper was
    written, so the protocol's translations mean what they meant there.

    Parameters
    ----------
    images : (N, H, W, C); parameters : (N, 6), see `affine_matrix`.
    """
    matrices = affine_matrix(parameters)
    size = (images.shape[1], images.shape[2])
    if matrices.requires_grad:
        y, slopes = warp_with_slopes(images.data, matrices.data)
    else:
        y, slopes = warp_images(images.data, matrices.data), np.empty(0, images.data.dtype)

    def backward(g: Floats) -> tuple[Floats | None, Floats | None]:
        return (
            warp_image_gradient(matrices.data, g) if images.requires_grad else None,
            warp_matrix_gradient(slopes, size, g) if matrices.requires_grad else None,
        )

    return Tensor.result(y, (images, matrices), backward)


# (u, v, hx, hy, s, r) of the map that moves nothing
IDENTITY = (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
