"""What a claim is, and what it takes to decide one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.experiments.statistics import Interval
from hlf_np.experiments.store import CellResult

FEWEST_CELLS = 6  # fewer points say nothing certain
SUPPORTED, REFUTED = "supported", "refuted"


@dataclass(frozen=True)
class Claim:
    """A claim, what was found about it, and from what.

    statistic, interval : a number and its 95 % bootstrap interval; None where there is nothing to compute.
    verdict : "supported", "refuted", or "undecided: " and why.
    details : further findings, a sentence each.
    data : all numbers behind it.
    """

    number: int
    statement: str
    verdict: str
    statistic_name: str = ""
    statistic: float | None = None
    interval: Interval | None = None
    details: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def too_few(found: int, what: str) -> str:
    """The verdict where there is too little data."""
    return f"undecided: too few cells ({found} {what}, {FEWEST_CELLS} needed)"


def measured(results: Sequence[CellResult], *names: str) -> tuple[list[CellResult], list[Floats]]:
    """The results that have all of these measurements, and an array (n,) of each."""
    having = [r for r in results if all(np.isfinite(getattr(r.measurements, name)) for name in names)]
    return having, [np.array([getattr(r.measurements, name) for r in having], np.float64) for name in names]
