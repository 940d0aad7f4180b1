"""Training losses: the cross-entropy, TRADES, and the interface of others.

A loss receives the *clean* and the *perturbed* images of a batch; where the training perturbs nothing, the two are
equal. It evaluates the model itself, any number of times; in each evaluation, batch norm uses the statistics of the
images evaluated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hlf_np.autodiff import Tensor
from hlf_np.operations import concatenate, cross_entropy, kl_divergence, take
from hlf_np.support.arrays import Integers
from hlf_np.support.checks import check_fields, check_positive


class Loss(Protocol):
    """The interface of losses: any function with these four parameters.

    Training minimises the mean over the batch. Losses in `programs.training` are compiled, all others computed by
    autodiff.
    """

    def __call__(self, model: Callable[[Tensor], Tensor], clean: Tensor, perturbed: Tensor, labels: Integers) -> Tensor:
        """Compute the loss of each image.

        Parameters
        ----------
        model : callable
            Maps images (N, H, W, C) to logits (N, classes), in training mode.
        clean : Tensor, shape (N, H, W, C)
            The original images.
        perturbed : Tensor, shape (N, H, W, C)
            The same images, some or all of them perturbed.
        labels : ndarray of int64, shape (N,)
            Their classes.

        Returns
        -------
        Tensor, shape (N,)
            The losses.
        """


@dataclass(frozen=True)
class CrossEntropy:
    """The cross-entropy -log p_y of the `perturbed` images, some of which may be clean.

    This is the loss of adversarial training (Madry et al., 2018) and of the paper.
    """

    def __call__(self, model: Callable[[Tensor], Tensor], clean: Tensor, perturbed: Tensor, labels: Integers) -> Tensor:
        """Compute the loss of each image, see `Loss`."""
        return cross_entropy(model(perturbed), labels)


@dataclass(frozen=True)
class Trades:
    """TRADES: CE(f(x), y) + beta KL(p(x) || p(x~)) for clean images x and perturbed images x~, with p = softmax(f(.)).

    The first term rewards accuracy, the second predictions that perturbations do not change; the gradient flows through
    both of its arguments. Clean and perturbed images pass through the network together, so batch norm uses their common
    statistics, as everywhere in this package; the authors' code makes a separate pass for each.

    Parameters
    ----------
    beta : float
        The weight of robustness, positive.

    Raises
    ------
    UserError
        If beta is not positive.

    References
    ----------
    Zhang et al., 2019, and the code released with it.

    Examples
    --------
    >>> clean, perturbed = (Tensor(np.log([[p, 1 - p]])) for p in (0.5, 0.75))  # a "model" whose images are its logits
    >>> loss = Trades(beta=2)(lambda logits: logits, clean, perturbed, np.array([0]))
    >>> np.exp(loss.data).round(6).tolist()  # log 2 + 2 (log(2 / 3) + log 2) / 2
    [2.666667]
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive("beta", self.beta)

    def __call__(self, model: Callable[[Tensor], Tensor], clean: Tensor, perturbed: Tensor, labels: Integers) -> Tensor:
        """Compute the loss of each image, see `Loss`."""
        logits, rows = model(concatenate([clean, perturbed])), np.arange(len(labels))  # (2 N, classes), (N,)
        clean_logits, perturbed_logits = take(logits, rows), take(logits, rows + len(rows))
        return cross_entropy(clean_logits, labels) + self.beta * kl_divergence(clean_logits, perturbed_logits)


CROSS_ENTROPY = CrossEntropy()
