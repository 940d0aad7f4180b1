"""Pooling."""

import numpy as np

from hlf_np.arrays import Booleans, Floats
from hlf_np.autodiff import Tensor


def _pooling_views(x: Floats, kernel: int, stride: int) -> list[Floats]:
    """For each position in the kernel, the pixels that all windows see there: kernel^2 views (N, H', W', C) into x."""
    height, width = ((n - kernel) // stride + 1 for n in x.shape[1:3])
    return [
        x[:, a : a + (height - 1) * stride + 1 : stride, b : b + (width - 1) * stride + 1 : stride]
        for a in range(kernel)
        for b in range(kernel)
    ]


def max_pool(x: Tensor, kernel: int = 2, stride: int | None = None) -> Tensor:
    """The largest value of each window; its gradient goes to the first pixel that attains it.

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
