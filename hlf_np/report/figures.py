"""Figures of a run: curves, clouds and histograms of its numbers, and examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hlf_np.experiments.evaluation import (
    CLEAN,
    ON_LEARNED_MANIFOLD,
    ON_TRUE_MANIFOLD,
    REGULAR,
    SUBSPACE,
    TRUE,
    YARDSTICKS,
    Yardstick,
)
from hlf_np.experiments.store import CellResult
from hlf_np.report.curves import curves, has
from hlf_np.report.gallery import gallery_figure
from hlf_np.report.pictures import COLORS, KINDS, MARKERS, STYLE, Picture, Section, png_of
from hlf_np.training import Training

DISTANCE_COLORS = {
    REGULAR: "#c8452f",
    ON_TRUE_MANIFOLD: "#2e8b57",
    ON_LEARNED_MANIFOLD: "#8fbf3f",
    CLEAN: "#7a7a7a",
}
HOW_MEASURED = {
    TRUE: "The nearest image of the same font and letter is found by gradient descent, so distances are upper bounds",
    SUBSPACE: "It goes through the image that the attack started from, the original or, on the learned manifold, its"
    " reconstruction; so clean images are at distance 0 by construction",
}
SHOWN = 0.99  # of all distances; where the descent failed, they would leave no room for the others


def _size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis with a tick at every size, and a number where there is room for one."""
    room = np.log(sizes[-1] / sizes[0]) / 9  # of the width, for one number
    labels, last = [""] * len(sizes), -np.inf
    for position, size in enumerate(sizes):
        if np.log(size) - last >= room:
            labels[position], last = str(size), np.log(size)
    axes.set_xscale("log")
    axes.set_xticks(sizes, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training images N")


def _legend(figure: Figure) -> None:
    """Below the axes, where seven trainings hide nothing."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:  # nothing may have been measured
        figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=2, fontsize=9)


def _curve_figure(results: Sequence[CellResult], measurement: str, label: str) -> Figure:
    figure = Figure(figsize=(6.4, 3.8), layout="tight")
    axes = figure.subplots()
    for curve in curves(results, measurement):
        color = COLORS[curve.training]
        axes.plot(curve.sizes, curve.mean, color=color, marker=MARKERS[curve.training], label=curve.training.label)
        axes.fill_between(curve.sizes, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
    _size_axis(axes, sorted({r.cell.n_train for r in results}))
    axes.set_ylim(0, 1.03)
    axes.set_ylabel(label)
    _legend(figure)
    return figure


def _error_figure(results: Sequence[CellResult]) -> Figure:
    """Success against test error, a panel for each kind of attack."""
    kinds = [kind for kind in KINDS if has(results, f"{kind}_success")] or ["regular"]
    figure = Figure(figsize=(1 + 3.4 * len(kinds), 3.8), layout="tight")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for training in Training:
            cells = [r.measurements for r in results if r.cell.training is training]
            if cells:
                x, y = [m.test_error for m in cells], [getattr(m, f"{kind}_success") for m in cells]
                axes.scatter(x, y, color=COLORS[training], marker=MARKERS[training], label=training.label)
        axes.set_title(KINDS[kind], fontsize=11)
        axes.set_xlabel("test error")
        axes.set_ylim(0, 1.03)
        axes.set_xlim(0, 1)
    panels[0].set_ylabel("success rate")
    _legend(figure)
    return figure


def _distance_figure(results: Sequence[CellResult], yardstick: Yardstick) -> Figure:
    """Histograms over all images of these cells."""
    figure = Figure(figsize=(6.4, 3.4), layout="tight")
    axes = figure.subplots()
    labels = KINDS | {CLEAN: "clean test images"}
    found = {kind: [r.distances.get(yardstick.key(kind), np.empty(0)) for r in results] for kind in yardstick.kinds}
    pooled = {kind: np.concatenate(distances) for kind, distances in found.items()}
    farthest = max(float(np.quantile(np.concatenate(list(pooled.values())), SHOWN)), 1e-6)
    bins: list[float] = np.linspace(0, farthest, 41).tolist()
    for kind, distances in pooled.items():
        if len(distances):
            weights = np.full(len(distances), 1 / len(distances))
            axes.hist(
                np.minimum(distances, farthest),
                bins,
                weights=weights,
                color=DISTANCE_COLORS[kind],
                alpha=0.6,
                label=labels[kind],
            )
    axes.set_xlabel(f"L2 distance to {yardstick.words}")
    axes.set_ylabel("share of images")
    _legend(figure)
    return figure


def draw(results: Sequence[CellResult], classes: Sequence[str]) -> list[Picture]:
    """All figures that these results allow."""
    pictures = []

    def add(section: Section, name: str, caption: str, description: str, make: Callable[[], Figure]) -> None:
        with mpl.rc_context(STYLE):
            pictures.append(Picture(section, name, caption, description, png_of(make())))

    add(
        Section.CURVES,
        "test_error",
        "Sample complexity: test error against the number of training images. Lines are means over seeds, bands"
        " reach from the lowest to the highest.",
        "Test error against the number of training images, one line per training.",
        lambda: _curve_figure(results, "test_error", "test error"),
    )
    for kind, words in KINDS.items():
        name = f"{kind}_success"
        if kind == "regular" or has(results, name):
            attacks = "regular attacks" if kind == "regular" else f"attacks {words}"
            add(
                Section.CURVES,
                name,
                f"How often {attacks} succeed on correctly classified test images (mean over restarts).",
                f"Success rate of {attacks} against the number of training images, one line per training.",
                lambda name=name: _curve_figure(results, name, "success rate"),  # type: ignore[misc]
            )
    add(
        Section.SCATTER,
        "success_against_error",
        "Success rates against test error, one point per model. Claim 4 expects a flat cloud of regular success"
        " under normal training, claim 3 a rising one of on-manifold success under every training.",
        "Scatter plots of the success rate of each kind of attack against test error, coloured by training.",
        lambda: _error_figure(results),
    )
    projected = [r for r in results if r.cell.training is Training.NORMAL and any(map(len, r.distances.values()))]
    if projected:
        yardstick = next(y for y in YARDSTICKS if any(y.key(CLEAN) in r.distances for r in projected))
        add(
            Section.DISTANCES,
            "distances",
            f"How far successful adversarial examples and clean test images are from {yardstick.words}, for"
            f" {len(projected)} normally trained models. {HOW_MEASURED[yardstick]}; the last bar holds all that are"
            " larger.",
            "Histograms of distances: clean images and on-manifold examples near 0, regular examples farther out.",
            lambda: _distance_figure(projected, yardstick),
        )
    for training in Training:
        shown = [r for r in results if r.cell.training is training and any(len(e.labels) for e in r.examples.values())]
        if shown:
            last = shown[-1]
            add(
                Section.GALLERY,
                f"examples_{training}",
                f"Adversarial examples of a model ({last.cell}): the original and its label, the adversarial"
                " image and the model's label for it, the difference (grey is 0, scaled to its largest value). On the"
                " learned manifold an attack starts from the reconstruction of the original, not from itself.",
                "Images, their adversarial versions, and the differences: noise for regular attacks, moved strokes"
                " for attacks on a manifold.",
                lambda last=last: gallery_figure(last.examples, classes),  # type: ignore[misc]
            )
    return pictures
