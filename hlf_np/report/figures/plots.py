"""Plots of the measurements of a run: curves, scatter plots and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from hlf_np.experiments.analysis.claim import MIN_CELLS
from hlf_np.experiments.analysis.existence import SMALL_SUCCESS_RATE
from hlf_np.experiments.analysis.statistics import Interval, slope
from hlf_np.experiments.measurements.distances import CLEAN, DistanceReference
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.report.curves import curves, training_sizes
from hlf_np.report.figures.pictures import training_style
from hlf_np.report.published import matching_cells
from hlf_np.spaces import ImageBall, LearnedManifold, Space, TrueManifold
from hlf_np.support.arrays import Floats
from hlf_np.trainings import ADVERSARIAL

DISTANCE_COLORS = {
    ImageBall.name: "#c8452f",
    TrueManifold.name: "#2e8b57",
    LearnedManifold.name: "#8fbf3f",
    CLEAN: "#7a7a7a",
}
REFERENCE_COLOR = "#555555"  # of lines that belong to no training
WIDTH_INCHES = 5.4  # narrow enough to be legible on a phone
COARSE_ROWS = 3  # of published distances in a bin: each row is a range of a few hundredths
HISTOGRAM_QUANTILE = 0.99  # of the distances; the outliers of failed projections would compress the rest of the axis
PUBLISHED_STYLE: dict[str, Any] = {"linestyle": "--", "alpha": 0.5, "markersize": 4, "linewidth": 1.2}


def space_label(space: type[Space]) -> str:
    """Return a short label for attacks in a space: "regular", "on the true manifold"."""
    return space.attack_label().removeprefix("attacks ").removesuffix(" attacks")


def rate_label(space: type[Space]) -> str:
    """Return an axis label for the success rate of attacks in a space."""
    return "success rate" if space is ImageBall else f"success rate {space_label(space)}"


def _new_figure(height_inches: float) -> tuple[Figure, Axes]:
    """Create a figure with one pair of axes."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="tight")
    return figure, figure.subplots()


def _set_size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Make the horizontal axis logarithmic, with a tick at every size and as many tick labels as fit."""
    label_width = np.log(sizes[-1] / sizes[0]) / 8  # an eighth of the axis
    labels, last = [""] * len(sizes), -np.inf
    for index, size in enumerate(sizes):
        if np.log(size) - last >= label_width:
            labels[index], last = str(size), np.log(size)
    axes.set_xscale("log")
    axes.set_xticks(sizes, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training images N")


def _set_logarithmic(axes: Axes, label_format: str, *ticks: float) -> None:
    """Make the vertical axis logarithmic, with the given ticks."""
    axes.set_yscale("log")
    axes.set_yticks(ticks, [label_format.format(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def _add_legend(figure: Figure) -> Figure:
    """Add a legend below the axes, where it hides no data; return the figure."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:  # there are none if nothing was measured
        figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=2, fontsize=9)
    return figure


def curve_figure(
    results: Sequence[CellResult],
    column: str,
    label: str,
    published: Sequence[CellResult] = (),
    share: bool = True,
) -> Figure:
    """Plot a measurement against N, one line per training.

    Parameters
    ----------
    results : sequence of CellResult
        Results of a run.
    column : str
        Column of the measurement.
    label : str
        Label of the vertical axis.
    published : sequence of CellResult
        Published results; those comparable with the run are added as dashed lines.
    share : bool
        Whether all values lie in [0, 1].

    Returns
    -------
    Figure
        The plot.
    """
    figure, axes = _new_figure(3.5)
    trainings = by_training(results)
    for curve in curves(results, column):
        style = training_style(curve.training, trainings)
        axes.plot(curve.sizes, curve.mean, label=curve.training.label, **style)  # type: ignore[arg-type]
        axes.fill_between(curve.sizes, curve.low, curve.high, color=style["color"], alpha=0.15, linewidth=0)
    paper = sorted(
        curves(matching_cells(published, results), column), key=lambda curve: list(trainings).index(curve.training)
    )
    for curve in paper:
        axes.plot(curve.sizes, curve.mean, **(PUBLISHED_STYLE | training_style(curve.training, trainings)))
    if paper:
        axes.plot([], [], color=REFERENCE_COLOR, label="paper", **PUBLISHED_STYLE)
    _set_size_axis(axes, training_sizes(results))
    if share:
        axes.set_ylim(0, max(1.03, axes.get_ylim()[1]))
    axes.set_ylabel(label, parse_math=False)
    return _add_legend(figure)


