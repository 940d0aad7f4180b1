"""Reverse-mode automatic differentiation over NumPy arrays.

A `Tensor` is an array that records how it was computed: its parents, and a function that turns the gradient of the
loss with respect to the tensor into the gradients with respect to its parents. `Tensor.backward` applies the chain
rule: it walks this graph from the loss to the leaves and visits each node once, after every node that depends on it.
The operators are at the end of this file, all other operations in `operations`, forward and backward side by side.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from hlf_np.support.arrays import Floats
from hlf_np.support.errors import source_location

# From the gradient with respect to the output to one gradient per parent; None where no gradient flows.
Backward = Callable[[Floats], Sequence[Floats | None]]
# The other side of `+`, `-`, `*` and `/`: a tensor, a number or an array.
Operand: TypeAlias = "Tensor | ArrayLike"


class Tensor:
    """An array that records how it was computed, for automatic differentiation.

    Parameters
    ----------
    data : array_like of float32 or float64
        The values: float32 for computations, float64 for gradient checks. The array is not copied. Other types are
        not supported: integers have no gradients, and operations would round their results to integers.
    requires_grad : bool
        Whether `backward` computes a gradient with respect to this tensor.

    Attributes
    ----------
    data : ndarray
        The values. `backward` uses those that it finds: change them in place only after it.
    gradient : ndarray of the shape of `data`, or None
        The sum of the gradients that `backward` computed for this leaf; None before its first call.

    Raises
    ------
    TypeError
        If the data is neither float32 nor float64.

    Examples
    --------
    The derivative of x^2 y with respect to x is 2 x y, and with respect to y it is x^2.

    >>> x, y = Tensor([3.0, 1.0], requires_grad=True), Tensor([2.0, 5.0], requires_grad=True)
    >>> (x**2 * y).backward()
    >>> x.gradient.tolist(), y.gradient.tolist()
    ([12.0, 10.0], [9.0, 1.0])

    Operands may be numbers or NumPy arrays, on either side. They are converted to the tensor's type.

    >>> x = Tensor(np.float32([1, 2]), requires_grad=True)
    >>> y = (np.float32([3, 4]) * x - 1 / x).mean()
    >>> y.backward()
    >>> y.data.item(), x.gradient.tolist(), y.data.dtype
    (4.75, [2.0, 2.125], dtype('float32'))
    """

    __slots__ = ("_backward", "_parents", "data", "gradient", "requires_grad")
    __array_ufunc__ = None  # makes NumPy leave `array * tensor` to the tensor

    def __init__(self, data: ArrayLike, requires_grad: bool = False) -> None:
        array = np.asarray(data)
        native = array.dtype.newbyteorder("=")
        if native not in (np.float32, np.float64):
            raise TypeError(
                f"a Tensor holds float32 or float64, not {array.dtype}: use numpy.asarray(data, numpy.float32)"
            )
        self.data: Floats = np.asarray(array, native)
        self.requires_grad = requires_grad
        self.gradient: Floats | None = None
        self._parents: tuple[Tensor, ...] = ()
        self._backward: Backward | None = None

    @classmethod
    def result(cls, data: Floats, parents: tuple[Tensor, ...], backward: Backward) -> Tensor:
        """Create the output of an operation, and record the operation if any parent requires a gradient.

        Parameters
        ----------
        data : ndarray
            The computed values.
        parents : tuple of Tensor
            The inputs of the operation.
        backward : callable
            Maps the gradient with respect to the output to a sequence with the gradient with respect to each parent,
            or None where no gradient flows.

        Returns
        -------
        Tensor
            The output.
        """
        output = cls(data, any(parent.requires_grad for parent in parents))
        if output.requires_grad:
            output._parents, output._backward = parents, backward
        return output

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return self.data.shape

    def detach(self) -> Tensor:
        """Return the same array as a constant, through which no gradient flows back."""
        return Tensor(self.data)

    def backward(self, gradient: Floats | None = None) -> None:
        """Add dL/d(leaf) to `leaf.gradient` for every leaf that requires a gradient.

        Parameters
        ----------
        gradient : ndarray of the shape of `data`, optional
            dL/d(self), ones by default: L is then the sum of all entries of this tensor.

        Raises
        ------
        ValueError
            If the shape of `gradient` is not that of the data, or no leaf requires a gradient.
        """
        if not self.requires_grad:
            raise ValueError(
                "backward() needs a tensor that requires a gradient: call the network with training=True, or create a"
                " Tensor that it is computed from with requires_grad=True"
            )
        seed = np.ones_like(self.data) if gradient is None else np.asarray(gradient, self.data.dtype)
        if seed.shape != self.shape:
            raise ValueError(f"the gradient has shape {seed.shape}: it must have the tensor's, {self.shape}")
        gradients = {id(self): seed}  # by node; complete once every node that depends on it has been visited
        for node in reversed(self._topological_order()):
            g = gradients.pop(id(node), None)
            if g is None:  # no gradient flowed back to this node
                continue
            if node._backward is None:
                # a copy, as g may be a view of the caller's array, or shared by several leaves
                own = np.array(g, order="C")
                node.gradient = own if node.gradient is None else node.gradient + own
                continue
            parts = node._backward(g)
            if not isinstance(parts, Sequence) or len(parts) != len(node._parents):
                operation, count = f"an operation{source_location(node._backward)}", len(node._parents)
                raise ValueError(f"{operation} must return a list with a gradient for each input: {count} in all")
            for parent, part in zip(node._parents, parts, strict=True):
                if part is not None and parent.requires_grad:
                    if part.shape != parent.shape:
                        raise ValueError(
                            f"an operation{source_location(node._backward)} returned a gradient of shape {part.shape}"
                            f" for an input of shape {parent.shape}: sum it over the axes along which it was broadcast"
                        )
                    key = id(parent)
                    gradients[key] = gradients[key] + part if key in gradients else part

    def leaves(self) -> list[Tensor]:
        """Return the tensors to which `backward` adds a gradient."""
        return [node for node in self._topological_order() if node._backward is None]

    def _topological_order(self) -> list[Tensor]:
        """Return all nodes that require a gradient, parents before children.

        A depth-first search without recursion, which Python limits to about 1000 calls: graphs may be deeper.
        """
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

    def _as_tensor(self, other: Operand) -> Tensor:
        """Convert the other side of an operator; numbers and numeric arrays are converted to this tensor's type."""
        if isinstance(other, Tensor):
            return other
        array = np.asarray(other)
        return Tensor(array.astype(self.data.dtype) if array.dtype.kind in "biuf" else array)

    def __add__(self, other: Operand) -> Tensor:
        return add(self, self._as_tensor(other))

    __radd__ = __add__

    def __neg__(self) -> Tensor:
        return self * -1

    def __sub__(self, other: Operand) -> Tensor:
        return add(self, -self._as_tensor(other))

    def __rsub__(self, other: Operand) -> Tensor:
        return add(self._as_tensor(other), -self)

    def __mul__(self, other: Operand) -> Tensor:
        return multiply(self, self._as_tensor(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> Tensor:
        return divide(self, self._as_tensor(other))

    def __rtruediv__(self, other: Operand) -> Tensor:
        return divide(self._as_tensor(other), self)

    def __pow__(self, exponent: float) -> Tensor:
        return power(self, exponent)

    def sum(self, axis: int | tuple[int, ...] | None = None) -> Tensor:
        """Return the sum of all entries, or along one or several axes."""
        return reduce_sum(self, axis)

    def mean(self, axis: int | tuple[int, ...] | None = None) -> Tensor:
        """Return the mean of all entries, or along one or several axes."""
        total = reduce_sum(self, axis)
        return total / (self.data.size / max(total.data.size, 1))

    def __eq__(self, other: object) -> bool:
        raise TypeError("tensors cannot be compared: compare their `data`, or use `is`")

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.data.dtype}, requires_grad={self.requires_grad})"


