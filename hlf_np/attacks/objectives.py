"""What an attack maximises: each is above some threshold only where the label has changed.

The cross-entropy is the paper's. It flattens where a model is very sure, and there its gradient is lost
in rounding; the margin does not, because it is piecewise linear in the logits.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.autodiff import Tensor
from hlf_np.operations import cross_entropy


def margin(logits: Tensor, labels: Integers) -> Tensor:
    """max_{k != y} f_k - f_y for each row: positive exactly where the predicted label is not y.

    The gradient is +1 for the strongest other class and -1 for the label.

    Parameters
    ----------
    logits : (N, classes), at least two classes; labels : (N,) int64.

    Returns
    -------
    (N,) margins.
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


class Objective(StrEnum):
    """The function of logits and labels that an attack maximises."""

    CROSS_ENTROPY = "cross-entropy"
    MARGIN = "margin"

    def of(self, logits: Tensor, labels: Integers) -> Tensor:
        """Its value for each image, (N, classes) and (N,) to (N,)."""
        return cross_entropy(logits, labels) if self is Objective.CROSS_ENTROPY else margin(logits, labels)
