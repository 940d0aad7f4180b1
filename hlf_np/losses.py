"""What a training minimises.

A loss sees both faces of every batch: the *clean* images, and the *perturbed* ones, which are the same where a training
perturbs nothing. It calls the model itself, as often as it likes; batch norm uses the statistics of each call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hlf_np.arrays import Integers
from hlf_np.autodiff import Tensor
from hlf_np.checks import check_positive
from hlf_np.operations import concatenate, cross_entropy, kl_divergence, take


class Loss(Protocol):
    """The loss of each image of a batch; a training minimises the mean.

    model : takes images (N, H, W, C) to logits (N, classes), in training mode.
    clean, perturbed : (N, H, W, C); labels : (N,) int64.
    Returns (N,). Any function of these four will do: it is computed by autodiff. `programs.training` has those that are
    compiled.
    """

    def __call__(
        self, model: Callable[[Tensor], Tensor], clean: Tensor, perturbed: Tensor, labels: Integers
    ) -> Tensor: ...


@dataclass(frozen=True)
class CrossEntropy:
    """-log p_y of the perturbed images, the unperturbed ones among them: Madry et al. (2018), and the paper."""

    def __call__(self, model: Callable[[Tensor], Tensor], clean: Tensor, perturbed: Tensor, labels: Integers) -> Tensor:
        return cross_entropy(model(perturbed), labels)


@dataclass(frozen=True)
class Trades:
    """CE(f(x), y) + beta KL(p(x) || p(x~)) of clean images x and perturbed ones x~, with p = softmax(f(.)): TRADES.

    The first term asks for accuracy, the second for predictions that perturbations do not move; the gradient goes
    through both of its arguments. Clean and perturbed images go through the network together, so batch norm uses their
    common statistics, as everywhere in this package; the authors' code makes a pass for each.

    beta : the weight of robustness, positive.

    Source: Zhang et al., 2019, and the code released with it.

    Examples
    --------
    >>> clean, perturbed = (Tensor(np.log([[p, 1 - p]])) for p in (0.5, 0.75))  # a "model" whose images are its logits
    >>> loss = Trades(beta=2)(lambda logits: logits, clean, perturbed, np.array([0]))
    >>> np.exp(loss.data).round(6).tolist()  # log 2 + 2 (log(2 / 3) + log 2) / 2
    [2.666667]
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def __call__(self, model: Callable[[Tensor], Tensor], clean: Tensor, perturbed: Tensor, labels: Integers) -> Tensor:
        logits, rows = model(concatenate([clean, perturbed])), np.arange(len(labels))
        of_clean, of_perturbed = take(logits, rows), take(logits, rows + len(rows))
        return cross_entropy(of_clean, labels) + self.beta * kl_divergence(of_clean, of_perturbed)


CROSS_ENTROPY = CrossEntropy()