def _unbroadcast(gradient: Floats, shape: tuple[int, ...]) -> Floats:
    """Sum a gradient over the axes along which an operand of this shape was broadcast."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))  # axes that the operand did not have
    stretched = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    return np.asarray(gradient.sum(axis=stretched, keepdims=True))


def add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b, with NumPy's broadcasting; the derivatives are 1."""
    return Tensor.result(a.data + b.data, (a, b), lambda g: [_unbroadcast(g, a.shape), _unbroadcast(g, b.shape)])


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b, elementwise with NumPy's broadcasting; the derivatives are b and a."""

    def backward(g: Floats) -> list[Floats]:
        return [_unbroadcast(g * b.data, a.shape), _unbroadcast(g * a.data, b.shape)]

    return Tensor.result(a.data * b.data, (a, b), backward)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, elementwise with NumPy's broadcasting; the derivatives are 1 / b and -(a / b) / b."""
    y = a.data / b.data

    def backward(g: Floats) -> list[Floats]:
        d_a = g / b.data
        return [_unbroadcast(d_a, a.shape), _unbroadcast(-d_a * y, b.shape)]

    return Tensor.result(y, (a, b), backward)


def power(x: Tensor, exponent: float) -> Tensor:
    """Return x to the power of a constant p; the derivative is p x^(p - 1)."""
    if not isinstance(exponent, numbers.Real):
        raise TypeError(f"an exponent must be a number, not {type(exponent).__name__}")
    p = float(exponent)
    return Tensor.result(x.data**p, (x,), lambda g: [g * (p * x.data ** (p - 1) if p else np.zeros_like(x.data))])


