"""Objectives that attacks maximise: functions of the logits and of *targets*, the labels or the original predictions.

The paper uses the cross-entropy. Where a model is very confident it saturates, and its gradient is lost in rounding.
The margin is piecewise linear in the logits and does not saturate. The divergence needs no labels.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.models import Model
from hlf_np.operations import cross_entropy, kl_divergence
from hlf_np.operations.losses import log_softmax
from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.checks import check_labels
from hlf_np.support.errors import UserError

Targets = Integers | Floats


def margin(logits: Tensor, labels: Integers) -> Tensor:
    """Compute max_{k != y} f_k - f_y for each row, positive exactly where the predicted label is not y, but for ties.

    The gradient is +1 for the strongest other class and -1 for the label.

    Parameters
    ----------
    logits : Tensor, shape (N, classes)
        At least two classes.
    labels : ndarray of int64, shape (N,)
        The class y of each row.

    Returns
    -------
    Tensor, shape (N,)
        The margins.

    Raises
    ------
    UserError
        If the labels are not one class per row.
    """
    labels = check_labels(labels, logits.shape[1], len(logits.data))
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
    """Compute the margin divided by the difference of the largest and the third largest logit (DLR).

    The ratio does not change when the logits are scaled or shifted as a whole, so large logits cannot mask gradients.
    With u the margin, v = z_1 - z_3 that difference, and e_k the k-th unit vector, the gradient of u / v is:

        (e_k - e_y) / v - u (e_1 - e_3) / v^2

    Parameters
    ----------
    logits : Tensor, shape (N, classes)
        At least three classes.
    labels : ndarray of int64, shape (N,)
        The class y of each row.

    Returns
    -------
    Tensor, shape (N,)
        The ratios, positive exactly where the predicted label is not y, but for ties.

    Raises
    ------
    UserError
        If there are fewer than three classes.

    References
    ----------
    Croce and Hein, 2020.
    """
    if logits.shape[1] < 3:
        raise UserError("the objective dlr needs at least three classes: use cross-entropy or margin")
    margins = margin(logits, labels)
    rows, order = np.arange(len(labels)), logits.data.argsort(axis=1)
    first, third = order[:, -1], order[:, -3]
    spread = logits.data[rows, first] - logits.data[rows, third] + logits.data.dtype.type(1e-12)
    ratios = margins.data / spread

    def backward(g: Floats) -> tuple[Floats, Floats]:
        d_logits = np.zeros_like(logits.data)
        d_logits[rows, first] = -g * ratios / spread
        d_logits[rows, third] = g * ratios / spread
        return g / spread, d_logits

    return Tensor.result(ratios, (margins, logits), backward)


def divergence(logits: Tensor, targets: Floats) -> Tensor:
    """Compute KL(p || softmax(logits)) for each row, where p = exp(targets) is constant.

    The gradient with respect to the logits is softmax(logits) - p. Without a perturbation both are 0, so an ascent that
    starts there follows rounding errors.

    Parameters
    ----------
    logits : Tensor, shape (N, classes)
        Logits of the perturbed images.
    targets : ndarray of floats, shape (N, classes)
        Log probabilities of the original images.

    Returns
    -------
    Tensor, shape (N,)
        The divergences.

    References
    ----------
    Zhang et al., 2019: the inner maximisation of TRADES.
    """
    return kl_divergence(Tensor(targets), logits)


class Objective(StrEnum):
    """The objective that an attack maximises, a function of logits and targets."""

    CROSS_ENTROPY = "cross-entropy"
    MARGIN = "margin"
    DIFFERENCE_OF_LOGITS_RATIO = "dlr"
    DIVERGENCE = "kl"

    def targets(self, model: Model, images: Floats, labels: Integers) -> Targets:
        """Return what the logits of perturbed images are compared with.

        Parameters
        ----------
        model : Model
            The classifier, in evaluation mode.
        images : ndarray of float32, shape (N, H, W, C)
            The original images.
        labels : ndarray of int64, shape (N,)
            Their classes.

        Returns
        -------
        ndarray
            The labels or, for the divergence, the log probabilities (N, classes) that the model predicts for the
            original images.
        """
        return log_softmax(model.logits(images)) if self is Objective.DIVERGENCE else labels

    def of(self, logits: Tensor, targets: Targets) -> Tensor:
        """Compute the objective of each image, (N,), from logits (N, classes) and `targets`."""
        return _FUNCTIONS[self](logits, targets)


_FUNCTIONS: dict[Objective, Callable[[Tensor, Any], Tensor]] = {
    Objective.CROSS_ENTROPY: cross_entropy,
    Objective.MARGIN: margin,
    Objective.DIFFERENCE_OF_LOGITS_RATIO: difference_of_logits_ratio,
    Objective.DIVERGENCE: divergence,
}