def error_figure(
    results: Sequence[CellResult], column: str, label: str, published: Sequence[CellResult] = ()
) -> Figure:
    """Plot a success rate against the test error.

    Each training with at least `MIN_CELLS` models has a least-squares line, whose slope is the statistic of claim 3.

    Parameters
    ----------
    results : sequence of CellResult
        Results of a run.
    column : str
        Column of the success rate.
    label : str
        Label of the vertical axis.
    published : sequence of CellResult
        Published results; those of the run's trainings, for any N, are added as dashed lines.

    Returns
    -------
    Figure
        The plot.
    """
    figure, axes = _new_figure(3.5)
    trainings = by_training(results)
    paper = {training: _points(cells, column) for training, cells in by_training(published).items()}
    for training, cells in trainings.items():
        style = training_style(training, trainings)
        x, y = _points(cells, column)
        if not len(x):
            continue
        axes.scatter(x, y, label=training.label, alpha=0.8, **style)  # type: ignore[arg-type]
        if len(x) >= MIN_CELLS and np.ptp(x) > 0:
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, y.mean() + slope(x, y) * (ends - x.mean()), color=style["color"], linewidth=1)
        if training in paper:
            axes.plot(*paper[training], **(PUBLISHED_STYLE | style))
    if any(training in paper and paper[training].size for training in trainings):
        axes.plot([], [], color=REFERENCE_COLOR, label="paper", **PUBLISHED_STYLE)
    axes.set_xlabel("test error")
    axes.set_ylabel(label, parse_math=False)
    axes.set_xlim(0, 1.03 * axes.get_xlim()[1])
    axes.set_ylim(0, 1.03)
    return _add_legend(figure)


def _points(cells: Sequence[CellResult], column: str) -> Floats:
    """Return the test errors of cells and the values of a column, shape (2, n), where both are finite; by error."""
    points = np.array([(r.value("test_error"), r.value(column)) for r in cells]).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return np.asarray(points[np.argsort(points[:, 0])].T)


