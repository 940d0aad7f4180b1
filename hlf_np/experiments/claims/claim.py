"""What a claim is, and what it takes to decide one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hlf_np.arrays import Floats
from hlf_np.experiments.results import CellResult
from hlf_np.experiments.statistics import Interval, mean_interval

FEWEST_CELLS = 6  # fewer points say nothing certain
SUPPORTED, REFUTED = "supported", "refuted"


@dataclass(frozen=True)
class Claim:
    """A claim, what was found about it, and from what.

    meaning : what it says, in plain words.
    statistic_name : what is computed to judge it; confirmed_if, refuted_if : of what outcome it would be
        supported, of what refuted.
    statistic, interval : the number and its 95 % bootstrap interval; None where there is nothing to compute.
    verdict : "supported", "refuted", or "undecided: " and why.
    details : further findings, a sentence each.
    data : all numbers behind it.
    published : the same claim, judged by the paper's own numbers; None where those are not known.
    """

    number: int
    statement: str
    meaning: str
    statistic_name: str
    confirmed_if: str
    refuted_if: str
    verdict: str = "undecided: nothing was measured"
    statistic: float | None = None
    interval: Interval | None = None
    details: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    published: Claim | None = None

    def __str__(self) -> str:
        """One line: the claim, the verdict, and the number with its interval where there is one."""
        verdict = self.verdict[0].upper() + self.verdict[1:]
        number = ""
        if self.statistic is not None and self.interval is not None:
            number = " {:.3f} ({:.3f} to {:.3f}).".format(self.statistic, *self.interval)
        return f"{self.number}. {self.statement} {verdict}{':' if number else '.'}{number}"

    def as_json(self) -> dict[str, Any]:
        """Plain types; of what was published only the findings, the rest is the same."""
        found = ("verdict", "statistic", "interval", "details")
        published = self.published and {name: getattr(self.published, name) for name in found}
        return asdict(self) | {"published": published}


def too_few(found: int, what: str) -> str:
    """The verdict where there is too little data."""
    return f"undecided: too few cells ({found} {what}, {FEWEST_CELLS} needed)"


def judged_by_mean(
    claim: Claim, values: Floats, threshold: float, what: str, why: str, refutable: bool = True
) -> Claim:
    """A claim about the mean of one value of each model, (n,): its interval must lie above the threshold, or below.

    what : the values are of; why : nothing is decided otherwise.
    """
    if len(values) < FEWEST_CELLS:
        return replace(claim, verdict=too_few(len(values), what))
    low, high = mean_interval(values)
    verdict = f"undecided: the interval {why}"
    if low > threshold:
        verdict = SUPPORTED
    elif high < threshold and refutable:
        verdict = REFUTED
    return replace(claim, verdict=verdict, statistic=float(values.mean()), interval=(low, high))


def measured(results: Sequence[CellResult], *names: str) -> tuple[list[CellResult], list[Floats]]:
    """The results that have all of these measurements, and an array (n,) of each."""
    having = [r for r in results if all(np.isfinite(r.value(name)) for name in names)]
    return having, [np.array([r.value(name) for r in having], np.float64) for name in names]
