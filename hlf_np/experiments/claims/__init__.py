"""The paper's four claims, as statements about a run's cells.

A claim is *supported* or *refuted* only by an interval that allows no other conclusion; otherwise it is
*undecided*, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from hlf_np.experiments.claims.claim import FEWEST_CELLS, Claim
from hlf_np.experiments.claims.existence import leaving_the_manifold, on_manifold_examples
from hlf_np.experiments.claims.generalization import data_factor, on_manifold_robustness, regular_robustness
from hlf_np.experiments.store import CellResult

__all__ = [
    "FEWEST_CELLS",
    "Claim",
    "data_factor",
    "evaluate_claims",
    "leaving_the_manifold",
    "on_manifold_examples",
    "on_manifold_robustness",
    "regular_robustness",
]


def evaluate_claims(results: Sequence[CellResult]) -> list[Claim]:
    """All four claims."""
    return [
        leaving_the_manifold(results),
        on_manifold_examples(results),
        on_manifold_robustness(results),
        regular_robustness(results),
    ]