def distance_figure(
    results: Sequence[CellResult], reference: DistanceReference, published: Mapping[str, Floats]
) -> Figure:
    """Plot histograms of distances to the manifold, pooled over the images of all cells.

    Parameters
    ----------
    results : sequence of CellResult
        Cells that have distances.
    reference : DistanceReference
        The manifold, or its substitute, to which distances are measured.
    published : mapping of str to ndarray
        The paper's distances, by key; drawn as dashed outlines.

    Returns
    -------
    Figure
        The plot; its last bin contains all distances above the quantile `HISTOGRAM_QUANTILE`.
    """
    figure, axes = _new_figure(3.1)
    spaces = [s for s in reference.spaces if any(reference.key(s.name) in r.distances for r in results)]
    labels = {space.name: space_label(space) for space in spaces} | {CLEAN: "clean test images"}
    pooled = {
        kind: np.concatenate([r.distances.get(reference.key(kind), np.empty(0)) for r in results])
        for kind in (*(space.name for space in spaces), CLEAN)
    }
    largest = max(float(np.quantile(np.concatenate(list(pooled.values())), HISTOGRAM_QUANTILE)), 1e-6)
    bins: list[float] = np.linspace(0, largest, 41).tolist()
    for kind, distances in pooled.items():
        if len(distances):
            clipped, weights = np.minimum(distances, largest), np.full(len(distances), 1 / len(distances))
            axes.hist(clipped, bins, weights=weights, color=DISTANCE_COLORS[kind], alpha=0.6, label=labels[kind])
        if len(theirs := published.get(reference.key(kind), ())):
            rows = np.unique(theirs)  # their centres
            width = COARSE_ROWS * np.diff(rows).min()
            first, last = rows[0] - width / COARSE_ROWS / 2, rows[-1]
            counts, edges = np.histogram(theirs, first + width * np.arange(2 + (last - first) // width))
            shares = counts / len(theirs) * bins[1] / (edges[1] - edges[0])  # in a bin of ours
            axes.stairs(shares, edges, color=DISTANCE_COLORS[kind], linestyle="--", label=f"{labels[kind]}, paper")
    axes.set_xlabel(f"L2 distance to {reference.description}")
    _set_logarithmic(axes, "{:g}", 0.001, 0.01, 0.1, 1)  # all clean images may fall into one bin
    axes.set_ylim(0.0005, 1.3)
    axes.set_ylabel("fraction of images")
    return _add_legend(figure)


def existence_figure(results: Sequence[CellResult], space: type[Space]) -> Figure:
    """Plot the success rates of attacks in a space, one row of points per training.

    Parameters
    ----------
    results : sequence of CellResult
        Results of a run.
    space : type of Space
        Space of the attacks.

    Returns
    -------
    Figure
        The plot; a dotted line marks `SMALL_SUCCESS_RATE`.
    """
    trainings = by_training(results)
    measured = {training: [r.value(f"{space.name}_success") for r in cells] for training, cells in trainings.items()}
    rows = [(training, rates) for training, rates in reversed(measured.items()) if np.isfinite(rates).any()]
    figure, axes = _new_figure(0.8 + 0.36 * len(rows))
    for row, (training, rates) in enumerate(rows):
        style = training_style(training, trainings)
        axes.scatter(rates, [row] * len(rates), alpha=0.6, **style)  # type: ignore[arg-type]
    axes.axvline(SMALL_SUCCESS_RATE, color=REFERENCE_COLOR, linestyle=":")
    axes.set_yticks(range(len(rows)), [training.label for training, _ in rows], fontsize=9)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(rate_label(space))
    return figure


def factor_figure(
    own: Sequence[tuple[int, float]], paper: Sequence[tuple[int, float]], intervals: Mapping[int, Interval]
) -> Figure:
    """Plot the data factor of adversarial training against N.

    Parameters
    ----------
    own : sequence of (int, float)
        N and data factor of the run; at least one pair.
    paper : sequence of (int, float)
        The same of the published results; may be empty.
    intervals : mapping of int to (float, float)
        Intervals of the factors of the run, by N; may be empty.

    Returns
    -------
    Figure
        The plot.
    """
    figure, axes = _new_figure(2.9)
    style: dict[str, Any] = {"color": ADVERSARIAL.color, "marker": "s"}
    axes.plot(*zip(*own, strict=True), label="this run", **style)
    axes.vlines(list(intervals), *np.array([*intervals.values()]).reshape(-1, 2).T, color=ADVERSARIAL.color)
    if paper:
        axes.plot(*zip(*paper, strict=True), label="paper", **style, **PUBLISHED_STYLE)
    axes.axhline(1, color=REFERENCE_COLOR, linestyle=":")
    _set_size_axis(axes, sorted({size for size, _ in (*own, *paper)}))
    _set_logarithmic(axes, "{:g}x", 0.25, 0.5, 1, 2, 4, 8)
    values = [factor for _, factor in (*own, *paper)] + [bound for pair in intervals.values() for bound in pair]
    axes.set_ylim(min(0.45, *values) / 1.1, max(2.2, *values) * 1.1)
    axes.set_ylabel("data factor")
    return _add_legend(figure)


def columns_figure(results: Sequence[CellResult], columns: Mapping[str, str], label: str) -> Figure:
    """Plot the means of several measurements side by side, one row of points per training.

    Parameters
    ----------
    results : sequence of CellResult
        Results of a run.
    columns : mapping of str to str
        The label of each column.
    label : str
        Label of the horizontal axis.

    Returns
    -------
    Figure
        The plot.
    """
    figure, axes = _new_figure(1.2 + 0.5 * len(columns))
    trainings = by_training(results)
    for index, (training, cells) in enumerate(trainings.items()):
        means = [np.nanmean([r.value(column) for r in cells]) for column in columns]
        heights = np.arange(len(columns)) + 0.06 * (index - len(trainings) / 2)  # apart, so that none hides another
        style = training_style(training, trainings)
        axes.plot(means, heights, linestyle="", label=training.label, **style)  # type: ignore[arg-type]
    axes.set_yticks(range(len(columns)), list(columns.values()))
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(label)
    return _add_legend(figure)


def series_figure(
    results: Sequence[CellResult], name: str, positions: Sequence[float], axis: str, label: str
) -> Figure:
    """Plot a series of numbers in the course of a training or an attack, one line per training.

    Parameters
    ----------
    results : sequence of CellResult
        Results of a run; lines are means over those that have the series.
    name : str
        Name of the series.
    positions : sequence of float
        The position of each number on the horizontal axis.
    axis, label : str
        Labels of the horizontal and of the vertical axis.

    Returns
    -------
    Figure
        The plot.
    """
    figure, axes = _new_figure(3.1)
    trainings = by_training(results)
    for training, cells in trainings.items():
        series = [r.series[name] for r in cells if name in r.series]
        if series:
            style = training_style(training, trainings) | {"marker": "", "linewidth": "1.6"}
            axes.plot(positions, np.nanmean(series, axis=0), label=training.label, **style)  # type: ignore[arg-type]
    if all(isinstance(position, int) for position in positions):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(axis)
    axes.set_ylabel(label)
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    return _add_legend(figure)
