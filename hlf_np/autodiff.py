"""Reverse-mode automatic differentiation over NumPy arrays.

A `Tensor` is an array that remembers how it was computed: its parents, and a function that turns the
gradient of the loss with respect to itself into the gradients with respect to its parents.
`Tensor.backward` walks this graph from the loss to the leaves, each node once, after everything that
depends on it: the chain rule. The operations themselves are in `operations`, forward and backward side
by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from hlf_np.arrays import Floats

# Gradient with respect to the output -> one gradient per parent, None where none flows.
Backward = Callable[[Floats], Sequence[Floats | None]]


class Tensor:
    """An array in a computation.

    Parameters
    ----------
    data : floating-point array; float32 for work, float64 for gradient checks. Not copied.
    requires_grad : whether `backward` shall compute a gradient for this tensor.

    Attributes
    ----------
    gradient : what `backward` has added up for this leaf, of the shape of `data`, or None before the
        first call.

    Examples
    --------
    The derivative of x^2 y is 2 x y to x, and x^2 to y.

    >>> x, y = Tensor([3.0, 1.0], requires_grad=True), Tensor([2.0, 5.0], requires_grad=True)
    >>> (x * x * y).backward()
    >>> x.gradient.tolist(), y.gradient.tolist()
    ([12.0, 10.0], [9.0, 1.0])
    """

    __slots__ = ("_backward", "_parents", "data", "gradient", "requires_grad")

    def __init__(self, data: ArrayLike, requires_grad: bool = False) -> None:
        self.data: Floats = np.asarray(data)
        self.requires_grad = requires_grad
        self.gradient: Floats | None = None
        self._parents: tuple[Tensor, ...] = ()
        self._backward: Backward | None = None

    @classmethod
    def result(cls, data: Floats, parents: tuple[Tensor, ...], backward: Backward) -> Tensor:
        """The output of an operation. It is recorded only if some parent requires a gradient."""
        output = cls(data, any(parent.requires_grad for parent in parents))
        if output.requires_grad:
            output._parents, output._backward = parents, backward
        return output

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def detach(self) -> Tensor:
        """The same array as a constant: no gradient flows back through it."""
        return Tensor(self.data)

    def backward(self, gradient: Floats | None = None) -> None:
        """Add d(self) / d(leaf) to `leaf.gradient` for every leaf that requires a gradient.

        Parameters
        ----------
        gradient : dL/d(self), of the shape of `data`; ones if not given, so that a vector is treated as
            the sum of its entries.

        Raises
        ------
        ValueError : if the shape of `gradient` is not that of the data, or nothing here requires a gradient.
        """
        if not self.requires_grad:
            raise ValueError("backward() on a tensor that depends on nothing that requires a gradient")
        seed = np.ones_like(self.data) if gradient is None else np.asarray(gradient, self.data.dtype)
        if seed.shape != self.shape:
            raise ValueError(f"the gradient has shape {seed.shape}, the tensor {self.shape}")
        pending = {id(self): seed}  # gradients of nodes whose dependents have all been visited
        for node in reversed(self._topological_order()):
            flowing = pending.pop(id(node), None)
            if flowing is None:  # none of its dependents passed anything on
                continue
            if node._backward is None:
                node.gradient = flowing if node.gradient is None else node.gradient + flowing
                continue
            for parent, part in zip(node._parents, node._backward(flowing), strict=True):
                if part is not None and parent.requires_grad:
                    key = id(parent)
                    pending[key] = pending[key] + part if key in pending else part

    def _topological_order(self) -> list[Tensor]:
        """Every node that requires a gradient, parents before children; iterative, so depth is no limit."""
        order: list[Tensor] = []
        visited: set[int] = set()
        stack: list[tuple[Tensor, bool]] = [(self, False)]
        while stack:
            node, expanded = stack.pop()
            if expanded:
                order.append(node)
            elif id(node) not in visited:
                visited.add(id(node))
                stack.append((node, True))
                stack.extend((parent, False) for parent in node._parents if parent.requires_grad)
        return order

    def __add__(self, other: Tensor) -> Tensor:
        return add(self, other)

    def __mul__(self, other: Tensor) -> Tensor:
        return multiply(self, other)

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.data.dtype}, requires_grad={self.requires_grad})"


def _unbroadcast(gradient: Floats, shape: tuple[int, ...]) -> Floats:
    """Sum over the axes along which an array of `shape` was repeated to meet its partner."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    return np.asarray(gradient.sum(axis=repeated, keepdims=True))


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b, with NumPy's broadcasting."""

    def backward(gradient: Floats) -> tuple[Floats, Floats]:
        return _unbroadcast(gradient, a.shape), _unbroadcast(gradient, b.shape)

    return Tensor.result(a.data + b.data, (a, b), backward)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a * b, entry by entry, with NumPy's broadcasting."""

    def backward(gradient: Floats) -> tuple[Floats, Floats]:
        return _unbroadcast(gradient * b.data, a.shape), _unbroadcast(gradient * a.data, b.shape)

    return Tensor.result(a.data * b.data, (a, b), backward)


