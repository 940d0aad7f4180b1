"""Adversarial examples to look at: for each kind of attack the originals, what became of them, and the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hlf_np.arrays import Floats
from hlf_np.experiments.results import Examples
from hlf_np.spaces import Space

ROWS = ("original", "adversarial", "difference")
GAP, HEAD = 3, 10  # pixels between columns, and above each row for its labels


def gallery_figure(examples: Mapping[type[Space], Examples], classes: Sequence[str]) -> Figure:
    """A block for each space with examples; at least one must have some."""
    shown = {space: found for space, found in examples.items() if len(found.labels)}
    most = max(len(found.labels) for found in shown.values())
    figure = Figure(figsize=(0.85 * max(most, 3) + 1, 3.6 * len(shown)), layout="tight")
    blocks = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, (space, found) in zip(blocks, shown.items(), strict=True):
        axes.set_title(space.called().capitalize(), loc="left", fontsize=15)
        _block(axes, found, classes, most)
    return figure


def tiles(examples: Examples) -> Floats:
    """Grey values in [0, 1] of the three rows, (3, N, H, W); differences are scaled to their largest value."""
    differences = examples.adversarial - examples.originals
    scale = np.maximum(np.abs(differences).max(axis=(1, 2, 3), keepdims=True), 1e-6)
    rows = [examples.originals, examples.adversarial, 0.5 + differences / (2 * scale)]
    return np.asarray(np.stack(rows).mean(axis=-1))


def _block(axes: Axes, examples: Examples, classes: Sequence[str], columns: int) -> None:
    """Three rows of tiles on white, with room for as many columns as the widest block has."""
    found = tiles(examples)
    height, width = found.shape[2] + HEAD, found.shape[3] + GAP
    sheet = np.ones((len(ROWS) * height, columns * width), np.float32)
    for row, column in np.ndindex(found.shape[:2]):
        top, left = row * height + HEAD, column * width
        sheet[top : top + found.shape[2], left : left + found.shape[3]] = found[row, column]
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    for row, name in enumerate(ROWS):
        axes.text(-2, row * height + HEAD + found.shape[2] / 2, name, rotation=90, ha="right", va="center", fontsize=11)
    size = 14 if max(map(len, classes)) < 4 else 8  # words are wider than a tile
    for column, (label, prediction) in enumerate(zip(examples.labels, examples.predictions, strict=True)):
        centre = column * width + found.shape[3] / 2
        for row, words in enumerate((classes[int(label)], f"\u2192 {classes[int(prediction)]}")):
            axes.text(centre, row * height + HEAD - 2, words, ha="center", va="bottom", fontsize=size, parse_math=False)
