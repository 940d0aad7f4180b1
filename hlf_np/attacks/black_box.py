"""Transfer attacks: adversarial examples made on one model, shown to another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hlf_np.arrays import Integers
from hlf_np.attacks.ascent import Attack, AttackResult, run
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.models import Model
from hlf_np.random import generator
from hlf_np.spaces import Space


def transfer(
    source: Model, target: Model, split: Split, space: Space, attack: Attack | None = None, seed: int = 0
) -> tuple[Integers, AttackResult]:
    """Attack `source` and see whether `target` is fooled, on images that both classify correctly.

    The attack knows nothing of the target, so a low rate can mean robustness or merely that the two models
    err in different places. The paper's source is a held-out, normally trained model (N = 10,000).

    Parameters
    ----------
    source, target : the model that is attacked, and the one that is judged.
    split : images, labels and, for spaces that need them, codes.
    space : the allowed perturbations.
    attack : on the source; each restart is shown to the target.
    seed : of the random starts.

    Returns
    -------
    rows : (M,) int64, the images of the split that both models classify correctly.
    result : of the target for these images; `restart_success` counts every restart that fooled it, `images`
        are of the first such restart (of the first restart, where none did).

    Raises
    ------
    UserError : for images or labels that do not fit the models or the space.
    """
    attack = attack or Attack()
    correct = [model.predict(split.images) == split.labels for model in (source, target)]
    rows = np.flatnonzero(correct[0] & correct[1])
    attacked = split.take(rows)
    results = [
        run(source, attacked, space, replace(attack, restarts=1), _restart_seed(seed, restart))
        for restart in range(attack.restarts)
    ]
    fooled = np.array([target.predict(result.images) != attacked.labels for result in results])  # (restarts, M)
    shown, each = fooled.argmax(axis=0), np.arange(len(rows))
    images, perturbations, iterations = (
        np.stack([getattr(result, name) for result in results])[shown, each]
        for name in ("images", "perturbations", "iterations")
    )
    losses = attack.objective.of(Tensor(target.logits(images)), attacked.labels).data
    return rows, AttackResult(images, perturbations, np.asarray(fooled.any(axis=0)), iterations, losses, fooled)


def _restart_seed(seed: int, restart: int) -> int:
    return int(generator(seed, "transfer", restart).integers(2**31))
