"""Claims 1 and 2: adversarial examples off and on the manifold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from hlf_np.experiments.analysis.claim import Claim, judge_mean, with_measurements
from hlf_np.experiments.analysis.statistics import rank_correlation, superiority
from hlf_np.experiments.measurements.distances import (
    DISTANCE_REFERENCES,
    SUBSPACE_REFERENCE,
    TRUE_MANIFOLD_REFERENCE,
    DistanceReference,
)
from hlf_np.experiments.results import CellResult
from hlf_np.spaces import ImageBall, LearnedManifold, TrueManifold
from hlf_np.trainings import NORMAL

MIN_IMAGES_PER_KIND = 5  # distances of each kind in a cell
SUPERIORITY_THRESHOLD = 0.75  # probability; regular examples "leave the manifold" above it
SMALL_SUCCESS_RATE = 0.01  # share of images; adversarial examples "exist" above it

OFF_MANIFOLD_CLAIM = Claim(
    1,
    "Regular adversarial examples leave the manifold.",
    "The images of a dataset occupy a small part of the space of all images: the manifold. Noise that fools a"
    " classifier is not among the ways in which these images vary, so an image with such noise is not one that the data"
    " could contain. To test this, the distances of adversarial examples to the manifold are measured.",
    "probability that a regular adversarial example is farther from the manifold than an image on it",
    "nearly all regular examples are farther away than images on the manifold: the interval lies above"
    f" {SUPERIORITY_THRESHOLD} (0.5 means no difference, 1 complete separation)",
    f"regular examples are about as close as images on the manifold: the interval lies below {SUPERIORITY_THRESHOLD}",
)
EXISTENCE_CLAIM = Claim(
    2,
    "Adversarial examples on the manifold exist.",
    "An attack may also move along the manifold: rotate, shift or shear an image slightly, or change its code in an"
    " autoencoder. The result is an image that the data could contain and that still shows its class, yet the"
    " classifier gets it wrong.",
    "success rate of attacks on the true manifold",
    f"more than a few attacks succeed while the label is preserved: the interval lies above {SMALL_SUCCESS_RATE}",
    "such attacks hardly ever succeed although the label is preserved by construction: the interval lies below"
    f" {SMALL_SUCCESS_RATE}",
)
LEARNED_MANIFOLD_REFUTATION = "never on a learned manifold: a low bound may be due to the autoencoders or the oracle"


def leaving_the_manifold(results: Sequence[CellResult]) -> Claim:
    """Decide claim 1: regular adversarial examples are farther from the manifold than images on it.

    The statistic is the probability that a successful regular example is farther away than an image known to lie on
    the manifold, averaged over the models of all trainings. There are two kinds of such images, on-manifold adversarial
    examples and clean images, and the smaller probability counts: distances are found by gradient descent, so even
    images on the manifold may appear slightly off it. The claim is supported if the interval lies above 0.75, and
    refuted if it lies below.

    Without a true manifold, distances are to the subspace of the nearest training images around the image at which the
    attack started, and the on-manifold examples are those on the learned manifold. Clean images then have distance 0 by
    construction, so the on-manifold examples decide.

    Parameters
    ----------
    results : sequence of CellResult
        The cells of a run.

    Returns
    -------
    Claim
        The claim with its verdict.
    """
    reference = next((r for r in DISTANCE_REFERENCES if _cells_with_distances(r, results)), TRUE_MANIFOLD_REFERENCE)
    keys = [reference.key(kind) for kind in reference.kinds]
    cells = _cells_with_distances(reference, results)
    regular, *others = keys
    effects = np.array([min(superiority(r.distances[regular], r.distances[key]) for key in others) for r in cells])
    means = {key: [float(np.mean(r.distances[key])) for r in cells] for key in keys}
    data = {"cells": [r.cell.name for r in cells], "chance": effects.tolist(), "mean_distance": means}
    farther = f"farther from {reference.description} than {reference.baseline}"
    name = f"probability that a regular adversarial example is {farther}"
    claim = replace(OFF_MANIFOLD_CLAIM, statistic_name=name, data=data)
    reason = f"contains {SUPERIORITY_THRESHOLD}"
    claim = judge_mean(claim, effects, SUPERIORITY_THRESHOLD, "models with distances", reason)
    if claim.statistic is None:
        return claim
    far, on_manifold, clean = (np.mean(means[key]) for key in keys)
    normal = [mean for mean, r in zip(means[regular], cells, strict=True) if r.cell.training == NORMAL]
    of_normal = f" (of normally trained models {np.mean(normal):.2f})" if 0 < len(normal) < len(cells) else ""
    details: tuple[str, ...] = (
        f"Mean L2 distances to the manifold: regular adversarial examples {far:.2f}{of_normal}, on-manifold ones"
        f" {on_manifold:.2f}, clean images {clean:.2f}.",
    )
    if reference is SUBSPACE_REFERENCE:
        details += (
            "The subspace passes through the image at which an attack starts: clean images have distance 0 by"
            " construction, and attacks on the learned manifold start at reconstructions, whose error does not count.",
        )
    else:
        details += tuple(_yardstick(results))
    return replace(claim, details=details)


def _yardstick(results: Sequence[CellResult]) -> Iterator[str]:
    """Yield a sentence on how well distances to nearest training images stand in for those to the true manifold.

    Both are measured for the same images. Adversarial examples on the true manifold are at distance 0 from it, so an
    ideal substitute would find every regular example farther away.
    """
    regular, on_manifold = ImageBall.name, TrueManifold.name
    keys = [SUBSPACE_REFERENCE.key(kind) for kind in (regular, on_manifold)]
    cells = [r for r in results if all(len(r.distances.get(key, ())) >= MIN_IMAGES_PER_KIND for key in keys)]
    if cells:
        chance = np.mean([superiority(*(r.distances[key] for key in keys)) for r in cells])
        ranks = [rank_correlation(r.distances[regular], r.distances[keys[0]]) for r in cells]
        known = [rank for rank in ranks if rank is not None and np.isfinite(rank)]
        yield (
            f"How good is {SUBSPACE_REFERENCE.description}, the substitute where the manifold is unknown? Measured to"
            f" it, a regular example is farther away than one on the true manifold with a probability of {chance:.3f}"
            " only: the subspace is flat, and the manifold curves away from it. Between the two distances of regular"
            f" examples, the mean rank correlation is {np.mean(known or [np.nan]):.2f}."
        )


def _cells_with_distances(reference: DistanceReference, results: Sequence[CellResult]) -> list[CellResult]:
    """Return the cells with enough distances of each kind."""
    keys = [reference.key(kind) for kind in reference.kinds]
    return [r for r in results if all(len(r.distances.get(key, ())) >= MIN_IMAGES_PER_KIND for key in keys)]


def on_manifold_examples(results: Sequence[CellResult]) -> Claim:
    """Decide claim 2: attacks along the manifold succeed, and the images they find still show their class.

    On the true manifold the label is preserved by construction, and the statistic is the success rate, averaged over
    restarts and the models of all trainings. Without a true manifold it is a lower bound for the learned one: attacks
    succeed on a share s of the images whose reconstruction is classified correctly (in any restart), and according to
    the oracle a share k of those that were attacked keep their class, so both hold for at least s + k - 1 of the
    former. The claim is supported if the interval lies above 0.01, and refuted if it lies below; a low bound does not
    refute it.

    Parameters
    ----------
    results : sequence of CellResult
        The cells of a run.

    Returns
    -------
    Claim
        The claim with its verdict.
    """
    cells, (rates,) = with_measurements(results, f"{TrueManifold.name}_success")
    columns = (f"{LearnedManifold.name}_success_worst", "learned_labels_kept")
    learned, (successes, kept) = with_measurements(results, *columns)
    bounds = successes + kept - 1
    data = {
        "cells": [r.cell.name for r in cells],
        "on_true_manifold_success": rates.tolist(),
        "learned_cells": [r.cell.name for r in learned],
        "on_learned_manifold_success_worst": successes.tolist(),
        "learned_labels_kept": kept.tolist(),
    }
    details: tuple[str, ...] = ()
    if len(learned):
        details = (
            f"On the learned manifold, attacks succeed for {successes.mean():.3f} of the images whose reconstruction is"
            f" classified correctly. Of the attacked images, the oracle assigns {kept.mean():.3f} to their class, so at"
            f" least {max(bounds.mean(), 0):.3f} have an adversarial example with an unchanged label.",
        )
    claim = replace(EXISTENCE_CLAIM, details=details, data=data)
    by_construction = bool(cells)
    if not by_construction:
        name = "lower bound on the share of images with an adversarial example that keeps its label"
        claim = replace(claim, statistic_name=name, refuted_if=LEARNED_MANIFOLD_REFUTATION)
        rates = bounds
        if not learned and with_measurements(results, columns[0])[0]:
            return replace(claim, verdict="undecided: no oracle judged whether the attacked images keep their labels")
    reason = f"is not entirely above {SMALL_SUCCESS_RATE}"
    return judge_mean(
        claim, rates, SMALL_SUCCESS_RATE, "models attacked on the manifold", reason, refutable=by_construction
    )
