"""Drawings of a run's numbers: curves, clouds of points, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hlf_np.experiments.claims import FEWEST_CELLS
from hlf_np.experiments.claims.existence import RARE
from hlf_np.experiments.measurements import CLEAN, Yardstick
from hlf_np.experiments.results import CellResult, by_training
from hlf_np.experiments.statistics import slope
from hlf_np.report.curves import curves, sizes_of
from hlf_np.report.pictures import look
from hlf_np.report.published import beside
from hlf_np.spaces import ImageBall, LearnedManifold, Space, TrueManifold
from hlf_np.trainings import ADVERSARIAL

DISTANCE_COLORS = {
    ImageBall.name: "#c8452f",
    TrueManifold.name: "#2e8b57",
    LearnedManifold.name: "#8fbf3f",
    CLEAN: "#7a7a7a",
}
WIDTH = 5.4  # inches; narrow enough to be read on a phone
SHOWN = 0.99  # of all distances; where the descent failed, they would leave no room for the others
DASHED: dict[str, Any] = {"linestyle": "--", "alpha": 0.5, "markersize": 4, "linewidth": 1.2}  # of the published curves


def where(space: type[Space]) -> str:
    """Of its examples: "regular", "on the true manifold"."""
    return space.called().removeprefix("attacks ").removesuffix(" attacks")


def rate_label(space: type[Space]) -> str:
    """Of an axis."""
    return "success rate" if space is ImageBall else f"success rate {where(space)}"


def _figure(height: float) -> tuple[Figure, Axes]:
    """A new one, so many inches high, and its axes."""
    figure = Figure(figsize=(WIDTH, height), layout="tight")
    return figure, figure.subplots()


def _size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis with a tick at every size, and a number where there is room for one."""
    room = np.log(sizes[-1] / sizes[0]) / 8  # of the width, for one number
    labels, last = [""] * len(sizes), -np.inf
    for position, size in enumerate(sizes):
        if np.log(size) - last >= room:
            labels[position], last = str(size), np.log(size)
    axes.set_xscale("log")
    axes.set_xticks(sizes, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training images N")


def _logarithmic(axes: Axes, form: str, *ticks: float) -> None:
    """Make the vertical axis one, with these ticks."""
    axes.set_yscale("log")
    axes.set_yticks(ticks, [form.format(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def _with_legend(figure: Figure) -> Figure:
    """The same, with a legend below the axes, where seven trainings hide nothing."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:  # nothing may have been measured
        figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=2, fontsize=9)
    return figure


def curve_figure(
    results: Sequence[CellResult],
    measurement: str,
    label: str,
    published: Sequence[CellResult] = (),
    share: bool = True,
) -> Figure:
    """A measurement against N, one line for each training, and the published lines where they go along.

    share : whether all values lie between 0 and 1.
    """
    figure, axes = _figure(3.5)
    trainings = by_training(results)
    for curve in curves(results, measurement):
        style = look(curve.training, trainings)
        axes.plot(curve.sizes, curve.mean, label=curve.training.label, **style)  # type: ignore[arg-type]
        axes.fill_between(curve.sizes, curve.low, curve.high, color=style["color"], alpha=0.15, linewidth=0)
    papers = sorted(
        curves(beside(published, results), measurement), key=lambda curve: list(trainings).index(curve.training)
    )
    for curve in papers:
        axes.plot(curve.sizes, curve.mean, **(DASHED | look(curve.training, trainings)))
    if papers:
        axes.plot([], [], color="#555555", label="paper", **DASHED)
    _size_axis(axes, sizes_of(results))
    if share:
        axes.set_ylim(0, max(1.03, axes.get_ylim()[1]))
    axes.set_ylabel(label, parse_math=False)
    return _with_legend(figure)


def error_figure(results: Sequence[CellResult], space: type[Space]) -> Figure:
    """Success of attacks in a space against test error, with the line whose slope the claims are about."""
    figure, axes = _figure(3.5)
    trainings = by_training(results)
    for training, cells in trainings.items():
        style = look(training, trainings)
        points = np.array([(r.value("test_error"), r.value(f"{space.name}_success")) for r in cells]).reshape(-1, 2)
        x, y = points[np.isfinite(points).all(axis=1)].T
        if not len(x):
            continue
        axes.scatter(x, y, label=training.label, alpha=0.8, **style)  # type: ignore[arg-type]
        if len(x) >= FEWEST_CELLS and np.ptp(x) > 0:
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, y.mean() + slope(x, y) * (ends - x.mean()), color=style["color"], linewidth=1)
    axes.set_xlabel("test error")
    axes.set_ylabel(rate_label(space))
    axes.set_xlim(0, 1.03 * axes.get_xlim()[1])
    axes.set_ylim(0, 1.03)
    return _with_legend(figure)


def distance_figure(results: Sequence[CellResult], yardstick: Yardstick) -> Figure:
    """Histograms over all images of these cells."""
    figure, axes = _figure(3.1)
    spaces = (ImageBall, yardstick.on_manifold)
    labels = {space.name: where(space) for space in spaces} | {CLEAN: "clean test images"}
    found = {kind: [r.distances.get(yardstick.key(kind), np.empty(0)) for r in results] for kind in yardstick.kinds}
    pooled = {kind: np.concatenate(distances) for kind, distances in found.items()}
    farthest = max(float(np.quantile(np.concatenate(list(pooled.values())), SHOWN)), 1e-6)
    bins: list[float] = np.linspace(0, farthest, 41).tolist()
    for kind, distances in pooled.items():
        if len(distances):
            shown, weights = np.minimum(distances, farthest), np.full(len(distances), 1 / len(distances))
            axes.hist(shown, bins, weights=weights, color=DISTANCE_COLORS[kind], alpha=0.6, label=labels[kind])
    axes.set_xlabel(f"L2 distance to {yardstick.words}")
    _logarithmic(axes, "{:g}", 0.001, 0.01, 0.1, 1)  # clean images fill one bar
    axes.set_ylim(0.0005, 1.3)
    axes.set_ylabel("share of images")
    return _with_legend(figure)


def existence_figure(results: Sequence[CellResult], space: type[Space]) -> Figure:
    """A row for each training with the success rates of its models."""
    trainings = by_training(results)
    found = {training: [r.value(f"{space.name}_success") for r in cells] for training, cells in trainings.items()}
    rows = [(training, rates) for training, rates in reversed(found.items()) if np.isfinite(rates).any()]
    figure, axes = _figure(0.8 + 0.36 * len(rows))
    for row, (training, rates) in enumerate(rows):
        axes.scatter(rates, [row] * len(rates), alpha=0.6, **look(training, trainings))  # type: ignore[arg-type]
    axes.axvline(RARE, color="#555555", linestyle=":")
    axes.set_yticks(range(len(rows)), [training.label for training, _ in rows], fontsize=9)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(rate_label(space))
    return figure


def factor_figure(ours: Sequence[tuple[int, float]], papers: Sequence[tuple[int, float]]) -> Figure:
    """What adversarial training costs at each N, by the paper's numbers too."""
    figure, axes = _figure(2.9)
    style: dict[str, Any] = {"color": ADVERSARIAL.color, "marker": "s"}
    axes.plot(*zip(*ours, strict=True), label="this run", **style)
    if papers:
        axes.plot(*zip(*papers, strict=True), label="paper", **style, **DASHED)
    axes.axhline(1, color="#555555", linestyle=":")
    _size_axis(axes, sorted({size for size, _ in (*ours, *papers)}))
    _logarithmic(axes, "{:g}x", 0.25, 0.5, 1, 2, 4, 8)
    values = [factor for _, factor in (*ours, *papers)]
    axes.set_ylim(min(0.45, *values) / 1.1, max(2.2, *values) * 1.1)
    axes.set_ylabel("images needed")
    return _with_legend(figure)
