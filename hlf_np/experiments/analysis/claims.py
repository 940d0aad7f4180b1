"""The paper's four claims, and those beyond it, as statements about the cells of a run.

A claim is *supported* or *refuted* only if a bootstrap interval allows no other conclusion; otherwise it is
*undecided*, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hlf_np.experiments.analysis.beyond import further_claims
from hlf_np.experiments.analysis.claim import Claim
from hlf_np.experiments.analysis.existence import leaving_the_manifold, on_manifold_examples
from hlf_np.experiments.analysis.generalization import on_manifold_robustness, regular_robustness
from hlf_np.experiments.results import CellResult

_JUDGES = (leaving_the_manifold, on_manifold_examples, on_manifold_robustness, regular_robustness)


def evaluate_claims(results: Sequence[CellResult], published: Sequence[CellResult] = ()) -> list[Claim]:
    """Decide the four claims, and those beyond the paper for which there are measurements.

    Parameters
    ----------
    results : sequence of CellResult
        The results of a run.
    published : sequence of CellResult
        The paper's numbers. A claim that they decide by the same rule, from the same kind of success, is attached to
        the run's as `published`.

    Returns
    -------
    list of Claim
        The claims in order.
    """
    ours, papers = ([judge(cells) for judge in _JUDGES] for cells in (results, published))
    beside = (
        replace(claim, published=paper)
        if paper.statistic is not None and paper.data.get("success") == claim.data.get("success")
        else claim
        for claim, paper in zip(ours, papers, strict=True)
    )
    return [*beside, *further_claims(results)]
