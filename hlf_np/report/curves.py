"""Means over seeds, for figures and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlf_np.experiments.measurements import Display, Measurement
from hlf_np.experiments.measurements.built_in import MEASUREMENTS
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.support.arrays import Floats, Integers
from hlf_np.trainings import Training


@dataclass(frozen=True)
class Curve:
    """A measurement as a function of the number of training images N, for one training.

    Parameters
    ----------
    training : Training
        The training.
    sizes : ndarray of int, shape (S,)
        Numbers of training images, ascending.
    mean : ndarray of float, shape (S,)
        Mean over seeds.
    low : ndarray of float, shape (S,)
        Minimum over seeds.
    high : ndarray of float, shape (S,)
        Maximum over seeds.
    """

    training: Training
    sizes: Integers
    mean: Floats
    low: Floats
    high: Floats


def curves(results: Sequence[CellResult], column: str) -> list[Curve]:
    """Compute one curve per training that has finite values of a measurement.

    Parameters
    ----------
    results : sequence of CellResult
        Results of a run; values that are not finite are ignored.
    column : str
        Column of the measurement.

    Returns
    -------
    list of Curve
        In the order in which the trainings first occur in `results`.
    """
    found = []
    for training, cells in by_training(results).items():
        values_by_size: dict[int, list[float]] = {}
        for result in sorted(cells, key=lambda result: result.cell.n_train):
            if math.isfinite(value := result.value(column)):
                values_by_size.setdefault(result.cell.n_train, []).append(value)
        if values_by_size:
            rows = np.array([(np.mean(values), min(values), max(values)) for values in values_by_size.values()])
            found.append(Curve(training, np.array(list(values_by_size)), *rows.T))
    return found


def has_values(results: Sequence[CellResult], column: str) -> bool:
    """Return whether any cell has a finite value of a measurement."""
    return any(math.isfinite(result.value(column)) for result in results)


def training_sizes(results: Sequence[CellResult]) -> list[int]:
    """Return all numbers of training images, ascending."""
    return sorted({result.cell.n_train for result in results})


def compare_means(
    results: Sequence[CellResult], published: Sequence[CellResult], column: str
) -> list[tuple[Training, Floats, Floats]]:
    """Compute the rows of a table: means over seeds, and the published means for the same N.

    Parameters
    ----------
    results : sequence of CellResult
        Results of a run, with S different numbers of training images.
    published : sequence of CellResult
        Published results; may be empty.
    column : str
        Column of the measurement.

    Returns
    -------
    list of (Training, ndarray of shape (S,), ndarray of shape (S,))
        For each training that has the measurement: the means of the run and the published means, by ascending N.
        Missing values are NaN.
    """
    sizes = training_sizes(results)

    def means(cells: Sequence[CellResult]) -> dict[Training, Floats]:
        rows = {}
        for curve in curves(cells, column):
            by_size = dict(zip(curve.sizes, curve.mean, strict=True))
            rows[curve.training] = np.array([by_size.get(size, math.nan) for size in sizes])
        return rows

    paper, missing = means(published), np.full(len(sizes), math.nan)
    return [(training, own, paper.get(training, missing)) for training, own in means(results).items()]


def table(
    results: Sequence[CellResult],
    published: Sequence[CellResult] = (),
    measurements: Sequence[Measurement] = MEASUREMENTS,
) -> str:
    """Format the measurements as tables for the terminal, one row per training and one column per N.

    Parameters
    ----------
    results : sequence of CellResult
        Results of a run.
    published : sequence of CellResult
        Published results; those for the same N are shown below each training.
    measurements : sequence of Measurement
        Measurements to show; those without values, and those that are not displayed as curves or tables, are omitted.

    Returns
    -------
    str
        The tables, separated by empty lines.
    """
    width = max(len(training.label) for training in by_training(results)) + 2
    header = " " * width + "".join(f"{f'N={size}':>10}" for size in training_sizes(results))
    lines = []
    for measurement in measurements:
        if measurement.display in (Display.CURVE, Display.TABLE) and has_values(results, measurement.column):
            lines += [measurement.title, header]
            for training, own, paper in compare_means(results, published, measurement.column):
                lines.append(_table_row(training.label, own, width))
                if np.isfinite(paper).any():
                    lines.append(_table_row("  paper", paper, width))
            lines.append("")
    return "\n".join(lines).rstrip()


def _table_row(name: str, means: Floats, width: int) -> str:
    return f"{name:<{width}}" + "".join(f"{mean:>10.3f}" if np.isfinite(mean) else f"{'-':>10}" for mean in means)
