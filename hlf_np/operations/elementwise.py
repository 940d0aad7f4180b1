"""Elementwise operations."""

import numpy as np

from hlf_np.autodiff import Tensor


def relu(x: Tensor) -> Tensor:
    """Return max(x, 0); the derivative at 0 is taken as 0."""
    y = np.maximum(x.data, 0)
    return Tensor.result(y, (x,), lambda g: [np.where(y > 0, g, g.dtype.type(0))])


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """Return x where it is positive, and slope * x elsewhere."""
    factor = np.where(x.data > 0, x.data.dtype.type(1), x.data.dtype.type(slope))
    return Tensor.result(x.data * factor, (x,), lambda g: [g * factor])


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)); the derivative is y (1 - y)."""
    y = 0.5 * (1 + np.tanh(0.5 * x.data))  # exp(-x) could overflow, tanh cannot
    return Tensor.result(y, (x,), lambda g: [g * y * (1 - y)])


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent; the derivative is 1 - y^2."""
    y = np.tanh(x.data)
    return Tensor.result(y, (x,), lambda g: [g * (1 - y * y)])


def clip(x: Tensor, low: float, high: float) -> Tensor:
    """Return x clipped to [low, high]; the derivative is 1 inside and 0 outside.

    Values up to 1e-6 outside count as inside: only rounding led there.
    """
    y = np.clip(x.data, low, high)
    inside = np.abs(x.data - y) <= 1e-6
    return Tensor.result(y, (x,), lambda g: [np.where(inside, g, g.dtype.type(0))])


def exponential(x: Tensor) -> Tensor:
    """Return e^x, which is its own derivative."""
    y = np.exp(x.data)
    return Tensor.result(y, (x,), lambda g: [g * y])
