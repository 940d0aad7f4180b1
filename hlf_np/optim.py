"""The optimiser Adam, and the decay of its learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.kernels.operations.adam import adam_update
from hlf_np.support.arrays import Floats, as_contiguous
from hlf_np.support.checks import check_fields, check_positive, check_range
from hlf_np.support.errors import UserError


@dataclass(frozen=True)
class AdamConfig:
    """Settings of Adam; the defaults are the paper's.

    Parameters
    ----------
    learning_rate : float
        Learning rate before any decay.
    betas : tuple of float
        Decay rates of the moving averages of the gradient and of its square, each from 0 to 0.9999; closer to 1, the
        weight 1 - beta of a new gradient would be inaccurate in single precision.
    epsilon : float
        Added to the denominator.
    weight_decay : float
        Added to the gradient, times the weight; at least 0.
    decay : float
        The learning rate is multiplied by this in the course of each epoch.

    Raises
    ------
    UserError
        If a setting is out of its range.
    """

    learning_rate: float = 0.01
    betas: tuple[float, float] = (0.5, 0.9)
    epsilon: float = 1e-8
    weight_decay: float = 1e-4
    decay: float = 0.95

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("learning_rate", "epsilon", "decay"):
            check_positive(name, getattr(self, name))
        check_range("weight_decay", self.weight_decay)
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise UserError(f"`betas` must be two numbers, such as (0.5, 0.9), not {self.betas!r}")
        for beta in self.betas:
            check_range("each of `betas`", beta, 0.9999)

    def rate(self, epochs: float) -> float:
        """Return the learning rate after the decay of a number of epochs, which need not be whole."""
        return float(self.learning_rate * self.decay**epochs)

    def settings(self, step: int, learning_rate: float) -> Floats:
        """Return the coefficients of a step, counted from 1, in the order in which the kernels read them."""
        beta1, beta2 = self.betas
        rate, correction = learning_rate / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
        return np.array([self.weight_decay, beta1, beta2, rate, correction, self.epsilon])


class Adam:
    """Adam (Kingma and Ba, 2015) with the weight decay added to the gradient.

    With g = dL/dw + weight_decay * w and t the number of the step:

        m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
        w -= learning_rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)

    The divisions by 1 - b^t correct the bias of m and v, which start at 0. (AdamW would subtract the decay outside of
    the fraction.)

    Parameters
    ----------
    parameters : sequence of Tensor
        The weights w.
    config : AdamConfig, optional
        Settings.

    Examples
    --------
    Minimize (w - 3)^2:

    >>> w = Tensor(np.zeros(1), requires_grad=True)
    >>> adam = Adam([w], AdamConfig(weight_decay=0.0))
    >>> for step in range(200):
    ...     ((w - 3) ** 2).backward()
    ...     adam.step(learning_rate=0.1)
    >>> w.data.round(1).tolist()
    [3.0]
    """

    def __init__(self, parameters: Sequence[Tensor], config: AdamConfig | None = None) -> None:
        self.parameters = list(parameters)
        self.config = config or AdamConfig()
        self.steps = 0
        self._first_moments = [np.zeros(p.data.size, p.data.dtype) for p in self.parameters]  # m
        self._second_moments = [np.zeros(p.data.size, p.data.dtype) for p in self.parameters]  # v

    def clear_gradients(self) -> None:
        """Set the gradient of every parameter to None, as attacks or others may have computed some."""
        for parameter in self.parameters:
            parameter.gradient = None

    def step(self, learning_rate: float) -> None:
        """Update every parameter in place from its `gradient`, and set the gradient to None.

        Parameters without a gradient are skipped. Only a read-only array is replaced by a new one. Raises UserError if
        a parameter has another shape than at first, or than its gradient.
        """
        self.steps += 1
        settings = self.config.settings(self.steps, learning_rate)
        for parameter, m, v in zip(self.parameters, self._first_moments, self._second_moments, strict=True):
            if parameter.gradient is None:
                continue
            shape = parameter.data.shape
            if parameter.gradient.shape != shape or (m.size, m.dtype) != (parameter.data.size, parameter.data.dtype):
                raise UserError(
                    f"a parameter {shape} had {m.size} entries at first, and has a gradient {parameter.gradient.shape}:"
                    " shapes and types must stay the same"
                )
            values = as_contiguous(parameter.data)  # the array itself, or a copy if its layout is not supported
            gradient = as_contiguous(parameter.gradient).reshape(-1)
            adam_update(values.reshape(-1), gradient, m, v, settings.astype(values.dtype))
            if not parameter.data.flags.writeable:
                parameter.data = values
            elif values is not parameter.data:
                parameter.data[...] = values
            parameter.gradient = None
