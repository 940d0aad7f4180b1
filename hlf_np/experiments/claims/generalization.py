"""Claims 3 and 4: what robustness has to do with generalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hlf_np.experiments.claims.claim import FEWEST_CELLS, REFUTED, SUPPORTED, Claim, measured, too_few
from hlf_np.experiments.claims.data_factor import data_factor
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.experiments.statistics import LEVEL, rank_correlation, slope, slope_interval
from hlf_np.spaces import ImageBall, LearnedManifold, TrueManifold
from hlf_np.trainings import Training

FLAT = 0.1  # success that moves by less than this over the observed test errors "hardly moves"
WEAK = 0.1  # success that moves less than this for each unit of test error does not follow it
SPAN = 1.5  # the largest error must be so many times the smallest, to see whether success moves with it

FOLLOWING = Claim(
    3,
    "On-manifold robustness is generalization.",
    "An on-manifold adversarial example is an image that the data could hold, so being wrong about it is a test error"
    " that somebody looked for. A model that makes fewer errors leaves fewer to be found, however it was trained.",
    "smallest slope of on-manifold success on test error over all trainings",
    "success rises with the test error in every training: the intervals of all slopes lie above 0",
    f"success does not follow the error in some training: the interval of its slope lies below {WEAK}",
)
FLATNESS = Claim(
    4,
    "Regular robustness and generalization do not contradict each other.",
    "Noise off the manifold has nothing to do with how well a model does on it: models of small and of large test"
    " error fall to regular attacks alike. Only training against such attacks changes that. It asks the model to learn"
    " more, and the price is paid in training images.",
    "largest change of regular success over the observed test errors of a training without regular attacks",
    f"success hardly moves with the test error: the intervals of all changes lie within ±{FLAT}",
    f"success clearly moves with the test error in some training: the interval of its change lies outside of ±{FLAT}",
)


def on_manifold_robustness(results: Sequence[CellResult]) -> Claim:
    """Claim 3: whatever the training, on-manifold success falls with the test error.

    For each training the slope of success on error has an interval, of which all together hold with 95 % (Bonferroni).
    The claim is about every training, so the statistic is the smallest slope. The claim is supported if all
    intervals lie above 0, refuted if any lies below 0.1. Success is that on the true manifold, or, without one,
    on the learned one.
    """
    columns = [f"{space.name}_success" for space in (TrueManifold, LearnedManifold)]
    by_column = {column: _by_training(results, column) for column in columns}
    column = next((column for column in columns if by_column[column]), columns[0])
    found = by_column[column]
    labels = {training.name: training.label for training in by_training(results)}
    claim = replace(FOLLOWING, data={"success": column} | by_column)
    decided = [entry for entry in found.values() if entry["interval"] is not None]
    if not decided:
        most = max((len(entry["cells"]) for entry in found.values()), default=0)
        return replace(claim, verdict=too_few(most, "models of one training"))
    smallest = min(decided, key=lambda entry: float(entry["slope"]))
    lacking = [_lacks(training, entry) for training, entry in found.items() if entry["interval"] is None]
    refuted = any(entry["interval"][1] < WEAK for entry in decided)
    verdict = _verdict(refuted, any(entry["interval"][0] <= 0 for entry in decided), "an interval holds 0", lacking)
    told = [f"{labels[training]}: slope {_slope(entry)}." for training, entry in found.items() if entry["interval"]]
    claim = replace(claim, details=tuple(told))
    return replace(claim, verdict=verdict, statistic=smallest["slope"], interval=smallest["interval"])


def regular_robustness(results: Sequence[CellResult]) -> Claim:
    """Claim 4: under every training without regular attacks, regular success hardly moves with the test error.

    For each training the slope of success on error, times the range of the errors, is by how much success changes
    over all that was observed; the intervals of all together hold with 95 % (Bonferroni). The statistic is the
    largest of these changes. The claim is supported if all intervals lie within +-0.1, refuted if any lies wholly
    outside. Errors of nearly the same size say nothing: the largest must be 1.5 times the smallest. Trainings
    with regular attacks are told beside it, as is what they cost in data.
    """
    column = f"{ImageBall.name}_success"
    found = {training: entry | _change(entry) for training, entry in _by_training(results, column).items()}
    factor, known = data_factor(results), {training.name: training for training in by_training(results)}
    moved = (_moved(known[training], entry) for training, entry in found.items() if entry["change"] is not None)
    claim = replace(FLATNESS, details=(*_price(factor), *moved), data={column: found, "data_factor": factor})
    judged = {training: entry for training, entry in found.items() if not _attacks_regularly(known[training])}
    decided = [entry for entry in judged.values() if entry["change"] is not None]
    lacking = [_lacks(training, entry) for training, entry in judged.items() if entry["change"] is None]
    if not decided:
        return replace(claim, verdict=(lacking or [too_few(0, "models trained without regular attacks")])[0])
    intervals = [entry["change_interval"] for entry in decided]
    refuted = any(low > FLAT or high < -FLAT for low, high in intervals)
    beyond = any(max(-low, high) >= FLAT for low, high in intervals)
    verdict = _verdict(refuted, beyond, f"an interval reaches beyond ±{FLAT}", lacking)
    largest = max(decided, key=lambda entry: abs(float(entry["change"])))
    return replace(claim, verdict=verdict, statistic=largest["change"], interval=largest["change_interval"])


def _by_training(results: Sequence[CellResult], column: str) -> dict[str, dict[str, Any]]:
    """Slope, interval and rank correlation for each training that has the measurement; None if there are too few."""
    found: dict[str, dict[str, Any]] = {}
    present = by_training(results)
    level = 1 - (1 - LEVEL) / max(len(present), 1)
    for training, trained in present.items():
        cells, (errors, successes) = measured(trained, "test_error", column)
        if not cells:
            continue
        enough = len(cells) >= FEWEST_CELLS and np.ptp(errors) > 0
        found[training.name] = {
            "cells": [r.cell.name for r in cells],
            "test_error": errors.tolist(),
            "success": successes.tolist(),
            "slope": slope(errors, successes) if enough else None,
            "interval": slope_interval(errors, successes, level) if enough else None,
            "rank_correlation": rank_correlation(errors, successes) if enough else None,
        }
    return found


def _verdict(refuted: bool, undecided: bool, why: str, lacking: Sequence[str]) -> str:
    """Any training may refute a claim; all must support it, also those that lack something, in these words."""
    if refuted:
        return REFUTED
    if undecided:
        return f"undecided: {why}"
    return lacking[0] if lacking else SUPPORTED


def _change(entry: dict[str, Any]) -> dict[str, Any]:
    """What a training's slope comes to over its errors, with its interval; None if they are too few or too similar."""
    errors = entry["test_error"]
    if entry["interval"] is None or max(errors) < SPAN * min(errors):
        return {"change": None, "change_interval": None}
    spread = max(errors) - min(errors)
    low, high = entry["interval"]
    return {"change": spread * entry["slope"], "change_interval": (spread * low, spread * high)}


