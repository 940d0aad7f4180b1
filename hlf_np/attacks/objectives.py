"""What an attack maximises: how far the logits are from *targets*, the labels or what the model said before.

The cross-entropy is the paper's. It flattens where a model is very sure, and there its gradient is lost
in rounding; the margin does not, because it is piecewise linear in the logits. The divergence asks for no label.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.errors import UserError
from hlf_np.models import Model
from hlf_np.operations import cross_entropy, kl_divergence
from hlf_np.operations.losses import log_softmax

Targets = Integers | Floats


def margin(logits: Tensor, labels: Integers) -> Tensor:
    """max_{k != y} f_k - f_y for each row: positive exactly where the predicted label is not y.

    The gradient is +1 for the strongest other class and -1 for the label.

    logits : (N, classes), at least two classes; labels : (N,) int64. Returns (N,) margins.
    """
    rows = np.arange(len(labels))
    others = logits.data.copy()
    others[rows, labels] = -np.inf
    strongest = others.argmax(axis=1)

    def backward(g: Floats) -> tuple[Floats]:
        d_logits = np.zeros_like(logits.data)
        d_logits[rows, strongest] = g
        d_logits[rows, labels] = -g
        return (d_logits,)

    return Tensor.result(logits.data[rows, strongest] - logits.data[rows, labels], (logits,), backward)


def difference_of_logits_ratio(logits: Tensor, labels: Integers) -> Tensor:
    """The margin over the distance of the largest from the third largest logit: DLR, for at least three classes.

    Logits that are scaled or shifted as a whole leave it unchanged, so that no model can hide by being sure of itself.
    With u the margin, v = z_1 - z_3 that distance, and e_k the k-th unit vector, the gradient of u / v is::

        (e_k - e_y) / v - u (e_1 - e_3) / v^2

    logits : (N, classes); labels : (N,) int64. UserError for fewer than three classes.
    Returns (N,) ratios, positive exactly where the predicted label is not y.

    Source: Croce and Hein, 2020.
    """
    if logits.shape[1] < 3:
        raise UserError("the objective dlr needs at least three classes: use cross-entropy or margin")
    above = margin(logits, labels)
    rows, order = np.arange(len(labels)), logits.data.argsort(axis=1)
    first, third = order[:, -1], order[:, -3]
    spread = logits.data[rows, first] - logits.data[rows, third] + logits.data.dtype.type(1e-12)
    ratios = above.data / spread

    def backward(g: Floats) -> tuple[Floats, Floats]:
        d_logits = np.zeros_like(logits.data)
        d_logits[rows, first] = -g * ratios / spread
        d_logits[rows, third] = g * ratios / spread
        return g / spread, d_logits

    return Tensor.result(ratios, (above, logits), backward)


def divergence(logits: Tensor, targets: Floats) -> Tensor:
    """KL(p || softmax(logits)) for each row, p = exp(targets) fixed: the gradient is softmax(logits) - p.

    It is 0 and flat where nothing is perturbed: an ascent that starts there follows rounding errors.

    Source: Zhang et al., 2019, the inner maximisation of TRADES.
    """
    return kl_divergence(Tensor(targets), logits)


class Objective(StrEnum):
    """The function of logits and targets that an attack maximises."""

    CROSS_ENTROPY = "cross-entropy"
    MARGIN = "margin"
    DIFFERENCE_OF_LOGITS_RATIO = "dlr"
    DIVERGENCE = "kl"

    def targets(self, model: Model, images: Floats, labels: Integers) -> Targets:
        """What it compares the logits of perturbed images with: the labels (N,) of the given images (N, H, W, C).

        For the divergence the logarithms (N, classes) of what the model, in evaluation mode, predicts for them.
        """
        return log_softmax(model.logits(images)) if self is Objective.DIVERGENCE else labels

    def of(self, logits: Tensor, targets: Targets) -> Tensor:
        """Its value for each image, (N, classes) and `targets` to (N,)."""
        return _FUNCTIONS[self](logits, targets)


_FUNCTIONS: dict[Objective, Callable[[Tensor, Any], Tensor]] = {
    Objective.CROSS_ENTROPY: cross_entropy,
    Objective.MARGIN: margin,
    Objective.DIFFERENCE_OF_LOGITS_RATIO: difference_of_logits_ratio,
    Objective.DIVERGENCE: divergence,
}
