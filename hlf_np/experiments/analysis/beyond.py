"""Claims beyond the paper: where gradients point, what happens in the course of a training, which attacks a training
withstands that it has not seen, and what an adversary on the manifold adds to mere data from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hlf_np.attacks import UNSEEN_ATTACKS
from hlf_np.experiments.analysis.claim import Claim, judge_mean, with_measurements
from hlf_np.experiments.analysis.generalization import attacks_regularly, regular_robustness
from hlf_np.experiments.measurements.series import (
    ERROR_BY_EPOCH,
    HELD_OUT_BY_EPOCH,
    SELECTION_BY_EPOCH,
    success_by_epoch,
)
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.spaces import ImageBall
from hlf_np.support.arrays import Floats
from hlf_np.trainings import (
    ADVERSARIAL,
    MAIN,
    NORMAL,
    ON_LEARNED_MANIFOLD,
    ON_TRUE_MANIFOLD,
    REGULAR_AND_LEARNED,
    SAMPLED,
    Training,
)

MIN_NORMAL_SHARE = 0.95  # of a gradient that is nearly orthogonal to the manifold
TANGENT_COLUMN = "gradient_tangent_share"
UNSEEN_COLUMN = "unseen_success"

ORTHOGONALITY_CLAIM = Claim(
    5,
    "Gradients of the loss are nearly orthogonal to the manifold.",
    "The paper argues that regular adversarial examples leave the manifold because gradients point away from it. The"
    " decoder of FONTS is known, so each gradient can be split into a part tangent to the manifold (along the six"
    " affine parameters of an image) and a part normal to it. Of a random direction among 784 pixels, 6 / 784 is"
    " tangent.",
    "share of the squared gradient that is normal to the manifold, averaged over models without regular training",
    f"nearly all of the gradient is normal to the manifold: the interval lies above {MIN_NORMAL_SHARE}",
    f"a good part of the gradient is tangent: the interval lies below {MIN_NORMAL_SHARE}",
)
TURNING_CLAIM = Claim(
    6,
    "On-manifold adversarial training turns gradients towards the manifold.",
    "A model that is attacked along the manifold has seen in which directions of the manifold its loss rises. One may"
    " expect its gradients to point more along these directions, or less: a model that has become invariant to them has"
    " no reason to change its loss along the manifold.",
    "tangent share of gradients after on-manifold training, divided by that of normally trained models",
    "gradients have a larger tangent part than after normal training: the interval of the ratio lies above 1",
    "gradients have a smaller tangent part than after normal training: the interval of the ratio lies below 1",
)
OVERFITTING_CLAIM = Claim(
    7,
    "Adversarial training overfits: an earlier epoch is more robust than the last one.",
    "Rice et al. (2020) found that the error under attack of adversarially trained networks falls, and then rises"
    " again, while their test error still falls. Here each model is attacked after every epoch; its best epoch is"
    " chosen on one half of the images and assessed on the other.",
    "error under attack in the last epoch minus that in the best epoch, averaged over models with regular training",
    "the last epoch has a larger error under attack: the interval of the difference lies above 0",
    "the last epoch has a smaller error under attack: the interval of the difference lies below 0",
)

UNSEEN_CLAIM = Claim(
    8,
    "Training against regular and on-manifold examples together withstands unseen attacks better than either alone.",
    "A model is attacked in ways that no training uses: rotations, elastic deformations, fog and blur. Training on the"
    " learned manifold may protect against those that move strokes, regular adversarial training against those that"
    " change all pixels a little, such as fog, which changes none by more than regular attacks may. Lin et al. (2020)"
    " train on both for the same reason, on natural images with the manifold of a GAN, and report that their network"
    " withstands unseen attacks better.",
    "mean success rate of unseen attacks after the better of the two trainings, minus that after training on both",
    "training on both leaves unseen attacks less success than each alone: the interval lies above 0",
    "one of the two alone is better: the interval lies below 0",
)
SAMPLING_CLAIM = Claim(
    9,
    "On-manifold adversarial training generalizes better than training on as many random images of the manifold.",
    "On-manifold adversarial examples are images of the manifold. If more such images were all that counts, drawing"
    " them at random would do: here, normal training on N images and as many generated ones, with twice as many steps"
    " as adversarial training makes. On the true manifold, each letter is drawn again in its own font with a new affine"
    " map; on the learned one, the autoencoder of its class generates it. (For robustness against regular attacks,"
    " generated data helps much: Gowal et al., 2021, gain 9.0 points of robust accuracy on CIFAR-10 by it.)",
    "test error after training with random images of the manifold, minus that of on-manifold adversarial training",
    "adversarial examples are worth more than random images: the interval lies above 0",
    "random images are worth more: the interval lies below 0",
)


def further_claims(results: Sequence[CellResult]) -> list[Claim]:
    """Decide the claims beyond the paper for which there are measurements.

    Parameters
    ----------
    results : sequence of CellResult
        The cells of a run.

    Returns
    -------
    list of Claim
        The claims, from number 5 on.
    """
    claims: list[Claim] = []
    if with_measurements(results, TANGENT_COLUMN)[0]:
        claims += [orthogonal_gradients(results), turned_gradients(results)]
    if any(ERROR_BY_EPOCH in r.series for r in results):
        claims.append(robust_overfitting(results))
    present = {r.cell.training for r in results}
    if REGULAR_AND_LEARNED in present and with_measurements(results, UNSEEN_COLUMN)[0]:
        claims.append(unseen_attacks(results))
    if present & set(SAMPLED):
        claims.append(adversary_or_data(results))
    return claims


def paired(results: Sequence[CellResult], column: str, *trainings: Training) -> Floats:
    """Return the values of trainings for the same N and seed, shape (trainings, n), where all of them have one."""
    values = [
        {(r.cell.n_train, r.cell.seed): r.value(column) for r in results if r.cell.training == training}
        for training in trainings
    ]
    keys = [key for key in values[0] if all(np.isfinite(found.get(key, np.nan)) for found in values)]
    return np.array([[found[key] for key in keys] for found in values]).reshape(len(trainings), len(keys))


def orthogonal_gradients(results: Sequence[CellResult]) -> Claim:
    """Decide claim 5: after trainings without regular attacks, less than a twentieth of gradients is tangent."""
    judged = [r for r in results if not attacks_regularly(r.cell.training)]
    cells, (shares,) = with_measurements(judged, TANGENT_COLUMN)
    by_kind = _shares_by_training(results)
    details = [f"{training.label}: tangent share {share:.4f}." for training, share in by_kind.items()]
    data = {"cells": [r.cell.name for r in cells], "tangent_share": shares.tolist()}
    claim = replace(ORTHOGONALITY_CLAIM, details=tuple(details), data=data)
    return judge_mean(claim, 1 - shares, MIN_NORMAL_SHARE, "models with gradients", f"contains {MIN_NORMAL_SHARE}")


def turned_gradients(results: Sequence[CellResult]) -> Claim:
    """Decide claim 6: on-manifold training raises the tangent share, compared with the same N and seed."""
    pairs = {t: paired(results, TANGENT_COLUMN, t, NORMAL) for t in by_training(results) if t != NORMAL}
    ratios = {training: values / normal for training, (values, normal) in pairs.items()}
    details = [f"{training.label}: ratio {values.mean():.2f}." for training, values in ratios.items() if len(values)]
    values = ratios.get(ON_TRUE_MANIFOLD, np.empty(0))
    data = {"ratio": {training.name: values.tolist() for training, values in ratios.items()}}
    claim = replace(TURNING_CLAIM, details=tuple(details), data=data)
    return judge_mean(claim, values, 1.0, "pairs of models trained on the manifold and normally", "contains 1")


def robust_overfitting(results: Sequence[CellResult]) -> Claim:
    """Decide claim 7, and compare claim 4 between the last and the best epoch."""
    tracked = [r for r in results if ERROR_BY_EPOCH in r.series]
    judged = [r for r in tracked if attacks_regularly(r.cell.training)]
    best, errors = [best_epoch(r) for r in judged], [r.series[HELD_OUT_BY_EPOCH] for r in judged]
    gaps = np.array([series[-1] - series[epoch] for series, epoch in zip(errors, best, strict=True)])
    details = []
    if judged:
        details.append(f"The best epoch is number {np.mean(best) + 1:.1f} of {len(errors[0])} on average.")
    for name, epochs in (("last", [-1] * len(tracked)), ("best", [best_epoch(r) for r in tracked])):
        claim = regular_robustness([_at_epoch(r, epoch) for r, epoch in zip(tracked, epochs, strict=True)])
        details.append(f"Claim 4 on the images attacked after every epoch, {name} epoch of each model: {claim.outcome}")
    if others := [r for r in tracked if not attacks_regularly(r.cell.training)]:
        first = sum(best_epoch(r) == 0 for r in others)
        error = np.mean([r.series[HELD_OUT_BY_EPOCH][-1] for r in others])
        details.append(
            f"Without regular training, the error under attack is {error:.3f} on average after the last epoch, and the"
            f" best epoch is the first, before they have learned much, for {first} of {len(others)}."
        )
    data = {"cells": [r.cell.name for r in judged], "best_epoch": [b + 1 for b in best], "difference": gaps.tolist()}
    claim = replace(OVERFITTING_CLAIM, details=tuple(details), data=data)
    return judge_mean(claim, gaps, 0.0, "models with regular training", "contains 0")


def unseen_attacks(results: Sequence[CellResult]) -> Claim:
    """Decide claim 8, for the learned manifold."""
    alone_and_both = paired(results, UNSEEN_COLUMN, ADVERSARIAL, ON_LEARNED_MANIFOLD, REGULAR_AND_LEARNED)
    advantages = alone_and_both[:2].min(axis=0) - alone_and_both[2]
    columns = [UNSEEN_COLUMN, *(f"{attack.name}_success" for attack in UNSEEN_ATTACKS)]
    details = []
    for training, cells in by_training(results).items():
        _, rates = with_measurements(cells, *columns)
        if len(rates[0]):
            single = (f"{a.name} {rate.mean():.2f}" for a, rate in zip(UNSEEN_ATTACKS, rates[1:], strict=True))
            details.append(f"{training.label}: {rates[0].mean():.3f} ({', '.join(single)}).")
    claim = replace(UNSEEN_CLAIM, details=tuple(details), data={"advantage": advantages.tolist()})
    return judge_mean(claim, advantages, 0.0, "pairs of N and seed with all three trainings", "contains 0")


def adversary_or_data(results: Sequence[CellResult]) -> Claim:
    """Decide claim 9, for the true manifold where it is known, and say how much of the gain is data."""
    details, differences = [], {}
    for sampling in SAMPLED:
        adversary = next(t for t in MAIN if t.spaces == (sampling.samples,) and not t.random)
        random, adversarial = paired(results, "test_error", sampling, adversary)
        if len(random):
            differences[sampling.name] = (random - adversarial).tolist()
        normal, random, adversarial = paired(results, "test_error", NORMAL, sampling, adversary)
        if not len(normal):
            continue
        gains = (normal - random).mean(), (normal - adversarial).mean()
        share = f", which is {gains[0] / gains[1]:.0%} of it" if min(gains) > 0 else ""
        by_samples, by_adversary = (f"{'lower' if gain >= 0 else 'raise'}s" for gain in gains)
        details.append(
            f"{adversary.label} training {by_adversary} the test error of normal training by {abs(gains[1]):.3f} on"
            f" average, training with random images of the same manifold {by_samples} it by {abs(gains[0]):.3f}{share}."
        )
    values = np.array(next(iter(differences.values()), []))
    claim = replace(SAMPLING_CLAIM, details=tuple(details), data={"difference": differences})
    return judge_mean(claim, values, 0.0, "pairs of N and seed with both trainings", "contains 0")


def best_epoch(result: CellResult) -> int:
    """Return the epoch, counted from 0, with the smallest error under attack on the images for selection."""
    return int(np.argmin(result.series[SELECTION_BY_EPOCH]))


def _at_epoch(result: CellResult, epoch: int) -> CellResult:
    """Return a result with the test error and the regular success of an epoch."""
    regular = success_by_epoch(ImageBall)
    values = {"test_error": result.series[ERROR_BY_EPOCH], f"{ImageBall.name}_success": result.series[regular]}
    return replace(result, measurements={name: float(series[epoch]) for name, series in values.items()})


def _shares_by_training(results: Sequence[CellResult]) -> dict[Training, float]:
    """Return the mean tangent share of each training."""
    shares = {t: with_measurements(cells, TANGENT_COLUMN)[1][0] for t, cells in by_training(results).items()}
    return {training: float(values.mean()) for training, values in shares.items() if len(values)}