def check_grads(
    function: Callable[..., Tensor],
    *arrays: Floats,
    step: float = 1e-6,
    tolerance: float = 1e-6,
    directions: int = 3,
    seed: int = 0,
) -> None:
    """Compare `function`'s gradients with numerical directional derivatives.

    For a random cotangent c and random directions v, with L(x) = <c, function(x)>, the central difference
    (L(x + h v) - L(x - h v)) / (2 h) must agree with <dL/dx, v>.

    Parameters
    ----------
    function : takes as many tensors as there are arrays, returns one tensor of any shape.
    arrays : the point x, in float64. Keep away from kinks (a ReLU at 0), where no derivative exists.
    step : h. Errors are of order h^2 and 1e-16 / h; 1e-6 leaves about 1e-9.
    tolerance : allowed difference, relative to the larger of 1 and the derivative.
    directions : how many directions v to try.
    seed : of the random numbers.

    Raises
    ------
    AssertionError : where a gradient is wrong, naming both numbers.
    ValueError : for arrays that are not float64, too coarse for numerical differences.

    Examples
    --------
    An operation of your own, the square, first with its derivative and then with half of it.

    >>> def square(x, factor=2.0):
    ...     return Tensor.result(x.data**2, (x,), lambda g: [factor * x.data * g])
    >>> point = np.array([1.0, -0.5, 2.0])
    >>> check_grads(square, point)
    >>> check_grads(lambda x: square(x, factor=1.0), point)
    Traceback (most recent call last):
    AssertionError: direction 0: the gradient gives ..., the numerical derivative ...
    """
    if any(array.dtype != np.float64 for array in arrays):
        raise ValueError("check_grads needs float64 arrays: numerical differences drown in float32 rounding")
    random = np.random.default_rng(seed)
    leaves = [Tensor(array, requires_grad=True) for array in arrays]
    output = function(*leaves)
    cotangent = random.standard_normal(output.shape)
    output.backward(cotangent)
    for trial in range(directions):
        along: list[Floats] = [random.standard_normal(array.shape) for array in arrays]

        def value(h: float, along: list[Floats] = along) -> float:
            moved = [Tensor(array + h * v) for array, v in zip(arrays, along, strict=True)]
            return float(np.vdot(cotangent, function(*moved).data))

        numerical = (value(step) - value(-step)) / (2 * step)
        analytic = sum(
            float(np.vdot(leaf.gradient, v)) for leaf, v in zip(leaves, along, strict=True) if leaf.gradient is not None
        )
        if not abs(analytic - numerical) <= tolerance * max(1.0, abs(numerical)):
            raise AssertionError(
                f"direction {trial}: the gradient gives {analytic:.12g}, the numerical derivative {numerical:.12g}"
            )
