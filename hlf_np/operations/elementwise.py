"""Operations on every entry by itself."""

import numpy as np

from hlf_np.autodiff import Tensor


def relu(x: Tensor) -> Tensor:
    """max(x, 0); the derivative at 0 is taken as 0."""
    y = np.maximum(x.data, 0)
    return Tensor.result(y, (x,), lambda g: [np.where(y > 0, g, g.dtype.type(0))])


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """x where positive, slope * x elsewhere."""
    factor = np.where(x.data > 0, x.data.dtype.type(1), x.data.dtype.type(slope))
    return Tensor.result(x.data * factor, (x,), lambda g: [g * factor])


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), whose derivative is y (1 - y)."""
    y = 0.5 * (1 + np.tanh(0.5 * x.data))  # tanh never overflows, exp(-x) does
    return Tensor.result(y, (x,), lambda g: [g * y * (1 - y)])


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent, whose derivative is 1 - y^2."""
    y = np.tanh(x.data)
    return Tensor.result(y, (x,), lambda g: [g * (1 - y * y)])


def exponential(x: Tensor) -> Tensor:
    """e^x, its own derivative."""
    y = np.exp(x.data)
    return Tensor.result(y, (x,), lambda g: [g * y])
