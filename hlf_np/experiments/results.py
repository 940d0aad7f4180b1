"""What is known of a finished cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hlf_np.arrays import Floats, Integers
from hlf_np.trainings import Training


@dataclass(frozen=True)
class Cell:
    """One model: how it is trained, on how many images, from which seed."""

    training: Training
    n_train: int
    seed: int

    @property
    def name(self) -> str:
        """For file names."""
        return f"{self.training}-{self.n_train}-{self.seed}"

    def __str__(self) -> str:
        return f"{self.training.label}, N = {self.n_train}, seed {self.seed}"


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

    measurements : by their columns; of a failed cell, nothing but the seconds.
    examples : for the gallery, by the names of the spaces where they were sought.
    distances : one of each image, by the names of their means in `measurements` without `_distance`.
    failure : why there is no model, if its training diverged.
    """

    cell: Cell
    measurements: Mapping[str, float]
    examples: Mapping[str, Examples]
    distances: Mapping[str, Floats]
    failure: str = ""

    def value(self, column: str) -> float:
        """A measurement; NaN where it was not or cannot be made, as of a model that failed."""
        return self.measurements.get(column, math.nan)


def by_training(results: Sequence[CellResult]) -> dict[Training, list[CellResult]]:
    """The results of each training, in the order of their first."""
    found: dict[Training, list[CellResult]] = {}
    for result in results:
        found.setdefault(result.cell.training, []).append(result)
    return found


def failures(results: Sequence[CellResult]) -> str:
    """A sentence about all cells that failed; empty if none did."""
    failed = [f"{result.cell} ({result.failure})" for result in results if result.failure]
    return f"{len(failed)} of {len(results)} models failed and have no numbers: {'; '.join(failed)}." if failed else ""
