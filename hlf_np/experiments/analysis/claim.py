"""A claim about the results, and the rules by which it is decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hlf_np.experiments.analysis.statistics import Interval, mean_interval
from hlf_np.experiments.results import CellResult
from hlf_np.support.arrays import Floats

MIN_CELLS = 6  # models; fewer allow no conclusion
SUPPORTED, REFUTED = "supported", "refuted"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and what the results say about it.

    Parameters
    ----------
    number : int
        Its number, from 1.
    statement : str
        The claim in one sentence.
    meaning : str
        An explanation in plain words.
    statistic_name : str
        The statistic that decides it, in words.
    confirmed_if, refuted_if : str
        The outcome that would support or refute it.
    verdict : str
        "supported", "refuted", or "undecided: " followed by the reason.
    statistic : float, optional
        The statistic; None if it could not be computed.
    interval : tuple of float, optional
        Its 95 % bootstrap interval; that of claims 3 and 4 holds for all trainings simultaneously.
    details : tuple of str
        Further findings, one sentence each.
    data : dict
        The numbers behind it.
    published : Claim, optional
        The same claim decided by the paper's own numbers, where they are known.
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
        return f"{self.number}. {self.statement} {self.outcome}"

    @property
    def outcome(self) -> str:
        """Return the verdict, the statistic and its interval as a sentence."""
        verdict = self.verdict[0].upper() + self.verdict[1:]
        number = ""
        if self.statistic is not None and self.interval is not None:
            low, high = self.interval
            number = f" {self.statistic:z.3f} ({low:z.3f} to {high:z.3f})."
        return f"{verdict}{':' if number else '.'}{number}"

    def as_json(self) -> dict[str, Any]:
        """Return the claim in JSON types; `published` has only the fields that may differ."""
        names = ("verdict", "statistic", "interval", "details")
        published = self.published and {name: getattr(self.published, name) for name in names}
        return asdict(self) | {"published": published}


def too_few_cells(count: int, description: str) -> str:
    """Return the verdict for `count` cells, fewer than are needed."""
    return f"undecided: too few {description} ({count}; {MIN_CELLS} are needed)"


def judge_mean(
    claim: Claim, values: Floats, threshold: float, description: str, reason: str, refutable: bool = True
) -> Claim:
    """Decide a claim that the mean of one value per model exceeds a threshold.

    Parameters
    ----------
    claim : Claim
        The undecided claim.
    values : ndarray, shape (n,)
        One value per model.
    threshold : float
        The claim is supported if the interval of the mean lies above, and refuted if it lies below.
    description : str
        The models, in words.
    reason : str
        Why the claim is undecided otherwise; completes "the interval ...".
    refutable : bool
        Whether a low mean refutes the claim.

    Returns
    -------
    Claim
        The claim with its verdict, statistic and interval.
    """
    if len(values) < MIN_CELLS:
        return replace(claim, verdict=too_few_cells(len(values), description))
    low, high = mean_interval(values)
    verdict = f"undecided: the interval {reason}"
    if low > threshold:
        verdict = SUPPORTED
    elif high < threshold and refutable:
        verdict = REFUTED
    return replace(claim, verdict=verdict, statistic=float(values.mean()), interval=(low, high))


def with_measurements(results: Sequence[CellResult], *columns: str) -> tuple[list[CellResult], list[Floats]]:
    """Return the results that have all of these measurements, and the values (n,) of each measurement."""
    complete = [r for r in results if all(np.isfinite(r.value(column)) for column in columns)]
    return complete, [np.array([r.value(column) for r in complete], np.float64) for column in columns]
