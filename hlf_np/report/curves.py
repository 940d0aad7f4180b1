"""Means over seeds, for figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.experiments.measurements import MEASUREMENTS, Measurement, Shown
from hlf_np.experiments.results import CellResult, of_training, trainings_of
from hlf_np.trainings import Training


@dataclass(frozen=True)
class Curve:
    """A measurement of one training against N.

    sizes : (S,) ascending; mean, low, high : (S,) over seeds.
    """

    training: Training
    sizes: Integers
    mean: Floats
    low: Floats
    high: Floats


def values(results: Sequence[CellResult], training: Training, measurement: str, size: int) -> Floats:
    """A measurement of all seeds of one training and N, those that have it."""
    array: Floats = np.array(
        [r.value(measurement) for r in of_training(results, training) if r.cell.n_train == size], np.float64
    )
    return np.asarray(array[np.isfinite(array)])


def mean(column: Floats) -> float:
    """NaN if there is nothing."""
    return float(column.mean()) if column.size else float("nan")


def has(results: Sequence[CellResult], measurement: str) -> bool:
    """Whether any cell has the measurement."""
    return any(np.isfinite(r.value(measurement)) for r in results)


def curves(results: Sequence[CellResult], measurement: str) -> list[Curve]:
    """One curve for each training that has the measurement, in the order of the results."""
    found = []
    for training in trainings_of(results):
        sizes = sorted({r.cell.n_train for r in of_training(results, training)})
        columns = [(size, values(results, training, measurement, size)) for size in sizes]
        columns = [(size, column) for size, column in columns if column.size]
        if columns:
            found.append(
                Curve(
                    training,
                    np.array([size for size, _ in columns]),
                    np.array([column.mean() for _, column in columns]),
                    np.array([column.min() for _, column in columns]),
                    np.array([column.max() for _, column in columns]),
                )
            )
    return found


def table(
    results: Sequence[CellResult],
    published: Sequence[CellResult] = (),
    measurements: Sequence[Measurement] = MEASUREMENTS,
) -> str:
    """The measurements that are shown by training and N, for the terminal; what was not measured is left out.

    Below each training are the published numbers for the same N, if there are any.
    """
    sizes = sorted({r.cell.n_train for r in results})
    width = max(len(result.cell.training.label) for result in results) + 2
    lines = []
    for measurement in measurements:
        if measurement.shown not in (Shown.CURVE, Shown.TABLE):
            continue
        rows = []
        for training in trainings_of(results):
            cells = [values(results, training, measurement.column, size) for size in sizes]
            if any(cell.size for cell in cells):
                rows.append(_line(training.label, cells, width))
                paper = [values(published, training, measurement.column, size) for size in sizes]
                if any(cell.size for cell in paper):
                    rows.append(_line("  paper", paper, width))
        if rows:
            lines += [measurement.title, " " * width + "".join(f"{f'N={size}':>10}" for size in sizes), *rows, ""]
    return "\n".join(lines).rstrip()


def _line(name: str, cells: Sequence[Floats], width: int) -> str:
    return f"{name:<{width}}" + "".join(f"{cell.mean():>10.3f}" if cell.size else f"{'-':>10}" for cell in cells)
