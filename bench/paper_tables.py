"""Print the tables of `bench/paper/README.md`.

    python bench/paper_tables.py bench/paper

The folder needs the `config.json` and `results.csv` of a run.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click
import numpy as np

from hlf_np.experiments.analysis.data_factor import factor_intervals, factors_by_size
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.measurements.measurement import KEY_COLUMNS
from hlf_np.experiments.results import Cell, CellResult, by_training
from hlf_np.experiments.storage.folder import stored_config
from hlf_np.report.curves import compare_means, training_sizes
from hlf_np.report.published import published

RATES = ("test_error", "regular_success", "on_true_manifold_success", "on_learned_manifold_success")
SIZES = (250, 1000, 5000, 10_000, 20_000, 40_000)  # columns of the tables that do not show every N
SIZE_RANGES = ((250, 500), (1000, 4000), (5000, 40_000))  # with few images, test errors depend more on the seed


def stored_results(folder: Path, config: RunConfig) -> list[CellResult]:
    """Read the numbers of the finished models from `results.csv`."""
    trainings = {training.name: training for training in config.trainings}
    results = []
    with (folder / "results.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            cell = Cell(trainings[row["training"]], int(row["n_train"]), int(row["seed"]))
            columns = row.keys() - {*KEY_COLUMNS, "computed_by"}
            results.append(CellResult(cell, {name: float(row[name] or "nan") for name in columns}, {}, {}))
    return results


def print_table(title: str, header: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Print a table in Markdown; numbers of images from 10,000 on have a comma."""

    def line(cells: Iterable[object]) -> str:
        return " | ".join(f"{cell:,}" if isinstance(cell, int) and cell >= 10_000 else str(cell) for cell in cells)

    header = list(header)
    print(f"\n{title}\n\n| {line(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {line(row)} |")


def print_data_factors(results: Sequence[CellResult], paper: Sequence[CellResult]) -> None:
    """Print the data factor by N: of all seeds with its interval, of each seed, and of the paper."""
    sizes, intervals = training_sizes(results), factor_intervals(results)

    def row(name: str, factors: dict[int, float]) -> list[str]:
        return [name, *(f"{factors[size]:.2f}" if size in factors else "" for size in sizes)]

    rows = [row("here", dict(factors_by_size(results)))]
    rows += [row(name, {size: pair[k] for size, pair in intervals.items()}) for k, name in enumerate(("from", "to"))]
    for seed in sorted({result.cell.seed for result in results}):
        rows.append(row(f"seed {seed}", dict(factors_by_size([r for r in results if r.cell.seed == seed]))))
    print_table("Data factor", ["N", *sizes], [*rows, row("paper", dict(factors_by_size(paper)))])


def print_comparison(results: Sequence[CellResult], paper: Sequence[CellResult]) -> None:
    """Print means beside the paper's, and how far they agree over all pairs of training and N."""
    sizes, rows, agreement = training_sizes(results), [], []
    values = {
        column: {training: (own, theirs) for training, own, theirs in compare_means(results, paper, column)}
        for column in RATES
    }
    for training in by_training(results):
        for size in (1000, 40_000):
            means = [[mean[sizes.index(size)] for mean in values[column][training]] for column in RATES]
            rows.append([training.name, size, *(f"{own:.3f} ({theirs:.3f})" for own, theirs in means)])
    print_table("Here (paper)", ["training", "N", *RATES], rows)
    for column in RATES:
        own, theirs = (np.concatenate(means) for means in zip(*values[column].values(), strict=True))
        agreement.append([column, f"{np.corrcoef(own, theirs)[0, 1]:.3f}", f"{(own - theirs).mean():.3f}", len(own)])
    print_table("Agreement", ["", "correlation", "mean difference", "pairs"], agreement)


def print_deviations(results: Sequence[CellResult]) -> None:
    """Print how much test errors depend on the seed."""
    rows = []
    for low, high in SIZE_RANGES:
        errors = [
            [r.value("test_error") for r in cells if r.cell.n_train == n]
            for cells in by_training(results).values()
            for n in training_sizes(results)
            if low <= n <= high
        ]
        rows.append([f"{low} to {high}", f"{np.sqrt(np.var(errors, axis=1, ddof=1).mean()):.3f}"])
    print_table("Standard deviation of test errors over seeds", ["N", ""], rows)


def print_means(
    title: str, results: Sequence[CellResult], columns: Sequence[str], text: Callable[..., str], sizes: Sequence[int]
) -> None:
    """Print a text on the means of some columns for each training at some N."""
    rows = []
    for training, cells in by_training(results).items():
        of_sizes = [[r for r in cells if r.cell.n_train == n] for n in sizes]
        means = [[np.mean([r.value(column) for r in of_size]) for column in columns] for of_size in of_sizes]
        rows.append([training.name, *(text(*of_size) for of_size in means)])
    print_table(title, ["training", *sizes], rows)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Print the tables of a run."""
    config = stored_config(folder)
    results, paper = stored_results(folder, config), published(config)
    first = [result for result in results if result.cell.seed == 0]
    with_size = {r.cell.training for r in paper if r.cell.n_train}  # others were published without N
    compared = [result for result in results if result.cell.training in with_size]
    print_data_factors(results, paper)
    print_comparison(compared, paper)
    print_deviations(compared)
    print_means("Test error", results, RATES[:1], "{:.3f}".format, SIZES)
    print_means(
        "Test error, regular success", results, RATES[:2], "{:.3f}, {:.2f}".format, [1000, 5000, 10_000, 40_000]
    )
    print_means("Minutes", first, ["seconds"], lambda seconds: f"{seconds / 60:.1f}", SIZES)
    totals = {t: sum(r.value("seconds") for r in cells) / 60 for t, cells in by_training(first).items()}
    print_table("Minutes for all N", ["training", ""], ([t.name, f"{minutes:.0f}"] for t, minutes in totals.items()))


if __name__ == "__main__":
    main()
