"""Reverse-mode automatic differentiation over NumPy arrays.

A `Tensor` is an array that remembers how it was computed: its parents, and a function that turns the gradient of the
loss with respect to itself into the gradients with respect to its parents. `Tensor.backward` walks this graph from the
loss to the leaves, each node once, after everything that depends on it: the chain rule. The operations themselves are
in `operations`, forward and backward side by side.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from hlf_np.arrays import Floats

# Gradient with respect to the output -> one gradient per parent, None where none flows.
Backward = Callable[[Floats], Sequence[Floats | None]]
# What stands beside a tensor in `+`, `-`, `*` and `/`: another tensor, a number, or an array.
Operand: TypeAlias = "Tensor | ArrayLike"


class Tensor:
    """An array in a computation.

    Parameters
    ----------
    data : array of float32 for work, of float64 for gradient checks. Not copied. No other type is taken: whole numbers
        have no gradients, and operations would round what they compute to the type of their input.
    requires_grad : whether `backward` shall compute a gradient for this tensor.

    Attributes
    ----------
    gradient : what `backward` has added up for this leaf, of the shape of `data`, or None before the first call.

    Raises
    ------
    TypeError : for data that is neither float32 nor float64.

    Examples
    --------
    The derivative of x^2 y is 2 x y to x, and x^2 to y.

    >>> x, y = Tensor([3.0, 1.0], requires_grad=True), Tensor([2.0, 5.0], requires_grad=True)
    >>> (x**2 * y).backward()
    >>> x.gradient.tolist(), y.gradient.tolist()
    ([12.0, 10.0], [9.0, 1.0])

    The other operand may be a number or a NumPy array, on either side. Numbers take the tensor's type.

    >>> x = Tensor(np.float32([1, 2]), requires_grad=True)
    >>> y = (np.float32([3, 4]) * x - 1 / x).mean()
    >>> y.backward()
    >>> y.data.item(), x.gradient.tolist(), y.data.dtype
    (4.75, [2.0, 2.125], dtype('float32'))
    """

    __slots__ = ("_backward", "_parents", "data", "gradient", "requires_grad")
    __array_ufunc__ = None  # so that NumPy leaves `array * tensor` to the tensor

    def __init__(self, data: ArrayLike, requires_grad: bool = False) -> None:
        array = np.asarray(data)
        native = array.dtype.newbyteorder("=")
        if native not in (np.float32, np.float64):
            todo = "use numpy.asarray(data, numpy.float32)"
            raise TypeError(f"a Tensor holds float32 or float64, not {array.dtype}: {todo}")
        self.data: Floats = np.asarray(array, native)
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
        gradient : dL/d(self), of the shape of `data`; ones if not given: a vector is treated as the sum of its entries.

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
                # a copy: what flows may be a view of the caller's array, or reach several leaves
                own = np.array(flowing, order="C")
                node.gradient = own if node.gradient is None else node.gradient + own
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

    def _operand(self, other: Operand) -> Tensor:
        """The other side of an operator; numbers and arrays of numbers take this one's type."""
        if isinstance(other, Tensor):
            return other
        array = np.asarray(other)
        return Tensor(array.astype(self.data.dtype) if array.dtype.kind in "biuf" else array)

    def __add__(self, other: Operand) -> Tensor:
        return add(self, self._operand(other))

    __radd__ = __add__

    def __neg__(self) -> Tensor:
        return self * -1

    def __sub__(self, other: Operand) -> Tensor:
        return add(self, -self._operand(other))

    def __rsub__(self, other: Operand) -> Tensor:
        return add(self._operand(other), -self)

    def __mul__(self, other: Operand) -> Tensor:
        return multiply(self, self._operand(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> Tensor:
        return divide(self, self._operand(other))

    def __rtruediv__(self, other: Operand) -> Tensor:
        return divide(self._operand(other), self)

    def __pow__(self, exponent: float) -> Tensor:
        return power(self, exponent)

    def sum(self, axis: int | None = None) -> Tensor:
        """The sum of all entries, or along one axis."""
        return total(self, axis)

    def mean(self, axis: int | None = None) -> Tensor:
        """The mean of all entries, or along one axis."""
        return total(self, axis) / (self.data.size if axis is None else self.shape[axis])

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.data.dtype}, requires_grad={self.requires_grad})"


def _unbroadcast(gradient: Floats, shape: tuple[int, ...]) -> Floats:
    """Sum over the axes along which an array of `shape` was repeated to meet its partner."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    return np.asarray(gradient.sum(axis=repeated, keepdims=True))


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b, with NumPy's broadcasting."""
    return Tensor.result(a.data + b.data, (a, b), lambda g: [_unbroadcast(g, a.shape), _unbroadcast(g, b.shape)])


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a * b, entry by entry, with NumPy's broadcasting."""

    def backward(g: Floats) -> list[Floats]:
        return [_unbroadcast(g * b.data, a.shape), _unbroadcast(g * a.data, b.shape)]

    return Tensor.result(a.data * b.data, (a, b), backward)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, entry by entry, with NumPy's broadcasting; the derivative to b is -(a / b) / b."""
    y = a.data / b.data

    def backward(g: Floats) -> list[Floats]:
        d_a = g / b.data
        return [_unbroadcast(d_a, a.shape), _unbroadcast(-d_a * y, b.shape)]

    return Tensor.result(y, (a, b), backward)


def power(x: Tensor, exponent: float) -> Tensor:
    """x to a constant power p, whose derivative is p x^(p - 1)."""
    if not isinstance(exponent, numbers.Real):
        raise TypeError(f"the exponent of a power must be a number, not {type(exponent).__name__}")
    p = float(exponent)
    return Tensor.result(x.data**p, (x,), lambda g: [g * (p * x.data ** (p - 1) if p else np.zeros_like(x.data))])


def total(x: Tensor, axis: int | None = None) -> Tensor:
    """The sum of all entries, or along one axis; each entry has the gradient of the sum that it is in."""

    def backward(g: Floats) -> list[Floats]:
        return [np.broadcast_to(g if axis is None else np.expand_dims(g, axis), x.shape)]

    return Tensor.result(x.data.sum(axis=axis), (x,), backward)


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
