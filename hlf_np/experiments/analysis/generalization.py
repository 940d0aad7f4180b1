"""Claims 3 and 4: the relation of robustness to generalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hlf_np.experiments.analysis.claim import MIN_CELLS, REFUTED, SUPPORTED, Claim, too_few_cells, with_measurements
from hlf_np.experiments.analysis.data_factor import data_factor
from hlf_np.experiments.analysis.statistics import CONFIDENCE_LEVEL, rank_correlation, slope, slope_interval
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.spaces import ImageBall, LearnedManifold, TrueManifold
from hlf_np.trainings import Training

NEGLIGIBLE_SUCCESS_CHANGE = 0.1  # of the success rate, over the observed test errors
NEGLIGIBLE_SLOPE = 0.1  # success rate per unit of test error
MIN_ERROR_RATIO = 1.5  # of the largest to the smallest test error, to tell whether success depends on it

ON_MANIFOLD_ROBUSTNESS_CLAIM = Claim(
    3,
    "On-manifold robustness is generalization.",
    "An on-manifold adversarial example is an image that the data could contain, so misclassifying it is a test error"
    " found by a deliberate search. A model that makes fewer errors leaves fewer to be found, however it was trained.",
    "smallest slope of on-manifold success against test error over all trainings",
    "success rises with the test error in every training: the interval, which holds for all slopes simultaneously with"
    f" 95 % confidence, lies above 0, and not below {NEGLIGIBLE_SLOPE}",
    f"success does not follow the test error in some training: the interval lies below {NEGLIGIBLE_SLOPE}",
)
REGULAR_ROBUSTNESS_CLAIM = Claim(
    4,
    "Regular robustness and generalization do not contradict each other.",
    "Noise off the manifold is unrelated to how well a model performs on it: models with small and with large test"
    " error are equally vulnerable to regular attacks. Only training against such attacks changes that. It requires the"
    " model to learn more, and the price is paid in training images.",
    "largest change in regular success, up or down, over the test errors of a training without regular attacks",
    "success hardly changes with the test error: the interval, which holds for all changes simultaneously with 95 %"
    f" confidence, lies below {NEGLIGIBLE_SUCCESS_CHANGE}",
    "success clearly changes with the test error in some training: the interval lies above"
    f" {NEGLIGIBLE_SUCCESS_CHANGE}",
)


def on_manifold_robustness(results: Sequence[CellResult]) -> Claim:
    """Decide claim 3: for every training, on-manifold success rises with the test error.

    For each training, success is regressed on the test error. The intervals of all slopes hold simultaneously with 95 %
    confidence (Bonferroni). The claim is about every training, so the statistic is the smallest slope; its interval
    goes from the smallest lower bound to the smallest upper bound. The claim is refuted if the interval lies below 0.1,
    as one of the slopes then does, and otherwise supported if it lies above 0, as all then do. Nearly equal errors, and
    success rates that are all 0 or all 1, allow no conclusion. Success is measured on the true manifold or, without
    one, on the learned manifold.

    Parameters
    ----------
    results : sequence of CellResult
        The cells of a run.

    Returns
    -------
    Claim
        The claim with its verdict.
    """
    columns = [f"{space.name}_success" for space in (TrueManifold, LearnedManifold)]
    by_column = {column: _fits(results, column) for column in columns}
    column = next((column for column in columns if by_column[column]), columns[0])
    fits = by_column[column]
    labels = {training.name: training.label for training in by_training(results)}
    claim = replace(ON_MANIFOLD_ROBUSTNESS_CLAIM, data={"success": column} | by_column)
    decided = [fit for fit in fits.values() if _has_varied_errors(fit) and not _is_saturated(fit)]
    lacking = [_lacking_verdict(training, fit) for training, fit in fits.items() if fit not in decided]
    if not decided:
        return replace(claim, verdict=(lacking or [too_few_cells(0, "models with a success rate on a manifold")])[0])
    smallest = min(fit["slope"] for fit in decided)
    low, high = (min(fit["interval"][k] for fit in decided) for k in range(2))
    verdict = _verdict(high < NEGLIGIBLE_SLOPE, low <= 0, "the interval contains 0", lacking)
    details = [f"{labels[training]}: slope {_format_slope(fit)}." for training, fit in fits.items() if fit["interval"]]
    claim = replace(claim, details=tuple(details))
    return replace(claim, verdict=verdict, statistic=smallest, interval=(low, high))


def regular_robustness(results: Sequence[CellResult]) -> Claim:
    """Decide claim 4: for every training without regular attacks, regular success hardly changes with the test error.

    For each training, the slope of success on the test error times the range of the errors is the change of success
    over all observed errors. The intervals of all changes hold simultaneously with 95 % confidence (Bonferroni). The
    statistic is the largest change, whatever its sign; its interval goes from the largest distance of any interval from
    0 to the largest bound of all. The claim is supported if the interval lies below 0.1, as all changes then do, and
    refuted if it lies above, as one of them then does. Nearly equal errors allow no conclusion: the largest must be 1.5
    times the smallest, and not all success rates of all trainings may be 0 or 1. Trainings with regular attacks, and
    their cost in data, are reported in the details.

    Parameters
    ----------
    results : sequence of CellResult
        The cells of a run.

    Returns
    -------
    Claim
        The claim with its verdict.
    """
    column = f"{ImageBall.name}_success"
    fits = {training: fit | _change(fit) for training, fit in _fits(results, column).items()}
    factor, trainings = data_factor(results), {training.name: training for training in by_training(results)}
    changes = (_format_change(trainings[name], fit) for name, fit in fits.items() if fit["change"] is not None)
    details = (*_format_factor(factor), *changes)
    claim = replace(REGULAR_ROBUSTNESS_CLAIM, details=details, data={column: fits, "data_factor": factor})
    judged = {name: fit for name, fit in fits.items() if not attacks_regularly(trainings[name])}
    decided = [fit for fit in judged.values() if fit["change"] is not None]
    lacking = [_lacking_verdict(name, fit) for name, fit in judged.items() if fit["change"] is None]
    if not decided:
        return replace(claim, verdict=(lacking or [too_few_cells(0, "models trained without regular attacks")])[0])
    largest, intervals = max(abs(fit["change"]) for fit in decided), [fit["change_interval"] for fit in decided]
    if all(map(_is_saturated, decided)):
        return replace(claim, verdict="undecided: all success rates are 0 or 1")
    low, high = max(max(low, -high, 0.0) for low, high in intervals), max(max(-low, high) for low, high in intervals)
    bound = NEGLIGIBLE_SUCCESS_CHANGE
    verdict = _verdict(low > bound, high >= bound, f"the interval contains {bound}", lacking)
    return replace(claim, verdict=verdict, statistic=largest, interval=(low, high))


def _fits(results: Sequence[CellResult], column: str) -> dict[str, dict[str, Any]]:
    """Regress success on the test error for each training that has the measurement; None if there are too few cells.

    If others have it, trainings all of whose models failed are included, without cells.
    """
    fits: dict[str, dict[str, Any]] = {}
    groups = by_training(results)
    level = 1 - (1 - CONFIDENCE_LEVEL) / max(len(groups), 1)  # Bonferroni
    for training, group in groups.items():
        cells, (errors, successes) = with_measurements(group, "test_error", column)
        if not cells and not any(r.failure for r in group):
            continue
        enough = len(cells) >= MIN_CELLS and np.ptp(errors) > 0
        fits[training.name] = {
            "cells": [r.cell.name for r in cells],
            "test_error": errors.tolist(),
            "success": successes.tolist(),
            "slope": slope(errors, successes) if enough else None,
            "interval": slope_interval(errors, successes, level) if enough else None,
            "rank_correlation": rank_correlation(errors, successes) if enough else None,
        }
    return fits if any(fit["cells"] for fit in fits.values()) else {}


def _verdict(refuted: bool, undecided: bool, reason: str, lacking: Sequence[str]) -> str:
    """Return the verdict: one training can refute a claim, but all must support it, including the `lacking` ones."""
    if refuted:
        return REFUTED
    if undecided:
        return f"undecided: {reason}"
    return lacking[0] if lacking else SUPPORTED


def _change(fit: dict[str, Any]) -> dict[str, Any]:
    """Return the change of success over the range of errors, with its interval; None if errors are few or similar."""
    if not _has_varied_errors(fit):
        return {"change": None, "change_interval": None}
    spread = max(fit["test_error"]) - min(fit["test_error"])
    low, high = fit["interval"]
    return {"change": spread * fit["slope"], "change_interval": (spread * low, spread * high)}


def _has_varied_errors(fit: dict[str, Any]) -> bool:
    """Return whether there are enough models, whose test errors differ by enough."""
    return fit["interval"] is not None and max(fit["test_error"]) >= MIN_ERROR_RATIO * min(fit["test_error"])


def _is_saturated(fit: dict[str, Any]) -> bool:
    """Return whether all attacks failed, or all succeeded: stronger or weaker ones might tell models apart."""
    return set(fit["success"]) in ({0.0}, {1.0})


def attacks_regularly(training: Training) -> bool:
    """Return whether a training attacks images regularly, rather than adding random noise."""
    return any(issubclass(kind, ImageBall) for kind in training.spaces) and not training.random


def _lacking_verdict(training: str, fit: dict[str, Any]) -> str:
    """Return the verdict where the cells of a training allow no conclusion."""
    if len(fit["cells"]) < MIN_CELLS:
        return too_few_cells(len(fit["cells"]), f"models of training {training}")
    if _has_varied_errors(fit):
        return f"undecided: the success rates of training {training} are all {fit['success'][0]:.0f}"
    low, high = min(fit["test_error"]), max(fit["test_error"])
    return f"undecided: the test errors of training {training} differ too little ({low:.3f} to {high:.3f})"


def _format_slope(fit: dict[str, Any]) -> str:
    low, high = fit["interval"]
    correlation = fit["rank_correlation"]
    suffix = "" if correlation is None else f", rank correlation {correlation:z.2f}"
    return f"{fit['slope']:z.2f} ({low:z.2f} to {high:z.2f}){suffix}"


def _format_change(training: Training, fit: dict[str, Any]) -> str:
    low, high = fit["change_interval"]
    role = " (not part of the verdict)" if attacks_regularly(training) else ""
    return (
        f"{training.label}{role}: success changes by {fit['change']:z.3f} ({low:z.3f} to {high:z.3f}) over test errors"
        f" from {min(fit['test_error']):.3f} to {max(fit['test_error']):.3f}; slope {_format_slope(fit)}."
    )


def _format_factor(factor: dict[str, Any] | None) -> tuple[str, ...]:
    """Return a sentence about the data factor of adversarial training, if it is known."""
    if factor is None:
        return ()
    (low, high), (smallest, largest) = factor["interval"], factor["sizes"]
    intervals = {n: f" ({low:.2f} to {high:.2f})" for n, (low, high) in factor["intervals_by_size"].items()}
    values = [f"{value:.2f}{intervals.get(n, '')} at N = {n}" for n, value in factor["by_size"]]
    ends = f": {values[0]}, {values[-1]}" if len(values) > 1 else ""
    sentence = (
        f"For the same test error, adversarial training needs {factor['factor']:.2f} times as many training images as"
        f" normal training (95 % interval {low:.2f} to {high:.2f}), on average over N from {smallest} to"
        f" {largest}{ends}."
    )
    return (sentence + " A factor below 1 saves images.",) if factor["factor"] < 1 else (sentence,)
