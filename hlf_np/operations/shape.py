"""Other shapes and orders of the same entries, and their mean."""

from collections.abc import Sequence

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same entries in another shape; one axis may be -1."""

    def backward(g: Floats) -> tuple[Floats]:
        return (g.reshape(x.shape),)

    return Tensor.result(x.data.reshape(shape), (x,), backward)


def flatten(x: Tensor) -> Tensor:
    """(N, H, W, C) to (N, C H W): channel after channel, the order that PyTorch's weights expect.

    Examples
    --------
    >>> flatten(Tensor(np.arange(4.0).reshape(1, 1, 2, 2))).data.tolist()  # two pixels of two channels
    [[0.0, 2.0, 1.0, 3.0]]
    """
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
    """The rows x[rows] of x (N, ...), each at most once.

    Examples
    --------
    >>> x = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    >>> take(x, np.array([2, 0])).backward(np.array([30.0, 10.0]))
    >>> x.gradient.tolist()
    [10.0, 0.0, 30.0]
    """

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
    return x.mean()
