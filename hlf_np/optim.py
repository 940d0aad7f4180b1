"""Adam, and the decay of its learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlf_np.arrays import Floats, plain
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_positive
from hlf_np.errors import UserError
from hlf_np.kernels.adam import adam_update


@dataclass(frozen=True)
class AdamConfig:
    """The protocol's settings. The learning rate is multiplied by `decay` after each epoch."""

    learning_rate: float = 0.01
    betas: tuple[float, float] = (0.5, 0.9)
    epsilon: float = 1e-8
    weight_decay: float = 1e-4
    decay: float = 0.95

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon", "decay"):
            check_positive(name, getattr(self, name))
        if not all(0 <= beta < 1 for beta in self.betas) or not self.weight_decay >= 0:
            raise UserError(f"Adam needs betas from 0 to below 1 and no negative weight decay, not {self}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.learning_rate * self.decay**epoch

    def settings(self, step: int, learning_rate: float) -> Floats:
        """What the kernels need for step number `step`, counted from 1."""
        beta1, beta2 = self.betas
        rate, correction = learning_rate / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
        return np.array([self.weight_decay, beta1, beta2, rate, correction, self.epsilon])


class Adam:
    """Adam (Kingma and Ba, 2015) with the weight decay added to the gradient.

    With g = dL/dw + weight_decay * w and t the number of the step::

        m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
        w -= learning_rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)

    The divisions correct m and v for starting at 0. (AdamW would subtract the decay outside of the fraction.)

    Examples
    --------
    Minimise (w - 3)^2.

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
        self._first, self._second = ([np.zeros(p.data.size, p.data.dtype) for p in self.parameters] for _ in range(2))

    def step(self, learning_rate: float) -> None:
        """Update every parameter from its `gradient`, and forget the gradient.

        In place, whatever the array's layout in memory; only an array that is read-only is replaced.
        """
        self.steps += 1
        settings = self.config.settings(self.steps, learning_rate)
        for parameter, m, v in zip(self.parameters, self._first, self._second, strict=True):
            if parameter.gradient is None:
                continue
            values = plain(parameter.data)  # the array itself or, if the kernel cannot take it, a copy
            gradient = plain(parameter.gradient).reshape(-1)
            adam_update(values.reshape(-1), gradient, m, v, settings.astype(values.dtype))
            if not parameter.data.flags.writeable:
                parameter.data = values
            elif values is not parameter.data:
                parameter.data[...] = values
            parameter.gradient = None
