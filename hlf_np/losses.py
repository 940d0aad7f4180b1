"""What a training minimises.

A loss sees both faces of every batch: the *clean* images, and the *perturbed* ones, which are the same where a training
perturbs nothing. It calls the model itself, as often as it likes; batch norm uses the statistics of each call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hlf_np.arrays import Integers
from hlf_np.autodiff import Tensor
from hlf_np.operations import cross_entropy


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


CROSS_ENTROPY = CrossEntropy()
