"""Max pooling and average pooling."""

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.support.arrays import Booleans, Floats
from hlf_np.support.errors import UserError


def _window_views(x: Floats, kernel: int, stride: int) -> list[Floats]:
    """Return, for each of the kernel^2 positions in a window, a view (N, H', W', C) of all windows' pixels there."""
    if kernel > min(x.shape[1:3]):
        raise UserError(f"a window of {kernel}x{kernel} pixels does not fit in images of {x.shape[1]}x{x.shape[2]}")
    height, width = ((n - kernel) // stride + 1 for n in x.shape[1:3])
    return [
        x[:, a : a + (height - 1) * stride + 1 : stride, b : b + (width - 1) * stride + 1 : stride]
        for a in range(kernel)
        for b in range(kernel)
    ]


def max_pool(x: Tensor, kernel: int = 2, stride: int | None = None) -> Tensor:
    """Compute the maximum of each window; its gradient goes to the first pixel that attains it.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
        Images.
    kernel : int
        Side of a window, in pixels.
    stride : int, optional
        Distance between windows, in pixels; the side of a window by default.

    Returns
    -------
    Tensor, shape (N, H', W', C)
        H' = (H - kernel) // stride + 1, and W' likewise.

    Examples
    --------
    >>> x = Tensor(np.arange(16.0).reshape(1, 4, 4, 1), requires_grad=True)
    >>> y = max_pool(x)
    >>> y.data[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    >>> y.backward()
    >>> x.gradient[0, 1, :, 0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    stride = stride or kernel
    views = _window_views(x.data, kernel, stride)
    y = views[0].copy()
    for view in views[1:]:
        np.maximum(y, view, out=y)

    def backward(g: Floats) -> tuple[Floats]:
        d_x = np.zeros_like(x.data)
        remaining: Booleans = np.ones(y.shape, bool)  # windows whose maximum has not been found yet
        for view, d_view in zip(views, _window_views(d_x, kernel, stride), strict=True):
            is_maximum = remaining & (view == y)
            d_view += g * is_maximum
            remaining &= ~is_maximum
        return (d_x,)

    return Tensor.result(y, (x,), backward)


def average_pool(x: Tensor, kernel: int = 2, stride: int | None = None) -> Tensor:
    """Compute the mean of each window; its gradient is divided equally among the pixels of the window.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
        Images.
    kernel : int
        Side of a window, in pixels.
    stride : int, optional
        Distance between windows, in pixels; the side of a window by default.

    Returns
    -------
    Tensor, shape (N, H', W', C)
        H' = (H - kernel) // stride + 1, and W' likewise.
    """
    stride = stride or kernel
    views = _window_views(x.data, kernel, stride)
    weight = x.data.dtype.type(1 / len(views))
    y = views[0] * weight
    for view in views[1:]:
        y += view * weight

    def backward(g: Floats) -> tuple[Floats]:
        d_x = np.zeros_like(x.data)
        for d_view in _window_views(d_x, kernel, stride):
            d_view += g * weight
        return (d_x,)

    return Tensor.result(y, (x,), backward)
