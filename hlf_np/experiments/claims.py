"""The paper's four claims, as statements about a run's cells.

A claim is *supported* or *refuted* only by an interval that allows no other conclusion; otherwise it is
*undecided*, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.experiments.store import CellResult
from hlf_np.random import generator
from hlf_np.training import Training

FEWEST_CELLS = 6  # fewer points say nothing certain about a slope
RESAMPLES = 2000
LEVEL = 0.95
FLAT = 0.1  # success that moves by less than this over the observed test errors "hardly moves"


@dataclass(frozen=True)
class Claim:
    """A claim, what was found about it, and from what.

    statistic, interval : a number and its 95 % bootstrap interval; None where there is nothing to compute.
    verdict : "supported", "refuted", or "undecided: " and why.
    """

    number: int
    statement: str
    verdict: str
    statistic_name: str = ""
    statistic: float | None = None
    interval: tuple[float, float] | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def slope(x: Floats, y: Floats) -> float:
    """Of the least-squares line through the points."""
    centred = x - x.mean()
    return float(centred @ (y - y.mean()) / (centred @ centred))


def slope_interval(x: Floats, y: Floats) -> tuple[float, float]:
    """A 95 % interval of the slope, by drawing the points anew with replacement (percentile bootstrap)."""
    random = generator(0, "bootstrap")
    slopes: list[float] = []
    while len(slopes) < RESAMPLES:
        drawn = random.integers(len(x), size=len(x))
        if np.ptp(x[drawn]) > 0:
            slopes.append(slope(x[drawn], y[drawn]))
    low, high = np.quantile(slopes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def evaluate_claims(results: Sequence[CellResult]) -> list[Claim]:
    """All four claims."""
    unmeasured = "undecided: this run has no attacks on the manifold"
    return [
        Claim(1, "Regular adversarial examples leave the manifold.", unmeasured),
        Claim(2, "Adversarial examples on the manifold exist.", unmeasured),
        Claim(3, "On-manifold robustness is generalization.", unmeasured),
        regular_robustness(results),
    ]


def regular_robustness(results: Sequence[CellResult]) -> Claim:
    """Claim 4: under normal training the regular success rate hardly moves with the test error.

    The statistic is the slope of success on error times the range of the errors: by how much success
    changes over all that was observed. It is supported if the interval lies within +-0.1, refuted if
    wholly outside.
    """
    statement = "Regular robustness and generalization do not contradict each other."
    cells = [r for r in results if r.cell.training is Training.NORMAL and np.isfinite(r.measurements.regular_success)]
    errors = np.array([r.measurements.test_error for r in cells])
    successes = np.array([r.measurements.regular_success for r in cells])
    data = {
        "cells": [r.cell.name for r in cells],
        "test_error": errors.tolist(),
        "regular_success": successes.tolist(),
    }
    name = "change of regular success over the observed test errors, normal training"
    if len(cells) < FEWEST_CELLS or np.ptp(errors) == 0:
        reason = f"undecided: too few cells ({len(cells)} normally trained models, {FEWEST_CELLS} needed)"
        return Claim(4, statement, reason, name, data=data)
    spread = float(np.ptp(errors))
    low, high = (spread * bound for bound in slope_interval(errors, successes))
    if max(abs(low), abs(high)) < FLAT:
        verdict = "supported"
    elif high < -FLAT or low > FLAT:
        verdict = "refuted"
    else:
        verdict = f"undecided: the interval reaches beyond +-{FLAT}"
    return Claim(4, statement, verdict, name, spread * slope(errors, successes), (low, high), data)
