"""Claims 3 and 4: what robustness has to do with generalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.experiments.claims.claim import FEWEST_CELLS, REFUTED, SUPPORTED, Claim, measured, too_few
from hlf_np.experiments.evaluation import ON_LEARNED_MANIFOLD, ON_TRUE_MANIFOLD
from hlf_np.experiments.statistics import LEVEL, interval, rank_correlation, slope, slope_interval
from hlf_np.experiments.store import CellResult
from hlf_np.training import Training

FLAT = 0.1  # success that moves by less than this over the observed test errors "hardly moves"
WEAK = 0.1  # success that moves less than this for each unit of test error does not follow it


def on_manifold_robustness(results: Sequence[CellResult]) -> Claim:
    """Claim 3: whatever the training, on-manifold success falls with the test error.

    For each training the slope of success on error has an interval, of which all together hold with 95 % (Bonferroni).
    The claim is about every training, so the statistic is the smallest slope. The claim is supported if all
    intervals lie above 0, refuted if any lies below 0.1. Success is that on the true manifold, or, without one,
    on the learned one.
    """
    statement = "On-manifold robustness is generalization."
    columns = [f"{kind}_success" for kind in (ON_TRUE_MANIFOLD, ON_LEARNED_MANIFOLD)]
    by_column = {column: _by_training(results, column) for column in columns}
    column = next((column for column in columns if by_column[column]), columns[0])
    found = by_column[column]
    data: dict[str, Any] = {"success": column} | by_column
    decided = [entry for entry in found.values() if entry["interval"] is not None]
    name = "smallest slope of on-manifold success on test error, over all trainings"
    if not decided:
        return Claim(3, statement, too_few(_most(found), "models of one training"), name, data=data)
    smallest = min(decided, key=lambda entry: float(entry["slope"]))
    lacking = [training for training, entry in found.items() if entry["interval"] is None]
    if any(entry["interval"][1] < WEAK for entry in decided):
        verdict = REFUTED
    elif any(entry["interval"][0] <= 0 for entry in decided):
        verdict = "undecided: an interval holds 0"
    elif lacking:
        verdict = too_few(len(found[lacking[0]]["cells"]), f"models of training {lacking[0]}")
    else:
        verdict = SUPPORTED
    details = tuple(_sentence(training, entry) for training, entry in found.items() if entry["interval"] is not None)
    return Claim(3, statement, verdict, name, smallest["slope"], smallest["interval"], details, data)


def _by_training(results: Sequence[CellResult], column: str) -> dict[str, dict[str, Any]]:
    """Slope, interval and rank correlation for each training that has the measurement; None if there are too few."""
    found: dict[str, dict[str, Any]] = {}
    present = [training for training in Training if any(r.cell.training is training for r in results)]
    level = 1 - (1 - LEVEL) / max(len(present), 1)
    for training in present:
        cells, (errors, successes) = measured([r for r in results if r.cell.training is training], "test_error", column)
        if not cells:
            continue
        enough = len(cells) >= FEWEST_CELLS and np.ptp(errors) > 0
        found[training.value] = {
            "cells": [r.cell.name for r in cells],
            "test_error": errors.tolist(),
            "success": successes.tolist(),
            "slope": slope(errors, successes) if enough else None,
            "interval": slope_interval(errors, successes, level) if enough else None,
            "rank_correlation": rank_correlation(errors, successes) if enough else None,
        }
    return found


def _most(found: dict[str, dict[str, Any]]) -> int:
    return max((len(entry["cells"]) for entry in found.values()), default=0)


def _sentence(training: str, entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    correlation = entry["rank_correlation"]
    ranked = "" if correlation is None else f", rank correlation {correlation:.2f}"
    return f"{Training(training).label}: slope {entry['slope']:.2f} ({low:.2f} to {high:.2f}){ranked}."


def regular_robustness(results: Sequence[CellResult]) -> Claim:
    """Claim 4: under normal training the regular success rate hardly moves with the test error.

    The statistic is the slope of success on error times the range of the errors: by how much success changes
    over all that was observed. It is supported if the interval lies within +-0.1, refuted if wholly
    outside. What adversarial training costs in data is told beside it.
    """
    statement = "Regular robustness and generalization do not contradict each other."
    cells, (errors, successes) = measured(
        [r for r in results if r.cell.training is Training.NORMAL], "test_error", "regular_success"
    )
    factor = data_factor(results)
    data = {
        "cells": [r.cell.name for r in cells],
        "test_error": errors.tolist(),
        "regular_success": successes.tolist(),
        "data_factor": factor,
    }
    details: tuple[str, ...] = ()
    if factor is not None:
        low, high = factor["interval"]
        details = (
            f"For the same test error, adversarial training needs {factor['factor']:.2f} times the training images of"
            f" normal training (95 % interval {low:.2f} to {high:.2f}).",
        )
    name = "change of regular success over the observed test errors, normal training"
    if len(cells) < FEWEST_CELLS or np.ptp(errors) == 0:
        return Claim(4, statement, too_few(len(cells), "normally trained models"), name, None, None, details, data)
    spread = float(np.ptp(errors))
    low, high = (spread * bound for bound in slope_interval(errors, successes))
    if max(abs(low), abs(high)) < FLAT:
        verdict = SUPPORTED
    elif high < -FLAT or low > FLAT:
        verdict = REFUTED
    else:
        verdict = f"undecided: the interval reaches beyond +-{FLAT}"
    return Claim(4, statement, verdict, name, spread * slope(errors, successes), (low, high), details, data)


def data_factor(results: Sequence[CellResult]) -> dict[str, Any] | None:
    """How many times the images of normal training adversarial training needs for the same test error.

    Errors are taken to fall as a power of N, the same power for both trainings: on logarithmic axes two parallel
    lines, log error = height - power log N. A training whose line is higher by h needs exp(h / power) times the
    images. None if either training has too few models, or it is not certain that the errors fall.
    """
    points = []  # (n, 2) for each training: log N, log error
    for training in (Training.NORMAL, Training.ADVERSARIAL):
        cells = [r for r in results if r.cell.training is training and r.measurements.test_error > 0]
        if len(cells) < FEWEST_CELLS:
            return None
        points.append(np.log([(r.cell.n_train, r.measurements.test_error) for r in cells]))
    if not np.isfinite(_power(*points)) or interval(_power, *points)[0] <= 0:
        return None
    low, high = interval(_log_factor, *points)
    factor, low, high = (float(np.exp(logarithm)) for logarithm in (_log_factor(*points), low, high))
    return {"factor": factor, "interval": (low, high)}


def _power(*samples: Floats) -> float:
    """By which the errors fall, the same in all samples of points (n, 2), log N and log error."""
    inside = np.concatenate([points - points.mean(axis=0) for points in samples])
    return -slope(inside[:, 0], inside[:, 1])


def _log_factor(normal: Floats, adversarial: Floats) -> float:
    """NaN unless the errors fall."""
    power = _power(normal, adversarial)
    log_n, log_error = adversarial.mean(axis=0) - normal.mean(axis=0)
    return float(log_n + log_error / power) if power > 0 else float("nan")
