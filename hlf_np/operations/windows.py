"""Convolution and its two gradients in NumPy, to read: what `kernels.convolution` computes faster.

The autodiff takes these for float64, as in gradient checks, and the kernels for float32. With zeros around the image,
every output pixel sees a *window* of the input, and the three are sums over windows; see `operations.convolution`.
"""

import numpy as np

from hlf_np.arrays import Floats


def _windows(x: Floats, kernel: tuple[int, int], stride: int, padding: int) -> Floats:
    """A view of x (N, H, W, C), padded, as the window of every output pixel, (N, H', W', C, kh, kw)."""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))[:, ::stride, ::stride]


def convolve(x: Floats, weight: Floats, bias: Floats | None, stride: int, padding: int) -> Floats:
    """x (N, H, W, C) with weight (O, C, kh, kw) and bias (O,) or none, (N, H', W', O)."""
    windows = _windows(x, (weight.shape[2], weight.shape[3]), stride, padding)
    y = np.tensordot(windows, weight, axes=((3, 4, 5), (1, 2, 3)))
    return y if bias is None else y + bias


def convolve_weight_gradient(x: Floats, gradient: Floats, kernel: tuple[int, int], stride: int, padding: int) -> Floats:
    """From x (N, H, W, C) and the output's gradient (N, H', W', O), (O, C, kh, kw)."""
    windows = _windows(x, kernel, stride, padding)
    return np.tensordot(gradient, windows, axes=((0, 1, 2), (0, 1, 2)))


def convolve_input_gradient(
    gradient: Floats, weight: Floats, bias: Floats | None, stride: int, padding: int, size: tuple[int, int]
) -> Floats:
    """From the output's gradient (N, H', W', O), (N, H, W, C) for size = (H, W); plus a bias (C,), or none."""
    (count, rows, columns, _), (_, channels, height, width) = gradient.shape, weight.shape
    padded = np.zeros((count, size[0] + 2 * padding, size[1] + 2 * padding, channels), gradient.dtype)
    for a in range(height):
        for b in range(width):  # what every window has at (a, b)
            seen = padded[:, a : a + stride * rows : stride, b : b + stride * columns : stride]
            seen += gradient @ weight[:, :, a, b]
    x = padded[:, padding : padding + size[0], padding : padding + size[1]]
    return x if bias is None else x + bias
