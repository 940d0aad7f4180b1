"""What is known of a finished cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hlf_np.arrays import Floats, Integers
from hlf_np.experiments.config import Cell


@dataclass(frozen=True)
class Measurements:
    """The numbers of a cell; NaN where one was not or cannot be measured, as of a model that failed.

    test_error : of all test images.
    regular_success : of attacks in image space, averaged over restarts; `_worst`: any restart.
    on_true_manifold_success, on_learned_manifold_success : likewise on the manifold, with `_worst`.
    learned_labels_kept : the share of all images attacked on the learned manifold that the oracle still
        assigns to their class after the attack.
    regular_distance, on_true_manifold_distance : mean L2 distance of successful adversarial examples to the
        true manifold of their font and class; clean_distance : of test images.
    regular_subspace_distance, on_learned_manifold_subspace_distance, clean_subspace_distance : where there is no true
        manifold, likewise to the subspace that the nearest training images span around the image that the attack
        started from: the original, or its reconstruction. So that of clean images is 0.
    train_loss : mean cross-entropy of the last epoch.
    seconds : training and attacks together.
    carlini_wagner_success, carlini_wagner_norm : of the attack for the smallest perturbations of the image,
        within L2 1.5; mean L2 norm of the successful ones.
    regular_transfer_success, on_true_manifold_transfer_success : of adversarial examples made on another model,
        on images that both classify correctly, averaged over restarts.
    """

    test_error: float
    regular_success: float = math.nan
    on_true_manifold_success: float = math.nan
    on_learned_manifold_success: float = math.nan
    regular_success_worst: float = math.nan
    on_true_manifold_success_worst: float = math.nan
    on_learned_manifold_success_worst: float = math.nan
    learned_labels_kept: float = math.nan
    regular_distance: float = math.nan
    on_true_manifold_distance: float = math.nan
    clean_distance: float = math.nan
    regular_subspace_distance: float = math.nan
    on_learned_manifold_subspace_distance: float = math.nan
    clean_subspace_distance: float = math.nan
    train_loss: float = math.nan
    seconds: float = math.nan
    carlini_wagner_success: float = math.nan
    carlini_wagner_norm: float = math.nan
    regular_transfer_success: float = math.nan
    on_true_manifold_transfer_success: float = math.nan


@dataclass(frozen=True)
class Examples:
    """Successful adversarial examples: images (N, H, W, C) before and after, true and predicted labels (N,)."""

    originals: Floats
    adversarial: Floats
    labels: Integers
    predictions: Integers


@dataclass(frozen=True)
class CellResult:
    """What is known of a finished cell.

    measurements : of a failed cell, nothing but the seconds.
    examples : for the gallery, by where they were sought: "regular", "on_true_manifold", "on_learned_manifold".
    distances : behind the means in `measurements`, one of each image, by the names of those without `_distance`.
    failure : why there is no model, if its training diverged.
    """

    cell: Cell
    measurements: Measurements
    examples: Mapping[str, Examples]
    distances: Mapping[str, Floats]
    failure: str = ""


def failures(results: Sequence[CellResult]) -> str:
    """A sentence about all cells that failed; empty if none did."""
    failed = [f"{result.cell} ({result.failure})" for result in results if result.failure]
    return f"{len(failed)} of {len(results)} models failed and have no numbers: {'; '.join(failed)}." if failed else ""
