"""The results of a grid: its cells, and what was measured for each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hlf_np.support.arrays import Floats, Integers
from hlf_np.trainings import Training


@dataclass(frozen=True)
class Cell:
    """A cell of the grid: one model.

    Parameters
    ----------
    training : Training
        How it is trained.
    n_train : int
        The number of training images.
    seed : int
        Seed of its weights and its training.
    """

    training: Training
    n_train: int
    seed: int

    @property
    def name(self) -> str:
        """The stem of its file names."""
        return f"{self.training}-{self.n_train}-{self.seed}"

    def __str__(self) -> str:
        return f"{self.training.label}, N = {self.n_train}, seed {self.seed}"


@dataclass(frozen=True)
class Examples:
    """Successful adversarial examples.

    Attributes
    ----------
    originals, adversarial : ndarray of float32, shape (N, H, W, C)
        The images before and after the attack.
    labels, predictions : ndarray of int64, shape (N,)
        The true classes, and the predicted ones after the attack.
    """

    originals: Floats
    adversarial: Floats
    labels: Integers
    predictions: Integers


@dataclass(frozen=True)
class CellResult:
    """The results of a finished cell.

    Attributes
    ----------
    cell : Cell
        The cell.
    measurements : mapping of str to float
        The measurements by column; only the seconds if the cell failed.
    examples : mapping of str to Examples
        Adversarial examples for the gallery, by the name of the attacked space.
    distances : mapping of str to ndarray, shape (n,)
        The distance of each image, by kind; `KEY_distance` is the column of the mean.
    failure : str
        Why the training diverged; empty if it did not.
    series : mapping of str to ndarray, shape (n,)
        Numbers in the course of the training or of an attack, by the name of the series.
    computed_by : str
        The version of the package and the kind of processor that its kernels were compiled for.
    """

    cell: Cell
    measurements: Mapping[str, float]
    examples: Mapping[str, Examples]
    distances: Mapping[str, Floats]
    failure: str = ""
    series: Mapping[str, Floats] = field(default_factory=dict)
    computed_by: str = ""

    def value(self, column: str) -> float:
        """Return a measurement; NaN if it was not made or is not defined, as for a model that failed."""
        return self.measurements.get(column, math.nan)


def by_training(results: Sequence[CellResult]) -> dict[Training, list[CellResult]]:
    """Group results by training, in the order of first occurrence."""
    groups: dict[Training, list[CellResult]] = {}
    for result in results:
        groups.setdefault(result.cell.training, []).append(result)
    return groups


def mixture(results: Sequence[CellResult]) -> str:
    """Return a sentence about the versions and processors that computed the cells; empty if there is only one kind."""
    kinds = Counter(result.computed_by for result in results)
    listed = "; ".join(f"{count} by {kind or 'an unknown version'}" for kind, count in kinds.most_common())
    return f"Models were computed by different versions or processors: {listed}." if len(kinds) > 1 else ""


def failures(results: Sequence[CellResult]) -> str:
    """Return a sentence about the cells that failed; empty if none did."""
    failed = [f"{result.cell} ({result.failure})" for result in results if result.failure]
    counts = f"{len(failed)} of {len(results)} models failed and {'has' if len(failed) == 1 else 'have'} no results"
    return f"{counts}: {'; '.join(failed)}." if failed else ""
