"""Claims 1 and 2: where adversarial examples are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hlf_np.experiments.claims.claim import Claim, judged_by_mean, measured
from hlf_np.experiments.measurements import SUBSPACE, TRUE, YARDSTICKS, Yardstick
from hlf_np.experiments.results import CellResult
from hlf_np.experiments.statistics import superiority
from hlf_np.spaces import LearnedManifold, TrueManifold

FEWEST_IMAGES = 5  # of each kind, for a cell to count
FARTHER = 0.75  # regular examples "leave the manifold" if at least so many are farther from it than others
RARE = 0.01  # adversarial examples "exist" if more images than these have one

LEAVING = Claim(
    1,
    "Regular adversarial examples leave the manifold.",
    "The images of a dataset fill a small part of all possible images: its manifold. Noise that fools a classifier is"
    " no way in which these images differ from one another, so an image with such noise is none that the data could"
    " hold. To see this, the distances of adversarial examples to the manifold are measured.",
    "chance that a regular adversarial example is farther from the manifold than an image on it",
    f"nearly all regular examples are farther away than images on the manifold: the interval lies above {FARTHER}"
    " (0.5 is no difference, 1 complete separation)",
    f"regular examples are about as near as images on the manifold: the interval lies below {FARTHER}",
)
EXISTENCE = Claim(
    2,
    "Adversarial examples on the manifold exist.",
    "An attack may also move along the manifold: turn, shift or shear an image a little, or change its code in an"
    " autoencoder. What it ends with is an image that the data could hold and still shows its class, and yet the"
    " classifier is wrong about it.",
    "success rate of attacks on the true manifold",
    f"more than a few attacks succeed while the label holds: the interval lies above {RARE}",
    f"such attacks hardly ever succeed although the label holds by construction: the interval lies below {RARE}",
)
UNREFUTABLE = "never on a learned manifold: a low bound may be the autoencoders' or the oracle's fault"


def leaving_the_manifold(results: Sequence[CellResult]) -> Claim:
    """Claim 1: regular adversarial examples are farther from the manifold than images that are on it.

    The statistic is the chance that a successful regular example is farther away than an image known to lie on
    the manifold, averaged over the models of all trainings. Both kinds of the latter are compared, on-manifold
    adversarial examples and clean images, and the smaller chance counts: the distance is found by descent, so
    that even images on the manifold may seem to be a little off it. The claim is supported if the interval lies above
    0.75, refuted if below.

    Where there is no true manifold, distances are to the subspace of nearest training images around the image that the
    attack started from, and the on-manifold examples are those of the learned manifold. Clean images are at distance 0
    by construction then, so it is those examples that count.
    """
    yardstick = next((y for y in YARDSTICKS if _measured_by(y, results)), TRUE)
    keys = [yardstick.key(kind) for kind in yardstick.kinds]
    cells = _measured_by(yardstick, results)
    regular, *others = keys
    effects = np.array([min(superiority(r.distances[regular], r.distances[key]) for key in others) for r in cells])
    means = {key: [float(np.mean(r.distances[key])) for r in cells] for key in keys}
    data = {"cells": [r.cell.name for r in cells], "chance": effects.tolist(), "mean_distance": means}
    name = f"chance that a regular adversarial example is farther from {yardstick.words} than {yardstick.others}"
    claim = replace(LEAVING, statistic_name=name, data=data)
    claim = judged_by_mean(claim, effects, FARTHER, "models with distances", f"holds {FARTHER}")
    if claim.statistic is None:
        return claim
    far, on_manifold, clean = (np.mean(means[key]) for key in keys)
    details: tuple[str, ...] = (
        f"Mean L2 distances to the manifold: regular adversarial examples {far:.2f}, on-manifold ones"
        f" {on_manifold:.2f}, clean images {clean:.2f}.",
    )
    if yardstick is SUBSPACE:
        details += (
            "The subspace goes through the image that an attack starts from: clean images are at distance 0 by"
            " construction, and examples on the learned manifold start from reconstructions, however good those are.",
        )
    return replace(claim, details=details)


def _measured_by(yardstick: Yardstick, results: Sequence[CellResult]) -> list[CellResult]:
    """The cells with enough distances of each kind."""
    keys = [yardstick.key(kind) for kind in yardstick.kinds]
    return [r for r in results if all(len(r.distances.get(key, ())) >= FEWEST_IMAGES for key in keys)]


def on_manifold_examples(results: Sequence[CellResult]) -> Claim:
    """Claim 2: attacks along the manifold succeed, and what they find still shows its class.

    On the true manifold the label holds by construction, and the statistic is the success rate, averaged over
    restarts and the models of all trainings. Without one it is a bound for the learned manifold: of the images
    attacked, a share s succeeds (any restart), and a share k keeps its class by the oracle's judgement; so at
    least s + k - 1 do both. The claim is supported if the interval lies above 0.01, refuted if below; a low
    bound refutes nothing.
    """
    cells, (rates,) = measured(results, f"{TrueManifold.name}_success")
    learned, (successes, kept) = measured(results, f"{LearnedManifold.name}_success_worst", "learned_labels_kept")
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
            f"On the learned manifold {successes.mean():.3f} of the attacked images are misclassified; the oracle"
            f" assigns {kept.mean():.3f} to their class, so at least {max(bounds.mean(), 0):.3f} are adversarial"
            " examples of unchanged label.",
        )
    claim = replace(EXISTENCE, details=details, data=data)
    by_construction = bool(cells)
    if not by_construction:
        name = "least share of images with an adversarial example of unchanged label"
        claim = replace(claim, statistic_name=name, refuted_if=UNREFUTABLE)
        rates = bounds
    why = f"is not wholly above {RARE}"
    return judged_by_mean(claim, rates, RARE, "models attacked on the manifold", why, refutable=by_construction)