def _attacks_regularly(training: Training) -> bool:
    return ImageBall in training.spaces


def _lacks(training: str, entry: dict[str, Any]) -> str:
    """The verdict where a training has no change."""
    if len(entry["cells"]) < FEWEST_CELLS:
        return too_few(len(entry["cells"]), f"models of training {training}")
    low, high = min(entry["test_error"]), max(entry["test_error"])
    return f"undecided: the test errors of training {training} differ too little ({low:.3f} to {high:.3f})"


def _slope(entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    correlation = entry["rank_correlation"]
    ranked = "" if correlation is None else f", rank correlation {correlation:.2f}"
    return f"{entry['slope']:.2f} ({low:.2f} to {high:.2f}){ranked}"


def _moved(training: Training, entry: dict[str, Any]) -> str:
    low, high = entry["change_interval"]
    beside = ", beside the verdict" if _attacks_regularly(training) else ""
    return (
        f"{training.label}{beside}: success changes by {entry['change']:.3f} ({low:.3f} to {high:.3f}) over test errors"
        f" from {min(entry['test_error']):.3f} to {max(entry['test_error']):.3f}; slope {_slope(entry)}."
    )


def _price(factor: dict[str, Any] | None) -> tuple[str, ...]:
    """What adversarial training costs, if that is known."""
    if factor is None:
        return ()
    (low, high), (fewest, most) = factor["interval"], factor["sizes"]
    at = [f"{value:.2f} at N = {size}" for size, value in factor["by_size"]]
    ends = f": {at[0]}, {at[-1]}" if len(at) > 1 else ""
    sentence = (
        f"For the same test error, adversarial training needs {factor['factor']:.2f} times the training images of"
        f" normal training (95 % interval {low:.2f} to {high:.2f}), on average over N from {fewest} to {most}{ends}."
    )
    return (sentence + " Below 1 it saves images.",) if factor["factor"] < 1 else (sentence,)
