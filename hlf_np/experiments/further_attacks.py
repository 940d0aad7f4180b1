"""Attacks that a run measures where it is asked to: the smallest perturbations, and those made on another model."""

from __future__ import annotations

import math

from hlf_np.attacks import CarliniWagner, SuccessRate, carlini_wagner, transfer
from hlf_np.data.dataset import Split
from hlf_np.experiments.config import EPSILONS, RunConfig
from hlf_np.models import Model
from hlf_np.spaces import ImageBall, Norm, Space


def smallest_perturbations(model: Model, attacked: Split, settings: CarliniWagner) -> dict[str, float]:
    """How often Carlini and Wagner's attack succeeds within the paper's L2 ball, and how little that takes.

    attacked : images that the model classifies correctly.
    """
    space = ImageBall(EPSILONS[Norm.L2][0], Norm.L2)
    result = carlini_wagner(model, attacked.images, attacked.labels, space, settings=settings)
    norms = Norm.L2.of(result.perturbations[result.success])
    return {
        "carlini_wagner_success": SuccessRate.of(result).average,
        "carlini_wagner_norm": float(norms.mean()) if len(norms) else math.nan,
    }


def transfer_rate(surrogate: Model, model: Model, test: Split, space: Space, config: RunConfig) -> float:
    """How often adversarial examples of another model fool this one, of the images that both classify correctly."""
    _, result = transfer(surrogate, model, test, space, config.attack, config.attack_seed)
    return SuccessRate.of(result).average
