"""How a grid of models scales to more workers than there are, by simulation.

    python bench/cluster.py results/results.csv [--workers 1,10,100,1000]

The seconds of a model are fitted for each training as a + b N to the measured ones in a run's `results.csv`. Models are
then given to idle workers, the largest first, as `run --scheduler` does. What all models share is trained beforehand by
the process that runs; each task costs the scheduler some time. Prints the duration of the paper's grid and of a study
of 10,000 models, the speedup over one worker, and the bounds that no number of workers can beat.
"""

from __future__ import annotations

import csv
import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from hlf_np.experiments.configuration.config import PRESETS, Preset, RunConfig


@dataclass(frozen=True)
class Costs:
    """What is not the time of a model, in seconds.

    Parameters
    ----------
    shared : float
        Training of the VAEs and the oracle, once, before all models.
    start : float
        Start of a worker and its first model: imports, compiled kernels, what all models share.
    task : float
        The scheduler's work for each model, one after the other.
    """

    shared: float
    start: float
    task: float


def fitted_seconds(path: Path) -> dict[str, tuple[float, float]]:
    """Return (a, b) for each training, from measured seconds = a + b N."""
    points = defaultdict(list)
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            points[row["training"]].append((float(row["n_train"]), float(row["seconds"])))
    fits = {}
    for training, values in points.items():
        sizes, seconds = np.array(values).T
        slope, intercept = np.polyfit(sizes, seconds, 1, w=1 / seconds)  # errors are relative
        fits[training] = (max(intercept, 0.0), slope)
    return fits


def durations(config: RunConfig, fits: dict[str, tuple[float, float]]) -> Iterator[float]:
    """Yield the seconds of each model of a grid; a training that was not measured takes as long as the slowest."""
    slowest = max(fits.values(), key=lambda fit: fit[1])
    for cell in config.cells():
        intercept, slope = fits.get(cell.training.name, slowest)
        yield intercept + slope * cell.n_train


def makespan(seconds: list[float], workers: int, costs: Costs) -> float:
    """Return the duration of a run if idle workers always take the largest model that is left."""
    free = [costs.shared + costs.start] * workers
    heapq.heapify(free)
    dispatched = end = costs.shared
    for duration in sorted(seconds, reverse=True):
        dispatched += costs.task
        finished = max(heapq.heappop(free), dispatched) + duration
        heapq.heappush(free, finished)
        end = max(end, finished)
    return end


def formatted(seconds: float) -> str:
    """Return a duration for people."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


@click.command()
@click.argument("results", type=click.Path(exists=True, path_type=Path))
@click.option("--workers", default="1,10,100,1000", show_default=True)
@click.option("--shared", default=120.0, show_default=True, help="Seconds for VAEs and oracle.")
@click.option("--start", default=15.0, show_default=True, help="Seconds until a worker begins its first model.")
@click.option("--task", default=0.005, show_default=True, help="Seconds of the scheduler for each model.")
def main(results: Path, workers: str, shared: float, start: float, task: float) -> None:
    """Print how long two grids take on several numbers of workers."""
    fits, costs = fitted_seconds(results), Costs(shared, start, task)
    paper = PRESETS[Preset.PAPER]
    large = replace(paper, seeds=10_000 // (len(paper.trainings) * len(paper.sizes)))
    for name, config in (("paper", paper), ("10,000 models", large)):
        seconds = list(durations(config, fits))
        alone = makespan(seconds, 1, costs)
        print(
            f"{name}: {len(seconds)} models, {formatted(sum(seconds))} in all, the largest {formatted(max(seconds))};"
            f" no run is shorter than {formatted(costs.shared + costs.start + max(seconds))}, and the scheduler takes"
            f" {formatted(costs.task * len(seconds))}"
        )
        for count in map(int, workers.split(",")):
            duration = makespan(seconds, count, costs)
            print(f"  {count:5d} workers  {formatted(duration):>10}  {alone / duration:6.1f} times as fast as one")


if __name__ == "__main__":
    main()
