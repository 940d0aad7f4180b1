"""Other shapes and orders of the same entries."""

from collections.abc import Sequence

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same entries in another shape; one axis may be -1."""
    return Tensor.result(x.data.reshape(shape), (x,), lambda g: [g.reshape(x.shape)])


def flatten(x: Tensor) -> Tensor:
    """(N, H, W, C) to (N, C H W): channel after channel, the order that PyTorch's weights expect.

    Examples
    --------
    >>> flatten(Tensor(np.arange(4.0).reshape(1, 1, 2, 2))).data.tolist()  # two pixels of two channels
    [[0.0, 2.0, 1.0, 3.0]]
    """
    n, h, w, c = x.shape
    y = x.data.transpose(0, 3, 1, 2).reshape(n, c * h * w)
    return Tensor.result(y, (x,), lambda g: [g.reshape(n, c, h, w).transpose(0, 2, 3, 1)])


def unflatten(x: Tensor, height: int, width: int) -> Tensor:
    """(N, C H W) to (N, H, W, C): the inverse of `flatten`."""
    n = x.shape[0]
    y = x.data.reshape(n, -1, height, width).transpose(0, 2, 3, 1)
    return Tensor.result(y, (x,), lambda g: [g.transpose(0, 3, 1, 2).reshape(n, -1)])


def columns(x: Tensor, first: int, last: int) -> Tensor:
    """Columns `first` to before `last` of x (N, D)."""
    return _part(x, np.s_[:, first:last])


def take(x: Tensor, rows: Integers) -> Tensor:
    """The rows x[rows] of x (N, ...), each at most once.

    Examples
    --------
    >>> x = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    >>> take(x, np.array([2, 0])).backward(np.array([30.0, 10.0]))
    >>> x.gradient.tolist()
    [10.0, 0.0, 30.0]
    """
    return _part(x, rows)


def _part(x: Tensor, index: Integers | tuple[slice, slice]) -> Tensor:
    """x[index], whose gradient is zero everywhere else."""

    def backward(g: Floats) -> list[Floats]:
        d_x = np.zeros_like(x.data)
        d_x[index] = g
        return [d_x]

    return Tensor.result(x.data[index], (x,), backward)


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts (N_i, ...), one part after the other."""
    ends = np.cumsum([len(part.data) for part in parts])
    y = np.concatenate([part.data for part in parts])
    return Tensor.result(y, tuple(parts), lambda g: np.split(g, ends[:-1]))
