"""The paper's four claims, as statements about a run's cells.

A claim is *supported* or *refuted* only by an interval that allows no other conclusion; otherwise it is
*undecided*, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hlf_np.experiments.claims.claim import FEWEST_CELLS, Claim
from hlf_np.experiments.claims.data_factor import data_factor, factors_by_size
from hlf_np.experiments.claims.existence import leaving_the_manifold, on_manifold_examples
from hlf_np.experiments.claims.generalization import on_manifold_robustness, regular_robustness
from hlf_np.experiments.results import CellResult

__all__ = [
    "FEWEST_CELLS",
    "Claim",
    "data_factor",
    "evaluate_claims",
    "factors_by_size",
    "leaving_the_manifold",
    "on_manifold_examples",
    "on_manifold_robustness",
    "regular_robustness",
]
_JUDGES = (leaving_the_manifold, on_manifold_examples, on_manifold_robustness, regular_robustness)


def evaluate_claims(results: Sequence[CellResult], published: Sequence[CellResult] = ()) -> list[Claim]:
    """All four claims, each beside what the same rule says of the published numbers, where it says anything."""
    ours, theirs = ([judge(cells) for judge in _JUDGES] for cells in (results, published))
    return [
        claim if paper.statistic is None else replace(claim, published=paper)
        for claim, paper in zip(ours, theirs, strict=True)
    ]