def reduce_sum(x: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Return the sum of all entries, or along one or several axes; each entry gets the gradient of its sum."""

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
    """Compare the gradients of a function with numerical directional derivatives.

    For a random cotangent c and random directions v, with L(x) = <c, function(x)>, the central difference
    (L(x + h v) - L(x - h v)) / (2 h) must agree with <dL/dx, v>.

    Parameters
    ----------
    function : callable
        Takes one tensor per array and returns one tensor of any shape.
    *arrays : ndarray of float64
        The point x. It must not be near a kink (a ReLU at 0), where the derivative does not exist.
    step : float
        h. The truncation error is of order h^2 and the rounding error of order 1e-16 / h; 1e-6 leaves about 1e-9.
    tolerance : float
        Allowed difference, relative to the larger of 1 and the numerical derivative.
    directions : int
        Number of random directions v.
    seed : int
        Seed of the random numbers.

    Raises
    ------
    AssertionError
        If a gradient is wrong; the message has both values.
    ValueError
        If an array is not float64: float32 is too coarse for numerical differences.

    Examples
    --------
    A custom operation, the square, with its derivative and then with half of it:

    >>> def square(x, factor=2.0):
    ...     return Tensor.result(x.data**2, (x,), lambda g: [factor * x.data * g])
    >>> point = np.array([1.0, -0.5, 2.0])
    >>> check_grads(square, point)
    >>> check_grads(lambda x: square(x, factor=1.0), point)
    Traceback (most recent call last):
    AssertionError: direction 0: the gradient gives ..., the numerical derivative ...
    """
    if any(array.dtype != np.float64 for array in arrays):
        raise ValueError(
            "check_grads needs float64 arrays, as float32 is too coarse for numerical differences: use .astype(float)"
        )
    random = np.random.default_rng(seed)
    leaves = [Tensor(array, requires_grad=True) for array in arrays]
    output = function(*leaves)
    cotangent = random.standard_normal(output.shape)
    output.backward(cotangent)
    for trial in range(directions):
        direction: list[Floats] = [random.standard_normal(array.shape) for array in arrays]

        def value(h: float, direction: list[Floats] = direction) -> float:
            moved = [Tensor(array + h * v) for array, v in zip(arrays, direction, strict=True)]
            return float(np.vdot(cotangent, function(*moved).data))

        numerical = (value(step) - value(-step)) / (2 * step)
        analytic = sum(
            float(np.vdot(leaf.gradient, v))
            for leaf, v in zip(leaves, direction, strict=True)
            if leaf.gradient is not None
        )
        if not abs(analytic - numerical) <= tolerance * max(1.0, abs(numerical)):
            raise AssertionError(
                f"direction {trial}: the gradient gives {analytic:.12g}, the numerical derivative {numerical:.12g}"
            )
