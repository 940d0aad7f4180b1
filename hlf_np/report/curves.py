"""Means over seeds, for figures and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlf_np.arrays import Floats, Integers
from hlf_np.experiments.measurements import MEASUREMENTS, Measurement, Shown
from hlf_np.experiments.results import CellResult, by_training
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


def curves(results: Sequence[CellResult], measurement: str) -> list[Curve]:
    """One curve for each training that has the measurement, in the order of the results."""
    found = []
    for training, cells in by_training(results).items():
        seeds: dict[int, list[float]] = {}
        for result in sorted(cells, key=lambda result: result.cell.n_train):
            if math.isfinite(value := result.value(measurement)):
                seeds.setdefault(result.cell.n_train, []).append(value)
        if seeds:
            ranges = np.array([(np.mean(values), min(values), max(values)) for values in seeds.values()])
            found.append(Curve(training, np.array(list(seeds)), *ranges.T))
    return found


def has(results: Sequence[CellResult], measurement: str) -> bool:
    """Whether any cell has the measurement."""
    return any(math.isfinite(result.value(measurement)) for result in results)


def sizes_of(results: Sequence[CellResult]) -> list[int]:
    """All numbers of training images, ascending."""
    return sorted({result.cell.n_train for result in results})


def compared(
    results: Sequence[CellResult], published: Sequence[CellResult], measurement: str
) -> list[tuple[Training, Floats, Floats]]:
    """The rows of a table: each training that has the measurement, its means for all N, and those that are published.

    NaN where there is none.
    """
    sizes = sizes_of(results)

    def means(cells: Sequence[CellResult]) -> dict[Training, Floats]:
        found = {}
        for curve in curves(cells, measurement):
            by_size = dict(zip(curve.sizes, curve.mean, strict=True))
            found[curve.training] = np.array([by_size.get(size, math.nan) for size in sizes])
        return found

    papers, nothing = means(published), np.full(len(sizes), math.nan)
    return [(training, ours, papers.get(training, nothing)) for training, ours in means(results).items()]


def table(
    results: Sequence[CellResult],
    published: Sequence[CellResult] = (),
    measurements: Sequence[Measurement] = MEASUREMENTS,
) -> str:
    """The measurements that are shown by training and N, for the terminal; what was not measured is left out.

    Below each training are the published numbers for the same N, if there are any.
    """
    width = max(len(training.label) for training in by_training(results)) + 2
    head = " " * width + "".join(f"{f'N={size}':>10}" for size in sizes_of(results))
    lines = []
    for measurement in measurements:
        if measurement.shown in (Shown.CURVE, Shown.TABLE) and has(results, measurement.column):
            lines += [measurement.title, head]
            for training, ours, papers in compared(results, published, measurement.column):
                lines.append(_line(training.label, ours, width))
                if np.isfinite(papers).any():
                    lines.append(_line("  paper", papers, width))
            lines.append("")
    return "\n".join(lines).rstrip()


def _line(name: str, means: Floats, width: int) -> str:
    return f"{name:<{width}}" + "".join(f"{mean:>10.3f}" if np.isfinite(mean) else f"{'-':>10}" for mean in means)
