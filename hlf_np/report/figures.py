"""Figures of a run, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hlf_np.experiments.store import CellResult, Examples
from hlf_np.files import replace_file
from hlf_np.report.curves import curves
from hlf_np.training import Training

COLORS = {
    Training.NORMAL: "#3b6fb6",
    Training.ADVERSARIAL: "#c8452f",
    Training.ON_TRUE_MANIFOLD_ADVERSARIAL: "#2e8b57",
    Training.ON_LEARNED_MANIFOLD_ADVERSARIAL: "#8fbf3f",
    Training.ADVERSARIAL_TRANSFORMATIONS: "#8a5fbf",
    Training.RANDOM_TRANSFORMATIONS: "#7a7a7a",
    Training.REGULAR_AND_ON_TRUE_MANIFOLD_ADVERSARIAL: "#d9a021",
}
MARKERS = dict(zip(COLORS, "osD^vPX", strict=True))
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


@dataclass(frozen=True)
class Picture:
    """A figure of the report: the name of its file, a caption, a description in words, and the PNG itself."""

    name: str
    caption: str
    description: str
    png: bytes


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    # without the program's version, the same numbers give the same file
    figure.savefig(stream, format="png", bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()


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


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:  # nothing may have been measured
        axes.legend(title="Training")


def _curve_figure(results: Sequence[CellResult], measurement: str, label: str) -> Figure:
    figure = Figure(figsize=(5.6, 3.8))
    axes = figure.subplots()
    for curve in curves(results, measurement):
        color = COLORS[curve.training]
        axes.plot(curve.sizes, curve.mean, color=color, marker=MARKERS[curve.training], label=curve.training.label)
        axes.fill_between(curve.sizes, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
    _size_axis(axes, sorted({r.cell.n_train for r in results}))
    axes.set_ylim(0, 1.03)
    axes.set_ylabel(label)
    _legend(axes)
    return figure


def _error_figure(results: Sequence[CellResult]) -> Figure:
    figure = Figure(figsize=(5.6, 3.8))
    axes = figure.subplots()
    for training in Training:
        cells = [r.measurements for r in results if r.cell.training is training]
        if cells:
            x, y = [m.test_error for m in cells], [m.regular_success for m in cells]
            axes.scatter(x, y, color=COLORS[training], marker=MARKERS[training], label=training.label)
    axes.set_xlabel("test error")
    axes.set_ylabel("regular success rate")
    axes.set_ylim(0, 1.03)
    axes.set_xlim(0, 1)
    _legend(axes)
    return figure


def _gallery_figure(examples: Examples, classes: Sequence[str]) -> Figure:
    """Originals, adversarial images and the differences between them, one column each."""
    count = len(examples.labels)
    figure = Figure(figsize=(0.95 * max(count, 2) + 1, 3.6))
    grid = figure.subplots(3, count, squeeze=False)
    differences = examples.adversarial - examples.originals
    for column in range(count):
        scale = max(float(np.abs(differences[column]).max()), 1e-6)
        for row, (image, low) in enumerate(
            (
                (examples.originals[column], 0.0),
                (examples.adversarial[column], 0.0),
                (differences[column] / scale, -1.0),
            )
        ):
            axes = grid[row, column]
            axes.imshow(image[..., 0], cmap="gray", vmin=low, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        grid[0, column].set_title(classes[int(examples.labels[column])], fontsize=11)
        grid[1, column].set_title(f"\u2192 {classes[int(examples.predictions[column])]}", fontsize=11)
    for row, label in enumerate(("original", "adversarial", "difference")):
        grid[row, 0].set_ylabel(label, fontsize=9)
    figure.subplots_adjust(wspace=0.08, hspace=0.42)
    return figure


def draw(results: Sequence[CellResult], classes: Sequence[str]) -> list[Picture]:
    """All figures that these results allow."""
    pictures = []

    def add(name: str, caption: str, description: str, make: Callable[[], Figure]) -> None:
        with mpl.rc_context(STYLE):
            pictures.append(Picture(name, caption, description, _png(make())))

    add(
        "test_error",
        "Sample complexity: test error against the number of training images. Lines are means over seeds, bands"
        " reach from the lowest to the highest.",
        "Test error against the number of training images, one line per training.",
        lambda: _curve_figure(results, "test_error", "test error"),
    )
    add(
        "regular_success",
        "How often regular attacks succeed on correctly classified test images (mean over restarts).",
        "Success rate of regular attacks against the number of training images, one line per training.",
        lambda: _curve_figure(results, "regular_success", "regular success rate"),
    )
    add(
        "on_true_manifold_success",
        "How often attacks along the true manifold succeed on correctly classified test images (mean over restarts).",
        "Success rate of on-manifold attacks against the number of training images, one line per training.",
        lambda: _curve_figure(results, "on_true_manifold_success", "on-manifold success rate"),
    )
    add(
        "success_against_error",
        "Regular success rate against test error, one point per model. Claim 4 expects a flat cloud under"
        " normal training.",
        "Scatter plot of regular success rate against test error, coloured by training.",
        lambda: _error_figure(results),
    )
    for training in Training:
        shown = [r for r in results if r.cell.training is training and len(r.examples["regular"].labels)]
        if shown:
            last = shown[-1]
            add(
                f"examples_{training}",
                f"Regular adversarial examples of a model ({last.cell}): the original and its label, the adversarial"
                " image and the model's label for it, the difference (grey is 0, scaled to its largest value).",
                "Letters, their adversarial versions, which look the same but noisier, and the noise between them.",
                lambda last=last: _gallery_figure(last.examples["regular"], classes),  # type: ignore[misc]
            )
    return pictures


def write_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """`figures/NAME.png` for each picture."""
    for picture in pictures:
        with replace_file(folder / "figures" / f"{picture.name}.png") as stream:
            stream.write(picture.png)
