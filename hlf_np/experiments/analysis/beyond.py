"""Claims beyond the paper: which way gradients point, and what happens in the course of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hlf_np.experiments.analysis.claim import Claim, judge_mean, with_measurements
from hlf_np.experiments.analysis.generalization import attacks_regularly, regular_robustness
from hlf_np.experiments.measurements import ERROR_BY_EPOCH, HELD_OUT_BY_EPOCH, SELECTION_BY_EPOCH, success_by_epoch
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.spaces import ImageBall, TrueManifold
from hlf_np.trainings import NORMAL, Training

MIN_NORMAL_SHARE = 0.95  # of a gradient that is nearly orthogonal to the manifold
TANGENT_COLUMN = "gradient_tangent_share"

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
    return claims


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
    normal = {(r.cell.n_train, r.cell.seed): r.value(TANGENT_COLUMN) for r in results if r.cell.training == NORMAL}
    ratios = {
        training: np.array(
            [
                r.value(TANGENT_COLUMN) / normal[r.cell.n_train, r.cell.seed]
                for r in with_measurements(cells, TANGENT_COLUMN)[0]
                if np.isfinite(normal.get((r.cell.n_train, r.cell.seed), np.nan))
            ]
        )
        for training, cells in by_training(results).items()
        if training != NORMAL
    }
    details = [f"{training.label}: ratio {values.mean():.2f}." for training, values in ratios.items() if len(values)]
    on_manifold = next((t for t in ratios if t.spaces == (TrueManifold,) and not t.random), None)
    values = ratios[on_manifold] if on_manifold else np.empty(0)
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
        details.append(
            f"Claim 4 with the {name} epoch of each model, on the images attacked after every epoch: {claim}"
        )
    data = {"cells": [r.cell.name for r in judged], "best_epoch": [b + 1 for b in best], "difference": gaps.tolist()}
    claim = replace(OVERFITTING_CLAIM, details=tuple(details), data=data)
    return judge_mean(claim, gaps, 0.0, "models with regular training", "contains 0")


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
