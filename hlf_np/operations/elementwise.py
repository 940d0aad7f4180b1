"""Operations on every entry by itself."""

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.autodiff import Tensor


def relu(x: Tensor) -> Tensor:
    """max(x, 0); the derivative at 0 is taken as 0."""
    y = np.maximum(x.data, 0)

    def backward(g: Floats) -> tuple[Floats]:
        return (np.where(y > 0, g, g.dtype.type(0)),)

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
