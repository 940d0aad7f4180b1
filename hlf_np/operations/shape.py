"""Operations that rearrange or select entries without changing their values."""

from collections.abc import Sequence

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.support.arrays import Floats, Integers


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape a tensor; one of the sizes may be -1."""
    return Tensor.result(x.data.reshape(shape), (x,), lambda g: [g.reshape(x.shape)])


def flatten(x: Tensor) -> Tensor:
    """Flatten images (N, H, W, C) to (N, C H W), channel by channel: the order that PyTorch's weights expect.

    Examples
    --------
    Two pixels of two channels:

    >>> flatten(Tensor(np.arange(4.0).reshape(1, 1, 2, 2))).data.tolist()
    [[0.0, 2.0, 1.0, 3.0]]
    """
    n, h, w, c = x.shape
    y = x.data.transpose(0, 3, 1, 2).reshape(n, c * h * w)
    return Tensor.result(y, (x,), lambda g: [g.reshape(n, c, h, w).transpose(0, 2, 3, 1)])


def unflatten(x: Tensor, height: int, width: int) -> Tensor:
    """Reshape (N, C H W) to images (N, H, W, C): the inverse of `flatten`."""
    n, size = x.shape
    y = x.data.reshape(n, size // (height * width), height, width).transpose(0, 2, 3, 1)
    return Tensor.result(y, (x,), lambda g: [g.transpose(0, 3, 1, 2).reshape(n, size)])


def columns(x: Tensor, start: int, stop: int) -> Tensor:
    """Return the columns x[:, start:stop] of x (N, D)."""

    def backward(g: Floats) -> list[Floats]:
        d_x = np.zeros_like(x.data)
        d_x[:, start:stop] = g
        return [d_x]

    return Tensor.result(x.data[:, start:stop], (x,), backward)


def take(x: Tensor, rows: Integers) -> Tensor:
    """Return the rows x[rows] of x (N, ...); the gradient of a row that is taken several times is a sum.

    Examples
    --------
    >>> x = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    >>> take(x, np.array([2, 0, 0])).backward(np.array([30.0, 10.0, 20.0]))
    >>> x.gradient.tolist()
    [30.0, 0.0, 30.0]
    """

    def backward(g: Floats) -> list[Floats]:
        d_x = np.zeros_like(x.data)
        np.add.at(d_x, rows, g)
        return [d_x]

    return Tensor.result(x.data[rows], (x,), backward)


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors (N_i, ...) along the first axis."""
    ends = np.cumsum([len(part.data) for part in parts])
    y = np.concatenate([part.data for part in parts])
    return Tensor.result(y, tuple(parts), lambda g: np.split(g, ends[:-1]))
